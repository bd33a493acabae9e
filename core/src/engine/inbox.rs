use std::{fmt, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;

use super::Engine;
use crate::{
    Commit, Context, Error, ErrorKind, Result, Store,
    idempotency::{Answer, Claim, ClaimRequest, Fingerprint, IdempotencyKey, Ticket},
};

const OPERATION: &str = "engine.receive";

/// What a consumer has received already, kept in its Store: what a broker delivers at least once takes effect once.
///
/// A message's id is an idempotency key of the scope `inbox/CONSUMER`. [`Engine::receive`] does all of it; with
/// [`Inbox::claim`] and [`Inbox::mark`] a consumer does the same within a database transaction of its own.
///
/// ```
/// use std::time::Duration;
/// use selvedge_core::engine::Inbox;
///
/// let inbox = Inbox::new("billing").hold(Duration::from_secs(60)).retention(Duration::from_secs(30 * 86_400));
/// assert_eq!(inbox.claim("0198-7c")?.key.to_string(), "inbox/billing:0198-7c");
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    consumer: String,
    hold: Duration,
    retention: Duration,
}

impl Inbox {
    /// The inbox of a consumer: `billing`. Consumers that share a name share the work; each name receives every message once.
    pub fn new(consumer: impl Into<String>) -> Self {
        Self { consumer: consumer.into(), hold: Duration::from_secs(30), retention: Duration::from_secs(7 * 86_400) }
    }

    /// Sets the longest a message may be worked on; a message whose consumer is gone is free again after that. Default: 30 s.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Sets how long an id is remembered: longer than its broker may deliver it again. Default: 7 days.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Asks for the message with this id: [`Store::claim`].
    ///
    /// # Errors
    /// `InvalidInput` when consumer or id are no idempotency key.
    pub fn claim(&self, id: impl fmt::Display) -> Result<ClaimRequest> {
        let key = IdempotencyKey::new(format!("inbox/{}", self.consumer), id.to_string())?;
        // The id says it all: a message that was encoded anew is still the same one.
        let fingerprint = Fingerprint::of("inbox", &[]);
        Ok(ClaimRequest::new(key, fingerprint).hold(self.hold).retention(self.retention))
    }

    /// The mark that a message was received, to be committed together with its effect. The commit fails if the claim is lost.
    pub fn mark(&self, ticket: Ticket) -> Commit {
        Commit::new().settle(ticket, Answer { status: 204, headers: Vec::new(), body: Default::default() })
    }
}

/// What became of a message that a broker delivered. Either way it can be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Received {
    /// It took effect now.
    Now,
    /// It had taken effect before; the handler was not called.
    Before,
}

impl Engine {
    /// Lets a message take effect once, however often it is delivered: `handler` says what to write, and that becomes true
    /// together with the mark that the message with this id was received.
    ///
    /// Acknowledge the message to its broker when this returns, and let it be delivered again when it fails: then nothing of
    /// `handler`'s commit is true, unless the error is an `Unavailable` or `Closed` one that is not `retryable`; then it is
    /// found out when the message comes again.
    ///
    /// ```
    /// use selvedge_core::{Commit, Context, Engine, Result, engine::{Inbox, Received}, store::NewJob};
    ///
    /// async fn on_message(engine: &Engine, inbox: &Inbox, id: &str, payload: Vec<u8>) -> Result<Received> {
    ///     let cx = Context::new();
    ///     engine.receive(&cx, inbox, id, async || Ok(Commit::new().enqueue([NewJob::new("invoices", payload)]))).await
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of `handler`; `Busy` with `retry_after` while another delivery is worked on; `DeadlineExceeded` when `handler` takes
    /// longer than the inbox holds a message; `LeaseLost` when another delivery took over; those of the Store.
    ///
    /// # Cancellation safety
    /// When it is dropped, nothing or all of it happened, and the message is free again once its hold has run out.
    ///
    /// # Panics
    /// When `handler` does; the message is free at once.
    pub async fn receive(
        &self,
        cx: &Context,
        inbox: &Inbox,
        id: impl fmt::Display,
        handler: impl AsyncFnOnce() -> Result<Commit>,
    ) -> Result<Received> {
        let ticket = match self.store()?.claim(cx, inbox.claim(&id)?).await? {
            Claim::Fresh(ticket) => ticket,
            Claim::Done(_) => return Ok(Received::Before),
            Claim::InFlight { retry_after } => {
                return Err(Error::new(ErrorKind::Busy, OPERATION, "another delivery of this message is worked on")
                    .with("id", id)
                    .retry_in(retry_after));
            }
            Claim::Mismatch => {
                return Err(Error::new(ErrorKind::Conflict, OPERATION, "this id was used as an idempotency key")
                    .with("id", id)
                    .advise("leave scopes that begin with `inbox/` to inboxes"));
            }
        };
        let work = cx.clone().with_timeout(inbox.hold);
        let handled = AssertUnwindSafe(work.bound(&**self.clock(), OPERATION, handler())).catch_unwind().await;
        // The caller may be out of time by now; how it ended is kept all the same.
        let keep = cx.trace().map_or_else(Context::new, |trace| Context::new().with_trace(trace));
        let failure = match handled {
            Ok(Ok(Ok(effects))) => {
                let commit = effects.and(inbox.mark(ticket.clone()));
                match self.store()?.commit(&keep, commit).await {
                    Ok(_) => return Ok(Received::Now),
                    Err(error) => Ok(error),
                }
            }
            Ok(Ok(Err(error)) | Err(error)) => Ok(error),
            Err(panic) => Err(panic),
        };
        match self.store()?.commit(&keep, Commit::new().abandon(ticket)).await {
            Ok(_) => (),
            // It was lost, or it is settled after all: then it is not ours to give back.
            Err(error) if error.kind() == ErrorKind::LeaseLost => (),
            Err(error) => tracing::warn!(id = %id, %error, "a message waits until its hold has run out"),
        }
        match failure {
            Ok(error) => Err(error),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
