//! Jobs: from enqueued to gone.

use std::{collections::HashSet, time::Duration};

use selvedge_core::{
    Error, ErrorKind, Result,
    store::{JobId, JobRef, Lease, Limits, NewJob, Outcome, Retry},
};
use tokio_postgres::Row;

use crate::{
    error::is_duplicate,
    tx::{Tx, backoff, count, get, gone, micros, params, words},
};

/// The lease is held: the token fits and it has not run out (nor does it lie ahead, after a clock stepped back).
const HELD: &str = "id = $1 AND token = $2 AND state = 1 AND leased_until > $3 AND leased_at <= $3";

/// What a lease leaves behind when it ends, for an UPDATE.
const UNLEASED: &str = "token = NULL, leased_at = NULL, leased_until = NULL, owner = NULL";

pub(crate) async fn enqueue(tx: &mut Tx<'_>, jobs: &[NewJob]) -> Result<Outcome> {
    // Numbers are drawn first, so that each job can be told from its neighbours whatever became of them.
    let sql = "
        WITH new AS MATERIALIZED (
          SELECT nextval(pg_get_serial_sequence('selvedge.job', 'id')) AS id, u.*
          FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
                      $8::bigint[], $9::text[], $10::bytea[]) WITH ORDINALITY
            AS u (queue, priority, run_at, tenant, unique_key, max_attempts, backoff_base, backoff_cap, trace, payload, place)
        ), added AS (
          INSERT INTO selvedge.job (id, queue, state, priority, run_at, tenant, unique_key, max_attempts, backoff_base,
                                    backoff_cap, enqueued_at, trace, payload)
          SELECT id, queue, 0, priority, run_at, tenant, unique_key, max_attempts, backoff_base, backoff_cap, $11, trace,
                 payload
          FROM new ORDER BY place
          ON CONFLICT (queue, unique_key) WHERE unique_key IS NOT NULL AND state < 2 DO NOTHING
          RETURNING id
        )
        SELECT new.id, added.id IS NULL AS duplicate FROM new LEFT JOIN added USING (id) ORDER BY new.place";
    let column = |of: fn(&NewJob) -> i64| jobs.iter().map(of).collect::<Vec<_>>();
    let now = tx.now;
    let traces = jobs.iter().map(|job| job.trace.map(|trace| trace.to_string())).collect::<Vec<_>>();
    let rows = tx
        .all(
            sql,
            params![
                jobs.iter().map(|job| job.queue.as_str()).collect::<Vec<_>>(),
                jobs.iter().map(|job| job.priority).collect::<Vec<_>>(),
                jobs.iter().map(|job| job.when.resolve(now).0).collect::<Vec<_>>(),
                jobs.iter().map(|job| job.tenant.as_deref()).collect::<Vec<_>>(),
                jobs.iter().map(|job| job.unique.as_deref()).collect::<Vec<_>>(),
                column(|job| job.max_attempts.into()),
                column(|job| micros(job.backoff.base())),
                column(|job| micros(job.backoff.cap())),
                traces,
                jobs.iter().map(|job| &job.payload[..]).collect::<Vec<_>>(),
                now.0,
            ],
            |row| Ok((get::<i64>(row, 0)?, get::<bool>(row, 1)?)),
        )
        .await?;
    let mut added = Vec::with_capacity(rows.len());
    for ((id, duplicate), job) in rows.into_iter().zip(jobs) {
        added.push(match duplicate {
            false => JobRef { id: JobId(id), duplicate },
            true => JobRef { id: holder_of_unique(tx, job).await?, duplicate },
        });
    }
    jobs.iter().for_each(|job| tx.signals.queue(&job.queue));
    Ok(Outcome::Enqueued(added))
}

async fn holder_of_unique(tx: &Tx<'_>, job: &NewJob) -> Result<JobId> {
    let sql = "SELECT id FROM selvedge.job WHERE queue = $1 AND unique_key = $2 AND state < 2";
    let id = tx.one(sql, params![job.queue, job.unique], |row| get(row, 0)).await?;
    // It was there a moment ago and has ended since: the key is free, and whoever asks again gets it.
    id.map(JobId).ok_or_else(|| {
        Error::new(ErrorKind::Busy, "store.commit", "the job that held the unique key has just ended")
            .with("queue", &job.queue)
            .retry(true)
            .advise("try again")
    })
}

/// Ends jobs; the leases that were not held.
pub(crate) async fn complete(tx: &Tx<'_>, leases: &[Lease]) -> Result<Vec<Lease>> {
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "
        DELETE FROM selvedge.job USING unnest($1::bigint[], $2::bigint[]) AS held (id, token)
        WHERE job.id = held.id AND job.token = held.token AND state = 1 AND leased_until > $3 AND leased_at <= $3
        RETURNING job.id";
    let ids = leases.iter().map(|lease| lease.id).collect::<Vec<_>>();
    let tokens = leases.iter().map(|lease| lease.token).collect::<Vec<_>>();
    let ended = tx.all(sql, params![ids, tokens, tx.now.0], |row| get::<i64>(row, 0)).await?;
    let mut ended: HashSet<i64> = ended.into_iter().collect();
    // A lease that is named twice ends its job once.
    let lost = leases.iter().copied().filter(|lease| !ended.remove(&lease.id)).collect();
    Ok(lost)
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
            let sql =
                format!("UPDATE selvedge.job SET state = 0, run_at = $2, last_error = $3, {UNLEASED} WHERE id = $1");
            tx.run(&sql, params![lease.id, at.0, &*reason]).await?;
            tx.signals.queue(&queue);
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
    tx.signals.queue(&queue);
    Ok(Outcome::Done)
}

pub(crate) async fn extend(tx: &Tx<'_>, lease: Lease, hold: Duration) -> Result<Outcome> {
    let until = tx.now + hold;
    let sql = format!("UPDATE selvedge.job SET leased_until = $4 WHERE {HELD} RETURNING cancel");
    let cancelled = tx.one(&sql, params![lease.id, lease.token, tx.now.0, until.0], |row| get(row, 0)).await?;
    Ok(Outcome::Extended { until, cancelled: cancelled.ok_or_else(|| lease.lost())? })
}

pub(crate) async fn checkpoint(tx: &Tx<'_>, lease: Lease, data: &[u8]) -> Result<Outcome> {
    let sql = format!("UPDATE selvedge.job SET checkpoint = $4 WHERE {HELD}");
    match tx.run(&sql, params![lease.id, lease.token, tx.now.0, data]).await? {
        0 => Err(lease.lost()),
        _ => Ok(Outcome::Done),
    }
}

pub(crate) async fn cancel(tx: &Tx<'_>, id: JobId) -> Result<Outcome> {
    let sql = "SELECT state FROM selvedge.job WHERE id = $1 FOR UPDATE";
    let Some(state) = tx.one(sql, params![id.0], |row| get::<i16>(row, 0)).await? else {
        return Err(Error::new(ErrorKind::NotFound, "store.commit", "no such job")
            .with("id", id)
            .advise("a completed job is gone; look it up before cancelling it"));
    };
    match state {
        0 => tx.run("UPDATE selvedge.job SET state = 3, ended_at = $2 WHERE id = $1", params![id.0, tx.now.0]).await?,
        1 => tx.run("UPDATE selvedge.job SET cancel = true WHERE id = $1", params![id.0]).await?,
        _ => 0,
    };
    Ok(Outcome::Cancelled { at_once: state != 1 })
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
    let sql = "SELECT id FROM selvedge.job WHERE queue = $1 AND unique_key = $2 AND state < 2";
    if let Some(holder) = tx.one(sql, params![queue, unique], |row| get::<i64>(row, 0)).await? {
        return Err(taken().with("holder", holder));
    }
    let sql = "UPDATE selvedge.job SET state = 0, attempt = 0, run_at = $2, ended_at = NULL WHERE id = $1";
    let revived = tx.run(sql, params![id.0, tx.now.0]).await;
    revived.map_err(|error| if is_duplicate(&error) { taken() } else { error })?;
    tx.signals.queue(&queue);
    Ok(Outcome::Revived(true))
}

pub(crate) async fn pause(tx: &mut Tx<'_>, queue: &str, paused: bool) -> Result<Outcome> {
    let sql = "INSERT INTO selvedge.queue (name, paused) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET paused = $2";
    tx.run(sql, params![queue, paused]).await?;
    tx.signals.queue(queue);
    Ok(Outcome::Done)
}

pub(crate) async fn limit(tx: &mut Tx<'_>, queue: &str, limits: Limits) -> Result<Outcome> {
    let sql = "INSERT INTO selvedge.queue (name, queue_limit, tenant_limit) VALUES ($1, $2, $3)
               ON CONFLICT (name) DO UPDATE SET queue_limit = $2, tenant_limit = $3";
    tx.run(sql, params![queue, limits.queue.map(i64::from), limits.tenant.map(i64::from)]).await?;
    tx.signals.queue(queue);
    Ok(Outcome::Done)
}

/// Gives back jobs whose lease ran out, of some queues or of all: how many are ready again, and how many are dead.
pub(crate) async fn rescue(tx: &mut Tx<'_>, queues: Option<&[&str]>) -> Result<(u64, u64)> {
    // The server's clock is read here and not before: nothing it can see by then was leased later.
    // Who is locked is being completed, failed or rescued by somebody else.
    let over = match queues {
        Some(_) => "queue = ANY($2) AND leased_until <= (SELECT selvedge.clock($1))",
        None => {
            "(leased_until <= (SELECT selvedge.clock($1)) OR leased_at > (SELECT selvedge.clock($1))) AND $2::text[] IS NULL"
        }
    };
    let sql = format!(
        "WITH over AS MATERIALIZED (SELECT id FROM selvedge.job WHERE state = 1 AND {over} FOR UPDATE SKIP LOCKED)
         UPDATE selvedge.job SET
           state = CASE WHEN cancel THEN 3 WHEN attempt >= max_attempts THEN 2 ELSE 0 END,
           ended_at = CASE WHEN cancel OR attempt >= max_attempts THEN selvedge.clock($1) END,
           cancel = false, last_error = 'the lease ran out', {UNLEASED}
         FROM over WHERE job.id = over.id RETURNING queue, state"
    );
    let queues = queues.map(<[&str]>::to_vec);
    let read = |row: &Row| Ok((get::<String>(row, 0)?, get::<i16>(row, 1)?));
    let rescued = tx.all(&sql, params![tx.given, queues], read).await?;
    let dead = rescued.iter().filter(|(_, state)| *state == 2).count() as u64;
    rescued.iter().for_each(|(queue, _)| tx.signals.queue(queue));
    Ok((rescued.len() as u64 - dead, dead))
}

/// Enqueues what a schedule fires.
pub(crate) async fn enqueue_one(tx: &mut Tx<'_>, job: &NewJob) -> Result<()> {
    match enqueue(tx, std::slice::from_ref(job)).await? {
        Outcome::Enqueued(_) => Ok(()),
        _ => Err(gone("a job was not enqueued")),
    }
}
