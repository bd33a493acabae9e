//! All runs, short: enough of each fault to see that it is injected, survived and counted.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use std::{path::PathBuf, process::Command};

use selvedge_testkit::postgres::Cluster;
use serde_json::Value;

/// Runs the program; its counts. `None` where there is no PostgreSQL, unless this machine is meant to run everything.
fn counts(name: &str, rounds: u64) -> Option<Value> {
    if let Err(error) = Cluster::start() {
        assert!(std::env::var_os("CI").is_none(), "{error:#}");
        println!("skipped: {error:#}");
        return None;
    }
    Some(run(name, rounds))
}

fn run(name: &str, rounds: u64) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("counts.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_faults"));
    command.env("SELVEDGE_MODEL", model());
    command.args([name, "--rounds", &rounds.to_string(), "--seed", "3", "--json"]).arg(&json);
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let counts: Value = serde_json::from_slice(&std::fs::read(&json).unwrap_or_default()).unwrap_or_default();
    assert!(output.status.success(), "{said}");
    println!("{counts}");
    for damage in ["lost", "doubled", "wrong"] {
        assert_eq!(counts[damage], 0, "{said}");
    }
    assert_eq!((&counts["rounds"], &counts["seed"]), (&rounds.into(), &3.into()));
    counts
}

/// The model that `cargo xtask setup` fetches, or the one that `SELVEDGE_MODEL` names.
fn model() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").map(|home| home.join(".cache"));
    let cache = || {
        set("SELVEDGE_CACHE").unwrap_or_else(|| {
            set("XDG_CACHE_HOME").or_else(home).expect("HOME or SELVEDGE_CACHE is set").join("selvedge")
        })
    };
    set("SELVEDGE_MODEL").unwrap_or_else(|| cache().join("models/SmolLM2-135M-Instruct.Q4_1.gguf"))
}

fn injected(counts: &Value, kind: &str) -> u64 {
    counts["by_kind"][kind].as_u64().unwrap_or(0)
}

#[test]
fn the_queue_survives_a_little_of_everything() {
    let Some(counts) = counts("queue", 30) else { return };
    for kind in ["killed", "frozen", "server_crashed", "terminated_connections", "skewed_clock"] {
        assert!(injected(&counts, kind) > 0, "no {kind}: {counts}");
    }
    assert_eq!(injected(&counts, "killed"), 30);
    assert!(counts["stale_refused"].as_u64().unwrap() > 0, "no late completion was refused: {counts}");
    let refused = counts["not_injected"].as_array().unwrap().iter().any(|why| why.to_string().contains("full disk"));
    assert!(refused || injected(&counts, "disk_full") > 0 && counts["seen"]["disk_storage_full"].as_u64() > Some(0));
}

#[test]
fn one_effect_for_one_intent() {
    let Some(counts) = counts("idempotency", 2_000) else { return };
    for kind in ["killed", "frozen", "server_crashed", "cut_before", "cut_during", "cut_after"] {
        assert!(injected(&counts, kind) > 0, "no {kind}: {counts}");
    }
    assert_eq!(counts["acknowledged"], 2_000);
    for seen in ["replayed", "mixed_up", "replays_afterwards"] {
        assert!(counts["seen"][seen].as_u64() > Some(0), "no {seen}: {counts}");
    }
}

#[test]
fn an_answer_cut_short_is_gone_on_with() {
    assert!(model().is_file(), "there is no model at {}: run `cargo xtask setup`", model().display());
    let counts = run("batch", 8);
    assert!(injected(&counts, "killed") > 0 && counts["seen"]["resumed"].as_u64() > Some(0), "{counts}");
}
