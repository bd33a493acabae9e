//! Typed reads.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rusqlite::{Connection, Params, Row, ToSql, params, params_from_iter};
use selvedge_core::{
    Error, Result, Timestamp,
    intent::IntentState,
    store::{
        EventView, JobFilter, JobId, JobState, JobView, LoadHistory, Page, Query, QueueStats, Rows, StickyAssignment,
    },
};

use crate::{
    cron,
    error::from_sql,
    fact, intent, load, outbox,
    span::OF_JOB,
    topic,
    tx::{bytes, optional_bytes, optional_time, time, trace},
};

fn read_error(error: rusqlite::Error) -> Error {
    from_sql("store.read", error)
}

/// Answers every query but `Info`, which the Store itself knows.
pub(crate) fn read(conn: &Connection, query: &Query, now: Timestamp) -> Result<Rows> {
    Ok(match query {
        Query::Jobs(filter) => Rows::Jobs(jobs(conn, filter)?),
        Query::Job(id) => {
            let sql = format!("{JOBS} {OF_JOB} WHERE job.id = ?1");
            Rows::Jobs(Page { items: all(conn, &sql, [id.0], job)?, next: None })
        }
        Query::Queues => Rows::Queues(queues(conn, now)?),
        Query::Schedules => {
            let sql = "SELECT cron, next_at FROM schedule ORDER BY name";
            let rows = all(conn, sql, [], |row| Ok((row.get::<_, String>(0)?, time(row, "next_at")?)))?;
            let parsed = rows.into_iter().map(|(json, next)| Ok((cron::parse(&json)?, next)));
            Rows::Schedules(parsed.collect::<Result<_>>()?)
        }
        Query::Outbox { dead, after, limit } => {
            let sql = if *dead {
                "SELECT * FROM outbox INDEXED BY outbox_dead WHERE state = 3 AND id > ?1 ORDER BY id LIMIT ?2"
            } else {
                "SELECT * FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2"
            };
            Rows::Outbox(page(conn, sql, &[&after.unwrap_or(0)], *limit, event)?)
        }
        Query::Intents(filter) => {
            let condition = match filter.state {
                None => "",
                Some(IntentState::Pending) => "AND answered_at IS NULL",
                Some(IntentState::Done) => "AND answered_at IS NOT NULL AND status BETWEEN 200 AND 299",
                Some(IntentState::Refused) => "AND answered_at IS NOT NULL AND status NOT BETWEEN 200 AND 299",
            };
            let sql = format!("SELECT * FROM intent WHERE id > ?1 {condition} ORDER BY id LIMIT ?2");
            let view = |row: &Row<'_>| Ok((row.get("id")?, intent::view(row)?));
            Rows::Intents(page(conn, &sql, &[&filter.after.unwrap_or(0)], filter.limit, view)?)
        }
        Query::Intent(id) => {
            let sql = "SELECT * FROM intent WHERE intent_id = ?1";
            Rows::Intents(Page { items: all(conn, sql, [id.as_bytes()], intent::view)?, next: None })
        }
        Query::Messages { topic: name, after, limit } => {
            let sql = "SELECT m.cursor, m.payload, m.published_at FROM topic t JOIN message m ON m.topic = t.id
                       WHERE m.cursor > ?1 AND t.name = ?3 ORDER BY m.cursor LIMIT ?2";
            let message = |row: &Row<'_>| topic::message(row).map(|message| (message.cursor, message));
            Rows::Messages(page(conn, sql, &[after, name], *limit, message)?)
        }
        Query::Assignment { subject, experiment } => {
            let sql = "SELECT * FROM assignment WHERE subject = ?1 AND experiment = ?2";
            Rows::Assignment(all(conn, sql, params![subject, experiment], fact::assignment)?.pop())
        }
        Query::Assignments { subjects } => Rows::Assignments(assignments(conn, subjects)?),
        Query::Facts { name, after, limit } => {
            let view = |row: &Row<'_>| Ok((row.get("id")?, fact::view(row)?));
            Rows::Facts(match name {
                Some(name) => {
                    let sql =
                        "SELECT * FROM fact INDEXED BY fact_name WHERE id > ?1 AND name = ?3 ORDER BY id LIMIT ?2";
                    page(conn, sql, &[after, name], *limit, view)?
                }
                None => page(conn, "SELECT * FROM fact WHERE id > ?1 ORDER BY id LIMIT ?2", &[after], *limit, view)?,
            })
        }
        Query::Load => Rows::Load(LoadHistory { now, samples: all(conn, load::SAMPLES, [], load::read)? }),
        // `Query` may grow; a query this build does not know must not be answered with something else.
        _ => return Err(Error::unsupported("sqlite", "store.read")),
    })
}

fn all<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let rows = conn.prepare_cached(sql).and_then(|mut statement| statement.query_map(params, read)?.collect());
    rows.map_err(read_error)
}

/// One page. `?1` is the place after which it begins, `?2` the limit, then the other parameters; one row more than asked
/// for tells whether there is a next page.
fn page<T>(
    conn: &Connection,
    sql: &str,
    values: &[&dyn ToSql],
    limit: usize,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<(i64, T)>,
) -> Result<Page<T>> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let (after, rest) = values.split_at(1);
    let values: Vec<&dyn ToSql> =
        after.iter().copied().chain([&most as &dyn ToSql]).chain(rest.iter().copied()).collect();
    let mut rows = all(conn, sql, &values[..], read)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().map(|(place, _)| *place).filter(|_| more);
    Ok(Page { items: rows.into_iter().map(|(_, row)| row).collect(), next })
}

/// Subjects that one statement asks for: fewer than a statement may have parameters.
const SUBJECTS: usize = 1_000;

fn assignments(conn: &Connection, subjects: &[String]) -> Result<Vec<StickyAssignment>> {
    // In order, so that the parts follow each other, and each once.
    let subjects: Vec<_> = subjects.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let mut rows = Vec::new();
    for some in subjects.chunks(SUBJECTS) {
        let places = vec!["?"; some.len()].join(", ");
        let sql = format!("SELECT * FROM assignment WHERE subject IN ({places}) ORDER BY subject, experiment");
        rows.extend(all(conn, &sql, params_from_iter(some), fact::assignment)?);
    }
    Ok(rows)
}

/// Jobs with their leases, [`OF_JOB`] to follow; `attempts` counts the one that runs.
const JOBS: &str = "SELECT job.*, leased_until, owner, lease.id IS NOT NULL AS running,
                      attempt + (lease.id IS NOT NULL) AS attempts
                    FROM job LEFT JOIN lease ON ";

fn jobs(conn: &Connection, filter: &JobFilter) -> Result<Page<JobView>> {
    let state = match filter.state {
        None => "",
        Some(JobState::Ready) => "AND state = 0 AND lease.id IS NULL",
        Some(JobState::Running) => "AND lease.id IS NOT NULL",
        Some(JobState::Dead) => "AND state = 2",
        Some(JobState::Cancelled) => "AND state = 3",
    };
    let sql = format!(
        "{JOBS} {OF_JOB} WHERE job.id > ?1 AND (?3 IS NULL OR job.queue = ?3) AND (?4 IS NULL OR job.tenant = ?4) {state}
         ORDER BY job.id LIMIT ?2"
    );
    let after = filter.after.map_or(0, |id| id.0);
    page(conn, &sql, &[&after, &filter.queue, &filter.tenant], filter.limit, |row| {
        let view = job(row)?;
        Ok((view.id.0, view))
    })
}

fn job(row: &Row<'_>) -> rusqlite::Result<JobView> {
    Ok(JobView {
        id: JobId(row.get("id")?),
        queue: row.get("queue")?,
        state: match row.get::<_, u8>("state")? {
            0 if row.get("running")? => JobState::Running,
            0 => JobState::Ready,
            2 => JobState::Dead,
            _ => JobState::Cancelled,
        },
        priority: row.get("priority")?,
        tenant: row.get("tenant")?,
        unique: row.get("unique_key")?,
        attempt: row.get("attempts")?,
        max_attempts: row.get("max_attempts")?,
        run_at: time(row, "run_at")?,
        enqueued_at: time(row, "enqueued_at")?,
        leased_until: optional_time(row, "leased_until")?,
        owner: row.get("owner")?,
        last_error: row.get("last_error")?,
        payload: bytes(row, "payload")?,
        checkpoint: optional_bytes(row, "checkpoint")?,
        trace: trace(row, "trace")?,
    })
}

fn event(row: &Row<'_>) -> rusqlite::Result<(i64, EventView)> {
    let number = row.get("id")?;
    let view = EventView {
        number,
        event: outbox::event(row)?,
        attempts: row.get("attempts")?,
        run_at: time(row, "run_at")?,
        emitted_at: time(row, "emitted_at")?,
        dead: row.get::<_, u8>("state")? == 3,
        last_error: row.get("last_error")?,
    };
    Ok((number, view))
}

fn queues(conn: &Connection, now: Timestamp) -> Result<Vec<QueueStats>> {
    let paused = all(conn, "SELECT name FROM queue WHERE paused", [], |row| row.get::<_, String>(0))?;
    let paused: HashSet<String> = paused.into_iter().collect();
    let sql = format!(
        "SELECT job.queue, job.tenant, sum(state = 0 AND lease.id IS NULL AND run_at <= ?1),
                 sum(state = 0 AND lease.id IS NULL AND run_at > ?1), sum(lease.id IS NOT NULL), sum(state = 2),
                 min(iif(state = 0 AND lease.id IS NULL AND run_at <= ?1, run_at, NULL))
         FROM job LEFT JOIN lease ON {OF_JOB} GROUP BY job.queue, job.tenant"
    );
    let rows = all(conn, &sql, [now.0], |row| {
        let queue: String = row.get(0)?;
        let oldest = row.get::<_, Option<i64>>(6)?.map_or(now, Timestamp);
        Ok(QueueStats {
            tenant: row.get(1)?,
            ready: row.get(2)?,
            scheduled: row.get(3)?,
            running: row.get(4)?,
            dead: row.get(5)?,
            oldest: now.since(oldest),
            paused: paused.contains(&queue),
            queue,
        })
    })?;
    let sorted: BTreeMap<_, _> = rows.into_iter().map(|row| ((row.queue.clone(), row.tenant.clone()), row)).collect();
    Ok(sorted.into_values().collect())
}
