//! The report as plain text.

use std::fmt::Write;

use super::{Action, Lift, Report};
use crate::analysis::Effect;

/// Columns under a head.
struct Table(Vec<Vec<String>>);

impl Table {
    fn new<const N: usize>(head: [&str; N]) -> Self {
        Self(vec![head.map(str::to_owned).to_vec()])
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.to_vec());
    }

    fn write(self, out: &mut String) {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.0.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.0 {
            let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            out.push_str(cells.join("  ").trim_end());
            out.push('\n');
        }
        out.push('\n');
    }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

pub(super) fn signed_percent(share: f64) -> String {
    format!("{:+.2} %", share * 100.0)
}

pub(super) fn interval(effect: &Effect) -> String {
    format!("{} [{}, {}]", signed_percent(effect.estimate), signed_percent(effect.low), signed_percent(effect.high))
}

pub(super) fn p_value(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".into() } else { format!("{p:.4}") }
}

/// An amount with its unit.
pub(super) fn money(report: &Report, amount: f64) -> String {
    match (report.currency.as_deref(), report.minor_units) {
        (currency, true) => format!("{amount:.0} minor units of {}", currency.unwrap_or("its currency")),
        (Some(currency), false) => format!("{amount:.2} {currency}"),
        (None, false) => format!("{amount:.2}"),
    }
}

pub(super) fn headline(report: &Report) -> String {
    let name = &report.decision.variation;
    match report.decision.action {
        Action::Ship => format!("ship {name}"),
        Action::KeepControl => format!("keep {name}"),
        Action::NoDifference => "no difference shown".into(),
        Action::Continue => "go on".into(),
        Action::Investigate => "investigate".into(),
    }
}

fn shown(lift: Lift) -> [String; 2] {
    let Some(relative) = lift.relative else { return ["cannot be compared".into(), String::new()] };
    [interval(&relative), p_value(lift.absolute.map_or(relative.p, |effect| effect.p))]
}

pub(super) fn write(report: &Report) -> String {
    let mut out = String::new();
    let decision = &report.decision;
    // Writing to a string cannot fail.
    let _ = writeln!(out, "decision: {}\n    {}\n", headline(report), decision.reason);
    if let Some(name) = &decision.conversion_would_ship {
        let _ = writeln!(out, "conversion alone would have shipped {name}\n");
    }
    let mut table = Table::new(["variation", "users", "revenue", "per user", "conversion", "cv"]);
    for variation in &report.variations {
        table.row([
            variation.name.clone(),
            variation.n.to_string(),
            money(report, variation.revenue),
            format!("{:.4}", variation.revenue_per_user),
            percent(variation.conversion),
            format!("{:.2}", variation.cv),
        ]);
    }
    table.write(&mut out);
    compared(report, &mut out);
    let srm = &report.srm;
    let holds = if srm.holds { "as it should be" } else { "NOT as it should be" };
    let _ = writeln!(out, "sample ratio: {holds} (p {})", p_value(srm.p));
    if report.looks.len() > 1 {
        let _ = writeln!(out, "looks: {}, boundary now {}", report.looks.len(), boundary(decision.boundary));
    }
    for left_out in &report.left_out {
        let _ = writeln!(out, "left out: {} {}", left_out.rows, left_out.what);
    }
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

pub(super) fn boundary(boundary: Option<f64>) -> String {
    boundary.map_or_else(|| "none".into(), |boundary| format!("{boundary:.3}"))
}

fn compared(report: &Report, out: &mut String) {
    let level = (1.0 - report.alpha) * 100.0;
    for (variation, comparison) in report.treated() {
        let _ = writeln!(out, "{} against {}, {level} % intervals of one look:", variation.name, report.control);
        let mut table = Table::new(["", "relative lift", "p", ""]);
        let mut line = |name: &str, lift: Lift, more: String| {
            let [lift, p] = shown(lift);
            table.row([name.into(), lift, p, more]);
        };
        let adjusted = comparison.p_adjusted.filter(|_| report.variations.len() > 2);
        let adjusted = adjusted.map(|p| format!("corrected p {}", p_value(p))).unwrap_or_default();
        line("revenue per user", comparison.lift, adjusted);
        line("conversion", comparison.conversion_lift, String::new());
        if let Some(capped) = comparison.winsorised {
            line("revenue, capped", capped.lift, format!("at {:.2}, {} users", capped.cap, capped.capped));
        }
        if let Some(cuped) = comparison.cuped {
            let lift = Lift { absolute: Some(cuped.absolute), relative: cuped.relative };
            line("revenue, CUPED", lift, format!("{} of the variance gone", percent(cuped.variance_removed)));
        }
        table.write(out);
        if let Some(sequence) = comparison.always_valid {
            let (low, high) = (signed_percent(sequence.low), signed_percent(sequence.high));
            let _ = writeln!(out, "at any time: [{low}, {high}], p {}", p_value(sequence.p));
        }
        if let Some(bayes) = &comparison.bayes {
            let _ = writeln!(
                out,
                "Bayes: chance to win {}, expected loss if shipped {}. It is no rule to stop by: looked at {} times, such an \
                 interval excludes zero in {} of experiments without any effect",
                percent(bayes.chance_to_win),
                percent(bayes.loss_if_shipped),
                bayes.peeking.looks,
                percent(bayes.peeking.false_positives)
            );
        }
        let parts = &comparison.decomposition;
        let _ = writeln!(
            out,
            "revenue per user {:+.4}: volume {:+.4}, price {:+.4}, discount {:+.4}, mix {:+.4}",
            parts.change, parts.volume, parts.price, parts.discount, parts.mix
        );
        for guarded in &comparison.guardrails {
            let verdict = match (guarded.holds, guarded.harmed) {
                (true, _) => "no worse than its margin",
                (false, true) => "WORSE",
                (false, false) => "not shown to be no worse",
            };
            let effect = guarded.effect.map_or_else(|| "cannot be compared".into(), |effect| interval(&effect));
            let _ =
                writeln!(out, "guardrail {} (margin {}): {effect}, {verdict}", guarded.column, percent(guarded.margin));
        }
        if let Some(novelty) = &comparison.novelty
            && let (Some(slope), Some(p)) = (novelty.slope, novelty.p)
        {
            let _ = writeln!(out, "novelty: the lift changes by {} a day (p {})", signed_percent(slope), p_value(p));
        }
        out.push('\n');
    }
}
