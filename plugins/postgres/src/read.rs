//! Typed reads.

use std::collections::HashSet;

use selvedge_core::{
    Error, Result, Timestamp,
    intent::IntentState,
    store::{EventView, JobFilter, JobId, JobState, JobView, Page, Query, QueueStats, Rows},
};
use tokio_postgres::Row;

use crate::{
    cron, fact, intent, load, outbox, topic,
    tx::{Db, Param, bytes, count, get, optional_bytes, optional_time, param, params, rows, time, trace},
};

/// Answers every query but `Info`, which the Store itself knows.
pub(crate) async fn read(db: &Db<'_>, query: Query) -> Result<Rows> {
    Ok(match query {
        Query::Jobs(filter) => Rows::Jobs(jobs(db, &filter).await?),
        Query::Job(id) => {
            let items = db.all("SELECT * FROM selvedge.job WHERE id = $1", params![id.0], job).await?;
            Rows::Jobs(Page { items, next: None })
        }
        Query::Queues => Rows::Queues(queues(db).await?),
        Query::Schedules => {
            let sql = "SELECT cron, next_at FROM selvedge.schedule ORDER BY name COLLATE \"C\"";
            let read = |row: &Row| Ok((cron::parse(get(row, "cron")?)?, time(row, "next_at")?));
            Rows::Schedules(db.all(sql, &[], read).await?)
        }
        Query::Outbox { dead, after, limit } => {
            let condition = if dead { "AND state = 3" } else { "" };
            let sql = format!("SELECT * FROM selvedge.outbox WHERE id > $1 {condition} ORDER BY id LIMIT $2");
            Rows::Outbox(page(db, &sql, after.unwrap_or(0), limit, &[], event).await?)
        }
        Query::Intents(filter) => {
            let condition = match filter.state {
                None => "",
                Some(IntentState::Pending) => "AND answered_at IS NULL",
                Some(IntentState::Done) => "AND answered_at IS NOT NULL AND status BETWEEN 200 AND 299",
                Some(IntentState::Refused) => "AND answered_at IS NOT NULL AND status NOT BETWEEN 200 AND 299",
            };
            let sql = format!("SELECT * FROM selvedge.intent WHERE id > $1 {condition} ORDER BY id LIMIT $2");
            let view = |row: &Row| Ok((get(row, "id")?, intent::view(row)?));
            Rows::Intents(page(db, &sql, filter.after.unwrap_or(0), filter.limit, &[], view).await?)
        }
        Query::Intent(id) => {
            let sql = "SELECT * FROM selvedge.intent WHERE intent_id = $1";
            Rows::Intents(Page { items: db.all(sql, params![id], intent::view).await?, next: None })
        }
        Query::Messages { topic: name, after, limit } => {
            let sql = "SELECT cursor, payload, published_at FROM selvedge.message
                       WHERE topic = (SELECT id FROM selvedge.topic WHERE name = $3) AND cursor > $1
                       ORDER BY cursor LIMIT $2";
            let message = |row: &Row| topic::message(row).map(|message| (message.cursor, message));
            Rows::Messages(page(db, sql, after, limit, params![name], message).await?)
        }
        Query::Assignment { subject, experiment } => {
            let sql = "SELECT * FROM selvedge.assignment WHERE subject = $1 AND experiment = $2";
            Rows::Assignment(db.one(sql, params![subject, experiment], fact::assignment).await?)
        }
        Query::Assignments { subjects } => {
            let sql = r#"SELECT * FROM selvedge.assignment WHERE subject = ANY($1)
                         ORDER BY subject COLLATE "C", experiment COLLATE "C""#;
            Rows::Assignments(db.all(sql, params![subjects], fact::assignment).await?)
        }
        Query::Facts { name, after, limit } => {
            let view = |row: &Row| Ok((get(row, "id")?, fact::view(row)?));
            let sql =
                "SELECT * FROM selvedge.fact WHERE id > $1 AND ($3::text IS NULL OR name = $3) ORDER BY id LIMIT $2";
            Rows::Facts(page(db, sql, after, limit, params![name], view).await?)
        }
        Query::Load => Rows::Load(load::history(db).await?),
        // `Query` may grow; a query this build does not know must not be answered with something else.
        _ => return Err(Error::unsupported("postgres", db.operation)),
    })
}

/// One page. `$1` is the place after which it begins, `$2` the limit, then the other parameters; one row more than asked
/// for tells whether there is a next page.
async fn page<T>(
    db: &Db<'_>,
    sql: &str,
    after: i64,
    limit: usize,
    values: &[Param<'_>],
    read: impl FnMut(&Row) -> Result<(i64, T)>,
) -> Result<Page<T>> {
    let most = rows(limit).saturating_add(1);
    let values: Vec<Param<'_>> = [param(&after), param(&most)].into_iter().chain(values.iter().cloned()).collect();
    let mut found = db.all(sql, &values, read).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().map(|(place, _)| *place).filter(|_| more);
    Ok(Page { items: found.into_iter().map(|(_, row)| row).collect(), next })
}

async fn jobs(db: &Db<'_>, filter: &JobFilter) -> Result<Page<JobView>> {
    let state = match filter.state {
        None => "",
        Some(JobState::Ready) => "AND state = 0 AND token IS NULL",
        Some(JobState::Running) => "AND state = 0 AND token IS NOT NULL",
        Some(JobState::Dead) => "AND state = 2",
        Some(JobState::Cancelled) => "AND state = 3",
    };
    let sql = format!(
        "SELECT * FROM selvedge.job
         WHERE id > $1 AND ($3::text IS NULL OR queue = $3) AND ($4::text IS NULL OR tenant = $4) {state}
         ORDER BY id LIMIT $2"
    );
    let after = filter.after.map_or(0, |id| id.0);
    let values = params![filter.queue, filter.tenant];
    page(db, &sql, after, filter.limit, values, |row| job(row).map(|view| (view.id.0, view))).await
}

fn job(row: &Row) -> Result<JobView> {
    Ok(JobView {
        id: JobId(get(row, "id")?),
        queue: get(row, "queue")?,
        state: match (get::<i16>(row, "state")?, get::<Option<i64>>(row, "token")?) {
            (0, None) => JobState::Ready,
            (0, Some(_)) => JobState::Running,
            (2, _) => JobState::Dead,
            _ => JobState::Cancelled,
        },
        priority: get(row, "priority")?,
        tenant: get(row, "tenant")?,
        unique: get(row, "unique_key")?,
        attempt: count(row, "attempt")?,
        max_attempts: count(row, "max_attempts")?,
        run_at: time(row, "run_at")?,
        enqueued_at: time(row, "enqueued_at")?,
        leased_until: optional_time(row, "leased_until")?,
        owner: get(row, "owner")?,
        last_error: get(row, "last_error")?,
        payload: bytes(row, "payload")?,
        checkpoint: optional_bytes(row, "checkpoint")?,
        trace: trace(row)?,
    })
}

fn event(row: &Row) -> Result<(i64, EventView)> {
    let number = get(row, "id")?;
    let view = EventView {
        number,
        event: outbox::event(row)?,
        attempts: count(row, "attempts")?,
        run_at: time(row, "run_at")?,
        emitted_at: time(row, "emitted_at")?,
        dead: get::<i16>(row, "state")? == 3,
        last_error: get(row, "last_error")?,
    };
    Ok((number, view))
}

async fn queues(db: &Db<'_>) -> Result<Vec<QueueStats>> {
    let now = db.clock().await?;
    let paused = db.all("SELECT name FROM selvedge.queue WHERE paused", &[], |row| get::<String>(row, 0)).await?;
    let paused: HashSet<String> = paused.into_iter().collect();
    let sql = "
        SELECT queue, tenant, count(*) FILTER (WHERE ready AND run_at <= $1) AS ready,
          count(*) FILTER (WHERE ready AND run_at > $1) AS scheduled,
          count(*) FILTER (WHERE state = 0 AND NOT ready) AS running, count(*) FILTER (WHERE state = 2) AS dead,
          min(run_at) FILTER (WHERE ready AND run_at <= $1) AS oldest
        FROM (SELECT *, state = 0 AND token IS NULL AS ready FROM selvedge.job) AS job GROUP BY queue, tenant
        ORDER BY queue COLLATE \"C\", tenant COLLATE \"C\" NULLS FIRST";
    let jobs = |row: &Row, column: &str| Ok(u64::try_from(get::<i64>(row, column)?).unwrap_or(0));
    let read = |row: &Row| {
        let queue: String = get(row, "queue")?;
        Ok(QueueStats {
            tenant: get(row, "tenant")?,
            ready: jobs(row, "ready")?,
            scheduled: jobs(row, "scheduled")?,
            running: jobs(row, "running")?,
            dead: jobs(row, "dead")?,
            oldest: now.since(get::<Option<i64>>(row, "oldest")?.map_or(now, Timestamp)),
            paused: paused.contains(&queue),
            queue,
        })
    };
    db.all(sql, params![now.0], read).await
}
