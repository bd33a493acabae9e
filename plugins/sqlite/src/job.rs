//! Jobs: from enqueued to gone.

use std::time::Duration;

use rusqlite::{OptionalExtension, ToSql, params};
use selvedge_core::{
    Error, ErrorKind, Result, Timestamp,
    store::{JobId, JobRef, Lease, LeaseTarget, Limits, NewJob, Outcome, Retry},
};

use crate::{
    error::from_sql,
    ready, span,
    tx::{Tx, backoff, micros},
};

/// How many jobs one statement adds: a few sizes, so that only a few statements are prepared.
const ROWS: [usize; 4] = [64, 16, 4, 1];
/// SQLite copies what is bound, so jobs with larger payloads are added one by one.
const SMALL: usize = 64 << 10;

pub(crate) fn enqueue_all(tx: &mut Tx<'_>, jobs: &[&NewJob]) -> Result<Vec<JobRef>> {
    let mut added = Vec::with_capacity(jobs.len());
    for run in jobs.chunk_by(|a, b| can_share(a) && can_share(b) && differ_in_payload_only(a, b)) {
        match run {
            [] => continue,
            [job, ..] if job.unique.is_some() => added.push(enqueue_unique(tx, job)?),
            [first, ..] => enqueue_run(tx, first, run, &mut added)?,
        }
        tx.signals.queue(&run[0].queue);
    }
    Ok(added)
}

fn can_share(job: &NewJob) -> bool {
    job.unique.is_none() && job.payload.len() <= SMALL
}

fn differ_in_payload_only(a: &NewJob, b: &NewJob) -> bool {
    let rest = |job: &NewJob| (job.priority, job.when, job.max_attempts, job.backoff, job.trace);
    a.queue == b.queue && a.tenant == b.tenant && rest(a) == rest(b)
}

/// Adds jobs that differ in their payload only, and are not unique: what they share is bound once.
fn enqueue_run(tx: &Tx<'_>, first: &NewJob, mut run: &[&NewJob], added: &mut Vec<JobRef>) -> Result<()> {
    let failed = |error| from_sql("store.commit", error);
    let (run_at, trace) = (first.when.resolve(tx.now).0, first.trace.map(|trace| trace.to_string()));
    let (base, cap) = (micros(first.backoff.base()), micros(first.backoff.cap()));
    let shared: [&dyn ToSql; 9] =
        [&first.queue, &first.priority, &run_at, &first.tenant, &first.max_attempts, &base, &cap, &tx.now.0, &trace];
    let mut from = None;
    for rows in ROWS {
        let Some((mut chunk, _)) = run.split_at_checked(rows) else { continue };
        let mut statement = tx.conn.prepare_cached(&insert_sql(rows)).map_err(failed)?;
        for (at, value) in (1..).zip(shared) {
            statement.raw_bind_parameter(at, value).map_err(failed)?;
        }
        while chunk.len() == rows {
            for (at, job) in (shared.len() + 1..).zip(chunk) {
                statement.raw_bind_parameter(at, &job.payload[..]).map_err(failed)?;
            }
            statement.raw_execute().map_err(failed)?;
            let last = tx.conn.last_insert_rowid();
            from.get_or_insert(last - rows as i64 + 1);
            added.extend((last - rows as i64 + 1..=last).map(|id| JobRef { id: JobId(id), duplicate: false }));
            run = &run[rows..];
            chunk = &run[..rows.min(run.len())];
        }
    }
    let Some(from) = from else { return Ok(()) };
    let place = (first.queue.as_str(), first.priority, run_at);
    ready::add_span(tx, place, first.tenant.as_deref(), (from, tx.conn.last_insert_rowid()))
}

/// A failure in the middle leaves what is done to whoever rolls back, so that SQLite need not keep a copy of each page.
fn insert_sql(rows: usize) -> String {
    let payloads: Vec<String> = (0..rows).map(|row| format!("(?{})", row + 10)).collect();
    format!(
        "INSERT OR FAIL INTO job (queue, state, priority, run_at, tenant, max_attempts, backoff_base, backoff_cap,
           enqueued_at, trace, payload)
         SELECT ?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, column1 FROM (VALUES {})",
        payloads.join(",")
    )
}

fn enqueue_unique(tx: &Tx<'_>, job: &NewJob) -> Result<JobRef> {
    let sql = "INSERT INTO job (queue, state, priority, run_at, tenant, unique_key, max_attempts, backoff_base,
                 backoff_cap, enqueued_at, trace, payload)
               VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
               ON CONFLICT (queue, unique_key) WHERE unique_key IS NOT NULL AND state < 2 DO NOTHING";
    let trace = job.trace.map(|trace| trace.to_string());
    let changed = tx.run(
        sql,
        params![
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
        ],
    )?;
    if changed == 0 {
        return Ok(JobRef { id: holder_of_unique(tx, &job.queue, job.unique.as_deref())?, duplicate: true });
    }
    let id = JobId(tx.conn.last_insert_rowid());
    ready::add(tx, id.0)?;
    Ok(JobRef { id, duplicate: false })
}

fn holder_of_unique(tx: &Tx<'_>, queue: &str, unique: Option<&str>) -> Result<JobId> {
    let sql = "SELECT id FROM job WHERE queue = ?1 AND unique_key = ?2 AND unique_key IS NOT NULL AND state < 2";
    let id = tx.one(sql, params![queue, unique], |row| row.get(0))?;
    id.map(JobId).ok_or_else(|| Error::new(ErrorKind::Internal, "store.commit", "a job was neither added nor found"))
}

/// Ends jobs that are leased; for each lease, whether it was one on a job, and held.
pub(crate) fn complete(tx: &Tx<'_>, leases: &[Lease]) -> Result<Vec<bool>> {
    let mut held = vec![false; leases.len()];
    let mut order: Vec<usize> = (0..leases.len()).filter(|at| leases[*at].target == LeaseTarget::Job).collect();
    order.sort_by_key(|at| leases[*at].id);
    let mut rest = order.as_slice();
    while let [at, ..] = rest {
        let first = leases[*at];
        let Some(span) = span::of(tx, first.id)?.filter(|span| span.holds(&first, tx.now)) else {
            rest = &rest[1..];
            continue;
        };
        // As many as one statement can end: they stand next to each other, and in the same span.
        let alike = (first.id..).zip(rest).take_while(|(id, at)| {
            let lease = &leases[**at];
            lease.id == *id && span.holds(lease, tx.now)
        });
        let run = &rest[..alike.count()];
        let last = first.id + run.len() as i64 - 1;
        span.remove(tx, first.id, last)?;
        tx.run("DELETE FROM job WHERE id BETWEEN ?1 AND ?2", [first.id, last])?;
        run.iter().for_each(|at| held[*at] = true);
        rest = &rest[run.len()..];
    }
    Ok(held)
}

pub(crate) fn fail(tx: &mut Tx<'_>, lease: Lease, reason: &str, retry: Retry) -> Result<Outcome> {
    let span = span::held(tx, &lease)?;
    let sql = "SELECT attempt + 1, max_attempts, backoff_base, backoff_cap FROM job WHERE id = ?1";
    let found = tx.one(sql, [lease.id], |row| Ok((row.get(0)?, row.get(1)?, backoff(row.get(2)?, row.get(3)?))))?;
    let (attempt, max_attempts, backoff) = found.ok_or_else(|| lease.lost())?;
    let retry_at = retry.next(attempt, max_attempts, backoff, fastrand::f64()).map(|delay| tx.now + delay);
    let retry_at = retry_at.filter(|_| !span.cancelled);
    span.remove(tx, lease.id, lease.id)?;
    match retry_at {
        Some(at) => {
            let sql = "UPDATE job SET run_at = ?2, last_error = ?3, attempt = attempt + 1 WHERE id = ?1";
            tx.run(sql, params![lease.id, at.0, reason])?;
            ready::add(tx, lease.id)?;
            tx.signals.queue(&span.queue);
        }
        None => {
            let sql = "UPDATE job SET state = ?2, ended_at = ?3, last_error = ?4, attempt = attempt + 1 WHERE id = ?1";
            tx.run(sql, params![lease.id, if span.cancelled { 3 } else { 2 }, tx.now.0, reason])?;
        }
    }
    Ok(Outcome::Failed { retry_at })
}

pub(crate) fn release(tx: &mut Tx<'_>, lease: Lease, delay: Duration) -> Result<Outcome> {
    let span = span::held(tx, &lease)?;
    span.remove(tx, lease.id, lease.id)?;
    let sql = "UPDATE job SET state = iif(?2, 3, 0), ended_at = iif(?2, ?3, NULL), run_at = ?4 WHERE id = ?1";
    tx.run(sql, params![lease.id, span.cancelled, tx.now.0, (tx.now + delay).0])?;
    if !span.cancelled {
        ready::add(tx, lease.id)?;
    }
    tx.signals.queue(&span.queue);
    Ok(Outcome::Done)
}

pub(crate) fn extend(tx: &Tx<'_>, lease: Lease, hold: Duration) -> Result<Outcome> {
    let until = tx.now + hold;
    let span = span::held(tx, &lease)?;
    span.isolate(tx, lease.id)?;
    tx.run("UPDATE lease SET leased_until = ?2 WHERE id = ?1", [lease.id, until.0])?;
    rescue_by(tx, &span.queue, until)?;
    Ok(Outcome::Extended { until, cancelled: span.cancelled })
}

pub(crate) fn checkpoint(tx: &Tx<'_>, lease: Lease, data: &[u8]) -> Result<Outcome> {
    span::held(tx, &lease)?;
    tx.run("UPDATE job SET checkpoint = ?2 WHERE id = ?1", params![lease.id, data])?;
    Ok(Outcome::Done)
}

pub(crate) fn cancel(tx: &Tx<'_>, id: JobId) -> Result<Outcome> {
    let Some(live) = tx.one("SELECT state < 2 FROM job WHERE id = ?1", [id.0], |row| row.get::<_, bool>(0))? else {
        return Err(Error::new(ErrorKind::NotFound, "store.commit", "no such job")
            .with("id", id)
            .advise("a completed job is gone; look it up before cancelling it"));
    };
    let span = span::of(tx, id.0)?;
    match &span {
        Some(span) => {
            span.isolate(tx, id.0)?;
            tx.run("UPDATE lease SET cancel = 1 WHERE id = ?1", [id.0])?;
        }
        None if live => {
            ready::remove(tx, id.0)?;
            tx.run("UPDATE job SET state = 3, ended_at = ?2 WHERE id = ?1", params![id.0, tx.now.0])?;
        }
        None => {}
    }
    Ok(Outcome::Cancelled { at_once: span.is_none() })
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
    ready::add(tx, id.0)?;
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
    // What was leased before there were limits counts from now on.
    span::count_each(tx, queue)?;
    tx.signals.queue(queue);
    Ok(Outcome::Done)
}

/// What a queue is set to, and when its leases are to be looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) paused: bool,
    pub(crate) limits: Limits,
    /// No lease of the queue runs out before; `None`: it has none.
    pub(crate) rescue_at: Option<i64>,
}

impl Settings {
    pub(crate) fn has_limits(&self) -> bool {
        self.limits != Limits::default()
    }
}

pub(crate) fn settings(tx: &Tx<'_>, queue: &str) -> Result<Settings> {
    let sql = "SELECT paused, queue_limit, tenant_limit, rescue_at FROM queue WHERE name = ?1";
    let found = tx
        .conn
        .prepare_cached(sql)
        .and_then(|mut statement| {
            let read = |row: &rusqlite::Row<'_>| {
                let limits = Limits { queue: row.get(1)?, tenant: row.get(2)? };
                Ok(Settings { paused: row.get(0)?, limits, rescue_at: row.get(3)? })
            };
            statement.query_row([queue], read).optional()
        })
        .map_err(|error| from_sql("store.lease", error))?;
    Ok(found.unwrap_or_default())
}

/// Notes that a lease of the queue may run out at `until`.
pub(crate) fn rescue_by(tx: &Tx<'_>, queue: &str, until: Timestamp) -> Result<()> {
    let sql = "INSERT INTO queue (name, rescue_at) VALUES (?1, ?2)
               ON CONFLICT DO UPDATE SET rescue_at = ?2 WHERE rescue_at IS NULL OR rescue_at > ?2";
    tx.run(sql, params![queue, until.0]).map(drop)
}

/// Gives back one queue's jobs whose lease ran out, if there can be any.
pub(crate) fn rescue_queue(tx: &mut Tx<'_>, queue: &str, settings: &mut Settings) -> Result<()> {
    if settings.rescue_at.is_none_or(|at| at > tx.now.0) {
        return Ok(());
    }
    let now = tx.now.0;
    rescue_where(tx, "lease.queue = ?2 AND leased_until <= ?1", params![now, queue])?;
    let sql = "SELECT min(leased_until) FROM lease WHERE queue = ?1";
    settings.rescue_at = tx.one(sql, [queue], |row| row.get(0))?.flatten();
    tx.run("UPDATE queue SET rescue_at = ?2 WHERE name = ?1", params![queue, settings.rescue_at]).map(drop)
}

/// Gives back all jobs whose lease ran out: how many are ready again, and how many are dead.
pub(crate) fn rescue(tx: &mut Tx<'_>) -> Result<(u64, u64)> {
    let now = tx.now.0;
    let rescued = rescue_where(tx, "leased_until <= ?1 OR leased_at > ?1", params![now])?;
    let sql = "UPDATE queue SET rescue_at = (SELECT min(leased_until) FROM lease WHERE lease.queue = queue.name)
               WHERE rescue_at <= ?1";
    tx.run(sql, [now])?;
    // A queue that nobody has set, and that has no leases, is like one that never was.
    let sql = "DELETE FROM queue
               WHERE paused = 0 AND queue_limit IS NULL AND tenant_limit IS NULL AND rescue_at IS NULL";
    tx.run(sql, [])?;
    Ok(rescued)
}

fn rescue_where(tx: &mut Tx<'_>, condition: &str, params: &[&dyn ToSql]) -> Result<(u64, u64)> {
    let sql = format!(
        "SELECT job.id, lease.queue, cancel, attempt + 1 >= max_attempts
         FROM lease CROSS JOIN job ON job.id BETWEEN lease.id AND lease.last WHERE {condition}"
    );
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let expired: Vec<(i64, String, bool, bool)> = tx.all(&sql, params, read)?;
    if !expired.is_empty() {
        tx.run(&format!("DELETE FROM lease WHERE {condition}"), params)?;
    }
    let (mut rescued, mut dead) = (0, 0);
    let sql = "UPDATE job SET state = ?2, ended_at = iif(?2, ?3, NULL), attempt = attempt + 1,
                 last_error = 'the lease ran out' WHERE id = ?1";
    for (id, queue, cancelled, last) in &expired {
        let state = match (cancelled, last) {
            (true, _) => 3,
            (false, true) => 2,
            (false, false) => 0,
        };
        tx.run(sql, params![id, state, tx.now.0])?;
        if state == 0 {
            ready::add(tx, *id)?;
        }
        *(if state == 2 { &mut dead } else { &mut rescued }) += 1;
        tx.signals.queue(queue);
    }
    Ok((rescued, dead))
}

/// Enqueues what a schedule fires.
pub(crate) fn enqueue(tx: &mut Tx<'_>, job: &NewJob) -> Result<()> {
    enqueue_all(tx, &[job]).map(drop)
}

/// The moment up to which something kept for `retention` is over.
pub(crate) fn over_before(now: Timestamp, retention: Duration) -> i64 {
    (now - retention).0
}
