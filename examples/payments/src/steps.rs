//! The mode with recovery points: for an effect in somebody else's system.
//!
//! No transaction reaches over there, so it goes in steps. Each step ends with a commit that says how far it came; after a
//! crash the next try goes on from there. Between the provider's charge and our note of it there is always a moment, so
//! the provider is given a key as well: derived from the client's, and thus the same in every try.

use std::time::Duration;

use axum::{Extension, Json, extract::State};
use selvedge::{
    Commit, Context, Error, ErrorKind, Store,
    idempotency::{Answer, RecoveryPoint},
};
use selvedge_http::{Problem, Settled, Ticket};
use serde::Deserialize;

use crate::shop::{Order, Shop, failed};

/// The payout's row is written; its number follows.
const RECORDED: &str = "recorded";
/// The provider has paid; the payout's number and the provider's reference follow.
const CHARGED: &str = "charged";

/// `POST /payouts`: money sent by a provider, once.
pub(crate) async fn pay_out(
    State(shop): State<Shop>,
    Extension(ticket): Extension<Ticket>,
    Json(order): Json<Order>,
) -> Result<Settled, Problem> {
    order.check()?;
    let mut point = ticket.point.clone();
    loop {
        point = Some(match &point {
            None => record(&shop, &ticket, &order).await?,
            Some(at) if at.name == RECORDED => charge(&shop, &ticket, &order, number(&at.data)?).await?,
            Some(at) if at.name == CHARGED => return finish(&shop, ticket, &at.data).await,
            Some(at) => return Err(unreadable().with("point", &at.name).into()),
        });
    }
}

/// The first step: the row and the point become true together.
async fn record(shop: &Shop, ticket: &Ticket, order: &Order) -> Result<RecoveryPoint, Problem> {
    let mut connection = shop.connection().await?;
    let tx = connection.transaction().await.map_err(failed)?;
    let insert = "INSERT INTO payout (account, cents) VALUES ($1, $2) RETURNING id";
    let payout: i64 = tx.query_one(insert, &[&order.account, &order.cents]).await.map_err(failed)?.get(0);
    let point = RecoveryPoint { name: RECORDED.into(), data: payout.to_string().into() };
    let applied = shop.store.apply(&tx, &Commit::new().advance(ticket.clone(), point.clone())).await?;
    tx.commit().await.map_err(failed)?;
    applied.committed();
    Ok(point)
}

/// The second step: the foreign effect, and then a note that it happened. A crash in between comes here again, with the same
/// key for the provider.
async fn charge(shop: &Shop, ticket: &Ticket, order: &Order, payout: i64) -> Result<RecoveryPoint, Problem> {
    let provider = shop.provider.as_ref().ok_or_else(|| Error::unsupported("payments", "payments.payout"))?;
    let reference = provider.charge(&ticket.key.derived("charge"), order).await?;
    let point = RecoveryPoint { name: CHARGED.into(), data: format!("{payout} {reference}").into() };
    shop.store.commit(&Context::new(), Commit::new().advance(ticket.clone(), point.clone())).await?;
    Ok(point)
}

/// The last step: the reference in our row and the answer to the key become true together.
async fn finish(shop: &Shop, ticket: Ticket, data: &[u8]) -> Result<Settled, Problem> {
    let text = std::str::from_utf8(data).map_err(|_| unreadable())?;
    let (payout, reference) = text.split_once(' ').ok_or_else(unreadable)?;
    let payout = number(payout.as_bytes())?;
    let body = serde_json::json!({ "payout": payout, "reference": reference });
    let answer = Answer::json(201, body.to_string());
    let mut connection = shop.connection().await?;
    let tx = connection.transaction().await.map_err(failed)?;
    tx.execute("UPDATE payout SET reference = $2 WHERE id = $1", &[&payout, &reference]).await.map_err(failed)?;
    let applied = shop.store.apply(&tx, &Commit::new().settle(ticket, answer.clone())).await?;
    tx.commit().await.map_err(failed)?;
    applied.committed();
    Ok(Settled(answer))
}

fn number(data: &[u8]) -> Result<i64, Problem> {
    let number = std::str::from_utf8(data).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| unreadable().into())
}

fn unreadable() -> Error {
    Error::new(ErrorKind::Internal, "payments.payout", "a recovery point cannot be read")
        .advise("it was written by another version: let that one finish what it began")
}

/// A payment provider that takes an `Idempotency-Key`, as all large ones do.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    client: reqwest::Client,
    url: String,
}

#[derive(Debug, Deserialize)]
struct Charged {
    reference: String,
}

impl Provider {
    pub(crate) fn at(url: &str) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        Ok(Self { client, url: format!("{}/charges", url.trim_end_matches('/')) })
    }

    /// Charges once for each key; the provider's reference.
    async fn charge(&self, key: &str, order: &Order) -> Result<String, Problem> {
        let body = serde_json::json!({ "account": order.account, "cents": order.cents });
        let sent = self.client.post(&self.url).header("idempotency-key", key).json(&body).send().await;
        let charged = async { sent?.error_for_status()?.json::<Charged>().await };
        // Whether it has charged is not known here, and need not be: the next try has the same key.
        let charged = charged.await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "payments.charge", "the provider gave no answer")
                .advise("send the same request again")
                .caused_by(error)
        })?;
        Ok(charged.reference)
    }
}
