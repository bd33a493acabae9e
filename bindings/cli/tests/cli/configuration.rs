//! The configuration and the check-up of it.

use std::path::Path;

use crate::support::{Said, model, run, selvedge, with};

fn doctor(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    run(selvedge(folder).arg("doctor").args(arguments).envs(environment.iter().copied()))
}

fn written(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("selvedge.toml"), text).unwrap();
    folder
}

#[test]
fn the_printed_default_is_a_configuration_that_changes_nothing() {
    let printed = with(["config"]);
    assert_eq!(printed.code, Some(0));
    let folder = written(&printed.out);
    let report = doctor(folder.path(), &["--json"], &[]).json();
    let config = report["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "config").unwrap();
    assert_eq!((&config["health"], &config["found"]), (&"ok".into(), &"selvedge.toml".into()), "{report}");
}

#[test]
fn a_mistake_is_named_with_file_line_and_key() {
    let folder = written("[server]\naddress = \"127.0.0.1:0\"\n\n[scheduler]\nconcurrency = 0\n");
    for command in ["serve", "jobs"] {
        let said = run(selvedge(folder.path()).args([command].iter().chain((command == "jobs").then_some(&"list"))));
        said.failed(1, &["selvedge.toml", "line: 5", "key: scheduler.concurrency", "try: "]);
    }
}

#[test]
fn a_broken_configuration_keeps_nobody_from_repairing_it() {
    let folder = written("[server\n");
    for arguments in [&["config"][..], &["completions", "bash"], &["man"]] {
        assert_eq!(run(selvedge(folder.path()).args(arguments)).code, Some(0), "{arguments:?}");
    }
    let said = doctor(folder.path(), &[], &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("FAIL  config") && said.out.contains("line: 1"), "{said:?}");
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(selvedge(folder.path()).args(["jobs", "list", "--config", "gone.toml"]));
    said.failed(1, &["cannot be read", "gone.toml", "selvedge config"]);
    let said = run(selvedge(folder.path()).args(["jobs", "list"]).env("SELVEDGE_CONFIG", "lost.toml"));
    said.failed(1, &["lost.toml"]);
}

#[test]
fn the_environment_beats_the_file_and_flags_beat_both() {
    let folder = written("[store]\npath = \"file.db\"\n");
    let list = |environment: &[(&str, &str)], arguments: &[&str]| {
        run(selvedge(folder.path()).args(["jobs", "list"]).args(arguments).envs(environment.iter().copied()))
    };
    list(&[], &[]).failed(1, &["path: file.db"]);
    list(&[("SELVEDGE_STORE_PATH", "environment.db")], &[]).failed(1, &["path: environment.db"]);
    list(&[("SELVEDGE_STORE_PATH", "environment.db")], &["--db", "flag.db"]).failed(1, &["path: flag.db"]);
    list(&[("SELVEDGE_STORE_PLACE", "x")], &[]).failed(1, &["SELVEDGE_STORE_PLACE", "unknown field"]);
    list(&[("SELVEDGE_SCHEDULER_QUEUE", "many")], &[]).failed(1, &["SELVEDGE_SCHEDULER_QUEUE", "scheduler.queue"]);
}

#[test]
fn doctor_looks_at_the_model_and_the_store() {
    let folder = written(&format!("[[models]]\nname = \"smol\"\npath = {:?}\n", model()));
    let said = doctor(folder.path(), &["--json"], &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let report = said.json();
    let find = |check: &str| {
        report["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == check).unwrap().clone()
    };
    assert_eq!(report["health"], "warning", "{report}");
    let smol = find("model");
    assert!(smol["found"].as_str().unwrap().starts_with("smol: "), "{smol}");
    assert!(smol["advice"].as_str().unwrap().contains("Q4_0"), "{smol}");
    assert!(find("store")["found"].as_str().unwrap().contains("not there yet"));
    assert!(!folder.path().join("selvedge.db").exists(), "a check-up changes nothing");
}

#[test]
fn doctor_fails_for_a_model_that_cannot_be_opened_and_a_store_that_is_damaged() {
    let folder = written("[[models]]\npath = \"gone.gguf\"\n");
    std::fs::write(folder.path().join("selvedge.db"), "x".repeat(5000)).unwrap();
    let said = doctor(folder.path(), &[], &[("NO_COLOR", "1")]);
    assert_eq!(said.code, Some(1), "{said:?}");
    for line in ["FAIL  model", "FAIL  store"] {
        assert!(said.out.contains(line), "{said:?}");
    }
    assert!(said.out.contains("gone.gguf"), "{said:?}");
}
