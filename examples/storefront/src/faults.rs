//! Kills and freezes phone and server at random moments and counts what was lost, charged twice, or charged wrongly.
//!
//! Each process works on its own files and is restarted from them. An order counts from the moment the phone printed it:
//! then it was written down, and nothing that happens later may lose it.

use std::{
    collections::{HashMap, HashSet},
    net::{SocketAddr, TcpListener},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use fastrand::Rng;
use indicatif::{ProgressBar, ProgressStyle};
use selvedge::{
    Context,
    intent::IntentState,
    sqlite::SqliteStore,
    store::{IntentFilter, StoreExt},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::Notify,
};

use crate::shop::{Place, Shop};

/// Injects faults.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often the server is killed, and how often the phone is.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Stops earlier after so many seconds of faults.
    #[arg(long)]
    seconds: Option<u64>,
    /// The seed of the moments.
    #[arg(long, default_value_t = 11)]
    seed: u64,
    /// Also writes the counts as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What was injected and what came of it.
#[derive(Debug, Serialize)]
struct Report {
    rounds: u64,
    /// Processes killed (seen to have died of SIGKILL) and processes frozen.
    injected: u64,
    server_kills: u64,
    phone_kills: u64,
    freezes: u64,
    #[serde(flatten)]
    verdict: Verdict,
    /// Charges refused because the worker had lost its lease while it was frozen.
    stale_refused: u64,
    seed: u64,
    seconds: f64,
}

/// What the two databases say of each other.
#[derive(Debug, Serialize)]
struct Verdict {
    /// Orders the phone had written down.
    intents: usize,
    effects: usize,
    lost: usize,
    doubled: usize,
    wrong: usize,
}

/// What all tasks share.
struct Stage {
    folder: PathBuf,
    address: SocketAddr,
    /// Keys of orders that the phone printed.
    submitted: Mutex<Vec<String>>,
    stale: AtomicU64,
    /// Rung whenever the second worker begins to charge.
    charging: Notify,
    over: AtomicBool,
}

#[derive(Debug, Deserialize)]
struct Order {
    cents: u64,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let started = Instant::now();
    let stage = Arc::new(Stage {
        folder: folder.path().into(),
        address: free_address()?,
        submitted: Mutex::default(),
        stale: AtomicU64::new(0),
        charging: Notify::new(),
        over: AtomicBool::new(false),
    });
    let bar = ProgressBar::new(options.rounds * 2)
        .with_style(ProgressStyle::with_template("  {bar:30} {pos}/{len} kills, {elapsed}, ready in {eta}")?);
    let deadline = options.seconds.map(|seconds| started + Duration::from_secs(seconds));

    let mut seeds = Rng::with_seed(options.seed);
    let plan = |seed| Kills { rounds: options.rounds, deadline, random: Rng::with_seed(seed), bar: bar.clone() };
    let server = tokio::spawn(kill_again_and_again(stage.clone(), Role::Server, plan(seeds.u64(..))));
    let phone = tokio::spawn(kill_again_and_again(stage.clone(), Role::Phone, plan(seeds.u64(..))));
    let freezer = tokio::spawn(freeze_again_and_again(stage.clone(), Rng::with_seed(seeds.u64(..))));
    let (server_kills, phone_kills) = (server.await??, phone.await??);
    stage.over.store(true, Ordering::Relaxed);
    let freezes = freezer.await??;
    bar.finish_and_clear();

    let stores = settle(&stage).await?;
    let verdict = judge(&stage, &stores).await?;
    let report = Report {
        rounds: server_kills.max(phone_kills),
        injected: server_kills + phone_kills + freezes,
        server_kills,
        phone_kills,
        freezes,
        verdict,
        stale_refused: stage.stale.load(Ordering::Relaxed),
        seed: options.seed,
        seconds: (started.elapsed().as_secs_f64() * 10.0).round() / 10.0,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string(&report)? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    ensure!(report.injected > 0, "no fault was injected, so nothing was shown");
    let Verdict { intents, lost, doubled, wrong, .. } = report.verdict;
    ensure!(intents > 0, "no order was made, so nothing was shown");
    ensure!(
        report.freezes < 20 || report.stale_refused > 0,
        "no freeze hit a charge, so it was not shown that a late worker charges nothing"
    );
    ensure!(lost + doubled + wrong == 0, "{lost} orders were lost, {doubled} charged twice, {wrong} charged wrongly");
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Server,
    Worker,
    Phone,
    /// A phone that makes no more orders, over a good link.
    LastPhone,
}

impl Stage {
    fn db(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts a process of its own. It is killed with this one, should this one end early.
    fn spawn(self: &Arc<Self>, role: Role) -> anyhow::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        let server = format!("http://{}", self.address);
        let seed = fastrand::u64(..).to_string();
        match role {
            Role::Server => command
                .arg("server")
                .arg("--db")
                .arg(self.db("server.db"))
                .args(["--listen", &self.address.to_string()]),
            Role::Worker => command.arg("worker").arg("--db").arg(self.db("server.db")),
            Role::Phone => {
                command.arg("phone").arg("--db").arg(self.db("phone.db")).args(["--server", &server, "--seed", &seed])
            }
            Role::LastPhone => command.arg("phone").arg("--db").arg(self.db("phone.db")).args([
                "--server",
                &server,
                "--drop-rate",
                "0",
                "--only-send",
            ]),
        };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the {role:?}"))?;
        let stdout = child.stdout.take().context("the child has no stdout")?;
        let stage = self.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(key) = line.strip_prefix("submitted ") {
                    stage.submitted.lock().unwrap_or_else(PoisonError::into_inner).push(key.into());
                } else if line.starts_with("stale ") {
                    stage.stale.fetch_add(1, Ordering::Relaxed);
                } else if role == Role::Worker && line.starts_with("charging ") {
                    stage.charging.notify_waiters();
                }
            }
        });
        Ok(child)
    }
}

struct Kills {
    rounds: u64,
    deadline: Option<Instant>,
    random: Rng,
    bar: ProgressBar,
}

/// Lets a process run for a random moment, kills it, and starts it again, `rounds` times. Returns how often it died of it.
async fn kill_again_and_again(stage: Arc<Stage>, role: Role, mut kills: Kills) -> anyhow::Result<u64> {
    let mut killed = 0;
    for _ in 0..kills.rounds {
        if kills.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
        let mut child = stage.spawn(role)?;
        // Anything from the first instructions of its start to the middle of its work.
        tokio::time::sleep(Duration::from_millis(kills.random.u64(1..400))).await;
        child.start_kill().ok();
        let status = child.wait().await?;
        ensure!(status.signal() == Some(9), "the {role:?} ended by itself before it was killed: {status}");
        killed += 1;
        kills.bar.inc(1);
    }
    Ok(killed)
}

/// Freezes a second worker for longer than its leases last, again and again, so that it comes back with stale leases.
async fn freeze_again_and_again(stage: Arc<Stage>, mut random: Rng) -> anyhow::Result<u64> {
    use rustix::process::{Pid, Signal, kill_process};

    // The database must be there before a second process joins in.
    while !stage.db("server.db").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut frozen, mut worker) = (0, stage.spawn(Role::Worker)?);
    while !stage.over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(random.u64(50..500))).await;
        if let Some(status) = worker.try_wait()? {
            tracing::warn!(%status, "the second worker ended by itself and is started again");
            worker = stage.spawn(Role::Worker)?;
            continue;
        }
        // In the middle of a charge, if there is one soon.
        tokio::time::timeout(Duration::from_secs(1), stage.charging.notified()).await.ok();
        let pid = worker.id().and_then(|id| Pid::from_raw(id as i32)).context("the worker has no process id")?;
        kill_process(pid, Signal::STOP)?;
        tokio::time::sleep(Duration::from_millis(random.u64(600..1200))).await;
        kill_process(pid, Signal::CONT)?;
        frozen += 1;
    }
    Ok(frozen)
}

/// The two databases, once nothing is left to do.
struct Stores {
    phone: SqliteStore,
    server: Shop,
}

/// Lets everything that is pending come to its end, without faults.
async fn settle(stage: &Arc<Stage>) -> anyhow::Result<Stores> {
    let _server = stage.spawn(Role::Server)?;
    let _phone = stage.spawn(Role::LastPhone)?;
    let open = |name: &str| SqliteStore::open(stage.db(name));
    let server = Shop::open(&Place::File(stage.db("server.db"))).await?;
    let stores = Stores { phone: open("phone.db")?, server };
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(100));
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let pending = intents(&stores.phone, Some(IntentState::Pending)).await?.len();
        let queues = stores.server.store().queues(&Context::new()).await?;
        let jobs: u64 = queues.iter().map(|queue| queue.ready + queue.scheduled + queue.running).sum();
        if pending == 0 && jobs == 0 {
            spinner.finish_and_clear();
            return Ok(stores);
        }
        spinner.set_message(format!("{pending} orders and {jobs} jobs are still on their way"));
        if Instant::now() > deadline {
            bail!("{pending} orders and {jobs} jobs did not come to an end within two minutes without faults");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Compares what the phone wrote down with what the server charged.
async fn judge(stage: &Stage, stores: &Stores) -> anyhow::Result<Verdict> {
    let written: HashMap<String, u64> = intents(&stores.phone, None)
        .await?
        .into_iter()
        .map(|view| {
            let order: Order = serde_json::from_slice(&view.intent.payload)?;
            Ok((view.intent.key(), order.cents))
        })
        .collect::<anyhow::Result<_>>()?;
    let charges = stores.server.charges().await?;
    let mut times: HashMap<&str, usize> = HashMap::new();
    for charge in &charges {
        *times.entry(&charge.key).or_default() += 1;
    }
    let printed = stage.submitted.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let orders: HashSet<&String> = printed.iter().chain(written.keys()).collect();
    Ok(Verdict {
        intents: orders.len(),
        effects: charges.len(),
        lost: orders.iter().filter(|key| !times.contains_key(key.as_str())).count(),
        doubled: times.values().filter(|times| **times > 1).count(),
        wrong: charges.iter().filter(|charge| written.get(&charge.key) != Some(&charge.cents)).count(),
    })
}

async fn intents(store: &SqliteStore, state: Option<IntentState>) -> anyhow::Result<Vec<selvedge::intent::IntentView>> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.intents(&Context::new(), IntentFilter { state, after, limit: 1_000 }).await?;
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

/// An address that is free now, and stays the server's over its restarts.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
