//! `/v1/config`: the configuration of experiments, as it was signed.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use selvedge_core::{Error, ErrorKind, Timestamp};
use sha2::{Digest, Sha256};

use super::{
    AppState,
    overview::outline::{Outline, is_json},
};
use crate::Problem;

/// A configuration of experiments that the server hands out, byte for byte, at `GET /v1/config`. Cloning shares it.
///
/// It can be replaced while the server runs. Whoever has the newest already is told so without sending it again.
///
/// ```
/// use selvedge_http::{ServedConfig, ServerOptions};
///
/// let config = ServedConfig::new(br#"{"features":{}}"#.to_vec());
/// let options = ServerOptions { config: Some(config.clone()), ..ServerOptions::default() };
/// config.replace(br#"{"features":{"main_paywall":{"defaultValue":null}}}"#.to_vec());
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct ServedConfig(Arc<RwLock<Served>>);

#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) body: Bytes,
    /// A strong validator: the digest of the body.
    etag: String,
    /// Since when it is handed out.
    pub(super) since: Timestamp,
    outline: Arc<OnceLock<Outline>>,
}

impl ServedConfig {
    /// Hands out `body`: a signed configuration, or a plain payload.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self(Arc::new(RwLock::new(Served::new(body.into()))))
    }

    /// Hands out `body` from now on.
    pub fn replace(&self, body: impl Into<Bytes>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Served::new(body.into());
    }

    pub(super) fn current(&self) -> Served {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Served {
    fn new(body: Bytes) -> Self {
        let digest = Sha256::digest(&body);
        let etag: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { body, etag: format!("\"{etag}\""), since: Timestamp::now(), outline: Arc::default() }
    }

    fn content_type(&self) -> &'static str {
        if is_json(&self.body) { "application/json" } else { "application/jose" }
    }

    /// The `ETag` without its quotes.
    pub(super) fn version(&self) -> &str {
        self.etag.trim_matches('"')
    }

    /// What it says: read once, when somebody asks first.
    pub(super) fn outline(&self) -> &Outline {
        self.outline.get_or_init(|| Outline::of(&self.body))
    }
}

pub(super) async fn read(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, Problem> {
    let config = state.options.config.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "http.config", "this server hands out no configuration")
            .advise("set ServerOptions::config")
    })?;
    let served = config.current();
    let mut response = if is_known(&headers, &served.etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, served.content_type())], served.body.clone()).into_response()
    };
    if let Ok(etag) = HeaderValue::try_from(&served.etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    // A cache may keep it, and asks each time whether it still holds.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

/// `If-None-Match` by the weak comparison of RFC 9110, section 13.1.2.
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}
