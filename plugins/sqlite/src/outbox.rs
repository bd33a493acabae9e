//! The outbox: in each aggregate one event after the other.

use std::time::Duration;

use rusqlite::{Row, params};
use selvedge_core::{
    Result,
    store::{Event, Lease, LeaseRequest, LeaseTarget, LeasedEvent, Outcome, RelayRequest, Retry},
};

use crate::tx::{Tx, backoff, bytes, micros, time, trace, uuid};

const HELD: &str = "id = ?1 AND token = ?2 AND state = 2 AND leased_until > ?3 AND leased_at <= ?3";
const UNLEASED: &str = "token = NULL, leased_at = NULL, leased_until = NULL";

pub(crate) fn emit(tx: &mut Tx<'_>, event: &Event) -> Result<Outcome> {
    // The event of an intent that was answered has gone out: its id is known although its row is gone.
    let sql = "SELECT 1 FROM intent WHERE intent_id = ?1 AND answered_at IS NOT NULL";
    if tx.one(sql, [event.id.as_bytes()], |_| Ok(()))?.is_some() {
        return Ok(Outcome::Done);
    }
    let sql = "INSERT INTO outbox (event_id, aggregate, topic, state, run_at, backoff_base, backoff_cap, emitted_at,
                 trace, payload)
               VALUES (?1, ?2, ?3, NOT EXISTS (SELECT 1 FROM outbox WHERE aggregate = ?2), ?4, ?5, ?6, ?4, ?7, ?8)
               ON CONFLICT (event_id) DO NOTHING";
    let trace = event.trace.map(|trace| trace.to_string());
    tx.run(
        sql,
        params![
            event.id.as_bytes(),
            event.aggregate,
            event.topic,
            tx.now.0,
            micros(event.backoff.base()),
            micros(event.backoff.cap()),
            trace,
            &event.payload[..]
        ],
    )?;
    tx.signals.outbox();
    Ok(Outcome::Done)
}

pub(crate) fn relay(tx: &mut Tx<'_>, request: &RelayRequest) -> Result<Vec<LeasedEvent>> {
    rescue(tx)?;
    let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
    let due = if request.eager { i64::MAX } else { tx.now.0 };
    let sql = "SELECT run_at, id FROM outbox INDEXED BY outbox_ready
               WHERE state = 1 AND topic = ?1 AND run_at <= ?2 ORDER BY run_at, id LIMIT ?3";
    let topics = if request.topics.is_empty() { ready_topics(tx)? } else { request.topics.clone() };
    let mut places: Vec<(i64, i64)> = Vec::new();
    for (index, topic) in topics.iter().enumerate() {
        if !topics[..index].contains(topic) {
            places.extend(tx.all(sql, params![topic, due, limit], |row| Ok((row.get(0)?, row.get(1)?)))?);
        }
    }
    places.sort_unstable();
    places.truncate(request.limit);
    let until = tx.now + request.hold.min(LeaseRequest::MAX_HOLD);
    let sql =
        "UPDATE outbox SET state = 2, attempts = attempts + 1, token = random(), leased_at = ?2, leased_until = ?3
               WHERE id = ?1 RETURNING *";
    let mut leased = Vec::with_capacity(places.len());
    for (_, id) in places {
        let event = tx.one(sql, params![id, tx.now.0, until.0], |row| {
            Ok(LeasedEvent {
                lease: Lease { target: LeaseTarget::Event, id, token: row.get("token")? },
                event: event(row)?,
                attempt: row.get("attempts")?,
                emitted_at: time(row, "emitted_at")?,
                leased_until: until,
            })
        })?;
        leased.extend(event);
    }
    for event in &leased {
        note_attempts(tx, event.event.id, event.attempt)?;
    }
    Ok(leased)
}

fn ready_topics(tx: &Tx<'_>) -> Result<Vec<String>> {
    let sql = "SELECT topic FROM outbox INDEXED BY outbox_ready WHERE state = 1 AND topic > ?1 ORDER BY topic LIMIT 1";
    let mut topics: Vec<String> = Vec::new();
    while let Some(topic) = tx.one(sql, [topics.last().map_or("", String::as_str)], |row| row.get::<_, String>(0))? {
        topics.push(topic);
    }
    Ok(topics)
}

pub(crate) fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        id: uuid(row, "event_id")?,
        aggregate: row.get("aggregate")?,
        topic: row.get("topic")?,
        payload: bytes(row, "payload")?,
        backoff: backoff(row.get("backoff_base")?, row.get("backoff_cap")?),
        trace: trace(row, "trace")?,
    })
}

/// An intent shows how often its event was sent, also once the event is gone.
fn note_attempts(tx: &Tx<'_>, id: uuid::Uuid, attempts: u32) -> Result<()> {
    tx.run("UPDATE intent SET attempts = ?2 WHERE intent_id = ?1", params![id.as_bytes(), attempts]).map(drop)
}

/// Ends an event, and the next one of its aggregate may go; whether the lease was held.
pub(crate) fn complete(tx: &mut Tx<'_>, lease: Lease) -> Result<bool> {
    let sql = format!("DELETE FROM outbox WHERE {HELD} RETURNING aggregate");
    let held = tx.one(&sql, params![lease.id, lease.token, tx.now.0], |row| row.get::<_, String>(0))?;
    let Some(aggregate) = held else { return Ok(false) };
    let_next_go(tx, &aggregate)?;
    Ok(true)
}

/// The first event of an aggregate is gone: the next one is no longer behind it.
fn let_next_go(tx: &mut Tx<'_>, aggregate: &str) -> Result<()> {
    let sql = "UPDATE outbox SET state = 1
               WHERE id = (SELECT id FROM outbox WHERE aggregate = ?1 ORDER BY id LIMIT 1) AND state = 0";
    if tx.run(sql, [aggregate])? == 1 {
        tx.signals.outbox();
    }
    Ok(())
}

/// A dead event is the first of its aggregate, for only that one is ever sent: it is ready at once.
pub(crate) fn revive(tx: &mut Tx<'_>, id: uuid::Uuid) -> Result<Outcome> {
    let sql = "UPDATE outbox SET state = 1, attempts = 0, run_at = ?2 WHERE event_id = ?1 AND state = 3";
    let revived = tx.run(sql, params![id.as_bytes(), tx.now.0])? == 1;
    if revived {
        tx.signals.outbox();
    }
    Ok(Outcome::Revived(revived))
}

pub(crate) fn drop_dead(tx: &mut Tx<'_>, id: uuid::Uuid) -> Result<Outcome> {
    let sql = "DELETE FROM outbox WHERE event_id = ?1 AND state = 3 RETURNING aggregate";
    let Some(aggregate) = tx.one(sql, [id.as_bytes()], |row| row.get::<_, String>(0))? else {
        return Ok(Outcome::Dropped(false));
    };
    let_next_go(tx, &aggregate)?;
    Ok(Outcome::Dropped(true))
}

pub(crate) fn fail(tx: &mut Tx<'_>, lease: Lease, reason: &str, retry: Retry) -> Result<Outcome> {
    let sql = format!("SELECT attempts, backoff_base, backoff_cap, event_id FROM outbox WHERE {HELD}");
    let found = tx.one(&sql, params![lease.id, lease.token, tx.now.0], |row| {
        Ok((row.get(0)?, backoff(row.get(1)?, row.get(2)?), uuid(row, "event_id")?))
    })?;
    let (attempts, backoff, id) = found.ok_or_else(|| lease.lost())?;
    let retry_at = retry.next(attempts, u32::MAX, backoff, fastrand::f64()).map(|delay| tx.now + delay);
    let sql = format!(
        "UPDATE outbox SET state = ?2, run_at = coalesce(?3, run_at), last_error = ?4, {UNLEASED} WHERE id = ?1"
    );
    tx.run(&sql, params![lease.id, if retry_at.is_some() { 1 } else { 3 }, retry_at.map(|at| at.0), reason])?;
    tx.run("UPDATE intent SET last_error = ?2 WHERE intent_id = ?1", params![id.as_bytes(), reason])?;
    tx.signals.outbox();
    Ok(Outcome::Failed { retry_at })
}

pub(crate) fn release(tx: &mut Tx<'_>, lease: Lease, delay: Duration) -> Result<Outcome> {
    let sql = format!(
        "UPDATE outbox SET state = 1, attempts = attempts - 1, run_at = ?4, {UNLEASED} WHERE {HELD}
         RETURNING event_id, attempts"
    );
    let params = params![lease.id, lease.token, tx.now.0, (tx.now + delay).0];
    let released = tx.one(&sql, params, |row| Ok((uuid(row, "event_id")?, row.get(1)?)))?;
    let (id, attempts) = released.ok_or_else(|| lease.lost())?;
    note_attempts(tx, id, attempts)?;
    tx.signals.outbox();
    Ok(Outcome::Done)
}

pub(crate) fn extend(tx: &Tx<'_>, lease: Lease, hold: Duration) -> Result<Outcome> {
    let until = tx.now + hold;
    let sql = format!("UPDATE outbox SET leased_until = ?4 WHERE {HELD}");
    match tx.run(&sql, params![lease.id, lease.token, tx.now.0, until.0])? {
        0 => Err(lease.lost()),
        _ => Ok(Outcome::Extended { until, cancelled: false }),
    }
}

/// Gives back events whose lease ran out; how many.
pub(crate) fn rescue(tx: &mut Tx<'_>) -> Result<u64> {
    let sql = "SELECT 1 FROM outbox WHERE state = 2 AND (leased_until <= ?1 OR leased_at > ?1) LIMIT 1";
    if tx.one(sql, [tx.now.0], |_| Ok(()))?.is_none() {
        return Ok(0);
    }
    let sql =
        format!("UPDATE outbox SET state = 1, {UNLEASED} WHERE state = 2 AND (leased_until <= ?1 OR leased_at > ?1)");
    let rescued = tx.run(&sql, [tx.now.0])?;
    tx.signals.outbox();
    Ok(rescued as u64)
}
