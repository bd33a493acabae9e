use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderValue, StatusCode, header, request::Parts};
use selvedge_core::{
    CancelToken, Commit, Context, Error, ErrorKind, Store,
    idempotency::{Answer, Claim, ClaimRequest, Fingerprint, IdempotencyKey, Ticket, is_definitive},
};
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::{IdempotencyLayer, Rules, SettledMark, key, response_of};
use crate::{Problem, body};

const OPERATION: &str = "http.idempotency";
/// How long a duplicate waits between two looks at the claim, growing from the first to the last.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(160));

/// A service behind an [`IdempotencyLayer`].
#[derive(Clone)]
pub struct IdempotencyService<S> {
    inner: S,
    rules: Arc<Rules>,
}

impl<S> IdempotencyService<S> {
    pub(super) fn new(inner: S, rules: Arc<Rules>) -> Self {
        Self { inner, rules }
    }
}

impl<S> std::fmt::Debug for IdempotencyService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdempotencyService")
    }
}

impl<S> Service<Request> for IdempotencyService<S>
where
    S: Service<Request, Error = Infallible> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The instance that was polled ready is the one that may be called.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let rules = self.rules.clone();
        Box::pin(async move { Ok(guard(inner, rules, request).await.unwrap_or_else(IntoResponse::into_response)) })
    }
}

async fn guard<S>(mut inner: S, rules: Arc<Rules>, request: Request) -> Result<Response, Problem>
where
    S: Service<Request, Error = Infallible> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Future: Send,
{
    if !rules.methods.contains(request.method()) {
        return Ok(infallible(inner.call(request).await));
    }
    let (parts, request_body) = request.into_parts();
    let key = match key::read(&parts.headers)? {
        Some(key) => IdempotencyKey::new((rules.scope)(&parts), key)?,
        None if rules.required => return Err(key::missing().into()),
        None => return Ok(infallible(inner.call(Request::from_parts(parts, request_body)).await)),
    };
    let bytes = body::read(request_body, rules.body_limit).await?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let fingerprint = Fingerprint::of(&format!("{} {path}", parts.method), &bytes);
    let claim = ClaimRequest::new(key, fingerprint).hold(rules.hold).retention(rules.retention);
    // From here on the work is not the connection's: a client that hangs up must leave neither a claim that nobody settles
    // nor an effect that stopped half way.
    let task = tokio::spawn(claimed(inner, rules, parts, bytes, claim).in_current_span());
    match task.await {
        Ok(response) => response,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::cancelled(OPERATION).into()),
    }
}

async fn claimed<S>(
    inner: S,
    rules: Arc<Rules>,
    mut parts: Parts,
    bytes: bytes::Bytes,
    claim: ClaimRequest,
) -> Result<Response, Problem>
where
    S: Service<Request, Error = Infallible> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Future: Send,
{
    let cx = parts.extensions.get::<Context>().cloned().unwrap_or_default();
    let (ticket, claimed) = match wait_for(&rules, &cx, claim).await? {
        Found::Fresh(ticket, claimed) => (ticket, claimed),
        Found::Answer(response) => return Ok(response),
    };
    parts.extensions.insert(ticket.clone());
    let request = Request::from_parts(parts, Body::from(bytes));
    let left = rules.hold.saturating_sub(claimed.elapsed());
    // Whatever cancels the request, how it ended must be kept.
    let cx = cx.with_cancel(CancelToken::new());
    let work = AssertUnwindSafe(inner.oneshot(request).map(infallible)).catch_unwind();
    let response = match tokio::time::timeout(left, work).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            abandon(&rules, &cx, ticket).await;
            std::panic::resume_unwind(panic);
        }
        Err(_) => {
            return Err(Error::new(
                ErrorKind::DeadlineExceeded,
                OPERATION,
                "the handler took longer than its claim holds",
            )
            .with("hold_seconds", rules.hold.as_secs_f64())
            .advise("try again with the same key")
            .into());
        }
    };
    if response.extensions().get::<SettledMark>().is_some() {
        return Ok(response);
    }
    if !is_definitive(response.status().as_u16()) {
        abandon(&rules, &cx, ticket).await;
        return Ok(response);
    }
    settle(&rules, &cx, ticket, response).await
}

enum Found {
    /// The key is ours, since this moment at the earliest.
    Fresh(Ticket, Instant),
    Answer(Response),
}

/// Claims the key, waiting a while for another request that has it.
async fn wait_for(rules: &Rules, cx: &Context, claim: ClaimRequest) -> Result<Found, Problem> {
    let until = Instant::now() + rules.wait;
    let mut look = LOOK.0;
    loop {
        // A request that had to wait for the key has all of its hold all the same.
        let asked = Instant::now();
        match rules.store.claim(cx, claim.clone()).await? {
            Claim::Fresh(ticket) => return Ok(Found::Fresh(ticket, asked)),
            Claim::Done(answer) => {
                let mut response = response_of(answer);
                response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
                return Ok(Found::Answer(response));
            }
            Claim::Mismatch => {
                let error = Error::new(ErrorKind::Conflict, OPERATION, "this key was used for another request")
                    .with("key", &claim.key.key)
                    .advise("use a new key for a new intent; send a retry unchanged");
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error));
            }
            Claim::InFlight { retry_after } => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    // The claim lasts until `retry_after` only if its holder is gone; most end long before.
                    let error = Error::new(ErrorKind::Conflict, OPERATION, "a request with this key is in flight")
                        .with("key", &claim.key.key)
                        .advise("send the same request again after Retry-After")
                        .retry_in(retry_after.min(Duration::from_secs(5)));
                    return Err(error.into());
                }
                tokio::time::sleep(look.min(left)).await;
                look = (look * 2).min(LOOK.1);
            }
        }
    }
}

/// Keeps a definitive answer for its key.
async fn settle(rules: &Rules, cx: &Context, ticket: Ticket, response: Response) -> Result<Response, Problem> {
    let (parts, response_body) = response.into_parts();
    let answer = match axum::body::to_bytes(response_body, IdempotencyLayer::MAX_ANSWER).await {
        Ok(body) => {
            let kept = parts.headers.iter().filter(|(name, _)| rules.headers.contains(name));
            let headers = kept.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
            Answer { status: parts.status.as_u16(), headers: headers.collect(), body }
        }
        // The effect has happened: forgetting the key would let a retry do it twice. So the failure is what is kept.
        Err(error) => {
            let error =
                Error::new(ErrorKind::TooLarge, OPERATION, "the request was done, but its answer cannot be kept")
                    .with("limit_bytes", IdempotencyLayer::MAX_ANSWER)
                    .caused_by(error)
                    .advise("answer with a reference to the result instead of the result");
            let response = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error).into_response();
            let (parts, response_body) = response.into_parts();
            let body = axum::body::to_bytes(response_body, usize::MAX).await.unwrap_or_default();
            let content_type = (header::CONTENT_TYPE.to_string(), "application/problem+json".to_owned());
            Answer { status: parts.status.as_u16(), headers: vec![content_type], body }
        }
    };
    let (status, body) = (answer.status, answer.body.clone());
    match rules.store.commit(cx, Commit::new().settle(ticket, answer)).await {
        Ok(_) if status == parts.status.as_u16() => Ok(Response::from_parts(parts, Body::from(body))),
        Ok(_) => Ok((StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "application/problem+json")], body)
            .into_response()),
        // Somebody else has the key by now and will give it another answer; this one must not be believed.
        Err(error) => Err(error.into()),
    }
}

/// Gives the key back. A failure costs only time: the claim runs out by itself.
async fn abandon(rules: &Rules, cx: &Context, ticket: Ticket) {
    if let Err(error) = rules.store.commit(cx, Commit::new().abandon(ticket)).await {
        tracing::warn!(%error, "an idempotency key stays claimed until its hold ends");
    }
}

fn infallible<R: IntoResponse>(result: Result<R, Infallible>) -> Response {
    match result {
        Ok(response) => response.into_response(),
        Err(never) => match never {},
    }
}
