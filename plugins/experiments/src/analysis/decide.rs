//! What to do, by the boundary at this look.

use selvedge_core::Result;

use super::{
    Looks, Options, SampleRatio, boundary,
    report::{Action, Comparison, Decision, Look, Variation},
};

/// Looks that are closer together are one.
const LEAST_STEP: f64 = 1e-4;

/// The looks up to now. Several variations share the error, each getting its part (Bonferroni).
///
/// # Errors
/// `InvalidInput` for looks that do not rise.
pub(crate) fn looks(
    variations: &[Variation],
    days: &[(Vec<u64>, Vec<Option<f64>>)],
    srm: &SampleRatio,
    options: &Options,
) -> Result<Vec<Look>> {
    let users: Vec<_> = variations.iter().map(|variation| variation.n).collect();
    let fraction = |users: &[u64]| fraction(users, srm, options);
    let now = fraction(&users).max(LEAST_STEP);
    let z_now = treated(variations).map(|(_, comparison)| comparison.lift.absolute.map(|effect| effect.z)).collect();
    let mut at: Vec<(f64, Vec<Option<f64>>)> = Vec::new();
    if !options.looks.is_empty() {
        at.extend(options.looks.iter().map(|&look| (look, vec![None; variations.len() - 1])));
    } else if options.planned_per_arm.is_some() {
        // Days of which nothing can be told yet are no looks.
        for (users, z) in days.iter().filter(|(_, z)| z.iter().any(Option::is_some)) {
            let fraction = fraction(users);
            // The last day is now. Days that bring no users to one of the arms, or come after the planned end, are no looks.
            if fraction < now - LEAST_STEP && fraction > at.last().map_or(0.0, |before| before.0) + LEAST_STEP {
                at.push((fraction, z.clone()));
            }
        }
    }
    at.push((now, z_now));
    let comparisons = (variations.len() - 1) as f64;
    let plan = Looks {
        fractions: at.iter().map(|(fraction, _)| *fraction).collect(),
        alpha: options.alpha / comparisons,
        sides: 2,
        spending: options.spending,
    };
    let z = boundary::bounds(&plan)?.z;
    Ok(at.into_iter().zip(z).map(|((fraction, z), boundary)| Look { fraction, boundary, z }).collect())
}

/// The share of the planned users who are in, of the arm that is farthest behind.
fn fraction(users: &[u64], srm: &SampleRatio, options: &Options) -> f64 {
    let Some(planned) = options.planned_per_arm else { return 1.0 };
    let of_control = |expected: f64| planned as f64 * expected / srm.expected[0];
    let shares = users.iter().zip(&srm.expected).map(|(&users, &expected)| users as f64 / of_control(expected));
    shares.fold(1.0, f64::min)
}

fn treated(variations: &[Variation]) -> impl Iterator<Item = (&Variation, &Comparison)> {
    variations.iter().filter_map(|variation| Some((variation, variation.comparison.as_ref()?)))
}

pub(crate) fn decide(variations: &[Variation], srm: &SampleRatio, looks: &[Look], options: &Options) -> Decision {
    let control = variations[0].name.clone();
    let (fraction, boundary) = looks.last().map_or((1.0, None), |look| (look.fraction, look.boundary));
    let verdict = verdict(variations, srm, fraction, boundary, options);
    let (action, variation, reason) = verdict.unwrap_or_else(|(action, reason)| (action, control.clone(), reason));
    let by_conversion = conversion_would_ship(variations, options);
    let conversion_would_ship = by_conversion.filter(|name| action != Action::Ship || *name != variation);
    Decision { action, variation, reason, fraction, boundary, conversion_would_ship }
}

type Verdict = Result<(Action, String, String), (Action, String)>;

fn verdict(
    variations: &[Variation],
    srm: &SampleRatio,
    fraction: f64,
    boundary: Option<f64>,
    options: &Options,
) -> Verdict {
    if !srm.holds {
        let reason = format!(
            "the arms do not have the users that they should have (p = {:.2e}): exposures are lost or counted twice, and \
             whoever is missing differs from whoever is there",
            srm.p
        );
        return Err((Action::Investigate, reason));
    }
    let z_of = |comparison: &Comparison| comparison.lift.absolute.map_or(0.0, |effect| effect.z);
    let reached = |z: f64| boundary.is_some_and(|boundary| z.abs() >= boundary);
    let shown =
        boundary.map_or("no value could do at this look".into(), |boundary| format!("the boundary is {boundary:.3}"));
    let mut winners: Vec<_> =
        treated(variations).filter(|(_, comparison)| z_of(comparison) > 0.0 && reached(z_of(comparison))).collect();
    winners.sort_by(|left, right| right.0.revenue_per_user.total_cmp(&left.0.revenue_per_user));
    let unguarded = |comparison: &Comparison| comparison.guardrails.iter().find(|guarded| !guarded.holds).cloned();
    if let Some((winner, comparison)) = winners.iter().find(|(_, comparison)| unguarded(comparison).is_none()) {
        let reason = format!("it earns more per exposed user: z = {:.3}, and {shown}", z_of(comparison));
        return Ok((Action::Ship, winner.name.clone(), reason));
    }
    if let Some((winner, comparison)) = winners.first() {
        let column = unguarded(comparison).map(|guarded| guarded.column).unwrap_or_default();
        let reason =
            format!("{} earns more, but it is not shown that {column} gets no worse than its margin", winner.name);
        return Err((if fraction < 1.0 { Action::Continue } else { Action::Investigate }, reason));
    }
    let losing = |(_, comparison): (&Variation, &Comparison)| z_of(comparison) < 0.0 && reached(z_of(comparison));
    if treated(variations).all(losing) {
        return Err((Action::KeepControl, format!("every other variation earns less per exposed user, and {shown}")));
    }
    let largest = treated(variations).map(|(_, comparison)| z_of(comparison).abs()).fold(0.0, f64::max);
    if fraction < 1.0 {
        let reason = format!("{:.0} % of the planned users are in: |z| is {largest:.3}, and {shown}", fraction * 100.0);
        return Err((Action::Continue, reason));
    }
    let plan = if options.planned_per_arm.is_some() { "all planned users are in" } else { "if this was the only look" };
    Err((
        Action::NoDifference,
        format!("no variation is shown to earn more or less, {plan}: |z| is {largest:.3}, and {shown}"),
    ))
}

/// Who tests conversion at a fixed size ships the variation that converts best, if that is shown.
fn conversion_would_ship(variations: &[Variation], options: &Options) -> Option<String> {
    let comparisons = (variations.len() - 1) as f64;
    let better = treated(variations).filter(|(_, comparison)| {
        let effect = comparison.conversion_lift.absolute;
        effect.is_some_and(|effect| effect.estimate > 0.0 && effect.p < options.alpha / comparisons)
    });
    let best = better.max_by(|left, right| left.0.conversion.total_cmp(&right.0.conversion))?;
    Some(best.0.name.clone())
}
