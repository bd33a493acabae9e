//! `/v1/events`: events for analysis, each counted once by its id.

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use selvedge_core::{
    Commit, Context, Error, Result, Store,
    experiment::EventRequest,
    store::{Fact, Outcome},
};
use serde_json::{Value, json, value::RawValue};

use super::AppState;
use crate::{Problem, body};

/// The most events of one request.
const MAX_EVENTS: usize = 1_000;

/// One event is answered by itself: kept, or a problem. Of an array each is answered: what is wrong with one keeps no other
/// out.
pub(super) async fn track(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let bytes = body::read(request.into_body(), state.options.body_limit).await?;
    let cx = cx.with_timeout(state.options.timeout);
    let store = state.engine.store()?;
    if bytes.trim_ascii_start().first() != Some(&b'[') {
        let fact = body::json::<EventRequest>(&bytes)?.into_fact()?;
        let duplicates = record(store, &cx, vec![fact.clone()]).await?;
        return Ok(Json(kept(&fact, duplicates == [true])));
    }
    let events: Vec<Box<RawValue>> = body::json(&bytes)?;
    if events.len() > MAX_EVENTS {
        return Err(Problem::bad("http.events", format!("give at most {MAX_EVENTS} events at once")));
    }
    let read: Vec<Result<Fact, Problem>> = events.iter().map(|event| fact(event)).collect();
    let good = read.iter().filter_map(|fact| fact.as_ref().ok()).cloned().collect();
    let mut known = record(store, &cx, good).await?.into_iter();
    let answers: Vec<Value> = read
        .iter()
        .map(|fact| match fact {
            Ok(fact) => kept(fact, known.next().unwrap_or_default()),
            Err(problem) => refused(problem),
        })
        .collect();
    let count = |status: &str| answers.iter().filter(|answer| answer["status"] == status).count();
    Ok(Json(json!({
        "recorded": count("recorded"),
        "duplicates": count("duplicate"),
        "refused": count("refused"),
        "events": answers,
    })))
}

fn fact(event: &RawValue) -> Result<Fact, Problem> {
    Ok(body::json::<EventRequest>(event.get().as_bytes())?.into_fact()?)
}

/// Keeps facts in one commit. Whether each was known before.
async fn record(store: &impl Store, cx: &Context, facts: Vec<Fact>) -> Result<Vec<bool>, Error> {
    if facts.is_empty() {
        return Ok(Vec::new());
    }
    let commit = facts.into_iter().fold(Commit::new(), Commit::record);
    let receipt = store.commit(cx, commit).await?;
    Ok(receipt.outcomes.iter().map(|outcome| *outcome == Outcome::Recorded { duplicate: true }).collect())
}

fn kept(fact: &Fact, duplicate: bool) -> Value {
    json!({ "id": fact.id, "status": if duplicate { "duplicate" } else { "recorded" } })
}

fn refused(problem: &Problem) -> Value {
    let error = problem.error();
    json!({ "status": "refused", "kind": error.kind(), "message": problem.message(), "advice": error.advice() })
}
