//! `/v1/completions`.

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use selvedge_core::{Context, inference::Prompt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    parameters::{OneOrMany, Parameters},
    run::{Shape, run},
};
use crate::{Problem, body, server::AppState};

#[derive(Deserialize)]
struct Completion {
    prompt: OneOrMany,
    #[serde(flatten)]
    parameters: Parameters,
}

pub(super) async fn create(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    request: Request,
) -> Result<Response, Problem> {
    let bytes = body::read(request.into_body(), state.options.body_limit).await?;
    let (parameters, prompt) = read(&bytes)?;
    run(Shaped, state, cx, parameters, prompt).await
}

/// Reads a request.
pub(crate) fn read(bytes: &[u8]) -> Result<(Parameters, Prompt), Problem> {
    let Completion { prompt, parameters } = body::json(bytes)?;
    let prompts: [String; 1] = prompt
        .into_vec()
        .try_into()
        .map_err(|_| Problem::bad("openai.completions", "give one prompt a request").param("prompt"))?;
    let [prompt] = prompts;
    Ok((parameters, Prompt::Text(prompt)))
}

#[derive(Clone, Copy)]
pub(crate) struct Shaped;

impl Shape for Shaped {
    const ID: &'static str = "cmpl";
    const WHOLE: &'static str = "text_completion";
    const PIECE: &'static str = "text_completion";

    /// OpenAI's own default.
    fn default_tokens(setting: usize) -> usize {
        setting.min(16)
    }

    fn whole(text: String, reason: &'static str) -> Value {
        choice(&text, Some(reason))
    }

    fn opening() -> Option<Value> {
        None
    }

    fn piece(text: String) -> Value {
        choice(&text, None)
    }

    fn closing(reason: &'static str) -> Value {
        choice("", Some(reason))
    }
}

fn choice(text: &str, reason: Option<&str>) -> Value {
    json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": reason })
}
