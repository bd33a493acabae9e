//! What the command prints: results on stdout, everything else on stderr, colour only on a terminal.

use std::io::{self, IsTerminal, Write};

use owo_colors::{OwoColorize, Stream};
use selvedge::{Error, ErrorKind, Result};
use serde::Serialize;

/// Writes to stdout.
///
/// # Errors
/// `Cancelled` when nobody reads any more, as after `| head`.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::new(ErrorKind::Cancelled, "output", "stdout cannot be written").caused_by(error))
}

/// Writes one line of JSON.
///
/// # Errors
/// Those of [`print`].
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|error| {
        Error::new(ErrorKind::Internal, "output", "the result cannot be written as JSON").caused_by(error)
    })?;
    print(&format!("{text}\n"))
}

/// Writes rows in aligned columns, the first row as the head.
///
/// # Errors
/// Those of [`print`].
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Result<()> {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; N]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = line(&head.map(str::to_uppercase));
    let mut text = format!("{}\n", head.if_supports_color(Stream::Stdout, |text| text.dimmed()));
    for row in rows {
        text.push_str(&line(row));
        text.push('\n');
    }
    print(&text)
}

/// The first line, not too long for a table.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= MOST {
        return line.to_owned();
    }
    line.chars().take(MOST - 1).chain(['…']).collect()
}

/// Tells something beside the result.
pub(crate) fn note(text: &str) {
    // Nobody may be reading stderr; that is no reason to fail.
    let _ = writeln!(io::stderr(), "{}", text.if_supports_color(Stream::Stderr, |text| text.dimmed()));
}

/// Warns.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "{} {text}", "warning:".if_supports_color(Stream::Stderr, |text| text.yellow()));
}

/// Tells what failed, on what, and what to do.
pub(crate) fn fail(error: &Error) {
    let mut err = io::stderr().lock();
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let message = format!("error: {}{cause}", error.message());
    let _ = writeln!(err, "{}", message.if_supports_color(Stream::Stderr, |text| text.red()));
    if !error.context().is_empty() {
        let on: Vec<_> = error.context().iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let _ = writeln!(err, "on: {}", on.join(", "));
    }
    if let Some(advice) = error.advice() {
        let _ = writeln!(err, "try: {advice}");
    }
}

pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Dollars, with cents below a hundred: `$16,000`, `-$9.20`.
pub(crate) fn dollars(amount: f64) -> String {
    let sign = if amount < 0.0 { "-" } else { "" };
    let size = amount.abs();
    if size == 0.0 || size >= 99.995 { format!("{sign}${}", thousands(size)) } else { format!("{sign}${size:.2}") }
}

/// A count in millions where it has some: `950,000`, `2.35M`, `10M`.
pub(crate) fn millions(count: f64) -> String {
    if count < 999_999.5 {
        return thousands(count);
    }
    let text = format!("{:.2}", count / 1e6);
    format!("{}M", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A number that is not negative, whole and in groups of three digits.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() * 4 / 3);
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
    fn money_and_counts_are_written_as_people_do() {
        let money = [0.0, 0.004, 9.2, -9.2, 99.994, 99.996, 100.0, 16_000.0, -9_200.0, 1_234_567.6].map(dollars);
        assert_eq!(
            money,
            ["$0", "$0.00", "$9.20", "-$9.20", "$99.99", "$100", "$100", "$16,000", "-$9,200", "$1,234,568"]
        );
        let counts = [0.0, 999.0, 999_999.0, 999_999.6, 1e6, 2_352_941.0, 1e7, 1.5e9].map(millions);
        assert_eq!(counts, ["0", "999", "999,999", "1M", "1M", "2.35M", "10M", "1500M"]);
    }
}
