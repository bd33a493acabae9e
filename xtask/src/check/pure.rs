//! Core does no I/O and brings no runtime, database, model or GPU: it builds for every target in seconds.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Outcome, Sources};
use crate::place;

const CORE: &str = "selvedge-core";
/// Crates that mean a runtime, sockets, a database, a model or a GPU, however they come in.
const BARRED: [&str; 22] = [
    "async-io",
    "async-std",
    "axum",
    "diesel",
    "futures-executor",
    "hyper",
    "libsqlite3-sys",
    "llama-cpp-2",
    "llama-cpp-sys-2",
    "mio",
    "native-tls",
    "postgres",
    "reqwest",
    "rusqlite",
    "rustls",
    "smol",
    "socket2",
    "sqlx",
    "tempfile",
    "tokio",
    "tokio-postgres",
    "wgpu",
];
/// Modules of the standard library that touch the world.
const MODULES: [&str; 5] = ["fs", "net", "os", "process", "env"];

pub(super) fn check(sources: &Sources) -> Result<Outcome> {
    let mut problems = barred(&resolved()?)?;
    for (path, text) in sources.texts("core/src/", ".rs")? {
        let uses = touched(&text).into_iter();
        problems.extend(uses.map(|(line, module)| format!("{path}:{line}: uses std::{module}")));
    }
    Ok(Outcome::Checked(problems))
}

fn resolved() -> Result<Value> {
    let output = place::cargo()
        .args(["metadata", "--format-version", "1", "--quiet", "--all-features"])
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata printed something that is not JSON")
}

/// What is barred among all that core depends on, its tests aside, with the crate that brings it.
fn barred(metadata: &Value) -> Result<Vec<String>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |package: &Value| Some((package["id"].as_str()?.to_owned(), package["name"].as_str()?.to_owned()));
    let names: BTreeMap<String, String> = list(&metadata["packages"]).iter().filter_map(name).collect();
    let node = |node: &Value| Some((node["id"].as_str()?.to_owned(), node.clone()));
    let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"]).iter().filter_map(node).collect();
    let core = names.iter().find(|(_, name)| *name == CORE).context("cargo metadata does not know core")?;
    let (mut seen, mut next, mut problems) = (BTreeSet::new(), vec![core.0.clone()], Vec::new());
    while let Some(id) = next.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        for dependency in nodes.get(&id).map(|node| list(&node["deps"])).unwrap_or_default() {
            let needed = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
            let Some(target) = dependency["pkg"].as_str().filter(|_| needed) else { continue };
            let [from, to] = [id.as_str(), target].map(|id| names.get(id).map_or(id, String::as_str));
            if BARRED.contains(&to) {
                problems.push(format!("core depends on {to}, through {from}"));
            }
            next.push(target.to_owned());
        }
    }
    Ok(problems)
}

/// The modules in [`MODULES`] that a source uses, outside of comments, with their lines.
fn touched(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // Blanked and not dropped, so that lines stay where they are.
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    for (at, _) in code.match_indices("std::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "std::".len()..];
        // Its own number is all that core asks of the process.
        if rest.starts_with("process::id") {
            continue;
        }
        for first in first_names(rest) {
            if MODULES.contains(&first) {
                found.push((line, first.to_owned()));
            }
        }
    }
    found
}

/// The names that follow `std::`: one, or those of a group `{fs, sync::{Arc, Mutex}}`.
fn first_names(rest: &str) -> Vec<&str> {
    fn name(text: &str) -> &str {
        let text = text.trim_start();
        &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
    }
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut names, mut depth, mut start) = (Vec::new(), 0usize, 0usize);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_comes_in_by_way_of_another_crate_is_found_and_what_tests_need_is_not() {
        let metadata = |kind: Value| {
            let (id, package) = (
                |name: &str| format!("registry#{name}"),
                |name: &str| json!({"id": format!("registry#{name}"), "name": name}),
            );
            json!({
                "packages": [package(CORE), package("helper"), package("tokio")],
                "resolve": { "nodes": [
                    { "id": id(CORE), "deps": [{ "pkg": id("helper"), "dep_kinds": [{ "kind": null }] }] },
                    { "id": id("helper"), "deps": [{ "pkg": id("tokio"), "dep_kinds": [{ "kind": kind }] }] },
                ]},
            })
        };
        assert_eq!(barred(&metadata(Value::Null)).unwrap(), ["core depends on tokio, through helper"]);
        assert_eq!(barred(&metadata(json!("dev"))).unwrap(), Vec::<String>::new());
        assert!(barred(&json!({ "packages": [] })).is_err());
    }

    #[test]
    fn a_source_that_touches_the_world_is_found() {
        let pure = "use std::{fmt, sync::{Arc, atomic::fs}};\n// std::fs is barred\nlet x: std::time::Duration = std::process::id();";
        assert_eq!(touched(pure), []);
        let impure =
            "use std::{\n    fmt,\n    fs,\n    sync::Arc,\n};\nstd::net::TcpStream::connect(a);\nuse std::process;";
        let found: Vec<(usize, String)> =
            [(1, "fs"), (6, "net"), (7, "process")].map(|(l, m)| (l, m.to_owned())).into();
        assert_eq!(touched(impure), found);
    }
}
