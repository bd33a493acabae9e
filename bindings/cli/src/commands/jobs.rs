//! `selvedge jobs`.

use selvedge::{
    Commit, Context, Error, ErrorKind, Result, Store,
    store::{JobFilter, JobId, JobState, JobView, Op, Outcome, StoreExt},
};
use serde_json::{Value, json};

use super::{block_on, store::open_existing};
use crate::{
    arguments::{Jobs, JobsCommand, State},
    config::Config,
    output::{self, shortened},
};

pub(crate) fn run(mut config: Config, options: Jobs) -> Result<()> {
    config.store.replace(options.store);
    block_on(async {
        let store = open_existing(&config.store).await?;
        command(&store, options.command, options.json).await
    })
}

async fn command(store: &impl Store, command: JobsCommand, as_json: bool) -> Result<()> {
    let cx = Context::new();
    match command {
        JobsCommand::List { queue, tenant, state, limit } => {
            let filter = JobFilter { queue, tenant, state: state.map(Into::into), after: None, limit };
            list(&store.jobs(&cx, filter).await?.items, as_json)
        }
        JobsCommand::Dead { queue, tenant, limit } => {
            let filter = JobFilter { queue, tenant, state: Some(JobState::Dead), after: None, limit };
            dead(&store.jobs(&cx, filter).await?.items, as_json)
        }
        JobsCommand::Show { id } => {
            let job = store.job(&cx, JobId(id)).await?.ok_or_else(|| missing(id))?;
            show(&job, as_json)
        }
        JobsCommand::Retry { ids } => {
            for id in ids {
                let outcome = one(store, &cx, id, Op::Revive(JobId(id))).await?;
                if outcome == Outcome::Revived(false) {
                    return Err(Error::new(ErrorKind::Conflict, "cli.jobs", "this job is neither dead nor cancelled")
                        .with("job", id)
                        .advise("`selvedge jobs show` tells its state"));
                }
                done(id, "ready", as_json)?;
            }
            Ok(())
        }
        JobsCommand::Cancel { ids } => {
            for id in ids {
                let outcome = one(store, &cx, id, Op::Cancel(JobId(id))).await?;
                let asked = outcome == Outcome::Cancelled { at_once: false };
                done(id, if asked { "asked to stop" } else { "cancelled" }, as_json)?;
            }
            Ok(())
        }
        JobsCommand::Pause { queue } => {
            store.commit(&cx, Commit::new().pause(&queue)).await?;
            queue_done(&queue, "paused", as_json)
        }
        JobsCommand::Resume { queue } => {
            store.commit(&cx, Commit::new().resume(&queue)).await?;
            queue_done(&queue, "resumed", as_json)
        }
        JobsCommand::Depth => depth(store, &cx, as_json).await,
    }
}

async fn one(store: &impl Store, cx: &Context, id: i64, op: Op) -> Result<Outcome> {
    // A number that never was a job is a mistake to point out, whatever the Store makes of it.
    store.job(cx, JobId(id)).await?.ok_or_else(|| missing(id))?;
    let receipt = store.commit(cx, Commit::new().op(op)).await?;
    Ok(receipt.outcomes.into_iter().next().unwrap_or(Outcome::Done))
}

fn missing(id: i64) -> Error {
    Error::new(ErrorKind::NotFound, "cli.jobs", "there is no such job")
        .with("job", id)
        .advise("a completed job is gone; `selvedge jobs list` shows the others")
}

fn done(id: i64, status: &str, as_json: bool) -> Result<()> {
    if as_json {
        return output::json(&json!({ "id": id, "status": status }));
    }
    output::print(&format!("job {id}: {status}\n"))
}

fn queue_done(queue: &str, status: &str, as_json: bool) -> Result<()> {
    if as_json {
        return output::json(&json!({ "queue": queue, "status": status }));
    }
    output::print(&format!("queue {queue}: {status}\n"))
}

fn list(jobs: &[JobView], as_json: bool) -> Result<()> {
    if as_json {
        return jobs.iter().try_for_each(output::json);
    }
    let rows: Vec<_> = jobs
        .iter()
        .map(|job| {
            [
                job.id.to_string(),
                job.queue.clone(),
                job.state.as_str().to_owned(),
                format!("{}/{}", job.attempt, job.max_attempts),
                job.tenant.clone().unwrap_or_default(),
                job.run_at.to_string(),
                shortened(job.last_error.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    output::table(["id", "queue", "state", "attempt", "tenant", "runs at", "last error"], &rows)
}

fn dead(jobs: &[JobView], as_json: bool) -> Result<()> {
    if as_json {
        return list(jobs, as_json);
    }
    let rows: Vec<_> = jobs
        .iter()
        .map(|job| {
            [
                job.id.to_string(),
                job.queue.clone(),
                job.tenant.clone().unwrap_or_default(),
                job.attempt.to_string(),
                job.enqueued_at.to_string(),
                shortened(job.last_error.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    output::table(["id", "queue", "tenant", "attempts", "enqueued", "last error"], &rows)
}

fn show(job: &JobView, as_json: bool) -> Result<()> {
    let payload = String::from_utf8_lossy(&job.payload);
    if as_json {
        let mut value = serde_json::to_value(job).unwrap_or(Value::Null);
        // JSON stays JSON; anything else is shown as text.
        value["payload"] = serde_json::from_slice(&job.payload).unwrap_or_else(|_| Value::String(payload.into_owned()));
        value["checkpoint_bytes"] = json!(job.checkpoint.as_ref().map(|data| data.len()));
        return output::json(&value);
    }
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let rows = [
        ("job", job.id.to_string()),
        ("queue", job.queue.clone()),
        ("state", job.state.as_str().into()),
        ("attempt", format!("{} of {}", job.attempt, job.max_attempts)),
        ("priority", job.priority.to_string()),
        ("tenant", optional(job.tenant.clone())),
        ("unique", optional(job.unique.clone())),
        ("enqueued", job.enqueued_at.to_string()),
        ("runs at", job.run_at.to_string()),
        ("leased until", optional(job.leased_until.map(|until| until.to_string()))),
        ("owner", optional(job.owner.clone())),
        ("trace", optional(job.trace.map(|trace| trace.trace_id()))),
        ("last error", optional(job.last_error.clone())),
        ("payload", payload.into_owned()),
    ];
    let text: String = rows.iter().map(|(name, value)| format!("{name:13} {value}\n")).collect();
    output::print(&text)
}

async fn depth(store: &impl Store, cx: &Context, as_json: bool) -> Result<()> {
    let queues = store.queues(cx).await?;
    if as_json {
        return queues.iter().try_for_each(|queue| {
            let mut value = serde_json::to_value(queue).unwrap_or(Value::Null);
            value["oldest"] = json!(queue.oldest.as_secs_f64());
            output::json(&value)
        });
    }
    let rows: Vec<_> = queues
        .iter()
        .map(|queue| {
            [
                queue.queue.clone(),
                queue.tenant.clone().unwrap_or_default(),
                queue.ready.to_string(),
                queue.scheduled.to_string(),
                queue.running.to_string(),
                queue.dead.to_string(),
                format!("{:.1} s", queue.oldest.as_secs_f64()),
                if queue.paused { "paused".into() } else { String::new() },
            ]
        })
        .collect();
    output::table(["queue", "tenant", "ready", "scheduled", "running", "dead", "oldest", ""], &rows)
}

impl From<State> for JobState {
    fn from(state: State) -> Self {
        match state {
            State::Ready => Self::Ready,
            State::Running => Self::Running,
            State::Dead => Self::Dead,
            State::Cancelled => Self::Cancelled,
        }
    }
}
