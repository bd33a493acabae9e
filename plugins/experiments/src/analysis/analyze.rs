//! From what was kept of each variation to a report.

use std::collections::BTreeSet;

use selvedge_core::Result;

use super::{
    Day, Effect, Moments, Options, bayes,
    collect::{Cell, Collector, Source},
    cuped, decide, decompose, guardrail, invalid,
    novelty::novelty,
    report::{Comparison, Cumulative, LeftOut, Lift, Report, Variation, Winsorised},
    sample_ratio,
    sequence::always_valid,
    test,
};

/// Analyses an experiment from one row for each user.
///
/// Rows stream: what is kept is a few sums for each variation and day, and 16 bytes for each user, to find users who are
/// there twice. Capping keeps 8 bytes more for each user who paid.
///
/// ```
/// use selvedge_experiments::analysis::{Options, Row, analyze};
///
/// let names: Vec<_> = (0..2_000).map(|user| format!("user-{user}")).collect();
/// let rows: Vec<_> = names
///     .iter()
///     .enumerate()
///     .map(|(n, user)| Row {
///         user,
///         variation: ["a", "b"][n % 2],
///         revenue: if n % 10 < 2 { 9.99 } else { 0.0 },
///         converted: n % 10 < 2,
///         ..Row::default()
///     })
///     .collect();
/// let report = analyze(rows.as_slice(), &Options::default())?;
/// assert_eq!((report.users, report.control.as_str()), (2_000, "a"));
/// # Ok::<(), selvedge_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidInput`, naming line and column, for revenue that is not a number or negative, several currencies, a user in two
/// variations or twice; without line for an option that makes no sense, no rows, or fewer than two variations.
pub fn analyze(mut rows: impl Source, options: &Options) -> Result<Report> {
    options.check()?;
    let mut collector = Collector::new(options);
    rows.each(&mut |row| collector.take(row))?;
    collector.once()?;
    let order = control_first(&collector, options)?;
    let names: Vec<_> = order.iter().map(|&variation| collector.name(variation).to_owned()).collect();
    let cells: Vec<_> = order.iter().map(|&variation| &collector.cells[variation]).collect();
    let users: Vec<_> = cells.iter().map(|cell| cell.revenue.n).collect();
    let srm = sample_ratio(&users, &weights(&names, options)?)?;
    let days = Days::new(&cells);
    let cap = options.winsorise.and_then(|quantile| cap(&cells, quantile));
    let tuned_for = options.tuned_for.or(options.planned_per_arm.map(|planned| 2.0 * planned as f64));
    let context = Context { options, cap, tuned_for, looks: looks_for_people(options, &days), days: &days };
    let mut comparisons = Vec::new();
    for arm in 1..cells.len() {
        comparisons.push(context.compare(cells[0], cells[arm], arm, collector.with_covariate == Some(true))?);
    }
    adjust(&mut comparisons, options);
    let variations = names.iter().zip(&cells).enumerate().map(|(index, (name, cell))| Variation {
        name: name.clone(),
        n: cell.revenue.n,
        revenue: cell.revenue.sum(),
        revenue_per_user: cell.revenue.mean(),
        conversions: cell.conversions,
        conversion: cell.conversions as f64 / cell.revenue.n as f64,
        cv: cell.revenue.cv(),
        comparison: index.checked_sub(1).map(|treated| comparisons[treated].clone()),
    });
    let variations: Vec<_> = variations.collect();
    let looks = decide::looks(&variations, &days.cumulative_z(), &srm, options)?;
    let decision = decide::decide(&variations, &srm, &looks, options);
    let left_out = rows.left_out().into_iter().map(|(what, rows)| LeftOut { what, rows }).collect();
    let notes = notes(&collector, options).into_iter().chain(rows.notes()).collect();
    Ok(Report {
        users: users.iter().sum(),
        currency: collector.currency.clone(),
        minor_units: rows.in_minor_units(),
        control: names[0].clone(),
        alpha: options.alpha,
        variations,
        srm,
        decision,
        looks,
        cumulative: days.cumulative(),
        left_out,
        notes,
    })
}

fn control_first(collector: &Collector<'_>, options: &Options) -> Result<Vec<usize>> {
    let mut order = collector.order();
    if order.is_empty() {
        return Err(invalid("there are no users").advise("check that the file has rows below its head"));
    }
    let named = |name: &str| order.iter().position(|&variation| collector.name(variation) == name);
    let control = match &options.control {
        Some(name) => named(name).ok_or_else(|| {
            let names: Vec<_> = order.iter().map(|&variation| collector.name(variation)).collect();
            invalid("no user saw the control").with("control", name).with("variations", names.join(", "))
        })?,
        None => named("control").unwrap_or(0),
    };
    if order.len() < 2 {
        return Err(
            invalid("there is only one variation, so nothing to compare").with("variation", collector.name(order[0]))
        );
    }
    let control = order.remove(control);
    order.insert(0, control);
    Ok(order)
}

fn weights(names: &[String], options: &Options) -> Result<Vec<f64>> {
    if options.weights.is_empty() {
        return Ok(vec![1.0; names.len()]);
    }
    if let Some(unknown) = options.weights.keys().find(|name| !names.contains(name)) {
        return Err(invalid("a weight is for a variation that no user saw").with("variation", unknown));
    }
    let weight = |name: &String| {
        options.weights.get(name).copied().ok_or_else(|| invalid("a variation has no weight").with("variation", name))
    };
    names.iter().map(weight).collect()
}

struct Context<'a> {
    options: &'a Options,
    cap: Option<f64>,
    tuned_for: Option<f64>,
    looks: u32,
    days: &'a Days,
}

impl Context<'_> {
    fn compare(&self, control: &Cell, treated: &Cell, arm: usize, with_covariate: bool) -> Result<Comparison> {
        let alpha = self.options.alpha;
        let lift = lift(&control.revenue, &treated.revenue, alpha);
        let users = control.revenue.n + treated.revenue.n;
        let proportion = |cell: &Cell| super::Arm::proportion(cell.conversions, cell.revenue.n);
        let (before, after) = (proportion(control), proportion(treated));
        let tuned_for = self.tuned_for.unwrap_or(users as f64);
        let posterior = |effect: Effect| bayes::posterior(&effect, self.options.prior, alpha, self.looks);
        let guardrails = self.options.guardrails.iter().enumerate().map(|(index, guarded)| {
            let arm = |cell: &Cell| cell.guardrails.get(index).copied().unwrap_or_default().arm();
            guardrail::guard(guarded, &arm(control), &arm(treated), alpha)
        });
        Ok(Comparison {
            lift,
            conversion_lift: Lift {
                absolute: test::difference(&before, &after, alpha),
                relative: test::relative(&before, &after, alpha),
            },
            winsorised: self.cap.map(|cap| winsorised(control, treated, cap, alpha)),
            p_adjusted: lift.absolute.map(|effect| effect.p),
            always_valid: lift.relative.map(|effect| always_valid(&effect, users, alpha, tuned_for)),
            bayes: lift.relative.map(posterior).transpose()?,
            cuped: with_covariate.then(|| cuped::cuped(&control.paired, &treated.paired, alpha)).flatten(),
            decomposition: decompose((&control.products, control.revenue.n), (&treated.products, treated.revenue.n)),
            guardrails: guardrails.collect(),
            novelty: (!self.days.days.is_empty()).then(|| novelty(&self.days.pairs(arm), alpha)),
        })
    }
}

fn lift(control: &Moments, treated: &Moments, alpha: f64) -> Lift {
    let (a, b) = (control.arm(), treated.arm());
    Lift { absolute: test::difference(&a, &b, alpha), relative: test::relative(&a, &b, alpha) }
}

/// The quantile of what users paid, all variations together.
fn cap(cells: &[&Cell], quantile: f64) -> Option<f64> {
    let mut paid: Vec<_> = cells.iter().flat_map(|cell| &cell.paid).copied().collect();
    let rank = (quantile * paid.len() as f64).ceil() as usize;
    let (_, cap, _) = (!paid.is_empty()).then(|| paid.select_nth_unstable_by(rank.max(1) - 1, f64::total_cmp))?;
    Some(*cap)
}

fn winsorised(control: &Cell, treated: &Cell, cap: f64, alpha: f64) -> Winsorised {
    let capped = |cell: &Cell| {
        let mut moments: Moments = cell.paid.iter().map(|paid| paid.min(cap)).collect();
        moments.add_zeros(cell.revenue.n - moments.n);
        moments
    };
    let above = |cell: &Cell| cell.paid.iter().filter(|paid| **paid > cap).count() as u64;
    let lift = lift(&capped(control), &capped(treated), alpha);
    Winsorised { cap, capped: above(control) + above(treated), lift }
}

fn adjust(comparisons: &mut [Comparison], options: &Options) {
    let raw: Vec<_> = comparisons.iter().filter_map(|comparison| comparison.p_adjusted).collect();
    let adjusted = options.correction.adjust(&raw);
    let known = comparisons.iter_mut().filter_map(|comparison| comparison.p_adjusted.as_mut());
    known.zip(adjusted).for_each(|(p, adjusted)| *p = adjusted);
}

/// How often people look: as often as they said, else each day, else once.
fn looks_for_people(options: &Options, days: &Days) -> u32 {
    let looks = if options.looks.is_empty() { days.days.len() } else { options.looks.len() + 1 };
    u32::try_from(looks.clamp(1, 365)).unwrap_or(1)
}

fn notes(collector: &Collector<'_>, options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    if options.planned_per_arm.is_none() {
        notes.push("for how many users it was planned is not known: this counts as the only look".into());
    }
    if collector.refunds > 0 {
        let rule = match options.refunds {
            super::Refunds::Zero => "as nothing",
            _ => "as they are",
        };
        notes.push(format!("{} users have negative revenue; it counts {rule}", collector.refunds));
    }
    if collector.paid_without_conversion > 0 {
        notes.push(format!("{} users paid without being marked as converted", collector.paid_without_conversion));
    }
    notes
}

/// The days, and what each arm had on each.
#[derive(Debug, Default)]
pub(crate) struct Days {
    days: Vec<Day>,
    /// By day, then by arm.
    moments: Vec<Vec<Moments>>,
}

impl Days {
    fn new(cells: &[&Cell]) -> Self {
        let days: BTreeSet<_> = cells.iter().flat_map(|cell| cell.days.keys().copied()).collect();
        let of = |cell: &Cell, day: &Day| cell.days.get(day).copied().unwrap_or_default();
        let moments = days.iter().map(|day| cells.iter().map(|cell| of(cell, day)).collect()).collect();
        Self { days: days.into_iter().collect(), moments }
    }

    /// The control's and an arm's moments by day.
    fn pairs(&self, arm: usize) -> Vec<(Day, Moments, Moments)> {
        self.days.iter().zip(&self.moments).map(|(&day, moments)| (day, moments[0], moments[arm])).collect()
    }

    fn sums(&self) -> impl Iterator<Item = Vec<Moments>> + '_ {
        self.moments.iter().scan(Vec::new(), |sums: &mut Vec<Moments>, day| {
            sums.resize(day.len(), Moments::default());
            sums.iter_mut().zip(day).for_each(|(sum, day)| sum.merge(day));
            Some(sums.clone())
        })
    }

    fn cumulative(&self) -> Vec<Cumulative> {
        let days = self.days.iter().zip(self.sums());
        days.map(|(day, sums)| Cumulative {
            day: day.to_string(),
            users: sums.iter().map(|sum| sum.n).collect(),
            revenue: sums.iter().map(Moments::sum).collect(),
        })
        .collect()
    }

    /// Users of each arm and z of each comparison, up to each day.
    fn cumulative_z(&self) -> Vec<(Vec<u64>, Vec<Option<f64>>)> {
        self.sums()
            .map(|sums| {
                let control = sums[0].arm();
                let z = |treated: &Moments| test::difference(&control, &treated.arm(), 0.05).map(|effect| effect.z);
                (sums.iter().map(|sum| sum.n).collect(), sums[1..].iter().map(z).collect())
            })
            .collect()
    }
}
