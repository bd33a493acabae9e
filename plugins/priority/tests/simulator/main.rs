//! Days of a busy machine in seconds: the plugin under a fake clock, on machines whose costs it does not know.
//!
//! Each property is also looked for where it cannot hold, under a policy that breaks it: a check that finds nothing there checks
//! nothing.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

mod world;

use std::{sync::Arc, time::Duration};

use selvedge_core::{
    Context, Result, Scheduler,
    scheduler::{Advance, Class, Load, Permit, Plan, SchedulerCapabilities, Step, Work},
};
use selvedge_priority::{Builder, Priority};
use world::{Arrivals, BOUND, FakeClock, GPU, Law, ONE_CORE, Report, Source, TWO_CORES, World, simulate};

/// Policies that each break one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Passes as they were before there were classes.
    InOrder,
    /// One of those that could advance does not.
    Lazy,
    /// Whoever stood longest gets the slot.
    Rotating,
    /// While a P0 is live nobody else advances.
    Alone,
    /// All tenants are one.
    OneTenant,
}

#[derive(Debug)]
struct Policy {
    inner: Priority,
    flaw: Flaw,
}

impl Scheduler for Policy {
    fn capabilities(&self) -> SchedulerCapabilities {
        self.inner.capabilities()
    }

    fn load(&self) -> Load {
        self.inner.load()
    }

    fn plan(&self, step: &Step) -> Plan {
        let mut plan = self.inner.plan(step);
        match self.flaw {
            Flaw::InOrder => return Plan::in_order(step),
            Flaw::Lazy if plan.advance.len() > 1 => {
                plan.advance.pop();
            }
            Flaw::Rotating => {
                let mut order: Vec<_> = step.sequences.iter().collect();
                order.sort_by_key(|sequence| (sequence.class, std::cmp::Reverse(sequence.idle)));
                let tokens = |left: usize| left.clamp(1, 20);
                let advance = order.iter().take(step.slots);
                let advance = advance.map(|s| Advance { id: s.id, tokens: tokens(s.prompt_left), draft: 0 });
                plan.advance = advance.collect();
            }
            Flaw::Alone if step.sequences.iter().any(|sequence| sequence.class == Class::P0) => {
                let urgent = |id| step.sequences.iter().any(|s| s.id == id && s.class == Class::P0);
                plan.advance.retain(|advance| urgent(advance.id));
            }
            _ => (),
        }
        plan
    }

    async fn admit(&self, cx: &Context, work: Work) -> Result<Permit> {
        if self.flaw == Flaw::OneTenant {
            return self.inner.admit(&Context::new().with_class(cx.class()), work).await;
        }
        self.inner.admit(cx, work).await
    }
}

fn run(world: &World, flaw: Flaw, set: impl FnOnce(Builder) -> Builder) -> Report {
    let clock = FakeClock::default();
    let builder = Priority::builder(world.concurrency, 256).clock(Arc::new(clock.clone()));
    let builder = builder.step_bound(Duration::from_secs_f64(BOUND));
    let inner = set(builder).build().unwrap();
    simulate(world, &Policy { inner, flaw }, &clock)
}

fn world(law: Law, sources: Vec<Source>, seed: u64) -> World {
    World { law, sources, concurrency: 12, reserved: 4, slots: 12, passes: 80_000, seed }
}

fn source(class: Class, tenant: &'static str, arrivals: Arrivals) -> Source {
    Source::new(class, tenant, arrivals)
}

/// People who ask now and then, a service that asks often, and a batch that is never done.
fn mixed() -> Vec<Source> {
    vec![
        Source { acceptance: Some(0.7), ..source(Class::P0, "people", Arrivals::Apart(1.5)).with(8..=120, 4..=60) },
        source(Class::P1, "service", Arrivals::Apart(4.0)).with(20..=300, 1..=40),
        Source { most: 256, ..source(Class::P2, "batch", Arrivals::Clients(10)).with(30..=400, 20..=120) },
    ]
}

/// More than the machine can do, of every class.
fn crowded() -> Vec<Source> {
    vec![
        source(Class::P0, "people", Arrivals::Clients(16)).with(8..=60, 4..=30),
        source(Class::P1, "service", Arrivals::Clients(2)).with(8..=60, 4..=10),
        source(Class::P2, "batch", Arrivals::Clients(2)).with(8..=60, 4..=10),
    ]
}

/// Batches of tenants whose requests differ, and now and then a person.
fn tenants() -> Vec<Source> {
    vec![
        source(Class::P2, "short", Arrivals::Clients(24)).with(10..=30, 5..=15),
        source(Class::P2, "long", Arrivals::Clients(24)).with(200..=300, 40..=80),
        source(Class::P2, "talker", Arrivals::Clients(24)).with(10..=20, 60..=90),
        // It asks for ten times what it uses.
        Source { most: 400, ..source(Class::P2, "greedy", Arrivals::Clients(24)).with(30..=60, 20..=40) },
    ]
}

/// A person every second while eight batch jobs decode.
fn person_and_batch(person: bool) -> Vec<Source> {
    let batch = source(Class::P2, "batch", Arrivals::Clients(8)).with(16..=32, 150..=250);
    let person = person.then(|| source(Class::P0, "person", Arrivals::Apart(1.0)).with(32..=32, 8..=8));
    person.into_iter().chain([batch]).collect()
}

/// The bounds on waiting, which follow from when one is promoted.
fn starved(world: &World, report: &Report) -> Vec<String> {
    let mut starved = Vec::new();
    for (class, promoted) in [(Class::P1, 30.0), (Class::P2, 120.0)] {
        let index = class as usize;
        // All who were promoted before may be first, and one place in four is theirs; a place comes free when the P0 ends that
        // holds one longest. A place each is the most by which they can be ahead in this world: who comes again comes last.
        let clients = |source: &Source| match source.arrivals {
            Arrivals::Clients(clients) if source.class != Class::P0 => clients,
            _ => 1,
        };
        let ahead = world.sources.iter().map(clients).sum::<usize>() as f64;
        let wait = promoted + 4.0 * ahead * report.held[0];
        if report.waited[index] > wait {
            starved.push(format!("{class} waited {:.1} s for a place, more than {wait:.1} s", report.waited[index]));
        }
        // One is promoted at a time and runs to its end.
        let stand = promoted + ahead * report.ran.max(1.0);
        if report.stood[index] > stand {
            starved.push(format!("{class} stood still for {:.1} s, more than {stand:.1} s", report.stood[index]));
        }
    }
    starved
}

fn sound(name: &str, world: &World, report: &Report) {
    println!(
        "{name}: {} passes in {:.0} s; finished {:?}, refused {}, cut {}, parked {}; P0 first token p50 {:.0} ms p99 {:.0} ms; \
         waited {:.1?} s, stood {:.1?} s, promoted ran {:.1} s; {} of {} passes with a P0 overlong",
        report.passes,
        report.seconds,
        report.finished,
        report.refused,
        report.cut,
        report.parked,
        if report.first[0].is_empty() { f64::NAN } else { report.first(Class::P0, 0.5) * 1e3 },
        if report.first[0].is_empty() { f64::NAN } else { report.first(Class::P0, 0.99) * 1e3 },
        report.waited,
        report.stood,
        report.ran,
        report.overlong,
        report.bounded,
    );
    assert_eq!(report.idle, 0, "{name}: something could have run");
    assert_eq!(report.unused, 0, "{name}: a place was free for one who waited");
    assert_eq!(report.unreserved, 0, "{name}: a P0 waited for a reserved place");
    assert_eq!(report.usurped, 0, "{name}: a slot was taken from an equal");
    assert!(report.overlong * 100 <= report.bounded, "{name}: {} of {}", report.overlong, report.bounded);
    assert_eq!(starved(world, report), Vec::<String>::new(), "{name}");
    for source in &world.sources {
        assert!(report.finished[source.class as usize] > 0, "{name}: no {} ever finished", source.class);
    }
}

/// Runs a load on every machine, with slots for all and with too few.
fn every_machine(name: &str, sources: impl Fn() -> Vec<Source>) {
    for (seed, (machine, law)) in (1..).zip([("two cores", TWO_CORES), ("one core", ONE_CORE), ("GPU", GPU)]) {
        for slots in [12, 7] {
            let world = World { slots, ..world(law, sources(), seed) };
            sound(&format!("{name}, {machine}, {slots} slots"), &world, &run(&world, Flaw::None, |builder| builder));
        }
    }
}

#[test]
fn a_mixed_load_keeps_every_rule() {
    every_machine("mixed", mixed);
}

#[test]
fn a_crowd_keeps_every_rule() {
    every_machine("crowded", crowded);
}

#[test]
fn a_person_beside_a_batch_keeps_every_rule() {
    every_machine("person and batch", || person_and_batch(true));
}

#[test]
fn the_same_seed_gives_the_same_day() {
    let world = World { passes: 5_000, ..world(TWO_CORES, mixed(), 9) };
    let [one, two] = [(); 2].map(|()| format!("{:?}", run(&world, Flaw::None, |builder| builder)));
    assert_eq!(one, two);
}

#[test]
fn tenants_share_by_what_their_requests_cost() {
    let world = World { passes: 60_000, ..world(TWO_CORES, tenants(), 5) };
    let fair = run(&world, Flaw::None, |builder| builder);
    let unfair = run(&world, Flaw::OneTenant, |builder| builder);
    println!("Jain's index {:.4} {:.1?}; in the order they came {:.4}", fair.jain(), fair.spent, unfair.jain());
    assert!(fair.jain() >= 0.95, "{:?}", fair.spent);
    assert!(unfair.jain() < 0.9, "the check finds nothing: {:?}", unfair.spent);
    assert_eq!((fair.idle, fair.unused, fair.usurped), (0, 0, 0));
}

#[test]
fn a_person_hardly_notices_a_batch_and_the_batch_hardly_a_person() {
    for (machine, law) in [
        ("two cores", TWO_CORES),
        ("two cores, passes not cut", Law { cuts: false, ..TWO_CORES }),
        ("two cores, rows by four", Law { tile: 4, ..TWO_CORES }),
        ("GPU", GPU),
    ] {
        let both = world(law, person_and_batch(true), 3);
        let alone = world(law, person_and_batch(false), 3);
        let report = run(&both, Flaw::None, |builder| builder);
        let batch = run(&alone, Flaw::None, |builder| builder).rate(Class::P2);
        let idle = law.mean(0, 32, 0);
        let first = |report: &Report, quantile| report.first(Class::P0, quantile) / idle;
        let kept = report.rate(Class::P2) / batch;
        let in_order = run(&both, Flaw::InOrder, |builder| builder);
        println!(
            "{machine}: first token p50 {:.2} p95 {:.2} p99 {:.2} × idle ({:.0} ms), in order p50 {:.2} p95 {:.2}; \
             batch {:.1} % of {batch:.0} tokens a second",
            first(&report, 0.5),
            first(&report, 0.95),
            first(&report, 0.99),
            idle * 1e3,
            first(&in_order, 0.5),
            first(&in_order, 0.95),
            kept * 100.0,
        );
        // Where rows cost nothing and no pass is cut short, what remains is the rest of one pass that is as long as the own one.
        assert!(first(&report, 0.5) <= if law.prices == GPU.prices { 1.6 } else { 1.5 }, "{machine}");
        assert!(kept >= 0.9, "{machine}: the batch kept {kept}");
    }
    // What the checks find when they should.
    let idle = TWO_CORES.mean(0, 32, 0);
    let both = world(TWO_CORES, person_and_batch(true), 3);
    let in_order = run(&both, Flaw::InOrder, |builder| builder);
    assert!(in_order.first(Class::P0, 0.5) > 1.5 * idle, "in order a person waits longer");
    let longer: Vec<_> = person_and_batch(true)
        .into_iter()
        .map(|source| if source.class == Class::P0 { source.with(32..=32, 12..=12) } else { source })
        .collect();
    let shared = run(&world(TWO_CORES, longer.clone(), 3), Flaw::None, |builder| builder).rate(Class::P2);
    let alone = run(&world(TWO_CORES, longer, 3), Flaw::Alone, |builder| builder).rate(Class::P2);
    println!("batch {shared:.0} tokens a second when the pass is shared, {alone:.0} when it is not");
    assert!(alone < 0.93 * shared, "passes that are not shared cost the batch");
}

#[test]
fn what_breaks_a_rule_is_found() {
    let mixed = World { passes: 10_000, ..world(TWO_CORES, mixed(), 4) };
    let crowded = World { passes: 30_000, ..world(TWO_CORES, crowded(), 4) };

    assert!(run(&mixed, Flaw::Lazy, |builder| builder).idle > 0, "one that could advance did not");
    let unreserved = run(&mixed, Flaw::None, |builder| builder.reserve(Class::P0, 0.0));
    assert!(unreserved.unreserved > 0, "no place was reserved");
    let few = World { slots: 5, ..mixed.clone() };
    assert!(run(&few, Flaw::Rotating, |builder| builder).usurped > 0, "slots were taken from equals");
    let in_order = run(&mixed, Flaw::InOrder, |builder| builder);
    assert!(in_order.overlong * 10 > in_order.bounded, "{} of {}", in_order.overlong, in_order.bounded);
    let never = Duration::from_secs(1_000_000);
    let promise = |builder: Builder| builder.promote_after(Class::P1, never).promote_after(Class::P2, never);
    let forgotten = run(&crowded, Flaw::None, promise);
    println!("without promotion: {:?}", starved(&crowded, &forgotten));
    assert!(!starved(&crowded, &forgotten).is_empty(), "nobody was promoted: {:?}", forgotten.waited);
}
