//! `/v1/models`.

use axum::{
    Json,
    extract::{Path, State},
};
use selvedge_core::Inference;
use selvedge_core::{AnyInference, Engine, ErrorKind, inference::ModelInfo};
use serde_json::{Value, json};

use crate::{Problem, server::AppState};

pub(super) async fn list(State(state): State<AppState>) -> Json<Value> {
    let models: Vec<_> = state.engine.models().map(|(_, model)| document(&state, model)).collect();
    Json(json!({ "object": "list", "data": models }))
}

pub(super) async fn one(State(state): State<AppState>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    Ok(Json(document(&state, find(&state.engine, Some(&name))?)))
}

fn document(state: &AppState, model: &AnyInference) -> Value {
    let ModelInfo { name, context_length, .. } = model.model();
    let created = state.started.as_micros() / 1_000_000;
    json!({ "id": name, "object": "model", "created": created, "owned_by": "selvedge", "context_length": context_length })
}

/// A model by name, with OpenAI's code when there is none.
pub(super) fn find<'a>(engine: &'a Engine, name: Option<&str>) -> Result<&'a AnyInference, Problem> {
    engine.model(name).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Problem::from(error).param("model").code("model_not_found"),
        _ => error.into(),
    })
}
