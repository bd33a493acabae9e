//! Errors as HTTP answers: `application/problem+json` (RFC 9457).

use std::sync::Arc;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use selvedge_core::{Error, ErrorKind};
use serde::Serialize;

/// An error on its way to a client.
///
/// As a response it is `application/problem+json` with `type`, `title`, `status`, `kind`, `message` and `advice`. Faults of
/// the server itself are logged in full and told to the client without their details.
///
/// ```
/// use selvedge_core::{Error, ErrorKind};
/// use selvedge_http::Problem;
///
/// let problem = Problem::from(Error::new(ErrorKind::NotFound, "orders.read", "no such order"));
/// assert_eq!(problem.status().as_u16(), 404);
/// ```
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    error: Arc<Error>,
    /// What the API's own error shape may name: the parameter and a code.
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
}

impl Problem {
    /// An error with a status of its own.
    pub fn new(status: StatusCode, error: Error) -> Self {
        Self { status, error: Arc::new(error), param: None, code: None }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The error.
    pub fn error(&self) -> &Error {
        &self.error
    }

    pub(crate) fn bad(operation: &'static str, message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidInput, operation, message).into()
    }

    pub(crate) fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// What a client may read of the message: all of it when the client can do something about it.
    pub(crate) fn message(&self) -> String {
        let error = &self.error;
        if self.status.is_server_error() && !error.retryable() {
            return error.message().to_owned();
        }
        let context: Vec<_> = error.context().iter().map(|(name, value)| format!("{name}: {value}")).collect();
        match context.as_slice() {
            [] => error.message().to_owned(),
            context => format!("{} ({})", error.message(), context.join(", ")),
        }
    }

    /// Puts `Retry-After` on a response and remembers the error there for whoever writes it in another shape.
    pub(crate) fn finish(self, body: Vec<u8>, content_type: &'static str) -> Response {
        if self.status.is_server_error() {
            tracing::error!(status = self.status.as_u16(), error = %self.error, "a request failed");
        }
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        let busy = matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        if let Some(after) = self.error.retry_after().or(busy.then(|| std::time::Duration::from_secs(1))) {
            let seconds = after.as_millis().div_ceil(1000).max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.min(86_400) as u64));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::new(status_of(error.kind()), error)
    }
}

/// The HTTP status of a kind of error.
pub fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict | ErrorKind::LeaseLost => StatusCode::CONFLICT,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::Cancelled | ErrorKind::Closed => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    kind: ErrorKind,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'a str>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let message = self.message();
        let document = Document {
            r#type: format!("urn:selvedge:error:{}", self.error.kind()),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            kind: self.error.kind(),
            message: &message,
            advice: self.error.advice(),
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        self.finish(body, "application/problem+json")
    }
}
