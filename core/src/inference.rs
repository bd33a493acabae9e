//! Inference: what comes next in a sequence, be it a token or a screen.
//!
//! The primitive is [`predict`](Inference::predict): the most likely next symbols after a context. Generation is a loop over
//! it that a backend may replace with a faster one. That is why a next-screen model and a language model are the same kind
//! of plugin, and why anything with the target's vocabulary can draft for it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::{Context, Result, plugin::plugin_trait};

/// A symbol of a vocabulary: a token id, or a screen's number.
pub type Symbol = u32;

/// What an Inference plugin can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InferenceCapabilities {
    /// The plugin's name, as error messages give it: `llama`.
    pub plugin: &'static str,
    /// [`Inference::predict`].
    pub predict: bool,
    /// [`Inference::generate`].
    pub generate: bool,
    /// Prompts may be chats, rendered with the model's own template.
    pub chat: bool,
    /// [`Inference::embed`].
    pub embed: bool,
    /// Answers may be held to a [`Grammar`].
    pub grammar: bool,
    /// The most sequences that run at once.
    pub sequences: usize,
}

/// The model behind an Inference plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelInfo {
    /// Its name, as requests give it.
    pub name: String,
    /// What it is: `llama 135M Q4_1`.
    pub description: String,
    /// The digest of its file, 64 hex digits; empty when it has none.
    pub sha256: String,
    /// The most symbols a context may have.
    pub context_length: usize,
    /// How many symbols it knows.
    pub vocabulary: usize,
    /// The length of an embedding; 0 when it makes none.
    pub embedding_length: usize,
}

plugin_trait! {
    /// A model: what comes next.
    ///
    /// # Cancellation safety
    /// Dropping a future or a [`Generation`] stops the work at the next symbol.
    pub trait Inference, InferenceTwin, AnyInference {
        sync {
            /// What this plugin can do. Asking for more is an `Unsupported` error.
            fn capabilities(&self) -> InferenceCapabilities;

            /// The model behind it.
            fn model(&self) -> ModelInfo;
        }

        async {
            /// The symbols of a prompt, as the model would see them.
            async fn encode(&self, cx: &Context, prompt: Prompt) -> Result<Vec<Symbol>>;

            /// The most likely next symbols after a context, the likeliest first.
            async fn predict(&self, cx: &Context, request: Predict) -> Result<Vec<Candidate>>;

            /// Goes on with a prompt, symbol after symbol.
            ///
            /// # Errors
            /// `InvalidInput` for a prompt or a setting that cannot be used, `TooLarge` when prompt and answer exceed the context.
            async fn generate(&self, cx: &Context, request: Generate) -> Result<Generation>;

            /// Vectors that stand for texts, each of length 1.
            async fn embed(&self, cx: &Context, texts: Vec<String>) -> Result<Vec<Vec<f32>>>;
        }
    }
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model is told to be.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }
}

/// What to go on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prompt {
    /// A chat, rendered with the model's own template, ready for the assistant to speak.
    Chat(Vec<Message>),
    /// Text as it stands, with the model's begin-of-text symbol if it wants one.
    Text(String),
    /// Symbols as they stand.
    Symbols(Vec<Symbol>),
}

/// Asks for the most likely next symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predict {
    /// The symbols so far.
    pub context: Vec<Symbol>,
    /// How many candidates.
    pub top: usize,
}

/// A symbol that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// The symbol.
    pub symbol: Symbol,
    /// Its probability among all symbols, 0 to 1.
    pub probability: f32,
}

/// How the next symbol is chosen. `temperature` 0 takes the likeliest, always the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 is greedy; 1 is the model's own distribution.
    pub temperature: f32,
    /// Only the `top_k` likeliest; 0 is all.
    pub top_k: u32,
    /// Only the likeliest that together have this probability; 1 is all.
    pub top_p: f32,
    /// Only those at least this fraction as likely as the likeliest; 0 is all.
    pub min_p: f32,
    /// The seed: the same seed, prompt and build give the same text.
    pub seed: u32,
}

impl Sampling {
    /// The likeliest symbol, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

    /// What every backend checks.
    ///
    /// # Errors
    /// `InvalidInput`, naming the setting.
    pub fn check(&self) -> Result<()> {
        for (name, value, low, high) in [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
        ] {
            if !(low..=high).contains(&value) {
                return Err(crate::Error::new(
                    crate::ErrorKind::InvalidInput,
                    "inference.generate",
                    "a sampling setting is out of range",
                )
                .with("setting", name)
                .with("value", value)
                .advise(format!("use {} to {high}", if low > 0.0 { "more than 0".into() } else { low.to_string() })));
            }
        }
        Ok(())
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self::GREEDY
    }
}

/// Asks for text.
///
/// ```
/// use selvedge_core::inference::{Generate, Message};
///
/// let request = Generate::chat([Message::user("Which tea is mild?")]).max_tokens(64).stop("\n\n");
/// assert_eq!(request.max_tokens, 64);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Generate {
    /// What to go on from.
    pub prompt: Prompt,
    /// The most symbols to add.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// What the answer has to look like.
    pub grammar: Option<Grammar>,
    /// The beginning of the answer, from a run that was cut short: what is added goes on after it, with the same choices as
    /// if the run had not ended. It counts towards `max_tokens`, and is not streamed again.
    pub begun: Vec<Symbol>,
}

/// What an answer has to look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grammar {
    /// Any JSON object.
    Json,
    /// JSON that fits this JSON Schema, which is itself JSON.
    JsonSchema(String),
    /// The language of a grammar in [GBNF](https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md), from its
    /// rule `root` on.
    Gbnf(String),
}

impl Generate {
    /// Goes on with a prompt, greedily, for at most 256 symbols.
    pub fn new(prompt: Prompt) -> Self {
        Self { prompt, max_tokens: 256, sampling: Sampling::GREEDY, stop: Vec::new(), grammar: None, begun: Vec::new() }
    }

    /// Answers a chat.
    pub fn chat(messages: impl IntoIterator<Item = Message>) -> Self {
        Self::new(Prompt::Chat(messages.into_iter().collect()))
    }

    /// Goes on with a text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Prompt::Text(text.into()))
    }

    /// Sets the most symbols to add.
    #[must_use]
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// Sets how each symbol is chosen.
    #[must_use]
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// Holds the answer to a grammar.
    #[must_use]
    pub fn grammar(mut self, grammar: Grammar) -> Self {
        self.grammar = Some(grammar);
        self
    }

    /// Goes on after a beginning of the answer.
    #[must_use]
    pub fn begun(mut self, symbols: Vec<Symbol>) -> Self {
        self.begun = symbols;
        self
    }

    /// Adds a text that ends the answer.
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stop.push(text.into());
        self
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended its answer.
    EndOfText,
    /// A stop text appeared.
    StopText,
    /// `max_tokens` were added.
    MaxTokens,
}

/// What a generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Symbols of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were in a cache already, and were not read again.
    pub cached_tokens: usize,
    /// Symbols added.
    pub completion_tokens: usize,
    /// Reading the prompt.
    pub prefill: Duration,
    /// Adding symbols.
    pub decode: Duration,
}

impl Usage {
    /// Symbols added a second; 0 when nothing was added. The first symbol comes out of reading the prompt.
    pub fn tokens_per_second(&self) -> f64 {
        let steps = self.completion_tokens.saturating_sub(1);
        if steps == 0 || self.decode.is_zero() { 0.0 } else { steps as f64 / self.decode.as_secs_f64() }
    }
}

/// A piece of a generation.
#[derive(Clone, Debug, PartialEq)]
pub enum Chunk {
    /// Symbols that were added and the text they complete. The text may be empty while a character or a possible stop
    /// text is not complete.
    Tokens {
        /// The symbols.
        symbols: Vec<Symbol>,
        /// The text.
        text: String,
    },
    /// The end. Nothing follows.
    End {
        /// Why.
        reason: StopReason,
        /// What it took.
        usage: Usage,
    },
}

/// A running generation: a stream of chunks, the last of which is [`Chunk::End`]. Dropping it stops the work.
pub struct Generation(Pin<Box<dyn Stream<Item = Result<Chunk>> + Send>>);

impl Generation {
    /// Wraps a backend's stream.
    pub fn new(stream: impl Stream<Item = Result<Chunk>> + Send + 'static) -> Self {
        // Polled after its end, a plain stream may panic.
        Self(Box::pin(futures_util::StreamExt::fuse(stream)))
    }

    /// The next chunk; `None` after the end, however often it is asked for.
    ///
    /// # Cancellation safety
    /// Dropping the future loses no chunk.
    ///
    /// # Errors
    /// `Cancelled`, `DeadlineExceeded`, or what the backend could not do.
    pub async fn next(&mut self) -> Option<Result<Chunk>> {
        std::future::poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// Those of [`Generation::next`].
    pub async fn collect(mut self) -> Result<Generated> {
        let mut all = Generated::default();
        while let Some(chunk) = self.next().await {
            match chunk? {
                Chunk::Tokens { symbols, text } => {
                    all.symbols.extend(symbols);
                    all.text.push_str(&text);
                }
                Chunk::End { reason, usage } => {
                    all.reason = Some(reason);
                    all.usage = usage;
                }
            }
        }
        Ok(all)
    }
}

impl Stream for Generation {
    type Item = Result<Chunk>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Generation")
    }
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Generated {
    /// The symbols added.
    pub symbols: Vec<Symbol>,
    /// The text added.
    pub text: String,
    /// Why it ended.
    pub reason: Option<StopReason>,
    /// What it took.
    pub usage: Usage,
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn an_answer_that_has_ended_stays_ended() {
        let one = Chunk::Tokens { symbols: vec![1], text: "a".into() };
        // This stream panics when it is polled after its end.
        let stream = futures_util::stream::unfold(Some(one), |one| async move { one.map(|one| (Ok(one), None)) });
        let mut answer = Generation::new(stream);
        assert!(answer.next().now_or_never().flatten().is_some());
        for _ in 0..3 {
            assert!(answer.next().now_or_never().expect("nothing to wait for").is_none());
        }
    }
}
