//! Many answers in one loop: none changes another, whatever is parked, cut short, resumed or read before.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::{
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{self, SeqCst},
        },
    },
    time::Duration,
};

use selvedge_core::{
    AnyScheduler, Context, ErrorKind, Inference, Result, Scheduler,
    inference::{Chunk, Generate, Generated, Grammar, Sampling, StopReason},
    scheduler::{Class, Load, Permit, Plan, SchedulerCapabilities, Step, Work},
};
use selvedge_llama::{Format, Llama, prepare};

fn open(sequences: usize) -> selvedge_llama::Builder {
    Llama::builder(support::model()).threads(1).sequences(sequences).context_length(256)
}

/// For the tests that need no other settings.
static LLAMA: LazyLock<Llama> = LazyLock::new(|| open(4).open().unwrap());

/// Stories that go on for a while, greedy and sampled.
fn story(number: u32) -> Generate {
    let things = ["tea", "a sea captain", "the moon", "bread", "a violin", "snow"];
    let thing = things[number as usize % things.len()];
    let temperature = if number.is_multiple_of(2) { 0.0 } else { 0.9 };
    let sampling = Sampling { temperature, seed: number, ..Sampling::GREEDY };
    Generate::text(format!("Once upon a time there was {thing}, and")).max_tokens(24).sampling(sampling)
}

async fn answer(llama: &Llama, request: Generate) -> Generated {
    llama.generate(&Context::new(), request).await.unwrap().collect().await.unwrap()
}

/// All at once, each in a task of its own.
async fn together(llama: &Llama, requests: impl IntoIterator<Item = (Class, Generate)>) -> Vec<Generated> {
    let tasks: Vec<_> = requests
        .into_iter()
        .map(|(class, request)| {
            let llama = llama.clone();
            let cx = Context::new().with_class(class);
            tokio::spawn(async move { llama.generate(&cx, request).await.unwrap().collect().await.unwrap() })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

/// Each by itself, with nothing read before: what every other way has to give.
async fn alone(numbers: std::ops::Range<u32>) -> Vec<Vec<u32>> {
    let mut answers = Vec::new();
    for number in numbers {
        let llama = open(1).open().unwrap();
        answers.push(answer(&llama, story(number)).await.symbols);
    }
    answers
}

fn symbols(answers: &[Generated]) -> Vec<Vec<u32>> {
    answers.iter().map(|answer| answer.symbols.clone()).collect()
}

#[tokio::test]
async fn answers_together_are_those_they_are_alone() {
    let expected = alone(0..6).await;
    assert!(expected.iter().all(|symbols| symbols.len() > 4), "{expected:?}");
    let answers = together(&LLAMA, (0..6).map(|number| (Class::P0, story(number)))).await;
    assert_eq!(symbols(&answers), expected);
}

/// A Scheduler that lets turns go round, with fewer slots than sequences: everybody is parked again and again.
#[derive(Clone, Debug, Default)]
struct Carousel {
    turn: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Step>>>,
}

impl Scheduler for Carousel {
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities { plugin: "carousel", classes: false, preemption: true, concurrency: 9, queue: 0 }
    }

    fn load(&self) -> Load {
        Load::default()
    }

    fn plan(&self, step: &Step) -> Plan {
        self.seen.lock().unwrap().push(step.clone());
        let mut turned = step.clone();
        let turn = self.turn.fetch_add(1, SeqCst) % step.sequences.len().max(1);
        turned.sequences.rotate_left(turn);
        // All are strangers, so the first of them are seated, whoever had a slot before.
        turned.sequences.iter_mut().for_each(|sequence| sequence.resident = false);
        Plan::in_order(&turned)
    }

    async fn admit(&self, cx: &Context, _: Work) -> Result<Permit> {
        Ok(Permit::new(cx.class(), Duration::ZERO, |_| {}))
    }
}

#[tokio::test]
async fn a_parked_answer_goes_on_as_if_nothing_had_been() {
    let carousel = Carousel::default();
    let llama = open(2).scheduler(AnyScheduler::new(carousel.clone())).open().unwrap();
    let answers = together(&llama, (0..5).map(|number| (Class::P0, story(number)))).await;
    assert_eq!(symbols(&answers), alone(0..5).await);
    let seen = carousel.seen.lock().unwrap();
    let parked = seen.iter().flat_map(|step| &step.sequences).filter(|view| !view.resident && view.prompt_left == 0);
    assert!(parked.count() > 50, "nobody was parked in the middle of an answer");
    // A cache that comes back is not read again: after the first token there is never a prompt left.
    for id in
        seen.iter().flat_map(|step| &step.sequences).map(|view| view.id).collect::<std::collections::BTreeSet<_>>()
    {
        let left: Vec<_> = seen.iter().flat_map(|step| &step.sequences).filter(|view| view.id == id).collect();
        let first = left.iter().position(|view| view.prompt_left == 0).expect("it decodes");
        assert!(left[first..].iter().all(|view| view.prompt_left == 0), "sequence {id} was read again");
    }
}

#[tokio::test]
async fn a_gap_between_slots_is_closed_and_no_answer_changes() {
    let carousel = Carousel::default();
    let llama = open(4).scheduler(AnyScheduler::new(carousel.clone())).open().unwrap();
    let mut streams = Vec::new();
    // The second ends before the others, and long after the third has begun.
    let story = |number| story(number).max_tokens(if number == 1 { 24 } else { 80 });
    for number in 0..3 {
        let mut stream = llama.generate(&Context::new(), story(number)).await.unwrap();
        let mut symbols = Vec::new();
        // It has its slot before the next one comes.
        while let Some(chunk) = stream.next().await {
            if let Chunk::Tokens { symbols: some, .. } = chunk.unwrap() {
                symbols.extend(some);
                break;
            }
        }
        streams.push((stream, symbols));
    }
    let mut answers = Vec::new();
    for (stream, mut symbols) in streams {
        symbols.extend(stream.collect().await.unwrap().symbols);
        answers.push(symbols);
    }
    for (number, symbols) in (0..).zip(&answers) {
        assert_eq!(*symbols, answer(&open(1).open().unwrap(), story(number)).await.symbols, "story {number}");
    }
    let seen = carousel.seen.lock().unwrap();
    let held: Vec<Vec<_>> = seen.iter().map(|step| step.sequences.iter().map(|view| view.slot).collect()).collect();
    let gap = held.iter().position(|slots| slots[..] == [0, 2]).expect("the second ended before the third");
    assert!(held[gap + 2..].iter().filter(|slots| slots.len() == 2).all(|slots| slots[..] == [0, 1]), "{held:?}");
    assert!(held[gap..].iter().filter(|slots| slots.len() == 2).count() > 5, "{held:?}");
}

/// Every cache is filled to its last cell, with more answers than caches, while somebody asks in between.
#[tokio::test]
async fn full_caches_end_answers_and_nothing_else() {
    const CONTEXT: usize = 48;
    let open = |sequences| open(sequences).context_length(CONTEXT).open().unwrap();
    let long = |number: u32| story(number).max_tokens(1_000);
    let mut expected = Vec::new();
    for number in 0..6 {
        let alone = answer(&open(1), long(number)).await;
        assert_eq!(alone.usage.prompt_tokens + alone.symbols.len(), CONTEXT, "it ended before its cache was full");
        expected.push(alone.symbols);
    }
    let llama = open(2);
    let short = Generate::text("Tea is").max_tokens(2);
    let stories = (0..6).map(|number| (Class::P2, long(number)));
    let asked = together(&llama, stories.chain((0..6).map(|_| (Class::P0, short.clone())))).await;
    let (stories, answers) = asked.split_at(6);
    assert_eq!(symbols(stories), expected);
    assert!(stories.iter().all(|story| story.reason == Some(StopReason::MaxTokens)));
    assert!(answers.iter().all(|answer| answer.symbols == answers[0].symbols && answer.symbols.len() == 2));
}

#[tokio::test]
async fn an_answer_goes_on_from_where_another_run_was_cut() {
    for (number, whole) in (0..4).zip(alone(0..4).await) {
        for cut in [1, whole.len() / 2, whole.len() - 1] {
            let rest = answer(&open(1).open().unwrap(), story(number).begun(whole[..cut].to_vec())).await;
            assert_eq!(rest.symbols, whole[cut..], "story {number} from symbol {cut} on");
            assert_eq!(rest.usage.completion_tokens, whole.len());
        }
    }
    // What was begun counts towards the limit.
    let full = answer(&LLAMA, story(0).max_tokens(2).begun(vec![5, 6])).await;
    assert_eq!((full.symbols.len(), full.reason), (0, Some(StopReason::MaxTokens)));
    let unknown = LLAMA.generate(&Context::new(), story(0).begun(vec![u32::MAX])).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn what_was_read_before_is_not_read_again_and_changes_nothing() {
    let llama = open(2).open().unwrap();
    let first = answer(&llama, story(0)).await;
    let again = answer(&llama, story(0)).await;
    assert_eq!(first.usage.cached_tokens, 0);
    assert_eq!(again.usage.cached_tokens, again.usage.prompt_tokens - 1, "all but the token whose output is needed");
    assert_eq!(again.symbols, first.symbols);
    let other = answer(&llama, story(1)).await;
    assert!((1..other.usage.prompt_tokens - 1).contains(&other.usage.cached_tokens), "{:?}", other.usage);
    assert_eq!(other.symbols, alone(1..2).await[0]);
}

#[tokio::test]
async fn what_prompts_begin_with_is_still_there_when_the_slot_was_needed() {
    let head = "You are a helper in a shop for teas and books. Answer in one sentence, and never name a price. ";
    let ask = |question: &str| Generate::text(format!("{head}{question}")).max_tokens(8);
    let llama = open(1).open().unwrap();
    for question in ["Which tea is mild?", "Have you books on bees?"] {
        answer(&llama, ask(question)).await;
    }
    // The one slot has nothing of it any more.
    assert_eq!(answer(&llama, story(0)).await.usage.cached_tokens, 0);
    let known = answer(&llama, ask("Who wrote this?")).await;
    assert!((16..known.usage.prompt_tokens - 1).contains(&known.usage.cached_tokens), "{:?}", known.usage);
    let fresh = answer(&open(1).open().unwrap(), ask("Who wrote this?")).await;
    assert_eq!((fresh.usage.cached_tokens, known.symbols), (0, fresh.symbols));
}

#[tokio::test]
async fn what_one_tenant_asked_is_in_no_cache_for_another() {
    let llama = open(1).open().unwrap();
    let cached = async |tenant: &str| {
        let cx = Context::new().with_tenant(tenant);
        llama.generate(&cx, story(0)).await.unwrap().collect().await.unwrap().usage.cached_tokens
    };
    assert_eq!(cached("ada").await, 0);
    assert!(cached("ada").await > 0);
    assert_eq!(cached("bob").await, 0);
    assert_eq!(cached("ada").await, 0, "the one slot is bob's");
}

/// A Scheduler whose passes may all be cut short, at any time or for so long.
#[derive(Debug, Default)]
struct Yielding {
    yields_for: Option<Duration>,
    planned: AtomicU64,
    /// Passes that were not done.
    undone: Arc<AtomicU64>,
}

impl Scheduler for Yielding {
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities { plugin: "yielding", classes: false, preemption: true, concurrency: 9, queue: 0 }
    }

    fn load(&self) -> Load {
        Load::default()
    }

    fn plan(&self, step: &Step) -> Plan {
        let first = self.planned.fetch_add(1, Ordering::Relaxed) == 0;
        self.undone.fetch_add(u64::from(!first && step.last.is_none()), Ordering::Relaxed);
        let urgent = step.sequences.iter().map(|sequence| sequence.class).min();
        let mut first = step.clone();
        first.sequences.retain(|sequence| Some(sequence.class) == urgent);
        Plan { yields_to: Some(Class::P1), yields_for: self.yields_for, ..Plan::in_order(&first) }
    }

    async fn admit(&self, cx: &Context, _: Work) -> Result<Permit> {
        Ok(Permit::new(cx.class(), Duration::ZERO, |_| {}))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_urgent_request_cuts_a_pass_short_and_nothing_is_lost() {
    let long: String = (0..220).map(|n| format!("{} ", n % 10)).collect();
    let scheduler = Yielding::default();
    let undone = scheduler.undone.clone();
    let llama = open(4).context_length(1024).scheduler(AnyScheduler::new(scheduler)).open().unwrap();
    // How long the prompt takes to be read when nobody comes in between.
    let whole = answer(&llama, Generate::text(&long).max_tokens(8)).await;
    let mut fastest = Duration::MAX;
    for round in 0..3 {
        let reads = {
            // Another beginning, so that it is read again.
            let (llama, prompt) = (llama.clone(), format!("{round}: {}", &long[..400]));
            let cx = Context::new().with_class(Class::P2);
            tokio::spawn(async move {
                llama.generate(&cx, Generate::text(prompt).max_tokens(8)).await.unwrap().collect().await.unwrap()
            })
        };
        tokio::time::sleep(whole.usage.prefill / 4).await;
        let asked = std::time::Instant::now();
        let mut urgent = llama.generate(&Context::new(), Generate::text("Tea").max_tokens(1)).await.unwrap();
        while let Some(chunk) = urgent.next().await {
            if let Chunk::Tokens { .. } = chunk.unwrap() {
                fastest = fastest.min(asked.elapsed());
            }
        }
        let cut: Generated = reads.await.unwrap();
        let other = open(1).context_length(1024).open().unwrap();
        let expected = answer(&other, Generate::text(format!("{round}: {}", &long[..400])).max_tokens(8)).await;
        assert_eq!(cut.symbols, expected.symbols, "the answer whose prompt was cut short");
    }
    assert!(fastest < whole.usage.prefill / 2, "{fastest:?} behind a pass of {:?}", whole.usage.prefill);
    assert!(undone.load(Ordering::Relaxed) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_that_has_run_for_long_enough_is_not_cut_short() {
    let scheduler = Yielding { yields_for: Some(Duration::ZERO), ..Yielding::default() };
    let undone = scheduler.undone.clone();
    let llama = open(4).context_length(1024).scheduler(AnyScheduler::new(scheduler)).open().unwrap();
    let long: String = (0..220).map(|n| format!("{} ", n % 10)).collect();
    let whole = answer(&llama, Generate::text(&long).max_tokens(8)).await;
    let reads = {
        let (llama, prompt) = (llama.clone(), format!("0: {long}"));
        let cx = Context::new().with_class(Class::P2);
        tokio::spawn(async move { llama.generate(&cx, Generate::text(prompt).max_tokens(8)).await?.collect().await })
    };
    tokio::time::sleep(whole.usage.prefill / 4).await;
    assert_eq!(answer(&llama, Generate::text("Tea").max_tokens(1)).await.symbols.len(), 1);
    reads.await.unwrap().unwrap();
    assert_eq!(undone.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_grammar_holds_an_answer_to_its_form() {
    let colour = r#"{"type":"object","properties":{"colour":{"enum":["red","blue"]},"count":{"type":"integer"}},
                     "required":["colour","count"],"additionalProperties":false}"#;
    let ask = |temperature| {
        let sampling = Sampling { temperature, seed: 3, ..Sampling::GREEDY };
        Generate::text("The colour and the count, as JSON:\n").max_tokens(60).sampling(sampling)
    };
    for temperature in [0.0, 1.0] {
        let held = answer(&LLAMA, ask(temperature).grammar(Grammar::JsonSchema(colour.into()))).await;
        if held.reason == Some(StopReason::EndOfText) {
            let value: serde_json::Value = serde_json::from_str(&held.text).expect("JSON");
            assert!(["red", "blue"].contains(&value["colour"].as_str().unwrap()) && value["count"].is_i64(), "{value}");
        } else {
            assert!(held.text.trim_start().starts_with('{'), "{held:?}");
        }
        let begun = held.symbols[..held.symbols.len() / 2].to_vec();
        let rest =
            answer(&LLAMA, ask(temperature).grammar(Grammar::JsonSchema(colour.into())).begun(begun.clone())).await;
        assert_eq!([begun, rest.symbols].concat(), held.symbols, "the grammar goes on where it was");
    }
    let yes = answer(&LLAMA, ask(0.0).grammar(Grammar::Gbnf(r#"root ::= "yes" | "no""#.into()))).await;
    assert!(["yes", "no"].contains(&yes.text.as_str()), "{yes:?}");
    let object = answer(&LLAMA, ask(0.0).grammar(Grammar::Json)).await;
    assert!(object.text.trim_start().starts_with('{'), "{object:?}");
    for (grammar, kind) in [
        (Grammar::Gbnf("root ::= (".into()), ErrorKind::InvalidInput),
        (Grammar::Gbnf("leaf ::= \"a\"".into()), ErrorKind::InvalidInput),
        (Grammar::JsonSchema("{".into()), ErrorKind::InvalidInput),
        (Grammar::JsonSchema(r#"{"type":"teapot"}"#.into()), ErrorKind::InvalidInput),
        (Grammar::Gbnf("x".repeat(1 << 20)), ErrorKind::TooLarge),
    ] {
        let error =
            LLAMA.generate(&Context::new(), ask(0.0).grammar(grammar)).await.unwrap().collect().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    // And the model is as it was.
    assert_eq!(answer(&LLAMA, story(0)).await.symbols, alone(0..1).await[0]);
}

#[tokio::test]
async fn a_prepared_model_answers_and_the_old_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.Q4_0.gguf");
    let prepared = prepare(support::model(), &path, Format::Q4_0).unwrap();
    assert!(prepared.from.ends_with("Q4_1") && prepared.to.ends_with("Q4_0"), "{prepared:?}");
    let llama = Llama::builder(&path).threads(1).context_length(256).sha256(&prepared.sha256).open().unwrap();
    let chat = Generate::chat([selvedge_core::inference::Message::user("What is the capital of France?")]);
    let told = answer(&llama, chat.max_tokens(24)).await;
    assert!(told.text.contains("Paris"), "{told:?}");
    drop(llama);
    // A failure leaves what was there.
    let before = std::fs::read(&path).unwrap();
    let own = prepare(&path, &path, Format::Q8_0).unwrap_err();
    assert_eq!(own.kind(), ErrorKind::InvalidInput);
    let none = prepare(folder.path().join("none.gguf"), &path, Format::Q8_0).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
    let nowhere = prepare(&path, folder.path().join("no/folder.gguf"), Format::Q8_0).unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::Unavailable);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half written is left");
}
