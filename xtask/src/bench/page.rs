//! The table a person sees, and the page in `docs/figures/`.

use std::fmt::Write as _;

use anyhow::Result;
use owo_colors::{OwoColorize, Stream::Stdout};

use super::{Entry, Plan, Report, machine, measure::Row};

/// Prints the rows, red where a target is not held.
pub(super) fn print(rows: &[Row]) {
    let width = rows.iter().map(|row| row.case.chars().count()).max().unwrap_or(0);
    println!(
        "{:<width$}  {:>12}  {:>12}  {:<12} {:<9} {:>8}  target",
        "case", "ours", "peer", "peer's name", "unit", "ratio"
    );
    for row in rows {
        let Row { case, peer_name, unit, .. } = row;
        let line = format!(
            "{case:<width$}  {:>12}  {:>12}  {peer_name:<12} {unit:<9} {:>8}  {}",
            number(row.ours),
            number(row.peer),
            ratio(row.ratio),
            target(row)
        );
        match (row.target, row.holds) {
            (None, _) => println!("{line}"),
            (Some(_), true) => println!("{}", line.if_supports_color(Stdout, |text| text.green())),
            (Some(_), false) => println!("{}", line.if_supports_color(Stdout, |text| text.red())),
        }
    }
}

/// The page: where, what, how, and every row.
pub(super) fn markdown(entry: &Entry, plan: &Plan, report: &Report) -> Result<String> {
    let mut page = format!("# {}\n\nWritten by `cargo xtask bench {}`.\n\n", entry.title, entry.name);
    writeln!(page, "{}\n", entry.method.trim())?;
    writeln!(
        page,
        "Ours and the peers take turns, {} each in one run; a figure is the median, and the range in brackets goes \
         from the least to the most. A ratio over 1 is in our favour, whatever the unit.\n",
        if plan.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", plan.rounds) }
    )?;
    writeln!(page, "| case | unit | ours | peer | peer's name | ratio | target | held |")?;
    writeln!(page, "| --- | --- | ---: | ---: | --- | ---: | ---: | --- |")?;
    for row in &report.rows {
        let held = match (row.target, row.holds) {
            (None, _) => "",
            (Some(_), true) => "yes",
            (Some(_), false) => "**no**",
        };
        let [ours, theirs] = row.spread.map(range);
        writeln!(
            page,
            "| {} | {} | {}{ours} | {}{theirs} | {} | {} | {} | {held} |",
            row.case,
            row.unit,
            number(row.ours),
            number(row.peer),
            row.peer_name,
            ratio(row.ratio),
            target(row)
        )?;
    }
    writeln!(page, "\n{}", bars(&report.rows)?)?;
    for (case, value, unit) in &report.alone {
        writeln!(page, "- {case}: {} {unit}, without a peer", number(*value))?;
    }
    writeln!(page, "\n| | |\n| --- | --- |")?;
    for (name, value) in machine::facts().iter().chain(&report.facts) {
        writeln!(page, "| {name} | {value} |")?;
    }
    Ok(page)
}

/// The ratios as bars; the scale is logarithmic, since they differ by orders of magnitude.
fn bars(rows: &[Row]) -> Result<String> {
    let width = rows.iter().map(|row| row.case.chars().count() + row.peer_name.len() + 4).max().unwrap_or(0);
    let most = rows.iter().map(|row| row.ratio).fold(2.0, f64::max).ln_1p();
    let mut text = String::from("```text\n");
    for row in rows {
        let label = format!("{} / {}", row.case, row.peer_name);
        let length = (40.0 * row.ratio.ln_1p() / most).round().max(0.0) as usize;
        writeln!(text, "{label:<width$} {} {}", "█".repeat(length), ratio(row.ratio))?;
    }
    text.push_str("```\n");
    Ok(text)
}

fn target(row: &Row) -> String {
    row.target.map_or_else(|| "–".to_owned(), |target| format!("≥ {}×", (target * 100.0).round() / 100.0))
}

fn ratio(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.1}×") } else { format!("{ratio:.2}×") }
}

fn range((low, high): (f64, f64)) -> String {
    if low < high { format!(" ({}–{})", number(low), number(high)) } else { String::new() }
}

/// Three significant digits where they matter, thousands apart where a number is long.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_are_readable() {
        assert_eq!(number(1_234_567.4), "1,234,567");
        assert_eq!(number(123.4), "123");
        assert_eq!(number(12.34), "12.3");
    }
}
