use std::future::Future;

use tracing::Instrument;

use super::{Around, Attempt};
use crate::{Context, Result};

/// Puts a `tracing` span around each call, with the operation, the trace id and the tenant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spans;

impl Around for Spans {
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
        let span = tracing::debug_span!(
            "call",
            operation,
            trace_id = cx.trace().map(|trace| tracing::field::display(trace.trace_id())),
            tenant = cx.tenant(),
        );
        let result = call(Attempt::Last).instrument(span.clone()).await;
        if let Err(error) = &result {
            let _entered = span.enter();
            tracing::debug!(kind = error.kind().as_str(), %error, "failed");
        }
        result
    }
}
