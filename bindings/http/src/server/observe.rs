//! What happens around every request: ids, trace, span, time limit, panics and counts.

use std::{panic::AssertUnwindSafe, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, header::HeaderName};
use selvedge_core::{Context, Error, ErrorKind, TraceContext};
use tracing::{Instrument, field::Empty};

use super::{AppState, serve::Lifecycle};
use crate::Problem;

const OPERATION: &str = "http.request";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

pub(crate) async fn observe(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let (id, trace) = identity(request.headers());
    let lifecycle = request.extensions().get::<Lifecycle>().cloned().unwrap_or_default();
    let cx = Context::new().with_trace(trace).with_cancel(lifecycle.cut_off().child());
    request.extensions_mut().insert(cx);

    let trace_id = trace.trace_id();
    let span = tracing::info_span!("request", %method, route, request_id = %id, trace_id = %trace_id, status = Empty);
    let work = AssertUnwindSafe(tokio::time::timeout(state.options.timeout, next.run(request))).catch_unwind();
    let mut response = async {
        match work.await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => Problem::from(Error::deadline(OPERATION)).into_response(),
            Err(panic) => Problem::from(panicked(&*panic)).into_response(),
        }
    }
    .instrument(span.clone())
    .await;

    let took = started.elapsed();
    span.record("status", response.status().as_u16());
    span.in_scope(|| tracing::debug!(status = response.status().as_u16(), ms = took.as_millis() as u64, "answered"));
    state.metrics.request(&method, route, response.status(), took);
    for (name, value) in [(REQUEST_ID, id), (TRACE_ID, trace_id)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The request's id and trace: the client's where it gave one that can be used.
fn identity(headers: &HeaderMap) -> (String, TraceContext) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let id = header("x-request-id").filter(|id| (1..=128).contains(&id.len())).map(ToOwned::to_owned);
    // A traceparent that cannot be read starts a new trace, as W3C has it.
    let trace = header("traceparent").and_then(|trace| trace.parse::<TraceContext>().ok());
    (
        id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
        trace.map_or_else(TraceContext::start, TraceContext::child),
    )
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref().cloned());
    let text: String = text.unwrap_or_else(|| "no message".into());
    tracing::error!(panic = %text, "a handler panicked");
    Error::new(ErrorKind::Internal, OPERATION, "the server made a mistake")
        .advise("report it with the x-request-id of this response")
}
