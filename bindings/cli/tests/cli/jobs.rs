//! `selvedge jobs` on a Store that others filled.

use std::{path::Path, time::Duration};

use selvedge::{
    Commit, Context, Store,
    sqlite::SqliteStore,
    store::{LeaseRequest, NewJob, Retry},
};
use serde_json::Value;

use crate::support::{Said, run, selvedge};

const DB: &str = "shop.db";

/// A Store with three jobs: one waits, one runs, one is dead.
async fn filled(folder: &Path) {
    let store = SqliteStore::open(folder.join(DB)).unwrap();
    let cx = Context::new();
    let job = |queue: &str, item: &str| NewJob::new(queue, format!(r#"{{"item":"{item}"}}"#));
    let commit = Commit::new().enqueue([job("orders", "tea").tenant("acme"), job("mail", "run"), job("mail", "die")]);
    store.commit(&cx, commit).await.unwrap();
    let request = LeaseRequest::new("mail", 2).hold(Duration::from_secs(600)).owner("worker-1");
    let leased = store.lease(&cx, request).await.unwrap();
    assert_eq!(leased.len(), 2);
    store.commit(&cx, Commit::new().fail(leased[1].lease, "the address is wrong", Retry::Never)).await.unwrap();
}

fn jobs(folder: &Path, arguments: &[&str]) -> Said {
    run(selvedge(folder).args(["jobs", "--db", DB]).args(arguments))
}

fn rows(said: &Said) -> Vec<Value> {
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(folder: &Path, arguments: &[&str]) -> Vec<i64> {
    rows(&jobs(folder, &[&["list", "--json"], arguments].concat()))
        .iter()
        .map(|row| row["id"].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn jobs_are_listed_by_queue_tenant_and_state() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let all = ids(folder.path(), &[]);
    assert_eq!(all.len(), 3);
    assert_eq!(ids(folder.path(), &["--queue", "orders"]), all[..1]);
    assert_eq!(ids(folder.path(), &["--tenant", "acme"]), all[..1]);
    assert_eq!(ids(folder.path(), &["--state", "running"]), all[1..2]);
    assert_eq!(ids(folder.path(), &["--state", "dead"]), all[2..]);
    assert_eq!(ids(folder.path(), &["--limit", "2"]), all[..2]);
    let table = jobs(folder.path(), &["list"]);
    assert!(table.out.starts_with("ID") && table.out.contains("the address is wrong"), "{table:?}");
    assert!(!table.out.contains('\x1b'), "no colour off a terminal: {table:?}");
}

#[tokio::test]
async fn a_job_is_shown_with_its_payload() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let id = ids(folder.path(), &["--state", "dead"])[0].to_string();
    let row = &rows(&jobs(folder.path(), &["show", &id, "--json"]))[0];
    assert_eq!((&row["queue"], &row["payload"]["item"]), (&"mail".into(), &"die".into()), "{row}");
    assert_eq!((&row["state"], &row["last_error"]), (&"dead".into(), &"the address is wrong".into()), "{row}");
    let text = jobs(folder.path(), &["show", &id]);
    assert!(text.out.contains("last error") && text.out.contains(r#"{"item":"die"}"#), "{text:?}");
    jobs(folder.path(), &["show", "9999"]).failed(1, &["no such job", "9999", "try: "]);
}

#[tokio::test]
async fn a_dead_job_can_be_retried_and_a_waiting_one_cannot() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let dead = ids(folder.path(), &["--state", "dead"])[0];
    let row = &rows(&jobs(folder.path(), &["retry", &dead.to_string(), "--json"]))[0];
    assert_eq!((&row["id"], &row["status"]), (&dead.into(), &"ready".into()));
    assert!(ids(folder.path(), &["--state", "ready"]).contains(&dead));
    jobs(folder.path(), &["retry", &dead.to_string()]).failed(1, &["neither dead nor cancelled", "try: "]);
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let status = |id: i64| rows(&jobs(folder.path(), &["cancel", &id.to_string(), "--json"]))[0]["status"].clone();
    assert_eq!(status(ids(folder.path(), &["--queue", "orders"])[0]), "cancelled");
    assert_eq!(status(ids(folder.path(), &["--state", "running"])[0]), "asked to stop");
    jobs(folder.path(), &["cancel", "9999"]).failed(1, &["no such job"]);
}

#[tokio::test]
async fn a_paused_queue_gives_out_nothing_and_depth_says_so() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let store = SqliteStore::open(folder.path().join(DB)).unwrap();
    let lease = async || store.lease(&Context::new(), LeaseRequest::new("orders", 1)).await.unwrap().len();
    assert_eq!(rows(&jobs(folder.path(), &["pause", "orders", "--json"]))[0]["status"], "paused");
    assert_eq!(lease().await, 0);
    let depth = rows(&jobs(folder.path(), &["depth", "--json"]));
    let orders = depth.iter().find(|row| row["queue"] == "orders").unwrap();
    assert_eq!((&orders["ready"], &orders["paused"]), (&1.into(), &true.into()), "{orders}");
    assert_eq!(rows(&jobs(folder.path(), &["resume", "orders", "--json"]))[0]["status"], "resumed");
    assert_eq!(lease().await, 1);
}

#[test]
fn looking_at_a_store_that_is_not_there_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    jobs(folder.path(), &["list"]).failed(1, &["no Store", DB, "--db"]);
    assert!(!folder.path().join(DB).exists());
}

#[test]
fn a_file_that_is_no_store_is_refused_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let text = "not a database, but somebody's letter, which is longer than a header\n".repeat(20);
    std::fs::write(folder.path().join(DB), &text).unwrap();
    jobs(folder.path(), &["list"]).failed(1, &[DB]);
    assert_eq!(std::fs::read_to_string(folder.path().join(DB)).unwrap(), text);
}

#[test]
fn a_number_that_is_none_is_the_command_lines_fault() {
    let folder = tempfile::tempdir().unwrap();
    jobs(folder.path(), &["show", "first"]).failed(2, &["first"]);
    jobs(folder.path(), &["list", "--state", "lost"]).failed(2, &["lost", "dead"]);
    jobs(folder.path(), &["cancel"]).failed(2, &[]);
}
