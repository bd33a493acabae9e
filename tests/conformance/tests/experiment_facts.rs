//! From the facts in a Store to users, on the real SQLite plugin.
#![allow(clippy::expect_used, reason = "A test may panic, and so may what it is made of.")]

use selvedge_core::{
    Commit, Context, ErrorKind,
    store::{Fact, Store},
};
use selvedge_experiments::analysis::{Options, Refunds, analyze, input::read_facts};
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
    let users = read_facts(&store, &cx, "price", Refunds::Refuse).await.expect("users");
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

    let gone = read_facts(&store, &cx, "colour", Refunds::Refuse).await.expect_err("no such experiment");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    record(&store, &cx, [paid("late", "purchase_completed", -2_500, "")]).await;
    let refused = read_facts(&store, &cx, "price", Refunds::Refuse).await.expect_err("a refund");
    assert!(refused.to_string().contains("property: revenue"), "{refused}");
    let net = analyze(read_facts(&store, &cx, "price", Refunds::Net).await.expect("users"), &Options::default());
    assert_eq!(net.expect("a report").variations[1].revenue, 299_700.0 + 5_000.0);
    record(&store, &cx, [Fact::new("subscription_renewed", "late", r#"{"revenue":1,"currency":"EUR"}"#)]).await;
    let mixed = read_facts(&store, &cx, "price", Refunds::Net).await.expect_err("two currencies");
    assert!(mixed.to_string().contains("USD and EUR"), "{mixed}");
}
