//! `/v1/experiments/{id}/report`: whether it earned more, as JSON or as a page.

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Uri};
use selvedge_core::{Context, Error, ErrorKind};
use selvedge_experiments::analysis::{Options, Refunds, analyze, input};
use serde::Deserialize;

use super::{
    AppState,
    format::{self, Format},
};
use crate::{Problem, auth::operators};

const OPERATION: &str = "http.report";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// The variation that the others are compared with.
    control: Option<String>,
    /// Users of each arm that were planned; without it this counts as the only look.
    planned: Option<u64>,
    /// Whether noise is taken out by what each user paid before the exposure (CUPED).
    #[serde(default)]
    past_revenue: bool,
    /// Facts that may become rarer, or more frequent, by a margin at most: `refund_requested:0.05:lower`, several by commas.
    guardrails: Option<String>,
    /// `json` or `html`; without it, what the `Accept` header says.
    format: Option<Format>,
}

pub(super) async fn report(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    Path(experiment): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let Query(asked) = Query::<Asked>::try_from_uri(&uri)
        .map_err(|error| Problem::bad(OPERATION, format!("the query cannot be read: {}", error.body_text())))?;
    operators(&cx)?;
    let cx = cx.with_timeout(state.options.timeout);
    let guardrails = asked.guardrails.iter().flat_map(|all| all.split(',')).map(str::parse);
    let guardrails = guardrails.collect::<Result<_, Error>>()?;
    let options = Options {
        control: asked.control,
        planned_per_arm: asked.planned,
        refunds: Refunds::Net,
        past_revenue: asked.past_revenue,
        guardrails,
        ..Options::default()
    };
    let users = input::read_facts(state.engine.store()?, &cx, &experiment, &options).await?;
    // Seconds of arithmetic for millions of users.
    let report = tokio::task::spawn_blocking(move || analyze(users, &options)).await;
    let report = report.map_err(|error| {
        Error::new(ErrorKind::Internal, OPERATION, "the analysis panicked")
            .with("experiment", &experiment)
            .caused_by(error)
    })??;
    Ok(match Format::of(asked.format, &headers) {
        Format::Html => format::page(report.html()),
        Format::Json => Json(report).into_response(),
    })
}
