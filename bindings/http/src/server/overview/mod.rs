//! `/v1/placements`: what is configured, how the configuration is doing, and what came in last. JSON, or the page that an
//! operator opens first.

mod newest;
pub(super) mod outline;
mod page;

use axum::{
    Extension, Json,
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Uri, header};
use selvedge_core::{Context, Error, ErrorKind, Result, Store, Timestamp};
use selvedge_experiments::{ConfigSource, Health};
use serde::{Deserialize, Serialize};

use self::{
    newest::Newest,
    outline::{Placement, Trial},
};
use super::{
    AppState,
    config::Served,
    format::{self, Format},
};
use crate::{Problem, auth::operators};

const OPERATION: &str = "http.placements";
/// Placements of an answer, when nothing else is asked for, and at most.
const LIMIT: usize = 200;
const MAX_LIMIT: usize = 1_000;
/// What of a value is shown, in bytes.
const SHORT: usize = 400;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Only placements after this name: `next` of the answer before.
    after: Option<String>,
    /// The most placements.
    limit: Option<usize>,
    /// `json` or `html`; without it, what the `Accept` header says.
    format: Option<Format>,
}

#[derive(Debug, Serialize)]
struct Overview {
    /// None is handed out.
    config: Option<Config>,
    /// By name.
    placements: Vec<Placement>,
    /// Pass it as `after` for more; none on the last page.
    next: Option<String>,
    /// Experiments that are no placement's rule.
    experiments: Vec<Trial>,
    /// None without a Store that keeps events.
    events: Option<Newest>,
}

/// The configuration that is handed out.
#[derive(Debug, Serialize)]
struct Config {
    /// The digest by which it is told from others: its `ETag`.
    version: String,
    bytes: usize,
    /// The key that it says it was signed with.
    signed_by: Option<String>,
    issued_at: Option<Timestamp>,
    served_since: Timestamp,
    /// Why nothing of it could be read.
    problem: Option<String>,
    /// The parts that could not be read.
    left_out: Vec<String>,
    /// How the one is doing that this server itself goes by; none when [`ServerOptions::experiments`] is not set.
    ///
    /// [`ServerOptions::experiments`]: crate::ServerOptions::experiments
    health: Option<Standing>,
}

/// A part of [`Health`]: what the configuration does not say of itself.
#[derive(Debug, Serialize)]
struct Standing {
    source: ConfigSource,
    issued_at: Option<Timestamp>,
    age_seconds: Option<u64>,
    stale: bool,
    features: usize,
    last_error: Option<String>,
    last_error_kind: Option<ErrorKind>,
}

impl From<Health> for Standing {
    fn from(health: Health) -> Self {
        Self {
            source: health.source,
            issued_at: health.issued_at,
            age_seconds: health.age.map(|age| age.as_secs()),
            stale: health.stale,
            features: health.features,
            last_error: health.last_error,
            last_error_kind: health.last_error_kind,
        }
    }
}

pub(super) async fn read(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let Query(asked) = Query::<Asked>::try_from_uri(&uri)
        .map_err(|error| Problem::bad(OPERATION, format!("the query cannot be read: {}", error.body_text())))?;
    operators(&cx)?;
    let limit = asked.limit.unwrap_or(LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::bad(OPERATION, format!("give a limit from 1 to {MAX_LIMIT}")).param("limit"));
    }
    let cx = cx.with_timeout(state.options.timeout);
    let events = match state.engine.store() {
        Ok(store) if store.capabilities().facts => Some(newest::newest(store, &cx).await?),
        _ => None,
    };
    let health = state.options.experiments.as_ref().map(|experiments| experiments.health().into());
    let served = state.options.config.as_ref().map(super::ServedConfig::current);
    let format = Format::of(asked.format, &headers);
    // A configuration may have megabytes: it is read, and written, beside the requests.
    let written = tokio::task::spawn_blocking(move || {
        let overview = overview(served.as_ref(), health, events, asked.after.as_deref(), limit);
        match format {
            Format::Html => format::page(page::write(&overview)),
            Format::Json => {
                let private = [(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"))];
                (private, Json(overview)).into_response()
            }
        }
    });
    written
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the overview panicked").caused_by(error).into())
}

fn overview(
    served: Option<&Served>,
    health: Option<Standing>,
    events: Option<Newest>,
    after: Option<&str>,
    limit: usize,
) -> Overview {
    let Some(served) = served else {
        return Overview { config: None, placements: Vec::new(), next: None, experiments: Vec::new(), events };
    };
    let outline = served.outline();
    let begin =
        after.map_or(0, |after| outline.placements.partition_point(|placement| placement.name.as_str() <= after));
    let rest = &outline.placements[begin..];
    let placements = rest[..limit.min(rest.len())].to_vec();
    let next = placements.last().filter(|_| rest.len() > limit).map(|placement| placement.name.clone());
    let config = Config {
        version: served.version().to_owned(),
        bytes: served.body.len(),
        signed_by: outline.signed_by.clone(),
        issued_at: outline.issued_at,
        served_since: served.since,
        problem: outline.problem.clone(),
        left_out: outline.left_out.iter().take(MAX_LIMIT).cloned().collect(),
        health,
    };
    let experiments = outline.experiments.iter().take(MAX_LIMIT).cloned().collect();
    Overview { config: Some(config), placements, next, experiments, events }
}

/// The beginning of a text that is too long to show.
fn short(text: &str) -> String {
    if text.len() <= SHORT {
        return text.to_owned();
    }
    let cut = (0..=SHORT).rev().find(|cut| text.is_char_boundary(*cut)).unwrap_or_default();
    format!("{}…", &text[..cut])
}
