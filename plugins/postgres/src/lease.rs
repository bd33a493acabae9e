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
    hints::{After, Hints},
    job,
    tx::{Db, Tx, bytes, count, duration, get, micros, optional_bytes, params, rows, time, trace, words},
};

/// A claim found less than was asked for, or a limit in its way.
pub(crate) enum Found {
    /// These are all there is, or as many as were asked for.
    Jobs(Vec<LeasedJob>),
    /// One of the queues has limits, which only a transaction of several statements keeps.
    Limited,
}

/// Leases from queues without limits, in one statement: a claim from where the last one ended, and a look back when it comes short.
pub(crate) async fn lease(db: &Db<'_>, hints: &Hints, request: &LeaseRequest) -> Result<Found> {
    if request.limit == 0 {
        return Ok(Found::Jobs(Vec::new()));
    }
    let queues = distinct(request);
    let first = hints.wants_look(&queues, false, db.given);
    let may = first || hints.wants_look(&queues, true, db.given);
    // What is told from now on, neither the claim nor the look may see.
    let begin = hints.begin(&queues);
    let before = may.then(|| hints.look(&queues, db.given));
    let (leased, look) = match ask(db, &queues, if first { &[] } else { &begin }, request, first, may).await {
        Ok(answer) => answer,
        Err(error) => {
            before.into_iter().for_each(|before| hints.not_looked(before));
            return Err(error);
        }
    };
    let [from_hints, from_look] = leased;
    claimed(hints, &from_hints);
    match (look, before) {
        (Some(look), _) => {
            // Under a test's clock nothing is rationed: what is found must not depend on how busy the machine is.
            let cost = if db.given.is_some() { Duration::ZERO } else { look.cost };
            hints.looked(&queues, cost, &look.first, &look.limited);
            if !look.limited.is_empty() && from_hints.is_empty() {
                return Ok(Found::Limited);
            }
        }
        // The claim did not come short.
        (None, Some(before)) => hints.not_looked(before),
        (None, None) => (),
    }
    claimed(hints, &from_look);
    Ok(Found::Jobs(in_order(from_hints.into_iter().chain(from_look).collect())))
}

fn claimed(hints: &Hints, jobs: &[(i64, LeasedJob)]) {
    hints.claimed(jobs.iter().map(|(due, job)| (job.queue.as_str(), job.priority, (*due, job.id.0))));
}

/// What a look back found: the first ready job of each priority from the head of each queue, and the queues with limits.
#[derive(Default)]
struct Look {
    first: Vec<After>,
    limited: Vec<String>,
    cost: Duration,
}

/// A row of the answer.
enum Told {
    Job(i64, LeasedJob),
    First(After),
    Limited(String),
    Cost(i64),
}

type Leased = Vec<(i64, LeasedJob)>;

/// The one statement: what was claimed from the hints and what after a look, and the look if there was one.
async fn ask(
    db: &Db<'_>,
    queues: &[String],
    begin: &[After],
    request: &LeaseRequest,
    first: bool,
    may: bool,
) -> Result<([Leased; 2], Option<Look>)> {
    // They are told apart in a log.
    let sql = if first {
        "SELECT * FROM selvedge.lease($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) /* selvedge look-back */"
    } else {
        "SELECT * FROM selvedge.lease($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) /* selvedge claim */"
    };
    let tokens = [token(), token()];
    let told = db
        .all(
            sql,
            params![
                queues.to_vec(),
                begin.iter().map(|after| after.queue.as_str()).collect::<Vec<_>>(),
                begin.iter().map(|after| after.priority).collect::<Vec<_>>(),
                begin.iter().map(|after| after.place.0).collect::<Vec<_>>(),
                begin.iter().map(|after| after.place.1).collect::<Vec<_>>(),
                rows(request.limit),
                micros(request.hold.min(LeaseRequest::MAX_HOLD)),
                tokens.to_vec(),
                &*words(&request.owner),
                first,
                may,
                db.given,
            ],
            told,
        )
        .await?;
    let (mut leased, mut look) = ([Vec::new(), Vec::new()], Look::default());
    let mut looked = false;
    for told in told {
        match told {
            Told::Job(due, job) => leased[usize::from(job.lease.token == tokens[1])].push((due, job)),
            Told::First(after) => look.first.push(after),
            Told::Limited(queue) => look.limited.push(queue),
            Told::Cost(cost) => (look.cost, looked) = (duration(cost), true),
        }
    }
    Ok((leased, looked.then_some(look)))
}

fn told(row: &Row) -> Result<Told> {
    if get::<Option<i64>>(row, "token")?.is_some() {
        return leased_job(row).map(|(due, job)| Told::Job(due, job));
    }
    let Some(queue) = get::<Option<String>>(row, "queue")? else { return get(row, "run_at").map(Told::Cost) };
    let Some(priority) = get::<Option<i16>>(row, "priority")? else { return Ok(Told::Limited(queue)) };
    Ok(Told::First(After { queue, priority, place: (get(row, "run_at")?, get(row, "id")?) }))
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

/// RETURNING promises no order, and what a look back found comes last.
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
