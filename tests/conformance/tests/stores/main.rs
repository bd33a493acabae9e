//! The engine's verbs over the outbox, the inbox and quotas, on SQLite and on a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod allowance;
mod inbox;
mod outbox;
mod quota;

use std::sync::{Arc, LazyLock};

use selvedge::{Engine, layers::Metrics, sqlite::SqliteStore};
use selvedge_core::AnyStore;
use selvedge_postgres::PostgresStore;
use selvedge_testkit::postgres::Cluster;

/// One server for all of them. A machine without PostgreSQL leaves it out, unless it is meant to run them all.
static CLUSTER: LazyLock<Option<Cluster>> = LazyLock::new(|| match Cluster::start() {
    Ok(cluster) => Some(cluster),
    Err(error) if std::env::var_os("CI").is_some() => panic!("{error:#}"),
    Err(error) => {
        println!("without PostgreSQL: {error:#}");
        None
    }
});

/// Where the data of one test lies.
#[derive(Clone)]
enum Place {
    Sqlite(Arc<tempfile::TempDir>),
    Postgres(String),
}

impl Place {
    /// A new one of each kind.
    fn all() -> Vec<Self> {
        let folder = tempfile::tempdir().unwrap();
        let postgres = CLUSTER.as_ref().map(|cluster| Self::Postgres(cluster.schema()));
        [Self::Sqlite(Arc::new(folder))].into_iter().chain(postgres).collect()
    }

    /// Opens it, as another process would.
    async fn open(&self) -> AnyStore {
        match self {
            Self::Sqlite(folder) => AnyStore::new(SqliteStore::open(folder.path().join("stores.db")).unwrap()),
            Self::Postgres(schema) => {
                let url = CLUSTER.as_ref().unwrap().url();
                AnyStore::new(PostgresStore::builder(url).schema(schema).connections(8).open().await.unwrap())
            }
        }
    }

    /// An engine over it, and what it counts.
    async fn engine(&self) -> (Engine, Metrics) {
        let metrics = Metrics::new();
        (selvedge::builder().store(self.open().await).layer(metrics.clone()).build(), metrics)
    }
}
