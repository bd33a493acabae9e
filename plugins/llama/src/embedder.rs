//! Vectors that stand for texts, a piece of a text at a time, between the passes of the answers.

use std::{
    collections::VecDeque,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use llama_cpp_2::model::LlamaModel;
use selvedge_core::{Error, ErrorKind, Result, scheduler::Class};

use crate::{
    sequence::{Job, Task},
    sys::{Batch, Context, Pooling, Settings, ThreadPool},
};

/// The most symbols of a text that are embedded in one pass: llama.cpp keeps an output row for each.
const PIECE: usize = 256;

/// What waits longer than this is embedded although more urgent answers are under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// Texts that are to be embedded, and the context for it, made when the first text comes.
pub(crate) struct Embedder<'m> {
    model: &'m LlamaModel,
    settings: Settings,
    pool: Rc<ThreadPool>,
    context: Option<Context<'m>>,
    batch: Batch,
    jobs: VecDeque<Job>,
    /// Of the first text.
    done: Progress,
}

/// How far a text is.
struct Progress {
    fed: usize,
    sum: Vec<f32>,
    since: Instant,
}

impl Progress {
    fn none() -> Self {
        Self { fed: 0, sum: Vec::new(), since: Instant::now() }
    }
}

impl<'m> Embedder<'m> {
    pub(crate) fn new(model: &'m LlamaModel, settings: Settings, pool: Rc<ThreadPool>) -> Self {
        let settings =
            Settings { slots: 1, batch: PIECE.min(settings.context_length), pooling: Pooling::Mean, ..settings };
        let jobs = VecDeque::new();
        Self { model, settings, pool, context: None, batch: Batch::default(), jobs, done: Progress::none() }
    }

    pub(crate) fn add(&mut self, job: Job) {
        if self.jobs.is_empty() {
            self.done = Progress::none();
        }
        self.jobs.push_back(job);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Ends what was cancelled, is late, or has no listener any more.
    pub(crate) fn drop_stopped(&mut self) {
        for index in (0..self.jobs.len()).rev() {
            if let Some(error) = self.jobs[index].stopped()
                && let Some(job) = self.jobs.remove(index)
            {
                job.fail(error);
                if index == 0 {
                    self.done = Progress::none();
                }
            }
        }
    }

    /// Ends all of them.
    pub(crate) fn close(&mut self, error: impl Fn() -> Error) {
        self.jobs.drain(..).for_each(|job| job.fail(error()));
    }

    /// One piece of the first text, unless an answer is under way that is more urgent. False when nothing was done.
    pub(crate) fn step(&mut self, urgent: Option<Class>) -> bool {
        let Some(job) = self.jobs.front() else { return false };
        let waits = urgent.is_some_and(|urgent| urgent < job.cx.class());
        if waits && self.done.since.elapsed() < PATIENCE {
            return false;
        }
        match self.piece() {
            Ok(None) => {}
            Ok(Some(vector)) => {
                self.done = Progress::none();
                if let Some(Job { task: Task::Embed { reply }, .. }) = self.jobs.pop_front() {
                    drop(reply.send(Ok(vector)));
                }
            }
            Err(error) => {
                self.done = Progress::none();
                if let Some(job) = self.jobs.pop_front() {
                    job.fail(error);
                }
            }
        }
        self.done.since = Instant::now();
        true
    }

    /// The vector, when the piece was the last.
    fn piece(&mut self) -> Result<Option<Vec<f32>>> {
        let Some(job) = self.jobs.front() else { return Ok(None) };
        let context = match &mut self.context {
            Some(context) => context,
            // Nothing cuts a piece short: it is short.
            none => {
                none.insert(Context::new(self.model, self.settings, &self.pool, &Arc::new(AtomicBool::new(false)))?)
            }
        };
        let Progress { fed, sum, .. } = &mut self.done;
        if *fed == 0 {
            context.forget_all();
            *sum = vec![0.0; usize::try_from(self.model.n_embd_out()).unwrap_or(0)];
        }
        let end = job.prompt.len().min(*fed + context.batch());
        self.batch.clear();
        for (position, token) in (*fed..end).zip(&job.prompt[*fed..end]) {
            self.batch.add(*token, position, 0, true);
        }
        context.decode(&mut self.batch)?;
        // llama.cpp takes the mean of one pass; that of the text is the mean of those, by their lengths.
        for (sum, value) in sum.iter_mut().zip(context.embedding(0)?) {
            *sum += value * (end - *fed) as f32;
        }
        *fed = end;
        if end < job.prompt.len() {
            return Ok(None);
        }
        let length = sum.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32;
        if !length.is_normal() {
            return Err(Error::new(ErrorKind::Damaged, "llama.embed", "the model's output is not a number")
                .advise("check the file's digest: its weights may be broken"));
        }
        Ok(Some(sum.iter().map(|value| value / length).collect()))
    }
}
