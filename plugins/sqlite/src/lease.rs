//! Leasing: which jobs are next, and making them somebody's.

use std::collections::HashMap;

use rusqlite::{Row, params};
use selvedge_core::{
    Result, Timestamp,
    store::{JobId, Lease, LeaseRequest, LeaseTarget, LeasedJob},
};

use crate::{
    job,
    tx::{Tx, bytes, optional_bytes, time, trace},
};

/// A job's place in the order of its queue: priority, then due time, then number.
type Place = (i16, i64, i64);

pub(crate) fn lease(tx: &mut Tx<'_>, request: &LeaseRequest) -> Result<Vec<LeasedJob>> {
    let mut places: Vec<Place> = Vec::new();
    for (index, queue) in request.queues.iter().enumerate() {
        if !request.queues[..index].contains(queue) {
            job::rescue(tx, Some(queue))?;
            places.extend(next_of(tx, queue, request.limit)?);
        }
    }
    // Queues are taken from all alike: by the same order that holds within each.
    places.sort_unstable();
    places.truncate(request.limit);
    let until = tx.now + request.hold.min(LeaseRequest::MAX_HOLD);
    let (which, ids) = match places.as_slice() {
        [] => return Ok(Vec::new()),
        [(_, _, id)] => ("= ?1", id.to_string()),
        // One statement for all of them: most of an update's cost is the statement, not the row.
        _ => {
            let ids = places.iter().map(|(_, _, id)| id.to_string()).collect::<Vec<_>>();
            ("IN (SELECT value FROM json_each(?1))", format!("[{}]", ids.join(",")))
        }
    };
    let sql = format!(
        "UPDATE job SET state = 1, attempt = attempt + 1, token = random(), leased_at = ?2, leased_until = ?3, owner = ?4
         WHERE id {which}
         RETURNING id, token, queue, payload, priority, tenant, attempt, max_attempts, checkpoint, trace, enqueued_at,
                   run_at"
    );
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(11)?, leased_job(row, until)?));
    let mut leased = tx.all(&sql, params![ids, tx.now.0, until.0, request.owner], read)?;
    // SQLite does not promise an order for what RETURNING gives.
    leased.sort_unstable_by_key(|(run_at, job)| (job.priority, *run_at, job.id.0));
    Ok(leased.into_iter().map(|(_, job)| job).collect())
}

/// Columns by number: looking a name up costs as much as reading the value.
fn leased_job(row: &Row<'_>, leased_until: Timestamp) -> rusqlite::Result<LeasedJob> {
    let id = row.get(0)?;
    Ok(LeasedJob {
        lease: Lease { target: LeaseTarget::Job, id, token: row.get(1)? },
        id: JobId(id),
        queue: row.get(2)?,
        payload: bytes(row, 3)?,
        priority: row.get(4)?,
        tenant: row.get(5)?,
        attempt: row.get(6)?,
        max_attempts: row.get(7)?,
        checkpoint: optional_bytes(row, 8)?,
        trace: trace(row, 9)?,
        enqueued_at: time(row, 10)?,
        leased_until,
    })
}

/// The first `limit` places of a queue that may run now, within its limits.
fn next_of(tx: &Tx<'_>, queue: &str, limit: usize) -> Result<Vec<Place>> {
    let (paused, limits) = job::settings(tx, queue)?;
    if paused {
        return Ok(Vec::new());
    }
    let mut room = limit;
    if let Some(most) = limits.queue {
        let sql = "SELECT count(*) FROM job WHERE state = 1 AND queue = ?1";
        let running: i64 = tx.one(sql, [queue], |row| row.get(0))?.unwrap_or(0);
        room = room.min(usize::try_from(i64::from(most) - running).unwrap_or(0));
    }
    match limits.tenant {
        None => by_priority(tx, queue, &Tenants::All, room),
        Some(most) => within_tenant_limit(tx, queue, most as usize, room),
    }
}

/// Whose jobs are looked at.
enum Tenants<'a> {
    All,
    None,
    One(&'a str),
}

/// Goes from one priority to the next, so that jobs which are not due yet are never scanned: within one priority what is
/// due is the beginning of the index.
fn by_priority(tx: &Tx<'_>, queue: &str, tenants: &Tenants<'_>, room: usize) -> Result<Vec<Place>> {
    let (index, condition) = match tenants {
        Tenants::All => ("job_ready", ""),
        Tenants::None => ("job_ready", "AND tenant IS NULL"),
        Tenants::One(_) => ("job_tenant", "AND tenant = ?5"),
    };
    let tenant = match tenants {
        Tenants::One(tenant) => Some(*tenant),
        Tenants::All | Tenants::None => None,
    };
    let mut places: Vec<Place> = Vec::new();
    let mut above = i64::from(i16::MIN) - 1;
    while places.len() < room {
        let level = next_level(tx, queue, tenant, above)?;
        let Some(priority) = level else { break };
        let sql = format!(
            "SELECT run_at, id FROM job INDEXED BY {index}
             WHERE state = 0 AND queue = ?1 AND priority = ?2 AND run_at <= ?3 {condition} ORDER BY run_at, id LIMIT ?4"
        );
        let rest = i64::try_from(room - places.len()).unwrap_or(i64::MAX);
        let read = |row: &Row<'_>| Ok((priority, row.get(0)?, row.get(1)?));
        places.extend(match tenant {
            Some(tenant) => tx.all(&sql, params![queue, priority, tx.now.0, rest, tenant], read)?,
            None => tx.all(&sql, params![queue, priority, tx.now.0, rest], read)?,
        });
        above = i64::from(priority);
    }
    Ok(places)
}

fn next_level(tx: &Tx<'_>, queue: &str, tenant: Option<&str>, above: i64) -> Result<Option<i16>> {
    match tenant {
        Some(tenant) => {
            let sql = "SELECT priority FROM job INDEXED BY job_tenant
                       WHERE state = 0 AND tenant IS NOT NULL AND queue = ?1 AND tenant = ?3 AND priority > ?2
                       ORDER BY priority LIMIT 1";
            tx.one(sql, params![queue, above, tenant], |row| row.get(0))
        }
        None => {
            let sql = "SELECT priority FROM job INDEXED BY job_ready WHERE state = 0 AND queue = ?1 AND priority > ?2
                       ORDER BY priority LIMIT 1";
            tx.one(sql, params![queue, above], |row| row.get(0))
        }
    }
}

/// Asks each tenant with room for its first jobs, so that one at its limit is skipped, not scanned.
fn within_tenant_limit(tx: &Tx<'_>, queue: &str, most: usize, room: usize) -> Result<Vec<Place>> {
    if room == 0 {
        return Ok(Vec::new());
    }
    let sql = "SELECT tenant, count(*) FROM job WHERE state = 1 AND queue = ?1 AND tenant IS NOT NULL GROUP BY tenant";
    let running: HashMap<String, usize> =
        tx.all(sql, [queue], |row| Ok((row.get(0)?, row.get(1)?)))?.into_iter().collect();
    let mut places = by_priority(tx, queue, &Tenants::None, room)?;
    let mut last = String::new();
    let sql = "SELECT tenant FROM job INDEXED BY job_tenant
               WHERE state = 0 AND tenant IS NOT NULL AND queue = ?1 AND tenant > ?2 ORDER BY tenant LIMIT 1";
    while let Some(tenant) = tx.one(sql, params![queue, last], |row| row.get::<_, String>(0))? {
        let free = most.saturating_sub(running.get(&tenant).copied().unwrap_or(0));
        places.extend(by_priority(tx, queue, &Tenants::One(&tenant), free.min(room))?);
        last = tenant;
    }
    places.sort_unstable();
    places.truncate(room);
    Ok(places)
}
