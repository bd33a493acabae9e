//! The tests of the languages besides Rust: each on the library that was built, each giving its counts.

pub(crate) mod kotlin;
pub(crate) mod python;
pub(crate) mod swift;
