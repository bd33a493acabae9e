//! The form of a decision record: `docs/adr/NNN-what-was-decided.md` with Status, Context, Decision and Consequence.

use anyhow::Result;

use super::{Outcome, Sources};

const FOLDER: &str = "docs/adr/";
const SECTIONS: [&str; 4] = ["Status", "Context", "Decision", "Consequence"];

pub(super) fn check(sources: &Sources) -> Result<Outcome> {
    let records = sources.texts(FOLDER, ".md")?;
    let names: Vec<&str> = records.iter().map(|(path, _)| &path[FOLDER.len()..]).collect();
    let mut problems = numbering(&names);
    for ((path, text), name) in records.iter().zip(&names) {
        problems.extend(form(name, text).into_iter().map(|problem| format!("{path}: {problem}")));
    }
    Ok(Outcome::Checked(problems))
}

/// Numbers go up by one, so that none is used twice and none is lost.
fn numbering(names: &[&str]) -> Vec<String> {
    let wanted = names.iter().zip(1..).filter(|(name, number)| !name.starts_with(&format!("{number:03}-")));
    wanted.map(|(name, number)| format!("{FOLDER}{name}: its number should be {number:03}")).collect()
}

fn form(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let number = name.split('-').next().unwrap_or_default();
    let title = text.lines().next().unwrap_or_default();
    if title.strip_prefix(&format!("# {number}: ")).is_none_or(|rest| rest.trim().is_empty()) {
        problems.push(format!("the first line should be `# {number}: what was decided`"));
    }
    let sections: Vec<(&str, &str)> = text
        .split("\n## ")
        .skip(1)
        .map(|section| section.split_once('\n').map_or((section.trim(), ""), |(name, body)| (name.trim(), body.trim())))
        .collect();
    let names: Vec<&str> = sections.iter().map(|(name, _)| *name).collect();
    if names != SECTIONS {
        problems.push(format!("its sections are {}; they should be {}", names.join(", "), SECTIONS.join(", ")));
    }
    for (name, _) in sections.iter().filter(|(_, body)| body.is_empty()) {
        problems.push(format!("{name} is empty"));
    }
    if let Some((_, status)) = sections.iter().find(|(name, _)| *name == "Status")
        && !is_status(status)
    {
        problems
            .push("Status should begin with `Proposed`, `Accepted` or `Superseded by NNN`, a comma and a date".into());
    }
    problems
}

/// `Accepted, 2026-01-31.`
fn is_status(text: &str) -> bool {
    let Some((state, rest)) = text.split_once(", ") else { return false };
    let number = |digits: &str| digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let state = matches!(state, "Proposed" | "Accepted") || state.strip_prefix("Superseded by ").is_some_and(number);
    let date = rest.get(..10).unwrap_or_default().bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    state && date && rest.len() >= 10
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# 007: Ids are numbers\n\n## Status\nAccepted, 2026-01-31. Amended by 009.\n\n## Context\na\n\n\
                        ## Decision\nb\n\n## Consequence\nc\n";

    #[test]
    fn a_record_in_form_passes_and_each_slip_is_named() {
        assert_eq!(form("007-ids-are-numbers.md", GOOD), Vec::<String>::new());
        for (from, to, named) in [
            ("# 007: Ids", "# Ids", "first line"),
            ("## Context\na\n\n", "", "sections are Status, Decision"),
            ("## Consequence\nc", "## Consequence\n", "Consequence is empty"),
            ("Accepted, 2026-01-31", "Yes", "Status should begin"),
            ("Accepted, 2026-01-31", "Superseded by nine, 2026-01-31", "Status should begin"),
            ("2026-01-31", "last week", "Status should begin"),
        ] {
            let problems = form("007-ids-are-numbers.md", &GOOD.replace(from, to));
            assert!(problems.iter().any(|problem| problem.contains(named)), "{to:?}: {problems:?}");
        }
    }

    #[test]
    fn a_number_used_twice_or_left_out_is_found() {
        assert_eq!(numbering(&["001-a.md", "002-b.md"]), Vec::<String>::new());
        assert_eq!(numbering(&["001-a.md", "001-b.md"]).len(), 1);
        assert_eq!(numbering(&["001-a.md", "003-b.md"]).len(), 1);
    }
}
