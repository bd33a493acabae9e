//! The thread that owns llama.cpp's context: plan, batch, decode, sample, stream.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError},
    },
    time::Duration,
};

use llama_cpp_2::{
    context::{
        LlamaContext,
        params::{LlamaContextParams, LlamaPoolingType},
    },
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
};
use selvedge_core::{
    Error, ErrorKind, Result, Scheduler,
    scheduler::{Plan, Step},
};

use crate::{
    backend::backend,
    builder::Settings,
    gguf::Summary,
    sequence::{Job, Sequence, Task, internal},
};

/// The most sequences that run at once.
pub(crate) const SEQUENCES: usize = 1;

/// How long to wait before a Scheduler that let nothing advance is asked again.
const PAUSE: Duration = Duration::from_millis(5);

/// The most symbols of a text that are embedded in one pass: llama.cpp keeps an output row for each.
const EMBED_BATCH: usize = 256;

/// What the worker tells whoever opened the model.
pub(crate) struct Opened {
    pub(crate) model: Arc<LlamaModel>,
    pub(crate) context_length: usize,
}

/// Opens the model, says how that went, and serves jobs until their channel closes.
pub(crate) fn run(settings: &Settings, summary: &Summary, ready: &SyncSender<Result<Opened>>, jobs: Receiver<Job>) {
    let opened = load(settings, summary);
    let (backend, model, context_length) = match opened {
        Ok(opened) => opened,
        Err(error) => return drop(ready.send(Err(error))),
    };
    match Worker::new(settings, backend, &model, context_length, jobs) {
        Ok(worker) => {
            if ready.send(Ok(Opened { model: model.clone(), context_length })).is_ok() {
                worker.serve();
            }
        }
        Err(error) => drop(ready.send(Err(error))),
    }
}

/// The model's weights, mapped, and the length of its context.
fn load(settings: &Settings, summary: &Summary) -> Result<(&'static LlamaBackend, Arc<LlamaModel>, usize)> {
    let backend = backend()?;
    let model = LlamaModel::load_from_file(backend, &settings.path, &LlamaModelParams::default()).map_err(|error| {
        Error::new(ErrorKind::Unsupported, "llama.open", "llama.cpp cannot read this model")
            .with("file", settings.path.display())
            .with("architecture", &summary.architecture)
            .caused_by(error)
            .advise("check the file's digest, or use a model that this llama.cpp knows; its log says more")
    })?;
    let trained = model.n_ctx_train() as usize;
    let context_length = settings.context_length.unwrap_or_else(|| trained.min(2048));
    if context_length > trained || context_length == 0 {
        return Err(Error::new(ErrorKind::InvalidInput, "llama.open", "the model was not trained for such a context")
            .with("context_length", context_length)
            .with("trained", trained)
            .advise(format!("use 1 to {trained}")));
    }
    Ok((backend, Arc::new(model), context_length))
}

struct Worker<'m> {
    settings: &'m Settings,
    backend: &'static LlamaBackend,
    model: &'m LlamaModel,
    context_length: usize,
    context: LlamaContext<'m>,
    /// A second context, made when the first text is embedded.
    embedder: Option<LlamaContext<'m>>,
    batch: LlamaBatch<'static>,
    jobs: Receiver<Job>,
    waiting: VecDeque<Job>,
    active: Vec<Sequence>,
    last_id: u64,
}

impl<'m> Worker<'m> {
    fn new(
        settings: &'m Settings,
        backend: &'static LlamaBackend,
        model: &'m LlamaModel,
        context_length: usize,
        jobs: Receiver<Job>,
    ) -> Result<Self> {
        let batch = settings.batch.min(context_length);
        let params = context_params(settings, context_length, batch)?;
        Ok(Self {
            settings,
            backend,
            model,
            context_length,
            context: context(backend, model, params)?,
            embedder: None,
            batch: LlamaBatch::new(batch, 1),
            jobs,
            waiting: VecDeque::new(),
            active: Vec::with_capacity(SEQUENCES),
            last_id: 0,
        })
    }

    fn serve(mut self) {
        while self.receive() {
            self.drop_stopped();
            self.start_waiting();
            if !self.active.is_empty() {
                self.step();
            }
        }
        for job in self.waiting.into_iter().chain(self.active.into_iter().map(|sequence| sequence.job)) {
            job.fail(
                Error::new(ErrorKind::Cancelled, "llama.close", "the model was closed")
                    .advise("keep the model until its answers have ended"),
            );
        }
    }

    /// Takes in new jobs, and waits for one when there is nothing to do. False when the model is being closed.
    fn receive(&mut self) -> bool {
        if self.active.is_empty() && self.waiting.is_empty() {
            match self.jobs.recv() {
                Ok(job) => self.waiting.push_back(job),
                Err(_) => return false,
            }
        }
        loop {
            match self.jobs.try_recv() {
                Ok(job) => self.waiting.push_back(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Ends what was cancelled, is late, or has no listener any more.
    fn drop_stopped(&mut self) {
        for index in (0..self.waiting.len()).rev() {
            if let Some(error) = self.waiting[index].stopped()
                && let Some(job) = self.waiting.remove(index)
            {
                job.fail(error);
            }
        }
        for index in (0..self.active.len()).rev() {
            if let Some(error) = self.active[index].job.stopped() {
                self.retire(index).job.fail(error);
            }
        }
    }

    /// Gives free places to waiting jobs, in order.
    fn start_waiting(&mut self) {
        while self.active.len() < SEQUENCES
            && let Some(job) = self.waiting.pop_front()
        {
            if let Task::Embed { .. } = job.task {
                self.embed(job);
                continue;
            }
            let taken = |slot: &i32| self.active.iter().any(|sequence| sequence.slot == *slot);
            let slot = (0..).find(|slot| !taken(slot)).unwrap_or(0);
            self.last_id += 1;
            self.active.push(Sequence::new(self.last_id, slot, job));
        }
    }

    /// One forward pass.
    fn step(&mut self) {
        let step = Step {
            sequences: self.active.iter().map(Sequence::view).collect(),
            batch: self.context.n_batch() as usize,
            threads: self.settings.threads,
        };
        let plan = match &self.settings.scheduler {
            Some(scheduler) => scheduler.plan(&step),
            None => Plan::in_order(&step),
        };
        self.batch.clear();
        let mut rows = Vec::with_capacity(self.active.len());
        let mut left = step.batch;
        for advance in &plan.advance {
            let Some(index) = self.active.iter().position(|sequence| sequence.id == advance.id) else { continue };
            let most = advance.tokens.min(left);
            if most == 0 || rows.iter().any(|(planned, _)| *planned == index) {
                continue;
            }
            let before = self.batch.n_tokens();
            match self.active[index].feed(&mut self.batch, most) {
                Ok(row) => rows.push((index, row)),
                Err(error) => return self.fail_all(&error),
            }
            left -= usize::try_from(self.batch.n_tokens() - before).unwrap_or(left);
        }
        if rows.is_empty() {
            return self.pause();
        }
        if let Err(error) = self.context.decode(&mut self.batch) {
            return self.fail_all(&internal("llama.cpp's forward pass failed").with("reason", error));
        }
        // From the back, so that the numbers of those before stay right when one is done.
        rows.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, row) in rows {
            let Some(row) = row else { continue };
            match self.active[index].take(self.model, &self.context, row) {
                Ok(false) => {}
                Ok(true) => drop(self.retire(index)),
                Err(error) => self.retire(index).job.fail(error),
            }
        }
    }

    /// Waits a moment, or until a job comes.
    fn pause(&mut self) {
        match self.jobs.recv_timeout(PAUSE) {
            Ok(job) => self.waiting.push_back(job),
            // Whether the model is being closed is looked at before the next step.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    /// Takes a sequence out and frees its place.
    fn retire(&mut self, index: usize) -> Sequence {
        let sequence = self.active.remove(index);
        // Removing a whole sequence cannot fail; a part of one could.
        let _ = self.context.clear_kv_cache_seq(u32::try_from(sequence.slot).ok(), None, None);
        sequence
    }

    /// Ends all that runs: after a failed pass the context is in no known state.
    fn fail_all(&mut self, error: &Error) {
        while !self.active.is_empty() {
            let sequence = self.retire(0);
            sequence.job.fail(internal(error.to_string()));
        }
        self.context.clear_kv_cache();
    }

    /// The mean of a text's symbols, as a vector of length 1.
    fn embed(&mut self, mut job: Job) {
        let vector = self.embedding(&job);
        match (&mut job.task, vector) {
            (Task::Embed { reply }, Ok(vector)) => {
                drop(std::mem::replace(reply, futures_channel::oneshot::channel().0).send(Ok(vector)));
            }
            (_, Err(error)) => job.fail(error),
            (_, Ok(_)) => {}
        }
    }

    fn embedding(&mut self, job: &Job) -> Result<Vec<f32>> {
        let size = EMBED_BATCH.min(self.context.n_batch() as usize);
        let embedder = match &mut self.embedder {
            Some(embedder) => embedder,
            none => {
                let params = context_params(self.settings, self.context_length, size)?
                    .with_embeddings(true)
                    .with_pooling_type(LlamaPoolingType::Mean);
                none.insert(context(self.backend, self.model, params)?)
            }
        };
        embedder.clear_kv_cache();
        let mut sum = vec![0.0_f32; usize::try_from(self.model.n_embd_out()).unwrap_or(0)];
        let mut position = 0;
        for piece in job.prompt.chunks(size) {
            if let Some(error) = job.stopped() {
                return Err(error);
            }
            self.batch.clear();
            for token in piece {
                self.batch.add(*token, position, &[0], true).map_err(|error| internal(error.to_string()))?;
                position += 1;
            }
            embedder
                .decode(&mut self.batch)
                .map_err(|error| internal("llama.cpp's forward pass failed").with("reason", error))?;
            // llama.cpp takes the mean of one pass; that of the text is the mean of those, by their lengths.
            let mean = embedder.embeddings_seq_ith(0).map_err(|error| internal(error.to_string()))?;
            for (sum, value) in sum.iter_mut().zip(mean) {
                *sum += value * piece.len() as f32;
            }
        }
        let length = sum.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32;
        if !length.is_normal() {
            return Err(Error::new(ErrorKind::Damaged, "llama.embed", "the model's output is not a number")
                .advise("check the file's digest: its weights may be broken"));
        }
        Ok(sum.into_iter().map(|value| value / length).collect())
    }
}

fn context_params(settings: &Settings, context_length: usize, batch: usize) -> Result<LlamaContextParams> {
    let small = |value: usize| u32::try_from(value).map_err(|_| internal("a setting is too large"));
    let threads = i32::try_from(settings.threads).map_err(|_| internal("a setting is too large"))?;
    Ok(LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(small(context_length)?))
        .with_n_batch(small(batch)?)
        .with_n_ubatch(small(batch)?)
        .with_n_seq_max(SEQUENCES as u32)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_no_perf(true))
}

fn context<'m>(backend: &LlamaBackend, model: &'m LlamaModel, params: LlamaContextParams) -> Result<LlamaContext<'m>> {
    model.new_context(backend, params).map_err(|error| {
        Error::new(ErrorKind::Unavailable, "llama.open", "llama.cpp cannot make a context for this model")
            .caused_by(error)
            .advise("open it with a shorter context, or free memory; llama.cpp's log says more")
            .retry(false)
    })
}
