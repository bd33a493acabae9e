//! Intents, and the answers to them.

use rusqlite::{Row, params};
use selvedge_core::{
    Error, ErrorKind, Intent, Result,
    idempotency::Answer,
    intent::{IntentState, IntentView},
    store::Outcome,
};
use uuid::Uuid;

use crate::tx::{Tx, answer as answer_of, backoff, bytes, headers, micros, optional_time, time, trace, uuid};

pub(crate) fn submit(tx: &Tx<'_>, intent: &Intent) -> Result<Outcome> {
    let fingerprint = intent.fingerprint();
    let sql =
        "INSERT INTO intent (intent_id, fingerprint, operation, business_key, aggregate, backoff_base, backoff_cap,
                 trace, submitted_at, payload)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (intent_id) DO NOTHING";
    let added = tx.run(
        sql,
        params![
            intent.id.as_bytes(),
            fingerprint.0,
            intent.operation,
            intent.business_key,
            intent.aggregate,
            micros(intent.backoff.base()),
            micros(intent.backoff.cap()),
            intent.trace.map(|trace| trace.to_string()),
            tx.now.0,
            &intent.payload[..]
        ],
    )?;
    if added == 0 {
        let sql = "SELECT fingerprint FROM intent WHERE intent_id = ?1";
        let known = tx.one(sql, [intent.id.as_bytes()], |row| row.get::<_, [u8; 32]>(0))?;
        if known != Some(fingerprint.0) {
            return Err(Error::new(ErrorKind::Conflict, "store.commit", "this intent is known with another payload")
                .with("id", intent.id)
                .advise("give a changed intent an id of its own"));
        }
    }
    Ok(Outcome::Submitted { duplicate: added == 0 })
}

/// Keeps the first answer; a later one changes nothing.
pub(crate) fn answer(tx: &Tx<'_>, id: Uuid, answer: &Answer) -> Result<Outcome> {
    let sql = "UPDATE intent SET answered_at = ?2, status = ?3, headers = ?4, body = ?5
               WHERE intent_id = ?1 AND answered_at IS NULL";
    let params = params![id.as_bytes(), tx.now.0, answer.status, headers(answer)?, &answer.body[..]];
    if tx.run(sql, params)? == 0 {
        let sql = "SELECT 1 FROM intent WHERE intent_id = ?1";
        if tx.one(sql, [id.as_bytes()], |_| Ok(()))?.is_none() {
            return Err(Error::new(ErrorKind::NotFound, "store.commit", "no such intent").with("id", id));
        }
    }
    Ok(Outcome::Done)
}

pub(crate) fn view(row: &Row<'_>) -> rusqlite::Result<IntentView> {
    let answer = answer_of(row)?;
    Ok(IntentView {
        intent: Intent {
            id: uuid(row, "intent_id")?,
            operation: row.get("operation")?,
            payload: bytes(row, "payload")?,
            business_key: row.get("business_key")?,
            aggregate: row.get("aggregate")?,
            backoff: backoff(row.get("backoff_base")?, row.get("backoff_cap")?),
            trace: trace(row, "trace")?,
        },
        state: IntentState::of(answer.as_ref()),
        answer,
        attempts: row.get("attempts")?,
        last_error: row.get("last_error")?,
        submitted_at: time(row, "submitted_at")?,
        answered_at: optional_time(row, "answered_at")?,
    })
}
