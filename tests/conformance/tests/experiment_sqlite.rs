//! The Experiment suite on SQLite: assignments, exposures and facts that stay in the Store.

use std::process::ExitCode;

use selvedge_core::{
    AnyExperiment, AnyStore, Context, Error, ErrorKind, Result,
    store::{Fact, StoreExt},
};
use selvedge_experiments::Experiments;
use selvedge_sqlite::SqliteStore;
use selvedge_testkit::{ExperimentHome, Placement, experiment_suite};
use serde_json::{Value, json};

struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn store(&self) -> Result<AnyStore> {
        Ok(AnyStore::new(SqliteStore::open(self.folder.path().join("suite.db"))?))
    }
}

impl ExperimentHome for Home {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|error| {
            Error::new(ErrorKind::Unavailable, "test.open", "no folder for a test").caused_by(error)
        })?;
        Ok(Self { folder })
    }

    async fn open(&self, placements: Vec<Placement>) -> Result<AnyExperiment> {
        let experiments = Experiments::builder().store(self.store()?).bundled(payload(&placements)).build()?;
        Ok(AnyExperiment::new(experiments))
    }

    async fn facts(&self) -> Result<Vec<Fact>> {
        let page = self.store()?.facts(&Context::new(), None, 0, 10_000).await?;
        Ok(page.items.into_iter().map(|view| view.fact).collect())
    }
}

/// The placements as GrowthBook's SDK endpoint would send them.
fn payload(placements: &[Placement]) -> String {
    let features: serde_json::Map<String, Value> =
        placements.iter().map(|placement| (placement.name.clone(), feature(placement))).collect();
    json!({ "features": features }).to_string()
}

fn feature(placement: &Placement) -> Value {
    let mut variations = placement.variations.clone();
    if let [only] = &variations[..] {
        // An experiment has two variations at least.
        let nobody = selvedge_testkit::Variation { name: "nobody".into(), weight: 0, show: None };
        variations = vec![only.clone(), nobody];
    }
    let total: u32 = variations.iter().map(|variation| variation.weight).sum();
    let mut rule = json!({
        "key": placement.experiment,
        "variations": variations.iter().map(|variation| &variation.show).collect::<Vec<_>>(),
        "weights": variations.iter().map(|v| f64::from(v.weight) / f64::from(total)).collect::<Vec<_>>(),
        "meta": variations.iter().map(|variation| json!({ "key": variation.name })).collect::<Vec<_>>(),
        "hashAttribute": "id",
        "hashVersion": 2,
        "bucketVersion": placement.version,
        "minBucketVersion": placement.min_version,
    });
    if placement.by_device {
        rule["fallbackAttribute"] = "deviceId".into();
    }
    json!({ "defaultValue": null, "rules": [rule] })
}

fn main() -> ExitCode {
    experiment_suite::<Home>().run()
}
