//! `CLAUDE.md`, which an assistant reads before each change: short, and one for the whole repository.

use anyhow::Result;

use super::{Outcome, Sources};

const NAME: &str = "CLAUDE.md";
/// What is longer is not followed.
const LONGEST: usize = 150;
const SECTIONS: [&str; 3] = ["Commands", "Invariants", "Where things are"];
/// Folders with rules of their own.
const SCOPED: [&str; 2] = ["plugins/postgres", "bindings/ffi"];

pub(super) fn check(sources: &Sources) -> Result<Outcome> {
    let mut problems = Vec::new();
    if !sources.has(NAME) {
        problems.push(format!("{NAME} is missing"));
    }
    for (path, text) in sources.texts("", NAME)? {
        problems.extend(of(path, &text));
    }
    Ok(Outcome::Checked(problems))
}

fn of(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST {
        problems.push(format!("{path}: {lines} lines; {LONGEST} are the most"));
    }
    if path == NAME {
        let has = |section: &&&str| text.lines().any(|line| line == format!("## {section}"));
        let missing = SECTIONS.iter().filter(|section| !has(section));
        problems.extend(missing.map(|section| format!("{path}: the section `## {section}` is missing")));
    } else if !SCOPED.iter().any(|folder| path == format!("{folder}/{NAME}")) {
        problems.push(format!("{path}: this folder has no rules of its own; say it in the root's {NAME}"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Selvedge\n## Commands\n## Invariants\n## Where things are\n";

    #[test]
    fn a_short_one_passes_and_each_slip_is_named() {
        assert_eq!(of(NAME, GOOD), Vec::<String>::new());
        assert_eq!(of("plugins/postgres/CLAUDE.md", "# Rules\n"), Vec::<String>::new());
        for (path, text, named) in [
            (NAME, GOOD.replace("## Invariants\n", ""), "`## Invariants` is missing"),
            (NAME, GOOD.to_owned() + &"line\n".repeat(147), "151 lines"),
            ("core/CLAUDE.md", "# Rules\n".to_owned(), "no rules of its own"),
        ] {
            let problems = of(path, &text);
            assert!(problems.iter().any(|problem| problem.contains(named)), "{named}: {problems:?}");
        }
    }
}
