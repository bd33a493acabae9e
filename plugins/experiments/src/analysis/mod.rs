//! Did it earn more: the statistics of experiments on revenue per user.
//!
//! Decisions go by boundaries that allow for looking often ([`bounds`]); how many users that takes is [`power()`].

pub mod boundary;
pub mod normal;
pub mod power;
pub mod spending;

pub use boundary::{Boundaries, Looks, bounds, crossing};
pub use power::{Allocation, Plan, Power, power};
use selvedge_core::{Error, ErrorKind};
pub use spending::Spending;

/// What is wrong with what was passed in.
fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, "experiment.analysis", message)
}
