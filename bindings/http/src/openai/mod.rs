//! OpenAI's API, as a stock client expects it.

mod batches;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod error;
mod files;
mod models;
mod parameters;
pub(crate) mod run;

use axum::{
    Router,
    routing::{get, post},
};

pub(crate) use parameters::Parameters;

use crate::server::AppState;

pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model}", get(models::one))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/files", get(files::list).post(files::create))
        .route("/v1/files/{file}", get(files::one).delete(files::delete))
        .route("/v1/files/{file}/content", get(files::content))
        .route("/v1/batches", get(batches::list).post(batches::create))
        .route("/v1/batches/{batch}", get(batches::one))
        .route("/v1/batches/{batch}/cancel", post(batches::cancel))
}
