use std::{fmt, panic::AssertUnwindSafe, pin::pin, time::Duration};

use futures_util::{
    FutureExt, StreamExt,
    future::{Either, select},
    stream::FuturesUnordered,
};

use super::{Engine, panic_text};
use crate::{
    BoxFuture, CancelToken, Commit, Context, Error, ErrorKind, Result, Store,
    store::{LeasedEvent, RelayRequest, Retry, Subscription, Watch},
};

/// How long a relay waits for a hint before it looks again.
const POLL: Duration = Duration::from_secs(1);
/// How much longer than a delivery an event is held, so that how it ended can be kept.
const MARGIN: Duration = Duration::from_secs(1);
/// Events in flight at once.
const WINDOW: usize = 32;

/// Where outbox events go.
pub trait EventSink: Send + Sync + fmt::Debug {
    /// The topics it takes; empty takes all.
    fn topics(&self) -> Vec<String>;

    /// The longest a delivery may take; then it counts as failed. Default: 30 s.
    ///
    /// Events are held a little longer than that, so it is also how long those wait whose relay was killed.
    fn timeout(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// Delivers one event. It may be delivered again after a crash, with the same id.
    ///
    /// An error is a failed attempt: the event is retried by its backoff, or when the error says.
    fn deliver<'a>(&'a self, cx: &'a Context, event: &'a LeasedEvent) -> BoxFuture<'a, Result<Delivery>>;
}

/// What became of an event.
#[derive(Debug)]
pub enum Delivery {
    /// It arrived. The commit becomes true together with the end of the event.
    Done(Commit),
    /// It never will: it is a dead letter that holds up its aggregate until somebody decides.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What a relay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RelayReport {
    /// Attempts made.
    pub attempts: u64,
    /// Events that arrived.
    pub delivered: u64,
    /// Attempts that failed and will be repeated.
    pub failed: u64,
    /// Events that never will arrive.
    pub refused: u64,
}

impl RelayReport {
    fn add(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.delivered += other.delivered;
        self.failed += other.failed;
        self.refused += other.refused;
    }
}

impl Engine {
    /// Sends all events that may go out now to `sink`, and returns when none is left. `eager` does not wait for retries
    /// that are not due: each event is then tried once.
    ///
    /// # Errors
    /// Those of [`Store::relay`] and [`Store::commit`].
    pub async fn relay_once(&self, cx: &Context, sink: &dyn EventSink, eager: bool) -> Result<RelayReport> {
        let mut report = RelayReport::default();
        self.relay_into(cx, sink, eager, None, &mut report).await?;
        Ok(report)
    }

    /// Sends events to `sink` as they come, until `cx` is cancelled.
    ///
    /// # Errors
    /// Those of [`Store::relay`] and [`Store::commit`] that do not pass by themselves.
    pub async fn relay(&self, cx: &Context, sink: &dyn EventSink) -> Result<RelayReport> {
        let mut report = RelayReport::default();
        let mut hints = self.store()?.watch(cx, Watch::Outbox).await?;
        while !cx.cancel().is_cancelled() {
            match self.relay_into(cx, sink, false, Some(&mut hints), &mut report).await {
                Ok(()) => (),
                Err(_) if cx.cancel().is_cancelled() => break,
                Err(error) if error.retryable() => tracing::warn!(%error, "the outbox relay goes on after an error"),
                Err(error) => return Err(error),
            }
            let hint = crate::clock::within(&**self.clock(), POLL, hints.next());
            if cx.cancel().until_cancelled(hint).await.is_none() {
                break;
            }
        }
        Ok(report)
    }

    /// Counts what was sent also when it ends with an error. One delivery that takes long holds up nobody but its aggregate: as
    /// soon as another has ended, or a hint comes, it looks for more.
    async fn relay_into(
        &self,
        cx: &Context,
        sink: &dyn EventSink,
        mut eager: bool,
        mut hints: Option<&mut Subscription>,
        report: &mut RelayReport,
    ) -> Result<()> {
        let mut running = FuturesUnordered::new();
        // What is in flight is seen to its end, also when no more is taken.
        let mut outcome = Ok(());
        loop {
            if outcome.is_ok() && running.len() < WINDOW {
                match self.next_events(cx, sink, eager, WINDOW - running.len()).await {
                    Ok(events) => running.extend(events.into_iter().map(|event| self.send(cx, sink, event))),
                    Err(error) => outcome = Err(error),
                }
            }
            // Once no more is taken no hint matters; and those of a Store that was closed have ended, so they are not asked again.
            let open = outcome.is_ok();
            let hint = async {
                match &mut hints {
                    Some(hints) if open => drop(crate::clock::within(&**self.clock(), POLL, hints.next()).await),
                    _ => std::future::pending().await,
                }
            };
            let mut ended = match select(running.next(), pin!(hint)).await {
                Either::Left((None, _)) => return outcome,
                Either::Left((ended, _)) => ended,
                Either::Right(_) => None,
            };
            while let Some(sent) = ended {
                match sent {
                    Ok(sent) => {
                        // An eager pass that failed has had its chance; going round again would only hammer a dead network.
                        eager &= sent.failed == 0;
                        report.add(sent);
                    }
                    Err(error) => outcome = outcome.and(Err(error)),
                }
                ended = running.next().now_or_never().flatten();
            }
            outcome = outcome.and_then(|()| cx.check("engine.relay"));
        }
    }

    async fn next_events(
        &self,
        cx: &Context,
        sink: &dyn EventSink,
        eager: bool,
        most: usize,
    ) -> Result<Vec<LeasedEvent>> {
        let request = RelayRequest { topics: sink.topics(), eager, ..RelayRequest::new(most) };
        self.store()?.relay(cx, request.hold(sink.timeout().saturating_add(MARGIN))).await
    }

    async fn send(&self, cx: &Context, sink: &dyn EventSink, event: LeasedEvent) -> Result<RelayReport> {
        let cx = match event.event.trace {
            Some(trace) => cx.clone().with_trace(trace.child()),
            None => cx.clone(),
        };
        let mut report = RelayReport { attempts: 1, ..RelayReport::default() };
        let timeout = sink.timeout();
        // One event that makes a sink panic must not end the deliveries beside it.
        let work = AssertUnwindSafe(async { sink.deliver(&cx, &event).await }).catch_unwind();
        let delivery =
            match crate::clock::within(&**self.clock(), timeout, work).await {
                Some(Ok(delivery)) => delivery,
                Some(Err(panic)) => Err(Error::new(ErrorKind::Internal, "engine.relay", "the sink panicked")
                    .with("panic", panic_text(&*panic))),
                None => Err(Error::deadline("engine.relay").with("timeout", format!("{timeout:?}"))),
            };
        let commit = match delivery {
            Ok(Delivery::Done(effects)) => {
                report.delivered = 1;
                effects.complete(event.lease)
            }
            Ok(Delivery::Refused { reason }) => {
                report.refused = 1;
                Commit::new().fail(event.lease, reason, Retry::Never)
            }
            Err(error) if cx.cancel().is_cancelled() => {
                tracing::debug!(%error, "delivery was cancelled");
                Commit::new().release(event.lease, Duration::ZERO)
            }
            Err(error) => {
                report.failed = 1;
                let retry = error.retry_after().map_or(Retry::Backoff, Retry::After);
                Commit::new().fail(event.lease, error.to_string(), retry)
            }
        };
        // Whoever cancelled the relay did not undo what has arrived: how it ended is kept all the same.
        let cx = cx.with_cancel(CancelToken::new());
        match self.store()?.commit(&cx, commit).await {
            Ok(_) => Ok(report),
            // The lease ran out while the sink was slow: another relay delivers the event again, under the same id.
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                tracing::warn!(event = %event.event.id, %error, "an event will be delivered again");
                Ok(RelayReport { attempts: 1, failed: 1, ..RelayReport::default() })
            }
            Err(error) => Err(Error::new(error.kind(), "engine.relay", "an event's end could not be kept")
                .with("event", event.event.id)
                .retry(error.retryable())
                .caused_by(error)
                .advise("it will be delivered again, under the same id, once its lease runs out")),
        }
    }
}
