//! Jobs: from enqueued to gone.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};
use selvedge_core::{
    Error, ErrorKind, Result, Timestamp,
    store::{JobId, JobRef, Lease, Limits, NewJob, Outcome, Retry},
};

use crate::{
    error::from_sql,
    tx::{Tx, backoff, micros},
};

/// The lease is held: the token fits and it has not run out (nor does it lie ahead, after a clock stepped back).
const HELD: &str = "id = ?1 AND token = ?2 AND state = 1 AND leased_until > ?3 AND leased_at <= ?3";

/// What a lease leaves behind when it ends, for an UPDATE.
pub(crate) const UNLEASED: &str = "token = NULL, leased_at = NULL, leased_until = NULL, owner = NULL";

pub(crate) fn enqueue_all(tx: &mut Tx<'_>, jobs: &[NewJob]) -> Result<Outcome> {
    let sql = "INSERT INTO job (queue, state, priority, run_at, tenant, unique_key, max_attempts, backoff_base,
                 backoff_cap, enqueued_at, trace, payload)
               VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
               ON CONFLICT (queue, unique_key) WHERE unique_key IS NOT NULL AND state < 2 DO NOTHING";
    let failed = |error| from_sql("store.commit", error);
    let mut insert = tx.conn.prepare_cached(sql).map_err(failed)?;
    let mut added = Vec::with_capacity(jobs.len());
    for job in jobs {
        let trace = job.trace.map(|trace| trace.to_string());
        let changed = insert
            .execute(params![
                job.queue,
                job.priority,
                job.when.resolve(tx.now).0,
                job.tenant,
                job.unique,
                job.max_attempts,
                micros(job.backoff.base()),
                micros(job.backoff.cap()),
                tx.now.0,
                trace,
                &job.payload[..],
            ])
            .map_err(failed)?;
        added.push(if changed == 1 {
            JobRef { id: JobId(tx.conn.last_insert_rowid()), duplicate: false }
        } else {
            JobRef { id: holder_of_unique(tx, &job.queue, job.unique.as_deref())?, duplicate: true }
        });
    }
    drop(insert);
    jobs.iter().for_each(|job| tx.signals.queue(&job.queue));
    Ok(Outcome::Enqueued(added))
}

fn holder_of_unique(tx: &Tx<'_>, queue: &str, unique: Option<&str>) -> Result<JobId> {
    let sql = "SELECT id FROM job WHERE queue = ?1 AND unique_key = ?2 AND unique_key IS NOT NULL AND state < 2";
    let id = tx.one(sql, params![queue, unique], |row| row.get(0))?;
    id.map(JobId).ok_or_else(|| Error::new(ErrorKind::Internal, "store.commit", "a job was neither added nor found"))
}

/// Ends jobs; the leases that were not held.
pub(crate) fn complete(tx: &Tx<'_>, leases: impl Iterator<Item = Lease>) -> Result<Vec<Lease>> {
    let sql = "DELETE FROM job
               WHERE id = ?1 AND token = ?2 AND state = 1 AND leased_until > ?3 AND leased_at <= ?3";
    let failed = |error| from_sql("store.commit", error);
    let mut delete = tx.conn.prepare_cached(sql).map_err(failed)?;
    let mut lost = Vec::new();
    for lease in leases {
        if delete.execute([lease.id, lease.token, tx.now.0]).map_err(failed)? == 0 {
            lost.push(lease);
        }
    }
    Ok(lost)
}

pub(crate) fn fail(tx: &mut Tx<'_>, lease: Lease, reason: &str, retry: Retry) -> Result<Outcome> {
    let sql = format!("SELECT attempt, max_attempts, backoff_base, backoff_cap, cancel, queue FROM job WHERE {HELD}");
    let found = tx.one(&sql, params![lease.id, lease.token, tx.now.0], |row| {
        let backoff = backoff(row.get(2)?, row.get(3)?);
        Ok((row.get(0)?, row.get(1)?, backoff, row.get(4)?, row.get::<_, String>(5)?))
    })?;
    let (attempt, max_attempts, backoff, cancelled, queue): (u32, u32, _, bool, _) =
        found.ok_or_else(|| lease.lost())?;
    let retry_at = retry.next(attempt, max_attempts, backoff, fastrand::f64()).map(|delay| tx.now + delay);
    let retry_at = retry_at.filter(|_| !cancelled);
    match retry_at {
        Some(at) => {
            let sql = format!("UPDATE job SET state = 0, run_at = ?2, last_error = ?3, {UNLEASED} WHERE id = ?1");
            tx.run(&sql, params![lease.id, at.0, reason])?;
            tx.signals.queue(&queue);
        }
        None => {
            let sql = format!(
                "UPDATE job SET state = ?2, cancel = 0, ended_at = ?3, last_error = ?4, {UNLEASED} WHERE id = ?1"
            );
            tx.run(&sql, params![lease.id, if cancelled { 3 } else { 2 }, tx.now.0, reason])?;
        }
    }
    Ok(Outcome::Failed { retry_at })
}

pub(crate) fn release(tx: &mut Tx<'_>, lease: Lease, delay: Duration) -> Result<Outcome> {
    let sql = format!(
        "UPDATE job SET state = iif(cancel, 3, 0), ended_at = iif(cancel, ?3, NULL), cancel = 0,
           attempt = attempt - 1, run_at = ?4, {UNLEASED}
         WHERE {HELD} RETURNING queue"
    );
    let params = params![lease.id, lease.token, tx.now.0, (tx.now + delay).0];
    let queue: String = tx.one(&sql, params, |row| row.get(0))?.ok_or_else(|| lease.lost())?;
    tx.signals.queue(&queue);
    Ok(Outcome::Done)
}

pub(crate) fn extend(tx: &Tx<'_>, lease: Lease, hold: Duration) -> Result<Outcome> {
    let until = tx.now + hold;
    let sql = format!("UPDATE job SET leased_until = ?4 WHERE {HELD} RETURNING cancel");
    let cancelled = tx.one(&sql, params![lease.id, lease.token, tx.now.0, until.0], |row| row.get(0))?;
    Ok(Outcome::Extended { until, cancelled: cancelled.ok_or_else(|| lease.lost())? })
}

pub(crate) fn checkpoint(tx: &Tx<'_>, lease: Lease, data: &[u8]) -> Result<Outcome> {
    let sql = format!("UPDATE job SET checkpoint = ?4 WHERE {HELD}");
    match tx.run(&sql, params![lease.id, lease.token, tx.now.0, data])? {
        0 => Err(lease.lost()),
        _ => Ok(Outcome::Done),
    }
}

pub(crate) fn cancel(tx: &Tx<'_>, id: JobId) -> Result<Outcome> {
    let Some(state) = tx.one("SELECT state FROM job WHERE id = ?1", [id.0], |row| row.get::<_, u8>(0))? else {
        return Err(Error::new(ErrorKind::NotFound, "store.commit", "no such job")
            .with("id", id)
            .advise("a completed job is gone; look it up before cancelling it"));
    };
    match state {
        0 => tx.run("UPDATE job SET state = 3, ended_at = ?2 WHERE id = ?1", params![id.0, tx.now.0])?,
        1 => tx.run("UPDATE job SET cancel = 1 WHERE id = ?1", [id.0])?,
        _ => 0,
    };
    Ok(Outcome::Cancelled { at_once: state != 1 })
}

pub(crate) fn revive(tx: &mut Tx<'_>, id: JobId) -> Result<Outcome> {
    let sql = "SELECT queue, unique_key FROM job WHERE id = ?1 AND state >= 2";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?));
    let Some((queue, unique)) = tx.one(sql, [id.0], read)? else { return Ok(Outcome::Revived(false)) };
    let sql = "SELECT id FROM job WHERE queue = ?1 AND unique_key = ?2 AND unique_key IS NOT NULL AND state < 2";
    if let Some(holder) = tx.one(sql, params![queue, unique], |row| row.get::<_, i64>(0))? {
        return Err(Error::new(ErrorKind::Conflict, "store.commit", "another job holds the unique key by now")
            .with("id", id)
            .with("holder", holder)
            .advise("let the other job end first, or cancel it"));
    }
    let sql = "UPDATE job SET state = 0, attempt = 0, run_at = ?2, ended_at = NULL WHERE id = ?1";
    tx.run(sql, params![id.0, tx.now.0])?;
    tx.signals.queue(&queue);
    Ok(Outcome::Revived(true))
}

pub(crate) fn pause(tx: &mut Tx<'_>, queue: &str, paused: bool) -> Result<Outcome> {
    let sql = "INSERT INTO queue (name, paused) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET paused = ?2";
    tx.run(sql, params![queue, paused])?;
    tx.signals.queue(queue);
    Ok(Outcome::Done)
}

pub(crate) fn limit(tx: &mut Tx<'_>, queue: &str, limits: Limits) -> Result<Outcome> {
    let sql = "INSERT INTO queue (name, queue_limit, tenant_limit) VALUES (?1, ?2, ?3)
               ON CONFLICT DO UPDATE SET queue_limit = ?2, tenant_limit = ?3";
    tx.run(sql, params![queue, limits.queue, limits.tenant])?;
    tx.signals.queue(queue);
    Ok(Outcome::Done)
}

/// Gives back jobs whose lease ran out, of one queue or of all: how many are ready again, and how many are dead.
pub(crate) fn rescue(tx: &mut Tx<'_>, queue: Option<&str>) -> Result<(u64, u64)> {
    // Most of the time there is nothing to do, and a look costs less than an update.
    let expired: Vec<(i64, String, bool)> = {
        let columns = "SELECT id, queue, attempt >= max_attempts AND NOT cancel FROM job";
        let over = "state = 1 AND (leased_until <= ?1 OR leased_at > ?1)";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        match queue {
            Some(queue) => {
                // The index holds (queue, leased_until): what has run out is its first entries.
                let sql = format!("{columns} WHERE state = 1 AND queue = ?2 AND leased_until <= ?1");
                tx.all(&sql, params![tx.now.0, queue], read)?
            }
            None => tx.all(&format!("{columns} WHERE {over}"), [tx.now.0], read)?,
        }
    };
    let sql = format!(
        "UPDATE job SET state = iif(?3, 2, iif(cancel, 3, 0)), ended_at = iif(?3 OR cancel, ?2, NULL), cancel = 0,
           last_error = 'the lease ran out', {UNLEASED} WHERE id = ?1"
    );
    let mut dead = 0;
    for (id, queue, last) in &expired {
        tx.run(&sql, params![id, tx.now.0, last])?;
        dead += u64::from(*last);
        tx.signals.queue(queue);
    }
    Ok((expired.len() as u64 - dead, dead))
}

/// Whether the queue is paused, and its limits.
pub(crate) fn settings(tx: &Tx<'_>, queue: &str) -> Result<(bool, Limits)> {
    let sql = "SELECT paused, queue_limit, tenant_limit FROM queue WHERE name = ?1";
    let found = tx
        .conn
        .prepare_cached(sql)
        .and_then(|mut statement| {
            let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, Limits { queue: row.get(1)?, tenant: row.get(2)? }));
            statement.query_row([queue], read).optional()
        })
        .map_err(|error| from_sql("store.lease", error))?;
    Ok(found.unwrap_or_default())
}

/// Enqueues what a schedule fires.
pub(crate) fn enqueue(tx: &mut Tx<'_>, job: &NewJob) -> Result<()> {
    enqueue_all(tx, std::slice::from_ref(job)).map(drop)
}

/// The moment up to which something kept for `retention` is over.
pub(crate) fn over_before(now: Timestamp, retention: Duration) -> i64 {
    (now - retention).0
}
