use std::{collections::BTreeMap, fmt, time::Duration};

use super::{Delivery, EventSink};
use crate::{BoxFuture, Context, Error, ErrorKind, Result, store::LeasedEvent};

/// What takes the outbox events of a topic within this process. Any `Fn(Context, LeasedEvent) -> BoxFuture<Result<Delivery>>` is
/// one.
pub trait EventHandler: Send + Sync {
    /// Takes one event. It may be called again for the same event after a crash or a lost lease.
    ///
    /// An error is a failed attempt: the event is retried by its backoff, or when the error says.
    fn handle(&self, cx: Context, event: LeasedEvent) -> BoxFuture<'_, Result<Delivery>>;
}

impl<F> EventHandler for F
where
    F: Fn(Context, LeasedEvent) -> BoxFuture<'static, Result<Delivery>> + Send + Sync,
{
    fn handle(&self, cx: Context, event: LeasedEvent) -> BoxFuture<'_, Result<Delivery>> {
        self(cx, event)
    }
}

/// Gives outbox events to handlers within this process, one for each topic.
///
/// The commit that a handler returns becomes true together with the end of the event, so an effect in the same Store happens
/// exactly once.
///
/// ```
/// use selvedge_core::{BoxFuture, Commit, Context, Result, engine::{Delivery, HandlerSink}, store::{LeasedEvent, NewJob}};
///
/// fn receipt(_: Context, event: LeasedEvent) -> BoxFuture<'static, Result<Delivery>> {
///     Box::pin(async move { Ok(Delivery::Done(Commit::new().enqueue([NewJob::new("receipts", event.event.payload)]))) })
/// }
/// let sink = HandlerSink::new("order.paid", receipt);
/// // Somewhere in the server: engine.relay(&cx, &sink).await
/// # let _ = sink;
/// ```
pub struct HandlerSink {
    handlers: BTreeMap<String, Box<dyn EventHandler>>,
    timeout: Duration,
}

impl HandlerSink {
    /// Gives events of `topic` to `handler`.
    pub fn new(topic: impl Into<String>, handler: impl EventHandler + 'static) -> Self {
        Self { handlers: BTreeMap::new(), timeout: Duration::from_secs(30) }.on(topic, handler)
    }

    /// Gives events of `topic` to `handler`, besides what was set before. The last handler of a topic counts.
    #[must_use]
    pub fn on(mut self, topic: impl Into<String>, handler: impl EventHandler + 'static) -> Self {
        self.handlers.insert(topic.into(), Box::new(handler));
        self
    }

    /// Sets the longest a handler may take: [`EventSink::timeout`].
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl fmt::Debug for HandlerSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerSink").field("topics", &self.topics()).finish_non_exhaustive()
    }
}

impl EventSink for HandlerSink {
    fn topics(&self) -> Vec<String> {
        self.handlers.keys().cloned().collect()
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn deliver<'a>(&'a self, cx: &'a Context, event: &'a LeasedEvent) -> BoxFuture<'a, Result<Delivery>> {
        match self.handlers.get(&event.event.topic) {
            Some(handler) => handler.handle(cx.clone(), event.clone()),
            // The relay asks for these topics only; a Store that gives another is wrong, and the event stays.
            None => Box::pin(async move {
                Err(Error::new(ErrorKind::Internal, "engine.relay", "no handler for this topic")
                    .with("topic", &event.event.topic))
            }),
        }
    }
}
