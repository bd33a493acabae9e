//! The configuration and the check-up of it.

use std::{path::Path, sync::Arc, time::Duration};

use selvedge::{
    Commit, Context, Store, Timestamp,
    postgres::PostgresStore,
    sqlite::SqliteStore,
    store::{Maintain, NewJob},
};
use selvedge_testkit::ManualClock;

use crate::support::{Said, cluster, model, run, selvedge, with};

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
    let advice = smol["advice"].as_str().unwrap();
    assert!(advice.contains("Q4_0") && advice.contains("selvedge model prepare"), "{smol}");
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

fn finding(report: &serde_json::Value, check: &str) -> serde_json::Value {
    let all = report["findings"].as_array().unwrap();
    all.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check} in {report}")).clone()
}

#[tokio::test]
async fn doctor_tells_how_far_the_queue_is_from_its_ceiling() {
    let folder = written("[store]\nceiling_jobs_per_second = 100\nceiling_minutes = 5\n");
    let clock = Arc::new(ManualClock::new());
    // Ten minutes of 90 jobs/s, up to this moment.
    clock.set(Timestamp::now() - Duration::from_secs(600));
    let store = SqliteStore::builder(folder.path().join("selvedge.db")).clock(clock.clone()).open().unwrap();
    let cx = Context::new();
    for _ in 0..=60 {
        store.maintain(&cx, Maintain::default()).await.unwrap();
        store.commit(&cx, Commit::new().enqueue((0..900).map(|_| NewJob::new("q", "")))).await.unwrap();
        clock.advance(Duration::from_secs(10));
    }
    store.close().await;
    let report = doctor(folder.path(), &["--json"], &[]).json();
    let load = finding(&report, "load");
    assert_eq!(load["health"], "warning", "{report}");
    assert!(load["found"].as_str().unwrap().contains("90 % of the ceiling"), "{load}");
    assert!(load["advice"].as_str().unwrap().contains("outgrowing-postgres"), "{load}");
    let number = |name: &str| report["load"][name].as_f64().unwrap();
    assert!((number("jobs_per_second") - 90.0).abs() < 0.1 && (number("headroom") - 10.0).abs() < 0.1, "{report}");
    assert!((580.0..700.0).contains(&number("over_ceiling_seconds")), "{report}");
    let patient = doctor(folder.path(), &["--json"], &[("SELVEDGE_STORE_CEILING_MINUTES", "60")]).json();
    assert_eq!(finding(&patient, "load")["health"], "ok", "{patient}");
    let text = doctor(folder.path(), &[], &[]);
    assert!(text.out.contains("warn  load") && text.out.contains("jobs/s"), "{text:?}");
}

#[test]
fn doctor_looks_at_the_store_of_the_quotas() {
    let folder = written("[quotas]\nstore = \"redis://app:secret@127.0.0.1:1\"\n");
    let said = doctor(folder.path(), &["--json"], &[]);
    let broken = finding(&said.json(), "quotas");
    assert_eq!((&broken["health"], said.code), (&"error".into(), Some(1)), "{broken}");
    assert!(!said.out.contains("secret"), "{said:?}");
    let redis = match selvedge_testkit::redis::RedisServer::start() {
        Ok(redis) => redis,
        Err(error) if std::env::var_os("CI").is_some() => panic!("{error:#}"),
        Err(error) => return println!("skipped: {error:#}"),
    };
    let report = doctor(folder.path(), &["--json"], &[("SELVEDGE_QUOTAS_STORE", &redis.url())]).json();
    let found = finding(&report, "quotas");
    assert!(found["health"] == "ok" && found["found"].as_str().unwrap().contains("Redis "), "{found}");
}

#[tokio::test]
async fn doctor_looks_at_a_store_on_postgres_and_warns_when_nobody_listens() {
    let Some(cluster) = cluster() else { return };
    let (folder, schema) = (tempfile::tempdir().unwrap(), cluster.schema());
    let look = |environment: &[(&str, &str)]| {
        let environment = [&[("SELVEDGE_STORE_SCHEMA", schema.as_str())][..], environment].concat();
        doctor(folder.path(), &["--json", "--store", &cluster.url()], &environment)
    };
    let absent = finding(&look(&[]).json(), "store");
    assert!(absent["found"].as_str().unwrap().contains("not there yet"), "{absent}");
    drop(PostgresStore::builder(cluster.url()).schema(&schema).connections(1).open().await.unwrap());
    let report = look(&[]).json();
    assert_eq!(finding(&report, "store")["health"], "ok", "{report}");
    assert!(finding(&report, "store")["found"].as_str().unwrap().contains("PostgreSQL"), "{report}");
    let wakeups = finding(&report, "wake-ups");
    assert_eq!((&wakeups["health"], &wakeups["found"]), (&"ok".into(), &"at once, by LISTEN".into()));
    assert_eq!(finding(&look(&[("SELVEDGE_STORE_LISTEN", "false")]).json(), "wake-ups")["health"], "ok");

    // A listener that leads nowhere, in the file; a flag for another server would put it aside.
    let config = format!(
        "[store]\nurl = {:?}\nschema = {schema:?}\nlistener_url = \"postgres://x:secret@127.0.0.1:1/x?sslmode=disable\"\n",
        cluster.url()
    );
    std::fs::write(folder.path().join("selvedge.toml"), config).unwrap();
    let said = doctor(folder.path(), &["--json"], &[]);
    assert_eq!((said.code, &finding(&said.json(), "wake-ups")["health"]), (Some(0), &"warning".into()), "{said:?}");
    assert!(!format!("{said:?}").contains("secret"), "{said:?}");
}
