use std::{fmt, time::Duration};

use uuid::Uuid;

use super::{Delivery, Engine, EventSink};
use crate::{
    BoxFuture, Commit, Context, Error, ErrorKind, Intent, Result, Store,
    idempotency::Answer,
    intent::IntentView,
    store::{IntentFilter, LeasedEvent, Outcome, Page, StoreExt},
    transport::{HttpRequest, HttpResponse, HttpTransport},
};

/// An intent that is safely written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Its id.
    pub id: Uuid,
    /// Its idempotency key.
    pub key: String,
    /// It was there already; nothing was added.
    pub duplicate: bool,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Flushed {
    /// Requests sent.
    pub attempts: u64,
    /// Intents the server answered, with yes or no.
    pub answered: u64,
    /// Requests that failed and will be repeated.
    pub failed: u64,
}

impl Engine {
    /// Writes an intent and its outbox event down in one commit, before anything is sent. Once this returns, the intent
    /// survives the end of the process, and every attempt will carry the same key.
    ///
    /// # Errors
    /// `InvalidInput` or `TooLarge` for an intent that cannot be sent; `Conflict` when its id is known with another payload;
    /// those of [`Store::commit`].
    pub async fn submit(&self, cx: &Context, mut intent: Intent) -> Result<Submitted> {
        intent.trace = intent.trace.or_else(|| cx.trace());
        let (id, key) = (intent.id, intent.key());
        let event = intent.event();
        let receipt = self.store()?.commit(cx, Commit::new().submit(intent).emit(event)).await?;
        let duplicate = receipt.outcomes.contains(&Outcome::Submitted { duplicate: true });
        Ok(Submitted { id, key, duplicate })
    }

    /// One page of intents.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    pub async fn intents(&self, cx: &Context, filter: IntentFilter) -> Result<Page<IntentView>> {
        self.store()?.intents(cx, filter).await
    }

    /// Sends every pending intent once, whether its retry is due or not: for the moment the network comes back, or the
    /// system gives the app a minute. A server runs [`Engine::relay`] with an [`IntentSink`](Engine::intent_sink) instead.
    ///
    /// # Errors
    /// Those of the Store. A request that fails is not an error: it is counted and tried again later.
    pub async fn flush(&self, cx: &Context, transport: &dyn HttpTransport) -> Result<Flushed> {
        let report = self.relay_once(cx, &self.intent_sink(transport), true).await?;
        Ok(Flushed { attempts: report.attempts, answered: report.delivered, failed: report.failed })
    }

    /// The sink that sends intents over `transport`, for [`Engine::relay`].
    pub fn intent_sink<'a>(&'a self, transport: &'a dyn HttpTransport) -> IntentSink<'a> {
        IntentSink { engine: self, transport, timeout: Duration::from_secs(30) }
    }
}

/// Sends intents to a server: [`Engine::intent_sink`].
pub struct IntentSink<'a> {
    engine: &'a Engine,
    transport: &'a dyn HttpTransport,
    timeout: Duration,
}

impl IntentSink<'_> {
    /// Sets the longest a request may take: [`EventSink::timeout`].
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl fmt::Debug for IntentSink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntentSink").field("transport", &self.transport).finish_non_exhaustive()
    }
}

impl EventSink for IntentSink<'_> {
    fn topics(&self) -> Vec<String> {
        vec![Intent::TOPIC.into()]
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn deliver<'a>(&'a self, cx: &'a Context, event: &'a LeasedEvent) -> BoxFuture<'a, Result<Delivery>> {
        Box::pin(async move {
            let id = event.event.id;
            let Some(view) = self.engine.store()?.intent(cx, id).await? else {
                return Ok(Delivery::Refused { reason: "its intent is gone".into() });
            };
            let response = self.transport.send(cx, request(cx, &view.intent)?).await?;
            answer(&view.intent, response).map(|answer| Delivery::Done(Commit::new().answer(id, answer)))
        })
    }
}

fn request(cx: &Context, intent: &Intent) -> Result<HttpRequest> {
    let payload = serde_json::from_slice::<&serde_json::value::RawValue>(&intent.payload);
    let body = payload
        .and_then(|payload| serde_json::to_vec(&Envelope { operation: &intent.operation, payload }))
        .map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "engine.flush", "the intent's payload is not JSON").caused_by(error)
        })?;
    Ok(HttpRequest::post(cx, "/v1/intents", &intent.key(), "application/json", body))
}

#[derive(serde::Serialize)]
struct Envelope<'a> {
    operation: &'a str,
    payload: &'a serde_json::value::RawValue,
}

/// What a response means for its intent: an answer to keep, or a failed attempt.
fn answer(intent: &Intent, response: HttpResponse) -> Result<Answer> {
    let response = response.settled("engine.flush").map_err(|error| error.with("intent", intent.id))?;
    let headers =
        response.headers.into_iter().filter(|(name, _)| name == "content-type" || name == "location").collect();
    Ok(Answer { status: response.status, headers, body: response.body })
}
