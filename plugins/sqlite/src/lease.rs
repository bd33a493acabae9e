//! Leasing: which jobs are next, and making them somebody's.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Row, params};
use selvedge_core::{
    Result, Timestamp,
    store::{JobId, Lease, LeaseRequest, LeaseTarget, LeasedJob, Ready, in_turns, one_line},
};

use crate::{
    job::{self, Settings},
    ready,
    span::Span,
    tx::{Tx, bytes, optional_bytes, time, trace},
};

/// A job's place in the order of its queue: priority, then due time, then number.
type Place = (i16, i64, i64);

/// What all leases of one call have in common.
struct Grant<'a> {
    /// A job's token is this plus its number: random, and such that a range of jobs can be checked at once.
    base: i64,
    until: Timestamp,
    owner: &'a str,
}

/// What a leased job is read from, in this order.
const COLUMNS: &str = "job.id, job.run_at, enqueued_at, attempt, max_attempts, job.tenant, checkpoint, trace, payload";

impl Grant<'_> {
    /// The job of a row, with its due time.
    fn job(&self, queue: &str, priority: i16, row: &Row<'_>) -> rusqlite::Result<(i64, LeasedJob)> {
        // Columns by number: looking a name up costs as much as reading the value.
        let id: i64 = row.get(0)?;
        let job = LeasedJob {
            lease: Lease { target: LeaseTarget::Job, id, token: self.base + id },
            id: JobId(id),
            queue: queue.to_owned(),
            payload: bytes(row, 8)?,
            priority,
            tenant: row.get(5)?,
            attempt: row.get::<_, u32>(3)? + 1,
            max_attempts: row.get(4)?,
            checkpoint: optional_bytes(row, 6)?,
            trace: trace(row, 7)?,
            enqueued_at: time(row, 2)?,
            leased_until: self.until,
        };
        Ok((row.get(1)?, job))
    }
}

/// Jobs of one queue and priority.
#[derive(Clone, Copy)]
enum Which {
    /// The first ones that are due, this many at most.
    First(i16, usize),
    /// The one at this place.
    Only(Place),
}

pub(crate) fn lease(tx: &mut Tx<'_>, request: &LeaseRequest) -> Result<Vec<LeasedJob>> {
    let until = tx.now + request.hold.min(LeaseRequest::MAX_HOLD);
    let grant = Grant { base: fastrand::i64(0..1 << 62), until, owner: &request.owner };
    let mut queues: Vec<(&str, Settings)> = Vec::with_capacity(request.queues.len());
    for (index, queue) in request.queues.iter().enumerate() {
        if request.queues[..index].contains(queue) {
            continue;
        }
        let mut settings = job::settings(tx, queue)?;
        job::rescue_queue(tx, queue, &mut settings)?;
        if !settings.paused {
            queues.push((queue, settings));
        }
    }
    let mut leased = Vec::new();
    match queues.as_slice() {
        [(queue, settings)] if settings.limits.tenant.is_none() => {
            let room = room(tx, queue, settings, request.limit)?;
            let mut above = i64::from(i16::MIN) - 1;
            while leased.len() < room {
                let Some(level) = next_level(tx, queue, None, above)? else { break };
                leased.extend(take(tx, queue, settings, &grant, Which::First(level, room - leased.len()))?);
                above = i64::from(level);
            }
        }
        _ => {
            let mut ready = Vec::with_capacity(queues.len());
            for (queue, settings) in &queues {
                let room = room(tx, queue, settings, request.limit)?;
                ready.push(match settings.limits.tenant {
                    None => by_priority(tx, queue, &Tenants::All, room)?,
                    Some(most) => within_tenant_limit(tx, queue, most as usize, room)?,
                });
            }
            let line = one_line(ready, request.limit);
            for (which, queue, settings) in shares(&queues, &line) {
                leased.extend(take(tx, queue, settings, &grant, which)?);
            }
            let places: HashMap<JobId, usize> = line.iter().map(|(_, job)| job.id).zip(0..).collect();
            leased.sort_unstable_by_key(|(_, job)| places.get(&job.id));
            remember_turns(tx, &queues, &line)?;
        }
    }
    Ok(leased.into_iter().map(|(_, job)| job).collect())
}

/// What is taken from each queue, of the jobs that were chosen from all of them.
fn shares<'a>(queues: &'a [(&'a str, Settings)], line: &[(usize, Ready)]) -> Vec<(Which, &'a str, &'a Settings)> {
    let (mut single, mut first) = (Vec::new(), BTreeMap::<_, usize>::new());
    for (index, job) in line {
        let (queue, settings) = &queues[*index];
        if settings.limits.tenant.is_some() {
            // Others may stand before it, whose turn it is not or whose tenant has no room.
            single.push((Which::Only((job.priority, job.run_at.0, job.id.0)), *queue, settings));
        } else {
            *first.entry((*index, job.priority)).or_default() += 1;
        }
    }
    let first = first.into_iter().map(|((index, priority), count)| (Which::First(priority, count), index));
    single.extend(first.map(|(which, index)| (which, queues[index].0, &queues[index].1)));
    single
}

/// Writes down which tenants were served last.
fn remember_turns(tx: &Tx<'_>, queues: &[(&str, Settings)], line: &[(usize, Ready)]) -> Result<()> {
    let turns = line.iter().filter(|(index, _)| queues[*index].1.limits.tenant.is_some());
    let served: BTreeMap<_, _> = turns.map(|(index, job)| ((*index, job.priority), &job.tenant)).collect();
    for ((index, priority), tenant) in served {
        let sql = "INSERT INTO turn (queue, priority, tenant) VALUES (?1, ?2, ?3)
                   ON CONFLICT DO UPDATE SET tenant = excluded.tenant";
        tx.run(sql, params![queues[index].0, priority, tenant.as_deref().unwrap_or_default()])?;
    }
    Ok(())
}

/// Leases jobs; with their due times, in order.
fn take(
    tx: &Tx<'_>,
    queue: &str,
    settings: &Settings,
    grant: &Grant<'_>,
    which: Which,
) -> Result<Vec<(i64, LeasedJob)>> {
    let taken = match which {
        Which::First(priority, count) => take_first(tx, queue, priority, grant, count)?,
        Which::Only(place) => take_one(tx, queue, place, grant)?,
    };
    let limited = settings.has_limits();
    for run in taken.chunk_by(|(_, a), (_, b)| !limited && a.id.0 + 1 == b.id.0) {
        grant_span(tx, queue, grant, limited, run)?;
    }
    if !taken.is_empty() && settings.rescue_at.is_none_or(|at| at > grant.until.0) {
        job::rescue_by(tx, queue, grant.until)?;
    }
    Ok(taken)
}

/// Takes the first jobs of a priority that are due out of those that wait.
fn take_first(
    tx: &Tx<'_>,
    queue: &str,
    priority: i16,
    grant: &Grant<'_>,
    count: usize,
) -> Result<Vec<(i64, LeasedJob)>> {
    let sql = format!(
        "SELECT {COLUMNS}, ready.last FROM ready CROSS JOIN job ON job.id BETWEEN ready.id AND ready.last
         WHERE ready.queue = ?1 AND ready.priority = ?2 AND ready.run_at <= ?3
         ORDER BY ready.run_at, ready.id, job.id LIMIT ?4"
    );
    let most = i64::try_from(count).unwrap_or(i64::MAX);
    let (mut taken, mut span_end) = (Vec::new(), 0);
    tx.each(&sql, params![queue, priority, tx.now.0, most], |row| {
        if taken.is_empty() {
            taken.reserve(count.min(256));
        }
        taken.push(grant.job(queue, priority, row)?);
        span_end = row.get(9)?;
        Ok(())
    })?;
    if let (Some((from, first)), Some((to, last))) = (taken.first(), taken.last()) {
        ready::remove_first(tx, (queue, priority), (*from, first.id.0), (*to, last.id.0))?;
        if last.id.0 < span_end {
            ready::add_span(tx, (queue, priority, *to), last.tenant.as_deref(), (last.id.0 + 1, span_end))?;
        }
    }
    Ok(taken)
}

/// Takes the job at a place, wherever it stands among those that wait.
fn take_one(tx: &Tx<'_>, queue: &str, (priority, _, id): Place, grant: &Grant<'_>) -> Result<Vec<(i64, LeasedJob)>> {
    let sql = format!("SELECT {COLUMNS} FROM job WHERE id = ?1");
    let taken = tx.one(&sql, [id], |row| grant.job(queue, priority, row))?;
    ready::remove(tx, id)?;
    Ok(taken.into_iter().collect())
}

/// Writes down whose a run of jobs is from now on.
fn grant_span(tx: &Tx<'_>, queue: &str, grant: &Grant<'_>, limited: bool, run: &[(i64, LeasedJob)]) -> Result<()> {
    let ([(_, first), ..], [.., (_, last)]) = (run, run) else { return Ok(()) };
    let span = Span {
        first: first.id.0,
        last: last.id.0,
        token: first.lease.token,
        leased_at: tx.now,
        leased_until: grant.until,
        queue: queue.to_owned(),
        tenant: first.tenant.clone().filter(|_| limited),
        owner: grant.owner.to_owned(),
        limited,
        cancelled: false,
    };
    span.insert(tx)
}

/// How many jobs of the queue may be leased, at most `limit`.
fn room(tx: &Tx<'_>, queue: &str, settings: &Settings, limit: usize) -> Result<usize> {
    let Some(most) = settings.limits.queue else { return Ok(limit) };
    let sql = "SELECT count(*) FROM lease INDEXED BY lease_limited WHERE limited = 1 AND queue = ?1";
    let running: i64 = tx.one(sql, [queue], |row| row.get(0))?.unwrap_or(0);
    Ok(limit.min(usize::try_from(i64::from(most) - running).unwrap_or(0)))
}

/// Whose jobs are looked at.
enum Tenants<'a> {
    All,
    None,
    One(&'a str),
}

/// The first `room` jobs of a queue that may run now. Goes from one priority to the next, so that jobs which are not due
/// yet are never scanned: within one priority what is due is the beginning.
fn by_priority(tx: &Tx<'_>, queue: &str, tenants: &Tenants<'_>, room: usize) -> Result<Vec<Ready>> {
    let (index, condition) = match tenants {
        Tenants::All => ("", ""),
        Tenants::None => ("", "AND tenant IS NULL"),
        Tenants::One(_) => ("INDEXED BY ready_tenant", "AND tenant = ?5"),
    };
    let tenant = match tenants {
        Tenants::One(tenant) => Some(*tenant),
        Tenants::All | Tenants::None => None,
    };
    let mut ready: Vec<Ready> = Vec::new();
    let mut above = i64::from(i16::MIN) - 1;
    while ready.len() < room {
        let level = next_level(tx, queue, tenant, above)?;
        let Some(priority) = level else { break };
        let sql = format!(
            "SELECT run_at, id, last FROM ready {index}
             WHERE queue = ?1 AND priority = ?2 AND run_at <= ?3 {condition} ORDER BY run_at, id LIMIT ?4"
        );
        let rest = i64::try_from(room - ready.len()).unwrap_or(i64::MAX);
        let read = |row: &Row<'_>| {
            let (run_at, first, last) = (time(row, 0)?, row.get::<_, i64>(1)?, row.get(2)?);
            let job = |id| Ready { priority, run_at, id: JobId(id), tenant: tenant.map(str::to_owned) };
            ready.extend((first..=last).take(room - ready.len()).map(job));
            Ok(())
        };
        match tenant {
            Some(tenant) => tx.each(&sql, params![queue, priority, tx.now.0, rest, tenant], read)?,
            None => tx.each(&sql, params![queue, priority, tx.now.0, rest], read)?,
        }
        above = i64::from(priority);
    }
    Ok(ready)
}

fn next_level(tx: &Tx<'_>, queue: &str, tenant: Option<&str>, above: i64) -> Result<Option<i16>> {
    match tenant {
        Some(tenant) => {
            let sql = "SELECT priority FROM ready INDEXED BY ready_tenant
                       WHERE tenant IS NOT NULL AND queue = ?1 AND tenant = ?3 AND priority > ?2
                       ORDER BY priority LIMIT 1";
            tx.one(sql, params![queue, above, tenant], |row| row.get(0))
        }
        None => {
            let sql = "SELECT priority FROM ready WHERE queue = ?1 AND priority > ?2 ORDER BY priority LIMIT 1";
            tx.one(sql, params![queue, above], |row| row.get(0))
        }
    }
}

/// Asks each tenant with room for its first jobs, so that one at its limit is skipped, not scanned; they take turns.
fn within_tenant_limit(tx: &Tx<'_>, queue: &str, most: usize, room: usize) -> Result<Vec<Ready>> {
    if room == 0 {
        return Ok(Vec::new());
    }
    let sql = "SELECT tenant, count(*) FROM lease INDEXED BY lease_limited
               WHERE limited = 1 AND queue = ?1 AND tenant IS NOT NULL GROUP BY tenant";
    let running: HashMap<String, usize> =
        tx.all(sql, [queue], |row| Ok((row.get(0)?, row.get(1)?)))?.into_iter().collect();
    let mut ready = by_priority(tx, queue, &Tenants::None, room)?;
    let mut last = String::new();
    let sql = "SELECT tenant FROM ready INDEXED BY ready_tenant
               WHERE tenant IS NOT NULL AND queue = ?1 AND tenant > ?2 ORDER BY tenant LIMIT 1";
    while let Some(tenant) = tx.one(sql, params![queue, last], |row| row.get::<_, String>(0))? {
        let free = most.saturating_sub(running.get(&tenant).copied().unwrap_or(0));
        ready.extend(by_priority(tx, queue, &Tenants::One(&tenant), free.min(room))?);
        last = tenant;
    }
    let sql = "SELECT priority, tenant FROM turn WHERE queue = ?1";
    let served: HashMap<i16, String> =
        tx.all(sql, [queue], |row| Ok((row.get(0)?, row.get(1)?)))?.into_iter().collect();
    let mut ready = in_turns(ready, |priority| served.get(&priority).map(String::as_str));
    ready.truncate(room);
    Ok(ready)
}
