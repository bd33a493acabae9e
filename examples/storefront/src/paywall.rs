//! The paywall: shoppers come to it, some leave and are made an offer, and the server says what that earned.
//!
//! Who sees what is decided on the phone, by a configuration that the server signed. What happened there goes through the
//! phone's outbox over the bad link, and counts once on the server.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use bytes::Bytes;
use fastrand::Rng;
use selvedge::{
    AnyStore, Context, Result, Timestamp,
    experiment::{Assignment, PaywallEvent},
    experiments::{
        ConfigSource, Delivery, Experiments,
        analysis::{Options, Report, analyze, input::read_facts},
        public_key, sign,
    },
    sqlite::SqliteStore,
    store::{Fact, StoreExt},
    transport::{HttpRequest, HttpTransport},
};
use selvedge_http::{ReqwestTransport, ServedConfig};
use serde::{Deserialize, Serialize};

use crate::{
    link::{BadLink, Counts},
    server::Server,
    shopper::{PAYWALL, Shopper},
    story::heading,
};

/// The configuration, as GrowthBook's SDK endpoint would send it.
const PAYLOAD: &str = include_str!("../placements.json");
/// What comes with the app, until the server has been reached.
const BUNDLED: &str = r#"{ "features": { "main_paywall": { "defaultValue": { "offering": "annual" } } } }"#;
const EXPERIMENT: &str = "paywall-exit";
/// A real one never leaves the machine that signs.
const SECRET: [u8; 32] = *b"this key of a demo is no secret!";
const KEY: &str = "demo";

/// The server's part: its experiments, and the signed configuration that it hands out.
pub(crate) fn serve(store: AnyStore) -> Result<(Experiments, ServedConfig)> {
    let signed = sign(PAYLOAD.as_bytes(), KEY, &SECRET, Timestamp::now())?;
    let experiments = Experiments::builder().store(store).trusted_key(KEY, &public_key(&SECRET)).build()?;
    experiments.load(signed.as_bytes())?;
    Ok((experiments, ServedConfig::new(signed)))
}

/// What a phone in another language is told to believe: the key's id and its public half, as `ID=HEX`.
pub(crate) fn trusted_key() -> String {
    let hex: String = public_key(&SECRET).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{KEY}={hex}")
}

/// What a phone in another language says of its paywall.
#[derive(Debug, Deserialize)]
pub(crate) struct Told {
    pub(crate) shoppers: usize,
    /// Written down on the phone, by name.
    events: BTreeMap<String, usize>,
    /// What the shoppers paid, in cents.
    paid: i64,
}

/// # Errors
/// When the server does not have what the phone says.
pub(crate) async fn compare(server: &Server, told: &Told) -> anyhow::Result<()> {
    let cx = Context::new();
    let mut kept = BTreeMap::new();
    for fact in facts(&server.store, &cx).await? {
        *kept.entry(fact.name).or_default() += 1;
    }
    let report = report(&server.store, &cx).await?;
    let all = kept.values().sum::<usize>();
    println!("  {} shoppers, {all} events kept on the server, {} cents paid", report.users, told.paid);
    ensure!(kept == told.events, "the phone wrote down {:?}, and the server has {kept:?}", told.events);
    ensure!(kept.contains_key("exit_offer_triggered"), "nobody was made an exit offer, so this run does not show one");
    judged(&report, told.shoppers, told.paid)
}

/// # Errors
/// When the report lacks somebody, or a cent.
fn judged(report: &Report, shoppers: usize, paid: i64) -> anyhow::Result<()> {
    ensure!(
        report.users == shoppers as u64 && report.left_out.is_empty(),
        "the report is about {} of {shoppers} shoppers, and leaves out {:?}",
        report.users,
        report.left_out
    );
    let earned: f64 = report.variations.iter().map(|arm| arm.revenue).sum();
    ensure!(earned == paid as f64, "shoppers paid {paid} cents, and the report has {earned}");
    Ok(())
}

async fn report(store: &AnyStore, cx: &Context) -> Result<Report> {
    let options = Options::default();
    analyze(read_facts(store, cx, EXPERIMENT, &options).await?, &options)
}

/// What came of it, counted on the server.
#[derive(Debug, Serialize)]
pub(crate) struct Account {
    shoppers: usize,
    /// At the paywall, and of exit offers.
    impressions: usize,
    exit_offers: usize,
    purchases: usize,
    /// Written down on the phone.
    events: usize,
    /// In the server's Store.
    kept: usize,
    /// In cents, by variation.
    revenue_per_user: BTreeMap<String, f64>,
    #[serde(skip)]
    report: Report,
    /// The server's Store has the events that the phone wrote down, these and no others.
    #[serde(skip)]
    arrived: bool,
    /// Shoppers who saw on the phone what their event says, and what the server would show them.
    #[serde(skip)]
    agreed: usize,
    /// What the shoppers paid, in cents.
    #[serde(skip)]
    paid: i64,
    #[serde(skip)]
    link: Arc<Counts>,
}

impl Account {
    pub(crate) fn tell(&self) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        heading("What the paywall earned");
        println!(
            "  {} shoppers, {} impressions, {} exit offers, {} purchases",
            self.shoppers, self.impressions, self.exit_offers, self.purchases
        );
        println!(
            "  {} events written down on the phone, {} kept on the server; of {} requests the link dropped {}",
            self.events,
            self.kept,
            load(&self.link.attempts),
            load(&self.link.drops)
        );
        for arm in &self.report.variations {
            print!("  {:<10} {:>5} users, ${:.2} each", arm.name, arm.n, arm.revenue_per_user / 100.0);
            let lift = arm.comparison.as_ref().map(|comparison| &comparison.lift);
            // What decides is the difference; its interval is that of one look.
            if let Some((by, relative)) = lift.and_then(|lift| Some((lift.absolute?, lift.relative?))) {
                let [lift, low, high] = [by.estimate, by.low, by.high].map(|cents| cents / 100.0);
                print!(": lift {lift:+.2} [{low:+.2}, {high:+.2}], {:+.1} %", relative.estimate * 100.0);
            }
            println!();
        }
        let ratio = &self.report.srm;
        println!("  sample ratio {} (p {:.2})", if ratio.holds { "as it should be" } else { "WRONG" }, ratio.p);
        // The report begins with the decision and its reason.
        self.report.text().lines().take(2).for_each(|line| println!("  {line}"));
    }

    /// # Errors
    /// When an event was lost, doubled or changed, or somebody would see something else on the other side.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.arrived, "{} events on the phone, {} on the server, or not the same", self.events, self.kept);
        ensure!(self.agreed == self.shoppers, "{} of {} shoppers saw one variation", self.agreed, self.shoppers);
        judged(&self.report, self.shoppers, self.paid)
    }
}

/// The shoppers come, and their events are sent until the server has answered all.
pub(crate) async fn run(
    store: SqliteStore,
    server: &Server,
    shoppers: usize,
    drop_rate: f64,
    seed: u64,
) -> anyhow::Result<Account> {
    let cx = Context::new().with_timeout(Duration::from_secs(120));
    let network = ReqwestTransport::new(&format!("http://{}", server.address))?;
    let link = Arc::new(BadLink::new(network.clone(), drop_rate, seed));
    let store = AnyStore::new(store);
    let experiments = Experiments::builder()
        .store(store.clone())
        .config(link.clone(), "/v1/config")
        .bundled(BUNDLED)
        .trusted_key(KEY, &public_key(&SECRET))
        .delivery(Delivery::Outbox)
        .build()?;
    while let Err(error) = experiments.refresh(&cx).await {
        ensure!(error.retryable(), error);
    }
    ensure!(experiments.health().source == ConfigSource::Server, "the phone does not go by the server's configuration");
    let phone = selvedge::builder().store(store.clone()).experiment(experiments).build();

    let mut random = Rng::with_seed(seed);
    let (mut seen, mut paid) = (BTreeMap::new(), 0);
    for number in 0..shoppers {
        let shopper = Shopper::new(format!("shopper-{seed}-{number}"), &mut random);
        let (assignment, cents) = shopper.visit(&phone, &cx).await?;
        seen.insert(shopper.name, assignment.variation);
        paid += cents;
    }
    // A phone flushes whenever it has a network; each time, what the link lost before is sent again.
    while phone.flush(&cx, &*link).await?.attempts > 0 {}

    let (written, kept) = (facts(&store, &cx).await?, facts(&server.store, &cx).await?);
    let named = |name: &str| kept.iter().filter(|fact| fact.name == name).count();
    let report = report(&server.store, &cx).await?;
    Ok(Account {
        shoppers,
        impressions: named("paywall_impression"),
        exit_offers: named("exit_offer_triggered"),
        purchases: named("purchase_completed"),
        events: written.len(),
        kept: kept.len(),
        revenue_per_user: report.variations.iter().map(|arm| (arm.name.clone(), arm.revenue_per_user)).collect(),
        report,
        arrived: written == kept,
        agreed: agreed(&seen, &kept, &network, &cx).await?,
        paid,
        link: link.counts(),
    })
}

/// All facts of a Store, by their ids.
async fn facts(store: &AnyStore, cx: &Context) -> Result<Vec<Fact>> {
    let (mut facts, mut after) = (Vec::new(), Some(0));
    while let Some(cursor) = after {
        let page = store.facts(cx, None, cursor, 1_000).await?;
        facts.extend(page.items.into_iter().map(|view| view.fact));
        after = page.next;
    }
    facts.sort_by_key(|fact| fact.id);
    Ok(facts)
}

/// How many shoppers saw on the phone what their event says, and what the server would show them.
async fn agreed(
    seen: &BTreeMap<String, String>,
    kept: &[Fact],
    network: &ReqwestTransport,
    cx: &Context,
) -> anyhow::Result<usize> {
    let mut told = BTreeMap::new();
    for fact in kept {
        if let Some(PaywallEvent::PaywallImpression(shown)) = PaywallEvent::from_fact(fact)?
            && shown.experiment.as_deref() == Some(EXPERIMENT)
        {
            told.insert(&fact.subject, shown.variant);
        }
    }
    let mut agreed = 0;
    for (shopper, variation) in seen {
        let path = format!("/v1/placements/{PAYWALL}?subject={shopper}");
        let request = HttpRequest { method: "GET", path, headers: Vec::new(), body: Bytes::new() };
        let looked: Assignment = serde_json::from_slice(&network.send(cx, request).await?.body)?;
        agreed += usize::from(told.get(shopper) == Some(variation) && looked.variation == *variation);
    }
    Ok(agreed)
}
