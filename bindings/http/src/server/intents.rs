//! `/v1/intents`: taken once, queued, answered at once.

use axum::{Extension, body::Bytes, extract::State};
use selvedge_core::{
    Commit, Context, Error, ErrorKind, Store,
    experiment::EventRequest,
    idempotency::{Answer, Ticket},
    intent::ReceivedIntent,
    store::NewJob,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::AppState;
use crate::{Problem, ServerOptions, Settled, body};

#[derive(Deserialize)]
struct Envelope {
    operation: String,
    payload: Box<RawValue>,
}

#[derive(Serialize)]
struct Accepted<'a> {
    id: &'a str,
    status: &'static str,
    queue: &'a str,
}

#[derive(Serialize)]
struct Tracked {
    id: uuid::Uuid,
    status: &'static str,
}

/// Enqueues the job and settles the key in one commit: either both are true or neither.
pub(super) async fn accept(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    Extension(ticket): Extension<Ticket>,
    bytes: Bytes,
) -> Result<Settled, Problem> {
    let Envelope { operation, payload } = body::json(&bytes)?;
    if operation == EventRequest::OPERATION {
        return track(&state, &cx, ticket, &payload).await;
    }
    let queue = queue_of(&state.options, &operation)?;
    let key = ticket.key.key.clone();
    let received = ReceivedIntent { key: key.clone(), operation, payload };
    let mut job = NewJob::new(queue, received.to_json()).max_attempts(state.options.intent_attempts).trace(cx.trace());
    job.tenant = cx.tenant().map(ToOwned::to_owned);
    let answer = Answer::json(202, encode(&Accepted { id: &key, status: "queued", queue })?);
    let commit = Commit::new().enqueue([job]).settle(ticket, answer.clone());
    state.engine.store()?.commit(&cx, commit).await?;
    Ok(Settled(answer))
}

/// An event of an app's outbox is kept at once, in the commit that settles its key: there is no job to do.
async fn track(state: &AppState, cx: &Context, ticket: Ticket, payload: &RawValue) -> Result<Settled, Problem> {
    let fact = body::json::<EventRequest>(payload.get().as_bytes())?.into_fact()?;
    let answer = Answer::json(200, encode(&Tracked { id: fact.id, status: "recorded" })?);
    let commit = Commit::new().record(fact).settle(ticket, answer.clone());
    state.engine.store()?.commit(cx, commit).await?;
    Ok(Settled(answer))
}

pub(super) async fn unsupported(State(state): State<AppState>) -> Problem {
    match state.engine.store() {
        Err(error) => error.into(),
        Ok(_) => Error::unsupported("store", "http.intents").into(),
    }
}

fn queue_of<'a>(options: &'a ServerOptions, operation: &str) -> Result<&'a str, Problem> {
    if options.intents.is_empty() {
        return Ok(ServerOptions::INTENTS_QUEUE);
    }
    options.intents.get(operation).map(String::as_str).ok_or_else(|| {
        let error = Error::new(ErrorKind::NotFound, "http.intents", "this server has no such operation")
            .with("operation", operation.chars().take(100).collect::<String>())
            .advise("check the operation's name, and the server's list of operations");
        Problem::from(error).param("operation")
    })
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|error| {
        Error::new(ErrorKind::Internal, "http.intents", "the answer cannot be encoded").caused_by(error).into()
    })
}
