//! `selvedge outbox`.

use selvedge::{
    Commit, Context, Error, ErrorKind, Result, Store,
    store::{Event, EventView, Op, Outcome, StoreExt},
};
use serde_json::{Value, json};

use super::{block_on, store::open_existing};
use crate::{
    arguments::{Outbox, OutboxCommand},
    config::Config,
    output::{self, shortened},
};

pub(crate) fn run(mut config: Config, options: Outbox) -> Result<()> {
    config.store.replace(options.store);
    block_on(async {
        let store = open_existing(&config.store).await?;
        command(&store, options.command, options.json).await
    })
}

async fn command(store: &impl Store, command: OutboxCommand, as_json: bool) -> Result<()> {
    let cx = Context::new();
    match command {
        OutboxCommand::List { dead, limit } => list(&store.outbox(&cx, dead, None, limit).await?.items, as_json),
        OutboxCommand::Retry { numbers } => {
            for number in numbers {
                one(store, &cx, number, |event| Op::ReviveEvent(event.id)).await?;
                done(number, "ready", as_json)?;
            }
            Ok(())
        }
        OutboxCommand::Drop { numbers } => {
            for number in numbers {
                one(store, &cx, number, |event| Op::DropEvent(event.id)).await?;
                done(number, "dropped", as_json)?;
            }
            Ok(())
        }
    }
}

/// Does something to a dead event. People name it by its number, the Store by its id.
async fn one(store: &impl Store, cx: &Context, number: i64, op: impl Fn(&Event) -> Op) -> Result<()> {
    let next = store.outbox(cx, false, Some(number.saturating_sub(1)), 1).await?.items;
    let event = next.into_iter().find(|event| event.number == number).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "cli.outbox", "no such event waits")
            .with("event", number)
            .advise("one that went out is gone; `selvedge outbox list` shows the others")
    })?;
    let receipt = store.commit(cx, Commit::new().op(op(&event.event))).await?;
    match receipt.outcomes[..] {
        [Outcome::Revived(true) | Outcome::Dropped(true)] => Ok(()),
        _ => Err(Error::new(ErrorKind::Conflict, "cli.outbox", "this event is not dead")
            .with("event", number)
            .advise("it goes out by itself; `selvedge outbox list --dead` shows those that do not")),
    }
}

fn done(number: i64, status: &str, as_json: bool) -> Result<()> {
    if as_json {
        return output::json(&json!({ "number": number, "status": status }));
    }
    output::print(&format!("event {number}: {status}\n"))
}

fn list(events: &[EventView], as_json: bool) -> Result<()> {
    if as_json {
        return events.iter().try_for_each(|view| {
            let mut value = serde_json::to_value(view).unwrap_or(Value::Null);
            // JSON stays JSON; anything else is shown as text.
            let payload = &view.event.payload;
            value["event"]["payload"] = serde_json::from_slice(payload)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(payload).into_owned()));
            output::json(&value)
        });
    }
    let rows: Vec<_> = events
        .iter()
        .map(|view| {
            [
                view.number.to_string(),
                view.event.aggregate.clone(),
                view.event.topic.clone(),
                if view.dead { "dead".into() } else { "waiting".into() },
                view.attempts.to_string(),
                view.emitted_at.to_string(),
                view.event.id.to_string(),
                shortened(view.last_error.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    output::table(["number", "aggregate", "topic", "state", "attempts", "emitted", "id", "last error"], &rows)
}
