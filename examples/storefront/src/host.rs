//! The server's half of the story, for a phone that is written in another language.

use std::{collections::HashMap, os::unix::process::ExitStatusExt, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
};

use crate::{
    paywall::{self, Told},
    server::Server,
    shop::Place,
    story::{Shopping, charged, heading},
};

/// How long a phone may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the server and a phone of another language.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    shopping: Shopping,
    /// How many shoppers come to the paywall.
    #[arg(long, default_value_t = 24)]
    shoppers: usize,
    /// First let the phone send into a server that never answers, kill it there, and start it again for as many orders more.
    /// The phone's own arguments have to name the database that it keeps.
    #[arg(long)]
    kill: bool,
    /// The program; `--server URL --orders N --drop-rate SHARE --shoppers N --trusted-key ID=HEX` is added. It prints
    /// `submitted KEY TRACE_ID` for each order once it is written down, and at its end its counts as one line of JSON.
    #[arg(last = true, required = true)]
    phone: Vec<String>,
}

/// What a phone says at its end.
#[derive(Debug, Deserialize)]
struct Counts {
    attempts: u64,
    drops: u64,
    repeats: u64,
    /// None when no shoppers were asked for.
    paywall: Option<Told>,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&Place::File(folder.path().join("server.db")), ([127, 0, 0, 1], 0).into()).await?;
    let Shopping { orders, drop_rate } = options.shopping;
    let mut phone = Phone { program: options.phone, traces: HashMap::new(), counts: None };
    let mut expected = orders;
    if options.kill {
        heading("A phone in another language is killed while it sends");
        tokio::time::timeout(PATIENCE, phone.killed(orders)).await.context("the phone sent nothing")??;
        ensure!(phone.traces.len() == orders, "{orders} orders were asked for, {} written down", phone.traces.len());
        expected += orders;
    }
    heading("A phone in another language orders, and shoppers come to its paywall");
    let url = format!("http://{}", server.address);
    tokio::time::timeout(PATIENCE, phone.working(&url, orders, drop_rate, options.shoppers))
        .await
        .context("the phone did not come to its end")??;
    let traces = phone.traces;
    let Counts { attempts, drops, repeats, paywall } = phone.counts.context("the phone printed no counts")?;
    let charges = charged(&server, traces.len()).await?;
    let traced = charges.iter().filter(|charge| traces.get(&charge.key) == Some(&charge.trace_id)).count();
    println!(
        "  {} intents, {attempts} attempts, {drops} drops, {repeats} repeats, {} effects, {traced} traced",
        traces.len(),
        charges.len()
    );
    ensure!(traces.len() == expected, "{expected} orders were asked for, {} written down", traces.len());
    ensure!(charges.len() == traces.len(), "{} intents but {} effects", traces.len(), charges.len());
    ensure!(traced == traces.len(), "{traced} of {} traces arrived with their order", traces.len());
    ensure!(drop_rate == 0.0 || drops > 0, "the link dropped nothing, so this run shows nothing");
    if options.shoppers > 0 {
        let told = paywall.context("the phone printed nothing of its paywall")?;
        ensure!(told.shoppers == options.shoppers, "{} shoppers came, not {}", told.shoppers, options.shoppers);
        paywall::compare(&server, &told).await?;
    }
    Ok(())
}

/// A program that plays the phone, and what it has said so far.
struct Phone {
    program: Vec<String>,
    /// The trace of each key.
    traces: HashMap<String, String>,
    counts: Option<Counts>,
}

impl Phone {
    fn start(&self, server: &str, orders: usize, drop_rate: f64, shoppers: usize) -> anyhow::Result<Child> {
        let (program, arguments) = self.program.split_first().context("no program")?;
        Command::new(program)
            .args(arguments)
            .args(["--server", server, "--orders", &orders.to_string(), "--drop-rate", &drop_rate.to_string()])
            .args(["--shoppers", &shoppers.to_string(), "--trusted-key", &paywall::trusted_key()])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {program}"))
    }

    /// Reads what a phone says until it falls silent.
    async fn listen(&mut self, child: &mut Child) -> anyhow::Result<()> {
        let mut lines = BufReader::new(child.stdout.take().context("the phone has no stdout")?).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some((key, trace)) = line.strip_prefix("submitted ").and_then(|rest| rest.rsplit_once(' ')) {
                self.traces.insert(key.to_owned(), trace.to_owned());
            } else if line.starts_with('{') {
                let counts = serde_json::from_str(&line).with_context(|| format!("the phone's counts: {line}"))?;
                self.counts = Some(counts);
            } else {
                println!("  {line}");
            }
        }
        Ok(())
    }

    /// Lets a phone do all of its work.
    async fn working(&mut self, server: &str, orders: usize, drop_rate: f64, shoppers: usize) -> anyhow::Result<()> {
        let mut child = self.start(server, orders, drop_rate, shoppers)?;
        self.listen(&mut child).await?;
        let status = child.wait().await?;
        ensure!(status.success(), "the phone ended with {status}");
        Ok(())
    }

    /// Kills a phone that waits for an answer: its engine is then in the middle of a callback, which is the transport.
    async fn killed(&mut self, orders: usize) -> anyhow::Result<()> {
        let silent = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut child = self.start(&format!("http://{}", silent.local_addr()?), orders, 0.0, 0)?;
        let id = child.id().context("the phone ended at once")?;
        let kill = async {
            let (mut connection, _) = silent.accept().await?;
            let mut request = [0; 256];
            let read = connection.read(&mut request).await?;
            ensure!(request[..read].starts_with(b"POST "), "the phone sent no request");
            let id = i32::try_from(id).ok().and_then(Pid::from_raw).context("the phone has no process id")?;
            Ok(kill_process(id, Signal::KILL)?)
        };
        let (listened, killed) = tokio::join!(self.listen(&mut child), kill);
        listened?;
        killed?;
        let status = child.wait().await?;
        ensure!(status.signal() == Some(9), "the phone was to be killed, and ended with {status}");
        println!("  killed while its request had no answer; {} orders were written down", self.traces.len());
        Ok(())
    }
}
