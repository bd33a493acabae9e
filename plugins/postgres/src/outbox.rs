//! The outbox: in each aggregate one event after the other.

use std::time::Duration;

use selvedge_core::{
    Result,
    store::{Event, Lease, LeaseRequest, LeaseTarget, LeasedEvent, Outcome, RelayRequest, Retry},
};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::tx::{Tx, backoff, bytes, count, get, micros, params, rows, time, trace, words};

const HELD: &str = "id = $1 AND token = $2 AND state = 2 AND leased_until > $3 AND leased_at <= $3";
const UNLEASED: &str = "token = NULL, leased_at = NULL, leased_until = NULL";

/// The caller holds the aggregate's lock ([`crate::apply`]): events get their numbers in the order of their commits.
pub(crate) async fn emit(tx: &mut Tx<'_>, event: &Event) -> Result<Outcome> {
    // The event of an intent that was answered has gone out: its id is known although its row is gone.
    let sql = "
        INSERT INTO selvedge.outbox (event_id, aggregate, topic, state, run_at, backoff_base, backoff_cap, emitted_at, trace,
                                     payload)
        SELECT $1, $2, $3, CASE WHEN EXISTS (SELECT 1 FROM selvedge.outbox WHERE aggregate = $2) THEN 0 ELSE 1 END,
               $4, $5, $6, $4, $7, $8
        WHERE NOT EXISTS (SELECT 1 FROM selvedge.intent WHERE intent_id = $1 AND answered_at IS NOT NULL)
        ON CONFLICT (event_id) DO NOTHING";
    tx.run(
        sql,
        params![
            event.id,
            event.aggregate,
            event.topic,
            tx.now.0,
            micros(event.backoff.base()),
            micros(event.backoff.cap()),
            event.trace.map(|trace| trace.to_string()),
            &event.payload[..],
        ],
    )
    .await?;
    tx.news.outbox();
    Ok(Outcome::Done)
}

pub(crate) async fn relay(tx: &mut Tx<'_>, request: &RelayRequest) -> Result<Vec<LeasedEvent>> {
    rescue(tx).await?;
    let due = if request.eager { i64::MAX } else { tx.now.0 };
    let until = tx.now + request.hold.min(LeaseRequest::MAX_HOLD);
    let token = fastrand::i64(..);
    // From topic to topic, so that one with a backlog is not scanned for another's sake.
    let sql = "
        WITH RECURSIVE ready AS (
          (SELECT topic AS name FROM selvedge.outbox WHERE state = 1 ORDER BY topic LIMIT 1)
          UNION ALL
          SELECT (SELECT next.topic FROM selvedge.outbox AS next WHERE next.state = 1 AND next.topic > ready.name
                  ORDER BY next.topic LIMIT 1)
          FROM ready WHERE ready.name IS NOT NULL
        ), wanted AS (
          SELECT DISTINCT name FROM unnest($1::text[]) AS named (name)
          UNION ALL
          SELECT name FROM ready WHERE name IS NOT NULL AND cardinality($1::text[]) = 0
        ), next AS MATERIALIZED (
          SELECT head.id FROM wanted CROSS JOIN LATERAL (
            SELECT id, run_at FROM selvedge.outbox WHERE state = 1 AND outbox.topic = wanted.name AND run_at <= $2
            ORDER BY run_at, id LIMIT $3 FOR UPDATE SKIP LOCKED
          ) AS head ORDER BY head.run_at, head.id LIMIT $3
        )
        UPDATE selvedge.outbox SET state = 2, attempts = attempts + 1, token = $4, leased_at = $5, leased_until = $6
        FROM next WHERE outbox.id = next.id RETURNING outbox.*";
    let read = |row: &Row| {
        let id = get(row, "id")?;
        let leased = LeasedEvent {
            lease: Lease { target: LeaseTarget::Event, id, token },
            event: event(row)?,
            attempt: count(row, "attempts")?,
            emitted_at: time(row, "emitted_at")?,
            leased_until: until,
        };
        Ok((get::<i64>(row, "run_at")?, leased))
    };
    let mut leased =
        tx.all(sql, params![request.topics, due, rows(request.limit), token, tx.now.0, until.0], read).await?;
    leased.sort_unstable_by_key(|(run_at, event)| (*run_at, event.lease.id));
    let leased: Vec<LeasedEvent> = leased.into_iter().map(|(_, event)| event).collect();
    let attempts = leased.iter().map(|event| (event.event.id, event.attempt)).collect::<Vec<_>>();
    note_attempts(tx, &attempts).await?;
    Ok(leased)
}

pub(crate) fn event(row: &Row) -> Result<Event> {
    Ok(Event {
        id: get(row, "event_id")?,
        aggregate: get(row, "aggregate")?,
        topic: get(row, "topic")?,
        payload: bytes(row, "payload")?,
        backoff: backoff(row)?,
        trace: trace(row)?,
    })
}

/// An intent shows how often its event was sent, also once the event is gone.
async fn note_attempts(tx: &Tx<'_>, attempts: &[(Uuid, u32)]) -> Result<()> {
    if attempts.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE selvedge.intent SET attempts = sent.attempts
               FROM unnest($1::uuid[], $2::bigint[]) AS sent (id, attempts) WHERE intent_id = sent.id";
    let ids = attempts.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    let counts = attempts.iter().map(|(_, attempts)| i64::from(*attempts)).collect::<Vec<_>>();
    tx.run(sql, params![ids, counts]).await.map(drop)
}

/// Ends an event, and the next one of its aggregate may go; whether the lease was held. The caller holds the aggregate's lock.
pub(crate) async fn complete(tx: &mut Tx<'_>, lease: Lease) -> Result<bool> {
    let sql = format!("DELETE FROM selvedge.outbox WHERE {HELD} RETURNING aggregate");
    let held = tx.one(&sql, params![lease.id, lease.token, tx.now.0], |row| get::<String>(row, 0)).await?;
    let Some(aggregate) = held else { return Ok(false) };
    let_next_go(tx, &aggregate).await?;
    Ok(true)
}

/// The first event of an aggregate is gone: the next one is no longer behind it. The caller holds the aggregate's lock.
async fn let_next_go(tx: &mut Tx<'_>, aggregate: &str) -> Result<()> {
    let sql = "UPDATE selvedge.outbox SET state = 1
               WHERE id = (SELECT id FROM selvedge.outbox WHERE aggregate = $1 ORDER BY id LIMIT 1) AND state = 0";
    if tx.run(sql, params![aggregate]).await? == 1 {
        tx.news.outbox();
    }
    Ok(())
}

/// A dead event is the first of its aggregate, for only that one is ever sent: it is ready at once.
pub(crate) async fn revive(tx: &mut Tx<'_>, id: Uuid) -> Result<Outcome> {
    let sql = "UPDATE selvedge.outbox SET state = 1, attempts = 0, run_at = $2 WHERE event_id = $1 AND state = 3";
    let revived = tx.run(sql, params![id, tx.now.0]).await? == 1;
    if revived {
        tx.news.outbox();
    }
    Ok(Outcome::Revived(revived))
}

/// The caller holds the aggregate's lock.
pub(crate) async fn drop_dead(tx: &mut Tx<'_>, id: Uuid) -> Result<Outcome> {
    let sql = "DELETE FROM selvedge.outbox WHERE event_id = $1 AND state = 3 RETURNING aggregate";
    let Some(aggregate) = tx.one(sql, params![id], |row| get::<String>(row, 0)).await? else {
        return Ok(Outcome::Dropped(false));
    };
    let_next_go(tx, &aggregate).await?;
    Ok(Outcome::Dropped(true))
}

pub(crate) async fn fail(tx: &mut Tx<'_>, lease: Lease, reason: &str, retry: Retry) -> Result<Outcome> {
    let sql =
        format!("SELECT attempts, backoff_base, backoff_cap, event_id FROM selvedge.outbox WHERE {HELD} FOR UPDATE");
    let read = |row: &Row| Ok((count(row, "attempts")?, backoff(row)?, get::<Uuid>(row, "event_id")?));
    let found = tx.one(&sql, params![lease.id, lease.token, tx.now.0], read).await?;
    let (attempts, backoff, id) = found.ok_or_else(|| lease.lost())?;
    let retry_at = retry.next(attempts, u32::MAX, backoff, fastrand::f64()).map(|delay| tx.now + delay);
    let sql = format!(
        "UPDATE selvedge.outbox SET state = $2, run_at = coalesce($3, run_at), last_error = $4, {UNLEASED} WHERE id = $1"
    );
    let state = if retry_at.is_some() { 1i16 } else { 3 };
    let reason = words(reason);
    tx.run(&sql, params![lease.id, state, retry_at.map(|at| at.0), &*reason]).await?;
    tx.run("UPDATE selvedge.intent SET last_error = $2 WHERE intent_id = $1", params![id, &*reason]).await?;
    tx.news.outbox();
    Ok(Outcome::Failed { retry_at })
}

pub(crate) async fn release(tx: &mut Tx<'_>, lease: Lease, delay: Duration) -> Result<Outcome> {
    let sql = format!(
        "UPDATE selvedge.outbox SET state = 1, attempts = attempts - 1, run_at = $4, {UNLEASED} WHERE {HELD}
         RETURNING event_id, attempts"
    );
    let released = tx
        .one(&sql, params![lease.id, lease.token, tx.now.0, (tx.now + delay).0], |row| {
            Ok((get::<Uuid>(row, 0)?, count(row, "attempts")?))
        })
        .await?;
    let released = released.ok_or_else(|| lease.lost())?;
    note_attempts(tx, &[released]).await?;
    tx.news.outbox();
    Ok(Outcome::Done)
}

pub(crate) async fn extend(tx: &Tx<'_>, lease: Lease, hold: Duration) -> Result<Outcome> {
    let until = tx.now + hold;
    let sql = format!("UPDATE selvedge.outbox SET leased_until = $4 WHERE {HELD}");
    match tx.run(&sql, params![lease.id, lease.token, tx.now.0, until.0]).await? {
        0 => Err(lease.lost()),
        _ => Ok(Outcome::Extended { until, cancelled: false }),
    }
}

/// Gives back events whose lease ran out; how many.
pub(crate) async fn rescue(tx: &mut Tx<'_>) -> Result<u64> {
    let sql = format!(
        "WITH over AS MATERIALIZED (
           SELECT id FROM selvedge.outbox
           WHERE state = 2
             AND (leased_until <= (SELECT selvedge.clock($1)) OR leased_at > (SELECT selvedge.clock($1)))
             -- A row that changed meanwhile is looked at again, and may have been leased since.
             AND (leased_until <= selvedge.clock($1) OR leased_at > selvedge.clock($1))
           FOR UPDATE SKIP LOCKED
         )
         UPDATE selvedge.outbox SET state = 1, {UNLEASED} FROM over WHERE outbox.id = over.id"
    );
    let rescued = tx.run(&sql, params![tx.given]).await?;
    if rescued > 0 {
        tx.news.outbox();
    }
    Ok(rescued)
}
