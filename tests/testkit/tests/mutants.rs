//! The suites find what is broken: plugins that keep all rules but one, and the case that must say so.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "broken/experiment.rs"]
mod experiment;
#[path = "broken/inference.rs"]
mod inference;
#[path = "broken/store.rs"]
mod store;

use selvedge_testkit::Report;

/// The case named must fail, and nothing outside the areas that the flaw reaches.
fn finds(report: &Report, case: &str, reach: &[&str]) {
    let failed: Vec<_> = report.failed.iter().map(|finding| finding.name.as_str()).collect();
    assert!(failed.contains(&case), "{case} did not fail; failed: {failed:#?}");
    let beyond: Vec<_> = failed.iter().filter(|name| !reach.iter().any(|area| name.starts_with(area))).collect();
    assert!(beyond.is_empty(), "cases failed that have nothing to do with it: {beyond:#?}; failed: {failed:#?}");
    let finding = report.failed.iter().find(|finding| finding.name == case).expect("it failed");
    assert!(finding.why.contains(finding.rule), "the finding does not name its rule: {finding:?}");
}
