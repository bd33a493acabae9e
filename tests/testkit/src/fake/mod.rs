//! Small plugins in memory that keep all rules, to test the suites themselves. They are no plugins for programs.

mod experiment;
mod model;

pub use experiment::MemoryExperiment;
pub use model::ToyModel;
