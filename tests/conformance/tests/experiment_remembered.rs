//! What is remembered of assignments never leads elsewhere than the Store: two processes on one SQLite file.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

use selvedge_core::{
    AnyStore, Commit, Context, Experiment, Store,
    experiment::{Assign, Assignment},
    store::{StickyAssignment, StoreExt},
};
use selvedge_experiments::{Delivery, Experiments, ExperimentsBuilder};
use selvedge_sqlite::SqliteStore;
use serde_json::{Value, json};

struct Bed {
    folder: tempfile::TempDir,
    cx: Context,
}

impl Bed {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), cx: Context::new() }
    }

    /// A connection of its own, as every process has.
    fn store(&self) -> AnyStore {
        AnyStore::new(SqliteStore::open(self.folder.path().join("shared.db")).unwrap())
    }

    fn builder(&self, features: &Value) -> ExperimentsBuilder {
        Experiments::builder().store(self.store()).bundled(payload(features))
    }

    /// One process.
    fn open(&self, features: &Value) -> Experiments {
        self.builder(features).build().unwrap()
    }

    async fn sees(&self, app: &Experiments, request: Assign) -> String {
        self.assigned(app, request).await.variation
    }

    async fn assigned(&self, app: &Experiments, request: Assign) -> Assignment {
        app.assign(&self.cx, request).await.unwrap()
    }

    /// What is kept of a subject: experiment and variation.
    async fn kept(&self, subject: &str) -> Vec<(String, String)> {
        let rows = self.store().assignments(&self.cx, [subject]).await.unwrap();
        rows.into_iter().map(|row| (row.experiment, row.variation)).collect()
    }

    async fn exposures(&self) -> usize {
        self.store().facts(&self.cx, Some("paywall_impression"), 0, 1_000).await.unwrap().items.len()
    }
}

fn payload(features: &Value) -> String {
    json!({ "features": features }).to_string()
}

fn ada() -> Assign {
    Assign::new("ada", "page")
}

/// A placement with an experiment of its name, of which everybody is in one variation.
fn placement(name: &str, variations: &[&str], all_in: &str) -> Value {
    let weights: Vec<_> = variations.iter().map(|key| f64::from(u8::from(*key == all_in))).collect();
    let meta: Vec<_> = variations.iter().map(|key| json!({ "key": key })).collect();
    let rule = json!({ "key": name, "variations": variations, "weights": weights, "meta": meta, "hashVersion": 2,
                       "fallbackAttribute": "deviceId" });
    json!({ "defaultValue": "usual", "rules": [rule] })
}

/// The placement `page` beside `home`, which only has a subject remembered.
fn page(variations: &[&str], all_in: &str) -> Value {
    json!({ "page": placement("page", variations, all_in), "home": placement("home", &["x", "y"], "x") })
}

/// The subject has been here, and is remembered, but never at `page`.
async fn at_home(bed: &Bed, app: &Experiments, request: &Assign) {
    for _ in 0..2 {
        let home = Assign { placement: "home".into(), ..request.clone() };
        assert_eq!(bed.sees(app, home).await, "x");
    }
}

/// The Store is changed behind its back: who does not notice answered from memory. It is what a process with another
/// configuration may do to a row, and the only thing that memory is late to hear of.
#[tokio::test]
async fn who_comes_again_is_answered_from_memory_until_the_next_configuration() {
    let bed = Bed::new();
    let features = page(&["a", "b"], "a");
    let (app, reads) = (bed.open(&features), bed.builder(&features).remembered_subjects(0).build().unwrap());
    for app in [&app, &app, &reads, &reads] {
        assert_eq!(bed.sees(app, ada()).await, "a");
    }
    let replaced =
        StickyAssignment { subject: "id||ada".into(), experiment: "page__0".into(), variation: "b".into(), version: 1 };
    bed.store().commit(&bed.cx, Commit::new().assign(replaced)).await.unwrap();
    let looked = bed.assigned(&app, ada().peeking()).await;
    assert_eq!((looked.variation.as_str(), looked.enrolled), ("a", true), "a peek goes by memory too");
    assert_eq!(bed.sees(&app, ada()).await, "a", "from memory");
    assert_eq!(bed.sees(&reads, ada()).await, "b", "from the Store");
    app.load(payload(&features).as_bytes()).unwrap();
    assert_eq!(bed.sees(&app, ada()).await, "b", "the next configuration, equal or not, begins with the Store");
    assert_eq!(bed.exposures().await, 1);
}

#[tokio::test]
async fn another_process_may_assign_first() {
    let bed = Bed::new();
    let (app, other) = (bed.open(&page(&["a", "b"], "a")), bed.open(&page(&["a", "b"], "b")));
    at_home(&bed, &app, &ada()).await;
    assert_eq!(bed.sees(&app, ada().peeking()).await, "a", "nobody has assigned yet");
    assert_eq!(bed.sees(&other, ada()).await, "b");
    let looked = bed.assigned(&app, ada().peeking()).await;
    assert_eq!((looked.variation.as_str(), looked.enrolled), ("b", true));
    assert_eq!(bed.sees(&app, ada()).await, "b");
    assert_eq!(bed.kept("id||ada").await.len(), 2, "home and page");
    assert_eq!(bed.exposures().await, 2);
}

#[tokio::test]
async fn who_is_not_targeted_here_may_have_been_elsewhere() {
    let bed = Bed::new();
    let mut features = page(&["a", "b"], "b");
    features["page"]["rules"][0]["condition"] = json!({ "country": "DE" });
    let (app, other) = (bed.open(&features), bed.open(&features));
    at_home(&bed, &app, &ada()).await;
    let left_out = bed.assigned(&app, ada().with_attribute("country", "US")).await;
    assert_eq!((left_out.experiment, left_out.variation.as_str()), (None, Assignment::NO_EXPERIMENT));
    assert_eq!(bed.sees(&other, ada().with_attribute("country", "DE")).await, "b");
    assert_eq!(bed.sees(&app, ada().with_attribute("country", "US")).await, "b", "what was assigned stays");
}

#[tokio::test]
async fn a_login_goes_by_what_the_store_has_of_both() {
    let bed = Bed::new();
    let (app, other) = (bed.open(&page(&["a", "b"], "a")), bed.open(&page(&["a", "b"], "b")));
    let phone = || Assign::new("phone", "page").on_device("phone");
    for _ in 0..2 {
        assert_eq!(bed.sees(&app, phone()).await, "a", "signed out");
    }
    // Remembered is the device. The account got its own elsewhere, and that wins.
    assert_eq!(bed.sees(&other, ada()).await, "b");
    assert_eq!(bed.sees(&app, ada().on_device("phone")).await, "b");
    // Remembered is an account, and the device is assigned elsewhere: the account takes it over, and keeps it.
    let bob = || Assign::new("bob", "page");
    at_home(&bed, &app, &bob()).await;
    assert_eq!(bed.sees(&other, Assign::new("tablet", "page").on_device("tablet")).await, "b");
    assert_eq!(bed.sees(&app, bob().on_device("tablet")).await, "b");
    for _ in 0..2 {
        assert_eq!(bed.sees(&app, bob().on_device("phone")).await, "b", "on a device that sees something else");
        assert_eq!(bed.sees(&app, phone()).await, "a", "signed out again");
    }
    assert_eq!(bed.kept("id||bob").await[1], ("page__0".into(), "b".into()));
}

#[tokio::test]
async fn whose_earlier_version_is_blocked_is_found_out() {
    let bed = Bed::new();
    let before = page(&["a", "b"], "a");
    let mut now = before.clone();
    now["page"]["rules"][0]["bucketVersion"] = 1.into();
    now["page"]["rules"][0]["minBucketVersion"] = 1.into();
    let (app, late) = (bed.open(&now), bed.open(&before));
    for _ in 0..2 {
        assert_eq!(bed.sees(&app, ada()).await, "a");
    }
    assert_eq!(bed.sees(&late, ada()).await, "a", "a process that has not heard of the new version");
    assert_eq!(bed.assigned(&app, ada()).await.experiment, None, "who took part before takes no part");
}

#[tokio::test]
async fn a_variation_that_another_process_replaced() {
    let bed = Bed::new();
    let (with, without) = (page(&["old", "new"], "old"), page(&["other", "new"], "new"));
    let (app, other) = (bed.open(&with), bed.open(&with));
    for app in [&app, &app, &other, &other] {
        assert_eq!(bed.sees(app, ada()).await, "old");
    }
    other.load(payload(&without).as_bytes()).unwrap();
    assert_eq!(bed.sees(&other, ada()).await, "new", "the variation is gone");
    let kept = bed.store().assignments(&bed.cx, ["id||ada"]).await.unwrap();
    assert_eq!((kept[0].variation.as_str(), kept[0].version), ("new", 1));
    assert_eq!(bed.sees(&app, ada()).await, "old", "as this configuration still says");
    // It takes the new one, or goes without it to one in which the old variation is back: both agree.
    app.load(payload(&with).as_bytes()).unwrap();
    assert_eq!(bed.sees(&app, ada()).await, "new");
    app.load(payload(&without).as_bytes()).unwrap();
    other.load(payload(&with).as_bytes()).unwrap();
    for app in [&app, &other] {
        assert_eq!(bed.sees(app, ada()).await, "new");
    }
    assert_eq!(bed.store().assignments(&bed.cx, ["id||ada"]).await.unwrap(), kept, "nobody wrote again");
    assert_eq!(bed.exposures().await, 1);
}

#[tokio::test]
async fn a_gone_variation_is_looked_up_though_nothing_is_written() {
    let bed = Bed::new();
    let (with, without) = (page(&["old", "new"], "old"), page(&["other", "new"], "new"));
    let app = bed.open(&with);
    assert_eq!(bed.sees(&app, ada()).await, "old");
    let mut closed = without.clone();
    closed["page"]["rules"][0]["condition"] = json!({ "country": "DE" });
    app.load(payload(&closed).as_bytes()).unwrap();
    for _ in 0..2 {
        assert_eq!(
            bed.sees(&app, ada()).await,
            Assignment::NO_EXPERIMENT,
            "her variation is gone, and she is not targeted"
        );
    }
    assert_eq!(bed.sees(&bed.open(&without), ada()).await, "new");
    assert_eq!(bed.sees(&app, ada()).await, "new", "another process has given her another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn users_of_one_device_are_not_mixed_up() {
    let bed = std::sync::Arc::new(Bed::new());
    for (user, variation) in [("ada", "a"), ("bob", "b"), ("phone", "b")] {
        let app = bed.open(&page(&["a", "b"], variation));
        assert_eq!(bed.sees(&app, Assign::new(user, "page")).await, variation);
    }
    let app = bed.open(&page(&["a", "b"], "a"));
    let tasks = (0..200).map(|number| {
        let (bed, app) = (bed.clone(), app.clone());
        tokio::spawn(async move {
            let (user, wanted) = [("ada", "a"), ("bob", "b")][number % 2];
            let request = Assign::new(user, "page").on_device("phone");
            let request = if number % 3 == 0 { request.peeking() } else { request };
            assert_eq!(bed.sees(&app, request).await, wanted, "{user}");
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    // By its name "phone" is a user too, and a device: another subject, though spelled alike.
    assert_eq!(bed.sees(&app, Assign::new("phone", "page")).await, "b");
    assert_eq!(bed.sees(&app, Assign::new("phone", "page").on_device("phone")).await, "a");
}

#[tokio::test]
async fn a_peek_has_nothing_kept_and_nothing_believed() {
    let bed = Bed::new();
    let app = bed.builder(&page(&["a", "b"], "a")).delivery(Delivery::Outbox).build().unwrap();
    for _ in 0..3 {
        assert!(!bed.assigned(&app, ada().peeking()).await.enrolled);
    }
    assert_eq!((bed.kept("id||ada").await, bed.exposures().await), (vec![], 0));
    for _ in 0..3 {
        assert!(bed.assigned(&app, ada()).await.enrolled);
    }
    assert_eq!(bed.exposures().await, 1);
}

#[tokio::test]
async fn many_subjects_in_little_memory_keep_what_they_have() {
    let bed = Bed::new();
    let app = bed.builder(&page(&["a", "b"], "a")).remembered_subjects(8).build().unwrap();
    let moved = bed.builder(&page(&["a", "b"], "b")).remembered_subjects(8).build().unwrap();
    for app in [&app, &moved, &app, &moved] {
        for number in 0..50 {
            assert_eq!(bed.sees(app, Assign::new(format!("user-{number}"), "page")).await, "a");
        }
    }
    assert_eq!(bed.exposures().await, 50);
}

/// An id that is a number is looked up as it is kept.
#[tokio::test]
async fn a_number_is_an_id() {
    let bed = Bed::new();
    let mut features = page(&["a", "b"], "a");
    features["page"]["rules"][0]["hashAttribute"] = "company".into();
    let of = |company: f64| ada().with_attribute("company", company);
    assert_eq!(bed.sees(&bed.open(&features), of(7.0)).await, "a");
    features["page"]["rules"][0]["weights"] = json!([0.0, 1.0]);
    assert_eq!(bed.sees(&bed.open(&features), of(7.0)).await, "a");
    assert_eq!(bed.kept("company||7").await, [("page__0".into(), "a".into())]);
}
