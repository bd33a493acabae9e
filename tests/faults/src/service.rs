//! An HTTP service behind the idempotency layer, as a process that is killed.

use std::time::Duration;

use anyhow::Result;
use axum::{
    Extension, Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use deadpool_postgres::Pool;
use selvedge::{
    AnyStore, Commit, Context, Error, ErrorKind, Store,
    idempotency::{Answer, Ticket},
    postgres::{PostgresStore, tokio_postgres::types::Type},
    store::NewJob,
};
use selvedge_http::{IdempotencyLayer, Settled};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::worker;

/// How long a claim holds: short, so that a freeze soon outlasts one.
pub(crate) const HOLD: Duration = Duration::from_secs(1);
/// Where goods are sent from: the jobs stay there, as the effects to be counted.
pub(crate) const QUEUE: &str = "ship";

/// No column is unique: what is charged twice stands here twice.
pub(crate) const CHARGE: &str = "CREATE TABLE charge (key text NOT NULL, cents bigint NOT NULL, receipt text NOT NULL)";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The database.
    #[arg(long)]
    url: String,
    /// The port on loopback.
    #[arg(long)]
    port: u16,
}

/// What the client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) key: String,
    pub(crate) cents: i64,
    pub(crate) way: Way,
}

/// How its effect and its answer become true together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// A row, in a transaction of the service's own.
    Row,
    /// A job, in a commit of the Store.
    Job,
    /// It has no effect: it is refused for good, and the layer keeps that.
    Refused,
}

/// What was done: the body of the answer, and the payload of the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) key: String,
    pub(crate) cents: i64,
    /// Another one each time it is done.
    pub(crate) receipt: String,
}

#[derive(Clone)]
struct Shop {
    store: PostgresStore,
    pool: Pool,
}

/// Serves until it is killed. It prints `ready` and `stale`.
pub(crate) async fn run(options: Options) -> Result<()> {
    crate::child::end_with_parent();
    let store = worker::open(&options.url).await?;
    let layer = IdempotencyLayer::new(AnyStore::new(store.clone())).hold(HOLD).wait(Duration::from_millis(500));
    let shop = Shop { store, pool: worker::pool(&options.url, 16)? };
    let router = Router::new().route("/pay", post(pay)).layer(layer).with_state(shop);
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    println!("ready");
    Ok(axum::serve(listener, router).await?)
}

async fn pay(State(shop): State<Shop>, Extension(ticket): Extension<Ticket>, Json(order): Json<Order>) -> Response {
    // Some tries fail by themselves, before and after they took a while.
    if fastrand::u8(..100) == 0 {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if fastrand::u8(..20) == 0 {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..100))).await;
    }
    let receipt = format!("{:016x}", fastrand::u64(..));
    let receipt = Receipt { key: order.key, cents: order.cents, receipt };
    let Ok(body) = serde_json::to_vec(&receipt) else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let done = match order.way {
        Way::Refused => return (StatusCode::PAYMENT_REQUIRED, body).into_response(),
        Way::Row => by_row(&shop, ticket, receipt, Answer::json(201, body)).await,
        Way::Job => by_job(&shop, ticket, Answer::json(201, body)).await,
    };
    match done {
        Ok(answer) => Settled(answer).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn by_row(shop: &Shop, ticket: Ticket, receipt: Receipt, answer: Answer) -> selvedge::Result<Answer> {
    // It does not stop when the claim runs out or the client goes: the Store must refuse it.
    let (Shop { store, pool }, kept) = (shop.clone(), answer.clone());
    let charged = tokio::spawn(async move {
        let mut client = pool.get().await.map_err(refused)?;
        let tx = client.transaction().await.map_err(refused)?;
        let sql = "INSERT INTO charge (key, cents, receipt) VALUES ($1, $2, $3)";
        let values =
            [(&receipt.key as _, Type::TEXT), (&receipt.cents as _, Type::INT8), (&receipt.receipt as _, Type::TEXT)];
        tx.execute_typed(sql, &values).await.map_err(refused)?;
        let applied = store.apply(&tx, &Commit::new().settle(ticket, kept)).await.inspect_err(stale)?;
        tx.commit().await.map_err(refused)?;
        applied.committed();
        Ok(())
    });
    charged.await.map_err(refused)?.map(|()| answer)
}

async fn by_job(shop: &Shop, ticket: Ticket, answer: Answer) -> selvedge::Result<Answer> {
    let job = NewJob::new(QUEUE, answer.body.clone());
    shop.store
        .commit(&Context::new(), Commit::new().enqueue([job]).settle(ticket, answer.clone()))
        .await
        .inspect_err(stale)?;
    Ok(answer)
}

/// Tells of an effect that was refused because somebody else has the key by now.
fn stale(error: &Error) {
    if error.kind() == ErrorKind::LeaseLost {
        println!("stale");
    }
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, "service", "the charge failed").retry(false).caused_by(error)
}
