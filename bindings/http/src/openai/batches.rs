//! `/v1/batches`.

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::{Path, Query, Request, State},
};
use selvedge_core::{
    Context,
    batch::{Endpoint, window},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{BatchObject, NewBatch, Problem, body, server::AppState};

#[derive(Deserialize)]
struct Create {
    input_file_id: String,
    endpoint: String,
    completion_window: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
pub(super) struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn create(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    request: Request,
) -> Result<Json<BatchObject>, Problem> {
    let bytes = body::read(request.into_body(), state.options.body_limit).await?;
    let Create { input_file_id, endpoint, completion_window, metadata } = body::json(&bytes)?;
    let endpoint: Endpoint = endpoint.parse().map_err(|error| Problem::from(error).param("endpoint"))?;
    let completion_window = completion_window.unwrap_or_else(|| "24h".into());
    window(&completion_window).map_err(|error| Problem::from(error).param("completion_window"))?;
    let new = NewBatch { input_file_id, endpoint, completion_window, metadata };
    let cx = cx.with_timeout(state.options.timeout);
    Ok(Json(state.batches.create(&cx, new).await?))
}

pub(super) async fn list(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    Query(page): Query<Page>,
) -> Result<Json<Value>, Problem> {
    let limit = page.limit.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        return Err(Problem::bad("openai.batches", "limit must be 1 to 100").param("limit"));
    }
    let (batches, has_more) = state.batches.batches(&cx, page.after.as_deref(), limit).await?;
    let (first, last) = (batches.first().map(|one| &one.id), batches.last().map(|one| &one.id));
    Ok(Json(json!({
        "object": "list", "data": batches, "first_id": first, "last_id": last, "has_more": has_more,
    })))
}

pub(super) async fn one(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    Path(id): Path<String>,
) -> Result<Json<BatchObject>, Problem> {
    Ok(Json(state.batches.batch(&cx, &id).await?))
}

pub(super) async fn cancel(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    Path(id): Path<String>,
) -> Result<Json<BatchObject>, Problem> {
    Ok(Json(state.batches.cancel(&cx, &id).await?))
}
