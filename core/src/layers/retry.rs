use std::{future::Future, sync::Arc};

use super::{Around, Attempt};
use crate::{Clock, Context, Result, store::Backoff};

/// Repeats calls that failed without effect and may succeed later, and no others.
///
/// It waits by a [`Backoff`], or for as long as the error says, and gives up when that would pass the deadline.
#[derive(Clone, Debug)]
pub struct Retry {
    attempts: u32,
    backoff: Backoff,
    clock: Arc<dyn Clock>,
}

impl Retry {
    /// At most `attempts` attempts, waiting between them by `backoff` on `clock`.
    pub fn new(attempts: u32, backoff: Backoff, clock: Arc<dyn Clock>) -> Self {
        Self { attempts: attempts.max(1), backoff, clock }
    }
}

impl Around for Retry {
    async fn around<T, F>(
        &self,
        cx: &Context,
        operation: &'static str,
        mut call: impl FnMut(Attempt) -> F + Send,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        for attempt in 1..self.attempts {
            let error = match call(Attempt::Again).await {
                Err(error) if error.retryable() => error,
                settled => return settled,
            };
            let delay = error.retry_after().unwrap_or_else(|| self.backoff.delay(attempt, fastrand::f64()));
            if cx.remaining().is_some_and(|left| left <= delay) {
                return Err(error);
            }
            tracing::debug!(operation, attempt, ?delay, %error, "retrying");
            if cx.cancel().until_cancelled(self.clock.sleep(delay)).await.is_none() {
                return Err(error);
            }
        }
        call(Attempt::Last).await
    }
}
