//! What inference costs: an API against nodes of one's own, from the requests of a log.
//!
//! Everything here is a pure function; `commands::cost` reads the log and prints. The way is [`log`] → [`traffic`] → [`work`]
//! → [`plan`], and [`bootstrap`] goes the last two steps again with other requests of the same log.

pub(crate) mod article;
pub(crate) mod bootstrap;
pub(crate) mod log;
pub(crate) mod plan;
pub(crate) mod queue;
pub(crate) mod traffic;
pub(crate) mod work;

/// Seconds of a month as the price lists of clouds count it: 730 hours, a twelfth of 365 days.
pub(crate) const MONTH: f64 = 730.0 * 3_600.0;
