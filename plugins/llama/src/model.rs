//! A model that is open.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use futures_channel::{mpsc as chunks, oneshot};
use futures_util::{StreamExt, stream};
use llama_cpp_2::model::LlamaModel;
use selvedge_core::{
    Context, Error, ErrorKind, Inference, Result,
    inference::{
        Candidate, Chunk, Generate, Generation, InferenceCapabilities, ModelInfo, Predict, Prompt, StopReason, Symbol,
        Usage,
    },
};

use crate::{
    Builder,
    builder::Settings,
    gguf::Summary,
    inbox::Inbox,
    prompt,
    sequence::{Answer, Job, Task},
    worker,
};

/// A language model, open. Clones share it; the last one that is dropped closes it.
///
/// # Answers
/// An answer ends with [`StopReason::MaxTokens`] after `max_tokens` symbols, or where the context ends if that comes
/// first. A prompt that leaves no room for a single symbol is a `TooLarge` error.
///
/// # Cancellation safety
/// A request that is dropped, cancelled or late ends before the next forward pass: within one symbol while it answers,
/// within [one piece](Builder::batch) while its prompt is read.
///
/// # Closing
/// Dropping the last clone ends what still runs with a `Cancelled` error; the forward pass under way is cut short.
#[derive(Clone)]
pub struct Llama(Arc<Inner>);

struct Inner {
    info: ModelInfo,
    inbox: Arc<Inbox>,
    sequences: usize,
    thread: Option<JoinHandle<()>>,
    // After the thread, whose context needs it; the worker holds one too.
    model: Arc<LlamaModel>,
}

impl Llama {
    /// Opens the model in a GGUF file.
    pub fn builder(path: impl Into<PathBuf>) -> Builder {
        Builder::new(path.into())
    }

    /// Starts the worker and waits until it has opened the model.
    pub(crate) fn start(name: String, sha256: String, summary: Summary, settings: Settings) -> Result<Self> {
        let (ready, opened) = mpsc::sync_channel(1);
        let inbox = Arc::<Inbox>::default();
        let sequences = settings.sequences;
        let description = summary.description();
        let thread = std::thread::Builder::new()
            .name("llama".into())
            .spawn({
                let inbox = inbox.clone();
                move || worker::run(&settings, &summary, &ready, &inbox)
            })
            .map_err(|error| {
                Error::new(ErrorKind::Unavailable, "llama.open", "no thread can be started").caused_by(error)
            })?;
        let opened = match opened.recv() {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => {
                let _ = thread.join();
                return Err(error);
            }
            Err(_) => return Err(gone("llama.open")),
        };
        let info = ModelInfo {
            name,
            description,
            sha256,
            context_length: opened.context_length,
            vocabulary: usize::try_from(opened.model.n_vocab()).unwrap_or(0),
            embedding_length: usize::try_from(opened.model.n_embd_out()).unwrap_or(0),
        };
        Ok(Self(Arc::new(Inner { info, inbox, sequences, thread: Some(thread), model: opened.model })))
    }

    /// Hands a job to the worker.
    fn send(&self, operation: &'static str, job: Job) -> Result<()> {
        self.0.inbox.send(job).map_err(|_| gone(operation))
    }

    /// The symbols of a prompt that is not empty and leaves room for an answer.
    fn prompt(&self, operation: &'static str, from: &Prompt) -> Result<Vec<llama_cpp_2::token::LlamaToken>> {
        let nothing = match from {
            Prompt::Text(text) => text.is_empty(),
            Prompt::Symbols(symbols) => symbols.is_empty(),
            Prompt::Chat(messages) => messages.is_empty(),
        };
        if nothing {
            return Err(prompt::empty(operation));
        }
        let symbols = prompt::symbols(&self.0.model, operation, from)?;
        if symbols.is_empty() {
            return Err(prompt::empty(operation));
        }
        prompt::fits(operation, symbols.len(), self.0.info.context_length)?;
        Ok(symbols)
    }
}

impl Inference for Llama {
    fn capabilities(&self) -> InferenceCapabilities {
        InferenceCapabilities {
            plugin: "llama",
            predict: true,
            generate: true,
            chat: self.0.model.chat_template(None).is_ok(),
            embed: true,
            grammar: true,
            sequences: self.0.sequences,
        }
    }

    fn model(&self) -> ModelInfo {
        self.0.info.clone()
    }

    async fn encode(&self, cx: &Context, prompt: Prompt) -> Result<Vec<Symbol>> {
        cx.check("llama.encode")?;
        let symbols = prompt::symbols(&self.0.model, "llama.encode", &prompt)?;
        Ok(symbols.into_iter().filter_map(|token| u32::try_from(token.0).ok()).collect())
    }

    async fn predict(&self, cx: &Context, request: Predict) -> Result<Vec<Candidate>> {
        let operation = "llama.predict";
        cx.check(operation)?;
        let prompt = self.prompt(operation, &Prompt::Symbols(request.context))?;
        let (reply, answer) = oneshot::channel();
        self.send(operation, Job { cx: cx.clone(), prompt, task: Task::Predict { top: request.top, reply } })?;
        answer.await.map_err(|_| gone(operation))?
    }

    async fn generate(&self, cx: &Context, request: Generate) -> Result<Generation> {
        let operation = "llama.generate";
        cx.check(operation)?;
        let Generate { prompt, max_tokens, sampling, stop, grammar, begun } = request;
        sampling.check()?;
        if stop.iter().any(String::is_empty) {
            return Err(Error::new(ErrorKind::InvalidInput, operation, "a stop text is empty")
                .advise("leave it out: an empty text is everywhere"));
        }
        let mut prompt = self.prompt(operation, &prompt)?;
        let limit = max_tokens.min(self.0.info.context_length - prompt.len());
        if begun.len() >= limit {
            let usage =
                Usage { prompt_tokens: prompt.len(), completion_tokens: begun.len().min(limit), ..Usage::default() };
            let end = Chunk::End { reason: StopReason::MaxTokens, usage };
            return Ok(Generation::new(stream::iter([Ok(end)])));
        }
        prompt.extend(prompt::check(&self.0.model, operation, &begun)?);
        let (sender, receiver) = chunks::unbounded();
        let answer = Answer { limit, begun: begun.len(), sampling, stop, grammar, chunks: sender };
        self.send(operation, Job { cx: cx.clone(), prompt, task: Task::Generate(answer) })?;
        Ok(Generation::new(until_end(receiver)))
    }

    async fn embed(&self, cx: &Context, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        let operation = "llama.embed";
        cx.check(operation)?;
        let prompts =
            texts.into_iter().map(|text| self.prompt(operation, &Prompt::Text(text))).collect::<Result<Vec<_>>>()?;
        let mut answers = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let (reply, answer) = oneshot::channel();
            self.send(operation, Job { cx: cx.clone(), prompt, task: Task::Embed { reply } })?;
            answers.push(answer);
        }
        let mut vectors = Vec::with_capacity(answers.len());
        for answer in answers {
            vectors.push(answer.await.map_err(|_| gone(operation))??);
        }
        Ok(vectors)
    }
}

/// The worker's chunks, ended by an error if the worker went away before the end.
fn until_end(
    chunks: chunks::UnboundedReceiver<Result<Chunk>>,
) -> impl stream::Stream<Item = Result<Chunk>> + Send + 'static {
    stream::unfold(Some(chunks), |chunks| async {
        let mut chunks = chunks?;
        match chunks.next().await {
            Some(Ok(chunk @ Chunk::Tokens { .. })) => Some((Ok(chunk), Some(chunks))),
            Some(last) => Some((last, None)),
            None => Some((Err(gone("llama.generate")), None)),
        }
    })
}

/// The error of a worker that ended by itself, which only a bug makes it do.
fn gone(operation: &'static str) -> Error {
    Error::new(ErrorKind::Internal, operation, "the model's thread has ended")
        .advise("open the model again, and report what it was asked")
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.inbox.close();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Llama {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Llama").field(&self.0.info).finish()
    }
}
