use std::{fmt, sync::Arc};

use selvedge::{CancelToken, Context, Error};
use tokio::sync::Mutex;

use crate::{
    alive::{Alive, STREAMS},
    call::{Call, CancelHandle},
    engine::{Running, Task},
    error::Outcome,
};

/// A stream that the host pulls batches from. Dropping it, cancelling it, and suspending or closing the engine end it.
///
/// It is there at once and opens in the background: an object that an asynchronous call returned would be lost when the host
/// drops that call at the moment it is ready (ADR 009).
pub(crate) struct Pulled<S> {
    running: Arc<Running>,
    stream: Arc<Mutex<State<S>>>,
    cancel: CancelToken,
    suspended: CancelToken,
    _alive: Alive,
}

enum State<S> {
    Opening(Task<S>),
    Open(S),
    Ended,
}

impl<S> State<S> {
    /// The open stream, waited for if need be. It may be dropped while it waits, and be asked again.
    async fn opened(&mut self, operation: &'static str) -> Outcome<&mut S> {
        if let Self::Opening(task) = self {
            let opened = task.outcome(operation).await;
            *self = Self::Ended;
            *self = Self::Open(opened?);
        }
        match self {
            Self::Open(stream) => Ok(stream),
            _ => Err(Error::cancelled(operation).into()),
        }
    }
}

impl<S> fmt::Debug for Pulled<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pulled")
    }
}

impl<S: Send + 'static> Pulled<S> {
    /// Begins to open a stream, as a call of its own.
    pub(crate) fn open<F>(
        running: Arc<Running>,
        operation: &'static str,
        call: Call,
        cancel: Option<&CancelHandle>,
        open: impl FnOnce(Arc<Running>, Context) -> F,
    ) -> Outcome<Self>
    where
        F: Future<Output = Outcome<S>> + Send + 'static,
    {
        let opening = running.start(operation, call, cancel, open)?;
        Ok(Self {
            suspended: running.suspended(),
            running,
            stream: Arc::new(Mutex::new(State::Opening(opening))),
            cancel: CancelToken::new(),
            _alive: Alive::of(&STREAMS),
        })
    }

    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Runs `pull` on the stream, one at a time. When the stream is cancelled it is dropped, which stops its work.
    pub(crate) async fn pull<T, P>(&self, operation: &'static str, pull: P) -> Outcome<T>
    where
        T: Send + 'static,
        P: for<'a> FnOnce(&'a mut S) -> selvedge::BoxFuture<'a, Outcome<T>> + Send + 'static,
    {
        let (stream, cancel, suspended) = (self.stream.clone(), self.cancel.clone(), self.suspended.clone());
        self.running
            .run(operation, Call::default(), None, |_, _| async move {
                let mut stream = stream.lock().await;
                let outcome = {
                    let pulled = async { pull(stream.opened(operation).await?).await };
                    let pulled = suspended.until_cancelled(pulled);
                    cancel.until_cancelled(pulled).await.flatten()
                };
                outcome.unwrap_or_else(|| {
                    *stream = State::Ended;
                    Err(Error::cancelled(operation).into())
                })
            })
            .await
    }
}
