//! From logits to symbols.

use llama_cpp_2::token::LlamaToken;
use selvedge_core::{Error, ErrorKind, Result, inference::Candidate};

/// The likeliest symbol; the first of equals.
///
/// # Errors
/// `Damaged` when a logit is no number: the weights are broken.
pub(crate) fn likeliest(logits: &[f32]) -> Result<LlamaToken> {
    // Side by side, so that the compiler uses vectors: this runs over the whole vocabulary for each symbol.
    const LANES: usize = 16;
    let mut highest = [f32::NEG_INFINITY; LANES];
    let mut no_number = [false; LANES];
    let (rows, rest) = logits.as_chunks::<LANES>();
    let mut look = |row: &[f32]| {
        for ((highest, no_number), logit) in highest.iter_mut().zip(&mut no_number).zip(row) {
            *highest = if *logit > *highest { *logit } else { *highest };
            *no_number |= logit.is_nan();
        }
    };
    // Rows of a length that is known are what makes vectors of it.
    rows.iter().for_each(|row| look(row.as_slice()));
    look(rest);
    let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let holds = |row: &&[f32; LANES]| row.iter().fold(false, |holds, logit| holds | (*logit == highest));
    let before = rows.iter().take_while(|row| !holds(row)).count() * LANES;
    let first =
        (0..).zip(logits).skip(before).find(|(_, logit)| **logit == highest).map(|(symbol, _)| LlamaToken(symbol));
    match first {
        Some(symbol) if highest.is_finite() && !no_number.contains(&true) => Ok(symbol),
        _ => Err(not_numbers()),
    }
}

/// The `top` likeliest symbols with their probabilities among all symbols.
///
/// # Errors
/// `Damaged` when a logit is no number.
pub(crate) fn candidates(logits: &[f32], top: usize) -> Result<Vec<Candidate>> {
    let LlamaToken(best) = likeliest(logits)?;
    let highest = logits.get(usize::try_from(best).unwrap_or(0)).copied().unwrap_or(0.0);
    let weight = |logit: f32| f64::from(logit - highest).exp();
    let sum: f64 = logits.iter().map(|logit| weight(*logit)).sum();
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if top < all.len() {
        all.select_nth_unstable_by(top, order);
        all.truncate(top);
    }
    all.sort_unstable_by(order);
    Ok(all.into_iter().map(|(symbol, logit)| Candidate { symbol, probability: (weight(logit) / sum) as f32 }).collect())
}

fn not_numbers() -> Error {
    Error::new(ErrorKind::Damaged, "llama.sample", "the model's output is not a number")
        .advise("check the file's digest: its weights may be broken")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_a_softmax_in_order() {
        let logits = [0.0, 2.0_f32.ln(), 5.0_f32.ln(), 2.0_f32.ln()];
        let found = candidates(&logits, 3).unwrap();
        assert_eq!(found.iter().map(|c| c.symbol).collect::<Vec<_>>(), [2, 1, 3]);
        assert!((found[0].probability - 0.5).abs() < 1e-6 && (found[1].probability - 0.2).abs() < 1e-6);
        assert_eq!(candidates(&logits, 9).unwrap().len(), 4);
    }

    #[test]
    fn broken_weights_are_an_error() {
        for broken in [f32::NAN, f32::INFINITY] {
            for at in 0..40 {
                let mut logits = vec![1.0; 40];
                logits[at] = broken;
                assert_eq!(likeliest(&logits).unwrap_err().kind(), ErrorKind::Damaged, "{broken} at {at}");
            }
        }
        for nothing in [&[][..], &[f32::NEG_INFINITY; 3]] {
            assert_eq!(likeliest(nothing).unwrap_err().kind(), ErrorKind::Damaged);
        }
    }

    #[test]
    fn the_first_of_equals_is_the_likeliest() {
        let mut logits = vec![-1.0; 1000];
        logits[7] = f32::NEG_INFINITY;
        assert_eq!(likeliest(&logits).unwrap(), LlamaToken(0));
        for at in [999, 500, 33, 1] {
            logits[at] = 3.5;
            assert_eq!(likeliest(&logits).unwrap(), LlamaToken(at as i32));
        }
    }
}
