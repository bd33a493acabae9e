//! Intents, and the answers to them.

use selvedge_core::{
    Error, ErrorKind, Intent, Result,
    idempotency::Answer,
    intent::{IntentState, IntentView},
    store::Outcome,
};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::tx::{
    Tx, answer as answer_of, backoff, bytes, count, get, headers, micros, optional_time, params, time, trace,
};

pub(crate) async fn submit(tx: &Tx<'_>, intent: &Intent) -> Result<Outcome> {
    let fingerprint = intent.fingerprint();
    let sql = "
        INSERT INTO selvedge.intent (intent_id, fingerprint, operation, business_key, aggregate, backoff_base, backoff_cap,
                                     trace, submitted_at, payload)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (intent_id) DO NOTHING";
    let added = tx
        .run(
            sql,
            params![
                intent.id,
                &fingerprint.0[..],
                intent.operation,
                intent.business_key,
                intent.aggregate,
                micros(intent.backoff.base()),
                micros(intent.backoff.cap()),
                intent.trace.map(|trace| trace.to_string()),
                tx.now.0,
                &intent.payload[..],
            ],
        )
        .await?;
    if added == 0 {
        let sql = "SELECT fingerprint FROM selvedge.intent WHERE intent_id = $1";
        let known = tx.one(sql, params![intent.id], |row| get::<Vec<u8>>(row, 0)).await?;
        if known.as_deref() != Some(&fingerprint.0[..]) {
            return Err(Error::new(ErrorKind::Conflict, "store.commit", "this intent is known with another payload")
                .with("id", intent.id)
                .advise("give a changed intent an id of its own"));
        }
    }
    Ok(Outcome::Submitted { duplicate: added == 0 })
}

/// Keeps the first answer; a later one changes nothing.
pub(crate) async fn answer(tx: &Tx<'_>, id: Uuid, answer: &Answer) -> Result<Outcome> {
    let sql = "UPDATE selvedge.intent SET answered_at = $2, status = $3, headers = $4, body = $5
               WHERE intent_id = $1 AND answered_at IS NULL";
    if tx.run(sql, params![id, tx.now.0, i32::from(answer.status), headers(answer)?, &answer.body[..]]).await? == 0 {
        let sql = "SELECT 1 FROM selvedge.intent WHERE intent_id = $1";
        if tx.one(sql, params![id], |_| Ok(())).await?.is_none() {
            return Err(Error::new(ErrorKind::NotFound, "store.commit", "no such intent").with("id", id));
        }
    }
    Ok(Outcome::Done)
}

pub(crate) fn view(row: &Row) -> Result<IntentView> {
    let answer = answer_of(row)?;
    Ok(IntentView {
        intent: Intent {
            id: get(row, "intent_id")?,
            operation: get(row, "operation")?,
            payload: bytes(row, "payload")?,
            business_key: get(row, "business_key")?,
            aggregate: get(row, "aggregate")?,
            backoff: backoff(row)?,
            trace: trace(row)?,
        },
        state: IntentState::of(answer.as_ref()),
        answer,
        attempts: count(row, "attempts")?,
        last_error: get(row, "last_error")?,
        submitted_at: time(row, "submitted_at")?,
        answered_at: optional_time(row, "answered_at")?,
    })
}
