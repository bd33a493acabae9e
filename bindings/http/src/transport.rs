//! The transport of Rust hosts.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Client, Url, redirect::Policy};
use selvedge_core::{
    BoxFuture, Context, Error, ErrorKind, Result,
    transport::{HttpRequest, HttpResponse, HttpTransport},
};

const OPERATION: &str = "transport.send";

/// Sends intents with [`reqwest`], over HTTP/1.1.
///
/// It repeats nothing and follows no redirect: when to try again is the outbox's business, and a redirected order would
/// reach a server that never promised to keep its key.
///
/// ```
/// use std::time::Duration;
/// use selvedge_http::ReqwestTransport;
///
/// let transport = ReqwestTransport::new("http://127.0.0.1:8080")?.api_key("phone-key").timeout(Duration::from_secs(10));
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone)]
pub struct ReqwestTransport {
    client: Client,
    base: Url,
    api_key: Option<String>,
    timeout: Duration,
}

impl ReqwestTransport {
    /// The largest response body that is read: 1 MiB.
    pub const MAX_BODY: usize = 1 << 20;

    /// Sends to the server at `base_url`; a path in it is put before each request's own. Each request may take 30 seconds.
    ///
    /// # Errors
    /// `InvalidInput` when it is not an `http` address.
    pub fn new(base_url: &str) -> Result<Self> {
        let invalid = |message: &str| {
            Error::new(ErrorKind::InvalidInput, "transport.new", message)
                .with("base_url", base_url)
                .advise("use an address such as http://127.0.0.1:8080")
        };
        let base = Url::parse(base_url).map_err(|error| invalid("not an address").caused_by(error))?;
        if base.scheme() != "http" || base.host_str().is_none() {
            return Err(invalid("this transport speaks plain http; put a TLS terminator in front of anything remote"));
        }
        let client = Client::builder()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("selvedge/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Internal, "transport.new", "the HTTP client does not start").caused_by(error)
            })?;
        Ok(Self { client, base, api_key: None, timeout: Duration::from_secs(30) })
    }

    /// Sets the API key, sent as a bearer token.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Sets how long one request may take, from connecting to the last byte. A nearer deadline of the context counts more.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn exchange(&self, request: HttpRequest, timeout: Duration) -> Result<HttpResponse> {
        let url = format!("{}{}", self.base.as_str().trim_end_matches('/'), request.path);
        let invalid = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::InvalidInput, OPERATION, "the request cannot be put into HTTP").caused_by(error)
        };
        let method = request.method.parse().map_err(|error| invalid(Box::new(error)))?;
        let url = Url::parse(&url).map_err(|error| invalid(Box::new(error)))?;
        let mut builder = self.client.request(method, url).timeout(timeout).body(request.body);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(key) = &self.api_key {
            builder = builder.bearer_auth(key);
        }
        let mut response = builder.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let body = body(&mut response).await?;
        Ok(HttpResponse { status, headers, body })
    }
}

impl HttpTransport for ReqwestTransport {
    fn send<'a>(&'a self, cx: &'a Context, request: HttpRequest) -> BoxFuture<'a, Result<HttpResponse>> {
        Box::pin(async move {
            cx.check(OPERATION)?;
            let timeout = cx.remaining().map_or(self.timeout, |left| left.min(self.timeout));
            let exchange = self.exchange(request, timeout);
            cx.cancel().until_cancelled(exchange).await.unwrap_or_else(|| Err(Error::cancelled(OPERATION)))
        })
    }
}

/// The key stays out of logs.
impl std::fmt::Debug for ReqwestTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReqwestTransport").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

async fn body(response: &mut reqwest::Response) -> Result<Bytes> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > ReqwestTransport::MAX_BODY {
            return Err(Error::new(ErrorKind::TooLarge, OPERATION, "the response is larger than is read")
                .with("limit", ReqwestTransport::MAX_BODY));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn failed(error: reqwest::Error) -> Error {
    if error.is_timeout() {
        return Error::deadline(OPERATION).caused_by(error.without_url());
    }
    let refused = error.is_connect();
    let message = if refused { "the server cannot be reached" } else { "the connection broke" };
    // Only a connection that never stood is known to have had no effect.
    Error::new(ErrorKind::Unavailable, OPERATION, message)
        .retry(refused)
        .caused_by(Chain(error.without_url()))
        .advise("check that the server runs and the network is up; the outbox tries again")
}

/// reqwest's own text leaves out the cause; this one writes the whole chain.
#[derive(Debug)]
struct Chain(reqwest::Error);

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(&self.0);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Chain {}
