//! How intents and events reach a server: whatever HTTP client the host has.

use std::{fmt, time::Duration};

use bytes::Bytes;
use chrono::DateTime;

use crate::{BoxFuture, Context, Error, ErrorKind, Result, Timestamp, idempotency::is_definitive};

/// The longest `Retry-After` that is believed: 1 day. What asks for more is tried again after that.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// A request to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// `POST`.
    pub method: &'static str,
    /// The path below the server's address: `/v1/intents`.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl HttpRequest {
    /// A POST that may arrive more than once, under one key. It carries the trace of `cx`.
    pub fn post(cx: &Context, path: impl Into<String>, key: &str, content_type: &str, body: impl Into<Bytes>) -> Self {
        let mut headers = vec![
            ("content-type".into(), content_type.into()),
            // The draft makes the value a structured-field string, hence the quotes.
            ("idempotency-key".into(), format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""))),
        ];
        if let Some(trace) = cx.trace() {
            headers.push(("traceparent".into(), trace.to_string()));
        }
        Self { method: "POST", path: path.into(), headers, body: body.into() }
    }
}

/// A response that arrived whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl HttpResponse {
    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Itself, when it ends what was sent: a success, or a refusal that a retry would not change.
    ///
    /// Anything else is an error and a failed attempt: 408, 409, 425, 429 and 5xx; a redirect, because it is not followed; and
    /// 401 and 403, because credentials can be renewed and what was sent cannot be made again. The error waits as long as
    /// `Retry-After` says, 1 day at the most.
    ///
    /// # Errors
    /// `Unavailable`, with the status.
    ///
    /// ```
    /// use std::time::Duration;
    /// use selvedge_core::transport::HttpResponse;
    ///
    /// let response = |status, headers| HttpResponse { status, headers, body: Default::default() };
    /// assert!(response(202, vec![]).settled("example").is_ok());
    /// assert!(response(422, vec![]).settled("example").is_ok());
    /// let busy = response(503, vec![("retry-after".into(), "7".into())]).settled("example").unwrap_err();
    /// assert_eq!(busy.retry_after(), Some(Duration::from_secs(7)));
    /// ```
    pub fn settled(self, operation: &'static str) -> Result<Self> {
        if is_definitive(self.status) && !matches!(self.status, 300..=399 | 401 | 403) {
            return Ok(self);
        }
        let error = Error::new(ErrorKind::Unavailable, operation, "the server has not answered for good")
            .with("status", self.status);
        let error = match self.retry_after(Timestamp::now()) {
            Some(wait) => error.retry_in(wait),
            None => error,
        };
        // A server that fails may have done part of the work: only what it turned away is known to have had no effect.
        Err(error.retry(matches!(self.status, 401 | 403 | 425 | 429)))
    }

    /// What `Retry-After` says, in seconds or as a date; a date counts from the response's own `Date` or else from `now`.
    fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let value = self.header("retry-after")?.trim();
        let date = |text: &str| Some(Timestamp(DateTime::parse_from_rfc2822(text).ok()?.timestamp_micros()));
        let wait = match value.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => date(value)?.since(self.header("date").and_then(date).unwrap_or(now)),
        };
        Some(wait.min(LONGEST_WAIT))
    }
}

/// Sends requests to one server: OkHttp, URLSession or reqwest. It must not retry by itself.
pub trait HttpTransport: Send + Sync + fmt::Debug + 'static {
    /// Sends a request and waits for the whole response, of any status.
    ///
    /// An error means that nobody knows whether the server saw the request: `Unavailable` or `DeadlineExceeded`.
    fn send<'a>(&'a self, cx: &'a Context, request: HttpRequest) -> BoxFuture<'a, Result<HttpResponse>>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(status: u16, headers: &[(&str, &str)]) -> HttpResponse {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        HttpResponse { status, headers, body: Bytes::new() }
    }

    #[test]
    fn what_a_retry_may_change_is_no_answer() {
        for status in [200, 201, 202, 204, 400, 404, 410, 422] {
            assert!(response(status, &[]).settled("test").is_ok(), "{status}");
        }
        for status in [302, 307, 401, 403, 408, 409, 425, 429, 500, 502, 503, 504] {
            let error = response(status, &[]).settled("test").unwrap_err();
            assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, None), "{status}");
            assert_eq!(error.retryable(), [401, 403, 425, 429].contains(&status), "{status}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_its_forms() {
        let wait = |headers: &[(&str, &str)]| response(503, headers).settled("test").unwrap_err().retry_after();
        assert_eq!(wait(&[("retry-after", "120")]), Some(Duration::from_secs(120)));
        assert_eq!(wait(&[("retry-after", "99999999999")]), Some(LONGEST_WAIT));
        assert_eq!(wait(&[("retry-after", "soon")]), None);
        let later = [("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), ("date", "Sun, 06 Nov 1994 08:49:07 GMT")];
        assert_eq!(wait(&later), Some(Duration::from_secs(30)), "the server's own clock counts");
        assert_eq!(wait(&later[..1]), Some(Duration::ZERO), "what is past is now");
    }

    proptest! {
        #[test]
        fn no_answer_of_a_server_parks_anything_for_more_than_a_day(status in 100u16..600, value in "\\PC{0,40}") {
            if let Err(error) = response(status, &[("retry-after", &value)]).settled("test") {
                prop_assert!(error.retry_after().unwrap_or_default() <= LONGEST_WAIT);
            }
        }
    }
}
