//! `/v1/embeddings`.

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use base64::Engine as _;
use selvedge_core::{Context, Engine, ErrorKind, Inference, inference::Prompt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{models, parameters::OneOrMany};
use crate::{Problem, body, server::AppState};

/// The most texts of one request, as at OpenAI.
const MAX_TEXTS: usize = 2_048;

#[derive(Deserialize)]
struct Embed {
    model: Option<String>,
    input: OneOrMany,
    #[serde(default)]
    encoding_format: Encoding,
    dimensions: Option<usize>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    Base64,
}

pub(super) async fn create(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let bytes = body::read(request.into_body(), state.options.body_limit).await?;
    let cx = cx.with_timeout(state.options.timeout);
    answer(&state.engine, &cx, &bytes).await.map(Json)
}

/// Reads a request and answers it.
pub(crate) async fn answer(engine: &Engine, cx: &Context, bytes: &[u8]) -> Result<Value, Problem> {
    let Embed { model, input, encoding_format, dimensions } = body::json(bytes)?;
    let model = models::find(engine, model.as_deref())?;
    let info = model.model();
    let texts = input.into_vec();
    if texts.is_empty() || texts.len() > MAX_TEXTS || texts.iter().any(String::is_empty) {
        let message = format!("give 1 to {MAX_TEXTS} texts, none of them empty");
        return Err(Problem::bad("openai.embeddings", message).param("input"));
    }
    if dimensions.is_some_and(|wanted| wanted != info.embedding_length) {
        let message = format!("this model's embeddings have {} dimensions", info.embedding_length);
        return Err(Problem::bad("openai.embeddings", message).param("dimensions"));
    }
    let mut tokens = 0;
    for text in &texts {
        tokens += model.encode(cx, Prompt::Text(text.clone())).await?.len();
    }
    let vectors = engine.embed(cx, Some(&info.name), texts).await.map_err(|error| match error.kind() {
        ErrorKind::TooLarge => {
            Problem::new(http::StatusCode::BAD_REQUEST, error).param("input").code("context_length_exceeded")
        }
        _ => error.into(),
    })?;
    let data: Vec<_> = vectors
        .into_iter()
        .enumerate()
        .map(|(index, vector)| {
            let embedding = match encoding_format {
                Encoding::Float => json!(vector),
                Encoding::Base64 => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                    json!(base64::engine::general_purpose::STANDARD.encode(bytes))
                }
            };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(json!({ "object": "list", "data": data, "model": info.name, "usage": usage }))
}
