//! What a reader has to find: each plugin, binding, guide, figure, chore and command is named where one looks for it.

use anyhow::Result;
use clap::CommandFactory;

use super::{Outcome, Sources, commands::selvedge};
use crate::Cli;

/// A document, and the words that must be in it.
type Duty = (&'static str, Vec<String>);

pub(super) fn check(sources: &Sources) -> Result<Outcome> {
    let crates = |kind: &str| {
        let manifests = sources.paths(kind, "/Cargo.toml");
        manifests.filter_map(|path| path.strip_suffix("/Cargo.toml")).map(str::to_owned).collect::<Vec<_>>()
    };
    let pages = |folder: &'static str| {
        let names = sources.paths(folder, ".md").filter_map(move |path| path.strip_prefix(folder));
        names.filter(|name| *name != "README.md").map(|name| format!("]({name})")).collect::<Vec<_>>()
    };
    let verbs = |program: clap::Command, name: &str| {
        program.get_subcommands().map(|verb| format!("{name} {}", verb.get_name())).collect::<Vec<_>>()
    };
    let plugins = crates("plugins/");
    let names = plugins.iter().map(|folder| folder.replace("plugins/", "`selvedge-") + "`").collect();
    let duties: [Duty; 6] = [
        ("README.md", plugins),
        ("CHANGELOG.md", names),
        ("docs/guide/README.md", pages("docs/guide/")),
        ("docs/figures/README.md", pages("docs/figures/")),
        ("docs/guide/development.md", verbs(Cli::command(), "cargo xtask")),
        ("docs/guide/commands.md", verbs(selvedge::Arguments::command(), "selvedge")),
    ];
    let mut problems = Vec::new();
    for (document, words) in duties {
        problems.extend(unsaid(document, &sources.read(document)?, &words));
    }
    Ok(Outcome::Checked(problems))
}

fn unsaid(document: &str, text: &str, words: &[String]) -> Vec<String> {
    let missing = words.iter().filter(|word| !text.contains(word.as_str()));
    missing.map(|word| format!("{document} does not name {word}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_named() {
        let words = ["plugins/sqlite".to_owned(), "plugins/llama".to_owned()];
        assert_eq!(unsaid("README.md", "`plugins/sqlite` and `plugins/llama`", &words), Vec::<String>::new());
        assert_eq!(unsaid("README.md", "`plugins/sqlite`", &words), ["README.md does not name plugins/llama"]);
    }
}
