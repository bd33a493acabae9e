//! Leasing: which jobs are next, and making them somebody's.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use selvedge_core::{
    Result, Timestamp,
    store::{JobId, Lease, LeaseRequest, LeaseTarget, LeasedJob, Limits, Ready, one_line},
};
use tokio_postgres::Row;

use crate::{
    hints::{After, Hints, Look},
    job,
    tx::{Db, Tx, bytes, count, duration, get, micros, optional_bytes, params, rows, time, trace, words},
};

/// What there was to lease.
pub(crate) enum Found {
    /// Jobs, in order.
    Jobs(Vec<LeasedJob>),
    /// One of the queues has limits, which only a transaction of several statements keeps.
    Limited,
}

/// Leases from queues without limits: a claim from where the last one ended. Only a claim that finds nothing looks back for
/// more, so whoever waits for a job that was told of does not wait for the look.
pub(crate) async fn lease(db: &Db<'_>, hints: &Hints, request: &LeaseRequest) -> Result<Found> {
    if request.limit == 0 {
        return Ok(Found::Jobs(Vec::new()));
    }
    let queues = distinct(request);
    let looked = hints.wants_look(&queues, false, db.given);
    if looked {
        look_back(db, hints, &queues).await?;
    }
    if hints.has_limits(&queues) {
        return Ok(Found::Limited);
    }
    let mut jobs = claim(db, hints, &queues, request, request.limit).await?;
    // By a test's clock all that is ready is found, whatever others have told so far.
    let short = jobs.is_empty() || (db.given.is_some() && jobs.len() < request.limit);
    if short && !looked && hints.wants_look(&queues, true, db.given) {
        look_back(db, hints, &queues).await?;
        if jobs.is_empty() && hints.has_limits(&queues) {
            return Ok(Found::Limited);
        }
        jobs.extend(claim(db, hints, &queues, request, request.limit - jobs.len()).await?);
    }
    Ok(Found::Jobs(in_order(jobs)))
}

/// Leases up to `limit` jobs from where the hints say.
async fn claim(
    db: &Db<'_>,
    hints: &Hints,
    queues: &[String],
    request: &LeaseRequest,
    limit: usize,
) -> Result<Vec<(i64, LeasedJob)>> {
    let begin = hints.begin(queues);
    if begin.is_empty() {
        return Ok(Vec::new());
    }
    let jobs = db
        .all(
            "SELECT * FROM selvedge.claim($1, $2, $3, $4, $5, $6, $7, $8, $9, false) /* selvedge claim */",
            params![
                begin.iter().map(|after| after.queue.as_str()).collect::<Vec<_>>(),
                begin.iter().map(|after| after.priority).collect::<Vec<_>>(),
                begin.iter().map(|after| after.place.0).collect::<Vec<_>>(),
                begin.iter().map(|after| after.place.1).collect::<Vec<_>>(),
                rows(limit),
                micros(request.hold.min(LeaseRequest::MAX_HOLD)),
                token(),
                &*words(&request.owner),
                db.given,
            ],
            leased_job,
        )
        .await?;
    hints.claimed(jobs.iter().map(|(due, job)| (job.queue.as_str(), job.priority, (*due, job.id.0))));
    Ok(jobs)
}

/// Looks through the queues from their heads, for the hints' sake.
async fn look_back(db: &Db<'_>, hints: &Hints, queues: &[String]) -> Result<()> {
    let before = hints.look(queues, db.given);
    let sql = "SELECT * FROM selvedge.look_back($1, $2, false) /* selvedge look-back */";
    match db.all(sql, params![queues.to_vec(), db.given], seen).await {
        Ok(seen) => {
            let mut look = Look::default();
            for seen in seen {
                match seen {
                    Seen::First(after) => look.first.push(after),
                    Seen::Limited(queue) => look.limited.push(queue),
                    // By a test's clock nothing is rationed: what is found must not depend on how busy the machine is.
                    Seen::Cost(cost) if db.given.is_none() => look.cost = cost,
                    Seen::Cost(_) => (),
                }
            }
            hints.looked(queues, &look);
            Ok(())
        }
        Err(error) => {
            hints.not_looked(before);
            Err(error)
        }
    }
}

/// A row of a look back's answer.
enum Seen {
    First(After),
    Limited(String),
    Cost(Duration),
}

fn seen(row: &Row) -> Result<Seen> {
    let Some(queue) = get::<Option<String>>(row, "at_queue")? else {
        return get(row, "at_due").map(duration).map(Seen::Cost);
    };
    let Some(priority) = get::<Option<i16>>(row, "at_priority")? else { return Ok(Seen::Limited(queue)) };
    Ok(Seen::First(After { queue, priority, place: (get(row, "at_due")?, get(row, "at_id")?) }))
}

fn distinct(request: &LeaseRequest) -> Vec<String> {
    let mut queues = request.queues.clone();
    queues.sort_unstable();
    queues.dedup();
    queues
}

/// One token for all jobs of a claim: it is never given again, and with the job's number it names this lease and no other.
fn token() -> i64 {
    fastrand::i64(..)
}

/// RETURNING promises no order.
fn in_order(mut jobs: Vec<(i64, LeasedJob)>) -> Vec<LeasedJob> {
    jobs.sort_unstable_by_key(|(due, job)| (job.priority, *due, job.id.0));
    jobs.into_iter().map(|(_, job)| job).collect()
}

/// A job as it was just leased, and when it was due. The columns of the table, by number: a name is looked up for each row.
fn leased_job(row: &Row) -> Result<(i64, LeasedJob)> {
    let id = get(row, "id")?;
    let job = LeasedJob {
        lease: Lease { target: LeaseTarget::Job, id, token: get(row, "token")? },
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
        leased_until: time(row, "leased_until")?,
    };
    Ok((get(row, "run_at")?, job))
}

/// The first $3 jobs of queue $1 that may run at $2, and none that somebody else has locked.
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
  SELECT due.priority, due.run_at, due.id, NULL::text FROM level CROSS JOIN LATERAL (
    SELECT priority, run_at, id FROM selvedge.job
    WHERE state = 0 AND token IS NULL AND queue = $1 AND job.priority = level.priority AND run_at <= $2
    ORDER BY run_at, id LIMIT $3 FOR UPDATE SKIP LOCKED
  ) AS due LIMIT $3";

/// The same within a limit of $4 running jobs for each tenant, in the order of `selvedge_core::store::in_turns`. A tenant at its limit
/// is skipped, not scanned.
const NEXT_OF_TENANTS: &str = "
  WITH RECURSIVE tenant AS (
    (SELECT tenant AS name FROM selvedge.job WHERE state = 0 AND tenant IS NOT NULL AND queue = $1 ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT next.tenant FROM selvedge.job AS next
            WHERE next.state = 0 AND next.tenant IS NOT NULL AND next.queue = $1 AND next.tenant > tenant.name
            ORDER BY next.tenant LIMIT 1)
    FROM tenant WHERE tenant.name IS NOT NULL
  ), running AS (
    SELECT tenant AS name, count(*) AS jobs FROM selvedge.slot WHERE queue = $1 AND tenant IS NOT NULL GROUP BY tenant
  ), due AS (
    SELECT due.priority, due.run_at, due.id, tenant.name
    FROM tenant LEFT JOIN running USING (name) CROSS JOIN LATERAL (
      SELECT priority, run_at, id FROM selvedge.job
      WHERE state = 0 AND token IS NULL AND tenant IS NOT NULL AND queue = $1 AND job.tenant = tenant.name AND run_at <= $2
      ORDER BY priority, run_at, id LIMIT least($3, greatest($4 - coalesce(running.jobs, 0), 0))
    ) AS due
    UNION ALL
    (SELECT priority, run_at, id, '' FROM selvedge.job
     WHERE state = 0 AND token IS NULL AND tenant IS NULL AND queue = $1 AND run_at <= $2
     ORDER BY priority, run_at, id LIMIT $3)
  ), placed AS (
    SELECT *, row_number() OVER (PARTITION BY priority, name ORDER BY run_at, id) AS round FROM due
  )
  SELECT placed.priority, placed.run_at, placed.id, placed.name
  FROM placed LEFT JOIN selvedge.turn AS served ON served.queue = $1 AND served.priority = placed.priority
  ORDER BY placed.priority, placed.round, coalesce(placed.name COLLATE \"C\" <= served.tenant, false),
           placed.name COLLATE \"C\"
  LIMIT $3";

/// Leases from queues of which some have limits. The slots for a batch are taken together, under the lock of the queue's row.
pub(crate) async fn lease_within_limits(tx: &mut Tx<'_>, request: &LeaseRequest) -> Result<Vec<LeasedJob>> {
    let queues = distinct(request);
    job::rescue(tx).await?;
    let settings = settings(tx, &queues).await?;
    let limits = |queue: &String| settings.get(queue).copied().unwrap_or_default();
    let mut ready = Vec::with_capacity(queues.len());
    for queue in &queues {
        let (paused, limits) = limits(queue);
        ready.push(if paused { Vec::new() } else { next_of(tx, queue, limits, request.limit).await? });
    }
    let chosen = one_line(ready, request.limit);
    if chosen.is_empty() {
        return Ok(Vec::new());
    }
    let hold = micros(request.hold.min(LeaseRequest::MAX_HOLD));
    let ids = chosen.iter().map(|(_, job)| job.id.0).collect::<Vec<_>>();
    let sql = "SELECT * FROM selvedge.claim_chosen($1, $2, $3, $4, $5)";
    let leased = tx.all(sql, params![ids, hold, token(), &*words(&request.owner), tx.now.0], leased_job).await?;
    // RETURNING promises no order; and somebody may have locked one that was chosen.
    let mut leased: HashMap<JobId, LeasedJob> = leased.into_iter().map(|(_, job)| (job.id, job)).collect();
    let leased: Vec<LeasedJob> = chosen.iter().filter_map(|(_, job)| leased.remove(&job.id)).collect();
    remember_turns(tx, leased.iter().filter(|job| limits(&job.queue).1.tenant.is_some())).await?;
    Ok(leased)
}

/// Writes down which tenants were served last.
async fn remember_turns(tx: &Tx<'_>, leased: impl Iterator<Item = &LeasedJob>) -> Result<()> {
    let served = leased.map(|job| ((job.queue.as_str(), job.priority), job.tenant.as_deref().unwrap_or_default()));
    let served: BTreeMap<(&str, i16), &str> = served.collect();
    if served.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO selvedge.turn (queue, priority, tenant) SELECT * FROM unnest($1::text[], $2::smallint[], $3::text[])
               ON CONFLICT (queue, priority) DO UPDATE SET tenant = excluded.tenant";
    let (queues, priorities): (Vec<_>, Vec<_>) = served.keys().copied().unzip();
    tx.run(sql, params![queues, priorities, served.into_values().collect::<Vec<_>>()]).await.map(drop)
}

/// Which queues are paused, and their limits. Whoever leases from a queue with a limit holds its row until the end, so that
/// two never count the same free places.
async fn settings(tx: &Tx<'_>, queues: &[String]) -> Result<HashMap<String, (bool, Limits)>> {
    let sql = "SELECT name, paused, queue_limit, tenant_limit FROM selvedge.queue WHERE name = ANY($1) ORDER BY name
               FOR UPDATE";
    let limit = |row: &Row, column: &str| -> Result<Option<u32>> {
        Ok(get::<Option<i64>>(row, column)?.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)))
    };
    let read = |row: &Row| {
        let limits = Limits { queue: limit(row, "queue_limit")?, tenant: limit(row, "tenant_limit")? };
        Ok((get::<String>(row, "name")?, (get::<bool>(row, "paused")?, limits)))
    };
    Ok(tx.all(sql, params![queues.to_vec()], read).await?.into_iter().collect())
}

/// The first `limit` jobs of a queue that may run now, within its limits.
async fn next_of(tx: &Tx<'_>, queue: &str, limits: Limits, limit: usize) -> Result<Vec<Ready>> {
    let mut room = rows(limit);
    if limits != Limits::default() {
        // The slots of jobs that have ended, or were given back, are free.
        let sql = "DELETE FROM selvedge.slot WHERE queue = $1 AND NOT EXISTS (
                     SELECT 1 FROM selvedge.job WHERE job.id = slot.job AND job.token = slot.token)";
        tx.run(sql, params![queue]).await?;
    }
    if let Some(most) = limits.queue {
        let sql = "SELECT count(*) FROM selvedge.slot WHERE queue = $1";
        let running: i64 = tx.one(sql, params![queue], |row| get(row, 0)).await?.unwrap_or(0);
        room = room.min(i64::from(most) - running);
    }
    if room <= 0 {
        return Ok(Vec::new());
    }
    let read = |row: &Row| {
        let (priority, run_at, id) = (get(row, 0)?, Timestamp(get(row, 1)?), JobId(get(row, 2)?));
        Ok(Ready { priority, run_at, id, tenant: get(row, 3)? })
    };
    match limits.tenant {
        None => tx.all(NEXT, params![queue, tx.now.0, room], read).await,
        Some(most) => tx.all(NEXT_OF_TENANTS, params![queue, tx.now.0, room, i64::from(most)], read).await,
    }
}
