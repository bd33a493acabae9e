//! What an app wants done on its server, kept until the server has answered.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Error, ErrorKind, Result, Timestamp, TraceContext,
    idempotency::{Answer, Fingerprint, IdempotencyKey},
    store::{Backoff, Event},
};

/// Something the app wants done exactly once: it is written down with its key before the first attempt, and every retry,
/// over days and restarts, uses that same key.
///
/// ```
/// use selvedge_core::Intent;
///
/// let order = Intent::new("orders.create", r#"{"item":"tea","cents":500}"#).business_key("cart-17");
/// assert!(order.key().starts_with("orders.create:cart-17:"));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Its id, which makes its key unique.
    pub id: Uuid,
    /// What the server should do: `orders.create`.
    pub operation: String,
    /// What it needs for that, as JSON.
    pub payload: Bytes,
    /// What the app calls it (a cart or order number), for people who read keys.
    pub business_key: Option<String>,
    /// Intents of one aggregate go out in order; without one, an intent waits for no other.
    pub aggregate: Option<String>,
    /// How long it waits after a failed attempt.
    pub backoff: Backoff,
    /// The trace it belongs to.
    pub trace: Option<TraceContext>,
}

impl Intent {
    /// The outbox topic that intents go out by.
    pub const TOPIC: &'static str = "selvedge.intent";

    /// An intent with a new id.
    pub fn new(operation: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            id: Uuid::now_v7(),
            operation: operation.into(),
            payload: payload.into(),
            business_key: None,
            aggregate: None,
            backoff: Backoff::new(std::time::Duration::from_millis(500), std::time::Duration::from_secs(900)),
            trace: None,
        }
    }

    /// Sets what the app calls it.
    #[must_use]
    pub fn business_key(mut self, key: impl Into<String>) -> Self {
        self.business_key = Some(key.into());
        self
    }

    /// Sets the aggregate within which intents go out in order.
    #[must_use]
    pub fn aggregate(mut self, aggregate: impl Into<String>) -> Self {
        self.aggregate = Some(aggregate.into());
        self
    }

    /// Sets how long it waits after a failed attempt.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets the trace.
    #[must_use]
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Its idempotency key: operation, business key and id. The same for every attempt.
    pub fn key(&self) -> String {
        match &self.business_key {
            Some(business) => format!("{}:{}:{}", self.operation, business, self.id),
            None => format!("{}:{}", self.operation, self.id),
        }
    }

    /// The digest of what it asks for.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.operation, &self.payload)
    }

    /// The outbox event that carries it. It has the intent's id, so one intent is one event.
    pub fn event(&self) -> Event {
        let aggregate = self.aggregate.clone().unwrap_or_else(|| format!("intent/{}", self.id));
        Event {
            id: self.id,
            backoff: self.backoff,
            trace: self.trace,
            ..Event::new(aggregate, Self::TOPIC, Bytes::new())
        }
    }

    /// What is checked before it is accepted.
    ///
    /// # Errors
    /// `InvalidInput` when the operation or key cannot be used, or the payload is not JSON; `TooLarge`.
    pub fn check(&self) -> Result<()> {
        IdempotencyKey::new(self.operation.clone(), self.key())?;
        self.event().check()?;
        crate::store::NewJob::new("intent", self.payload.clone()).check()?;
        let invalid = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::InvalidInput, "engine.submit", "the intent's payload is not JSON")
                .with("operation", &self.operation)
                .caused_by(error)
                .advise("encode it as UTF-8 JSON")
        };
        // A parser that ignores what it reads does not look into strings.
        let text = std::str::from_utf8(&self.payload).map_err(|error| invalid(error.into()))?;
        serde_json::from_str::<serde::de::IgnoredAny>(text).map(|_| ()).map_err(|error| invalid(error.into()))
    }
}

/// An intent on the server's side: the payload of the job that does it.
///
/// A server's gate writes it, in the commit that settles the key; a [`JobHandler`](crate::engine::JobHandler) reads it.
///
/// ```
/// use selvedge_core::intent::ReceivedIntent;
///
/// #[derive(serde::Deserialize)]
/// struct Order { cents: u64 }
///
/// let job = br#"{"key":"orders.create:1","operation":"orders.create","payload":{"cents":500}}"#;
/// let received = ReceivedIntent::from_json(job)?;
/// assert_eq!(received.payload::<Order>()?.cents, 500);
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReceivedIntent {
    /// The idempotency key it came with.
    pub key: String,
    /// What should be done.
    pub operation: String,
    /// What is needed for that.
    pub payload: Box<serde_json::value::RawValue>,
}

impl ReceivedIntent {
    /// Reads a job's payload.
    ///
    /// # Errors
    /// `InvalidInput` when the job was not made from an intent.
    pub fn from_json(job: &[u8]) -> Result<Self> {
        serde_json::from_slice(job).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "intent.receive", "the job does not hold an intent").caused_by(error)
        })
    }

    /// The job's payload.
    pub fn to_json(&self) -> Bytes {
        // Serialising strings and JSON that was read before cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// What is needed, as a type.
    ///
    /// # Errors
    /// `InvalidInput` when it does not fit.
    pub fn payload<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_str(self.payload.get()).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "intent.receive", "the intent's payload does not fit its operation")
                .with("operation", &self.operation)
                .caused_by(error)
        })
    }
}

/// Whether an intent has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentState {
    /// Not yet: it is waiting, on its way, or to be retried.
    Pending,
    /// The server did it (2xx).
    Done,
    /// The server refused it for good (4xx); retrying would not help.
    Refused,
}

impl IntentState {
    /// The state of an intent with this answer.
    pub fn of(answer: Option<&Answer>) -> Self {
        match answer {
            None => Self::Pending,
            Some(answer) if (200..300).contains(&answer.status) => Self::Done,
            Some(_) => Self::Refused,
        }
    }

    /// The state in `snake_case`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}

/// An intent as the app looks at it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IntentView {
    /// The intent.
    pub intent: Intent,
    /// Whether it has been answered.
    pub state: IntentState,
    /// The answer.
    pub answer: Option<Answer>,
    /// How often it was sent.
    pub attempts: u32,
    /// Why it failed last.
    pub last_error: Option<String>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When it was answered.
    pub answered_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_must_be_json_in_utf_8() {
        for payload in [&b"\"\xff\xfe\""[..], b"{", b"", b"nope"] {
            let refused = Intent::new("orders.create", payload.to_vec()).check();
            assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::InvalidInput), "{payload:?}");
        }
        assert!(Intent::new("orders.create", r#"{"name":"Zoë"}"#).check().is_ok());
    }
}
