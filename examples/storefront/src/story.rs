//! The story, told once: a question, some orders, a paywall, and the counts that matter.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures_util::future::{Either, select};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize, Stream::Stdout};
use selvedge::{
    Context, Engine, Intent,
    inference::{Chunk, Generate, Message, Usage},
    intent::IntentState,
    llama::Llama,
    priority::Priority,
    sqlite::SqliteStore,
    store::IntentFilter,
};
use selvedge_http::ReqwestTransport;
use serde::Serialize;

use crate::{
    link::BadLink,
    paywall, phone,
    server::Server,
    shop::{Charge, Place, Shop},
};

const GOODS: [(&str, u64); 4] = [("green tea", 450), ("black tea", 390), ("tea pot", 2900), ("cup", 850)];

/// Tells the story.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    shopping: Shopping,
    /// The seed of the link and of the shopper.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Also writes the counts as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The server's database: postgres://user@host:5432/database. It gets a schema for this run [default: a SQLite file]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// The model that answers the shopper's question (GGUF).
    #[arg(long, env = "SELVEDGE_MODEL", value_name = "FILE")]
    model: Option<PathBuf>,
    /// What the shopper asks.
    #[arg(long, default_value = "Which tea has less caffeine, green or black? Answer in one sentence.")]
    question: String,
    /// How many shoppers come to the paywall.
    #[arg(long, default_value_t = 200)]
    shoppers: usize,
}

/// How much is bought, over what link.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Shopping {
    /// How many orders the shopper makes.
    #[arg(long, default_value_t = 20)]
    pub(crate) orders: usize,
    /// The share of requests, and of responses, that the link loses; also the share it repeats.
    #[arg(long, default_value_t = 0.3)]
    pub(crate) drop_rate: f64,
}

/// The counts that matter.
#[derive(Debug, Serialize)]
struct Account {
    intents: usize,
    attempts: u64,
    drops: u64,
    repeats: u64,
    effects: usize,
    /// Charges whose trace id is the one the phone gave the order.
    traced: usize,
    cents: u64,
    tokens: usize,
    tokens_per_second: f64,
    seconds: f64,
    seed: u64,
    experiment: paywall::Account,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    ensure!((0.0..1.0).contains(&options.shopping.drop_rate), "--drop-rate is a share from 0 up to, not including, 1");
    let model = options
        .model
        .clone()
        .context("no model: pass --model FILE or set SELVEDGE_MODEL; `cargo xtask demo` fetches one and passes it")?;
    let started = Instant::now();
    let folder = tempfile::tempdir()?;

    heading("The shopper asks the phone");
    let store = SqliteStore::open(folder.path().join("phone.db"))?;
    let phone = with_model(store.clone(), model).await?;
    let usage = ask(&phone, &options.question).await?;

    heading("The shopper orders, on a train");
    let place = match &options.store {
        Some(url) => Place::of(url, &Shop::new_schema()),
        None => Place::File(folder.path().join("server.db")),
    };
    let server = Server::start(&place, ([127, 0, 0, 1], 0).into()).await?;
    let link = BadLink::new(
        ReqwestTransport::new(&format!("http://{}", server.address))?,
        options.shopping.drop_rate,
        options.seed,
    );
    let counts = link.counts();
    let orders = submit(&phone, &options).await?;
    send(&phone, &link, orders.len()).await?;
    let charges = charged(&server, orders.len()).await?;
    let seconds = started.elapsed().as_secs_f64();

    heading("Shoppers come to the paywall");
    let experiment = paywall::run(store, &server, options.shoppers, options.shopping.drop_rate, options.seed).await?;
    let shop = server.shop.clone();
    drop(server);
    shop.remove().await?;

    let traces: HashMap<String, String> = orders
        .iter()
        .map(|order| (order.key(), order.trace.map(|trace| trace.trace_id()).unwrap_or_default()))
        .collect();
    let account = Account {
        intents: orders.len(),
        attempts: counts.attempts.load(Ordering::Relaxed),
        drops: counts.drops.load(Ordering::Relaxed),
        repeats: counts.repeats.load(Ordering::Relaxed),
        effects: charges.len(),
        traced: charges.iter().filter(|charge| traces.get(&charge.key) == Some(&charge.trace_id)).count(),
        cents: charges.iter().map(|charge| charge.cents).sum(),
        tokens: usage.completion_tokens,
        tokens_per_second: (usage.tokens_per_second() * 10.0).round() / 10.0,
        seconds: (seconds * 100.0).round() / 100.0,
        seed: options.seed,
        experiment,
    };
    tell(&account, charges.first().map(|charge| charge.trace_id.as_str()));
    account.experiment.tell();
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&account)? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let distinct: std::collections::HashSet<_> = charges.iter().map(|charge| &charge.key).collect();
    ensure!(
        account.effects == account.intents && distinct.len() == account.intents,
        "{} intents but {} effects on {} orders",
        account.intents,
        account.effects,
        distinct.len()
    );
    ensure!(account.traced == account.intents, "{} of {} traces arrived", account.traced, account.intents);
    account.experiment.check()
}

/// A phone with a model. Loading takes a second, so it is done off the runtime's threads.
async fn with_model(store: SqliteStore, model: PathBuf) -> anyhow::Result<Engine> {
    let spinner = ProgressBar::new_spinner().with_message("loading the model");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let model = tokio::task::spawn_blocking(move || Llama::builder(model).open()).await??;
    spinner.finish_and_clear();
    Ok(selvedge::builder().store(store).scheduler(Priority::new(1, 4)).model(model).build())
}

async fn ask(phone: &Engine, question: &str) -> anyhow::Result<Usage> {
    use std::io::Write;

    println!("  {} {question}", "shopper:".if_supports_color(Stdout, |text| text.bold()));
    print!("  {} ", "phone:".if_supports_color(Stdout, |text| text.bold()));
    let request =
        Generate::chat([Message::system("You are the assistant of a small tea shop."), Message::user(question)])
            .max_tokens(80);
    let mut answer = phone.chat(&Context::new(), None, request).await?;
    let mut used = Usage::default();
    while let Some(chunk) = answer.next().await {
        match chunk? {
            Chunk::Tokens { text, .. } => {
                print!("{}", text.replace('\n', " "));
                std::io::stdout().flush()?;
            }
            Chunk::End { usage, .. } => used = usage,
        }
    }
    println!();
    Ok(used)
}

async fn submit(phone: &Engine, options: &Options) -> anyhow::Result<Vec<Intent>> {
    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut orders = Vec::with_capacity(options.shopping.orders);
    for _ in 0..options.shopping.orders {
        let (item, cents) = GOODS[random.usize(..GOODS.len())];
        let order = phone::order(item, cents);
        phone.submit(&Context::new(), order.clone()).await?;
        orders.push(order);
    }
    Ok(orders)
}

/// Sends until every intent is answered.
async fn send(phone: &Engine, link: &BadLink<ReqwestTransport>, orders: usize) -> anyhow::Result<()> {
    let bar = ProgressBar::new(orders as u64)
        .with_style(ProgressStyle::with_template("  {bar:30} {pos}/{len} answered, {elapsed}")?);
    let cx = Context::new().with_timeout(Duration::from_secs(120));
    let sink = phone.intent_sink(link).with_timeout(Duration::from_secs(5));
    let relay = std::pin::pin!(phone.relay(&cx, &sink));
    let watch = std::pin::pin!(async {
        loop {
            let pending = pending(phone).await?;
            bar.set_position((orders - pending) as u64);
            if pending == 0 {
                return anyhow::Ok(());
            }
            cx.check("storefront.send")?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let ended = match select(watch, relay).await {
        Either::Left((done, _)) => done,
        Either::Right((ended, _)) => ended.map(|_| ()).map_err(Into::into),
    };
    bar.finish_and_clear();
    ended
}

async fn pending(phone: &Engine) -> anyhow::Result<usize> {
    let filter = IntentFilter { state: Some(IntentState::Pending), limit: usize::MAX >> 1, ..IntentFilter::default() };
    Ok(phone.intents(&Context::new(), filter).await?.items.len())
}

/// Waits until the server has charged as many orders as there are, or has nothing left to do.
pub(crate) async fn charged(server: &Server, orders: usize) -> anyhow::Result<Vec<Charge>> {
    use selvedge::store::StoreExt;

    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let queues = server.store.queues(&Context::new()).await?;
        let waiting: u64 = queues.iter().map(|queue| queue.ready + queue.scheduled + queue.running).sum();
        let charges = server.shop.charges().await?;
        if waiting == 0 || Instant::now() > deadline {
            ensure!(waiting == 0, "{waiting} of {orders} orders were not charged within a minute");
            return Ok(charges);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn heading(text: &str) {
    println!("\n{}", text.if_supports_color(Stdout, |text| text.bold()));
}

fn tell(account: &Account, trace: Option<&str>) {
    heading("What happened");
    let ok = account.effects == account.intents;
    println!("  {:>5} orders written down on the phone", account.intents);
    println!("  {:>5} requests sent over the link", account.attempts);
    println!("  {:>5} requests or responses dropped, {} requests repeated", account.drops, account.repeats);
    let effects = format!("  {:>5} charges on the server", account.effects);
    println!(
        "{}",
        effects.if_supports_color(Stdout, |text| text.color(if ok {
            owo_colors::AnsiColors::Green
        } else {
            owo_colors::AnsiColors::Red
        }))
    );
    println!("  {:>5} of them carry the trace id their order got on the phone", account.traced);
    println!("  {:>5.1} tokens/s from the model on the phone ({} tokens)", account.tokens_per_second, account.tokens);
    if let Some(trace) = trace {
        println!("  first order's trace: {trace}");
    }
}
