//! One effect for one intent, for any axum service.
//!
//! Around a handler the layer claims the request's key, and afterwards keeps the answer for every later request with that
//! key. A handler that writes to the same Store can do better: it takes the [`Ticket`] from the request's extensions and
//! puts its effect and the settlement into **one** commit, so that no crash can come between them.

mod key;
mod service;

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::MatchedPath,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use selvedge_core::{
    AnyStore,
    idempotency::{Answer, Fingerprint, IdempotencyKey},
};

pub use selvedge_core::idempotency::Ticket;
pub use service::IdempotencyService;

use crate::auth::Principal;

/// A tower layer that makes requests idempotent by their `Idempotency-Key`.
///
/// | the key is | the client gets |
/// | --- | --- |
/// | missing or unreadable | 400 (missing passes where [`required`](Self::required) is `false`) |
/// | new | the handler's answer; kept if it is definitive (2xx, 3xx, most 4xx), forgotten if it is not (408, 409, 425, 429, 5xx) |
/// | in flight | the answer once it is there, or 409 with `Retry-After` after [`wait`](Self::wait) |
/// | done | the kept answer, with `idempotency-replayed: true` |
/// | used for another request of the same operation: another path, query or body | 422 |
///
/// A key belongs to a tenant and an operation, which is a method and a route: one key for two operations is two keys.
///
/// The handler runs to its end even when the client hangs up, because an effect that was half done could be neither kept
/// nor forgotten. It has as long as the claim [holds](Self::hold); then it is dropped.
///
/// ```
/// use axum::{Router, routing::post};
/// use selvedge_core::AnyStore;
/// use selvedge_http::IdempotencyLayer;
///
/// # fn shop(store: AnyStore) -> Router {
/// Router::new().route("/orders", post(async || "created")).layer(IdempotencyLayer::new(store))
/// # }
/// ```
#[derive(Clone)]
pub struct IdempotencyLayer {
    rules: Arc<Rules>,
}

#[derive(Clone)]
struct Rules {
    store: AnyStore,
    required: bool,
    hold: Duration,
    retention: Duration,
    wait: Duration,
    body_limit: usize,
    methods: Vec<Method>,
    headers: Vec<HeaderName>,
    scope: Arc<dyn Fn(&Parts) -> String + Send + Sync>,
}

impl IdempotencyLayer {
    /// The largest answer that is kept: 4 MiB.
    pub const MAX_ANSWER: usize = 4 << 20;

    /// Keeps keys in `store`. A key is required on POST and PATCH; claims hold for 30 seconds, answers are kept for 7 days,
    /// a duplicate waits 2 seconds for the first, bodies may have 4 MiB, and a key belongs to the tenant of its API key and to
    /// its method and route.
    pub fn new(store: AnyStore) -> Self {
        Self {
            rules: Arc::new(Rules {
                store,
                required: true,
                hold: Duration::from_secs(30),
                retention: Duration::from_secs(7 * 86_400),
                wait: Duration::from_secs(2),
                body_limit: 4 << 20,
                methods: vec![Method::POST, Method::PATCH],
                headers: vec![
                    header::CONTENT_TYPE,
                    header::CONTENT_LANGUAGE,
                    header::LOCATION,
                    header::ETAG,
                    header::LAST_MODIFIED,
                ],
                scope: Arc::new(tenant_and_operation),
            }),
        }
    }

    /// Whether a request without a key is refused (400) or passes unguarded.
    #[must_use]
    pub fn required(mut self, required: bool) -> Self {
        self.edit().required = required;
        self
    }

    /// Sets how long a claim holds, and so how long a handler may take. After a crash the key is free again after this.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.edit().hold = hold;
        self
    }

    /// Sets how long answers are kept. It must be longer than any phone may be offline: a retry after it is a new intent.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.edit().retention = retention;
        self
    }

    /// Sets how long a duplicate waits for the request in flight before it is answered 409.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.edit().wait = wait;
        self
    }

    /// Sets the largest body, in bytes; more is answered 413. The whole body is read before the handler starts.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.edit().body_limit = bytes;
        self
    }

    /// Sets the methods that need a key; others pass.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.edit().methods = methods.into_iter().collect();
        self
    }

    /// Sets the response headers that are kept with an answer. Never name one that carries a secret or a date of sending.
    #[must_use]
    pub fn headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.edit().headers = names.into_iter().collect();
        self
    }

    /// Sets who shares keys. It must come from what the server knows about the client, not from what the client says:
    /// whoever shares a scope can be given another's answers.
    #[must_use]
    pub fn scope(mut self, scope: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        self.edit().scope = Arc::new(scope);
        self
    }

    fn edit(&mut self) -> &mut Rules {
        Arc::make_mut(&mut self.rules)
    }
}

/// The scope unless another is given. A route and not a path, so that a key that is used for another thing of the same kind
/// is found out.
fn tenant_and_operation(parts: &Parts) -> String {
    let tenant = parts.extensions.get::<Principal>().and_then(|principal| principal.tenant.as_deref()).unwrap_or("-");
    let route = parts.extensions.get::<MatchedPath>().map_or(parts.uri.path(), MatchedPath::as_str);
    let scope = format!("http/{tenant}/{} {route}", parts.method);
    // A route may be longer than a scope, or have letters that a scope has not.
    match IdempotencyKey::new(&scope, "-") {
        Ok(_) => scope,
        Err(_) => format!("http/{}", Fingerprint::of("scope", scope.as_bytes())),
    }
}

impl<S> tower::Layer<S> for IdempotencyLayer {
    type Service = IdempotencyService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        IdempotencyService::new(inner, self.rules.clone())
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer").field("hold", &self.rules.hold).finish_non_exhaustive()
    }
}

/// The answer of a handler that settled its [`Ticket`] itself, in the same commit as its effect. The layer passes it on and
/// does not settle again.
///
/// ```
/// use selvedge_core::idempotency::Answer;
/// use selvedge_http::Settled;
///
/// // After `store.commit(&cx, Commit::new().enqueue(jobs).settle(ticket, answer.clone()))`:
/// let answer = Answer::json(202, r#"{"status":"queued"}"#);
/// let response = axum::response::IntoResponse::into_response(Settled(answer));
/// assert_eq!(response.status(), 202);
/// ```
#[derive(Clone, Debug)]
pub struct Settled(pub Answer);

/// Marks a response whose key is settled.
#[derive(Clone, Copy)]
struct SettledMark;

impl IntoResponse for Settled {
    fn into_response(self) -> Response {
        let mut response = response_of(self.0);
        response.extensions_mut().insert(SettledMark);
        response
    }
}

fn response_of(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer.headers {
        // What was kept came from valid headers; a Store edited by hand must not take the server down.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
