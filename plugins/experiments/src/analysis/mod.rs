//! Did it earn more: the statistics of experiments on revenue per user.
//!
//! Decisions go by boundaries that allow for looking often ([`bounds`]); how many users that takes is [`power()`].

mod analyze;
pub mod bayes;
pub mod boundary;
mod collect;
pub mod cuped;
mod day;
mod decide;
pub mod decomposition;
pub mod guardrail;
pub mod input;
pub mod multiple;
pub mod normal;
pub mod novelty;
mod options;
pub mod power;
pub mod ratio;
pub mod report;
pub mod sequence;
pub mod spending;
pub mod summary;
pub mod test;

pub use analyze::analyze;
pub use bayes::{Posterior, Prior};
pub use boundary::{Boundaries, Looks, bounds, crossing};
pub use collect::{Row, Source};
pub use cuped::{Cuped, Paired};
pub use day::Day;
pub use decomposition::{Decomposition, Sales, decompose};
pub use guardrail::{Better, Guarded, Guardrail};
pub use multiple::Correction;
pub use novelty::Novelty;
pub use options::{Options, Refunds};
pub use power::{Allocation, Plan, Power, Variance, power};
pub use ratio::{SampleRatio, sample_ratio};
pub use report::Report;
use selvedge_core::{Error, ErrorKind};
pub use sequence::AlwaysValid;
pub use spending::Spending;
pub use summary::{Arm, Moments};
pub use test::Effect;

/// What is wrong with what was passed in.
fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, "experiment.analysis", message)
}
