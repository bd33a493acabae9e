//! Every scenario of `bindings/scenarios.md` has a test in every language that has a package.

use anyhow::{Result, ensure};

use super::{Outcome, sources::Sources};

const TABLE: &str = "bindings/scenarios.md";

/// The languages, and the files that hold their scenarios.
const HOSTS: [(&str, &str); 3] = [
    ("Python", "bindings/ffi/python/test_scenarios.py"),
    ("Kotlin", "bindings/kotlin/selvedge-jvm/src/test/kotlin/dev/selvedge/ScenariosTest.kt"),
    ("Swift", "bindings/swift/Tests/SelvedgeTests/ScenariosTests.swift"),
];

pub(super) fn check(sources: &Sources) -> Result<Outcome> {
    let scenarios = scenarios(&sources.read(TABLE)?);
    ensure!(!scenarios.is_empty(), "{TABLE} has no scenario");
    let mut problems = Vec::new();
    for (language, path) in HOSTS {
        let tests = plain(&sources.read(path)?);
        let missing = scenarios.iter().filter(|scenario| !tests.contains(&plain(scenario)));
        problems.extend(missing.map(|scenario| format!("{path}: no {language} test of {scenario:?}")));
    }
    Ok(Outcome::Checked(problems))
}

/// The first cell of each row of the table.
fn scenarios(table: &str) -> Vec<String> {
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.map(str::trim).filter(|cell| *cell != "scenario" && !cell.starts_with("--")).map(Into::into).collect()
}

/// Without what languages spell differently: capitals, spaces, underscores, apostrophes.
fn plain(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_found_however_a_language_spells_it() {
        let table = "| scenario | calls |\n| --- | --- |\n| the app's clock is right | `open` |\n";
        assert_eq!(scenarios(table), ["the app's clock is right"]);
        for test in ["def test_the_apps_clock_is_right", "func theAppsClockIsRight()", "fun `the app's clock is right`"]
        {
            assert!(plain(test).contains(&plain("the app's clock is right")), "{test}");
        }
        assert!(!plain("fun `the app's clock is wrong`").contains(&plain("the app's clock is right")));
    }
}
