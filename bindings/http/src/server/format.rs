//! An answer for programs or for people: JSON, or a page.

use axum::response::{Html, IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;

/// How an answer is written: what a query's `format` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    Json,
    Html,
}

impl Format {
    /// What was asked for, else what the `Accept` header says: a browser gets a page, everybody else JSON.
    pub(super) fn of(asked: Option<Self>, headers: &HeaderMap) -> Self {
        let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        asked.unwrap_or(if accepts.contains("text/html") { Self::Html } else { Self::Json })
    }
}

/// A page that is told to load nothing and run nothing, whatever got into it.
pub(super) fn page(html: String) -> Response {
    let mut response = Html(html).into_response();
    let headers = response.headers_mut();
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_goes_before_what_is_accepted() {
        let mut browser = HeaderMap::new();
        browser.insert(header::ACCEPT, HeaderValue::from_static("text/html,application/xhtml+xml;q=0.9"));
        assert_eq!(Format::of(None, &browser), Format::Html);
        assert_eq!(Format::of(Some(Format::Json), &browser), Format::Json);
        assert_eq!(Format::of(None, &HeaderMap::new()), Format::Json);
        assert_eq!(Format::of(Some(Format::Html), &HeaderMap::new()), Format::Html);
    }
}
