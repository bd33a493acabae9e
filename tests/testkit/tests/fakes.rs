//! The suites on the small plugins in memory: what keeps the rules passes.

use std::process::ExitCode;

use selvedge_core::{AnyExperiment, AnyInference, Result, store::Fact};
use selvedge_testkit::{ExperimentHome, MemoryExperiment, Placement, ToyModel, experiment_suite, inference_suite};

struct Home(MemoryExperiment);

impl ExperimentHome for Home {
    fn new() -> Result<Self> {
        Ok(Self(MemoryExperiment::new(&[])))
    }

    async fn open(&self, placements: Vec<Placement>) -> Result<AnyExperiment> {
        Ok(AnyExperiment::new(self.0.with(&placements)))
    }

    async fn facts(&self) -> Result<Vec<Fact>> {
        Ok(self.0.facts())
    }
}

fn main() -> ExitCode {
    let model = || Ok(AnyInference::new(ToyModel::new(200)));
    inference_suite(model).and(experiment_suite::<Home>()).run()
}
