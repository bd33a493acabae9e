//! Jobs are enqueued and worked off while everything around them fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use selvedge::{
    Context, Engine, Timestamp,
    postgres::{PostgresStore, tokio_postgres::Client},
    store::{Maintain, StoreExt},
};
use tokio::{sync::Notify, time::sleep};

use crate::{
    child::{Child, Skew, faketime},
    counts::{Options, Report, Tally, lock},
    disk,
    judge::{self, Effect, Note},
    plan::Plan,
    produce::{self, Ledger},
    proxy::{Odds, Proxy},
    server::Server,
    task::{EFFECT, TOPIC},
    worker::{self, HOLD},
};

/// Once faults are over, this long without an end of any job means that the rest never ends.
const STUCK: Duration = Duration::from_secs(30);

/// For each piece that a worker sends to the server: a job takes about ten.
const ODDS: Odds = Odds { before: 0.0004, during: 0.0002, after: 0.0006, delayed: 0.002, stalled: 0.0004 };
/// The same for those who enqueue: they send less, and what they do not know matters more.
const HARSH: Odds = Odds { before: 0.004, during: 0.002, after: 0.01, delayed: 0.004, stalled: 0.001 };

/// What all tasks share.
struct Stage {
    server: Server,
    proxy: Proxy,
    ledger: Arc<Ledger>,
    injected: Tally,
    seen: Tally,
    kills: AtomicU64,
    /// Rung whenever the worker that is frozen begins a job.
    holding: Notify,
    deadline: Option<Instant>,
    bar: ProgressBar,
}

impl Stage {
    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() > deadline)
    }

    /// Starts a worker and listens to what it says.
    fn worker(self: &Arc<Self>, url: &str, skew: Option<Skew>, frozen: bool) -> Result<Child> {
        let stage = self.clone();
        let heard = move |line: &str| match line.split_once(' ').unwrap_or((line, "")) {
            ("clock", shown) if skew.is_some_and(|skew| shows(skew, shown)) => stage.injected.one("skewed_clock"),
            ("stale", _) => stage.seen.one("stale_refused"),
            ("holding", _) => {
                stage.seen.one("jobs_begun");
                if frozen {
                    stage.holding.notify_waiters();
                }
            }
            ("ended", why) => {
                stage.seen.one("worker_loop_ended");
                tracing::warn!(why, "a worker's loop ended and was begun again");
            }
            _ => (),
        };
        let mut arguments = vec!["worker".to_owned(), "--url".into(), url.into()];
        arguments.extend(frozen.then(|| "--slow".into()));
        Child::start(&arguments, skew, heard)
    }
}

/// Whether a child's clock is as wrong as it was meant to be.
fn shows(skew: Skew, shown: &str) -> bool {
    let wrong_by = shown.parse::<i64>().map(|shown| shown - Timestamp::now().0);
    wrong_by.is_ok_and(|by| (by - skew.0 * 3_600_000_000).abs() < 60_000_000)
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let rounds = options.rounds.unwrap_or(1_000);
    let plan = Plan::new(options.seed, rounds, HOLD);
    let started = Instant::now();
    let server = Server::start()?;
    let [workers_seed, producers_seed, first, second] = plan.seeds;
    let injected = Tally::default();
    // Migrated before anybody is hurt.
    let direct = PostgresStore::builder(server.url()).connections(2).open().await?;
    server.client().await?.batch_execute(EFFECT).await?;
    let producers = Proxy::start(server.port()?, HARSH, producers_seed, injected.clone()).await?;
    let bar = ProgressBar::new(rounds)
        .with_style(ProgressStyle::with_template("  {bar:30} {pos}/{len} kills, {elapsed}, ready in {eta}; {msg}")?);
    let stage = Arc::new(Stage {
        proxy: Proxy::start(server.port()?, ODDS, workers_seed, injected.clone()).await?,
        server,
        ledger: Arc::default(),
        injected,
        seen: Tally::default(),
        kills: AtomicU64::new(0),
        holding: Notify::new(),
        deadline: options.seconds.map(|seconds| started + Duration::from_secs(seconds)),
        bar,
    });

    let url = Server::url_at(producers.port());
    let mut producing = Vec::new();
    for (name, seed) in [("a", first), ("b", second)] {
        let store = worker::open(&url).await?;
        let (ledger, seen) = (stage.ledger.clone(), stage.seen.clone());
        producing.push(tokio::spawn(produce::run(name, store, ledger, seed, seen)));
    }
    let keeping = tokio::spawn(keep(selvedge::builder().store(worker::open(&url).await?).build(), stage.seen.clone()));
    let counting = tokio::spawn(count(stage.clone()));
    let mut hurting = Vec::new();
    for (lives, skew) in plan.lives.iter().cloned().zip(plan.skews) {
        hurting.push(tokio::spawn(kill_again_and_again(stage.clone(), lives, skew)));
    }
    hurting.push(tokio::spawn(freeze_again_and_again(stage.clone(), plan.freezes.clone())));
    hurting.push(tokio::spawn(crash_again_and_again(stage.clone(), plan.crashes.clone())));
    hurting.push(tokio::spawn(terminate_again_and_again(stage.clone(), plan.terminations.clone())));
    for task in hurting {
        task.await??;
    }
    stage.ledger.over.store(true, Ordering::Relaxed);
    for task in producing {
        task.await?;
    }
    stage.proxy.calm();
    producers.calm();
    stage.bar.finish_and_clear();

    let workers = (0..3).map(|_| stage.worker(stage.server.url(), None, false)).collect::<Result<Vec<_>>>()?;
    work_off(&direct).await;
    drop(workers);
    keeping.abort();
    counting.abort();
    let effects = effects(&stage.server.client().await?).await?;
    let promises = lock(&stage.ledger.promises).clone();
    let mut verdict = judge::judge(&promises, &effects, &notes(&direct).await?);
    let mut not_injected = Vec::new();
    if faketime().is_none() {
        not_injected.push("skewed wall clocks: libfaketime is not installed (Debian: faketime), so only the engines' clocks were wrong".to_owned());
    }
    match disk::run_apart(plan.disks, first).await? {
        disk::Outcome::Refused(why) => not_injected.push(why),
        disk::Outcome::Done { verdict: also, by_kind, seen } => {
            verdict += also;
            by_kind.iter().for_each(|(kind, count)| stage.injected.add(kind, *count));
            seen.iter().for_each(|(what, count)| stage.seen.add(&format!("disk_{what}"), *count));
        }
    }
    not_injected.iter().for_each(|what| tracing::warn!("not injected: {what}"));
    let report = Report {
        rounds,
        injected: stage.injected.total(),
        verdict,
        stale_refused: stage.seen.of("stale_refused"),
        seed: options.seed,
        seconds: Report::seconds_since(started),
        by_kind: stage.injected.all(),
        seen: stage.seen.all(),
        not_injected,
    };
    report.conclude(&options)
}

/// Lets a worker live for as long as the plan says, kills it, and starts the next.
async fn kill_again_and_again(stage: Arc<Stage>, lives: Vec<Duration>, skew: Option<Skew>) -> Result<()> {
    let url = Server::url_at(stage.proxy.port());
    for life in lives {
        if stage.is_late() {
            break;
        }
        let worker = stage.worker(&url, skew, false)?;
        sleep(life).await;
        worker.kill().await?;
        stage.injected.one("killed");
        stage.kills.fetch_add(1, Ordering::Relaxed);
        stage.bar.inc(1);
    }
    Ok(())
}

/// Freezes a worker in the middle of a job for longer than its lease lasts, and lets it go on with what it held.
async fn freeze_again_and_again(stage: Arc<Stage>, freezes: Vec<(Duration, Duration)>) -> Result<()> {
    let worker = stage.worker(&Server::url_at(stage.proxy.port()), None, true)?;
    for (idle, frozen) in freezes {
        if stage.is_late() {
            break;
        }
        sleep(idle).await;
        let holding = tokio::time::timeout(Duration::from_secs(2), stage.holding.notified()).await;
        worker.freeze()?;
        sleep(frozen).await;
        worker.thaw()?;
        stage.injected.one("frozen");
        stage.seen.add("frozen_idle", u64::from(holding.is_err()));
    }
    // What it does with its last stale leases counts too.
    sleep(Duration::from_millis(500)).await;
    Ok(())
}

async fn crash_again_and_again(stage: Arc<Stage>, crashes: Vec<u64>) -> Result<()> {
    for moment in crashes {
        if stage.reaches(moment).await {
            stage.server.crash().await?;
            stage.injected.one("server_crashed");
        }
    }
    Ok(())
}

async fn terminate_again_and_again(stage: Arc<Stage>, terminations: Vec<u64>) -> Result<()> {
    for moment in terminations {
        if stage.reaches(moment).await {
            // While the server is down, and for a moment after, nothing is connected that could be ended.
            let ended = loop {
                match stage.server.terminate(3).await {
                    Ok(ended) if ended > 0 || stage.is_late() => break ended,
                    Err(error) if stage.is_late() => return Err(error),
                    _ => sleep(Duration::from_millis(20)).await,
                }
            };
            stage.injected.add("terminated_connections", ended);
        }
    }
    Ok(())
}

impl Stage {
    /// Waits for so many kills; `false` when time ran out first.
    async fn reaches(&self, kills: u64) -> bool {
        while self.kills.load(Ordering::Relaxed) < kills {
            if self.is_late() {
                return false;
            }
            sleep(Duration::from_millis(10)).await;
        }
        !self.is_late()
    }
}

/// Housekeeping, as a deployment has it.
async fn keep(engine: Engine, seen: Tally) {
    loop {
        if engine.maintain(&Context::new(), Maintain::default()).await.is_err() {
            seen.one("housekeeping_failed");
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Tells the producers and the person who watches how far the work is.
async fn count(stage: Arc<Stage>) {
    let mut client = None;
    loop {
        if client.as_ref().is_none_or(Client::is_closed) {
            client = stage.server.client().await.ok();
        }
        if let Some(client) = &client
            && let Ok(row) = client.query_one("SELECT count(*) FROM effect", &[]).await
        {
            let done = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
            stage.ledger.done.store(done, Ordering::Relaxed);
            stage.bar.set_message(format!("{done} effects"));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the workers have worked off what is left, without faults.
pub(crate) async fn work_off(store: &PostgresStore) {
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(100));
    let (mut left, mut last, mut moved) = (u64::MAX, u64::MAX, Instant::now());
    loop {
        // The first calls may still meet the connections that the last crash ended.
        if let Ok(queues) = store.queues(&Context::new()).await {
            left = queues.iter().map(|queue| queue.ready + queue.scheduled + queue.running).sum();
        }
        if left == 0 {
            break;
        }
        if left != last {
            (last, moved) = (left, Instant::now());
        }
        if moved.elapsed() > STUCK {
            // The judge counts them as lost.
            tracing::error!(left, "jobs do not come to an end, without any fault");
            break;
        }
        spinner.set_message(format!("{left} jobs are left"));
        sleep(Duration::from_millis(100)).await;
    }
    spinner.finish_and_clear();
}

pub(crate) async fn effects(client: &Client) -> Result<Vec<Effect>> {
    let rows = client.query("SELECT job, key, body FROM effect", &[]).await?;
    Ok(rows.iter().map(|row| Effect { job: row.get(0), key: row.get(1), body: row.get(2) }).collect())
}

pub(crate) async fn notes(store: &PostgresStore) -> Result<Vec<Note>> {
    let (mut notes, mut after) = (Vec::new(), 0);
    loop {
        let page = store.messages(&Context::new(), TOPIC, after, 1_000).await?;
        for message in &page.items {
            let text = std::str::from_utf8(&message.payload)?;
            let (job, key) = text.split_once(' ').context("a message that no worker wrote")?;
            notes.push(Note { job: job.parse()?, key: key.into() });
        }
        match page.next {
            Some(next) => after = next,
            None => return Ok(notes),
        }
    }
}
