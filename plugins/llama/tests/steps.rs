//! What happens between two tokens: a Scheduler plans, a request is cancelled, late, or dropped.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/tiny.rs"]
mod tiny;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use selvedge_core::{
    AnyScheduler, CancelToken, Context, ErrorKind, Inference, Result, Scheduler,
    inference::{Chunk, Generate, Generated},
    scheduler::{Class, Load, Permit, Plan, SchedulerCapabilities, SequenceView, Step, Work},
};
use selvedge_llama::Llama;

/// A Scheduler with a gate: while it is closed, no sequence advances.
#[derive(Clone, Default, Debug)]
struct Gate {
    closed: Arc<AtomicBool>,
    /// So many steps are let through all the same.
    allowed: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<SequenceView>>>,
}

impl Scheduler for Gate {
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities { plugin: "gate", classes: false, preemption: true, concurrency: 1, queue: 0 }
    }

    fn load(&self) -> Load {
        Load::default()
    }

    fn plan(&self, step: &Step) -> Plan {
        self.seen.lock().unwrap().extend(&step.sequences);
        let allowed = self.allowed.fetch_update(SeqCst, SeqCst, |allowed| allowed.checked_sub(1)).is_ok();
        if self.closed.load(SeqCst) && !allowed { Plan::default() } else { Plan::in_order(step) }
    }

    async fn admit(&self, cx: &Context, _: Work) -> Result<Permit> {
        Ok(Permit::new(cx.class(), Duration::ZERO, |_| {}))
    }
}

impl Gate {
    /// Waits until the worker has asked so many times more.
    fn asked(&self, times: usize) {
        let (before, deadline) = (self.seen.lock().unwrap().len(), Instant::now() + Duration::from_secs(30));
        while self.seen.lock().unwrap().len() < before + times {
            assert!(Instant::now() < deadline, "the Scheduler is not asked");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn open(gate: &Gate, batch: usize) -> (Llama, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, tiny::model("llama").write().0).unwrap();
    let builder = Llama::builder(path).threads(1).batch(batch);
    (builder.scheduler(AnyScheduler::new(gate.clone())).open().expect("the model opens"), folder)
}

/// A request that a tiny model answers for long: its answers rarely end by themselves.
fn long() -> Generate {
    Generate::text("tea and more tea").max_tokens(60)
}

async fn answer(llama: &Llama, cx: &Context) -> Generated {
    llama.generate(cx, long()).await.unwrap().collect().await.unwrap()
}

#[tokio::test]
async fn the_class_of_a_request_reaches_the_plan() {
    let gate = Gate::default();
    let (llama, _folder) = open(&gate, 4);
    for class in [Class::P0, Class::P1, Class::P2] {
        // Each has a prompt of its own: what was read before is not read again, and a beginning that all have is not either.
        let request = Generate::text(format!("{} tea and more tea", class as u8)).max_tokens(60);
        let answer = llama.generate(&Context::new().with_class(class), request).await.unwrap().collect().await.unwrap();
        let usage = answer.usage;
        let fresh = usage.prompt_tokens - usage.cached_tokens;
        let seen = std::mem::take(&mut *gate.seen.lock().unwrap());
        assert!(seen.iter().all(|view| view.class == class && view.id == seen[0].id), "{seen:?}");
        // A prompt is read in pieces of a batch; then every step takes one token.
        let left: Vec<_> = seen.iter().map(|view| view.prompt_left).collect();
        let prompt: Vec<_> = (0..fresh.div_ceil(4)).map(|piece| fresh - 4 * piece).collect();
        assert_eq!(left[..prompt.len()], prompt);
        assert!(left[prompt.len()..].iter().all(|left| *left == 0));
        assert_eq!(left.len(), prompt.len() + usage.completion_tokens - 1);
    }
}

#[tokio::test]
async fn a_sequence_that_a_plan_leaves_out_pauses_and_keeps_its_cache() {
    let gate = Gate::default();
    let (llama, _folder) = open(&gate, 64);
    let expected = answer(&llama, &Context::new()).await;
    assert_eq!(expected.symbols.len(), 60, "long enough to be paused: {expected:?}");

    gate.closed.store(true, SeqCst);
    let mut stream = llama.generate(&Context::new(), long()).await.unwrap();
    let mut symbols = Vec::new();
    for _ in 0..3 {
        // Paused, first before its prompt is read, then between two tokens.
        gate.asked(3);
        let waiting = tokio::time::timeout(Duration::from_millis(20), async {
            while let Some(Ok(Chunk::Tokens { symbols: more, .. })) = stream.next().await {
                symbols.extend(more);
            }
        });
        assert!(waiting.await.is_err(), "it goes on although no plan lets it");
        gate.seen.lock().unwrap().clear();
        // Some steps, counted: a tiny model is through before anybody could close a gate behind it.
        gate.allowed.store(5, SeqCst);
    }
    gate.closed.store(false, SeqCst);
    while let Some(chunk) = stream.next().await {
        if let Chunk::Tokens { symbols: more, .. } = chunk.unwrap() {
            symbols.extend(more);
        }
    }
    // The same as without a pause, and its prompt was not read again.
    assert_eq!(symbols, expected.symbols);
    assert!(gate.seen.lock().unwrap().iter().all(|view| view.prompt_left == 0));
}

#[tokio::test]
async fn a_paused_request_can_be_cancelled_late_or_dropped_and_frees_its_place() {
    let gate = Gate::default();
    let (llama, _folder) = open(&gate, 64);
    let expected = answer(&llama, &Context::new()).await.symbols;
    let cancel = CancelToken::new();
    let soon = Context::new().with_timeout(Duration::from_secs(2));
    for (cx, kind) in [
        (Context::new().with_cancel(cancel.clone()), Some(ErrorKind::Cancelled)),
        (soon, Some(ErrorKind::DeadlineExceeded)),
        (Context::new(), None),
    ] {
        let mut stream = llama.generate(&cx, long()).await.unwrap();
        let first = stream.next().await;
        // It may have been fast enough to be late before its first token, never to be done.
        assert!(!matches!(first, Some(Ok(Chunk::End { .. })) | None), "{first:?}");
        gate.closed.store(true, SeqCst);
        match kind {
            Some(ErrorKind::Cancelled) => cancel.cancel(),
            Some(_) => {}
            None => drop(std::mem::replace(&mut stream, llama.generate(&cx, long()).await.unwrap())),
        }
        if let Some(kind) = kind {
            let ended = tokio::time::timeout(Duration::from_secs(30), stream.collect()).await.expect("it ends");
            assert_eq!(ended.unwrap_err().kind(), kind);
            gate.closed.store(false, SeqCst);
            assert_eq!(answer(&llama, &Context::new()).await.symbols, expected);
        } else {
            // The one that came after it has its place, and an empty cache.
            gate.closed.store(false, SeqCst);
            assert_eq!(stream.collect().await.unwrap().symbols, expected);
        }
    }
}
