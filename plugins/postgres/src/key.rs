//! Idempotency keys.

use std::time::Duration;

use selvedge_core::{
    Error, ErrorKind, Result, Timestamp,
    idempotency::{Answer, Claim, ClaimRequest, RecoveryPoint, Ticket},
    store::Outcome,
};
use tokio_postgres::Row;

use crate::{
    error::is_locked,
    tx::{Db, Tx, answer, count, get, headers, micros, optional_bytes, params},
};

const HELD: &str = "scope = $1 AND key = $2 AND token = $3 AND claimed_until > $4 AND claimed_at <= $4";

/// How often a claim looks again when others come and go between its two looks.
const TRIES: usize = 8;

/// Claims a key, takes an expired claim over, or finds what is known, in one statement of its own: two callers cannot both
/// find nothing, and a replay writes nothing.
///
/// `known` is what was there when the statement began. The insert is tried only when the key is new, past its retention or
/// free; it looks again at the row it then holds. No row means that somebody came in between.
///
/// A claim that lies ahead of the clock is over: the clock has stepped back. The row may have been claimed while this statement waited
/// for it, after `instant`, so the clock is asked again.
const CLAIM: &str = "
    WITH instant AS MATERIALIZED (SELECT selvedge.clock($7) AS now), known AS MATERIALIZED (
      SELECT idempotency.*, claimed_until > now AND claimed_at <= now AS held, keep_until <= now AS over
      FROM selvedge.idempotency, instant WHERE scope = $1 AND key = $2
    ), taken AS (
      INSERT INTO selvedge.idempotency AS kept (scope, key, fingerprint, attempt, token, claimed_at, claimed_until,
                                                retention, keep_until)
      SELECT $1, $2, $3, 1, $4, now, now + $5, $6, now + $6 FROM instant
      WHERE NOT EXISTS (SELECT 1 FROM known WHERE held OR (NOT over AND (status IS NOT NULL OR fingerprint <> $3)))
      ON CONFLICT (scope, key) DO UPDATE SET
        fingerprint = $3, token = $4, claimed_at = excluded.claimed_at, claimed_until = excluded.claimed_until,
        retention = $6, keep_until = excluded.keep_until,
        attempt = CASE WHEN kept.keep_until <= excluded.claimed_at THEN 1 ELSE kept.attempt + 1 END,
        point_name = CASE WHEN kept.keep_until > excluded.claimed_at THEN kept.point_name END,
        point_data = CASE WHEN kept.keep_until > excluded.claimed_at THEN kept.point_data END,
        status = NULL, headers = NULL, body = NULL
      WHERE NOT coalesce(kept.claimed_until > excluded.claimed_at AND kept.claimed_at <= selvedge.clock($7), false)
        AND (kept.keep_until <= excluded.claimed_at OR (kept.status IS NULL AND kept.fingerprint = $3))
      RETURNING attempt, point_name, point_data
    )
    SELECT true AS fresh, attempt, point_name, point_data, NULL::bytea AS fingerprint, NULL::bigint AS left,
           NULL::integer AS status, NULL::text AS headers, NULL::bytea AS body
    FROM taken
    UNION ALL
    SELECT false, attempt, NULL, NULL, fingerprint, CASE WHEN held THEN claimed_until - now END, status, headers, body
    FROM known, instant WHERE NOT EXISTS (SELECT 1 FROM taken)";

pub(crate) async fn claim(db: &Db<'_>, request: &ClaimRequest) -> Result<Claim> {
    let key = &request.key;
    let token = fastrand::i64(..);
    // Far enough away to be never, and near enough for PostgreSQL to add it to now.
    let far = i64::MAX / 4;
    let (hold, retention) = (micros(request.hold).min(far), micros(request.retention).min(far));
    for _ in 0..TRIES {
        let fingerprint = &request.fingerprint.0[..];
        let params = params![key.scope, key.key, fingerprint, token, hold, retention, db.given];
        match db.one(CLAIM, params, |row| read(row, request, token)).await {
            Ok(Some(Some(claim))) => return Ok(claim),
            Ok(_) => (),
            // Whoever holds the row is about to settle the key, or to lose it.
            Err(error) if is_locked(&error) => return Ok(Claim::InFlight { retry_after: Duration::from_secs(1) }),
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::Busy, db.operation, "the key changes hands faster than it can be claimed")
        .retry(true)
        .advise("try again"))
}

/// What a row means; `None` when the key was free but somebody else was faster.
fn read(row: &Row, request: &ClaimRequest, token: i64) -> Result<Option<Claim>> {
    if get(row, "fresh")? {
        let name: Option<String> = get(row, "point_name")?;
        let data = optional_bytes(row, "point_data")?;
        let point = name.map(|name| RecoveryPoint { name, data: data.unwrap_or_default() });
        return Ok(Some(Claim::Fresh(Ticket {
            key: request.key.clone(),
            token,
            attempt: count(row, "attempt")?,
            point,
        })));
    }
    if get::<Option<&[u8]>>(row, "fingerprint")? != Some(&request.fingerprint.0[..]) {
        return Ok(Some(Claim::Mismatch));
    }
    if let Some(answer) = answer(row)? {
        return Ok(Some(Claim::Done(answer)));
    }
    let left: Option<i64> = get(row, "left")?;
    Ok(left.map(|left| Claim::InFlight { retry_after: Timestamp(left).since(Timestamp(0)) }))
}

pub(crate) async fn settle(tx: &Tx<'_>, ticket: &Ticket, answer: &Answer) -> Result<Outcome> {
    // Retention counts from the answer: that is what later requests are given.
    let sql = format!(
        "UPDATE selvedge.idempotency SET token = NULL, claimed_at = NULL, claimed_until = NULL, status = $5, headers = $6,
           body = $7, keep_until = $4 + retention
         WHERE {HELD}"
    );
    let key = &ticket.key;
    let status = i32::from(answer.status);
    if tx
        .run(&sql, params![key.scope, key.key, ticket.token, tx.now.0, status, headers(answer)?, &answer.body[..]])
        .await?
        == 1
    {
        Ok(Outcome::Done)
    } else {
        Err(ticket.lost())
    }
}

pub(crate) async fn advance(tx: &Tx<'_>, ticket: &Ticket, point: &RecoveryPoint) -> Result<Outcome> {
    let sql = format!("UPDATE selvedge.idempotency SET point_name = $5, point_data = $6 WHERE {HELD}");
    let key = &ticket.key;
    if tx.run(&sql, params![key.scope, key.key, ticket.token, tx.now.0, point.name, &point.data[..]]).await? == 1 {
        Ok(Outcome::Done)
    } else {
        Err(ticket.lost())
    }
}

pub(crate) async fn abandon(tx: &Tx<'_>, ticket: &Ticket) -> Result<Outcome> {
    let sql =
        format!("UPDATE selvedge.idempotency SET token = NULL, claimed_at = NULL, claimed_until = NULL WHERE {HELD}");
    if tx.run(&sql, params![ticket.key.scope, ticket.key.key, ticket.token, tx.now.0]).await? == 1 {
        Ok(Outcome::Done)
    } else {
        Err(ticket.lost())
    }
}
