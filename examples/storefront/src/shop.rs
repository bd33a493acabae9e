//! The server's database: Selvedge's Store, and the shop's own table beside it.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use selvedge::{
    AnyStore, Commit, Context, Error, ErrorKind, Result,
    postgres::{PostgresStore, tokio_postgres},
    sqlite::SqliteStore,
    store::Lease,
};

/// Where the server keeps its data.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A SQLite file.
    File(PathBuf),
    /// A schema of a PostgreSQL database.
    Server { url: String, schema: String },
}

impl Place {
    /// A file's path, or the URL of a database with a schema of the shop's own in it.
    pub(crate) fn of(text: &str, schema: &str) -> Self {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Self::Server { url: text.into(), schema: schema.into() };
        }
        Self::File(text.strip_prefix("sqlite:").unwrap_or(text).into())
    }
}

/// A charge as the database has it: what the story is judged by.
#[derive(Clone, Debug)]
pub(crate) struct Charge {
    pub(crate) key: String,
    pub(crate) cents: u64,
    pub(crate) trace_id: String,
}

/// The server's database, opened.
#[derive(Clone, Debug)]
pub(crate) enum Shop {
    Sqlite(SqliteStore),
    Postgres { store: PostgresStore, pool: Pool, schema: String },
}

impl Shop {
    /// Opens the database and creates the shop's own table beside Selvedge's. No unique column: a second charge for one order
    /// would stand there for all to see.
    pub(crate) async fn open(place: &Place) -> anyhow::Result<Self> {
        match place {
            Place::File(path) => {
                let store =
                    SqliteStore::open(path).with_context(|| format!("the server's database {}", path.display()))?;
                let table = "CREATE TABLE IF NOT EXISTS charge (id INTEGER PRIMARY KEY, key TEXT, cents INTEGER, trace_id TEXT)";
                store.commit_with(&Context::new(), Commit::new(), |tx| Ok(tx.execute_batch(table)?)).await?;
                Ok(Self::Sqlite(store))
            }
            Place::Server { url, schema } => {
                let store = PostgresStore::builder(url).schema(schema).open().await?;
                let config: tokio_postgres::Config = url.parse().context("the URL of the server's database")?;
                // A demo on this machine: for another, give a TLS connector here.
                let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
                let pool = Pool::builder(Manager::from_config(config, tokio_postgres::NoTls, recycling))
                    .max_size(8)
                    .build()?;
                // Of those that start at once, one creates it: IF NOT EXISTS alone is no lock.
                let table = format!(
                    "SELECT pg_advisory_xact_lock(hashtextextended('{schema}.charge', 0));
                     CREATE TABLE IF NOT EXISTS {schema}.charge (
                       id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text, cents bigint, trace_id text)"
                );
                pool.get().await?.batch_execute(&table).await?;
                Ok(Self::Postgres { store, pool, schema: schema.clone() })
            }
        }
    }

    pub(crate) fn store(&self) -> AnyStore {
        match self {
            Self::Sqlite(store) => AnyStore::new(store.clone()),
            Self::Postgres { store, .. } => AnyStore::new(store.clone()),
        }
    }

    /// Charges and ends the job, both or neither: a worker that lost its lease charges nothing.
    pub(crate) async fn charge(&self, cx: &Context, lease: Lease, charge: Charge) -> Result<()> {
        let (done, cents) = (Commit::new().complete(lease), charge.cents as i64);
        match self {
            Self::Sqlite(store) => {
                let insert = "INSERT INTO charge (key, cents, trace_id) VALUES (?1, ?2, ?3)";
                let effect = move |tx: &selvedge::sqlite::rusqlite::Transaction<'_>| {
                    Ok(tx.execute(insert, (&charge.key, cents, &charge.trace_id))?)
                };
                store.commit_with(cx, done, effect).await.map(drop)
            }
            Self::Postgres { store, pool, schema } => {
                let insert = format!("INSERT INTO {schema}.charge (key, cents, trace_id) VALUES ($1, $2, $3)");
                let mut client = pool.get().await.map_err(failed)?;
                let tx = client.transaction().await.map_err(failed)?;
                tx.execute(&insert, &[&charge.key, &cents, &charge.trace_id]).await.map_err(failed)?;
                // When this fails, the transaction is dropped, and the charge with it.
                let applied = store.apply(&tx, &done).await?;
                tx.commit().await.map_err(failed)?;
                applied.committed();
                Ok(())
            }
        }
    }

    /// All charges, in the order in which they were made.
    pub(crate) async fn charges(&self) -> anyhow::Result<Vec<Charge>> {
        match self {
            Self::Sqlite(store) => {
                let read = |tx: &selvedge::sqlite::rusqlite::Transaction<'_>| {
                    let mut statement = tx.prepare("SELECT key, cents, trace_id FROM charge ORDER BY id")?;
                    let rows = statement.query_map([], |row| {
                        Ok(Charge { key: row.get(0)?, cents: row.get::<_, i64>(1)? as u64, trace_id: row.get(2)? })
                    })?;
                    Ok(rows.collect::<std::result::Result<Vec<_>, _>>()?)
                };
                Ok(store.commit_with(&Context::new(), Commit::new(), read).await?.0)
            }
            Self::Postgres { pool, schema, .. } => {
                let sql = format!("SELECT key, cents, trace_id FROM {schema}.charge ORDER BY id");
                let rows = pool.get().await?.query(&sql, &[]).await?;
                let charge = |row: tokio_postgres::Row| Charge {
                    key: row.get(0),
                    cents: row.get::<_, i64>(1) as u64,
                    trace_id: row.get(2),
                };
                Ok(rows.into_iter().map(charge).collect())
            }
        }
    }

    /// Takes a schema that was made for one run away again; a file goes with its folder.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        let Self::Postgres { store, pool, schema } = self else { return Ok(()) };
        if !schema.starts_with(Self::RUN) {
            bail!("{schema} was not made for one run");
        }
        store.close();
        Ok(pool.get().await?.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await?)
    }

    /// What the names of schemas that are made for one run begin with.
    const RUN: &str = "storefront_run_";

    /// A schema for one run: what others left in the database is not counted.
    pub(crate) fn new_schema() -> String {
        format!("{}{:08x}", Self::RUN, fastrand::u32(..))
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, "storefront.charge", "the database did not do it").caused_by(error)
}
