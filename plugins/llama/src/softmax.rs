//! Drawing from a whole vocabulary, in the time that a pass leaves for it.

/// Symbols whose weights are added up together.
const BLOCK: usize = 64;
/// Weights that are added up side by side, so that the compiler uses vectors.
const LANES: usize = 16;

/// The first symbol at which the weights so far exceed `part` (0 up to 1) of all weights. The weight of a logit is
/// e^((logit − highest) / temperature), or nothing below `least`. `None` when there is no weight at all.
pub(crate) fn draw(logits: &[f32], highest: f32, least: f32, temperature: f32, part: f64) -> Option<usize> {
    // By value: what lies behind a pointer may not be read ahead of the comparison, and the compiler would make no vectors.
    let weight = move |logit: f32| if logit < least { 0.0 } else { exp((logit - highest) / temperature) };
    let sums: Vec<f64> = logits.chunks(BLOCK).map(|block| sum(block, weight)).collect();
    let mut left = part * sums.iter().sum::<f64>();
    let mut last = None;
    for (start, (block, sum)) in (0..).step_by(BLOCK).zip(logits.chunks(BLOCK).zip(&sums)) {
        if *sum <= 0.0 {
            continue;
        }
        if left >= *sum {
            left -= sum;
        } else {
            for (symbol, logit) in (start..).zip(block) {
                left -= f64::from(weight(*logit));
                if left < 0.0 {
                    return Some(symbol);
                }
            }
        }
        last = Some((start, block));
    }
    // Rounding may leave a rest: then it is the last that has a weight.
    let (start, block) = last?;
    block.iter().rposition(|logit| weight(*logit) > 0.0).map(|place| start + place)
}

fn sum(block: &[f32], weight: impl Fn(f32) -> f32) -> f64 {
    let mut sums = [0.0; LANES];
    let (rows, rest) = block.as_chunks::<LANES>();
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(sum, logit)| *sum += weight(*logit));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, logit)| *sum += weight(*logit));
    sums.into_iter().map(f64::from).sum()
}

/// e^x for x up to 0, to a few units in the last place; nothing below −87. Additions and products alone, so that every machine
/// draws the same symbol: the `exp` of a C library differs from one to the next.
///
/// e^x = 2^n · e^r with |r| ≤ ln 2 / 2, and a Taylor polynomial for e^r.
fn exp(x: f32) -> f32 {
    /// Added and taken away, it rounds to a whole number; the low bits of the sum are that number.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, of which the first has room for a factor of 7 bits.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    if x < -87.0 { 0.0 } else { p * f32::from_bits(exponent) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn powers_are_exact_to_a_few_units() {
        for step in 0..=870_000 {
            let x = -(step as f32) / 10_000.0;
            let (found, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / exact - 1.0).abs() < 4e-7, "e^{x}: {found} instead of {exact}");
        }
        assert_eq!((exp(0.0), exp(-88.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }

    #[test]
    fn ends_and_nothing() {
        let logits = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
        for part in [0.0, 0.5, 1.0 - 1e-16, 1.0] {
            assert_eq!(draw(&logits, 1.0, f32::NEG_INFINITY, 1.0, part), Some(1), "{part}");
        }
        assert_eq!(draw(&[], 0.0, f32::NEG_INFINITY, 1.0, 0.5), None);
        assert_eq!(draw(&[1.0], 1.0, 2.0, 1.0, 0.5), None);
    }

    proptest! {
        #[test]
        fn it_is_the_symbol_that_exact_sums_give(
            logits in proptest::collection::vec(-30.0f32..5.0, 1..400), temperature in 0.1f32..3.0, part in 0.0f64..1.0,
        ) {
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f64> =
                logits.iter().map(|logit| f64::from((logit - highest) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let found = draw(&logits, highest, f32::NEG_INFINITY, temperature, part).unwrap();
            let before: f64 = weights[..found].iter().sum();
            // Within rounding, `part` lies in the piece of the line that the symbol has.
            let (low, high) = (before / total, (before + weights[found]) / total);
            prop_assert!(low - 1e-5 <= part && part <= high + 1e-5, "{part} in {low}..{high}");
        }
    }
}
