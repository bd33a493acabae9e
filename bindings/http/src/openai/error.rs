//! Errors in OpenAI's shape.

use axum::response::Response;
use http::StatusCode;
use selvedge_core::ErrorKind;
use serde_json::json;

use crate::Problem;

/// Writes a [`Problem`] as OpenAI's clients read it; other responses pass.
pub(crate) async fn reshape(mut response: Response) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let body = document(&problem).to_string();
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response.map(|_| axum::body::Body::from(body))
}

/// The error object.
pub(crate) fn document(problem: &Problem) -> serde_json::Value {
    let status = problem.status();
    let kind = match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        _ if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    };
    let code = problem.code.or(match problem.error().kind() {
        ErrorKind::RateLimited => Some("rate_limit_exceeded"),
        ErrorKind::Busy => Some("server_overloaded"),
        ErrorKind::DeadlineExceeded => Some("timeout"),
        ErrorKind::TooLarge => Some("request_too_large"),
        _ => None,
    });
    let mut message = problem.message();
    if let Some(advice) = problem.error().advice() {
        message = format!("{message}; {advice}");
    }
    json!({ "error": { "message": message, "type": kind, "param": problem.param, "code": code } })
}
