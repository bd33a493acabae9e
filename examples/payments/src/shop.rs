//! What the routes share: the Store, the shop's own tables beside it, and the way to the provider.

use anyhow::Context as _;
use axum::{Router, routing::post};
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use selvedge::{
    AnyStore, Error, ErrorKind,
    postgres::{PostgresStore, tokio_postgres},
};
use selvedge_http::{IdempotencyLayer, Problem};
use serde::Deserialize;

use crate::{atomic, steps};

/// The shop's own tables.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS payment (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account text NOT NULL, cents bigint NOT NULL
    );
    CREATE TABLE IF NOT EXISTS payout (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account text NOT NULL, cents bigint NOT NULL, reference text
    );";

/// What a client asks for.
#[derive(Debug, Deserialize)]
pub(crate) struct Order {
    pub(crate) account: String,
    pub(crate) cents: i64,
}

impl Order {
    /// A refusal is an answer like any other: the layer keeps it for the key.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        if self.cents > 0 {
            return Ok(());
        }
        let error = Error::new(ErrorKind::InvalidInput, "payments.check", "an amount is at least one cent");
        Err(error.with("cents", self.cents).into())
    }
}

/// The Store and the shop's own connections to the same database.
#[derive(Clone, Debug)]
pub(crate) struct Shop {
    pub(crate) store: PostgresStore,
    pool: Pool,
    pub(crate) provider: Option<steps::Provider>,
}

impl Shop {
    pub(crate) async fn open(url: &str, provider: Option<&str>) -> anyhow::Result<Self> {
        let store = PostgresStore::open(url).await?;
        let config: tokio_postgres::Config = url.parse().context("the URL of the database cannot be read")?;
        // The example stays with connections on this machine; for others give a TLS connector here.
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(config, tokio_postgres::NoTls, recycling);
        let shop = Self {
            store,
            pool: Pool::builder(manager).max_size(16).build()?,
            provider: provider.map(steps::Provider::at).transpose()?,
        };
        shop.pool.get().await?.batch_execute(TABLES).await?;
        Ok(shop)
    }

    pub(crate) fn store(&self) -> AnyStore {
        AnyStore::new(self.store.clone())
    }

    pub(crate) fn router(self, once: IdempotencyLayer) -> Router {
        let mut router = Router::new().route("/payments", post(atomic::pay));
        if self.provider.is_some() {
            router = router.route("/payouts", post(steps::pay_out));
        }
        router.layer(once).with_state(self)
    }

    pub(crate) async fn connection(&self) -> Result<Object, Problem> {
        self.pool.get().await.map_err(|error| {
            let error =
                Error::new(ErrorKind::Unavailable, "payments.connect", "the database does not answer").caused_by(error);
            // Nothing has happened, so the same key may try again.
            error.retry(true).into()
        })
    }
}

/// What the database said. A 5xx answer is not kept for the key, so a retry is a new try.
pub(crate) fn failed(error: tokio_postgres::Error) -> Problem {
    Error::new(ErrorKind::Unavailable, "payments.write", "the database did not do it").caused_by(error).into()
}
