//! Housekeeping, and what becomes of stored times when the wall clock has stepped back.

use std::time::Duration;

use rusqlite::params;
use selvedge_core::{
    Result, Timestamp,
    store::{Maintain, Maintained},
};

use crate::{cron, job, load, outbox, ready, span, tx::Tx};

/// Smaller steps back are waited out.
pub(crate) const STEP: Duration = Duration::from_secs(1);

pub(crate) fn maintain(tx: &mut Tx<'_>, request: &Maintain) -> Result<Maintained> {
    let (rescued, dead) = job::rescue(tx)?;
    let rescued = rescued + outbox::rescue(tx)?;
    let fired = cron::fire(tx)?;
    load::sample(tx)?;
    let (now, keep) = (tx.now, request.retention);
    let batch = i64::try_from(request.batch).unwrap_or(i64::MAX);
    let drop_from = |table: &str, condition: &str, until: i64| {
        let sql = format!("DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {condition} LIMIT ?2)");
        tx.run(&sql, params![until, batch]).map(|dropped| dropped as u64)
    };
    // A claim that is still held outlives its key's retention: whoever holds it is about to settle it.
    let idle = "keep_until <= ?1 AND (claimed_until IS NULL OR claimed_until <= ?1 OR claimed_at > ?1)";
    Ok(Maintained {
        rescued,
        dead,
        fired,
        keys: drop_from("idempotency", idle, now.0)?,
        messages: drop_from("message", "published_at <= ?1", job::over_before(now, keep.messages))?,
        jobs: drop_from("job", "ended_at <= ?1", job::over_before(now, keep.dead))?,
        intents: drop_from("intent", "answered_at <= ?1", job::over_before(now, keep.intents))?,
    })
}

/// The latest time this file has seen.
pub(crate) fn high_water(tx: &Tx<'_>) -> Result<Timestamp> {
    let mark = tx.one("SELECT value FROM meta WHERE name = 'clock'", [], |row| row.get(0))?;
    Ok(Timestamp(mark.unwrap_or(i64::MIN)))
}

pub(crate) fn mark_time(tx: &Tx<'_>) -> Result<()> {
    let sql = "INSERT INTO meta (name, value) VALUES ('clock', ?1) ON CONFLICT DO UPDATE SET value = ?1";
    tx.run(sql, [tx.now.0]).map(drop)
}

/// Moves what was told by a clock that ran ahead of `tx.now` until `ahead`.
///
/// What was due or is to be retried would wait for as long as the step, and leases would last as long: the first moves back
/// by the step, the second end. Jobs that were scheduled for a later moment keep it, for the moment was meant.
pub(crate) fn shift_back(tx: &mut Tx<'_>, ahead: Timestamp) -> Result<()> {
    let (now, step) = (tx.now.0, ahead.0.saturating_sub(tx.now.0));
    tracing::warn!(step_us = step, "the wall clock has stepped back: retries move with it and leases end");
    let sql = format!(
        "UPDATE job SET run_at = run_at - ?1
         WHERE state < 2 AND run_at > ?2
           AND (run_at <= ?3 OR attempt > 0 OR EXISTS (SELECT 1 FROM lease WHERE {}))",
        span::OF_JOB
    );
    if tx.run(&sql, params![step, now, ahead.0])? > 0 {
        ready::reorder(tx)?;
    }
    tx.run("UPDATE outbox SET run_at = run_at - ?1 WHERE state < 2 AND run_at > ?2", params![step, now])?;
    for (table, from, until, held) in [
        ("lease", "leased_at", "leased_until", "true"),
        ("outbox", "leased_at", "leased_until", "state = 2"),
        ("idempotency", "claimed_at", "claimed_until", "token IS NOT NULL"),
    ] {
        tx.run(&format!("UPDATE {table} SET {until} = ?1 WHERE {held} AND {from} > ?1"), [now])?;
    }
    tx.run("UPDATE queue SET rescue_at = ?1 WHERE rescue_at > ?1", [now])?;
    tx.run("UPDATE quota SET refilled_at = ?1 WHERE refilled_at > ?1", [now])?;
    cron::recount(tx)?;
    tx.signals.outbox();
    mark_time(tx)
}
