use std::{fmt, time::Duration};

use async_nats::{
    Client, HeaderMap,
    connection::State,
    header::{HeaderValue, NATS_MESSAGE_ID},
    jetstream::{
        self,
        context::{ContextBuilder, PublishErrorKind},
    },
};
use selvedge_core::{
    BoxFuture, Commit, Context, Error, ErrorKind, Result,
    engine::{Delivery, EventSink},
    store::{Event, LeasedEvent},
};

use crate::error::{from_connect, from_publish};

const OPERATION: &str = "nats.publish";
/// The header that names what an event is about.
const AGGREGATE: &str = "Selvedge-Aggregate";
const TRACE: &str = "traceparent";

/// Publishes outbox events to a JetStream stream: the subject is `PREFIX.TOPIC`, the body is the payload.
///
/// | header | holds |
/// | --- | --- |
/// | `Nats-Msg-Id` | the event's id, the same over all attempts |
/// | `Selvedge-Aggregate` | what the event is about |
/// | `traceparent` | the trace it belongs to, if any |
///
/// An event ends when the stream has acknowledged it. One that cannot be a NATS message, because its topic has a space, a
/// wildcard or an empty part, or because it is larger than the server takes, is refused: a dead letter. Everything else is
/// tried again. Clones share the connection, which is kept and made anew by itself.
#[derive(Clone)]
pub struct JetStreamSink {
    client: Client,
    jetstream: jetstream::Context,
    prefix: String,
    topics: Vec<String>,
    timeout: Duration,
}

impl JetStreamSink {
    /// How long an acknowledgement is waited for, unless set: 5 seconds.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// Connects to a server (`nats://127.0.0.1:4222`, `tls://…`, with a user and password or a token in the address) and takes
    /// events of all topics.
    ///
    /// # Errors
    /// `InvalidInput` for an address or prefix that cannot be used, `PermissionDenied`, `Unavailable`.
    pub async fn connect(url: &str, prefix: impl Into<String>) -> Result<Self> {
        let client = async_nats::connect(url).await.map_err(|error| from_connect("nats.connect", error))?;
        Self::new(client, prefix)
    }

    /// Uses a connection of your own, made with the options you need, and takes events of all topics.
    ///
    /// # Errors
    /// `InvalidInput` when `prefix` is no NATS subject.
    pub fn new(client: Client, prefix: impl Into<String>) -> Result<Self> {
        let prefix = prefix.into();
        if !is_subject(&prefix) {
            return Err(Error::new(ErrorKind::InvalidInput, "nats.new", "the prefix is no NATS subject")
                .with("prefix", prefix)
                .advise("use words without spaces and wildcards, with dots between them"));
        }
        let jetstream = within(Self::TIMEOUT, &client);
        Ok(Self { client, jetstream, prefix, topics: Vec::new(), timeout: Self::TIMEOUT })
    }

    /// Takes only events of this topic (and those of further calls).
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.push(topic.into());
        self
    }

    /// Sets how long an acknowledgement is waited for. What is not acknowledged by then may have arrived all the same.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self.jetstream = within(timeout, &self.client);
        self
    }

    async fn publish(&self, cx: &Context, event: &Event) -> Result<Delivery> {
        let Some(subject) = subject(&self.prefix, &event.topic) else {
            return Ok(Delivery::Refused { reason: format!("the topic {:?} makes no NATS subject", event.topic) });
        };
        // The client would keep it until it is connected again, and nobody could say when it goes out.
        if self.client.connection_state() != State::Connected {
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, "the server cannot be reached")
                .advise("check that nats-server runs and the network is up; the outbox tries again"));
        }
        let sent = self.jetstream.publish_with_headers(subject, headers(cx, event)?, event.payload.clone());
        let acknowledged = match sent.await {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        match acknowledged {
            Ok(ack) => {
                tracing::debug!(event = %event.id, sequence = ack.sequence, duplicate = ack.duplicate, "acknowledged");
                Ok(Delivery::Done(Commit::new()))
            }
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => Ok(Delivery::Refused {
                reason: format!("{} bytes are more than the server's max_payload takes", event.payload.len()),
            }),
            Err(error) => Err(from_publish(OPERATION, error).with("topic", &event.topic)),
        }
    }
}

/// The address may hold a password, so the connection stays out of logs.
impl fmt::Debug for JetStreamSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamSink")
            .field("prefix", &self.prefix)
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}

impl EventSink for JetStreamSink {
    fn topics(&self) -> Vec<String> {
        self.topics.clone()
    }

    /// The client waits once to hand the event over and once for the acknowledgement.
    fn timeout(&self) -> Duration {
        self.timeout.saturating_mul(2)
    }

    fn deliver<'a>(&'a self, cx: &'a Context, event: &'a LeasedEvent) -> BoxFuture<'a, Result<Delivery>> {
        Box::pin(async move {
            let publish = self.publish(cx, &event.event);
            cx.cancel().until_cancelled(publish).await.unwrap_or_else(|| Err(Error::cancelled(OPERATION)))
        })
    }
}

fn within(timeout: Duration, client: &Client) -> jetstream::Context {
    ContextBuilder::new().timeout(timeout).build(client.clone())
}

/// `PREFIX.TOPIC`, when that is a subject one may publish to.
fn subject(prefix: &str, topic: &str) -> Option<String> {
    is_subject(topic).then(|| format!("{prefix}.{topic}"))
}

/// Words with dots between them; `*` and `>` stand for other words, so no word may hold them.
fn is_subject(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c == '*' || c == '>');
    text.split('.').all(is_word)
}

fn headers(cx: &Context, event: &Event) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, event.id.to_string());
    let aggregate: HeaderValue = event.aggregate.parse().map_err(|error| {
        Error::new(ErrorKind::InvalidInput, OPERATION, "the aggregate fits into no header").caused_by(error)
    })?;
    headers.insert(AGGREGATE, aggregate);
    if let Some(trace) = cx.trace() {
        headers.insert(TRACE, trace.to_string());
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_makes_a_subject_or_none() {
        assert_eq!(subject("shop", "order.created").as_deref(), Some("shop.order.created"));
        assert_eq!(subject("shop", "größe").as_deref(), Some("shop.größe"));
        for topic in ["", ".", "a.", ".a", "a..b", "a b", "a\u{a0}b", "a.*", "a.>", "a>"] {
            assert_eq!(subject("shop", topic), None, "{topic:?}");
        }
    }
}
