//! Jobs: from enqueued to gone.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use selvedge_core::{
    Error, ErrorKind, Result, Timestamp,
    store::{JobId, JobRef, Lease, Limits, NewJob, Outcome, Retry, When},
};
use tokio_postgres::Row;

use crate::{
    error::is_duplicate,
    tx::{Db, Tx, backoff, count, get, gone, micros, params, words},
};

/// The lease is held: the token fits and it has not run out (nor does it lie ahead, after a clock stepped back).
const HELD: &str = "id = $1 AND token = $2 AND state = 0 AND leased_until > $3 AND leased_at <= $3";

/// What a lease leaves behind when it ends, for an UPDATE.
const UNLEASED: &str = "token = NULL, leased_at = NULL, leased_until = NULL, owner = NULL";

/// A job that was added, or found under its unique key, and when it is due.
pub(crate) struct Added {
    pub(crate) job: JobRef,
    pub(crate) due: i64,
}

/// Adds jobs at `given`, or at the server's own time.
pub(crate) async fn enqueue_all(db: &Db<'_>, jobs: &[&NewJob], given: Option<i64>) -> Result<Vec<Added>> {
    fn column<'a, T>(jobs: &[&'a NewJob], of: impl Fn(&'a NewJob) -> T) -> Vec<T> {
        jobs.iter().copied().map(of).collect()
    }
    let sql = "SELECT * FROM selvedge.enqueue_many($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let due = column(jobs, |job| match job.when {
        When::At(moment) => Some(moment.0),
        When::Now | When::After(_) => None,
    });
    let delays = column(jobs, |job| match job.when {
        When::After(delay) => Some(micros(delay).min(FAR)),
        When::Now | When::At(_) => None,
    });
    let keys = jobs.iter().any(|job| job.unique.is_some()).then(|| column(jobs, |job| job.unique.as_deref()));
    let traces = column(jobs, |job| job.trace.map(|trace| trace.to_string()));
    let read = |row: &Row| {
        let job = JobRef { id: JobId(get(row, 1)?), duplicate: get(row, 2)? };
        Ok((get::<i64>(row, 0)?, Added { job, due: get(row, 3)? }))
    };
    let mut added = db
        .all(
            sql,
            params![
                column(jobs, |job| job.queue.as_str()),
                column(jobs, |job| &job.payload[..]),
                column(jobs, |job| job.priority),
                due,
                delays,
                column(jobs, |job| job.tenant.as_deref()),
                keys,
                column(jobs, |job| i64::from(job.max_attempts)),
                column(jobs, |job| micros(job.backoff.base())),
                column(jobs, |job| micros(job.backoff.cap())),
                traces,
                given,
            ],
            read,
        )
        .await?;
    added.sort_unstable_by_key(|(place, _)| *place);
    if added.len() != jobs.len() {
        return Err(gone("not every job was enqueued"));
    }
    Ok(added.into_iter().map(|(_, added)| added).collect())
}

/// Near enough for PostgreSQL to add it to now, and far enough to be never.
const FAR: i64 = i64::MAX / 4;

pub(crate) async fn enqueue(tx: &mut Tx<'_>, jobs: &[NewJob]) -> Result<Outcome> {
    let added = enqueue_all(tx, &jobs.iter().collect::<Vec<_>>(), Some(tx.now.0)).await?;
    jobs.iter().zip(&added).for_each(|(job, added)| tx.news.job(job, added.due));
    Ok(Outcome::Enqueued(added.into_iter().map(|added| added.job).collect()))
}

/// Ends jobs; for each lease, whether it was held.
pub(crate) async fn complete(db: &Db<'_>, leases: &[Lease], given: Option<i64>) -> Result<Vec<bool>> {
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let ids = leases.iter().map(|lease| lease.id).collect::<Vec<_>>();
    let tokens = leases.iter().map(|lease| lease.token).collect::<Vec<_>>();
    let sql = "SELECT * FROM selvedge.complete_many($1, $2, $3, $4)";
    let read = |row: &Row| Ok((get::<i64>(row, 0)?, get::<i64>(row, 1)?));
    let mut ended: HashSet<(i64, i64)> =
        db.all(sql, params![ids, tokens, given, db.keep], read).await?.into_iter().collect();
    // A lease that is named twice ends its job once: the first time.
    Ok(leases.iter().map(|lease| ended.remove(&(lease.id, lease.token))).collect())
}

/// Keeps leases for longer: until when, and whether somebody cancelled the job; nothing for those that are lost.
pub(crate) async fn extend_all(
    db: &Db<'_>,
    leases: &[(Lease, Duration)],
    given: Option<i64>,
) -> Result<HashMap<(i64, i64), (Timestamp, bool)>> {
    let sql = "SELECT * FROM selvedge.extend_many($1, $2, $3, $4)";
    let ids = leases.iter().map(|(lease, _)| lease.id).collect::<Vec<_>>();
    let tokens = leases.iter().map(|(lease, _)| lease.token).collect::<Vec<_>>();
    let holds = leases.iter().map(|(_, hold)| micros(*hold).min(FAR)).collect::<Vec<_>>();
    let read =
        |row: &Row| Ok(((get::<i64>(row, 0)?, get::<i64>(row, 1)?), (Timestamp(get(row, 2)?), get::<bool>(row, 3)?)));
    Ok(db.all(sql, params![ids, tokens, holds, given], read).await?.into_iter().collect())
}

pub(crate) async fn extend(tx: &Tx<'_>, lease: Lease, hold: Duration) -> Result<Outcome> {
    let kept = extend_all(tx, &[(lease, hold)], Some(tx.now.0)).await?;
    let (until, cancelled) = kept.get(&(lease.id, lease.token)).copied().ok_or_else(|| lease.lost())?;
    Ok(Outcome::Extended { until, cancelled })
}

pub(crate) async fn fail(tx: &mut Tx<'_>, lease: Lease, reason: &str, retry: Retry) -> Result<Outcome> {
    let sql = format!(
        "SELECT attempt, max_attempts, backoff_base, backoff_cap, cancel, queue FROM selvedge.job WHERE {HELD} FOR UPDATE"
    );
    let read = |row: &Row| {
        let (attempt, most) = (count(row, "attempt")?, count(row, "max_attempts")?);
        Ok((attempt, most, backoff(row)?, get::<bool>(row, "cancel")?, get::<String>(row, "queue")?))
    };
    let found = tx.one(&sql, params![lease.id, lease.token, tx.now.0], read).await?;
    let (attempt, max_attempts, backoff, cancelled, queue) = found.ok_or_else(|| lease.lost())?;
    let retry_at = retry.next(attempt, max_attempts, backoff, fastrand::f64()).map(|delay| tx.now + delay);
    let retry_at = retry_at.filter(|_| !cancelled);
    let reason = words(reason);
    match retry_at {
        Some(at) => {
            let sql = format!("UPDATE selvedge.job SET run_at = $2, last_error = $3, {UNLEASED} WHERE id = $1");
            tx.run(&sql, params![lease.id, at.0, &*reason]).await?;
            tx.news.queue(&queue);
        }
        None => {
            let sql = format!(
                "UPDATE selvedge.job SET state = $2, cancel = false, ended_at = $3, last_error = $4, {UNLEASED}
                 WHERE id = $1"
            );
            let state = if cancelled { 3i16 } else { 2 };
            tx.run(&sql, params![lease.id, state, tx.now.0, &*reason]).await?;
        }
    }
    Ok(Outcome::Failed { retry_at })
}

pub(crate) async fn release(tx: &mut Tx<'_>, lease: Lease, delay: Duration) -> Result<Outcome> {
    let sql = format!(
        "UPDATE selvedge.job SET state = CASE WHEN cancel THEN 3 ELSE 0 END,
           ended_at = CASE WHEN cancel THEN $3::bigint END, cancel = false, attempt = attempt - 1, run_at = $4, {UNLEASED}
         WHERE {HELD} RETURNING queue"
    );
    let queue: String = tx
        .one(&sql, params![lease.id, lease.token, tx.now.0, (tx.now + delay).0], |row| get(row, 0))
        .await?
        .ok_or_else(|| lease.lost())?;
    tx.news.queue(&queue);
    Ok(Outcome::Done)
}

pub(crate) async fn checkpoint(tx: &Tx<'_>, lease: Lease, data: &[u8]) -> Result<Outcome> {
    let sql = format!("UPDATE selvedge.job SET checkpoint = $4 WHERE {HELD}");
    match tx.run(&sql, params![lease.id, lease.token, tx.now.0, data]).await? {
        0 => Err(lease.lost()),
        _ => Ok(Outcome::Done),
    }
}

pub(crate) async fn cancel(tx: &Tx<'_>, id: JobId) -> Result<Outcome> {
    let sql = "SELECT state = 0, token IS NOT NULL FROM selvedge.job WHERE id = $1 FOR UPDATE";
    let read = |row: &Row| Ok((get::<bool>(row, 0)?, get::<bool>(row, 1)?));
    let Some((live, running)) = tx.one(sql, params![id.0], read).await? else {
        return Err(Error::new(ErrorKind::NotFound, "store.commit", "no such job")
            .with("id", id)
            .advise("a completed job is gone; look it up before cancelling it"));
    };
    match (live, running) {
        (true, false) => {
            let sql = "UPDATE selvedge.job SET state = 3, ended_at = $2 WHERE id = $1";
            tx.run(sql, params![id.0, tx.now.0]).await?
        }
        (true, true) => tx.run("UPDATE selvedge.job SET cancel = true WHERE id = $1", params![id.0]).await?,
        _ => 0,
    };
    Ok(Outcome::Cancelled { at_once: !running })
}

pub(crate) async fn revive(tx: &mut Tx<'_>, id: JobId) -> Result<Outcome> {
    let sql = "SELECT queue, unique_key FROM selvedge.job WHERE id = $1 AND state >= 2 FOR UPDATE";
    let read = |row: &Row| Ok((get::<String>(row, 0)?, get::<Option<String>>(row, 1)?));
    let Some((queue, unique)) = tx.one(sql, params![id.0], read).await? else { return Ok(Outcome::Revived(false)) };
    let taken = || {
        Error::new(ErrorKind::Conflict, "store.commit", "another job holds the unique key by now")
            .with("id", id)
            .advise("let the other job end first, or cancel it")
    };
    let sql = "SELECT id FROM selvedge.job WHERE queue = $1 AND unique_key = $2 AND state = 0";
    if let Some(holder) = tx.one(sql, params![queue, unique], |row| get::<i64>(row, 0)).await? {
        return Err(taken().with("holder", holder));
    }
    let sql = "UPDATE selvedge.job SET state = 0, attempt = 0, run_at = $2, ended_at = NULL WHERE id = $1";
    let revived = tx.run(sql, params![id.0, tx.now.0]).await;
    revived.map_err(|error| if is_duplicate(&error) { taken() } else { error })?;
    tx.news.queue(&queue);
    Ok(Outcome::Revived(true))
}

pub(crate) async fn pause(tx: &mut Tx<'_>, queue: &str, paused: bool) -> Result<Outcome> {
    let sql = "INSERT INTO selvedge.queue (name, paused) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET paused = $2";
    tx.run(sql, params![queue, paused]).await?;
    tx.news.queue(queue);
    Ok(Outcome::Done)
}

pub(crate) async fn limit(tx: &mut Tx<'_>, queue: &str, limits: Limits) -> Result<Outcome> {
    let sql = "INSERT INTO selvedge.queue (name, queue_limit, tenant_limit) VALUES ($1, $2, $3)
               ON CONFLICT (name) DO UPDATE SET queue_limit = $2, tenant_limit = $3";
    tx.run(sql, params![queue, limits.queue.map(i64::from), limits.tenant.map(i64::from)]).await?;
    // What runs already counts.
    let sql = "INSERT INTO selvedge.slot (job, token, queue, tenant)
               SELECT id, token, queue, tenant FROM selvedge.job WHERE state = 0 AND token IS NOT NULL AND queue = $1
               ON CONFLICT (job) DO UPDATE SET token = excluded.token";
    tx.run(sql, params![queue]).await?;
    tx.news.queue(queue);
    Ok(Outcome::Done)
}

/// Gives back jobs whose lease ran out: how many are ready again, and how many are dead.
pub(crate) async fn rescue(tx: &mut Tx<'_>) -> Result<(u64, u64)> {
    // The server's clock is read by the function itself: by that of the transaction, what others leased since would lie ahead.
    let read = |row: &Row| Ok((get::<String>(row, 0)?, get::<i16>(row, 1)?));
    let rescued = tx.all("SELECT * FROM selvedge.rescue($1)", params![tx.given], read).await?;
    let dead = rescued.iter().filter(|(_, state)| *state == 2).count() as u64;
    rescued.iter().for_each(|(queue, _)| tx.news.queue(queue));
    Ok((rescued.len() as u64 - dead, dead))
}
