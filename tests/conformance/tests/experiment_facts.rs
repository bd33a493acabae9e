//! From the facts in a Store to users, on the real SQLite plugin.
#![allow(clippy::expect_used, reason = "A test may panic, and so may what it is made of.")]

use selvedge_core::{
    Commit, Context, ErrorKind,
    experiment::PaywallImpression,
    store::{Fact, Store},
};
use selvedge_experiments::analysis::{Better, Guardrail, Options, Refunds, Report, analyze, input::read_facts};
use selvedge_sqlite::SqliteStore;

async fn record(store: &SqliteStore, cx: &Context, facts: impl IntoIterator<Item = Fact>) {
    let mut commit = Commit::new();
    for fact in facts {
        commit = commit.record(fact);
    }
    store.commit(cx, commit).await.expect("recorded");
}

fn seen(user: &str, experiment: &str, variant: &str) -> Fact {
    let properties = format!(
        r#"{{"placement_id":"main_paywall","experiment":"{experiment}","variant":"{variant}","cohort":"{variant}"}}"#
    );
    Fact::new("paywall_impression", user, properties)
}

fn paid(user: &str, name: &str, revenue: i64, more: &str) -> Fact {
    Fact::new(name, user, format!(r#"{{"revenue":{revenue},"currency":"USD"{more}}}"#))
}

#[tokio::test]
async fn revenue_counts_for_who_was_exposed_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, cx) = (SqliteStore::open(folder.path().join("facts.db")).expect("a Store"), Context::new());
    // Users beside those that matter, more than a page of them.
    for part in 0..6 {
        let users: Vec<_> = (0..250).map(|n| part * 250 + n).collect();
        let exposures = users.iter().map(|n| seen(&format!("u{n}"), "price", ["A", "B"][n % 2]));
        record(&store, &cx, exposures).await;
        let payers = users.iter().filter(|n| *n % 5 < 2).map(|n| paid(&format!("u{n}"), "purchase_completed", 999, ""));
        record(&store, &cx, payers).await;
    }
    record(
        &store,
        &cx,
        [
            // Before the exposure: it does not count.
            paid("early", "purchase_completed", 5_000, ""),
            seen("early", "price", "A"),
            // A trial earns and converts when it is paid.
            seen("trial", "price", "B"),
            paid("trial", "purchase_completed", 0, r#","is_trial":true"#),
            seen("trial", "price", "B"),
            // Another experiment's exposure is none.
            seen("other", "copy", "B"),
            paid("other", "purchase_completed", 700, ""),
            // Both variations: counts for neither.
            seen("both", "price", "A"),
            seen("both", "price", "B"),
            paid("both", "purchase_completed", 100_000, ""),
            // A late renewal counts for the arm that was assigned.
            seen("late", "price", "B"),
            Fact::new("purchase_initiated", "late", r#"{"product_id":"year","offer_type":"intro","discount_pct":50}"#),
            paid("late", "purchase_completed", 2_500, ""),
            Fact::new("subscription_renewed", "late", r#"{"period":2,"revenue":5000}"#),
            Fact::new("purchase_completed", "late", "no JSON"),
            Fact::new("session", "late", "{}"),
        ],
    )
    .await;
    let users = read_facts(&store, &cx, "price", &Options::default()).await.expect("users");
    let report = analyze(users, &Options::default()).expect("a report");
    let found: Vec<_> =
        report.variations.iter().map(|arm| (arm.name.as_str(), arm.n, arm.revenue, arm.conversions)).collect();
    // 300 of 1,500 pay in each arm; then "early" without revenue, "trial" without, and "late" with both payments.
    assert_eq!(found, [("A", 751, 299_700.0, 300), ("B", 752, 299_700.0 + 7_500.0, 301)]);
    assert_eq!(report.currency.as_deref(), Some("USD"));
    let left_out: Vec<_> = report.left_out.iter().map(|left_out| left_out.rows).collect();
    assert_eq!(left_out, [1, 2, 1], "{:?}", report.left_out);
    let b = report.variations[1].comparison.as_ref().expect("a comparison");
    assert!(b.decomposition.mix != 0.0 && b.novelty.is_some());

    let gone = read_facts(&store, &cx, "colour", &Options::default()).await.expect_err("no such experiment");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    record(&store, &cx, [paid("late", "purchase_completed", -2_500, "")]).await;
    let refused = read_facts(&store, &cx, "price", &Options::default()).await.expect_err("a refund");
    assert!(refused.to_string().contains("property: revenue"), "{refused}");
    let refunded = Options { refunds: Refunds::Net, ..Options::default() };
    let net = analyze(read_facts(&store, &cx, "price", &refunded).await.expect("users"), &refunded);
    assert_eq!(net.expect("a report").variations[1].revenue, 299_700.0 + 5_000.0);
    record(&store, &cx, [Fact::new("subscription_renewed", "late", r#"{"revenue":1,"currency":"EUR"}"#)]).await;
    let mixed = read_facts(&store, &cx, "price", &refunded).await.expect_err("two currencies");
    assert!(mixed.to_string().contains("USD and EUR"), "{mixed}");
}

/// An exposure as the plugin records it.
fn exposed(subject: &str, device: &str, experiment: &str, variant: &str) -> Fact {
    let impression = PaywallImpression {
        placement_id: "main_paywall".into(),
        experiment: Some(experiment.into()),
        variant: variant.into(),
        cohort: format!("{experiment}:{variant}"),
        device: Some(device.into()),
        ..PaywallImpression::default()
    };
    impression.exposure(subject, 0)
}

/// A few users of each arm, so that there is something to compare.
fn crowd() -> impl Iterator<Item = Fact> {
    (0..4).map(|n| seen(&format!("crowd-{n}"), "price", ["A", "B"][n % 2]))
}

async fn report(store: &SqliteStore, cx: &Context, options: &Options) -> Report {
    analyze(read_facts(store, cx, "price", options).await.expect("users"), options).expect("a report")
}

/// Users, revenue and conversions of each arm.
fn arms(report: &Report) -> Vec<(u64, f64, u64)> {
    report.variations.iter().map(|arm| (arm.n, arm.revenue, arm.conversions)).collect()
}

#[tokio::test]
async fn a_device_and_its_account_are_one_user() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, cx) = (SqliteStore::open(folder.path().join("people.db")).expect("a Store"), Context::new());
    let bought = |who: &str, revenue| paid(who, "purchase_completed", revenue, "");
    let facts = [
        // Before the exposure of her device: it does not count.
        bought("ada", 7_000),
        exposed("phone", "phone", "price", "B"),
        // She signs in and buys before any paywall says that it is her phone.
        bought("ada", 100),
        exposed("ada", "phone", "price", "B"),
        bought("ada", 10),
        // What the store still tells of the device is hers too.
        bought("phone", 1),
        // The next account on the phone is a user of its own.
        exposed("bob", "phone", "price", "B"),
        bought("bob", 2_000),
        // Whose device it is may be known from another experiment alone, and from before.
        exposed("eve", "tablet", "copy", "x"),
        exposed("tablet", "tablet", "price", "A"),
        bought("eve", 300),
        // An account that is never exposed, and buys on a device that was.
        exposed("kiosk", "kiosk", "price", "A"),
        paid("joe", "purchase_completed", 40, r#","device":"kiosk""#),
        paid("joe", "subscription_renewed", 5, ""),
        // The device is joe's by then.
        paid("ann", "purchase_completed", 90_000, r#","device":"kiosk""#),
        // The device saw one variation, its account another.
        exposed("laptop", "laptop", "price", "A"),
        exposed("kim", "laptop", "price", "B"),
        bought("kim", 80_000),
        // Another device of nobody's that was never exposed.
        paid("max", "purchase_completed", 70_000, r#","device":"watch""#),
    ];
    record(&store, &cx, crowd().chain(facts)).await;
    let found = report(&store, &cx, &Options::default()).await;
    // A: two of the crowd, eve on her tablet, joe at the kiosk. B: two of the crowd, ada with her phone, bob.
    assert_eq!(arms(&found), [(4, 345.0, 2), (4, 2_111.0, 2)]);
    let left_out: Vec<_> = found.left_out.iter().map(|left_out| left_out.rows).collect();
    assert_eq!(left_out, [1, 3], "kim; ada's first, ann's and max's purchase: {:?}", found.left_out);
}

#[tokio::test]
async fn what_was_paid_before_takes_out_noise() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, cx) = (SqliteStore::open(folder.path().join("past.db")).expect("a Store"), Context::new());
    let mut rng = fastrand::Rng::with_seed(5);
    for part in 0..8 {
        let mut facts = Vec::new();
        for n in 0..250 {
            let user = format!("u{}", part * 250 + n);
            // Whoever paid much goes on to pay much, and B is better by 50.
            let usual = if rng.f64() < 0.3 { rng.i64(1_000..5_000) } else { 0 };
            let (before, since) = (usual + rng.i64(0..100), usual + rng.i64(0..100) + 50 * (n % 2));
            facts.push(paid(&user, "purchase_completed", before + 300, ""));
            facts.push(paid(&user, "purchase_completed", -300, r#","is_refund":true"#));
            facts.push(seen(&user, "price", ["A", "B"][n as usize % 2]));
            facts.push(paid(&user, "purchase_completed", since, ""));
        }
        record(&store, &cx, facts).await;
    }
    // Somebody of another country, whom nobody exposed.
    record(&store, &cx, [Fact::new("purchase_completed", "elsewhere", r#"{"revenue":9,"currency":"JPY"}"#)]).await;
    let plain = report(&store, &cx, &Options::default()).await;
    let comparison = plain.variations[1].comparison.as_ref().expect("a comparison");
    assert_eq!(comparison.cuped, None);
    let options = Options { past_revenue: true, ..Options::default() };
    let found = report(&store, &cx, &options).await;
    assert_eq!(arms(&found), arms(&plain), "revenue itself stays");
    let cuped = found.variations[1].comparison.as_ref().and_then(|comparison| comparison.cuped).expect("a covariate");
    assert!((cuped.theta - 1.0).abs() < 0.02 && cuped.variance_removed > 0.99, "{cuped:?}");
    assert!((cuped.absolute.estimate - 50.0).abs() < 5.0 && cuped.absolute.p < 1e-6, "{cuped:?}");
    let lift = comparison.lift.absolute.expect("a lift");
    assert!(lift.p > 0.01, "which is not seen without: {lift:?}");

    record(
        &store,
        &cx,
        [Fact::new("purchase_completed", "moved", r#"{"revenue":9,"currency":"EUR"}"#), seen("moved", "price", "A")],
    )
    .await;
    let mixed = read_facts(&store, &cx, "price", &options).await.expect_err("two currencies");
    assert!(mixed.to_string().contains("USD and EUR"), "{mixed}");
    assert!(
        read_facts(&store, &cx, "price", &Options::default()).await.is_ok(),
        "what was paid before does not matter"
    );
}

#[tokio::test]
async fn guardrails_are_facts_by_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, cx) = (SqliteStore::open(folder.path().join("guardrails.db")).expect("a Store"), Context::new());
    let tracked = |name: &str, who: &str| Fact::new(name, who, "{}");
    for part in 0..4 {
        let mut facts = Vec::new();
        for n in 0..250 {
            let user = format!("u{}", part * 250 + n);
            // Before the exposure it says nothing about the variation.
            facts.extend((0..5).map(|_| tracked("refund_requested", &user)));
            facts.push(seen(&user, "price", ["A", "B"][n % 2]));
            facts.push(tracked("session", &user));
            // In B every second user asks for a refund, twice as many as in A; its facts need not even be JSON.
            if n % 8 < 2 || n % 8 == 3 {
                facts.push(Fact::new("refund_requested", &*user, "?"));
            }
        }
        record(&store, &cx, facts).await;
    }
    record(&store, &cx, [tracked("refund_requested", "nobody")]).await;
    let guardrail = |column: &str, better| Guardrail { column: column.into(), margin: 0.05, better };
    let guardrails = vec![
        guardrail("refund_requested", Better::Lower),
        guardrail("session", Better::Higher),
        guardrail("crash", Better::Lower),
    ];
    let found = report(&store, &cx, &Options { guardrails, ..Options::default() }).await;
    let b = found.variations[1].comparison.as_ref().expect("a comparison");
    let [refunds, sessions, crashes] = &b.guardrails[..] else { panic!("three guardrails") };
    let effect = refunds.effect.expect("an effect");
    assert!(effect.estimate > 0.9 && effect.estimate < 1.1, "{effect:?}");
    assert!(refunds.harmed && !refunds.holds, "{refunds:?}");
    assert!(!sessions.harmed, "everybody has one session: {sessions:?}");
    assert!(!crashes.holds && crashes.effect.is_none(), "{crashes:?}");
    assert!(found.notes.iter().any(|note| note == "no fact is named crash"), "{:?}", found.notes);
}
