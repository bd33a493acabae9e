//! The thread that owns llama.cpp's context: plan, batch, decode, sample, stream.

use std::{
    rc::Rc,
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, Instant},
};

use llama_cpp_2::model::{LlamaModel, params::LlamaModelParams};
use selvedge_core::{
    Error, ErrorKind, Result, Scheduler,
    scheduler::{Pass, Plan, Step},
};
use tracing::subscriber::NoSubscriber;

use crate::{
    backend::backend,
    builder::Settings,
    embedder::Embedder,
    gguf::Summary,
    inbox::Inbox,
    passage::OwnedPassage,
    prefixes::Prefixes,
    sequence::{Cache, Job, Sequence, Task, internal},
    slots::Slots,
    sys::{self, Batch, Context, Decoded, Pooling, ThreadPool},
};

/// How long to wait before a Scheduler that let nothing advance is asked again.
const PAUSE: Duration = Duration::from_millis(5);

/// The most bytes of a cache that is moved to close a gap: more take longer to copy than a gap costs for a while.
const MOVED: usize = 16 << 20;

/// While nothing is live, the worker sleeps so long at a time.
const IDLE: Duration = Duration::from_secs(3600);

/// What the worker tells whoever opened the model.
pub(crate) struct Opened {
    pub(crate) model: Arc<LlamaModel>,
    pub(crate) context_length: usize,
}

/// Opens the model, says how that went, and serves jobs until the inbox is closed.
pub(crate) fn run(settings: &Settings, summary: &Summary, ready: &SyncSender<Result<Opened>>, inbox: &Inbox) {
    let served = load(settings, summary).and_then(|(model, context_length)| {
        let worker = Worker::new(settings, &model, context_length, inbox)?;
        if ready.send(Ok(Opened { model: model.clone(), context_length })).is_ok() {
            worker.serve();
        }
        Ok(())
    });
    if let Err(error) = served {
        drop(ready.send(Err(error)));
    }
    inbox.gone().into_iter().for_each(|job| job.fail(closed()));
}

/// The model's weights, mapped, and the length of its context.
fn load(settings: &Settings, summary: &Summary) -> Result<(Arc<LlamaModel>, usize)> {
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
    Ok((Arc::new(model), context_length))
}

struct Worker<'m> {
    settings: &'m Settings,
    model: &'m LlamaModel,
    inbox: &'m Inbox,
    context: Context<'m>,
    embedder: Embedder<'m>,
    batch: Batch,
    slots: Slots,
    prefixes: Prefixes,
    context_length: usize,
    live: Vec<Sequence>,
    last_id: u64,
    /// The pass before, if there was one and it was done.
    last: Option<Pass>,
    /// The free slot between others that there was at the pass before.
    gap: Option<usize>,
}

/// A sequence's share of a pass.
struct Share {
    /// Its place among the live ones.
    index: usize,
    slot: usize,
    tokens: usize,
}

impl<'m> Worker<'m> {
    fn new(settings: &'m Settings, model: &'m LlamaModel, context_length: usize, inbox: &'m Inbox) -> Result<Self> {
        let pool = Rc::new(ThreadPool::new(settings.threads, &settings.cores)?);
        let wanted = sys::Settings {
            context_length,
            slots: settings.sequences,
            // A pass takes a token of each sequence at the least.
            batch: settings.batch.min(context_length).max(settings.sequences),
            threads: settings.threads,
            pooling: Pooling::Logits,
        };
        Ok(Self {
            settings,
            model,
            inbox,
            context: Context::new(model, wanted, &pool, &inbox.cut)?,
            embedder: Embedder::new(model, wanted, pool),
            batch: Batch::default(),
            slots: Slots::new(settings.sequences),
            prefixes: Prefixes::default(),
            context_length,
            live: Vec::new(),
            last_id: 0,
            last: None,
            gap: None,
        })
    }

    fn serve(mut self) {
        let mut wait = Some(IDLE);
        while let Some(jobs) = self.inbox.take(wait) {
            jobs.into_iter().for_each(|job| self.welcome(job));
            self.drop_stopped();
            let urgent = self.live.iter().map(|sequence| sequence.job.cx.class()).min();
            let embedded = self.embedder.step(urgent);
            let advanced = !self.live.is_empty() && self.step();
            wait = match (self.live.is_empty() && self.embedder.is_idle(), embedded || advanced) {
                (true, _) => Some(IDLE),
                (false, true) => None,
                (false, false) => Some(PAUSE),
            };
        }
        self.live.into_iter().for_each(|sequence| sequence.job.fail(closed()));
        self.embedder.close(closed);
    }

    fn welcome(&mut self, job: Job) {
        if let Task::Embed { .. } = job.task {
            return self.embedder.add(job);
        }
        self.last_id += 1;
        match Sequence::new(self.last_id, self.model, job) {
            Ok(mut sequence) => {
                sequence.shared = self.prefixes.notice(sequence.passage());
                self.live.push(sequence);
            }
            Err((job, error)) => job.fail(error),
        }
    }

    /// Ends what was cancelled, is late, or has no listener any more.
    fn drop_stopped(&mut self) {
        self.embedder.drop_stopped();
        for index in (0..self.live.len()).rev() {
            if let Some(error) = self.live[index].job.stopped() {
                self.retire(index).job.fail(error);
            }
        }
    }

    /// One forward pass. False when nothing advanced.
    fn step(&mut self) -> bool {
        let now = Instant::now();
        let step = Step {
            sequences: self.live.iter().map(|sequence| sequence.view(now, &self.slots, &self.prefixes)).collect(),
            batch: self.context.batch(),
            threads: self.settings.threads,
            slots: self.slots.count(),
            last: self.last.take(),
        };
        let plan = match &self.settings.scheduler {
            Some(scheduler) => scheduler.plan(&step),
            None => Plan::in_order(&step),
        };
        self.close_gap();
        let shares = self.seat(&plan, step.batch);
        if shares.is_empty() {
            return false;
        }
        self.batch.clear();
        let mut pass = Pass { threads: plan.threads.clamp(1, self.settings.threads), ..Pass::default() };
        let mut outputs = Vec::with_capacity(shares.len());
        for share in &shares {
            let sequence = &self.live[share.index];
            let decodes = step.sequences[share.index].prompt_left == 0;
            let (fed, output) = sequence.feed(share.slot, &mut self.batch, share.tokens);
            pass.cached += sequence.fed;
            *if decodes { &mut pass.decode } else { &mut pass.prefill } += fed;
            outputs.push((share.index, fed, output));
        }
        if !self.inbox.begin(plan.yields_to, plan.yields_for) {
            // Something more urgent has come already: plan again, with it.
            return true;
        }
        self.context.set_threads(pass.threads);
        let started = Instant::now();
        let decoded = match plan.yields_to {
            // llama.cpp reports a pass that was cut short as ten errors. What is an error here is returned as one.
            Some(_) => tracing::subscriber::with_default(NoSubscriber::new(), || self.context.decode(&mut self.batch)),
            None => self.context.decode(&mut self.batch),
        };
        self.inbox.end();
        pass.took = started.elapsed();
        match decoded {
            Ok(Decoded::Done) => {}
            Ok(Decoded::CutShort) => {
                self.undo(&shares);
                return true;
            }
            Err(error) => {
                self.fail_all(&error);
                return true;
            }
        }
        tracing::trace!(
            live = self.live.len(),
            decode = pass.decode,
            prefill = pass.prefill,
            cached = pass.cached,
            threads = pass.threads,
            micros = pass.took.as_micros(),
            "a pass"
        );
        self.last = Some(pass);
        // From the back, so that the numbers of those before stay right when one is done.
        outputs.sort_unstable_by_key(|(index, ..)| std::cmp::Reverse(*index));
        for (index, fed, output) in outputs {
            let sequence = &mut self.live[index];
            sequence.fed += fed;
            sequence.advanced = now;
            let Some(row) = output else { continue };
            let taken = match self.context.logits(row) {
                Ok(logits) => sequence.take(self.model, logits),
                Err(error) => Err(error),
            };
            match taken {
                Ok(done) => {
                    self.keep_shared(index);
                    if done {
                        drop(self.retire(index));
                    }
                }
                Err(error) => self.retire(index).job.fail(error),
            }
        }
        true
    }

    /// The shares of the sequences that advance, each in a slot, by slot: llama.cpp computes neighbours together.
    fn seat(&mut self, plan: &Plan, batch: usize) -> Vec<Share> {
        let mut left = batch;
        let mut advance = Vec::with_capacity(plan.advance.len());
        for planned in &plan.advance {
            let Some(index) = self.live.iter().position(|sequence| sequence.id == planned.id) else { continue };
            let tokens = planned.tokens.min(left);
            if tokens > 0 && advance.iter().all(|(other, _)| *other != index) {
                left -= tokens;
                advance.push((index, tokens));
            }
        }
        let staying: Vec<_> = advance.iter().map(|(index, _)| *index).collect();
        let mut shares = Vec::with_capacity(advance.len());
        for (index, tokens) in advance {
            if let Some(slot) = self.slot(index, &staying) {
                shares.push(Share { index, slot, tokens });
            }
        }
        shares.sort_unstable_by_key(|share| share.slot);
        shares
    }

    /// The slot of a sequence: its own, a free one, or that of the least urgent sequence that does not advance in this pass.
    fn slot(&mut self, index: usize, staying: &[usize]) -> Option<usize> {
        if let Some(slot) = self.live[index].slot() {
            return Some(slot);
        }
        let taken = match self.slots.take(self.live[index].passage()) {
            Some(taken) => taken,
            None => {
                let away = |other: &usize| !staying.contains(other) && self.live[*other].slot().is_some();
                let rank = |other: &usize| (self.live[*other].job.cx.class(), self.live[*other].advanced);
                let victim = (0..self.live.len()).filter(away).max_by_key(rank)?;
                self.park(victim);
                self.slots.take(self.live[index].passage())?
            }
        };
        let sequence = &mut self.live[index];
        match std::mem::replace(&mut sequence.cache, Cache::Slot(taken.slot)) {
            Cache::Parked(state) => {
                self.context.forget(taken.slot, 0);
                if !self.context.restore(taken.slot, &state) {
                    // Nothing is lost but time: the tokens are read again.
                    sequence.fed = 0;
                }
            }
            Cache::None | Cache::Slot(_) => {
                let mut cached = taken.cached;
                if let Some((state, common)) = self.prefixes.find(sequence.passage(), cached) {
                    self.context.forget(taken.slot, 0);
                    cached = if self.context.restore(taken.slot, state) { common } else { 0 };
                }
                let kept = self.context.forget(taken.slot, cached);
                if !kept {
                    self.context.forget(taken.slot, 0);
                }
                sequence.fed = if kept { cached } else { 0 };
                sequence.cached = sequence.fed;
            }
        }
        Some(taken.slot)
    }

    /// Swaps the highest slot in use with a free one between the others: llama.cpp computes slots that lie side by side together, and a
    /// gap makes two passes of one. It has to last for a pass, as the next request often fills it; what else is in it is not lost.
    fn close_gap(&mut self) {
        let held = || (0..self.live.len()).filter_map(|index| Some((self.live[index].slot()?, index)));
        let edges = held().min().zip(held().max());
        let gap = edges.and_then(|((lowest, _), (highest, index))| {
            Some(((lowest..highest).find(|slot| self.slots.is_free(*slot))?, highest, index))
        });
        let before = std::mem::replace(&mut self.gap, gap.map(|(free, ..)| free));
        let Some((free, slot, index)) = gap.filter(|(free, ..)| before == Some(*free)) else { return };
        if self.context.size(free).max(self.context.size(slot)) > MOVED {
            return;
        }
        let (state, left) = (self.context.save(slot), self.context.save(free));
        self.context.forget(slot, 0);
        self.context.forget(free, 0);
        self.slots.swap(slot, free);
        if !self.context.restore(slot, &left) {
            self.slots.give_back(slot, OwnedPassage::default());
        }
        let sequence = &mut self.live[index];
        sequence.cache = Cache::Slot(free);
        if !self.context.restore(free, &state) {
            // Nothing is lost but time: the tokens are read again.
            sequence.fed = 0;
        }
        self.gap = None;
        tracing::debug!(sequence = sequence.id, from = slot, to = free, "moved");
    }

    /// Takes a sequence's cache out of its slot.
    fn park(&mut self, index: usize) {
        let Some(slot) = self.live[index].slot() else { return };
        let state = self.context.save(slot);
        let sequence = &mut self.live[index];
        // The copy stays in the slot too, for whoever comes with the same beginning.
        self.slots.give_back(slot, sequence.read().to_owned());
        sequence.cache = Cache::Parked(state);
        tracing::debug!(sequence = sequence.id, tokens = sequence.fed, "parked");
    }

    /// Keeps what a prompt that was just read begins with, if others begin so too.
    fn keep_shared(&mut self, index: usize) {
        let sequence = &mut self.live[index];
        if let Some(shared) = sequence.shared.take()
            && self.prefixes.lacks(sequence.passage(), shared)
            && let Some(slot) = sequence.slot()
        {
            let state = self.context.save(slot);
            self.prefixes.keep(sequence.passage().first(shared), sequence.fed, state, self.context_length);
        }
    }

    /// Takes back what a pass that was cut short has put into the caches.
    fn undo(&mut self, shares: &[Share]) {
        for share in shares {
            let sequence = &mut self.live[share.index];
            if !self.context.forget(share.slot, sequence.fed) {
                self.context.forget(share.slot, 0);
                sequence.fed = 0;
            }
        }
    }

    /// Takes a sequence out and frees its slot.
    fn retire(&mut self, index: usize) -> Sequence {
        let sequence = self.live.remove(index);
        if let Some(slot) = sequence.slot() {
            self.slots.give_back(slot, sequence.read().to_owned());
        }
        sequence
    }

    /// Ends all that is live: after a failed pass the context is in no known state.
    fn fail_all(&mut self, error: &Error) {
        for sequence in self.live.drain(..) {
            sequence.job.fail(internal(error.to_string()));
        }
        self.context.forget_all();
        self.slots = Slots::new(self.slots.count());
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Cancelled, "llama.close", "the model was closed")
        .advise("keep the model until its answers have ended")
}
