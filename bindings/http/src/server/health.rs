//! Whether the server lives, and whether it can work.

use axum::{Extension, Json, extract::State};
use http::StatusCode;
use selvedge_core::{Context, Inference, store::StoreExt};
use serde_json::{Value, json};

use super::{AppState, serve::Lifecycle};

pub(super) async fn health(State(state): State<AppState>) -> Json<Value> {
    Json(json!({ "status": "ok", "uptime_seconds": state.running_since.elapsed().as_secs() }))
}

/// Ready when the Store answers, every model is loaded and the server is not draining. A plugin that the engine does not
/// have is not waited for. A Store that has fallen back to polling works, only later: `wakeups` says so.
pub(super) async fn ready(
    State(state): State<AppState>,
    lifecycle: Option<Extension<Lifecycle>>,
    Extension(cx): Extension<Context>,
) -> (StatusCode, Json<Value>) {
    let mut wakeups = None;
    let store = match state.engine.store() {
        Ok(store) => match store.info(&cx.with_timeout(std::time::Duration::from_secs(2))).await {
            Ok(info) => {
                wakeups = Some(info.wakeups);
                "ok".to_owned()
            }
            Err(error) => {
                tracing::warn!(%error, "the Store does not answer");
                error.kind().to_string()
            }
        },
        Err(_) => "none".to_owned(),
    };
    let models: Vec<_> = state.engine.models().map(|(_, model)| model.model().name).collect();
    let draining = lifecycle.is_some_and(|lifecycle| lifecycle.draining());
    let ready = !draining && (store == "ok" || store == "none");
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (
        status,
        Json(json!({ "ready": ready, "store": store, "wakeups": wakeups, "models": models, "draining": draining })),
    )
}
