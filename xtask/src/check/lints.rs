//! Every crate takes up the workspace's lints, and only the crates named here leave `unsafe` allowed anywhere.

use anyhow::Result;

use super::{Outcome, Sources};

/// What the workspace must deny.
const DENIED: [&str; 5] = ["missing_docs", "unsafe_code", "unwrap_used", "expect_used", "undocumented_unsafe_blocks"];
/// The crates that call foreign functions or speak to a GPU.
const UNSAFE: [&str; 3] = ["plugins/llama/", "plugins/webgpu/", "bindings/ffi/"];

pub(super) fn check(sources: &Sources) -> Result<Outcome> {
    let mut problems = Vec::new();
    for (path, text) in sources.texts("", "Cargo.toml")? {
        problems.extend(manifest(path, &text));
    }
    for (path, text) in sources.texts("", ".rs")? {
        problems.extend(source(path, &text));
    }
    Ok(Outcome::Checked(problems))
}

fn manifest(path: &str, text: &str) -> Vec<String> {
    let lines = || text.lines().map(|line| line.replace(' ', ""));
    if path == "Cargo.toml" {
        let missing = DENIED.iter().filter(|lint| !lines().any(|line| line == format!("{lint}=\"deny\"")));
        return missing.map(|lint| format!("{path}: the workspace does not deny {lint}")).collect();
    }
    let inherits = lines().skip_while(|line| line != "[lints]").nth(1).is_some_and(|line| line == "workspace=true");
    if inherits { vec![] } else { vec![format!("{path}: `[lints] workspace = true` is missing")] }
}

/// An attribute that allows `unsafe_code`: in its crates, and there with a reason.
fn source(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (attribute, line) in attributes(text) {
        if !attribute.contains("unsafe_code") {
            continue;
        }
        if !UNSAFE.iter().any(|folder| path.starts_with(folder)) {
            problems.push(format!("{path}:{line}: allows unsafe code, which only {} may", UNSAFE.join(", ")));
        } else if !attribute.contains("reason") {
            problems.push(format!("{path}:{line}: allows unsafe code without a reason"));
        }
    }
    problems
}

/// The `allow` and `expect` attributes of a source, blanks dropped, with their lines.
fn attributes(text: &str) -> Vec<(String, usize)> {
    let starts = text.match_indices("#[").chain(text.match_indices("#!["));
    let mut found = Vec::new();
    for (at, _) in starts {
        let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
        // An attribute stands at the start of its line; in a string or a comment it is only spoken of.
        if !text[line_start..at].trim().is_empty() {
            continue;
        }
        let Some(end) = text[at..].find(")]") else { continue };
        let attribute: String = text[at..at + end + 2].chars().filter(|c| !c.is_whitespace()).collect();
        let inner = attribute.trim_start_matches(['#', '!', '[']);
        if inner.starts_with("allow(") || inner.starts_with("expect(") {
            found.push((attribute, text[..at].matches('\n').count() + 1));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_without_the_lints_is_found() {
        assert_eq!(manifest("core/Cargo.toml", "[package]\n[lints]\nworkspace = true\n"), Vec::<String>::new());
        assert_eq!(manifest("core/Cargo.toml", "[package]\n").len(), 1);
        assert_eq!(manifest("core/Cargo.toml", "[lints.rust]\nunsafe_code = \"allow\"\n").len(), 1);
        let all: String = DENIED.iter().map(|lint| format!("{lint} = \"deny\"\n")).collect();
        assert_eq!(manifest("Cargo.toml", &all), Vec::<String>::new());
        let weaker = all.replace("unwrap_used = \"deny\"", "unwrap_used = \"warn\"");
        assert_eq!(manifest("Cargo.toml", &weaker), ["Cargo.toml: the workspace does not deny unwrap_used"]);
    }

    #[test]
    fn unsafe_outside_of_its_crates_or_without_a_reason_is_found() {
        let with_reason = "fn a() {}\n#[allow(\n    unsafe_code,\n    reason = \"foreign\",\n)]\nfn b() {}\n";
        assert_eq!(source("plugins/llama/src/a.rs", with_reason), Vec::<String>::new());
        assert_eq!(
            source("core/src/a.rs", "#![allow(missing_docs)]\n// #[allow(unsafe_code)]\n"),
            Vec::<String>::new()
        );
        let outside = source("core/src/a.rs", with_reason);
        assert!(outside.len() == 1 && outside[0].starts_with("core/src/a.rs:2: allows unsafe"), "{outside:?}");
        for bare in ["#![allow(unsafe_code)]", "    #[expect(unsafe_code)]", "#[allow(dead_code, unsafe_code)]"] {
            assert_eq!(source("plugins/llama/src/a.rs", bare).len(), 1, "{bare}");
        }
    }
}
