//! How intents reach a server: whatever HTTP client the host has.

use std::fmt;

use bytes::Bytes;

use crate::{BoxFuture, Context, Result};

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
}

/// Sends requests to one server: OkHttp, URLSession or reqwest. It must not retry by itself.
pub trait HttpTransport: Send + Sync + fmt::Debug + 'static {
    /// Sends a request and waits for the whole response, of any status.
    ///
    /// An error means that nobody knows whether the server saw the request: `Unavailable` or `DeadlineExceeded`.
    fn send<'a>(&'a self, cx: &'a Context, request: HttpRequest) -> BoxFuture<'a, Result<HttpResponse>>;
}
