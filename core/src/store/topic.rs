use std::{
    fmt,
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use serde::Serialize;

use crate::{Result, Timestamp};

/// A message of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Its place in the topic: larger is later. Keep it to go on from there.
    pub cursor: i64,
    /// What was published.
    #[serde(skip)]
    pub payload: Bytes,
    /// When it was published.
    pub published_at: Timestamp,
}

/// Where a subscriber begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With what is published from now on.
    #[default]
    Now,
    /// With all that is still kept.
    Earliest,
    /// After this cursor.
    After(i64),
}

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    /// The messages of a topic.
    Topic {
        /// The topic.
        topic: String,
        /// Where to begin.
        from: Start,
        /// The most messages a slow subscriber may be behind: older ones are skipped and counted as
        /// [`Notice::Lagged`]. `None` skips nothing that is still kept.
        buffer: Option<usize>,
    },
    /// A hint that one of these queues may have a job to lease.
    Jobs(Vec<String>),
    /// A hint that the outbox may have an event to relay.
    Outbox,
}

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A message of the topic, in order.
    Message(Message),
    /// This many messages were skipped: the subscriber was too slow, or they are past their retention.
    Lagged(u64),
    /// There may be work. A hint: it may come for nothing, and work may come without it, so poll now and then as well.
    Work,
}

/// A stream of notices. It ends when the Store closes; dropping it ends the watch.
pub struct Subscription(Pin<Box<dyn Stream<Item = Result<Notice>> + Send>>);

impl Subscription {
    /// Wraps a Store's stream.
    pub fn new(stream: impl Stream<Item = Result<Notice>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The next notice; `None` when the Store has closed.
    ///
    /// # Cancellation safety
    /// Dropping the future loses no notice.
    ///
    /// # Errors
    /// What the Store could not read.
    pub async fn next(&mut self) -> Option<Result<Notice>> {
        std::future::poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }
}

impl Stream for Subscription {
    type Item = Result<Notice>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}
