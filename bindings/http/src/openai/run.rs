//! Running a request: from parameters to one answer, or to a stream of chunks.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    response::{IntoResponse, Response, Sse, sse::Event},
};
use futures_util::{Stream, StreamExt, stream};
use selvedge_core::{
    Context, Engine, Error, ErrorKind, Inference, Timestamp,
    inference::{Chunk, Generate, Generation, ModelInfo, Prompt, StopReason, Usage},
};
use serde_json::{Value, json};

use super::{error, models, parameters::Parameters};
use crate::{Problem, server::AppState};

/// How a kind of answer is written.
pub(crate) trait Shape: Copy + Send + Sync + 'static {
    /// The prefix of ids.
    const ID: &'static str;
    /// `object` of a whole answer.
    const WHOLE: &'static str;
    /// `object` of a chunk.
    const PIECE: &'static str;
    /// The most tokens when the request does not say, out of the server's own setting.
    fn default_tokens(setting: usize) -> usize;
    /// The choice of a whole answer.
    fn whole(text: String, reason: &'static str) -> Value;
    /// The choice of the first chunk, if it comes before any text.
    fn opening() -> Option<Value>;
    /// The choice of a chunk with text.
    fn piece(text: String) -> Value;
    /// The choice of the last chunk.
    fn closing(reason: &'static str) -> Value;
}

/// What all documents of one answer share.
#[derive(Clone)]
pub(crate) struct Head {
    id: String,
    created: i64,
    model: String,
    fingerprint: String,
}

impl Head {
    /// The head of an answer with this name, of this moment, by this model.
    pub(crate) fn new<S: Shape>(name: &str, created: Timestamp, info: ModelInfo) -> Self {
        Self {
            id: format!("{}-{name}", S::ID),
            created: created.as_micros() / 1_000_000,
            fingerprint: format!("selvedge-{}", info.sha256.get(..12).unwrap_or("unknown")),
            model: info.name,
        }
    }

    fn document(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint, "choices": choices,
        })
    }
}

/// A request as it is put to a model.
pub(crate) struct Prepared {
    pub(crate) request: Generate,
    pub(crate) info: ModelInfo,
}

/// Finds the model, reads the prompt as it would, and checks everything that can be known before it answers.
pub(crate) async fn prepare<S: Shape>(
    _: S,
    engine: &Engine,
    default_tokens: usize,
    cx: &Context,
    parameters: Parameters,
    prompt: Prompt,
) -> Result<Prepared, Problem> {
    let model = models::find(engine, parameters.model.as_deref())?;
    let info = model.model();
    let symbols = model.encode(cx, prompt).await.map_err(too_long)?;
    let room = info.context_length.saturating_sub(symbols.len());
    if room == 0 {
        return Err(too_long(
            Error::new(ErrorKind::TooLarge, "openai.run", "the prompt is longer than the model's context")
                .with("prompt_tokens", symbols.len())
                .with("context_length", info.context_length)
                .advise("send a shorter prompt"),
        ));
    }
    let max_tokens = parameters.limit().unwrap_or_else(|| S::default_tokens(default_tokens).min(room));
    let request = parameters.generate(Prompt::Symbols(symbols), max_tokens, &model.capabilities())?;
    Ok(Prepared { request, info })
}

/// A whole answer.
pub(crate) fn whole<S: Shape>(_: S, head: &Head, text: String, reason: StopReason, usage: &Usage) -> Value {
    let mut document = head.document(S::WHOLE, vec![S::whole(text, finish_reason(reason))]);
    document["usage"] = usage_document(usage);
    document
}

pub(super) async fn run<S: Shape>(
    shape: S,
    state: AppState,
    cx: Context,
    parameters: Parameters,
    prompt: Prompt,
) -> Result<Response, Problem> {
    let (streamed, include_usage) = (parameters.stream == Some(true), parameters.include_usage());
    let Prepared { request, info } =
        prepare(shape, &state.engine, state.options.max_tokens, &cx, parameters, prompt).await?;
    // A whole answer has to be there in time; a streamed one only has to begin.
    let cx = if streamed { cx } else { cx.with_timeout(state.options.timeout) };
    let generation = state.engine.chat(&cx, Some(&info.name), request).await.map_err(too_long)?;
    let created = Timestamp::now();
    let head = Head::new::<S>(&uuid::Uuid::now_v7().simple().to_string(), created, info);
    if streamed {
        let events = events::<S>(state, head, generation, include_usage);
        return Ok(Sse::new(events).keep_alive(keep_alive()).into_response());
    }
    let generated = generation.collect().await.map_err(too_long)?;
    state.metrics.tokens(&head.model, &generated.usage);
    let reason = generated.reason.unwrap_or(StopReason::EndOfText);
    Ok(Json(whole(shape, &head, generated.text, reason, &generated.usage)).into_response())
}

/// Comments on the line while a model is reading a long prompt, so that nothing between closes the connection.
fn keep_alive() -> axum::response::sse::KeepAlive {
    axum::response::sse::KeepAlive::new().interval(Duration::from_secs(15))
}

/// The chunks of an answer. Dropping the stream, as happens when the client hangs up, drops the generation: the model stops
/// at the next token and the place is free.
fn events<S: Shape>(
    state: AppState,
    head: Head,
    generation: Generation,
    include_usage: bool,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    let chunk = move |head: &Head, choices: Vec<Value>| {
        let mut document = head.document(S::PIECE, choices);
        if include_usage {
            document["usage"] = Value::Null;
        }
        document
    };
    let opening = S::opening().map(|choice| chunk(&head, vec![choice]));
    let rest = generation.flat_map(move |piece| {
        let documents = match piece {
            Ok(Chunk::Tokens { text, .. }) if text.is_empty() => vec![],
            Ok(Chunk::Tokens { text, .. }) => vec![chunk(&head, vec![S::piece(text)])],
            Ok(Chunk::End { reason, usage }) => {
                state.metrics.tokens(&head.model, &usage);
                let mut last = vec![chunk(&head, vec![S::closing(finish_reason(reason))])];
                if include_usage {
                    let mut document = head.document(S::PIECE, vec![]);
                    document["usage"] = usage_document(&usage);
                    last.push(document);
                }
                last
            }
            // The status is long sent; clients read the error from the stream.
            Err(failed) => vec![error::document(&Problem::from(failed))],
        };
        stream::iter(documents)
    });
    stream::iter(opening)
        .chain(rest)
        .map(|document| document.to_string())
        .chain(stream::iter(["[DONE]".to_owned()]))
        .map(|data| Ok(Event::default().data(data)))
}

fn finish_reason(reason: StopReason) -> &'static str {
    match reason {
        StopReason::EndOfText | StopReason::StopText => "stop",
        StopReason::MaxTokens => "length",
    }
}

fn usage_document(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": { "cached_tokens": usage.cached_tokens },
        // Models here think aloud or not at all.
        "completion_tokens_details": { "reasoning_tokens": 0 },
    })
}

/// A prompt that does not fit is the client's 400 here, with the code that clients look for.
pub(crate) fn too_long(error: Error) -> Problem {
    match error.kind() {
        ErrorKind::TooLarge => Problem::new(http::StatusCode::BAD_REQUEST, error).code("context_length_exceeded"),
        _ => error.into(),
    }
}
