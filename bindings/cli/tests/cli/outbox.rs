//! `selvedge outbox` on a Store whose events somebody refused.

use selvedge::{
    AnyStore, Commit, Context, Store,
    postgres::PostgresStore,
    sqlite::SqliteStore,
    store::{Event, RelayRequest, Retry},
};
use serde_json::Value;

use crate::support::{Said, cluster, run, selvedge};

const DB: &str = "shop.db";

/// A Store with three events: of `order/1` the first is dead and one waits behind it, that of `order/2` is ready.
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
        let event = |aggregate: &str, topic: &str| Event::new(aggregate, topic, format!(r#"{{"topic":"{topic}"}}"#));
        let commit = Commit::new().emit(event("order/1", "paid")).emit(event("order/1", "sent"));
        store.commit(&cx, commit.emit(event("order/2", "paid"))).await.unwrap();
        let leased = store.relay(&cx, RelayRequest::new(10)).await.unwrap();
        assert_eq!(leased.len(), 2);
        for it in leased {
            let commit = if it.event.aggregate == "order/1" {
                Commit::new().fail(it.lease, "the address is wrong", Retry::Never)
            } else {
                Commit::new().release(it.lease, std::time::Duration::ZERO)
            };
            store.commit(&cx, commit).await.unwrap();
        }
        self
    }

    fn outbox(&self, arguments: &[&str]) -> Said {
        run(selvedge(self.folder.path()).arg("outbox").args(&self.flags).args(arguments))
    }

    /// The aggregates and topics that a relay is given now; they stay leased.
    async fn relayed(&self) -> Vec<String> {
        let leased = self.store.relay(&Context::new(), RelayRequest::new(10)).await.unwrap();
        let mut names: Vec<_> = leased.iter().map(|it| format!("{} {}", it.event.aggregate, it.event.topic)).collect();
        names.sort();
        names
    }
}

fn rows(said: &Said) -> Vec<Value> {
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

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
    events_are_listed_and_dead_ones_alone_with_why
    a_dead_event_that_is_retried_goes_out_first
    a_dead_event_that_is_dropped_lets_the_next_one_go
    an_event_that_is_not_dead_or_not_there_is_left_alone
}

async fn events_are_listed_and_dead_ones_alone_with_why(shop: &Shop) {
    assert_eq!(rows(&shop.outbox(&["list", "--json"])).len(), 3);
    assert_eq!(rows(&shop.outbox(&["list", "--json", "--limit", "2"])).len(), 2);
    let dead = rows(&shop.outbox(&["list", "--dead", "--json"]));
    assert_eq!(dead.len(), 1);
    let (event, attempts, why) = (&dead[0]["event"], &dead[0]["attempts"], &dead[0]["last_error"]);
    assert_eq!((attempts, why), (&1.into(), &"the address is wrong".into()), "{dead:?}");
    assert_eq!((&event["aggregate"], &event["payload"]["topic"]), (&"order/1".into(), &"paid".into()), "{dead:?}");
    let table = shop.outbox(&["list"]);
    let state = |state: &str| table.out.lines().filter(|line| line.contains(state)).count();
    assert!(table.out.starts_with("NUMBER") && table.out.contains("the address is wrong"), "{table:?}");
    assert_eq!((state(" dead "), state(" waiting ")), (1, 2), "{table:?}");
}

fn dead(shop: &Shop) -> String {
    rows(&shop.outbox(&["list", "--dead", "--json"]))[0]["number"].to_string()
}

async fn a_dead_event_that_is_retried_goes_out_first(shop: &Shop) {
    let row = &rows(&shop.outbox(&["retry", &dead(shop), "--json"]))[0];
    assert_eq!(row["status"], "ready", "{row}");
    assert_eq!(shop.relayed().await, ["order/1 paid", "order/2 paid"]);
}

async fn a_dead_event_that_is_dropped_lets_the_next_one_go(shop: &Shop) {
    let dead = dead(shop);
    let said = shop.outbox(&["drop", &dead]);
    assert_eq!((said.code, &*said.out), (Some(0), &*format!("event {dead}: dropped\n")), "{said:?}");
    assert_eq!(shop.relayed().await, ["order/1 sent", "order/2 paid"]);
    shop.outbox(&["drop", &dead]).failed(1, &["no such event", &dead]);
}

async fn an_event_that_is_not_dead_or_not_there_is_left_alone(shop: &Shop) {
    let all = rows(&shop.outbox(&["list", "--json"]));
    for verb in ["retry", "drop"] {
        shop.outbox(&[verb, &all[1]["number"].to_string()]).failed(1, &["not dead", "try: "]);
        shop.outbox(&[verb, "9999"]).failed(1, &["no such event", "9999", "try: "]);
        shop.outbox(&[verb]).failed(2, &[]);
    }
    assert_eq!(rows(&shop.outbox(&["list", "--json"])), all);
}
