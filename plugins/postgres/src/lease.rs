//! Leasing: which jobs are next, and making them somebody's.

use std::collections::HashMap;

use selvedge_core::{
    Result, Timestamp,
    store::{JobId, Lease, LeaseRequest, LeaseTarget, LeasedJob, Limits},
};
use tokio_postgres::Row;

use crate::{
    job,
    tx::{Tx, bytes, count, get, optional_bytes, params, rows, time, trace, words},
};

/// A job's place in the order of its queue: priority, then due time, then number.
type Place = (i16, i64, i64);

/// The first $3 jobs of queue $1 that may run at $2, locked, and none that somebody else has locked.
///
/// It goes from one priority to the next, so that jobs which are not due yet are never scanned: within one priority what is
/// due is the beginning of the index.
const NEXT: &str = "
  WITH RECURSIVE level AS (
    (SELECT priority FROM selvedge.job WHERE state = 0 AND queue = $1 ORDER BY priority LIMIT 1)
    UNION ALL
    SELECT (SELECT above.priority FROM selvedge.job AS above
            WHERE above.state = 0 AND above.queue = $1 AND above.priority > level.priority
            ORDER BY above.priority LIMIT 1)
    FROM level WHERE level.priority IS NOT NULL
  )
  SELECT due.priority, due.run_at, due.id FROM level CROSS JOIN LATERAL (
    SELECT priority, run_at, id FROM selvedge.job
    WHERE state = 0 AND queue = $1 AND job.priority = level.priority AND run_at <= $2
    ORDER BY run_at, id LIMIT $3 FOR UPDATE SKIP LOCKED
  ) AS due LIMIT $3";

/// The same within a limit of $4 running jobs for each tenant: a tenant at its limit is skipped, not scanned.
const NEXT_OF_TENANTS: &str = "
  WITH RECURSIVE tenant AS (
    (SELECT tenant AS name FROM selvedge.job WHERE state = 0 AND tenant IS NOT NULL AND queue = $1 ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT next.tenant FROM selvedge.job AS next
            WHERE next.state = 0 AND next.tenant IS NOT NULL AND next.queue = $1 AND next.tenant > tenant.name
            ORDER BY next.tenant LIMIT 1)
    FROM tenant WHERE tenant.name IS NOT NULL
  ), running AS (
    SELECT tenant AS name, count(*) AS jobs FROM selvedge.job WHERE state = 1 AND queue = $1 AND tenant IS NOT NULL
    GROUP BY tenant
  )
  SELECT priority, run_at, id FROM (
    SELECT due.priority, due.run_at, due.id
    FROM tenant LEFT JOIN running USING (name) CROSS JOIN LATERAL (
      SELECT priority, run_at, id FROM selvedge.job
      WHERE state = 0 AND tenant IS NOT NULL AND queue = $1 AND job.tenant = tenant.name AND run_at <= $2
      ORDER BY priority, run_at, id LIMIT least($3, greatest($4 - coalesce(running.jobs, 0), 0))
    ) AS due
    UNION ALL
    (SELECT priority, run_at, id FROM selvedge.job
     WHERE state = 0 AND tenant IS NULL AND queue = $1 AND run_at <= $2 ORDER BY priority, run_at, id LIMIT $3)
  ) AS due ORDER BY priority, run_at, id LIMIT $3";

pub(crate) async fn lease(tx: &mut Tx<'_>, request: &LeaseRequest) -> Result<Vec<LeasedJob>> {
    let mut queues: Vec<&str> = request.queues.iter().map(String::as_str).collect();
    queues.sort_unstable();
    queues.dedup();
    job::rescue(tx, Some(&queues)).await?;
    let settings = settings(tx, &queues).await?;
    let mut places: Vec<Place> = Vec::new();
    for queue in queues {
        let (paused, limits) = settings.get(queue).copied().unwrap_or_default();
        if !paused {
            places.extend(next_of(tx, queue, limits, request.limit).await?);
        }
    }
    // Queues are taken from all alike: by the same order that holds within each.
    places.sort_unstable();
    places.truncate(request.limit);
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let until = tx.now + request.hold.min(LeaseRequest::MAX_HOLD);
    // One token for all of them: it is never given again, and with the job's number it names this lease and no other.
    let token = fastrand::i64(..);
    let sql = "
        UPDATE selvedge.job SET state = 1, attempt = attempt + 1, token = $2, leased_at = $3, leased_until = $4, owner = $5
        WHERE id = ANY($1) AND state = 0
        RETURNING id, queue, payload, priority, tenant, attempt, max_attempts, checkpoint, trace, enqueued_at, run_at";
    let ids = places.iter().map(|(_, _, id)| *id).collect::<Vec<_>>();
    let read = |row: &Row| Ok((get::<i64>(row, "run_at")?, leased_job(row, token, until)?));
    let mut leased = tx.all(sql, params![ids, token, tx.now.0, until.0, &*words(&request.owner)], read).await?;
    leased.sort_unstable_by_key(|(run_at, job)| (job.priority, *run_at, job.id.0));
    Ok(leased.into_iter().map(|(_, job)| job).collect())
}

fn leased_job(row: &Row, token: i64, leased_until: Timestamp) -> Result<LeasedJob> {
    let id = get(row, "id")?;
    Ok(LeasedJob {
        lease: Lease { target: LeaseTarget::Job, id, token },
        id: JobId(id),
        queue: get(row, "queue")?,
        payload: bytes(row, "payload")?,
        priority: get(row, "priority")?,
        tenant: get(row, "tenant")?,
        attempt: count(row, "attempt")?,
        max_attempts: count(row, "max_attempts")?,
        checkpoint: optional_bytes(row, "checkpoint")?,
        trace: trace(row)?,
        enqueued_at: time(row, "enqueued_at")?,
        leased_until,
    })
}

/// Which queues are paused, and their limits. Whoever leases from a queue with a limit holds its row until the end, so that
/// two never count the same free places.
async fn settings(tx: &Tx<'_>, queues: &[&str]) -> Result<HashMap<String, (bool, Limits)>> {
    let columns = "SELECT name, paused, queue_limit, tenant_limit FROM selvedge.queue WHERE name = ANY($1)";
    let limit = |row: &Row, column: &str| -> Result<Option<u32>> {
        Ok(get::<Option<i64>>(row, column)?.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)))
    };
    let read = |row: &Row| {
        let limits = Limits { queue: limit(row, "queue_limit")?, tenant: limit(row, "tenant_limit")? };
        Ok((get::<String>(row, "name")?, (get::<bool>(row, "paused")?, limits)))
    };
    let queues = queues.to_vec();
    let found = tx.all(columns, params![queues], read).await?;
    if found.iter().all(|(_, (_, limits))| *limits == Limits::default()) {
        return Ok(found.into_iter().collect());
    }
    let sql = format!("{columns} ORDER BY name FOR UPDATE");
    Ok(tx.all(&sql, params![queues], read).await?.into_iter().collect())
}

/// The first `limit` places of a queue that may run now, within its limits.
async fn next_of(tx: &Tx<'_>, queue: &str, limits: Limits, limit: usize) -> Result<Vec<Place>> {
    let mut room = rows(limit);
    if let Some(most) = limits.queue {
        let sql = "SELECT count(*) FROM selvedge.job WHERE state = 1 AND queue = $1";
        let running: i64 = tx.one(sql, params![queue], |row| get(row, 0)).await?.unwrap_or(0);
        room = room.min(i64::from(most) - running);
    }
    if room <= 0 {
        return Ok(Vec::new());
    }
    let read = |row: &Row| Ok((get(row, 0)?, get(row, 1)?, get(row, 2)?));
    match limits.tenant {
        None => tx.all(NEXT, params![queue, tx.now.0, room], read).await,
        Some(most) => tx.all(NEXT_OF_TENANTS, params![queue, tx.now.0, room, i64::from(most)], read).await,
    }
}
