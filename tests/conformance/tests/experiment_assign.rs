//! Assignments as a phone and a server make them, on SQLite.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use selvedge_core::{
    AnyStore, Context, ErrorKind, Experiment,
    experiment::{Assign, Assignment, EventRequest, PaywallEvent},
    store::{Fact, IntentFilter, StoreExt},
};
use selvedge_experiments::{Delivery, Experiments};
use selvedge_sqlite::SqliteStore;
use serde_json::{Value, json};

struct Bed {
    _folder: tempfile::TempDir,
    store: AnyStore,
    delivery: Delivery,
    cx: Context,
}

impl Bed {
    fn new(delivery: Delivery) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = AnyStore::new(SqliteStore::open(folder.path().join("app.db")).unwrap());
        Self { _folder: folder, store, delivery, cx: Context::new() }
    }

    fn open(&self, features: &Value) -> Experiments {
        let payload = json!({ "features": features }).to_string();
        Experiments::builder().store(self.store.clone()).delivery(self.delivery).bundled(payload).build().unwrap()
    }

    async fn facts(&self) -> Vec<Fact> {
        let page = self.store.facts(&self.cx, None, 0, 1000).await.unwrap();
        page.items.into_iter().map(|view| view.fact).collect()
    }

    async fn intents(&self) -> Vec<EventRequest> {
        let filter = IntentFilter { limit: 1000, ..IntentFilter::default() };
        let page = self.store.intents(&self.cx, filter).await.unwrap();
        let events = page.items.iter().map(|view| {
            assert_eq!(view.intent.operation, EventRequest::OPERATION);
            serde_json::from_slice(&view.intent.payload).unwrap()
        });
        events.collect()
    }

    async fn sees(&self, experiments: &Experiments, subject: &str) -> Assignment {
        experiments.assign(&self.cx, Assign::new(subject, "page")).await.unwrap()
    }
}

/// An experiment at `page` of which everybody is in the variation at `all_in`.
fn page(variations: &[&str], all_in: usize) -> Value {
    let weights: Vec<_> = (0..variations.len()).map(|index| f64::from(u8::from(index == all_in))).collect();
    let meta: Vec<_> = variations.iter().map(|key| json!({ "key": key })).collect();
    let values: Vec<_> = variations.iter().map(|key| json!({ "offering": key })).collect();
    json!({ "page": { "defaultValue": { "offering": "usual" }, "rules": [
        { "key": "depth", "variations": values, "weights": weights, "meta": meta, "hashVersion": 2 }
    ] } })
}

#[tokio::test]
async fn nothing_to_show_differs_from_not_configured() {
    let bed = Bed::new(Delivery::Store);
    let app = bed
        .open(&json!({ "page": { "defaultValue": null }, "upgrade_nudge": { "defaultValue": { "offering": "pro" } } }));
    let nothing = bed.sees(&app, "ada").await;
    assert_eq!((nothing.show.as_ref(), nothing.value().unwrap()), (None, None));
    assert_eq!((nothing.experiment, nothing.variation.as_str(), nothing.enrolled), (None, "default", false));
    let nudge = app.assign(&bed.cx, Assign::new("ada", "upgrade_nudge")).await.unwrap();
    assert_eq!(nudge.value().unwrap().unwrap().offering.as_deref(), Some("pro"));
    let unknown = app.assign(&bed.cx, Assign::new("ada", "nowhere")).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert!(unknown.to_string().contains("nowhere"), "{unknown}");
    assert_eq!(bed.facts().await, [], "nobody is in an experiment");
}

#[tokio::test]
async fn targeting_looks_at_attributes_and_a_circle_is_an_error() {
    let bed = Bed::new(Delivery::Store);
    let app = bed.open(&json!({
        "page": { "defaultValue": { "offering": "usual" }, "rules": [
            { "condition": { "country": "DE" }, "force": { "offering": "german" } },
            { "condition": { "id": "ada" }, "force": { "offering": "hers" } },
            { "condition": { "deviceId": "tablet" }, "force": { "offering": "large" } },
        ] },
        "round": { "defaultValue": 0, "rules": [
            { "parentConditions": [{ "id": "round", "condition": { "value": true } }], "force": 1 }
        ] },
    }));
    let offering =
        async |request: Assign| app.assign(&bed.cx, request).await.unwrap().value().unwrap().unwrap().offering.unwrap();
    assert_eq!(offering(Assign::new("bob", "page").with_attribute("country", "DE")).await, "german");
    assert_eq!(offering(Assign::new("ada", "page")).await, "hers");
    assert_eq!(offering(Assign::new("bob", "page").with_attribute("id", "ada")).await, "usual", "the subject counts");
    assert_eq!(offering(Assign::new("bob", "page").on_device("tablet")).await, "large");
    let round = app.assign(&bed.cx, Assign::new("ada", "round")).await.unwrap_err();
    assert_eq!(round.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_phone_sends_each_exposure_and_event_by_its_outbox() {
    let bed = Bed::new(Delivery::Outbox);
    let app = bed.open(&page(&["control", "half"], 1));
    bed.sees(&app, "ada").await;
    bed.sees(&app, "ada").await;
    let [exposure] = &bed.intents().await[..] else { panic!("one exposure is on its way") };
    let facts = bed.facts().await;
    assert_eq!(exposure.clone().into_fact().unwrap(), facts[0], "what is sent is what was kept");
    let outbox = bed.store.outbox(&bed.cx, false, None, 10).await.unwrap();
    assert_eq!(outbox.items.len(), 1, "its event is there before anything is shown");

    let bought = r#"{"product_id":"pro","revenue":500,"currency":"USD","is_trial":false,"discount_pct":50}"#;
    let fact = Fact::new("purchase_completed", "ada", bought);
    for _ in 0..3 {
        app.track(&bed.cx, fact.clone()).await.unwrap();
    }
    assert_eq!(bed.facts().await.len(), 2);
    assert_eq!(bed.intents().await.len(), 2);
    let outbox = bed.store.outbox(&bed.cx, false, None, 10).await.unwrap().items;
    assert_eq!(outbox[0].event.aggregate, outbox[1].event.aggregate, "the exposure goes first");
    app.track(&bed.cx, Fact::new("opened", "bob", "{}")).await.unwrap();
    let outbox = bed.store.outbox(&bed.cx, false, None, 10).await.unwrap().items;
    assert_ne!(outbox[0].event.aggregate, outbox[2].event.aggregate, "nobody waits for somebody else");
    let wrong = Fact::new("purchase_completed", "ada", "{}");
    assert_eq!(app.track(&bed.cx, wrong).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(bed.intents().await.len(), 3, "what is refused is not sent");
}

#[tokio::test]
async fn a_peek_sends_nothing() {
    let bed = Bed::new(Delivery::Outbox);
    let app = bed.open(&page(&["control", "half"], 1));
    let looked = app.assign(&bed.cx, Assign::new("ada", "page").peeking()).await.unwrap();
    assert_eq!((looked.variation.as_str(), looked.enrolled), ("half", false));
    assert!(bed.facts().await.is_empty() && bed.intents().await.is_empty());
    bed.sees(&app, "ada").await;
    let again = app.assign(&bed.cx, Assign::new("ada", "page").peeking()).await.unwrap();
    assert!(again.enrolled, "who was assigned before is enrolled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_first_assignments_agree_on_one_variation_and_one_exposure() {
    for delivery in [Delivery::Store, Delivery::Outbox] {
        let bed = Arc::new(Bed::new(delivery));
        // Two configurations that disagree, as while one is being replaced: on a phone in one process, whose lock is shared.
        let apps = match delivery {
            Delivery::Store => vec![bed.open(&page(&["a", "b"], 0)), bed.open(&page(&["a", "b"], 1))],
            Delivery::Outbox => vec![bed.open(&page(&["a", "b"], 0))],
        };
        let tasks: Vec<_> = (0..100)
            .map(|number| {
                let (bed, app) = (bed.clone(), apps[number % apps.len()].clone());
                tokio::spawn(async move {
                    let request = Assign::new("ada", "page").on_device(format!("device-{}", number % 7));
                    app.assign(&bed.cx, request).await.unwrap().variation
                })
            })
            .collect();
        let mut seen = Vec::new();
        for task in tasks {
            seen.push(task.await.unwrap());
        }
        assert!(seen.iter().all(|variation| *variation == seen[0]), "{delivery:?}: {seen:?}");
        let facts = bed.facts().await;
        let Some(PaywallEvent::PaywallImpression(counted)) = PaywallEvent::from_fact(&facts[0]).unwrap() else {
            panic!()
        };
        assert_eq!((facts.len(), &counted.variant), (1, &seen[0]), "{delivery:?}");
        let sent = bed.intents().await;
        assert_eq!(sent.len(), usize::from(delivery == Delivery::Outbox), "{delivery:?}");
    }
}

#[tokio::test]
async fn a_variation_that_is_gone_is_replaced_once() {
    let bed = Bed::new(Delivery::Store);
    assert_eq!(bed.sees(&bed.open(&page(&["control", "old"], 1)), "ada").await.variation, "old");
    let without = bed.open(&page(&["control", "new"], 1));
    assert_eq!(bed.sees(&without, "ada").await.variation, "new");
    let moved = bed.open(&page(&["control", "new"], 0));
    assert_eq!(bed.sees(&moved, "ada").await.variation, "new", "and is kept like any other");
    assert_eq!(bed.facts().await.len(), 1, "ada counts where she was first");
}

#[tokio::test]
async fn who_an_experiment_leaves_out_is_not_counted() {
    let bed = Bed::new(Delivery::Store);
    let mut features = page(&["control", "half"], 1);
    features["page"]["rules"][0]["coverage"] = 0.into();
    let seen = bed.sees(&bed.open(&features), "ada").await;
    assert_eq!(seen.value().unwrap().unwrap().offering.as_deref(), Some("usual"));
    assert_eq!((seen.experiment, seen.variation.as_str(), seen.enrolled), (None, Assignment::NO_EXPERIMENT, false));
    assert_eq!(bed.facts().await, []);
}

#[tokio::test]
async fn an_experiment_that_keeps_nothing_counts_once_all_the_same() {
    let bed = Bed::new(Delivery::Outbox);
    let mut features = page(&["control", "half"], 1);
    features["page"]["rules"][0]["disableStickyBucketing"] = true.into();
    let app = bed.open(&features);
    for _ in 0..3 {
        assert!(bed.sees(&app, "ada").await.enrolled);
    }
    assert_eq!((bed.facts().await.len(), bed.intents().await.len()), (1, 1));
}

#[tokio::test]
async fn a_holdout_is_counted_beside_the_experiment_behind_it() {
    let bed = Bed::new(Delivery::Store);
    let mut features = page(&["control", "half"], 1);
    let holdout = json!({
        "key": "holdout", "variations": [null, null], "weights": [0.0, 1.0], "hashVersion": 2,
        "meta": [{ "key": "held_out" }, { "key": "in", "passthrough": true }],
    });
    features["page"]["rules"].as_array_mut().unwrap().insert(0, holdout);
    let seen = bed.sees(&bed.open(&features), "ada").await;
    assert_eq!((seen.experiment.as_deref(), seen.variation.as_str()), (Some("depth"), "half"));
    let counted: Vec<_> = bed
        .facts()
        .await
        .iter()
        .map(|fact| {
            let properties: Value = serde_json::from_slice(&fact.properties).unwrap();
            format!("{}:{}", properties["experiment"].as_str().unwrap(), properties["variant"].as_str().unwrap())
        })
        .collect();
    assert_eq!(counted, ["holdout:in", "depth:half"]);
}

#[tokio::test]
async fn everybody_of_a_company_sees_the_same_and_is_counted() {
    let bed = Bed::new(Delivery::Outbox);
    let mut features = page(&["control", "half"], 1);
    features["page"]["rules"][0]["hashAttribute"] = "company".into();
    let of_acme = async |features: &Value, subject: &str| {
        let request = Assign::new(subject, "page").with_attribute("company", "acme");
        bed.open(features).assign(&bed.cx, request).await.unwrap().variation
    };
    assert_eq!(of_acme(&features, "ada").await, "half");
    features["page"]["rules"][0]["weights"] = json!([1.0, 0.0]);
    for subject in ["bob", "bob", "ada"] {
        assert_eq!(of_acme(&features, subject).await, "half");
    }
    let counted: Vec<_> = bed.facts().await.into_iter().map(|fact| fact.subject).collect();
    assert_eq!(counted, ["ada", "bob"]);
    assert_eq!(bed.intents().await.len(), 2);
}

#[tokio::test]
async fn a_subject_that_cannot_be_kept_is_refused() {
    let bed = Bed::new(Delivery::Store);
    let app = bed.open(&page(&["control", "half"], 1));
    for subject in ["", "a\nb", &"x".repeat(256), &"x".repeat(252)] {
        let refused = app.assign(&bed.cx, Assign::new(subject, "page")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{} bytes", subject.len());
    }
    assert!(app.assign(&bed.cx, Assign::new("x".repeat(251), "page")).await.is_ok());
    assert_eq!(bed.facts().await.len(), 1);
}
