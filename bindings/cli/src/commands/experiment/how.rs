//! What the flags mean.

use std::collections::BTreeMap;

use selvedge::{
    Error, ErrorKind, Result,
    experiments::analysis::{Correction, Looks, Options, Prior, Refunds, Spending, Variance},
};

use crate::arguments::experiment::{CorrectionName, How, RefundsName, SpendingName, VarianceName};

/// How an experiment is analysed.
///
/// # Errors
/// `InvalidInput` for a variation with two weights, and for what is no guardrail.
pub(super) fn options(how: How) -> Result<Options> {
    let mut weights = BTreeMap::new();
    for (name, weight) in how.weights {
        if weights.insert(name.clone(), weight).is_some() {
            return Err(invalid("a variation has two weights").with("variation", name));
        }
    }
    Ok(Options {
        control: how.control,
        weights,
        alpha: how.error.alpha,
        spending: spending(how.error.spending),
        planned_per_arm: how.planned,
        looks: how.looks,
        correction: match how.correction {
            CorrectionName::Holm => Correction::Holm,
            CorrectionName::BenjaminiHochberg => Correction::BenjaminiHochberg,
        },
        prior: how.prior.map(|deviation| Prior { mean: 0.0, deviation }),
        winsorise: how.winsorise,
        refunds: refunds(how.refunds),
        guardrails: how.guardrails.iter().map(|guardrail| guardrail.parse()).collect::<Result<_>>()?,
        ..Options::default()
    })
}

pub(super) fn spending(name: SpendingName) -> Spending {
    match name {
        SpendingName::ObrienFleming => Spending::ObrienFleming,
        SpendingName::Pocock => Spending::Pocock,
    }
}

pub(super) fn variance(name: VarianceName) -> Variance {
    match name {
        VarianceName::Equal => Variance::Equal,
        VarianceName::Volume => Variance::Volume,
        VarianceName::Price => Variance::Price,
    }
}

pub(super) fn refunds(name: RefundsName) -> Refunds {
    match name {
        RefundsName::Refuse => Refunds::Refuse,
        RefundsName::Net => Refunds::Net,
        RefundsName::Zero => Refunds::Zero,
    }
}

/// The looks that are meant: a count, or fractions.
///
/// # Errors
/// `InvalidInput` for what is neither.
pub(super) fn looks(text: &str) -> Result<Vec<f64>> {
    let meant =
        || invalid("looks are a count, or fractions").with("looks", text).advise("write 5, or 0.2,0.4,0.6,0.8,1");
    if let Ok(count) = text.parse::<u32>() {
        return if (1..=10_000).contains(&count) { Ok(Looks::equal(count).fractions) } else { Err(meant()) };
    }
    text.split(',').map(|fraction| fraction.trim().parse().map_err(|_| meant())).collect()
}

pub(super) fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "cli.experiment", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_a_count_or_fractions() {
        assert_eq!(looks("1").expect("one"), [1.0]);
        assert_eq!(looks("4").expect("four"), [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(looks("0.5, 1").expect("two"), [0.5, 1.0]);
        for wrong in ["0", "", "a", "0.5;1"] {
            assert!(looks(wrong).is_err(), "{wrong}");
        }
    }
}
