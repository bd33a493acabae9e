//! A disk that fills up: what the Store says then, and what is left of what it promised before.
//!
//! The cluster's files are on a small tmpfs in a mount namespace of its own, so that nothing is left of it whatever happens.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use selvedge::{Commit, Context, ErrorKind, Store, postgres::PostgresStore, store::NewJob};
use selvedge_testkit::postgres::Cluster;
use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::sleep};

use crate::{
    child::Child,
    counts::{Tally, Verdict},
    judge,
    produce::Promise,
    queue::{effects, notes, work_off},
    server::Server,
    task::{EFFECT, Ends, Task},
};

/// How large the disk is, and how much of it is left when it is about to be full.
const DISK: &str = "256m";
const LEFT: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often the disk fills.
    #[arg(long)]
    rounds: u64,
    /// The seed of the jobs.
    #[arg(long)]
    seed: u64,
}

/// What came of it, or why it could not be done.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Done { verdict: Verdict, by_kind: BTreeMap<String, u64>, seen: BTreeMap<String, u64> },
    Refused(String),
}

/// Does it in a process with a mount namespace of its own.
pub(crate) async fn run_apart(rounds: u64, seed: u64) -> Result<Outcome> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--"]).arg(std::env::current_exe()?).arg("disk");
    command.args(["--rounds", &rounds.to_string(), "--seed", &seed.to_string()]).kill_on_drop(true);
    let output = match command.output().await {
        Ok(output) => output,
        Err(error) => return Ok(Outcome::Refused(format!("a full disk: cannot run unshare: {error}"))),
    };
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if let Some(outcome) = said.lines().last().and_then(|line| serde_json::from_str(line).ok()) {
        return Ok(outcome);
    }
    if complained.starts_with("unshare:") {
        return Ok(Outcome::Refused(format!("a full disk: {}", complained.trim())));
    }
    bail!("filling the disk failed ({}): {}", output.status, complained.trim())
}

/// In the namespace: mounts, fills, judges, and prints the outcome as one line.
pub(crate) async fn run(options: Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={DISK},mode=1777"), "tmpfs"]).arg(folder.path());
    let mounted = mount.output().await.context("cannot run mount")?;
    let outcome = if mounted.status.success() {
        fill(&options, folder.path()).await?
    } else {
        let why = String::from_utf8_lossy(&mounted.stderr);
        Outcome::Refused(format!(
            "a full disk: a small file system cannot be mounted (that needs root): {}",
            why.trim()
        ))
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// A file that takes the room, and gives it back when it is dropped.
struct Ballast(PathBuf);

impl Ballast {
    fn leaving(folder: &Path, left: u64) -> Result<Self> {
        let ballast = Self(folder.join("ballast"));
        let mut file = File::create(&ballast.0)?;
        let room = rustix::fs::statvfs(folder)?;
        let zeros = vec![0; 64 << 10];
        for _ in 0..(room.f_bavail * room.f_frsize).saturating_sub(left) / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        Ok(ballast)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Somebody who enqueues and remembers.
struct Producer {
    store: PostgresStore,
    dice: Rng,
    promises: HashMap<String, Promise>,
    seen: Tally,
}

impl Producer {
    /// Enqueues a job with some bulk. There is no unique key: an error promises that nothing of the commit came true, or says
    /// that the connection was lost.
    async fn enqueue(&mut self, key: &str) -> Result<bool> {
        let task = Task::new(key.into(), Ends::ByRow);
        let mut bulky = serde_json::to_value(&task)?;
        let bulk: String = (0..4_000).map(|_| self.dice.alphanumeric()).collect();
        bulky["bulk"] = bulk.into();
        let job = NewJob { payload: serde_json::to_vec(&bulky)?.into(), ..task.job()? };
        let promise = Promise { ends: task.ends, unsure: 0, jobs: Vec::new() };
        let promise = self.promises.entry(key.into()).or_insert(promise);
        match self.store.commit(&Context::new(), Commit::new().enqueue([job])).await {
            Ok(receipt) => {
                promise.jobs.extend(receipt.jobs().map(|job| job.id.0));
                return Ok(true);
            }
            Err(error) if error.kind() == ErrorKind::StorageFull => self.seen.one("storage_full"),
            Err(error) if error.retryable() => self.seen.one("unavailable"),
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                promise.unsure += 1;
                self.seen.one("unsure");
            }
            Err(error) => bail!("a full disk must be told as such: {error:?}"),
        }
        Ok(false)
    }

    /// Enqueues new jobs until one is refused; its key.
    async fn until_refused(&mut self, round: u64) -> Result<String> {
        for number in 0..100_000 {
            let key = format!("disk-{round}-{number}");
            if !self.enqueue(&key).await? {
                return Ok(key);
            }
        }
        bail!("the disk does not fill up")
    }

    /// Asks again for what was refused, now that there is room.
    async fn until_taken(&mut self, key: &str) -> Result<()> {
        let begun = Instant::now();
        while self.promises.get(key).is_some_and(|promise| promise.unsure == 0) && !self.enqueue(key).await? {
            ensure!(begun.elapsed() < Duration::from_secs(30), "there is room, and the Store still takes nothing");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

async fn fill(options: &Options, folder: &Path) -> Result<Outcome> {
    let server = Server::of(Cluster::start_in(folder, &["-c", "max_wal_size=96MB", "-c", "min_wal_size=96MB"])?);
    let store = PostgresStore::builder(server.url()).connections(4).open().await?;
    let client = server.client().await?;
    client.batch_execute(EFFECT).await?;
    // Segments of the log that are used again need no more room: so it is the tables that meet the full disk.
    for _ in 0..5 {
        client.batch_execute("CREATE TEMPORARY TABLE turn (); DROP TABLE turn; SELECT pg_switch_wal()").await?;
    }
    client.batch_execute("CHECKPOINT").await?;

    let (by_kind, seen) = (Tally::default(), Tally::default());
    let dice = Rng::with_seed(options.seed);
    let mut producer = Producer { store: store.clone(), dice, promises: HashMap::new(), seen: seen.clone() };
    for round in 0..options.rounds {
        let ballast = Ballast::leaving(folder, LEFT)?;
        // Workers go on while there is no room for what they do.
        let worker = Child::start(&["worker".into(), "--url".into(), server.url().into()], None, |_| ())?;
        let mut refused = vec![producer.until_refused(round).await?];
        for again in 0..20 {
            let key = format!("disk-{round}-again-{again}");
            if !producer.enqueue(&key).await? {
                refused.push(key);
            }
            sleep(Duration::from_millis(20)).await;
        }
        by_kind.one("disk_full");
        worker.kill().await?;
        drop(ballast);
        for key in refused {
            producer.until_taken(&key).await?;
        }
    }
    log_fills_up(&server, folder, &mut producer).await?;
    by_kind.one("log_full");

    let url = server.url().to_owned();
    let worker = || Child::start(&["worker".into(), "--url".into(), url.clone()], None, |_| ());
    let _workers = [worker()?, worker()?];
    work_off(&store).await;
    let effects = effects(&server.client().await?).await?;
    let verdict = judge::judge(&producer.promises, &effects, &notes(&store).await?);
    Ok(Outcome::Done { verdict, by_kind: by_kind.all(), seen: seen.all() })
}

/// No room for the log either: PostgreSQL stops itself then, and comes back when there is room.
async fn log_fills_up(server: &Server, folder: &Path, producer: &mut Producer) -> Result<()> {
    let ballast = Ballast::leaving(folder, 0)?;
    let client = server.client().await?;
    let begun = Instant::now();
    for number in 0.. {
        let turned =
            client.batch_execute("CREATE TEMPORARY TABLE turn (); DROP TABLE turn; SELECT pg_switch_wal()").await;
        producer.enqueue(&format!("log-{number}")).await?;
        if turned.is_err_and(|error| error.code().is_none()) {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "the log does not fill the disk");
    }
    drop(ballast);
    // It may have given up on starting again by itself.
    let begun = Instant::now();
    while server.client().await.is_err() {
        if begun.elapsed() > Duration::from_secs(3) {
            server.crash().await?;
        }
        sleep(Duration::from_millis(100)).await;
    }
    producer.until_taken("after the log").await
}
