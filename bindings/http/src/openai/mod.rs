//! OpenAI's API, as a stock client expects it.

mod chat;
mod completions;
mod embeddings;
pub(crate) mod error;
mod models;
mod parameters;
mod run;

use axum::{
    Router,
    routing::{get, post},
};

use crate::server::AppState;

pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model}", get(models::one))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
}
