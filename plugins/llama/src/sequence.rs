//! A request that runs: its prompt is read piece by piece, then it takes one symbol a step.

use std::time::{Duration, Instant};

use futures_channel::{mpsc::UnboundedSender, oneshot};
use llama_cpp_2::{
    context::LlamaContext, llama_batch::LlamaBatch, model::LlamaModel, sampling::LlamaSampler, token::LlamaToken,
};
use selvedge_core::{
    Context, Error, ErrorKind, Result,
    inference::{Candidate, Chunk, Sampling, StopReason, Usage},
    scheduler::SequenceView,
};

use crate::{logits, text::TextStream};

/// What a request wants, and where the answer goes.
pub(crate) enum Task {
    Generate { limit: usize, sampling: Sampling, stop: Vec<String>, chunks: UnboundedSender<Result<Chunk>> },
    Predict { top: usize, reply: oneshot::Sender<Result<Vec<Candidate>>> },
    Embed { reply: oneshot::Sender<Result<Vec<f32>>> },
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
            Task::Generate { chunks, .. } => ("llama.generate", chunks.is_closed()),
            Task::Predict { reply, .. } => ("llama.predict", reply.is_canceled()),
            Task::Embed { reply } => ("llama.embed", reply.is_canceled()),
        };
        if abandoned { Some(Error::cancelled(operation)) } else { self.cx.check(operation).err() }
    }

    /// Ends it with an error. Whether somebody still listens does not matter.
    pub(crate) fn fail(self, error: Error) {
        match self.task {
            Task::Generate { chunks, .. } => drop(chunks.unbounded_send(Err(error))),
            Task::Predict { reply, .. } => drop(reply.send(Err(error))),
            Task::Embed { reply } => drop(reply.send(Err(error))),
        }
    }
}

/// A request that has a place in the context.
pub(crate) struct Sequence {
    pub(crate) id: u64,
    /// Its place in llama.cpp's context.
    pub(crate) slot: i32,
    pub(crate) job: Job,
    /// Symbols in the context so far.
    fed: usize,
    /// The symbol that was chosen last and is fed next.
    next: Option<LlamaToken>,
    sampler: Option<LlamaSampler>,
    text: TextStream,
    started: Instant,
    prefill: Duration,
    completed: usize,
}

impl Sequence {
    pub(crate) fn new(id: u64, slot: i32, mut job: Job) -> Self {
        let (sampler, stop) = match &mut job.task {
            Task::Generate { sampling, stop, .. } => (logits::sampler(sampling), std::mem::take(stop)),
            Task::Predict { .. } | Task::Embed { .. } => (None, Vec::new()),
        };
        Self {
            id,
            slot,
            job,
            fed: 0,
            next: None,
            sampler,
            text: TextStream::new(stop),
            started: Instant::now(),
            prefill: Duration::ZERO,
            completed: 0,
        }
    }

    /// What a Scheduler sees of it.
    pub(crate) fn view(&self) -> SequenceView {
        SequenceView {
            id: self.id,
            class: self.job.cx.class(),
            prompt_left: self.job.prompt.len().saturating_sub(self.fed),
        }
    }

    /// Adds its next symbols, at most so many, to the batch. Returns the row whose output chooses a symbol, if there is one.
    pub(crate) fn feed(&mut self, batch: &mut LlamaBatch<'_>, most: usize) -> Result<Option<i32>> {
        let left = &self.job.prompt[self.fed.min(self.job.prompt.len())..];
        let tokens = match &self.next {
            Some(next) => std::slice::from_ref(next),
            None => &left[..left.len().min(most)],
        };
        let whole = self.next.is_some() || tokens.len() == left.len();
        for (index, token) in tokens.iter().enumerate() {
            let position = i32::try_from(self.fed + index).map_err(|_| internal("a position is too large"))?;
            let output = whole && index + 1 == tokens.len();
            batch.add(*token, position, &[self.slot], output).map_err(|error| internal(error.to_string()))?;
        }
        self.fed += tokens.len();
        Ok(whole.then(|| batch.n_tokens() - 1))
    }

    /// Takes the output of a row: answers, or chooses the next symbol. Returns whether it is done.
    pub(crate) fn take(&mut self, model: &LlamaModel, context: &LlamaContext<'_>, row: i32) -> Result<bool> {
        let output = context.get_logits_ith(row);
        let token = match (&mut self.job.task, &mut self.sampler) {
            (Task::Predict { top, reply }, _) => {
                let answer = logits::candidates(output, *top);
                // The task keeps a channel that nobody holds the other end of.
                drop(std::mem::replace(reply, oneshot::channel().0).send(answer));
                return Ok(true);
            }
            (_, None) => logits::likeliest(output)?,
            (_, Some(sampler)) => {
                logits::likeliest(output)?;
                sampler.sample(context, row)
            }
        };
        if self.next.is_none() {
            self.prefill = self.started.elapsed();
        }
        self.next = Some(token);
        Ok(self.stream(model, token))
    }

    /// Sends what a symbol completes. Returns whether it was the last.
    fn stream(&mut self, model: &LlamaModel, token: LlamaToken) -> bool {
        let Task::Generate { limit, chunks, .. } = &self.job.task else {
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
        let usage = Usage {
            prompt_tokens: self.job.prompt.len(),
            completion_tokens: self.completed,
            prefill: self.prefill,
            decode: self.started.elapsed().saturating_sub(self.prefill),
        };
        drop(chunks.unbounded_send(Ok(Chunk::End { reason, usage })));
        true
    }
}

/// An error that only a bug can cause.
pub(crate) fn internal(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Internal, "llama.step", message)
}
