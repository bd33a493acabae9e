//! The Experiment suite.

mod assign;
mod exposure;
mod sticky;
mod track;

use std::{future::Future, sync::Arc};

use selvedge_core::{
    AnyExperiment, BoxFuture, Context, Experiment, Result,
    experiment::{Assign, Assignment},
    store::Fact,
};

use crate::suite::Suite;

/// A placement with one experiment that always runs, for everybody.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The placement's name.
    pub name: String,
    /// The experiment's name.
    pub experiment: String,
    /// What subjects see.
    pub variations: Vec<Variation>,
    /// The experiment's bucketing version: in a higher one everybody is assigned anew.
    pub version: u32,
    /// Who was assigned in a lower version than this no longer takes part.
    pub min_version: u32,
    /// An account without an assignment takes over its device's.
    pub by_device: bool,
}

/// What a share of the subjects sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Variation {
    /// Its name.
    pub name: String,
    /// Its share, beside the other variations' weights.
    pub weight: u32,
    /// What is shown; `None` shows nothing.
    pub show: Option<serde_json::Value>,
}

impl Placement {
    fn new(name: &str, variations: &[(&str, u32)]) -> Self {
        let variation = |(name, weight): &(&str, u32)| Variation {
            name: (*name).into(),
            weight: *weight,
            show: Some(serde_json::json!({ "page": name })),
        };
        let variations = variations.iter().map(variation).collect();
        let experiment = format!("{name}-experiment");
        Self { name: name.into(), experiment, variations, version: 0, min_version: 0, by_device: false }
    }

    /// The same with all weight on the last variation: who is not kept where they are, moves.
    fn all_on_the_last(&self) -> Self {
        let mut moved = self.clone();
        let count = moved.variations.len();
        for (index, variation) in moved.variations.iter_mut().enumerate() {
            variation.weight = u32::from(index + 1 == count);
        }
        moved
    }
}

/// Where one case's plugin keeps what it knows. It is made fresh and empty for each case.
pub trait ExperimentHome: Sized + Send + Sync + 'static {
    /// A new, empty place.
    ///
    /// # Errors
    /// What keeps the place from being made; the case then fails.
    fn new() -> Result<Self>;

    /// Opens the plugin, configured with these placements: the first time empty, after that with everything it kept.
    ///
    /// # Errors
    /// What keeps the plugin from being opened; the case then fails.
    fn open(&self, placements: Vec<Placement>) -> impl Future<Output = Result<AnyExperiment>> + Send;

    /// All facts that were kept for analysis, also those the plugin records by itself (exposures).
    ///
    /// # Errors
    /// What keeps them from being read.
    fn facts(&self) -> impl Future<Output = Result<Vec<Fact>>> + Send;
}

/// Every rule of the Experiment trait, checked on plugins opened at an `H` of their own each.
pub fn experiment_suite<H: ExperimentHome>() -> Suite {
    let cases = [assign::cases(), sticky::cases(), exposure::cases(), track::cases()].into_iter().flatten().collect();
    Suite::new(cases, || async { Ok(Bed { home: Arc::new(H::new()?), cx: Context::new() }) })
}

/// What a case works with.
pub(crate) struct Bed {
    home: Arc<dyn Home>,
    cx: Context,
}

/// [`ExperimentHome`] without its type.
trait Home: Send + Sync {
    fn open(&self, placements: Vec<Placement>) -> BoxFuture<'_, Result<AnyExperiment>>;
    fn facts(&self) -> BoxFuture<'_, Result<Vec<Fact>>>;
}

impl<H: ExperimentHome> Home for H {
    fn open(&self, placements: Vec<Placement>) -> BoxFuture<'_, Result<AnyExperiment>> {
        Box::pin(ExperimentHome::open(self, placements))
    }
    fn facts(&self) -> BoxFuture<'_, Result<Vec<Fact>>> {
        Box::pin(ExperimentHome::facts(self))
    }
}

impl Bed {
    async fn open(&self, placements: &[Placement]) -> anyhow::Result<AnyExperiment> {
        Ok(self.home.open(placements.to_vec()).await?)
    }

    /// A plugin with one placement `page` of two variations of equal weight.
    async fn halves(&self) -> anyhow::Result<AnyExperiment> {
        self.open(&[Placement::new("page", &[("control", 50), ("treatment", 50)])]).await
    }

    async fn assign(&self, plugin: &AnyExperiment, subject: &str, placement: &str) -> anyhow::Result<Assignment> {
        Ok(plugin.assign(&self.cx, Assign::new(subject, placement)).await?)
    }
}
