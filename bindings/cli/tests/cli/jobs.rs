//! `selvedge jobs` on a Store that others filled.

use std::{path::Path, time::Duration};

use selvedge::{
    AnyStore, Commit, Context, Store,
    postgres::PostgresStore,
    sqlite::SqliteStore,
    store::{LeaseRequest, NewJob, Retry},
};
use serde_json::Value;

use crate::support::{Said, cluster, run, selvedge};

const DB: &str = "shop.db";

/// Each case runs on both Stores.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test] async fn $name() { super::$name(&super::Shop::on_sqlite().await).await; })*
        }
        mod postgres {
            $(#[tokio::test] async fn $name() {
                if let Some(shop) = super::Shop::on_postgres().await { super::$name(&shop).await; }
            })*
        }
    };
}

on_both! {
    jobs_are_listed_by_queue_tenant_and_state
    dead_letters_are_listed_with_why_and_after_how_many_attempts
    a_job_is_shown_with_its_payload
    a_dead_job_can_be_retried_and_a_waiting_one_cannot
    a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked
    a_paused_queue_gives_out_nothing_and_depth_says_so
}

/// A Store with three jobs: one waits, one runs, one is dead.
struct Shop {
    folder: tempfile::TempDir,
    store: AnyStore,
    flags: Vec<String>,
}

impl Shop {
    async fn on_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = AnyStore::new(SqliteStore::open(folder.path().join(DB)).unwrap());
        Self { folder, store, flags: vec!["--store".into(), DB.into()] }.filled().await
    }

    async fn on_postgres() -> Option<Self> {
        let cluster = cluster()?;
        let (folder, schema) = (tempfile::tempdir().unwrap(), cluster.schema());
        std::fs::write(folder.path().join("selvedge.toml"), format!("[store]\nschema = {schema:?}\n")).unwrap();
        let store = PostgresStore::builder(cluster.url()).schema(schema).connections(2).open().await.unwrap();
        let flags = vec!["--store".into(), cluster.url()];
        Some(Self { folder, store: AnyStore::new(store), flags }.filled().await)
    }

    async fn filled(self) -> Self {
        let (store, cx) = (&self.store, Context::new());
        let job = |queue: &str, item: &str| NewJob::new(queue, format!(r#"{{"item":"{item}"}}"#));
        let commit =
            Commit::new().enqueue([job("orders", "tea").tenant("acme"), job("mail", "run"), job("mail", "die")]);
        store.commit(&cx, commit).await.unwrap();
        let request = LeaseRequest::new("mail", 2).hold(Duration::from_secs(600)).owner("worker-1");
        let leased = store.lease(&cx, request).await.unwrap();
        assert_eq!(leased.len(), 2);
        store.commit(&cx, Commit::new().fail(leased[1].lease, "the address is wrong", Retry::Never)).await.unwrap();
        self
    }

    fn jobs(&self, arguments: &[&str]) -> Said {
        run(selvedge(self.folder.path()).arg("jobs").args(&self.flags).args(arguments))
    }

    fn ids(&self, arguments: &[&str]) -> Vec<i64> {
        rows(&self.jobs(&[&["list", "--json"], arguments].concat()))
            .iter()
            .map(|row| row["id"].as_i64().unwrap())
            .collect()
    }
}

fn rows(said: &Said) -> Vec<Value> {
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn jobs_are_listed_by_queue_tenant_and_state(shop: &Shop) {
    let all = shop.ids(&[]);
    assert_eq!(all.len(), 3);
    assert_eq!(shop.ids(&["--queue", "orders"]), all[..1]);
    assert_eq!(shop.ids(&["--tenant", "acme"]), all[..1]);
    assert_eq!(shop.ids(&["--state", "running"]), all[1..2]);
    assert_eq!(shop.ids(&["--state", "dead"]), all[2..]);
    assert_eq!(shop.ids(&["--limit", "2"]), all[..2]);
    let table = shop.jobs(&["list"]);
    assert!(table.out.starts_with("ID") && table.out.contains("the address is wrong"), "{table:?}");
    assert!(!table.out.contains('\x1b'), "no colour off a terminal: {table:?}");
}

async fn dead_letters_are_listed_with_why_and_after_how_many_attempts(shop: &Shop) {
    let dead = rows(&shop.jobs(&["dead", "--json"]));
    assert_eq!(dead, rows(&shop.jobs(&["list", "--state", "dead", "--json"])));
    assert_eq!(dead.len(), 1);
    assert_eq!((&dead[0]["attempt"], &dead[0]["last_error"]), (&1.into(), &"the address is wrong".into()), "{dead:?}");
    assert_eq!(rows(&shop.jobs(&["dead", "--queue", "orders", "--json"])), Vec::<Value>::new());
    let table = shop.jobs(&["dead"]);
    assert!(table.out.contains("ATTEMPTS") && table.out.contains("the address is wrong"), "{table:?}");
}

async fn a_job_is_shown_with_its_payload(shop: &Shop) {
    let id = shop.ids(&["--state", "dead"])[0].to_string();
    let row = &rows(&shop.jobs(&["show", &id, "--json"]))[0];
    assert_eq!((&row["queue"], &row["payload"]["item"]), (&"mail".into(), &"die".into()), "{row}");
    assert_eq!((&row["state"], &row["last_error"]), (&"dead".into(), &"the address is wrong".into()), "{row}");
    let text = shop.jobs(&["show", &id]);
    assert!(text.out.contains("last error") && text.out.contains(r#"{"item":"die"}"#), "{text:?}");
    shop.jobs(&["show", "9999"]).failed(1, &["no such job", "9999", "try: "]);
}

async fn a_dead_job_can_be_retried_and_a_waiting_one_cannot(shop: &Shop) {
    let dead = shop.ids(&["--state", "dead"])[0];
    let row = &rows(&shop.jobs(&["retry", &dead.to_string(), "--json"]))[0];
    assert_eq!((&row["id"], &row["status"]), (&dead.into(), &"ready".into()));
    assert!(shop.ids(&["--state", "ready"]).contains(&dead));
    shop.jobs(&["retry", &dead.to_string()]).failed(1, &["neither dead nor cancelled", "try: "]);
}

async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked(shop: &Shop) {
    let status = |id: i64| rows(&shop.jobs(&["cancel", &id.to_string(), "--json"]))[0]["status"].clone();
    assert_eq!(status(shop.ids(&["--queue", "orders"])[0]), "cancelled");
    assert_eq!(status(shop.ids(&["--state", "running"])[0]), "asked to stop");
    shop.jobs(&["cancel", "9999"]).failed(1, &["no such job"]);
}

async fn a_paused_queue_gives_out_nothing_and_depth_says_so(shop: &Shop) {
    let lease = async || shop.store.lease(&Context::new(), LeaseRequest::new("orders", 1)).await.unwrap().len();
    assert_eq!(rows(&shop.jobs(&["pause", "orders", "--json"]))[0]["status"], "paused");
    assert_eq!(lease().await, 0);
    let depth = rows(&shop.jobs(&["depth", "--json"]));
    let orders = depth.iter().find(|row| row["queue"] == "orders").unwrap();
    assert_eq!(
        (&orders["tenant"], &orders["ready"], &orders["paused"]),
        (&"acme".into(), &1.into(), &true.into()),
        "{orders}"
    );
    assert!(orders["oldest"].as_f64().unwrap() > 0.0, "{orders}");
    let mail = depth.iter().find(|row| row["queue"] == "mail").unwrap();
    assert_eq!((&mail["running"], &mail["dead"], &mail["paused"]), (&1.into(), &1.into(), &false.into()), "{mail}");
    assert_eq!(rows(&shop.jobs(&["resume", "orders", "--json"]))[0]["status"], "resumed");
    assert_eq!(lease().await, 1);
}

fn jobs(folder: &Path, arguments: &[&str]) -> Said {
    run(selvedge(folder).args(["jobs", "--db", DB]).args(arguments))
}

#[tokio::test]
async fn looking_at_a_database_without_a_store_makes_none() {
    let Some(cluster) = cluster() else { return };
    let (folder, schema) = (tempfile::tempdir().unwrap(), cluster.schema());
    let look = || {
        run(selvedge(folder.path())
            .args(["jobs", "list", "--store", &cluster.url()])
            .env("SELVEDGE_STORE_SCHEMA", &schema))
    };
    look().failed(1, &["no Store", &schema, "try: "]);
    look().failed(1, &["no Store"]);
}

#[test]
fn a_store_that_cannot_be_reached_is_named_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["postgres://app:secret@127.0.0.1:1/shop?sslmode=disable", "mysql://app:secret@127.0.0.1/shop"] {
        let said = run(selvedge(folder.path()).args(["jobs", "list", "--store", url]));
        said.failed(1, &["try: "]);
        assert!(!said.err.contains("secret"), "{said:?}");
    }
}

#[test]
fn looking_at_a_store_that_is_not_there_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    jobs(folder.path(), &["list"]).failed(1, &["no Store", DB, "--store"]);
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
