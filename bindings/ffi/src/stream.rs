use std::{fmt, sync::Arc};

use selvedge::{CancelToken, Error};
use tokio::sync::Mutex;

use crate::{
    alive::{Alive, STREAMS},
    call::Call,
    engine::Running,
    error::Outcome,
};

/// A stream that the host pulls batches from. Dropping it, cancelling it, and suspending or closing the engine end it.
pub(crate) struct Pulled<S> {
    running: Arc<Running>,
    stream: Arc<Mutex<Option<S>>>,
    cancel: CancelToken,
    suspended: CancelToken,
    _alive: Alive,
}

impl<S> fmt::Debug for Pulled<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pulled")
    }
}

impl<S: Send + 'static> Pulled<S> {
    pub(crate) fn new(running: Arc<Running>, stream: S) -> Self {
        let suspended = running.suspended();
        Self {
            running,
            stream: Arc::new(Mutex::new(Some(stream))),
            cancel: CancelToken::new(),
            suspended,
            _alive: Alive::of(&STREAMS),
        }
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
                    let Some(open) = stream.as_mut() else { return Err(Error::cancelled(operation).into()) };
                    let pulled = suspended.until_cancelled(pull(open));
                    cancel.until_cancelled(pulled).await.flatten()
                };
                outcome.unwrap_or_else(|| {
                    *stream = None;
                    Err(Error::cancelled(operation).into())
                })
            })
            .await
    }
}
