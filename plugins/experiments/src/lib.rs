//! Experiments that are judged by revenue per user: who sees what, and did it earn more.

#[cfg(feature = "analysis")]
pub mod analysis;
