//! Experiments beside GrowthBook's own SDKs. There is nothing to call here: the conformance cases of the SDK specification are in
//! `tests/`, and `benches/` times an evaluation beside theirs.
