use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Backoff, Lease, LeaseRequest,
    job::{check_name, check_payload},
};
use crate::{Result, Timestamp, TraceContext};

/// Something that happened and must reach the outside: written in the same commit as the change it tells of.
///
/// The guarantee: events of one aggregate go out in the order they were committed, each at least once, with an id that
/// stays the same over all attempts. There is no order between aggregates. An event that fails holds up its own
/// aggregate and no other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The id to drop duplicates by; the same over all attempts.
    pub id: Uuid,
    /// The thing it is about (`order/42`); order holds within it.
    pub aggregate: String,
    /// What kind of event it is, by which a sink is chosen: `intent`, `order.created`.
    pub topic: String,
    /// What it says.
    pub payload: Bytes,
    /// How long it waits after a failure.
    pub backoff: Backoff,
    /// The trace it belongs to.
    pub trace: Option<TraceContext>,
}

impl Event {
    /// An event with a new id.
    pub fn new(aggregate: impl Into<String>, topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            id: Uuid::now_v7(),
            aggregate: aggregate.into(),
            topic: topic.into(),
            payload: payload.into(),
            backoff: Backoff::default(),
            trace: None,
        }
    }

    /// What every Store checks before it accepts the event.
    ///
    /// # Errors
    /// `InvalidInput` or `TooLarge`, naming the field.
    pub fn check(&self) -> Result<()> {
        check_name("aggregate", &self.aggregate)?;
        check_name("topic", &self.topic)?;
        check_payload("event payload", &self.payload)
    }
}

/// Asks for outbox events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayRequest {
    /// The topics to take; empty takes all.
    pub topics: Vec<String>,
    /// The most events to take.
    pub limit: usize,
    /// How long the lease lasts unless extended.
    pub hold: Duration,
    /// Take events whose retry is not due yet: after the network came back.
    pub eager: bool,
}

impl RelayRequest {
    /// Up to `limit` events of any topic, for 30 seconds.
    pub fn new(limit: usize) -> Self {
        Self { topics: Vec::new(), limit, hold: Duration::from_secs(30), eager: false }
    }

    /// Takes only this topic (and those of further calls).
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.push(topic.into());
        self
    }

    /// Sets how long the lease lasts.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold.min(LeaseRequest::MAX_HOLD);
        self
    }

    /// Takes events whose retry is not due yet, too.
    #[must_use]
    pub fn eager(mut self) -> Self {
        self.eager = true;
        self
    }
}

/// An outbox event under lease.
#[derive(Clone, Debug, PartialEq)]
pub struct LeasedEvent {
    /// The right to complete or fail it.
    pub lease: Lease,
    /// The event.
    pub event: Event,
    /// Which attempt this is, counted from 1.
    pub attempt: u32,
    /// When it was committed.
    pub emitted_at: Timestamp,
    /// When the lease runs out, by the Store's clock.
    pub leased_until: Timestamp,
}
