//! Housekeeping, and what becomes of stored times when the server's clock has stepped back.

use std::time::Duration;

use selvedge_core::{
    Result, Timestamp,
    store::{Maintain, Maintained},
};

use crate::{
    cron, job, load, outbox,
    tx::{Tx, get, params, rows},
};

/// Smaller steps back are waited out.
const STEP: Duration = Duration::from_secs(1);

pub(crate) async fn maintain(tx: &mut Tx<'_>, request: &Maintain) -> Result<Maintained> {
    let ahead = high_water(tx).await?;
    if ahead > tx.now + STEP {
        shift_back(tx, ahead).await?;
    }
    if ahead < tx.now || ahead > tx.now + STEP {
        let sql =
            "INSERT INTO selvedge.meta (name, value) VALUES ('clock', $1) ON CONFLICT (name) DO UPDATE SET value = $1";
        tx.run(sql, params![tx.now.0]).await?;
    }
    let (rescued, dead) = job::rescue(tx).await?;
    let rescued = rescued + outbox::rescue(tx).await?;
    let fired = cron::fire(tx).await?;
    load::sample(tx).await?;
    let (now, keep, batch) = (tx.now, request.retention, request.batch);
    // A claim that is still held outlives its key's retention: whoever holds it is about to settle it.
    let idle = "keep_until <= $1 AND (claimed_until IS NULL OR claimed_until <= $1 OR claimed_at > $1)";
    Ok(Maintained {
        rescued,
        dead,
        fired,
        keys: drop_from(tx, "idempotency", idle, now, batch).await?,
        messages: drop_from(tx, "message", "published_at <= $1", now - keep.messages, batch).await?,
        jobs: drop_from(tx, "job", "ended_at <= $1", now - keep.dead, batch).await?,
        intents: drop_from(tx, "intent", "answered_at <= $1", now - keep.intents, batch).await?,
    })
}

/// Drops what is past its retention, but nothing that somebody is working with.
async fn drop_from(tx: &Tx<'_>, table: &str, condition: &str, until: Timestamp, batch: usize) -> Result<u64> {
    let sql = format!(
        "DELETE FROM selvedge.{table} WHERE ctid = ANY(ARRAY(
           SELECT ctid FROM selvedge.{table} WHERE {condition} LIMIT $2 FOR UPDATE SKIP LOCKED))"
    );
    tx.run(&sql, params![until.0, rows(batch)]).await
}

/// The latest time that housekeeping has seen; whoever comes at the same moment waits for its turn.
async fn high_water(tx: &Tx<'_>) -> Result<Timestamp> {
    let sql = "SELECT value FROM selvedge.meta WHERE name = 'clock' FOR UPDATE";
    let mark = tx.one(sql, &[], |row| get(row, 0)).await?;
    Ok(Timestamp(mark.unwrap_or(i64::MIN)))
}

/// Moves what was told by a clock that ran ahead of `tx.now` until `ahead`.
///
/// What was due or is to be retried would wait for as long as the step, and leases would last as long: the first moves back
/// by the step, the second end. Jobs that were scheduled for a later moment keep it, for the moment was meant.
async fn shift_back(tx: &mut Tx<'_>, ahead: Timestamp) -> Result<()> {
    let (now, step) = (tx.now.0, ahead.0.saturating_sub(tx.now.0));
    tracing::warn!(step_us = step, "the server's clock has stepped back: retries move with it and leases end");
    let sql = "UPDATE selvedge.job SET run_at = run_at - $1
               WHERE state = 0 AND run_at > $2 AND (run_at <= $3 OR attempt > 0)";
    tx.run(sql, params![step, now, ahead.0]).await?;
    let sql = "UPDATE selvedge.outbox SET run_at = run_at - $1 WHERE state < 2 AND run_at > $2";
    tx.run(sql, params![step, now]).await?;
    for (table, from, until, held) in [
        ("job", "leased_at", "leased_until", "state = 0"),
        ("outbox", "leased_at", "leased_until", "state = 2"),
        ("idempotency", "claimed_at", "claimed_until", "token IS NOT NULL"),
    ] {
        let sql = format!("UPDATE selvedge.{table} SET {until} = $1 WHERE {held} AND {from} > $1");
        tx.run(&sql, params![now]).await?;
    }
    tx.run("UPDATE selvedge.quota SET refilled_at = $1 WHERE refilled_at > $1", params![now]).await?;
    cron::recount(tx).await?;
    tx.news.outbox();
    Ok(())
}
