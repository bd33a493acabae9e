//! Outbox events as webhooks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use selvedge_core::{
    BoxFuture, Commit, Context, Error, ErrorKind, Result,
    engine::{Delivery, EventSink},
    store::LeasedEvent,
    transport::{HttpRequest, HttpResponse, HttpTransport},
};

const OPERATION: &str = "http.sink";
/// How much of a refusal is kept for people who look.
const REASON: usize = 200;

/// Posts outbox events to a server: the payload of an event to the path of its topic.
///
/// Each attempt carries `Idempotency-Key` with the event's id, by which the server drops what it has seen, and `traceparent`.
/// A 2xx ends the event. A 4xx refuses it: it is a dead letter, and its aggregate waits. Everything else is tried again
/// ([`HttpResponse::settled`] has the list), no sooner than `Retry-After` says.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use selvedge_http::{HttpSink, ReqwestTransport};
///
/// let shop = ReqwestTransport::new("http://127.0.0.1:8080")?.api_key("s3cret");
/// let sink = HttpSink::new(Arc::new(shop), "order.created", "/hooks/orders").route("order.paid", "/hooks/payments");
/// // Somewhere in the server: engine.relay(&cx, &sink).await
/// # let _ = sink;
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HttpSink {
    transport: Arc<dyn HttpTransport>,
    paths: BTreeMap<String, String>,
    content_type: String,
    timeout: Duration,
}

impl HttpSink {
    /// Posts events of `topic` to `path`, which begins with `/`, on the server of `transport`.
    pub fn new(transport: Arc<dyn HttpTransport>, topic: impl Into<String>, path: impl Into<String>) -> Self {
        let sink = Self {
            transport,
            paths: BTreeMap::new(),
            content_type: "application/json".into(),
            timeout: Duration::from_secs(30),
        };
        sink.route(topic, path)
    }

    /// Posts events of `topic` to `path`, besides what was set before. The last path of a topic counts.
    #[must_use]
    pub fn route(mut self, topic: impl Into<String>, path: impl Into<String>) -> Self {
        self.paths.insert(topic.into(), path.into());
        self
    }

    /// Sets what the payloads are. Default: `application/json`.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Sets the longest a delivery may take: [`EventSink::timeout`]. Default: 30 seconds.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl EventSink for HttpSink {
    fn topics(&self) -> Vec<String> {
        self.paths.keys().cloned().collect()
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn deliver<'a>(&'a self, cx: &'a Context, event: &'a LeasedEvent) -> BoxFuture<'a, Result<Delivery>> {
        Box::pin(async move {
            let event = &event.event;
            let path = self.paths.get(&event.topic).ok_or_else(|| {
                Error::new(ErrorKind::Internal, OPERATION, "no path for this topic").with("topic", &event.topic)
            })?;
            let key = event.id.to_string();
            let request = HttpRequest::post(cx, path, &key, &self.content_type, event.payload.clone());
            let response = self.transport.send(cx, request).await?.settled(OPERATION)?;
            Ok(if (200..300).contains(&response.status) {
                Delivery::Done(Commit::new())
            } else {
                Delivery::Refused { reason: refusal(path, &response) }
            })
        })
    }
}

fn refusal(path: &str, response: &HttpResponse) -> String {
    let said: String = String::from_utf8_lossy(&response.body).chars().take(REASON).collect();
    format!("{path} answered {}: {said}", response.status)
}
