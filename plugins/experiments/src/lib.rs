//! Experiments: who sees what, and did it earn more.
//!
//! What a feature or experiment means to a user is decided in `selvedge_core::experiment`; this crate is what stands around it.

pub mod decrypt;
