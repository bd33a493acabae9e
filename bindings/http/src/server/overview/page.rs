//! The overview as one page of HTML: no script, no font, nothing from elsewhere; for a phone and a desk, light or dark.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write};

use selvedge_core::{ErrorKind, Timestamp};
use selvedge_experiments::ConfigSource;
use serde_json::Value;

use super::{
    Config, Overview, Standing,
    newest::{LOOK_BACK, Newest},
    outline::{Placement, Rule, Trial, path_segment},
    short,
};

const STYLE: &str = "
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --soft: #6a737d; --line: #d8dee4; --card: #f6f8fa;
  --link: #0969da; --bad: #cf222e; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --soft: #8d96a0; --line: #30363d;
  --card: #161b22; --link: #4493f8; --bad: #f85149; --good: #3fb950; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 46rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
h3 { font-size: 1.05rem; margin: 0; } a { color: var(--link); }
.soft { color: var(--soft); } .bad { color: var(--bad); } .good { color: var(--good); }
section { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; margin: 1rem 0; }
ol { padding-left: 1.4rem; margin: .6rem 0 0; } li { margin-top: .6rem; } p { margin: .4rem 0; }
.wide { overflow-x: auto; } table { overflow-wrap: normal; border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
th { white-space: nowrap; }
code { font: .85em ui-monospace, monospace; background: var(--card); padding: .1rem .3rem; border-radius: .25rem; }
td code { display: inline-block; min-width: 10rem; overflow-wrap: anywhere; }
";

pub(super) fn write(overview: &Overview) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>Placements</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<h1>Placements</h1>\n"
    );
    match &overview.config {
        Some(config) => about(config, &mut out),
        None => out.push_str("<p class=\"bad\">This server hands out no configuration.</p>\n"),
    }
    overview.placements.iter().for_each(|placement| card(placement, &mut out));
    if let Some(next) = &overview.next {
        let after = path_segment(next);
        let _ = writeln!(out, "<p><a href=\"placements?format=html&amp;after={after}\">More placements</a></p>");
    }
    if !overview.experiments.is_empty() {
        out.push_str("<h2>Other experiments</h2>\n");
        for experiment in &overview.experiments {
            out.push_str("<section>");
            trial(experiment, &mut out);
            out.push_str("</section>\n");
        }
    }
    out.push_str("<h2>Newest events</h2>\n");
    match &overview.events {
        Some(events) => newest(events, &mut out),
        None => out.push_str("<p>This server has no Store that keeps events.</p>\n"),
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn about(config: &Config, out: &mut String) {
    let signed = match (&config.signed_by, config.issued_at) {
        (Some(key), Some(at)) => format!("signed by <strong>{}</strong> at {}", escape(key), moment(at)),
        _ => "not signed".to_owned(),
    };
    let _ = writeln!(
        out,
        "<p class=\"soft\">Version <code>{}</code>, {} bytes, {signed}; handed out since {}.</p>",
        escape(&config.version),
        config.bytes,
        moment(config.served_since)
    );
    if let Some(health) = &config.health {
        standing(health, out);
    }
    let problems = config.problem.iter().map(|problem| format!("It cannot be listed: {problem}"));
    let left_out = config.left_out.iter().map(|part| format!("Left out: {part}"));
    for line in problems.chain(left_out) {
        let _ = writeln!(out, "<p class=\"bad\">{}</p>", escape(&short(&line)));
    }
}

fn standing(health: &Standing, out: &mut String) {
    let source = match health.source {
        ConfigSource::Nowhere => "by none yet",
        ConfigSource::Bundled => "by the one that came with it",
        ConfigSource::Cache => "by one kept from an earlier run",
        ConfigSource::Server => "by one of another server",
        ConfigSource::Host => "by one that it was given",
    };
    let age =
        health.age_seconds.map_or_else(|| "never confirmed".to_owned(), |age| format!("confirmed {} ago", span(age)));
    let issued = health.issued_at.map_or_else(String::new, |at| format!(", issued at {}", moment(at)));
    let (class, stale) = if health.stale { ("bad", ", which is too old") } else { ("good", "") };
    let _ = writeln!(
        out,
        "<p>This server goes {source}{issued}: {} placements and other features, <span class=\"{class}\">{age}{stale}</span>.</p>",
        health.features
    );
    if let Some(error) = &health.last_error {
        let kind = health.last_error_kind.map_or(Cow::Borrowed("error"), |kind: ErrorKind| kind.to_string().into());
        let _ = writeln!(
            out,
            "<p class=\"bad\">The last try to change it came to nothing ({}): {}</p>",
            escape(&kind),
            escape(&short(error))
        );
    }
}

fn card(placement: &Placement, out: &mut String) {
    let _ = write!(out, "<section>\n<h3>{}</h3>\n", escape(&placement.name));
    if placement.shows_nothing {
        out.push_str("<p>Shows nothing by default.</p>\n");
    } else {
        let _ = writeln!(out, "<p>Shows {} by default.</p>", code(&placement.default));
    }
    if !placement.rules.is_empty() {
        out.push_str("<ol>\n");
        for rule in &placement.rules {
            out.push_str("<li>");
            match rule {
                Rule::Experiment(experiment) => trial(experiment, out),
                Rule::Value { shows, coverage, targeting } => {
                    let _ = write!(out, "Shows {} of those it fits {}", percent(*coverage), code(shows));
                    narrowed(targeting, out);
                }
                Rule::Nothing => out.push_str("Decides nothing."),
            }
            out.push_str("</li>\n");
        }
        out.push_str("</ol>\n");
    }
    out.push_str("</section>\n");
}

fn trial(trial: &Trial, out: &mut String) {
    // Relative to this page, so that it holds behind a proxy that adds a prefix.
    let report = trial.report.trim_start_matches("/v1/");
    let status = trial.status.as_ref().map_or_else(String::new, |status| format!(", {}", escape(status)));
    let _ = write!(
        out,
        "Experiment <strong>{}</strong> · <a href=\"{}?format=html\">report</a> <span class=\"soft\">version {}, {} take \
         part{status}</span>",
        escape(&trial.experiment),
        escape(report),
        trial.version,
        percent(trial.coverage)
    );
    narrowed(&trial.targeting, out);
    table(
        &["variation", "weight", "of all", "shows"],
        trial.variations.iter().map(|arm| {
            [
                escape(&arm.variation).into_owned(),
                arm.weight.map_or_else(String::new, percent),
                percent(arm.share),
                code(&arm.shows),
            ]
        }),
        out,
    );
}

fn narrowed(targeting: &BTreeMap<&'static str, Value>, out: &mut String) {
    for (name, value) in targeting {
        let _ = write!(out, "<p class=\"soft\">{name}: {}</p>", code(value));
    }
}

fn newest(events: &Newest, out: &mut String) {
    if events.newest.is_empty() {
        out.push_str("<p>None yet.</p>\n");
        return;
    }
    let _ = writeln!(out, "<p class=\"soft\">{} events among the last {LOOK_BACK} rows, by name:</p>", events.seen);
    let counts = events.names.iter().map(|(name, count)| [escape(name).into_owned(), count.to_string()]);
    table(&["event", "count"], counts, out);
    let _ = writeln!(out, "<p class=\"soft\">The newest {}:</p>", events.newest.len());
    let rows = events.newest.iter().map(|event| {
        [
            moment(event.recorded_at),
            escape(&event.name).into_owned(),
            escape(&event.subject).into_owned(),
            code(&event.properties),
        ]
    });
    table(&["recorded", "event", "subject", "properties"], rows, out);
}

/// A table of cells that are HTML already. On a narrow screen it is moved sideways by itself.
fn table<const N: usize>(head: &[&str; N], rows: impl IntoIterator<Item = [String; N]>, out: &mut String) {
    out.push_str("<div class=\"wide\"><table><thead><tr>");
    for cell in head {
        let _ = write!(out, "<th>{cell}</th>");
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let _ = write!(out, "<td>{cell}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

fn code(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        value => format!("<code>{}</code>", escape(&short(&value.to_string()))),
    }
}

fn moment(at: Timestamp) -> String {
    format!("<time datetime=\"{at}\">{at}</time>")
}

fn percent(share: f64) -> String {
    // As many digits as there are: 33.33 %, 50 %.
    format!("{} %", (share * 1e4).round() / 1e2)
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Text as HTML has it.
fn escape(text: &str) -> Cow<'_, str> {
    let special = |character: char| matches!(character, '&' | '<' | '>' | '"' | '\'');
    if !text.contains(special) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out.into()
}
