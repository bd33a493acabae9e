//! The atomic mode: for an effect in the same database as the keys.

use axum::{Extension, Json, extract::State};
use selvedge::{Commit, idempotency::Answer};
use selvedge_http::{Problem, Settled, Ticket};

use crate::shop::{Order, Shop, failed};

/// `POST /payments`: the payment's row and the answer to its key become true together, or neither does. Whatever crashes
/// wherever, there is no payment without its answer, so a retry cannot pay again.
pub(crate) async fn pay(
    State(shop): State<Shop>,
    Extension(ticket): Extension<Ticket>,
    Json(order): Json<Order>,
) -> Result<Settled, Problem> {
    order.check()?;
    let mut connection = shop.connection().await?;
    let tx = connection.transaction().await.map_err(failed)?;
    let insert = "INSERT INTO payment (account, cents) VALUES ($1, $2) RETURNING id";
    let row = tx.query_one(insert, &[&order.account, &order.cents]).await.map_err(failed)?;
    let answer = Answer::json(201, format!(r#"{{"payment":{}}}"#, row.get::<_, i64>(0)));
    // Fails when the claim is no longer held: then the transaction is dropped, and the payment with it.
    let applied = shop.store.apply(&tx, &Commit::new().settle(ticket, answer.clone())).await?;
    tx.commit().await.map_err(failed)?;
    applied.committed();
    Ok(Settled(answer))
}
