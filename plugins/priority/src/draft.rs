//! How many tokens to draft, by goodput: the tokens that a second of the machine is expected to yield.
//!
//! A drafted token costs a row of the pass and is of use only if it and all before it are accepted. With an acceptance rate `a` a
//! draft of `k` tokens yields `1 + a + … + a^k` tokens. How much more the pass takes depends on what else is in it: beside many
//! others a row is dear, so under load drafts become short and then none, which fixed lengths get wrong (Liu et al., "Optimizing
//! Speculative Decoding for Serving Large Language Models Using Goodput", arXiv 2406.14066).

use selvedge_core::scheduler::Draft;

/// Drafts longer than this are never worth asking about.
const LONGEST: usize = 32;
/// A draft must promise so much more than a shorter one: what the cost model says is not exact.
const GAIN: f64 = 1.01;

/// Tokens that a draft of `length` yields when each is accepted with `acceptance` after those before it.
pub(crate) fn expected(acceptance: f64, length: usize) -> f64 {
    (0..=length).map(|k| acceptance.powi(i32::try_from(k).unwrap_or(i32::MAX))).sum()
}

/// The length of most goodput, 0 when drafting does not pay. `others` is the number of tokens the rest of the pass yields, and
/// `time` says how long the pass takes with so many drafted tokens; `None` when it may not have so many.
pub(crate) fn length(draft: Draft, others: f64, time: impl Fn(usize) -> Option<f64>) -> usize {
    let acceptance = f64::from(draft.acceptance).clamp(0.0, 1.0);
    let Some(without) = time(0) else { return 0 };
    if acceptance.is_nan() || acceptance == 0.0 {
        return 0;
    }
    let (mut best, mut goodput) = (0, (others + 1.0) / without);
    let (mut chance, mut yields) = (1.0, 1.0);
    for length in 1..=draft.most.min(LONGEST) {
        let Some(time) = time(length) else { break };
        chance *= acceptance;
        yields += chance;
        let with = (others + yields) / time;
        if with > goodput * GAIN {
            (best, goodput) = (length, with);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn draft(acceptance: f32) -> Draft {
        Draft { acceptance, most: 16 }
    }

    /// Measured with SmolLM2-135M in Q4_0 on one core, in milliseconds, from one row on.
    fn measured(length: usize) -> Option<f64> {
        [16.5, 23.8, 29.1, 27.6, 39.0, 47.3, 62.5, 50.6].get(length).copied()
    }

    #[test]
    fn what_is_never_accepted_is_not_drafted() {
        assert_eq!(length(draft(0.0), 0.0, |k| Some(10.0 + k as f64)), 0);
        assert_eq!(length(draft(f32::NAN), 0.0, |k| Some(10.0 + k as f64)), 0);
        assert_eq!(length(draft(0.5), 0.0, |_| None), 0);
    }

    #[test]
    fn a_free_row_is_worth_a_long_draft_and_a_dear_one_none() {
        assert_eq!(length(draft(0.95), 0.0, |_| Some(10.0)), 16);
        assert_eq!(length(draft(0.9), 0.0, |k| Some(10.0 * (k + 1) as f64)), 0);
    }

    #[test]
    fn under_load_drafts_become_short_and_then_none() {
        let time = |others: usize| move |k: usize| Some(10.0 + 1.5 * (others + 1 + k) as f64);
        let lengths: Vec<_> = [0, 2, 8, 32, 128].into_iter().map(|n| length(draft(0.6), n as f64, time(n))).collect();
        assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
        assert!(lengths[0] >= 2 && lengths[4] == 0, "{lengths:?}");
    }

    #[test]
    fn it_ends_on_the_kernels_tile() {
        assert_eq!(length(draft(0.65), 0.0, measured), 3);
        assert_eq!(length(draft(0.8), 0.0, measured), 3);
        assert_eq!(length(draft(1.0), 0.0, measured), 7);
    }

    proptest! {
        #[test]
        fn it_is_as_good_as_any_other_length(
            acceptance in 0.0f32..=1.0, most in 0usize..40, others in 0.0f64..64.0, fixed in 1.0f64..50.0, row in 0.0f64..10.0,
        ) {
            let time = |k: usize| fixed + row * k as f64;
            let goodput = |k: usize| (others + expected(acceptance.into(), k)) / time(k);
            let chosen = length(Draft { acceptance, most }, others, |k| Some(time(k)));
            prop_assert!(chosen <= most);
            let best = (0..=most.min(LONGEST)).map(goodput).fold(0.0, f64::max);
            prop_assert!(goodput(chosen) * GAIN.powi(2) >= best * 0.999, "{} of {best}", goodput(chosen));
        }
    }
}
