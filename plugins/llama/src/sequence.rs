//! A request that runs: its prompt is read piece by piece, then it takes one symbol a step.

use std::time::{Duration, Instant};

use futures_channel::{mpsc::UnboundedSender, oneshot};
use llama_cpp_2::{model::LlamaModel, sampling::LlamaSampler, token::LlamaToken};
use selvedge_core::{
    Context, Error, ErrorKind, Result,
    inference::{Candidate, Chunk, Grammar, Sampling, StopReason, Usage},
    scheduler::SequenceView,
};

use crate::{
    grammar, logits, passage::Passage, prefixes::Prefixes, sampling, slots::Slots, sys::Batch, text::TextStream,
};

/// What a request wants, and where the answer goes.
pub(crate) enum Task {
    Generate(Answer),
    Predict { top: usize, reply: oneshot::Sender<Result<Vec<Candidate>>> },
    Embed { reply: oneshot::Sender<Result<Vec<f32>>> },
}

/// An answer that is wanted.
pub(crate) struct Answer {
    /// The most symbols it has, with what was begun of it.
    pub(crate) limit: usize,
    /// What was begun of it: the last symbols of the job's prompt.
    pub(crate) begun: usize,
    pub(crate) sampling: Sampling,
    pub(crate) stop: Vec<String>,
    pub(crate) grammar: Option<Grammar>,
    pub(crate) chunks: UnboundedSender<Result<Chunk>>,
}

/// A request on its way to the worker. Its prompt has at least one symbol and fits the context.
pub(crate) struct Job {
    pub(crate) cx: Context,
    pub(crate) prompt: Vec<LlamaToken>,
    pub(crate) task: Task,
}

impl Job {
    /// Why it should not go on.
    pub(crate) fn stopped(&self) -> Option<Error> {
        let (operation, abandoned) = match &self.task {
            Task::Generate(answer) => ("llama.generate", answer.chunks.is_closed()),
            Task::Predict { reply, .. } => ("llama.predict", reply.is_canceled()),
            Task::Embed { reply } => ("llama.embed", reply.is_canceled()),
        };
        if abandoned { Some(Error::cancelled(operation)) } else { self.cx.check(operation).err() }
    }

    /// Ends it with an error. Whether somebody still listens does not matter.
    pub(crate) fn fail(self, error: Error) {
        match self.task {
            Task::Generate(answer) => drop(answer.chunks.unbounded_send(Err(error))),
            Task::Predict { reply, .. } => drop(reply.send(Err(error))),
            Task::Embed { reply } => drop(reply.send(Err(error))),
        }
    }
}

/// Where what a sequence has read is kept.
#[derive(Debug)]
pub(crate) enum Cache {
    /// Nowhere yet.
    None,
    /// In a slot of the context.
    Slot(usize),
    /// Out of the context, because its slot was needed: what the slot held.
    Parked(Vec<u8>),
}

/// A request that is live.
pub(crate) struct Sequence {
    pub(crate) id: u64,
    pub(crate) job: Job,
    pub(crate) cache: Cache,
    /// The prompt, and what was added to it.
    pub(crate) tokens: Vec<LlamaToken>,
    /// How many of them the cache has.
    pub(crate) fed: usize,
    /// Of the prompt, what was in the cache of the slot it got.
    pub(crate) cached: usize,
    /// So much of its prompt is to be kept for others, once it was read.
    pub(crate) shared: Option<usize>,
    /// When it advanced last, or came.
    pub(crate) advanced: Instant,
    grammar: Option<LlamaSampler>,
    text: TextStream,
    started: Instant,
    prefill: Option<Duration>,
    completed: usize,
}

impl Sequence {
    #[allow(clippy::result_large_err, reason = "a job that cannot be begun goes back whole, to be told why")]
    pub(crate) fn new(id: u64, model: &LlamaModel, mut job: Job) -> Result<Self, (Job, Error)> {
        let (mut stop, mut grammar, mut begun) = (Vec::new(), None, 0);
        if let Task::Generate(answer) = &mut job.task {
            stop = std::mem::take(&mut answer.stop);
            begun = answer.begun;
            if let Some(wanted) = answer.grammar.take() {
                match grammar::sampler(model, &wanted, &job.prompt[job.prompt.len() - begun..]) {
                    Ok(sampler) => grammar = Some(sampler),
                    Err(error) => return Err((job, error)),
                }
            }
        }
        let mut text = TextStream::new(stop);
        for token in &job.prompt[job.prompt.len() - begun..] {
            // What it completes was shown by the run that began the answer.
            text.push(&model.vocab().token_to_piece(*token, false, None));
        }
        let now = Instant::now();
        Ok(Self {
            id,
            tokens: job.prompt.clone(),
            job,
            cache: Cache::None,
            fed: 0,
            cached: 0,
            shared: None,
            advanced: now,
            grammar,
            text,
            started: now,
            prefill: None,
            completed: begun,
        })
    }

    /// Its place in the context, if it has one.
    pub(crate) fn slot(&self) -> Option<usize> {
        match self.cache {
            Cache::Slot(slot) => Some(slot),
            Cache::None | Cache::Parked(_) => None,
        }
    }

    /// The prompt and what was added to it, as the caches see it.
    pub(crate) fn passage(&self) -> Passage<'_> {
        Passage { tenant: self.job.cx.tenant(), tokens: &self.tokens }
    }

    /// What of that the cache has.
    pub(crate) fn read(&self) -> Passage<'_> {
        self.passage().first(self.fed)
    }

    /// What a Scheduler sees of it.
    pub(crate) fn view(&self, now: Instant, slots: &Slots, prefixes: &Prefixes) -> SequenceView {
        let cached = if let Cache::None = self.cache {
            let slot = slots.common(self.passage());
            prefixes.better(self.passage(), slot).unwrap_or(slot)
        } else {
            self.fed
        };
        let left = self.tokens.len() - cached;
        SequenceView {
            id: self.id,
            class: self.job.cx.class(),
            prompt_left: if self.prefill.is_some() && left == 1 { 0 } else { left },
            cached,
            resident: self.slot().is_some(),
            slot: self.slot().unwrap_or_default(),
            idle: now.saturating_duration_since(self.advanced),
            draft: None,
        }
    }

    /// Adds its next tokens, at most so many, to the batch. Returns how many, and the row whose output chooses a symbol, if
    /// there is one.
    pub(crate) fn feed(&self, slot: usize, batch: &mut Batch, most: usize) -> (usize, Option<usize>) {
        let end = self.tokens.len().min(self.fed.saturating_add(most));
        for (index, token) in self.tokens[self.fed..end].iter().enumerate() {
            let position = self.fed + index;
            batch.add(*token, position, slot, position + 1 == self.tokens.len());
        }
        (end - self.fed, (end == self.tokens.len()).then(|| batch.len() - 1))
    }

    /// Takes the output of a row: answers, or chooses the next symbol. Returns whether it is done.
    pub(crate) fn take(&mut self, model: &LlamaModel, output: &[f32]) -> Result<bool> {
        let token = match &mut self.job.task {
            Task::Predict { top, reply } => {
                let answer = logits::candidates(output, *top);
                // The task keeps a channel that nobody holds the other end of.
                drop(std::mem::replace(reply, oneshot::channel().0).send(answer));
                return Ok(true);
            }
            Task::Generate(answer) => {
                sampling::choose(output, &answer.sampling, self.completed, self.grammar.as_mut())?
            }
            Task::Embed { .. } => return Ok(true),
        };
        self.prefill.get_or_insert_with(|| self.started.elapsed());
        if let Some(grammar) = &mut self.grammar
            && !model.vocab().is_eog(token)
        {
            grammar
                .try_accept(token)
                .map_err(|error| internal("the grammar refuses what it allowed").caused_by(error))?;
        }
        self.tokens.push(token);
        Ok(self.stream(model, token))
    }

    /// Sends what a symbol completes. Returns whether it was the last.
    fn stream(&mut self, model: &LlamaModel, token: LlamaToken) -> bool {
        let Task::Generate(Answer { limit, chunks, .. }) = &self.job.task else {
            return true;
        };
        let vocab = model.vocab();
        let (symbols, text, reason) = if vocab.is_eog(token) {
            (Vec::new(), self.text.finish(), Some(StopReason::EndOfText))
        } else {
            self.completed += 1;
            let mut piece = self.text.push(&vocab.token_to_piece(token, false, None));
            let reason = if piece.stopped {
                Some(StopReason::StopText)
            } else if self.completed >= *limit {
                piece.text.push_str(&self.text.finish());
                Some(StopReason::MaxTokens)
            } else {
                None
            };
            (u32::try_from(token.0).into_iter().collect(), piece.text, reason)
        };
        // A send fails when the stream was dropped, which the worker notices before the next step.
        if !symbols.is_empty() || !text.is_empty() {
            drop(chunks.unbounded_send(Ok(Chunk::Tokens { symbols, text })));
        }
        let Some(reason) = reason else {
            return false;
        };
        let prefill = self.prefill.unwrap_or_default();
        let usage = Usage {
            prompt_tokens: self.prompt_tokens(),
            cached_tokens: self.cached.min(self.prompt_tokens()),
            completion_tokens: self.completed,
            prefill,
            decode: self.started.elapsed().saturating_sub(prefill),
        };
        drop(chunks.unbounded_send(Ok(Chunk::End { reason, usage })));
        true
    }

    /// Tokens of the prompt, without what was begun of the answer.
    fn prompt_tokens(&self) -> usize {
        let begun = match &self.job.task {
            Task::Generate(answer) => answer.begun,
            Task::Predict { .. } | Task::Embed { .. } => 0,
        };
        self.job.prompt.len() - begun
    }
}

/// An error that only a bug can cause.
pub(crate) fn internal(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Internal, "llama.step", message)
}
