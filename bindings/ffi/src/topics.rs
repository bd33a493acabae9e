use std::sync::Arc;

use futures_util::FutureExt;
use selvedge::{
    Store,
    store::{self, StoreExt, Subscription, Watch},
};

use crate::{
    call::{Call, CancelHandle},
    engine::Engine,
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

    /// Subscribes to a topic. `buffer` is how many messages a slow subscriber may be behind before it skips the oldest;
    /// without it nothing that is kept is skipped.
    ///
    /// # Errors
    /// `InvalidInput`.
    #[uniffi::method(default(cancel = None))]
    pub async fn subscribe(
        &self,
        topic: String,
        from: Start,
        buffer: Option<u32>,
        cancel: Option<Arc<CancelHandle>>,
    ) -> Outcome<Arc<TopicStream>> {
        self.run("engine.subscribe", Call::default(), cancel, |running, _| async move {
            let from = match from {
                Start::Now => store::Start::Now,
                Start::Earliest => store::Start::Earliest,
                Start::After { cursor } => store::Start::After(cursor),
            };
            let watch = Watch::Topic { topic, from, buffer: buffer.map(|buffer| buffer as usize) };
            // The subscription outlives this call, so it gets a context of its own.
            let subscription = running.engine.store()?.watch(&selvedge::Context::new(), watch).await?;
            Ok(Arc::new(TopicStream(Pulled::new(running, subscription))))
        })
        .await
    }
}

/// A subscription. Letting go of it ends it.
#[derive(Debug, uniffi::Object)]
pub struct TopicStream(Pulled<Subscription>);

#[uniffi::export]
impl TopicStream {
    /// Waits for the next notices: at least one, at most `max`. Empty when the engine has closed.
    ///
    /// # Errors
    /// `Cancelled`, and those of the Store.
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
