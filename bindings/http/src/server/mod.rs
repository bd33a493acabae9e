//! The server: routes, and what happens around every request.

mod config;
mod events;
mod format;
mod health;
mod intents;
pub(crate) mod metrics;
mod observe;
mod overview;
mod placements;
mod report;
mod serve;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{StatusCode, Uri};
use selvedge_core::{Engine, Error, ErrorKind, Timestamp};

pub use config::ServedConfig;
pub use serve::{Drained, serve};

use crate::{Batches, IdempotencyLayer, Problem, ServerOptions, auth, openai};

/// What all handlers share.
#[derive(Clone)]
pub(crate) struct AppState(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) options: ServerOptions,
    pub(crate) batches: Batches,
    pub(crate) metrics: metrics::HttpMetrics,
    pub(crate) started: Timestamp,
    pub(crate) running_since: Instant,
}

impl std::ops::Deref for AppState {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The server of an engine:
///
/// | route | does |
/// | --- | --- |
/// | `GET /v1/models`, `POST /v1/chat/completions`, `/v1/completions`, `/v1/embeddings` | OpenAI's API, streaming too |
/// | `/v1/files`, `/v1/batches` | OpenAI's batches: many requests in one file, answers in another; [`Batches::work`] works them off |
/// | `POST /v1/intents` | takes an intent once, by its `Idempotency-Key`, into a queue |
/// | `GET /v1/placements` | all placements, the configuration's health and the newest events: JSON, or a page for browsers |
/// | `GET /v1/placements/{name}` | what a subject would see: enrols nobody |
/// | `POST /v1/placements/{name}` | what a subject sees from now on |
/// | `POST /v1/events` | keeps events for analysis, each once by its id |
/// | `GET /v1/experiments/{id}/report` | whether it earned more: JSON, or a page for browsers |
/// | `GET /v1/config` | the signed configuration of experiments, with its `ETag` |
/// | `GET /health`, `/ready` | alive; ready for work (both need no key) |
/// | `GET /metrics` | OpenMetrics text for Prometheus |
///
/// Every response carries `x-request-id` and `x-trace-id`. Serve it with [`serve`], which tells it who asks.
///
/// ```no_run
/// use std::time::Duration;
/// use selvedge_core::Engine;
/// use selvedge_http::{ServerOptions, router, serve};
///
/// # async fn run(engine: Engine) -> selvedge_core::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await.expect("a free port");
/// let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
/// serve(listener, router(engine, ServerOptions::default()), stop, Duration::from_secs(10)).await?;
/// # Ok(())
/// # }
/// ```
pub fn router(engine: Engine, options: ServerOptions) -> Router {
    let state = AppState(Arc::new(Shared {
        batches: Batches::new(engine.clone(), options.batch.clone()),
        engine,
        options,
        metrics: metrics::HttpMetrics::default(),
        started: Timestamp::now(),
        running_since: Instant::now(),
    }));
    let guarded = |routes: Router<AppState>| {
        // The layer added last is outermost: a request is observed first, then let in.
        let routes = routes.route_layer(middleware::from_fn_with_state(state.clone(), auth::check));
        routes.route_layer(middleware::from_fn_with_state(state.clone(), observe::observe))
    };
    let own = Router::new().route("/metrics", get(metrics::scrape)).merge(intents_route(&state));
    let own = guarded(own.merge(experiment_routes()));
    let models = guarded(openai::routes()).layer(middleware::map_response(openai::error::reshape));
    let open = Router::new()
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route_layer(middleware::from_fn_with_state(state.clone(), observe::observe));
    own.merge(models)
        .merge(open)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        // Bodies are bounded by `body_limit` instead.
        .layer(DefaultBodyLimit::disable())
        .with_state(state)
}

fn intents_route(state: &AppState) -> Router<AppState> {
    let Ok(store) = state.engine.store() else { return Router::new().route("/v1/intents", post(intents::unsupported)) };
    let options = &state.options;
    let once = IdempotencyLayer::new(store.clone())
        .hold(options.hold)
        .wait(options.wait)
        .retention(options.retention)
        .body_limit(options.body_limit);
    Router::new().route("/v1/intents", post(intents::accept).layer(once))
}

fn experiment_routes() -> Router<AppState> {
    Router::new()
        .route("/v1/placements", get(overview::read))
        .route("/v1/placements/{name}", get(placements::look).post(placements::assign))
        .route("/v1/events", post(events::track))
        .route("/v1/experiments/{id}/report", get(report::report))
        .route("/v1/config", get(config::read))
}

async fn unknown(uri: Uri) -> Response {
    let error = Error::new(ErrorKind::NotFound, "http.route", "no such route").with("path", uri.path());
    Problem::from(error).into_response()
}

async fn wrong_method(uri: Uri) -> Response {
    let error =
        Error::new(ErrorKind::Unsupported, "http.route", "this route has other methods").with("path", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, error).into_response()
}
