//! What travels with every call.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{CancelToken, Clock, Error, Result, TraceContext, allowance::Allowances, clock::within, scheduler::Class};

/// Deadline, cancellation, trace, tenant and class of one call: the first argument of every plugin method.
///
/// ```
/// use std::time::Duration;
/// use selvedge_core::Context;
///
/// let cx = Context::new().with_timeout(Duration::from_secs(5)).with_tenant("acme");
/// assert!(cx.check("example").is_ok());
/// cx.cancel().cancel();
/// assert!(cx.check("example").is_err());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Context {
    deadline: Option<Instant>,
    cancel: CancelToken,
    trace: Option<TraceContext>,
    tenant: Option<Arc<str>>,
    class: Class,
    allowances: Option<Allowances>,
}

impl Context {
    /// No deadline, not cancelled, no trace, no tenant, and a person waits for it ([`Class::P0`]).
    pub fn new() -> Self {
        Self::default()
    }

    /// Must be done `timeout` from now. An earlier deadline stays.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.with_deadline(deadline),
            None => self,
        }
    }

    /// Must be done by `deadline`. An earlier deadline stays.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |current| current.min(deadline)));
        self
    }

    /// Stops when `cancel` is cancelled.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Belongs to `trace`.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Is done for `tenant`.
    #[must_use]
    pub fn with_tenant(mut self, tenant: impl Into<Arc<str>>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Is as urgent as `class`.
    #[must_use]
    pub fn with_class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// Keeps to `allowances` where models are called: [`Engine::chat`](crate::Engine::chat) and
    /// [`Engine::embed`](crate::Engine::embed).
    #[must_use]
    pub fn with_allowances(mut self, allowances: Allowances) -> Self {
        self.allowances = Some(allowances);
        self
    }

    /// The allowances it keeps to.
    pub fn allowances(&self) -> Option<&Allowances> {
        self.allowances.as_ref()
    }

    /// When it must be done.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long is left; `None` without a deadline, zero when it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The token that stops it.
    pub fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    /// The trace it belongs to.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// The tenant it is done for.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// How urgent it is.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Waits for `work` until it is done, the context is cancelled, or its deadline passes on `clock`.
    ///
    /// # Errors
    /// `Cancelled` or `DeadlineExceeded`.
    ///
    /// # Cancellation safety
    /// `work` is dropped where it stands when the wait ends early.
    pub async fn bound<T>(
        &self,
        clock: &dyn Clock,
        operation: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T> {
        self.check(operation)?;
        let work = self.cancel.until_cancelled(work);
        let done = match self.remaining() {
            Some(left) => within(clock, left, work).await.ok_or_else(|| Error::deadline(operation))?,
            None => work.await,
        };
        done.ok_or_else(|| Error::cancelled(operation))
    }

    /// An error if `operation` should not go on.
    ///
    /// # Errors
    /// `Cancelled` or `DeadlineExceeded`.
    pub fn check(&self, operation: &'static str) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::cancelled(operation));
        }
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => Err(Error::deadline(operation)),
            _ => Ok(()),
        }
    }
}
