//! Requests with a key are sent again and again to a service that is killed, until each has its answer.

use std::{
    collections::HashMap,
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use fastrand::Rng;
use indicatif::{ProgressBar, ProgressStyle};
use selvedge::{
    Context,
    postgres::PostgresStore,
    store::{JobFilter, JobId, StoreExt},
};
use tokio::time::sleep;

use crate::{
    child::Child,
    client::{Link, Story, Told},
    counts::{Options, Report, Tally, Verdict, lock},
    proxy::{Odds, Proxy},
    server::Server,
    service::{CHARGE, HOLD, QUEUE, Receipt, Way},
};

/// Processes of the service.
const SERVICES: usize = 2;
/// Clients at once.
const CLIENTS: usize = 64;

/// Between client and service: each request is one piece.
const HTTP: Odds = Odds { before: 0.02, during: 0.02, after: 0.04, delayed: 0.005, stalled: 0.001 };
/// Between service and PostgreSQL: each request is about eight pieces.
const SQL: Odds = Odds { before: 0.0002, during: 0.0001, after: 0.0004, delayed: 0.0005, stalled: 0.0001 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hurt {
    Kill,
    Freeze(Duration),
}

/// What happens after how many answered intents.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    services: [Vec<(u64, Hurt)>; SERVICES],
    crashes: Vec<u64>,
    seeds: [u64; 4],
}

impl Plan {
    fn new(seed: u64, rounds: u64) -> Self {
        let mut dice = Rng::with_seed(seed);
        let mut services: [Vec<(u64, Hurt)>; SERVICES] = Default::default();
        for hurt in 0..(rounds / 1_000).max(2) {
            services[hurt as usize % SERVICES].push((dice.u64(..rounds.max(1)), Hurt::Kill));
        }
        let hold = HOLD.as_millis() as u64;
        for hurt in 0..(rounds / 4_000).max(1) {
            let frozen = Duration::from_millis(dice.u64(hold * 12 / 10..hold * 2));
            services[hurt as usize % SERVICES].push((dice.u64(..rounds.max(1)), Hurt::Freeze(frozen)));
        }
        services.iter_mut().for_each(|hurts| hurts.sort_by_key(|(moment, _)| *moment));
        let mut crashes: Vec<u64> = (0..(rounds / 20_000).max(1)).map(|_| dice.u64(..rounds.max(1))).collect();
        crashes.sort_unstable();
        Self { services, crashes, seeds: std::array::from_fn(|_| dice.u64(..)) }
    }
}

struct Stage {
    server: Server,
    sql: Proxy,
    injected: Tally,
    seen: Tally,
    /// The next intent, and how many have their answers.
    next: AtomicU64,
    answered: AtomicU64,
    over: AtomicBool,
    stories: Mutex<Vec<Story>>,
    bar: ProgressBar,
}

impl Stage {
    fn service(self: &Arc<Self>, url: &str, port: u16) -> Result<Child> {
        let seen = self.seen.clone();
        let arguments = ["service", "--url", url, "--port", &port.to_string()].map(str::to_owned);
        Child::start(&arguments, None, move |line| {
            if line.starts_with("stale") {
                seen.one("stale_refused");
            }
        })
    }

    /// Waits for so many answers; `false` when the clients are done before.
    async fn reaches(&self, answers: u64) -> bool {
        while self.answered.load(Ordering::Relaxed) < answers {
            if self.over.load(Ordering::Relaxed) {
                return false;
            }
            sleep(Duration::from_millis(5)).await;
        }
        true
    }
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let rounds = options.rounds.unwrap_or(100_000);
    let plan = Plan::new(options.seed, rounds);
    let [sql_seed, first, second, clients_seed] = plan.seeds;
    let started = Instant::now();
    let deadline = options.seconds.map(|seconds| started + Duration::from_secs(seconds));
    let (injected, seen) = (Tally::default(), Tally::default());
    let server = Server::start()?;
    let direct = PostgresStore::builder(server.url()).connections(2).open().await?;
    server.client().await?.batch_execute(CHARGE).await?;
    let bar = ProgressBar::new(rounds)
        .with_style(ProgressStyle::with_template("  {bar:30} {pos}/{len} intents, {elapsed}, ready in {eta}")?);
    let stage = Arc::new(Stage {
        sql: Proxy::start(server.port()?, SQL, sql_seed, injected.clone()).await?,
        server,
        injected: injected.clone(),
        seen: seen.clone(),
        next: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        over: AtomicBool::new(false),
        stories: Mutex::default(),
        bar,
    });

    let mut proxies = Vec::new();
    let mut hurting = Vec::new();
    for (hurts, seed) in plan.services.iter().cloned().zip([first, second]) {
        let port = free_port()?;
        proxies.push(Proxy::start(port, HTTP, seed, injected.clone()).await?);
        hurting.push(tokio::spawn(hurt_again_and_again(stage.clone(), port, hurts)));
    }
    let crashing = tokio::spawn(crash_again_and_again(stage.clone(), plan.crashes.clone()));
    let link = Link::new(proxies.iter().map(Proxy::port).collect(), seen.clone())?;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stage, link) = (stage.clone(), link.clone());
            tokio::spawn(async move {
                while deadline.is_none_or(|deadline| Instant::now() < deadline) {
                    let number = stage.next.fetch_add(1, Ordering::Relaxed);
                    if number >= rounds {
                        break;
                    }
                    let story = link.tell(number, clients_seed).await;
                    lock(&stage.stories).push(story);
                    stage.answered.fetch_add(1, Ordering::Relaxed);
                    stage.bar.inc(1);
                }
            })
        })
        .collect();
    for client in clients {
        client.await?;
    }
    stage.over.store(true, Ordering::Relaxed);
    crashing.await??;
    stage.sql.calm();
    proxies.iter().for_each(Proxy::calm);
    // What is left of the services ends its work before anybody counts.
    let mut services = Vec::new();
    for service in hurting {
        services.push(service.await??);
    }
    stage.bar.finish_and_clear();
    sleep(HOLD).await;
    let mut stories = std::mem::take(&mut *lock(&stage.stories));
    // Whoever asks again later is told the same.
    let some = stories.len().div_ceil((rounds / 10).clamp(1, 1_000) as usize).max(1);
    for story in stories.iter_mut().step_by(some) {
        story.told.push(link.ask(&story.order, Rng::with_seed(clients_seed)).await);
        seen.one("replays_afterwards");
    }
    drop(services);

    let verdict = judge(&stories, &effects(&stage.server, &direct).await?);
    Report {
        rounds,
        injected: injected.total(),
        verdict,
        stale_refused: seen.of("stale_refused"),
        seed: options.seed,
        seconds: Report::seconds_since(started),
        by_kind: injected.all(),
        seen: seen.all(),
        not_injected: Vec::new(),
    }
    .conclude(&options)
}

/// Kills and freezes one process of the service; the one that lives in the end.
async fn hurt_again_and_again(stage: Arc<Stage>, port: u16, hurts: Vec<(u64, Hurt)>) -> Result<Child> {
    let url = Server::url_at(stage.sql.port());
    let mut service = stage.service(&url, port)?;
    for (moment, hurt) in hurts {
        if !stage.reaches(moment).await {
            break;
        }
        match hurt {
            Hurt::Kill => {
                service.kill().await?;
                stage.injected.one("killed");
                service = stage.service(&url, port)?;
            }
            Hurt::Freeze(pause) => {
                service.freeze()?;
                sleep(pause).await;
                service.thaw()?;
                stage.injected.one("frozen");
            }
        }
    }
    while !stage.over.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(10)).await;
    }
    Ok(service)
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

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// All that was done: rows and jobs.
async fn effects(server: &Server, store: &PostgresStore) -> Result<Vec<(Way, Receipt)>> {
    let rows = server.client().await?.query("SELECT key, cents, receipt FROM charge", &[]).await?;
    let receipt = |row: &selvedge::postgres::tokio_postgres::Row| Receipt {
        key: row.get(0),
        cents: row.get(1),
        receipt: row.get(2),
    };
    let mut all: Vec<_> = rows.iter().map(|row| (Way::Row, receipt(row))).collect();
    let mut after = None;
    loop {
        let filter = JobFilter { queue: Some(QUEUE.into()), after, limit: 1_000, ..JobFilter::default() };
        let page = store.jobs(&Context::new(), filter).await?;
        for job in &page.items {
            all.push((Way::Job, serde_json::from_slice(&job.payload)?));
        }
        match page.next {
            Some(next) => after = Some(JobId(next)),
            None => return Ok(all),
        }
    }
}

/// Compares what the clients were told with what was done.
fn judge(stories: &[Story], effects: &[(Way, Receipt)]) -> Verdict {
    let mut done = HashMap::<&str, Vec<&(Way, Receipt)>>::new();
    effects.iter().for_each(|effect| done.entry(&effect.1.key).or_default().push(effect));
    let mut verdict = Verdict { effects: effects.len() as u64, ..Verdict::default() };
    let mut known = 0;
    for Story { order, told, mixed_up } in stories {
        let effects = done.get(order.key.as_str()).map_or(&[][..], Vec::as_slice);
        known += effects.len();
        let Some(answer) = told.iter().flatten().next() else {
            verdict.lost += 1;
            continue;
        };
        verdict.acknowledged += 1;
        // Every answer to one key is the same answer, and everybody gets one.
        verdict.wrong += u64::from(told.iter().any(|other| other.as_ref() != Some(answer)));
        let refused = |told: &Option<Told>| told.as_ref().is_some_and(|told| told.status == 422);
        verdict.wrong += mixed_up.iter().filter(|told| !refused(told)).count() as u64;
        let receipt = serde_json::from_slice::<Receipt>(&answer.body).ok();
        match (order.way, effects) {
            (Way::Refused, []) => verdict.wrong += u64::from(answer.status != 402),
            (Way::Refused, _) => verdict.wrong += 1,
            (_, []) => verdict.lost += 1,
            (_, [(way, effect)]) => {
                let right = *way == order.way && effect.cents == order.cents && receipt.as_ref() == Some(effect);
                verdict.wrong += u64::from(!right || answer.status != 201);
            }
            (_, _) => verdict.doubled += 1,
        }
    }
    // What nobody asked for.
    verdict.wrong += (effects.len() - known) as u64;
    verdict
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::service::Order;

    fn receipt(key: &str, receipt: &str) -> Receipt {
        Receipt { key: key.into(), cents: 5, receipt: receipt.into() }
    }

    fn told(status: u16, receipt: &Receipt) -> Option<Told> {
        Some(Told { status, body: serde_json::to_vec(receipt).unwrap() })
    }

    fn story(way: Way) -> Story {
        let status = if way == Way::Refused { 402 } else { 201 };
        let order = Order { key: "a".into(), cents: 5, way };
        Story { order, told: vec![told(status, &receipt("a", "1"))], mixed_up: vec![] }
    }

    #[test]
    fn one_effect_for_one_intent_is_right() {
        let right = judge(&[story(Way::Row)], &[(Way::Row, receipt("a", "1"))]);
        assert_eq!(right, Verdict { acknowledged: 1, effects: 1, ..Verdict::default() });
        assert_eq!(judge(&[story(Way::Refused)], &[]), Verdict { acknowledged: 1, ..Verdict::default() });
    }

    #[test]
    fn every_kind_of_damage_is_counted() {
        let (row, other) = ((Way::Row, receipt("a", "1")), (Way::Row, receipt("a", "2")));
        assert_eq!(judge(&[story(Way::Row)], &[]).lost, 1, "told, and not done");
        assert_eq!(judge(&[Story { told: vec![None], ..story(Way::Row) }], from_ref(&row)).lost, 1, "never told");
        assert_eq!(judge(&[story(Way::Row)], &[row.clone(), other.clone()]).doubled, 1, "done twice");
        assert_eq!(judge(&[story(Way::Row)], &[other]).wrong, 1, "told of something else than was done");
        assert_eq!(judge(&[story(Way::Job)], from_ref(&row)).wrong, 1, "done another way");
        assert_eq!(judge(&[story(Way::Refused)], from_ref(&row)).wrong, 1, "refused, and done");
        assert_eq!(judge(&[story(Way::Row)], &[row.clone(), (Way::Row, receipt("b", "3"))]).wrong, 1, "for nobody");
        let told_twice = vec![told(201, &receipt("a", "1")), told(201, &receipt("a", "2"))];
        assert_eq!(judge(&[Story { told: told_twice, ..story(Way::Row) }], from_ref(&row)).wrong, 1, "two answers");
        let mixed_up = vec![told(201, &receipt("a", "1"))];
        assert_eq!(judge(&[Story { mixed_up, ..story(Way::Row) }], &[row]).wrong, 1, "another order was accepted");
    }

    #[test]
    fn the_seed_is_the_plan() {
        assert_eq!(Plan::new(5, 100_000), Plan::new(5, 100_000));
        assert_ne!(Plan::new(5, 100_000), Plan::new(6, 100_000));
    }
}
