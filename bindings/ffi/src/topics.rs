use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use selvedge::{
    Store,
    store::{self, StoreExt, Subscription, Watch},
};

use crate::{
    alive::{Alive, BULKS},
    call::{Call, CancelHandle},
    engine::{Engine, Running},
    error::{Outcome, guarded},
    stream::Pulled,
};

/// Where a subscriber begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Start {
    /// With what is published from now on.
    Now,
    /// With all that is still kept.
    Earliest,
    /// After this cursor.
    After {
        /// The cursor of the last message that was read.
        cursor: i64,
    },
}

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Notice {
    /// A message, in order.
    Message {
        /// Its place in the topic; keep it to go on from there.
        cursor: i64,
        /// What was published.
        payload: Vec<u8>,
        /// When, in ms since the Unix epoch.
        published_at_ms: i64,
    },
    /// This many messages were skipped: the subscriber was too slow, or they are past their retention.
    Lagged {
        /// How many.
        skipped: u64,
    },
}

/// A large payload on its way in. It is read where the host keeps it, and copied once; an argument of an asynchronous call is
/// copied more often: a message of 1 MB takes half as long again (`docs/figures/ffi.md`).
#[derive(Debug, uniffi::Object)]
pub struct Bulk {
    bytes: Bytes,
    _alive: Alive,
}

#[uniffi::export]
impl Bulk {
    /// Copies the host's bytes. Kotlin gives a direct `ByteBuffer`, Swift `Data`, Python `bytes`.
    ///
    /// # Errors
    /// None; it is a `Result` like every call.
    #[uniffi::constructor]
    pub fn new(bytes: &[u8]) -> Outcome<Arc<Self>> {
        guarded("bulk", || Ok(Arc::new(Self { bytes: Bytes::copy_from_slice(bytes), _alive: Alive::of(&BULKS) })))
    }
}

#[uniffi::export]
impl Engine {
    /// Publishes a message to whoever subscribes in any process on this database, and returns its cursor.
    ///
    /// # Errors
    /// `InvalidInput`, `TooLarge`, `StorageFull`.
    pub async fn publish(
        &self,
        topic: String,
        payload: Vec<u8>,
        call: Call,
        cancel: Option<Arc<CancelHandle>>,
    ) -> Outcome<i64> {
        self.run("engine.publish", call, cancel, |running, cx| async move {
            Ok(running.engine.store()?.publish(&cx, &topic, payload).await?)
        })
        .await
    }

    /// [`publish`](Engine::publish) for large payloads: from some 64 KiB on it is the faster one.
    ///
    /// # Errors
    /// Those of `publish`.
    pub async fn publish_bulk(
        &self,
        topic: String,
        payload: Arc<Bulk>,
        call: Call,
        cancel: Option<Arc<CancelHandle>>,
    ) -> Outcome<i64> {
        self.run("engine.publish", call, cancel, |running, cx| async move {
            Ok(running.engine.store()?.publish(&cx, &topic, payload.bytes.clone()).await?)
        })
        .await
    }

    /// Subscribes to a topic. `buffer` is how many messages a slow subscriber may be behind before it skips the oldest;
    /// without it nothing that is kept is skipped.
    ///
    /// Returns at once: the subscription begins in the background, and the first `next_batch` waits for it and tells what
    /// went wrong. What is published before it stands is not seen by a subscriber that begins with `Now`;
    /// [`begun`](TopicStream::begun) waits for that.
    ///
    /// # Errors
    /// `Closed`, `Unavailable` while suspended.
    pub fn subscribe(&self, topic: String, from: Start, buffer: Option<u32>) -> Outcome<Arc<TopicStream>> {
        guarded("engine.subscribe", || {
            let open = |running: Arc<Running>, _| async move {
                let from = match from {
                    Start::Now => store::Start::Now,
                    Start::Earliest => store::Start::Earliest,
                    Start::After { cursor } => store::Start::After(cursor),
                };
                let watch = Watch::Topic { topic, from, buffer: buffer.map(|buffer| buffer as usize) };
                // The subscription outlives this call, so it gets a context of its own.
                Ok(running.engine.store()?.watch(&selvedge::Context::new(), watch).await?)
            };
            Ok(Arc::new(TopicStream(Pulled::open(self.running()?, "engine.subscribe", Call::default(), None, open)?)))
        })
    }
}

/// A subscription. Letting go of it ends it.
#[derive(Debug, uniffi::Object)]
pub struct TopicStream(Pulled<Subscription>);

#[uniffi::export]
impl TopicStream {
    /// Waits until the subscription stands: whatever is published from then on is seen.
    ///
    /// # Errors
    /// `InvalidInput`, `Cancelled`, and those of the Store.
    pub async fn begun(&self) -> Outcome<()> {
        self.0.pull("engine.subscribe", |_| Box::pin(async { Ok(()) })).await
    }

    /// Waits for the next notices: at least one, at most `max`. Empty when the engine has closed.
    ///
    /// # Errors
    /// `InvalidInput`, `Cancelled`, and those of the Store.
    pub async fn next_batch(&self, max: u32) -> Outcome<Vec<Notice>> {
        self.0
            .pull("topic.next_batch", move |subscription| {
                Box::pin(async move {
                    let mut batch = Vec::new();
                    let Some(first) = subscription.next().await else { return Ok(batch) };
                    batch.extend(notice(first?));
                    while batch.len() < max.max(1) as usize {
                        // Only what is there already.
                        let Some(Some(next)) = subscription.next().now_or_never() else { break };
                        batch.extend(notice(next?));
                    }
                    Ok(batch)
                })
            })
            .await
    }

    /// Ends the subscription; a waiting `next_batch` fails with `Cancelled`.
    ///
    /// # Errors
    /// None; it is a `Result` like every call.
    pub fn cancel(&self) -> Outcome<()> {
        guarded("topic.cancel", || {
            self.0.cancel();
            Ok(())
        })
    }
}

fn notice(notice: store::Notice) -> Option<Notice> {
    match notice {
        store::Notice::Message(message) => Some(Notice::Message {
            cursor: message.cursor,
            payload: message.payload.into(),
            published_at_ms: message.published_at.as_micros() / 1000,
        }),
        store::Notice::Lagged(skipped) => Some(Notice::Lagged { skipped }),
        store::Notice::Work => None,
    }
}
