//! Idempotency keys.

use rusqlite::params;
use selvedge_core::{
    Result, Timestamp,
    idempotency::{Answer, Claim, ClaimRequest, RecoveryPoint, Ticket},
    store::Outcome,
};

use crate::tx::{Tx, answer, duration, headers, micros, optional_bytes};

const HELD: &str = "scope = ?1 AND key = ?2 AND token = ?3 AND claimed_until > ?4 AND claimed_at <= ?4";

struct Known {
    id: i64,
    fingerprint: [u8; 32],
    attempt: u32,
    claimed_at: Option<i64>,
    claimed_until: Option<i64>,
    keep_until: i64,
    point: Option<RecoveryPoint>,
    answer: Option<Answer>,
}

/// Inserts or finds. Two callers cannot both find nothing: every claim holds the write lock.
pub(crate) fn claim(tx: &Tx<'_>, request: &ClaimRequest) -> Result<Claim> {
    let (now, key) = (tx.now, &request.key);
    let sql = "SELECT * FROM idempotency WHERE scope = ?1 AND key = ?2";
    let known = tx.one(sql, params![key.scope, key.key], |row| {
        let name: Option<String> = row.get("point_name")?;
        let data = optional_bytes(row, "point_data")?;
        Ok(Known {
            id: row.get("id")?,
            fingerprint: row.get("fingerprint")?,
            attempt: row.get("attempt")?,
            claimed_at: row.get("claimed_at")?,
            claimed_until: row.get("claimed_until")?,
            keep_until: row.get("keep_until")?,
            point: name.map(|name| RecoveryPoint { name, data: data.unwrap_or_default() }),
            answer: answer(row)?,
        })
    })?;
    let held = |known: &Known| match (known.claimed_at, known.claimed_until) {
        (Some(at), Some(until)) if at <= now.0 && until > now.0 => Some(Timestamp(until)),
        _ => None,
    };
    // Retention is checked here and not left to housekeeping: a key past it is a new one, even if its row is still there.
    let known = match known {
        Some(known) if known.keep_until <= now.0 && held(&known).is_none() => {
            tx.run("DELETE FROM idempotency WHERE id = ?1", [known.id])?;
            None
        }
        known => known,
    };
    let (until, keep_until) = (now + request.hold, now + request.retention);
    let token = fastrand::i64(..);
    let Some(known) = known else {
        let sql =
            "INSERT INTO idempotency (scope, key, fingerprint, attempt, token, claimed_at, claimed_until, retention,
                     keep_until)
                   VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7, ?8)";
        let retention = micros(request.retention);
        let params = params![key.scope, key.key, request.fingerprint.0, token, now.0, until.0, retention, keep_until.0];
        tx.run(sql, params)?;
        return Ok(Claim::Fresh(Ticket { key: key.clone(), token, attempt: 1, point: None }));
    };
    if known.fingerprint != request.fingerprint.0 {
        return Ok(Claim::Mismatch);
    }
    if let Some(until) = held(&known).filter(|_| known.answer.is_none()) {
        return Ok(Claim::InFlight { retry_after: until.since(now) });
    }
    if let Some(answer) = known.answer {
        return Ok(Claim::Done(answer));
    }
    let sql = "UPDATE idempotency SET attempt = ?2, token = ?3, claimed_at = ?4, claimed_until = ?5, retention = ?6,
                 keep_until = ?7 WHERE id = ?1";
    let attempt = known.attempt.saturating_add(1);
    tx.run(sql, params![known.id, attempt, token, now.0, until.0, micros(request.retention), keep_until.0])?;
    Ok(Claim::Fresh(Ticket { key: key.clone(), token, attempt, point: known.point }))
}

pub(crate) fn settle(tx: &Tx<'_>, ticket: &Ticket, answer: &Answer) -> Result<Outcome> {
    // Retention counts from the answer: that is what later requests are given.
    let sql = format!("SELECT id, retention FROM idempotency WHERE {HELD}");
    let found = tx.one(&sql, params![ticket.key.scope, ticket.key.key, ticket.token, tx.now.0], |row| {
        Ok((row.get::<_, i64>(0)?, row.get(1)?))
    })?;
    let (id, retention) = found.ok_or_else(|| ticket.lost())?;
    let sql =
        "UPDATE idempotency SET token = NULL, claimed_at = NULL, claimed_until = NULL, keep_until = ?2, status = ?3,
                 headers = ?4, body = ?5 WHERE id = ?1";
    let keep_until = tx.now + duration(retention);
    tx.run(sql, params![id, keep_until.0, answer.status, headers(answer)?, &answer.body[..]])?;
    Ok(Outcome::Done)
}

pub(crate) fn advance(tx: &Tx<'_>, ticket: &Ticket, point: &RecoveryPoint) -> Result<Outcome> {
    let sql = format!("UPDATE idempotency SET point_name = ?5, point_data = ?6 WHERE {HELD}");
    let key = &ticket.key;
    let params = params![key.scope, key.key, ticket.token, tx.now.0, point.name, &point.data[..]];
    if tx.run(&sql, params)? == 1 { Ok(Outcome::Done) } else { Err(ticket.lost()) }
}

pub(crate) fn abandon(tx: &Tx<'_>, ticket: &Ticket) -> Result<Outcome> {
    let sql = format!("UPDATE idempotency SET token = NULL, claimed_at = NULL, claimed_until = NULL WHERE {HELD}");
    let params = params![ticket.key.scope, ticket.key.key, ticket.token, tx.now.0];
    if tx.run(&sql, params)? == 1 { Ok(Outcome::Done) } else { Err(ticket.lost()) }
}
