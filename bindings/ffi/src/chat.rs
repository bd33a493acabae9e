use std::{sync::Arc, time::Duration};

use selvedge::{
    Context, Inference,
    inference::{self, Chunk, Generate, Generation, Grammar, Message, Prompt, Sampling},
};

use crate::{
    call::{Call, CancelHandle},
    engine::{Engine, Running},
    error::{Outcome, guarded, millis},
    stream::Pulled,
};

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// Asks a model to go on with a chat.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct ChatRequest {
    /// What was said so far.
    pub messages: Vec<ChatMessage>,
    /// The model's name; without it, the first.
    #[uniffi(default = None)]
    pub model: Option<String>,
    /// The most tokens to add.
    #[uniffi(default = 256)]
    pub max_tokens: u32,
    /// 0 takes the likeliest token, always the same; 1 is the model's own distribution.
    #[uniffi(default = 0.0)]
    pub temperature: f32,
    /// Only the likeliest that together have this probability; 1 is all.
    #[uniffi(default = 1.0)]
    pub top_p: f32,
    /// Only this many of the likeliest; 0 is all.
    #[uniffi(default = 0)]
    pub top_k: u32,
    /// The seed of the sampling.
    #[uniffi(default = 0)]
    pub seed: u32,
    /// Texts that end the answer; they are not part of it.
    #[uniffi(default)]
    pub stop: Vec<String>,
    /// A JSON Schema, as JSON: the answer is JSON that fits it.
    #[uniffi(default = None)]
    pub json_schema: Option<String>,
    /// The most tokens in one batch of the stream. The first batches are smaller, so that the first word shows at once.
    #[uniffi(default = 32)]
    pub batch_tokens: u32,
    /// The longest a batch waits to be full, in ms. With 500, a model that writes 64 tokens a second or more fills every
    /// batch, and 1,000 tokens cross in 37 calls.
    #[uniffi(default = 500)]
    pub batch_wait_ms: u64,
}

impl ChatRequest {
    /// Answers one question greedily.
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            messages: vec![ChatMessage { role: "user".into(), content: content.into() }],
            model: None,
            max_tokens: 256,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            seed: 0,
            stop: Vec::new(),
            json_schema: None,
            batch_tokens: 32,
            batch_wait_ms: 500,
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum StopReason {
    /// The model ended its answer.
    EndOfText,
    /// A stop text appeared.
    StopText,
    /// The most tokens were added.
    MaxTokens,
}

/// A batch of an answer.
#[derive(Clone, Debug, Default, PartialEq, uniffi::Record)]
pub struct ChatChunk {
    /// The text that was added.
    pub text: String,
    /// The tokens that were added.
    pub tokens: Vec<u32>,
    /// Why the answer ended; only in the last batch.
    pub stop: Option<StopReason>,
    /// Tokens of the prompt; only in the last batch.
    pub prompt_tokens: u32,
    /// Those of them that had been read before; only in the last batch.
    pub cached_tokens: u32,
    /// Reading the prompt, in ms; only in the last batch.
    pub prefill_ms: u64,
    /// Tokens added a second; only in the last batch.
    pub tokens_per_second: f64,
}

/// A model the engine has.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct ModelDescription {
    /// Its name, as requests give it.
    pub name: String,
    /// What it is: `llama 135M Q4_1`.
    pub description: String,
    /// The most tokens a context may have.
    pub context_tokens: u32,
    /// The length of an embedding; 0 when it makes none.
    pub embedding_length: u32,
}

#[uniffi::export]
impl Engine {
    /// The models, by name.
    ///
    /// # Errors
    /// `Closed`, `Unavailable` while suspended.
    pub fn models(&self) -> Outcome<Vec<ModelDescription>> {
        guarded("engine.models", || {
            let running = self.running()?;
            let describe = |model: inference::ModelInfo| ModelDescription {
                name: model.name,
                description: model.description,
                context_tokens: u32::try_from(model.context_length).unwrap_or(u32::MAX),
                embedding_length: u32::try_from(model.embedding_length).unwrap_or(u32::MAX),
            };
            Ok(running.engine.models().map(|(_, model)| describe(model.model())).collect())
        })
    }

    /// Asks a model to go on with a chat. The answer is pulled from the stream in batches; `cancel` stops it at the next
    /// token, and so does letting go of the stream.
    ///
    /// Returns at once: the model begins in the background, and the first `next_batch` tells what went wrong.
    ///
    /// # Errors
    /// `Closed`, `Unavailable` while suspended, `InvalidInput` for a call that says something impossible about itself.
    pub fn chat(
        &self,
        request: ChatRequest,
        call: Call,
        cancel: Option<Arc<CancelHandle>>,
    ) -> Outcome<Arc<ChatStream>> {
        guarded("engine.chat", || {
            let open = |running: Arc<Running>, cx| async move { Answer::begin(&running, &cx, request).await };
            let answer = Pulled::open(self.running()?, "engine.chat", call, cancel.as_deref(), open)?;
            Ok(Arc::new(ChatStream { answer, _cancel: cancel }))
        })
    }

    /// Vectors that stand for texts, each of length 1.
    ///
    /// # Errors
    /// `Unsupported` for a model that makes none, `NotFound`, `TooLarge`, `Busy`.
    pub async fn embed(
        &self,
        texts: Vec<String>,
        model: Option<String>,
        call: Call,
        cancel: Option<Arc<CancelHandle>>,
    ) -> Outcome<Vec<Vec<f32>>> {
        self.run("engine.embed", call, cancel, |running, cx| async move {
            Ok(running.engine.embed(&cx, model.as_deref(), texts).await?)
        })
        .await
    }
}

/// An answer that is being written. Letting go of it stops the work.
#[derive(Debug, uniffi::Object)]
pub struct ChatStream {
    answer: Pulled<Answer>,
    /// Kept so that its work can be cancelled as long as it runs.
    _cancel: Option<Arc<CancelHandle>>,
}

#[uniffi::export]
impl ChatStream {
    /// Waits for the next part of the answer; `None` after its end. Parts grow from one token to `batch_tokens`, and none
    /// waits longer than `batch_wait_ms` to be full.
    ///
    /// # Errors
    /// `Unsupported` without a model, `NotFound`, `InvalidInput`, `TooLarge`, `Busy`, `Cancelled`, `DeadlineExceeded`, or what
    /// the model could not do.
    pub async fn next_batch(&self) -> Outcome<Option<ChatChunk>> {
        self.answer.pull("chat.next_batch", |answer| Box::pin(answer.next_batch())).await
    }

    /// Stops the answer; `next_batch` fails with `Cancelled`.
    ///
    /// # Errors
    /// None; it is a `Result` like every call.
    pub fn cancel(&self) -> Outcome<()> {
        guarded("chat.cancel", || {
            self.answer.cancel();
            Ok(())
        })
    }
}

#[derive(Debug)]
struct Answer {
    generation: Generation,
    /// How many tokens the next batch should have.
    batch: usize,
    most: usize,
    wait: Duration,
}

impl Answer {
    async fn begin(running: &Running, cx: &Context, request: ChatRequest) -> Outcome<Self> {
        let sampling = Sampling {
            temperature: request.temperature,
            top_k: request.top_k,
            top_p: request.top_p,
            seed: request.seed,
            ..Sampling::GREEDY
        };
        let messages = request.messages.into_iter().map(|message| Message::new(message.role, message.content));
        let mut generate =
            Generate::new(Prompt::Chat(messages.collect())).max_tokens(request.max_tokens as usize).sampling(sampling);
        generate.stop = request.stop;
        generate.grammar = request.json_schema.map(Grammar::JsonSchema);
        Ok(Self {
            generation: running.engine.chat(cx, request.model.as_deref(), generate).await?,
            batch: 1,
            most: request.batch_tokens.max(1) as usize,
            wait: Duration::from_millis(request.batch_wait_ms),
        })
    }

    async fn next_batch(&mut self) -> Outcome<Option<ChatChunk>> {
        let mut part = ChatChunk::default();
        let Some(first) = self.generation.next().await else { return Ok(None) };
        let mut ended = part.add(first?);
        let full = tokio::time::Instant::now() + self.wait;
        while !ended && part.tokens.len() < self.batch {
            match tokio::time::timeout_at(full, self.generation.next()).await {
                Ok(Some(chunk)) => ended = part.add(chunk?),
                Ok(None) => ended = true,
                Err(_) => break,
            }
        }
        self.batch = (self.batch * 2).min(self.most);
        Ok(Some(part))
    }
}

impl ChatChunk {
    /// Adds a chunk; says whether it was the last.
    fn add(&mut self, chunk: Chunk) -> bool {
        match chunk {
            Chunk::Tokens { symbols, text } => {
                self.tokens.extend(symbols);
                self.text.push_str(&text);
                false
            }
            Chunk::End { reason, usage } => {
                self.stop = Some(match reason {
                    inference::StopReason::EndOfText => StopReason::EndOfText,
                    inference::StopReason::StopText => StopReason::StopText,
                    inference::StopReason::MaxTokens => StopReason::MaxTokens,
                });
                self.prompt_tokens = u32::try_from(usage.prompt_tokens).unwrap_or(u32::MAX);
                self.cached_tokens = u32::try_from(usage.cached_tokens).unwrap_or(u32::MAX);
                self.prefill_ms = millis(usage.prefill);
                self.tokens_per_second = usage.tokens_per_second();
                true
            }
        }
    }
}
