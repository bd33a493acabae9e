//! The report as one page of HTML: no script, no font, nothing from elsewhere; light or dark as the reader has it.

use std::fmt::Write;

use super::{
    Report,
    plot::{Plot, escape, some},
    text::{boundary, headline, interval, money, p_value, percent, signed_percent},
};

const STYLE: &str = "
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --soft: #6a737d; --grid: #d8dee4;
  --s0: #57606a; --s1: #0969da; --s2: #bc4c00; --s3: #8250df; --s4: #1a7f37; --edge: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --soft: #8d96a0; --grid: #30363d;
  --s0: #9ea7b3; --s1: #4493f8; --s2: #f0883e; --s3: #ab7df8; --s4: #3fb950; --edge: #f85149; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 46rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.why { margin-top: .3rem; } .soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--grid); }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.grid { stroke: var(--grid); } polyline { fill: none; stroke-width: 2; }
.edge { stroke: var(--edge); stroke-dasharray: 5 4; } .zero { stroke: var(--soft); }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); } .s3 { stroke: var(--s3); } .s4 { stroke: var(--s4); }
circle, rect { stroke: none !important; } circle.s0, rect.s0, i.s0 { fill: var(--s0); } circle.s1, rect.s1 { fill: var(--s1); }
circle.s2, rect.s2 { fill: var(--s2); } circle.s3, rect.s3 { fill: var(--s3); } circle.s4, rect.s4 { fill: var(--s4); }
circle.edge { fill: var(--edge); } pre { overflow-x: auto; }
rect.edge { fill: none; stroke: var(--edge) !important; }
.key span { margin-right: 1rem; } .key b { display: inline-block; width: 1rem; height: .2rem; vertical-align: middle; }
";

/// The class of the colour of a variation.
fn series(index: usize) -> String {
    format!("s{}", if index == 0 { 0 } else { (index - 1) % 4 + 1 })
}

pub(super) fn write(report: &Report) -> String {
    let mut out = String::new();
    let title = escape(&headline(report));
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>Experiment: {title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>Decision: {title}</h1>\n<p class=\"why\">{}</p>\n",
        escape(&report.decision.reason)
    );
    if let Some(name) = &report.decision.conversion_would_ship {
        let _ = writeln!(out, "<p>Conversion alone would have shipped <strong>{}</strong>.</p>", escape(name));
    }
    variations(report, &mut out);
    lifts(report, &mut out);
    looks(report, &mut out);
    cumulative(report, &mut out);
    sample_ratio(report, &mut out);
    details(report, &mut out);
    out.push_str("</body>\n</html>\n");
    out
}

fn table(out: &mut String, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    out.push_str("<table><thead><tr>");
    head.iter().for_each(|cell| {
        let _ = write!(out, "<th>{}</th>", escape(cell));
    });
    out.push_str("</tr></thead><tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        row.iter().for_each(|cell| {
            let _ = write!(out, "<td>{}</td>", escape(cell));
        });
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table>\n");
}

fn key(report: &Report, out: &mut String) {
    out.push_str("<p class=\"key\">");
    for (index, variation) in report.variations.iter().enumerate() {
        let colour = series(index);
        let _ = write!(out, "<span><b style=\"background: var(--{colour})\"></b> {}</span>", escape(&variation.name));
    }
    out.push_str("</p>\n");
}

fn variations(report: &Report, out: &mut String) {
    let rows = report.variations.iter().map(|variation| {
        let lift = variation.comparison.as_ref().and_then(|comparison| comparison.lift.relative);
        vec![
            variation.name.clone(),
            variation.n.to_string(),
            money(report, variation.revenue),
            format!("{:.4}", variation.revenue_per_user),
            percent(variation.conversion),
            lift.map_or_else(String::new, |effect| interval(&effect)),
        ]
    });
    out.push_str("<h2>Variations</h2>\n");
    table(out, &["variation", "users", "revenue", "per exposed user", "conversion", "lift in revenue per user"], rows);
}

fn lifts(report: &Report, out: &mut String) {
    let mut rows = Vec::new();
    for (index, (variation, comparison)) in report.treated().enumerate() {
        let mut push = |name: &str, effect: Option<crate::analysis::Effect>| {
            if let Some(effect) = effect {
                rows.push((format!("{} {name}", variation.name), effect, series(index + 1)));
            }
        };
        push("revenue", comparison.lift.relative);
        push("conversion", comparison.conversion_lift.relative);
        push("revenue, CUPED", comparison.cuped.and_then(|cuped| cuped.relative));
        push("revenue, capped", comparison.winsorised.and_then(|capped| capped.lift.relative));
    }
    if rows.is_empty() {
        return;
    }
    let low = rows.iter().map(|row| row.1.low).fold(0.0, f64::min);
    let high = rows.iter().map(|row| row.1.high).fold(0.0, f64::max);
    let mut plot = Plot::new("Relative lift with its interval", [-0.5, rows.len() as f64 - 0.5], [low, high]);
    plot.left(signed_percent);
    plot.line([(-0.5, 0.0), (rows.len() as f64 - 0.5, 0.0)], "zero");
    for (index, (_, effect, class)) in rows.iter().enumerate() {
        let x = index as f64;
        plot.line([(x, effect.low), (x, effect.high)], class);
        plot.dot(x, effect.estimate, class);
    }
    plot.below(rows.iter().enumerate().map(|(index, row)| (index as f64, row.0.clone())));
    let level = (1.0 - report.alpha) * 100.0;
    let _ = write!(out, "<h2>Lift, with {level} % intervals of one look</h2>\n{}", plot.svg());
}

fn looks(report: &Report, out: &mut String) {
    let z: Vec<_> = report.looks.iter().flat_map(|look| look.z.iter().flatten()).copied().collect();
    let edges: Vec<_> = report.looks.iter().filter_map(|look| Some((look.fraction, look.boundary?))).collect();
    let most = edges.iter().map(|edge| edge.1).chain(z.iter().map(|z| z.abs())).fold(3.0, f64::max).min(9.0);
    let mut plot = Plot::new("z and the boundary at each look", [0.0, 1.0], [-most, most]);
    plot.left(|z| format!("{z:.1}"));
    plot.line([(0.0, 0.0), (1.0, 0.0)], "zero");
    for sign in [1.0, -1.0] {
        plot.line(edges.iter().map(|&(x, z)| (x, sign * z)), "edge");
        edges.iter().for_each(|&(x, z)| plot.dot(x, sign * z, "edge"));
    }
    for index in 0..report.variations.len() - 1 {
        let class = series(index + 1);
        let points: Vec<_> = report
            .looks
            .iter()
            .filter_map(|look| Some((look.fraction, look.z.get(index).copied().flatten()?.clamp(-most, most))))
            .collect();
        points.iter().for_each(|&(x, z)| plot.dot(x, z, &class));
        plot.line(points, &class);
    }
    plot.below((0..=5).map(|fifth| (f64::from(fifth) / 5.0, format!("{} %", fifth * 20))));
    let _ = write!(
        out,
        "<h2>Boundaries over looks</h2>\n{}<p class=\"soft\">Share of the planned users, and z of the difference; beyond the \
         dashed line it may stop. The boundary now: {}.</p>\n",
        plot.svg(),
        boundary(report.decision.boundary)
    );
}

fn cumulative(report: &Report, out: &mut String) {
    if report.cumulative.is_empty() {
        return;
    }
    let last = (report.cumulative.len() - 1) as f64;
    let per_user = |users: u64, revenue: f64| if users == 0 { 0.0 } else { revenue / users as f64 };
    let rows: Vec<Vec<f64>> = report
        .cumulative
        .iter()
        .map(|day| day.users.iter().zip(&day.revenue).map(|(&users, &revenue)| per_user(users, revenue)).collect())
        .collect();
    let most = rows.iter().flatten().copied().fold(0.0, f64::max);
    let mut plot = Plot::new("Cumulative revenue per exposed user by day", [0.0, last], [0.0, most]);
    plot.left(|value| format!("{value:.2}"));
    for index in 0..report.variations.len() {
        plot.line(rows.iter().enumerate().map(|(day, row)| (day as f64, row[index])), &series(index));
        // A line of one day is not seen.
        if let [only] = &rows[..] {
            plot.dot(0.0, only[index], &series(index));
        }
    }
    plot.below(some(&report.cumulative).map(|(index, day)| (index as f64, day.day.clone())));
    let _ = write!(out, "<h2>Cumulative revenue per exposed user</h2>\n{}", plot.svg());
    key(report, out);
}

fn sample_ratio(report: &Report, out: &mut String) {
    let most = report.variations.iter().map(|variation| variation.n as f64).fold(0.0, f64::max);
    let most = report.srm.expected.iter().copied().fold(most, f64::max);
    let count = report.variations.len() as f64;
    let mut plot = Plot::new("Users of each variation, and how many there should be", [-0.5, count - 0.5], [0.0, most]);
    plot.left(|value| format!("{value:.0}"));
    for (index, (variation, expected)) in report.variations.iter().zip(&report.srm.expected).enumerate() {
        plot.bar(index as f64, 0.25, variation.n as f64, &series(index));
        plot.bar(index as f64, 0.3, *expected, "edge");
    }
    plot.below(report.variations.iter().enumerate().map(|(index, variation)| (index as f64, variation.name.clone())));
    let verdict = if report.srm.holds { "as it should be" } else { "not as it should be: find out why first" };
    let _ =
        write!(out, "<h2>Sample ratio</h2>\n{}<p>{verdict}, p {}</p>\n", plot.svg(), escape(&p_value(report.srm.p)));
}

/// Everything else is said as the text says it.
fn details(report: &Report, out: &mut String) {
    let _ = write!(out, "<h2>In words</h2>\n<pre>{}</pre>\n", escape(&report.text()));
}
