//! Every path that a document names exists.

use anyhow::Result;

use super::{Outcome, Sources, markdown};

/// A name that starts with one of these is a path of this repository.
const FOLDERS: [&str; 9] = ["core", "plugins", "bindings", "tests", "examples", "xtask", "docs", ".ci", ".cargo"];

/// Documents that tell of the past name what is gone.
pub(super) fn is_current(path: &str) -> bool {
    path != "CHANGELOG.md"
}

pub(super) fn check(sources: &Sources) -> Result<Outcome> {
    let mut problems = Vec::new();
    for (path, text) in sources.texts("", ".md")?.iter().filter(|(path, _)| is_current(path)) {
        problems.extend(missing(path, text, |named| sources.has(named)));
    }
    Ok(Outcome::Checked(problems))
}

fn missing(path: &str, text: &str, has: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let stale = markdown::spans(text).into_iter().filter(|named| {
        is_path(&named.text) && !has(&named.text) && !has(format!("{folder}/{}", named.text).trim_start_matches('/'))
    });
    stale.map(|named| format!("{path}:{}: there is no {}", named.line, named.text)).collect()
}

/// A path of this repository, and not a pattern or a place holder.
fn is_path(text: &str) -> bool {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let holder = |name: &str| matches!(name.split('.').next(), Some("NAME" | "NNN" | "FILE"));
    let first = text.split('/').next().unwrap_or_default();
    let ours = text.contains('/') && FOLDERS.contains(&first) || !text.contains('/') && text.ends_with(".md");
    plain && ours && !text.split('/').any(holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_path_is_named_with_its_line() {
        let has = |path: &str| ["core/src/error.rs", "docs/guide/jobs.md"].contains(&path);
        let text =
            "`core/src/error.rs`, `jobs.md`, `docs/figures/NAME.md`, `plugins/*/src`, `std::fs`,\n`application/json`";
        assert_eq!(missing("docs/guide/README.md", text, has), Vec::<String>::new());
        let text = "Read\n`core/src/errors.rs` and `GONE.md`.";
        assert_eq!(
            missing("CLAUDE.md", text, has),
            ["CLAUDE.md:2: there is no core/src/errors.rs", "CLAUDE.md:2: there is no GONE.md"]
        );
    }
}
