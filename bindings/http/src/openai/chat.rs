//! `/v1/chat/completions`.

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use selvedge_core::{
    Context,
    inference::{Message, Prompt},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    parameters::Parameters,
    run::{Shape, run},
};
use crate::{Problem, body, server::AppState};

#[derive(Deserialize)]
struct Chat {
    messages: Vec<ChatMessage>,
    #[serde(flatten)]
    parameters: Parameters,
}

#[derive(Deserialize)]
struct ChatMessage {
    role: String,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
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
    let Chat { messages, parameters } = body::json(bytes)?;
    if messages.is_empty() {
        return Err(Problem::bad("openai.chat", "there are no messages").param("messages"));
    }
    let messages = messages.into_iter().enumerate().map(|(at, message)| message.read(at));
    Ok((parameters, Prompt::Chat(messages.collect::<Result<_, _>>()?)))
}

impl ChatMessage {
    fn read(self, at: usize) -> Result<Message, Problem> {
        let role = match self.role.as_str() {
            "system" | "developer" => "system",
            "user" => "user",
            "assistant" => "assistant",
            _ => {
                return Err(Problem::bad("openai.chat", "a role is system, user or assistant")
                    .param(format!("messages[{at}].role")));
            }
        };
        let content = match self.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let texts = parts.into_iter().map(|part| part.text.filter(|_| part.r#type == "text"));
                texts.collect::<Option<String>>().ok_or_else(|| {
                    Problem::bad("openai.chat", "content takes text parts only")
                        .param(format!("messages[{at}].content"))
                })?
            }
        };
        Ok(Message::new(role, content))
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Shaped;

impl Shape for Shaped {
    const ID: &'static str = "chatcmpl";
    const WHOLE: &'static str = "chat.completion";
    const PIECE: &'static str = "chat.completion.chunk";

    fn default_tokens(setting: usize) -> usize {
        setting
    }

    fn whole(text: String, reason: &'static str) -> Value {
        let message = json!({ "role": "assistant", "content": text, "refusal": null });
        json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": reason })
    }

    fn opening() -> Option<Value> {
        Some(choice(json!({ "role": "assistant", "content": "" }), None))
    }

    fn piece(text: String) -> Value {
        choice(json!({ "content": text }), None)
    }

    fn closing(reason: &'static str) -> Value {
        choice(json!({}), Some(reason))
    }
}

fn choice(delta: Value, reason: Option<&str>) -> Value {
    json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason })
}
