//! Who is asking: API keys, tenants and the urgency a key may ask for.

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use selvedge_core::{
    Context, Error, ErrorKind, Result,
    allowance::{Allowance, Allowances},
    scheduler::Class,
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{Problem, quota, server::AppState};

const OPERATION: &str = "http.auth";
const PRIORITY: &str = "x-selvedge-priority";

/// An API key: only its digest is kept.
///
/// ```
/// use selvedge_core::scheduler::Class;
/// use selvedge_http::ApiKey;
///
/// let phone = ApiKey::secret("s3cret").tenant("acme");
/// let batch = ApiKey::sha256("2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b")?.max_class(Class::P2);
/// let trial = ApiKey::secret("tr1al").requests_per_minute(20).tokens_per_minute(10_000).concurrent(1);
/// # let _ = (phone, batch, trial);
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone)]
pub struct ApiKey {
    digest: [u8; 32],
    tenant: Option<Arc<str>>,
    max_class: Class,
    allowance: Allowance,
}

impl ApiKey {
    /// A key given in the clear.
    pub fn secret(key: &str) -> Self {
        Self::digested(Sha256::digest(key.as_bytes()).into())
    }

    /// A key given by the SHA-256 of it, as 64 hex digits (`printf %s KEY | sha256sum`).
    ///
    /// # Errors
    /// `InvalidInput` when it is something else.
    pub fn sha256(hex: &str) -> Result<Self> {
        let mut digest = [0; 32];
        let valid = hex.len() == 64
            && hex.is_ascii()
            && digest.iter_mut().zip(hex.as_bytes().chunks(2)).all(|(byte, pair)| {
                let parsed = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
                *byte = parsed.unwrap_or_default();
                parsed.is_some()
            });
        if !valid {
            return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "not the SHA-256 of an API key")
                .advise("give 64 hex digits, as `printf %s KEY | sha256sum` prints them"));
        }
        Ok(Self::digested(digest))
    }

    fn digested(digest: [u8; 32]) -> Self {
        Self { digest, tenant: None, max_class: Class::P0, allowance: Allowance::new() }
    }

    /// Sets the tenant whose requests it signs.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<Arc<str>>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Sets the most urgent class it may ask for; it is also what it gets when it asks for none.
    #[must_use]
    pub fn max_class(mut self, class: Class) -> Self {
        self.max_class = class;
        self
    }

    /// Sets the most model requests a minute. Without it there is no limit but its tenant's.
    #[must_use]
    pub fn requests_per_minute(self, most: u64) -> Self {
        self.allowance(|allowance| allowance.requests_per_minute(most))
    }

    /// Sets the most tokens a minute: of prompts and answers, of texts to embed.
    #[must_use]
    pub fn tokens_per_minute(self, most: u64) -> Self {
        self.allowance(|allowance| allowance.tokens_per_minute(most))
    }

    /// Sets the most model requests at a time, waiting ones included.
    #[must_use]
    pub fn concurrent(self, most: u32) -> Self {
        self.allowance(|allowance| allowance.concurrent(most))
    }

    /// Sets how long a model request may take while `concurrent` is limited. Default: [`Allowance::HOLD`].
    #[must_use]
    pub fn hold(self, hold: std::time::Duration) -> Self {
        self.allowance(|allowance| allowance.hold(hold))
    }

    fn allowance(mut self, set: impl FnOnce(Allowance) -> Allowance) -> Self {
        self.allowance = set(self.allowance);
        self
    }

    /// The name by which all servers know its quotas: a part of the digest, which tells nothing of the key.
    fn name(&self) -> String {
        let hex: String = self.digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("key/{hex}")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("tenant", &self.tenant)
            .field("max_class", &self.max_class)
            .field("allowance", &self.allowance)
            .finish_non_exhaustive()
    }
}

/// Who a request is from: an extension of every request that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The tenant of the API key.
    pub tenant: Option<Arc<str>>,
    /// How urgent its model calls are.
    pub class: Class,
}

/// Lets a request in, or answers 401 or 403. Without any keys only this machine may ask. What the key and its tenant may use
/// goes along, and how they stand comes back in the headers.
pub(crate) async fn check(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let (keys, tenants) = (&state.options.keys, &state.options.tenants);
    let identified = identify(keys, &request).and_then(|key| Ok((key, principal(key, request.headers())?)));
    let (key, principal) = match identified {
        Ok(identified) => identified,
        Err(problem) => return problem.into_response(),
    };
    let tenant = principal.tenant.clone();
    let own = key.map(|key| (key.name(), key.allowance));
    let shared = tenant.as_ref().and_then(|tenant| Some((format!("tenant/{tenant}"), *tenants.get(&**tenant)?)));
    let allowances = Allowances::new(own.into_iter().chain(shared));
    if let Some(cx) = request.extensions_mut().get_mut::<Context>() {
        let mut changed = cx.clone().with_class(principal.class).with_allowances(allowances.clone());
        if let Some(tenant) = &tenant {
            changed = changed.with_tenant(tenant.clone());
        }
        *cx = changed;
    }
    request.extensions_mut().insert(principal);
    let mut response = next.run(request).await;
    let standing = allowances.standing();
    quota::tell(&standing, response.headers_mut());
    if let Some(limit) = standing.refused {
        state.metrics.refused(limit, tenant.as_deref());
    }
    response
}

fn identify<'a>(keys: &'a [ApiKey], request: &Request) -> Result<Option<&'a ApiKey>, Problem> {
    if keys.is_empty() {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_canonical());
        return match peer {
            Some(peer) if peer.is_loopback() => Ok(None),
            _ => Err(unauthorized("this server has no API keys, so it answers only its own machine")),
        };
    }
    let Some(presented) = presented(request.headers()) else {
        return Err(unauthorized("the API key is missing"));
    };
    let digest = Sha256::digest(presented.as_bytes());
    // Every key is compared, in constant time: the time taken says nothing about which one was nearly right.
    let mut found = None;
    for key in keys {
        if bool::from(key.digest.ct_eq(digest.as_slice())) {
            found = Some(key);
        }
    }
    found.map(Some).ok_or_else(|| unauthorized("no such API key"))
}

fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| key.trim());
    }
    headers.get("x-api-key")?.to_str().ok()
}

fn principal(key: Option<&ApiKey>, headers: &HeaderMap) -> Result<Principal, Problem> {
    let most = key.map_or(Class::P0, |key| key.max_class);
    let class = match headers.get(PRIORITY) {
        None => most,
        Some(value) => String::from_utf8_lossy(value.as_bytes()).parse::<Class>()?,
    };
    if class < most {
        let error = Error::new(ErrorKind::PermissionDenied, OPERATION, "this API key may not ask for that priority")
            .with(PRIORITY, format!("{class:?}").to_lowercase())
            .advise(format!("ask for {} at the most", format!("{most:?}").to_lowercase()));
        return Err(Problem::new(StatusCode::FORBIDDEN, error));
    }
    Ok(Principal { tenant: key.and_then(|key| key.tenant.clone()), class })
}

/// Refuses the key of a tenant where what is told is everybody's: facts are not divided by tenant.
pub(crate) fn operators(cx: &Context) -> Result<(), Problem> {
    let Some(tenant) = cx.tenant() else { return Ok(()) };
    let error = Error::new(ErrorKind::PermissionDenied, OPERATION, "a tenant's key may not read what is everybody's")
        .with("tenant", tenant)
        .advise("use a key that belongs to no tenant");
    Err(Problem::new(StatusCode::FORBIDDEN, error))
}

fn unauthorized(message: &str) -> Problem {
    let error = Error::new(ErrorKind::PermissionDenied, OPERATION, message)
        .advise("send `Authorization: Bearer KEY` with a key from the server's configuration");
    Problem::new(StatusCode::UNAUTHORIZED, error).code("invalid_api_key")
}
