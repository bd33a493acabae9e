use std::{sync::Arc, time::Duration};

use selvedge::{CancelToken, Context};

use crate::{
    alive::{Alive, CANCELS},
    error::{Outcome, guarded},
};

/// How urgent a call to a model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, uniffi::Enum)]
pub enum Class {
    /// A person is waiting.
    #[default]
    P0,
    /// Soon is good enough.
    P1,
    /// Whenever the machine is idle.
    P2,
}

/// What every call may say about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, uniffi::Record)]
pub struct Call {
    /// How long it may take, in ms; without it, as long as it takes.
    #[uniffi(default = None)]
    pub timeout_ms: Option<u64>,
    /// The trace it belongs to, as a W3C `traceparent`.
    #[uniffi(default = None)]
    pub traceparent: Option<String>,
    /// Whom it is done for.
    #[uniffi(default = None)]
    pub tenant: Option<String>,
    /// How urgent it is; without it, a person is waiting.
    #[uniffi(default = None)]
    pub class: Option<Class>,
}

impl Call {
    pub(crate) fn context(self, cancel: CancelToken) -> Outcome<Context> {
        let mut cx = Context::new().with_cancel(cancel);
        if let Some(ms) = self.timeout_ms {
            cx = cx.with_timeout(Duration::from_millis(ms));
        }
        if let Some(trace) = self.traceparent {
            cx = cx.with_trace(trace.parse()?);
        }
        if let Some(tenant) = self.tenant {
            cx = cx.with_tenant(tenant);
        }
        Ok(cx.with_class(match self.class.unwrap_or_default() {
            Class::P0 => selvedge::scheduler::Class::P0,
            Class::P1 => selvedge::scheduler::Class::P1,
            Class::P2 => selvedge::scheduler::Class::P2,
        }))
    }
}

/// Stops calls that run. One handle may be given to several calls.
///
/// Kotlin's coroutines cancel calls by themselves; Swift's tasks do not reach Rust, so its façade gives a handle to every
/// call.
#[derive(Debug, uniffi::Object)]
pub struct CancelHandle {
    token: CancelToken,
    _alive: Alive,
}

#[uniffi::export]
impl CancelHandle {
    /// A handle that nobody has used.
    #[uniffi::constructor]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { token: CancelToken::new(), _alive: Alive::of(&CANCELS) })
    }

    /// Asks the calls to stop; each ends with an error of kind `Cancelled`. Doing it twice changes nothing.
    ///
    /// # Errors
    /// None; it is a `Result` like every call.
    pub fn cancel(&self) -> Outcome<()> {
        guarded("cancel", || {
            self.token.cancel();
            Ok(())
        })
    }

    /// Whether the calls were asked to stop.
    ///
    /// # Errors
    /// None; it is a `Result` like every call.
    pub fn is_cancelled(&self) -> Outcome<bool> {
        guarded("is_cancelled", || Ok(self.token.is_cancelled()))
    }
}

impl CancelHandle {
    pub(crate) fn token(&self) -> &CancelToken {
        &self.token
    }

    /// The same context, cancelled by this handle, for work that ends by itself when it is asked to.
    pub(crate) fn replace(cx: Context, handle: Option<&Self>) -> Context {
        match handle {
            Some(handle) => cx.with_cancel(handle.token.child()),
            None => cx,
        }
    }
}
