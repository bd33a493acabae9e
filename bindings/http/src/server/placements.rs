//! `/v1/placements/{name}`: what a subject sees. GET looks; POST assigns.

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::{Path, Query, Request, State},
};
use http::{HeaderName, HeaderValue, Uri, header};
use selvedge_core::{
    Context,
    experiment::{Assign, Assignment},
};
use serde::Deserialize;
use serde_json::Value;

use super::AppState;
use crate::{Problem, body};

const OPERATION: &str = "http.placements";

/// What an answer is told about itself: it is one person's, and may change.
type Private = [(HeaderName, HeaderValue); 1];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Looking {
    subject: String,
    device: Option<String>,
    /// A JSON object.
    attributes: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Assigning {
    subject: String,
    device: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, Value>,
    #[serde(default)]
    peek: bool,
    #[serde(default)]
    exit_offer: bool,
}

/// A GET changes nothing, so it enrols nobody.
pub(super) async fn look(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    Path(placement): Path<String>,
    uri: Uri,
) -> Result<(Private, Json<Assignment>), Problem> {
    let Query(Looking { subject, device, attributes }) = Query::try_from_uri(&uri)
        .map_err(|error| Problem::bad(OPERATION, format!("the query cannot be read: {}", error.body_text())))?;
    let attributes = match attributes {
        Some(json) => body::json(json.as_bytes()).map_err(|problem| problem.param("attributes"))?,
        None => BTreeMap::new(),
    };
    answer(&state, &cx, Assign { device, attributes, peek: true, ..Assign::new(subject, placement) }).await
}

pub(super) async fn assign(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    Path(placement): Path<String>,
    request: Request,
) -> Result<(Private, Json<Assignment>), Problem> {
    let bytes = body::read(request.into_body(), state.options.body_limit).await?;
    let Assigning { subject, device, attributes, peek, exit_offer } = body::json(&bytes)?;
    answer(&state, &cx, Assign { device, attributes, peek, exit_offer, ..Assign::new(subject, placement) }).await
}

async fn answer(state: &AppState, cx: &Context, request: Assign) -> Result<(Private, Json<Assignment>), Problem> {
    let cx = cx.clone().with_timeout(state.options.timeout);
    let assignment = state.engine.assign(&cx, request).await?;
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"))], Json(assignment)))
}
