//! The server's half of the story, for a phone that is written in another language.

use std::{collections::HashMap, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{
    server::Server,
    story::{charged, heading},
};

/// How long a phone may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the server and a phone of another language.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many orders the phone makes.
    #[arg(long, default_value_t = 20)]
    orders: usize,
    /// The share of requests, and of responses, that the phone's link loses; also the share it repeats.
    #[arg(long, default_value_t = 0.3)]
    drop_rate: f64,
    /// The program; `--server URL --orders N --drop-rate SHARE` is added. It prints `submitted KEY TRACE_ID` for each order
    /// once it is written down, and at its end its counts as one line of JSON.
    #[arg(last = true, required = true)]
    phone: Vec<String>,
}

/// What a phone says at its end.
#[derive(Debug, Deserialize)]
struct Counts {
    attempts: u64,
    drops: u64,
    repeats: u64,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("server.db"), ([127, 0, 0, 1], 0).into()).await?;
    heading("A phone in another language orders");
    let (program, arguments) = options.phone.split_first().context("no program")?;
    let mut phone = Command::new(program)
        .args(arguments)
        .args(["--server", &format!("http://{}", server.address)])
        .args(["--orders", &options.orders.to_string(), "--drop-rate", &options.drop_rate.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut lines = BufReader::new(phone.stdout.take().context("the phone has no stdout")?).lines();
    let mut traces = HashMap::new();
    let mut counts: Option<Counts> = None;
    let talking = async {
        while let Some(line) = lines.next_line().await? {
            if let Some((key, trace)) = line.strip_prefix("submitted ").and_then(|rest| rest.rsplit_once(' ')) {
                traces.insert(key.to_owned(), trace.to_owned());
            } else if line.starts_with('{') {
                counts = Some(serde_json::from_str(&line).with_context(|| format!("the phone's counts: {line}"))?);
            } else {
                println!("  {line}");
            }
        }
        anyhow::Ok(phone.wait().await?)
    };
    let status = tokio::time::timeout(PATIENCE, talking).await.context("the phone did not come to its end")??;
    ensure!(status.success(), "the phone ended with {status}");
    let counts = counts.context("the phone printed no counts")?;
    let charges = charged(&server, traces.len()).await?;
    let traced = charges.iter().filter(|charge| traces.get(&charge.key) == Some(&charge.trace_id)).count();
    let Counts { attempts, drops, repeats } = counts;
    println!(
        "  {} intents, {attempts} attempts, {drops} drops, {repeats} repeats, {} effects, {traced} traced",
        traces.len(),
        charges.len()
    );
    ensure!(traces.len() == options.orders, "{} orders were asked for, {} written down", options.orders, traces.len());
    ensure!(charges.len() == traces.len(), "{} intents but {} effects", traces.len(), charges.len());
    ensure!(traced == traces.len(), "{traced} of {} traces arrived with their order", traces.len());
    ensure!(options.drop_rate == 0.0 || drops > 0, "the link dropped nothing, so this run shows nothing");
    Ok(())
}
