//! Which symbol is chosen.
//!
//! The filters, and their order, are those of llama.cpp's own tools: `top_k`, `top_p`, `min_p`, then the temperature. The
//! draw is not: it is a pure function of the seed and of how many symbols the answer has, so that a sampler has no state.
//! An answer that was cut short therefore goes on with the draws it would have had, from its symbols alone.

use llama_cpp_2::{
    sampling::LlamaSampler,
    token::{LlamaToken, data::LlamaTokenData, data_array::LlamaTokenDataArray},
};
use selvedge_core::{Result, inference::Sampling};

use crate::{grammar::dead_end, logits, softmax};

/// Below this temperature the likeliest symbol is as good as certain, and dividing by it would overflow.
const COLDEST: f32 = 1e-4;

/// Chooses the symbol that comes after `place` others of an answer.
///
/// # Errors
/// `Damaged` when a logit is no number; `Internal` when the grammar allows no symbol.
pub(crate) fn choose(
    logits: &[f32],
    sampling: &Sampling,
    place: usize,
    grammar: Option<&mut LlamaSampler>,
) -> Result<LlamaToken> {
    let free = pick(logits, sampling, place)?;
    let Some(grammar) = grammar else { return Ok(free) };
    // Most symbols that are chosen freely fit the grammar, and asking it about one is cheap; about all of them it is not.
    if allowed(grammar, [(free, 0.0)]).contains(&0.0) {
        return Ok(free);
    }
    let all = (0..).map(LlamaToken).zip(logits.iter().copied());
    let logits = allowed(grammar, all);
    if logits.iter().all(|logit| *logit == f32::NEG_INFINITY) {
        return Err(dead_end());
    }
    pick(&logits, sampling, place)
}

/// The logits, with those of symbols that the grammar does not allow at minus infinity.
fn allowed(grammar: &mut LlamaSampler, logits: impl IntoIterator<Item = (LlamaToken, f32)>) -> Vec<f32> {
    let data = logits.into_iter().map(|(token, logit)| LlamaTokenData::new(token, logit, 0.0)).collect();
    let mut data = LlamaTokenDataArray::new(data, false);
    grammar.apply(&mut data);
    // A grammar marks candidates and leaves them in their places.
    data.data.iter().map(LlamaTokenData::logit).collect()
}

fn pick(logits: &[f32], sampling: &Sampling, place: usize) -> Result<LlamaToken> {
    // It also finds weights that are no numbers.
    let likeliest = logits::likeliest(logits)?;
    if sampling.temperature < COLDEST {
        return Ok(likeliest);
    }
    let highest = logits.get(usize::try_from(likeliest.0).unwrap_or(0)).copied().unwrap_or(0.0);
    if sampling.top_p >= 1.0 && (sampling.top_k == 0 || sampling.top_k as usize >= logits.len()) {
        let least = if sampling.min_p > 0.0 { highest + sampling.min_p.ln() } else { f32::NEG_INFINITY };
        let part = draw(sampling.seed, place);
        let drawn = softmax::draw(logits, highest, least, sampling.temperature, part);
        return Ok(drawn.and_then(|symbol| i32::try_from(symbol).ok()).map_or(likeliest, LlamaToken));
    }
    let kept = keep(logits, highest, sampling);
    let weight = |logit: f32| f64::from((logit - highest) / sampling.temperature).exp();
    let sum: f64 = kept.iter().map(|(_, logit)| weight(*logit)).sum();
    let mut left = draw(sampling.seed, place) * sum;
    for (token, logit) in &kept {
        left -= weight(*logit);
        if left < 0.0 {
            return Ok(LlamaToken(*token));
        }
    }
    // Rounding may leave a rest.
    Ok(kept.last().map_or(likeliest, |(token, _)| LlamaToken(*token)))
}

/// The symbols that may be drawn, with their logits.
fn keep(logits: &[f32], highest: f32, sampling: &Sampling) -> Vec<(i32, f32)> {
    let all = || (0..).zip(logits.iter().copied()).filter(|(_, logit)| *logit > f32::NEG_INFINITY);
    let order = |a: &(i32, f32), b: &(i32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let weight = |logit: f32| f64::from(logit - highest).exp();
    let mut kept: Vec<(i32, f32)> = all().collect();
    let top_k = usize::try_from(sampling.top_k).unwrap_or(usize::MAX);
    if top_k > 0 && top_k < kept.len() {
        kept.select_nth_unstable_by(top_k, order);
        kept.truncate(top_k);
    }
    if sampling.top_p < 1.0 {
        let enough = kept.iter().map(|(_, logit)| weight(*logit)).sum::<f64>() * f64::from(sampling.top_p);
        // Sorting the whole vocabulary takes longer than a pass: nearly always a few symbols near the top are enough.
        let near: Vec<_> = kept.iter().copied().filter(|(_, logit)| *logit > highest - 12.0).collect();
        if near.iter().map(|(_, logit)| weight(*logit)).sum::<f64>() >= enough {
            kept = near;
        }
        kept.sort_unstable_by(order);
        let mut mass = 0.0;
        let last = kept.iter().position(|(_, logit)| {
            mass += weight(*logit);
            mass >= enough
        });
        kept.truncate(last.map_or(kept.len(), |last| last + 1));
    } else {
        // In an order that does not depend on how the others were left out.
        kept.sort_unstable_by_key(|(token, _)| *token);
    }
    if sampling.min_p > 0.0 {
        let least = highest + sampling.min_p.ln();
        kept.retain(|(_, logit)| *logit >= least);
    }
    kept
}

/// A number from 0 up to 1 for each seed and place: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), its two inputs mixed one
/// after the other.
fn draw(seed: u32, place: usize) -> f64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let stream = mix(u64::from(seed).wrapping_add(GOLDEN));
    let bits = mix(stream.wrapping_add(GOLDEN.wrapping_mul(place as u64 + 1)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What llama.cpp's own chain leaves of the candidates.
    fn theirs(logits: &[f32], sampling: &Sampling) -> Vec<i32> {
        let data = (0..).zip(logits).map(|(id, logit)| LlamaTokenData::new(LlamaToken(id), *logit, 0.0)).collect();
        let mut data = LlamaTokenDataArray::new(data, false);
        let mut chain = Vec::new();
        if sampling.top_k > 0 {
            chain.push(LlamaSampler::top_k(sampling.top_k as i32));
        }
        if sampling.top_p < 1.0 {
            chain.push(LlamaSampler::top_p(sampling.top_p, 1));
        }
        if sampling.min_p > 0.0 {
            chain.push(LlamaSampler::min_p(sampling.min_p, 1));
        }
        for mut sampler in chain {
            sampler.apply(&mut data);
        }
        let mut ids: Vec<_> = data.data.iter().map(|candidate| candidate.id().0).collect();
        ids.sort_unstable();
        ids
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_llama_cpp_keeps(
            logits in proptest::collection::vec(-30.0f32..30.0, 2..200), top_k in 0u32..220,
            top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0], min_p in prop_oneof![Just(0.0f32), 0.001f32..0.9],
        ) {
            // Equal logits, and a sum right at the border, may fall either way.
            let mut sorted = logits.clone();
            sorted.sort_unstable_by(f32::total_cmp);
            prop_assume!(sorted.windows(2).all(|pair| pair[1] - pair[0] > 1e-4));
            let sampling = Sampling { temperature: 1.0, top_k, top_p, min_p, seed: 0 };
            let highest = sorted[sorted.len() - 1];
            let mut ours: Vec<_> = keep(&logits, highest, &sampling).into_iter().map(|(id, _)| id).collect();
            ours.sort_unstable();
            let theirs = theirs(&logits, &sampling);
            prop_assert!(ours.len().abs_diff(theirs.len()) <= usize::from(top_p < 1.0), "{ours:?}\n{theirs:?}");
            if ours.len() == theirs.len() {
                prop_assert_eq!(ours, theirs);
            }
        }

        #[test]
        fn a_draw_is_from_0_up_to_1(seed in any::<u32>(), place in any::<usize>()) {
            prop_assert!((0.0..1.0).contains(&draw(seed, place)));
        }
    }

    /// The chi-square statistic of 40,000 draws.
    fn chi_square(expected: &[f64], draws: impl Iterator<Item = usize>) -> f64 {
        let mut counts = vec![0.0; expected.len()];
        let mut total = 0.0;
        for symbol in draws {
            counts[symbol] += 1.0;
            total += 1.0;
        }
        counts.iter().zip(expected).map(|(count, share)| (count - share * total).powi(2) / (share * total)).sum()
    }

    #[test]
    fn symbols_come_as_often_as_their_probabilities_say() {
        let shares = [0.4, 0.25, 0.2, 0.1, 0.05];
        let logits: Vec<f32> = shares.iter().map(|share: &f64| share.ln() as f32).collect();
        let sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        let by_place = (0..40_000).map(|place| pick(&logits, &sampling, place).unwrap().0 as usize);
        let by_seed = (0..40_000).map(|seed| pick(&logits, &Sampling { seed, ..sampling }, 3).unwrap().0 as usize);
        // 4 degrees of freedom: more than 23.5 happens once in 10,000 times, and the draws are always the same ones.
        assert!(chi_square(&shares, by_place) < 23.5);
        assert!(chi_square(&shares, by_seed) < 23.5);
        // Half the temperature squares the weights.
        let squared: Vec<f64> = shares.iter().map(|share| share * share / 0.275).collect();
        let colder = Sampling { temperature: 0.5, ..sampling };
        assert!(
            chi_square(&squared, (0..40_000).map(|place| pick(&logits, &colder, place).unwrap().0 as usize)) < 23.5
        );
        // And the test can tell.
        assert!(
            chi_square(&shares, (0..40_000).map(|place| pick(&logits, &colder, place).unwrap().0 as usize)) > 1_000.0
        );
    }
}
