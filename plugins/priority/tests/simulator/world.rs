//! A machine, its clock, and those who ask.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    future::Future,
    ops::RangeInclusive,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    task::{Poll, Wake, Waker},
    time::Duration,
};

use selvedge_core::{
    BoxFuture, Clock, Context, Result, Scheduler, Timestamp,
    scheduler::{Class, Draft, Pass, Permit, SequenceView, Step, Work},
};

/// Microseconds since the beginning.
type Time = i64;

const SECOND: f64 = 1e6;
/// How long a pass goes on that is cut short.
const CUT: Time = 5_000;
/// Passes after which the plugin must know the machine.
const LEARNT: u64 = 300;

/// A clock that stands until it is moved.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeClock(Arc<AtomicI64>);

impl FakeClock {
    fn set(&self, now: Time) {
        self.0.store(now, Ordering::Relaxed);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// What passes take on a machine: seconds for a pass, a row that decodes, a prompt's token, a token in a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Law {
    pub(crate) prices: [f64; 4],
    /// A pass takes up to this part more or less.
    pub(crate) noise: f64,
    /// One pass in a thousand takes five times as long.
    pub(crate) stalls: bool,
    /// Whether a pass can be cut short.
    pub(crate) cuts: bool,
    /// So many rows that decode cost as much as one that begins them.
    pub(crate) tile: usize,
}

/// SmolLM2-135M in Q4_0 on two cores of a server.
pub(crate) const TWO_CORES: Law =
    Law { prices: [8e-3, 2.6e-3, 1.25e-3, 0.1e-6], noise: 0.1, stalls: true, cuts: true, tile: 1 };
/// The same on one.
pub(crate) const ONE_CORE: Law = Law { prices: [13e-3, 4.5e-3, 2.4e-3, 0.2e-6], ..TWO_CORES };
/// A machine on which rows cost next to nothing, and which finishes what it began.
pub(crate) const GPU: Law =
    Law { prices: [9e-3, 0.08e-3, 0.03e-3, 2e-9], noise: 0.05, stalls: true, cuts: false, tile: 1 };

impl Law {
    /// The seconds that a pass takes, noise apart.
    pub(crate) fn mean(&self, decode: usize, prefill: usize, cached: usize) -> f64 {
        let [fixed, row, token, cache] = self.prices;
        let decode = if prefill == 0 { decode.next_multiple_of(self.tile) } else { decode };
        fixed + row * decode as f64 + token * prefill as f64 + cache * cached as f64
    }
}

/// How often requests come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrivals {
    /// At random, so many seconds apart on average.
    Apart(f64),
    /// From so many clients, each of which asks again once it is answered.
    Clients(usize),
}

/// A kind of request.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) class: Class,
    pub(crate) tenant: &'static str,
    pub(crate) arrivals: Arrivals,
    pub(crate) prompt: RangeInclusive<usize>,
    pub(crate) answer: RangeInclusive<usize>,
    /// The most tokens it asks for: the estimate of its answer.
    pub(crate) most: usize,
    pub(crate) acceptance: Option<f32>,
}

impl Source {
    pub(crate) fn new(class: Class, tenant: &'static str, arrivals: Arrivals) -> Self {
        Self { class, tenant, arrivals, prompt: 16..=64, answer: 8..=64, most: 64, acceptance: None }
    }

    pub(crate) fn with(self, prompt: RangeInclusive<usize>, answer: RangeInclusive<usize>) -> Self {
        Self { most: *answer.end(), prompt, answer, ..self }
    }
}

/// What is simulated, and what the Scheduler under test was set to.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) law: Law,
    pub(crate) sources: Vec<Source>,
    pub(crate) concurrency: usize,
    pub(crate) reserved: usize,
    pub(crate) slots: usize,
    pub(crate) passes: u64,
    pub(crate) seed: u64,
}

/// The longest pass beside an answer of a P0, in seconds: shorter than the default, which is easier to keep.
pub(crate) const BOUND: f64 = 0.050;
const PROMOTED: [Option<Time>; 3] = [None, Some(30_000_000), Some(120_000_000)];

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) passes: u64,
    pub(crate) seconds: f64,
    pub(crate) finished: [u64; 3],
    pub(crate) refused: u64,
    pub(crate) cut: u64,
    pub(crate) parked: u64,
    /// Seconds to the first token, by class.
    pub(crate) first: [Vec<f64>; 3],
    /// Tokens answered, by class.
    pub(crate) tokens: [u64; 3],
    /// Seconds of the machine, by tenant.
    pub(crate) spent: BTreeMap<&'static str, f64>,
    /// The longest wait for a place, and the longest time between two advances, in seconds by class.
    pub(crate) waited: [f64; 3],
    pub(crate) stood: [f64; 3],
    /// The longest that a place was held, in seconds by class.
    pub(crate) held: [f64; 3],
    /// The longest that one took to its end after it had to be promoted.
    pub(crate) ran: f64,
    /// Passes with a P0 after the machine was learnt.
    pub(crate) bounded: u64,

    // What must not be.
    /// Something could have run, and did not.
    pub(crate) idle: u64,
    /// A request waited although a place was free for its class.
    pub(crate) unused: u64,
    /// A P0 waited although fewer P0s ran than places are reserved.
    pub(crate) unreserved: u64,
    /// A slot was taken from an equal, or from someone more urgent.
    pub(crate) usurped: u64,
    /// A pass with a P0 was longer than it may be.
    pub(crate) overlong: u64,
}

impl Report {
    /// A quantile of the times to the first token of a class, in seconds.
    pub(crate) fn first(&self, class: Class, quantile: f64) -> f64 {
        let mut times = self.first[class as usize].clone();
        times.sort_by(f64::total_cmp);
        times[((times.len() - 1) as f64 * quantile) as usize]
    }

    /// Tokens a second.
    pub(crate) fn rate(&self, class: Class) -> f64 {
        self.tokens[class as usize] as f64 / self.seconds
    }

    /// Jain's index of what tenants got: 1 when all got the same.
    pub(crate) fn jain(&self) -> f64 {
        let sum: f64 = self.spent.values().sum();
        let squares: f64 = self.spent.values().map(|spent| spent * spent).sum();
        sum * sum / (self.spent.len() as f64 * squares)
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A request that waits for a place.
struct Asking<'s> {
    request: Request,
    woken: Arc<Woken>,
    future: Pin<Box<dyn Future<Output = Result<Permit>> + 's>>,
}

#[derive(Clone, Copy)]
struct Request {
    source: usize,
    prompt: usize,
    answer: usize,
    came: Time,
}

/// A request that has a place, and so a sequence.
struct Live {
    id: u64,
    request: Request,
    permit: Permit,
    prompt_left: usize,
    answered: usize,
    cached: usize,
    resident: bool,
    advanced: Time,
    began: Time,
    /// When it had stood still for so long that it must be promoted.
    late: Option<Time>,
}

impl Live {
    fn look(&mut self, now: Time) {
        if PROMOTED[self.permit.class() as usize].is_some_and(|after| now - self.advanced >= after) {
            self.late.get_or_insert(now);
        }
    }
}

/// The state of a simulation.
struct Run<'s, S> {
    world: &'s World,
    scheduler: &'s S,
    clock: FakeClock,
    now: Time,
    random: fastrand::Rng,
    /// When someone comes, by a number that keeps those of one moment in order, and from where.
    coming: BinaryHeap<Reverse<(Time, u64, usize)>>,
    counter: u64,
    asking: Vec<Asking<'s>>,
    live: Vec<Live>,
    report: Report,
}

/// Runs a world on a Scheduler that tells time by `clock`.
pub(crate) fn simulate<S: Scheduler>(world: &World, scheduler: &S, clock: &FakeClock) -> Report {
    let mut run = Run {
        world,
        scheduler,
        clock: clock.clone(),
        now: 1,
        random: fastrand::Rng::with_seed(world.seed),
        coming: BinaryHeap::new(),
        counter: 0,
        asking: Vec::new(),
        live: Vec::new(),
        report: Report::default(),
    };
    for (index, source) in world.sources.iter().enumerate() {
        let clients = if let Arrivals::Clients(clients) = source.arrivals { clients } else { 1 };
        (0..clients).for_each(|_| run.come_again(index, 1));
    }
    let mut last = None;
    while run.report.passes < world.passes {
        let now = run.now;
        run.arrive_until(now);
        if run.live.is_empty() {
            run.report.idle += u64::from(!run.asking.is_empty());
            let Some(Reverse((next, ..))) = run.coming.peek() else { break };
            run.now = (*next).max(run.now);
            continue;
        }
        last = run.pass(last);
    }
    run.report.seconds = run.now as f64 / SECOND;
    let (now, report) = (run.now, &mut run.report);
    for live in &run.live {
        let class = live.permit.class() as usize;
        report.stood[class] = report.stood[class].max((now - live.advanced) as f64 / SECOND);
    }
    for asking in &run.asking {
        let class = world.sources[asking.request.source].class as usize;
        report.waited[class] = report.waited[class].max((now - asking.request.came) as f64 / SECOND);
    }
    run.report
}

impl<'s, S: Scheduler> Run<'s, S> {
    fn come_again(&mut self, source: usize, now: Time) {
        let after = match self.world.sources[source].arrivals {
            Arrivals::Apart(mean) => (-(1.0 - self.random.f64()).ln() * mean * SECOND) as Time,
            Arrivals::Clients(_) => 0,
        };
        self.counter += 1;
        self.coming.push(Reverse((now + after, self.counter, source)));
    }

    fn in_range(&mut self, range: &RangeInclusive<usize>) -> usize {
        self.random.usize(range.clone())
    }

    /// Everybody who comes until then asks for a place. When the first P0 got one.
    fn arrive_until(&mut self, until: Time) -> Option<Time> {
        let mut urgent = None;
        while let Some(Reverse((time, _, index))) = self.coming.peek().copied().filter(|next| next.0.0 <= until) {
            self.coming.pop();
            self.clock.set(time);
            let world = self.world;
            let source = &world.sources[index];
            if let Arrivals::Apart(_) = source.arrivals {
                self.come_again(index, time);
            }
            let (prompt, answer) = (self.in_range(&source.prompt), self.in_range(&source.answer));
            let request = Request { source: index, prompt, answer, came: time };
            let cx = Context::new().with_class(source.class).with_tenant(source.tenant);
            let work = Work { prompt, answer: source.most };
            let running = self.scheduler.load().of(Class::P0).running;
            let scheduler = self.scheduler;
            let woken = Arc::new(Woken(AtomicBool::new(true)));
            let future = Box::pin(async move { scheduler.admit(&cx, work).await });
            let before = self.live.len();
            self.asking.push(Asking { request, woken, future });
            self.poll(time);
            let admitted = self.live.len() > before;
            if source.class == Class::P0 {
                self.report.unreserved += u64::from(!admitted && running < self.world.reserved);
                if admitted && urgent.is_none() {
                    urgent = Some(time);
                }
            }
        }
        urgent
    }

    /// Polls those who were woken.
    fn poll(&mut self, now: Time) {
        let mut index = 0;
        while index < self.asking.len() {
            let asking = &mut self.asking[index];
            if !asking.woken.0.swap(false, Ordering::Relaxed) {
                index += 1;
                continue;
            }
            let waker = Waker::from(asking.woken.clone());
            match asking.future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
                Poll::Pending => index += 1,
                Poll::Ready(answer) => {
                    let request = self.asking.remove(index).request;
                    match answer {
                        Ok(permit) => self.begin(request, permit, now),
                        Err(error) => self.refused(request, &error, now),
                    }
                }
            }
        }
        self.check_places();
    }

    fn begin(&mut self, request: Request, permit: Permit, now: Time) {
        let class = permit.class() as usize;
        let waited = (now - request.came) as f64 / SECOND;
        assert!((permit.waited().as_secs_f64() - waited).abs() < 1e-3, "{permit:?} after {waited} s");
        self.report.waited[class] = self.report.waited[class].max(waited);
        self.counter += 1;
        self.live.push(Live {
            id: self.counter,
            request,
            permit,
            prompt_left: request.prompt,
            answered: 0,
            cached: 0,
            resident: false,
            advanced: now,
            began: now,
            late: None,
        });
    }

    fn refused(&mut self, request: Request, error: &selvedge_core::Error, now: Time) {
        self.report.refused += 1;
        if let Arrivals::Clients(_) = self.world.sources[request.source].arrivals {
            let after = error.retry_after().expect("a refusal says when to come back");
            self.counter += 1;
            self.coming.push(Reverse((now + after.as_micros() as Time, self.counter, request.source)));
        }
    }

    /// Nobody waits for a place that he could have.
    fn check_places(&mut self) {
        let load = self.scheduler.load();
        let held_back = self.world.reserved.saturating_sub(load.of(Class::P0).running);
        let free = self.world.concurrency.saturating_sub(load.total().running);
        for class in Class::ALL {
            let places = if class == Class::P0 { free } else { free.saturating_sub(held_back) };
            self.report.unused += u64::from(places > 0 && load.of(class).waiting > 0);
        }
    }

    /// One forward pass.
    fn pass(&mut self, last: Option<Pass>) -> Option<Pass> {
        const BATCH: usize = 512;
        let (world, now) = (self.world, self.now);
        self.clock.set(now);
        self.live.iter_mut().for_each(|live| live.look(now));
        let view = |live: &Live| SequenceView {
            id: live.id,
            class: live.permit.class(),
            prompt_left: live.prompt_left,
            cached: live.cached,
            resident: live.resident,
            slot: 0,
            idle: Duration::from_micros((now - live.advanced) as u64),
            draft: world.sources[live.request.source].acceptance.map(|acceptance| Draft { acceptance, most: 8 }),
        };
        let step = Step {
            sequences: self.live.iter().map(view).collect(),
            batch: BATCH,
            threads: 2,
            slots: world.slots,
            last,
        };
        let plan = self.scheduler.plan(&step);
        self.report.passes += 1;
        let mut planned = vec![(0, 0); self.live.len()];
        for advance in &plan.advance {
            let index = self.live.iter().position(|live| live.id == advance.id).expect("a live sequence");
            planned[index] = (advance.tokens, advance.draft);
        }
        self.check_idle(&planned, BATCH);
        self.seat(&mut planned);
        let part = |which: &dyn Fn(&Live) -> bool| {
            let rows = self.live.iter().zip(&planned).filter(|(live, (tokens, _))| *tokens > 0 && which(live));
            rows.fold((0, 0, 0), |(decode, prefill, cached), (live, (tokens, draft))| {
                let reads = live.prompt_left > 0;
                let decode = decode + if reads { 0 } else { tokens + draft };
                (decode, prefill + if reads { *tokens } else { 0 }, cached + live.cached)
            })
        };
        let mean = |(decode, prefill, cached): (usize, usize, usize)| world.law.mean(decode, prefill, cached);
        let (decode, prefill, cached) = part(&|_| true);
        if decode + prefill == 0 {
            self.report.idle += 1;
            self.now += 1_000;
            return None;
        }
        let all = mean((decode, prefill, cached));
        if self.report.passes > LEARNT && self.live.iter().any(|live| live.permit.class() == Class::P0) {
            // What is P0's own is let in; beside it there is room up to the bound only.
            let own_reads = self.live.iter().any(|live| live.permit.class() == Class::P0 && live.prompt_left > 0);
            let own = |live: &Live| live.permit.class() == Class::P0 || live.late.is_some();
            let answers = part(&|live| own(live) && live.prompt_left == 0);
            let answer = mean(answers);
            let own_limit =
                if answers.0 > 0 { answer + BOUND.max(answer) * 0.25 } else { 10.0 * world.law.prices[0] }.max(BOUND);
            let own = mean(part(&own));
            let own_limit = if own_reads { own_limit * 1.25 } else { own_limit };
            let limit = if own_reads { own * 1.04 } else { BOUND.max(own * 1.04) };
            self.report.bounded += 1;
            // The plugin knows the machine only from what it saw of it.
            let over = |time: f64, limit: f64| time > limit * 1.15 + 0.001;
            self.report.overlong += u64::from(over(own, own_limit) || over(all, limit));
        }
        let noise = 1.0 + world.law.noise * (self.random.f64() * 2.0 - 1.0);
        let stall = if world.law.stalls && self.random.usize(..1000) == 0 { 5.0 } else { 1.0 };
        let took = ((all * noise * stall * SECOND) as Time).max(1);
        let ends = now + took;
        let came = self.live.len();
        if plan.yields_to.is_some() && world.law.cuts {
            // Whoever comes first in the time of the pass decides whether it goes on.
            while let Some(Reverse((next, ..))) = self.coming.peek().copied()
                && next <= ends
            {
                if let Some(urgent) = self.arrive_until(next)
                    && urgent + CUT < ends
                    && plan.yields_for.is_none_or(|time| urgent < now + time.as_micros() as Time)
                {
                    self.report.cut += 1;
                    self.now = urgent + CUT;
                    return None;
                }
            }
        } else {
            self.arrive_until(ends);
        }
        self.now = ends;
        self.clock.set(ends);
        self.advance(&planned, came, all);
        Some(Pass { decode, prefill, cached, threads: 2, took: Duration::from_micros(took as u64) })
    }

    /// Without a P0, all that decode and have a slot or can have one advance, and of prompts at least one.
    fn check_idle(&mut self, planned: &[(usize, usize)], batch: usize) {
        let fed: usize = planned.iter().map(|(tokens, _)| tokens).sum();
        if fed == 0 {
            self.report.idle += 1;
        }
        if fed == 0 || fed >= batch || self.live.iter().any(|live| live.permit.class() == Class::P0) {
            return;
        }
        let count = |which: &dyn Fn(&Live, bool) -> bool| {
            self.live.iter().zip(planned).filter(|(live, (tokens, _))| which(live, *tokens > 0)).count()
        };
        let free = self.world.slots - count(&|live, _| live.resident);
        let taken = count(&|live, advances| advances && !live.resident);
        // As many stand still as have to give up their slots.
        let stands = count(&|live, advances| live.resident && !advances && live.prompt_left == 0);
        let prompts = count(&|live, _| live.resident && live.prompt_left > 0);
        let read = count(&|live, advances| advances && live.prompt_left > 0);
        let parked = count(&|live, advances| !live.resident && !advances && live.prompt_left == 0);
        let idle =
            stands > taken.saturating_sub(free) || prompts > 0 && read == 0 && taken == 0 || parked > 0 && free > taken;
        self.report.idle += u64::from(idle);
    }

    /// Gives slots to those who advance and have none, as a backend does: a free one, or that of the least urgent who does not.
    fn seat(&mut self, planned: &mut [(usize, usize)]) {
        for index in 0..self.live.len() {
            if planned[index].0 == 0 || self.live[index].resident {
                continue;
            }
            let residents = self.live.iter().filter(|live| live.resident).count();
            if residents >= self.world.slots {
                let stays = |other: &usize| planned[*other].0 == 0 && self.live[*other].resident;
                let rank = |other: &usize| (self.live[*other].permit.class(), self.live[*other].advanced);
                let Some(victim) = (0..planned.len()).filter(stays).max_by_key(rank) else {
                    self.report.usurped += 1;
                    planned[index] = (0, 0);
                    continue;
                };
                self.report.usurped += u64::from(self.live[victim].permit.class() <= self.live[index].permit.class());
                self.live[victim].resident = false;
                self.report.parked += 1;
            }
            self.live[index].resident = true;
        }
    }

    /// The pass was done: those who were in it come on, and those who are done go.
    fn advance(&mut self, planned: &[(usize, usize)], came: usize, took: f64) {
        let rows = planned.iter().filter(|(tokens, _)| *tokens > 0).count();
        let [fixed, row, token, _] = self.world.law.prices;
        let mut ended = Vec::new();
        for (index, (tokens, draft)) in planned.iter().copied().enumerate().take(came) {
            if tokens == 0 {
                continue;
            }
            let live = &mut self.live[index];
            let class = live.permit.class() as usize;
            let source = &self.world.sources[live.request.source];
            let stood = (self.now - live.advanced) as f64 / SECOND - took;
            self.report.stood[class] = self.report.stood[class].max(stood);
            live.advanced = self.now;
            let (reads, mut new) = (live.prompt_left > 0, 0);
            if reads {
                live.prompt_left -= tokens;
                live.cached += tokens;
                if live.prompt_left == 0 {
                    self.report.first[class].push((self.now - live.request.came) as f64 / SECOND);
                    new = 1;
                }
            } else {
                let acceptance = source.acceptance.unwrap_or(0.0);
                let accepted = (0..draft).take_while(|_| self.random.f32() < acceptance).count();
                new = (1 + accepted).min(live.request.answer - live.answered);
                live.cached += new;
            }
            live.answered += new;
            self.report.tokens[class] += new as u64;
            let own = if reads { token * tokens as f64 } else { row * (tokens + draft) as f64 };
            *self.report.spent.entry(source.tenant).or_default() += own + fixed / rows as f64;
            if live.prompt_left == 0 && live.answered >= live.request.answer {
                ended.push(index);
            }
        }
        for index in ended.into_iter().rev() {
            let mut live = self.live.remove(index);
            self.report.finished[live.permit.class() as usize] += 1;
            let class = live.permit.class() as usize;
            self.report.held[class] = self.report.held[class].max((self.now - live.began) as f64 / SECOND);
            let ran = live.late.map_or(0.0, |late| (self.now - late) as f64 / SECOND);
            self.report.ran = self.report.ran.max(ran);
            live.permit.done(Work { prompt: live.request.prompt, answer: live.answered });
            drop(live.permit);
            if let Arrivals::Clients(_) = self.world.sources[live.request.source].arrivals {
                self.come_again(live.request.source, self.now);
            }
        }
        self.poll(self.now);
    }
}
