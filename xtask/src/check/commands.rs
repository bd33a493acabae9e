//! Every command that a document names exists, with those flags: it is read by the parser that will read it.

use anyhow::{Context, Result};
use clap::{CommandFactory, error::ErrorKind};

use super::{Outcome, Sources, markdown, paths};
use crate::{Cli, place};

/// The command line of `selvedge` itself.
#[path = "../../../bindings/cli/src/arguments.rs"]
#[allow(dead_code, reason = "only its parser is wanted here")]
pub(super) mod selvedge;

/// What cargo knows by itself, and what its components and our tools add.
const CARGO: [&str; 13] =
    ["add", "bench", "build", "check", "clippy", "deny", "doc", "fmt", "install", "metadata", "run", "test", "xtask"];

pub(super) fn check(sources: &Sources) -> Result<Outcome> {
    let metadata = place::metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let packages: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut problems = Vec::new();
    for (path, text) in sources.texts("", ".md")?.iter().filter(|(path, _)| paths::is_current(path)) {
        problems.extend(wrong(path, text, &packages));
    }
    Ok(Outcome::Checked(problems))
}

fn wrong(path: &str, text: &str, packages: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    for named in markdown::spans(text).into_iter().chain(markdown::console(text)) {
        // What cannot be split into words is no command.
        let words = shlex::split(&named.text).unwrap_or_default();
        for command in words.split(|word| matches!(word.as_str(), "|" | "&&" | ";" | ">" | "&")) {
            let command: Vec<&str> = command.iter().map(String::as_str).skip_while(|word| is_setting(word)).collect();
            if let Err(why) = known(&command, packages) {
                problems.push(format!("{path}:{}: {}: {why}", named.line, command.join(" ")));
            }
        }
    }
    problems
}

/// `NAME=value` before a command.
fn is_setting(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
}

fn known(command: &[&str], packages: &[&str]) -> Result<(), String> {
    match command {
        ["cargo", "xtask", rest @ ..] => parsed(Cli::command(), rest),
        ["selvedge", rest @ ..] => parsed(selvedge::Arguments::command(), rest),
        ["cargo", verb, rest @ ..] => {
            if !CARGO.contains(verb) {
                return Err(format!("cargo has no command {verb}"));
            }
            let named = rest.windows(2).filter(|pair| matches!(pair[0], "-p" | "--package")).map(|pair| pair[1]);
            let mut unknown = named.filter(|name| !packages.contains(name) && !is_holder(name));
            unknown.next().map_or(Ok(()), |name| Err(format!("no crate is named {name}")))
        }
        _ => Ok(()),
    }
}

/// Reads the words as the program would.
fn parsed(program: clap::Command, words: &[&str]) -> Result<(), String> {
    // A document may name a command without saying with what.
    let words = words.iter().take_while(|word| **word != "…");
    let all: Vec<&str> = std::iter::once("program").chain(words.copied()).collect();
    let Err(error) = program.try_get_matches_from(&all) else { return Ok(()) };
    let held = all.iter().any(|word| is_holder(word));
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand => Ok(()),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidSubcommand if held => Ok(()),
        _ => Err(error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()),
    }
}

/// `N`, `FILE`: to be replaced by whoever types it.
fn is_holder(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        wrong("README.md", text, &["selvedge-core"])
    }

    #[test]
    fn commands_that_exist_pass() {
        let text = "`cargo xtask test --only rust`, `cargo xtask bench NAME`, `cargo xtask`, `selvedge COMMAND --help`,\n\
                    `selvedge generate --max-tokens N`, `cargo test -p selvedge-core`, `selvedge`\n\
                    ```console\nselvedge config > selvedge.toml   # every key\nSELVEDGE_LOG=debug selvedge serve\n\
                    cargo xtask check --only links && cargo fmt --all\n```\n";
        assert_eq!(problems(text), Vec::<String>::new());
    }

    #[test]
    fn commands_that_do_not_are_named_with_their_line() {
        for (text, named) in [
            ("`cargo xtask tset`", "README.md:1: cargo xtask tset: unrecognized subcommand 'tset'"),
            ("`cargo xtask test --lang rust`", "unexpected argument '--lang'"),
            ("`cargo xtask test --only cobol`", "invalid value 'cobol'"),
            ("\n```console\nselvedge generate --weights x.gguf\n```", "README.md:3: selvedge generate --weights"),
            ("```console\nls | selvedge job\n```", "unrecognized subcommand 'job'"),
            ("`cargo test -p selvedge-cor`", "no crate is named selvedge-cor"),
            ("`cargo tset`", "cargo has no command tset"),
        ] {
            let problems = problems(text);
            assert!(problems.iter().any(|problem| problem.contains(named)), "{text:?}: {problems:?}");
        }
    }
}
