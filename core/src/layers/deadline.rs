use std::{future::Future, sync::Arc, time::Duration};

use super::{Around, Attempt};
use crate::{Clock, Context, Error, Result, clock::within};

/// Ends calls that take too long, and those whose context has passed its deadline.
///
/// The work may still happen: see the plugin's notes on cancellation. A stream is bounded until it begins, not while it runs.
#[derive(Clone, Debug)]
pub struct Timeout {
    limit: Duration,
    clock: Arc<dyn Clock>,
}

impl Timeout {
    /// At most `limit` for each call, measured by `clock`.
    pub fn new(limit: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { limit, clock }
    }
}

impl Around for Timeout {
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
        cx.check(operation)?;
        let limit = cx.remaining().map_or(self.limit, |left| left.min(self.limit));
        within(&*self.clock, limit, call(Attempt::Last))
            .await
            .unwrap_or_else(|| Err(Error::deadline(operation).with("limit_ms", limit.as_millis())))
    }
}
