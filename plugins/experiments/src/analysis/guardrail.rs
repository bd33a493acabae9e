//! What must not get worse while revenue gets better.

use std::str::FromStr;

use selvedge_core::Error;
use serde::{Deserialize, Serialize};

use super::{Arm, Effect, invalid, normal, test};

/// Which way a metric is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More is better: sessions.
    Higher,
    /// Less is better: refunds, crashes.
    Lower,
}

/// A metric that may get worse by a margin at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guardrail {
    /// The column that holds it, a number for each user. From a Store it is the name of a fact, and the number is how many of
    /// them were recorded of the user since the exposure.
    pub column: String,
    /// How much worse is bearable, as a fraction of the control's mean: 0.02 for 2 %.
    pub margin: f64,
    /// Which way it is to go.
    pub better: Better,
}

/// Reads `COLUMN:MARGIN:WAY`, as command lines and queries have it. A column may hold colons.
///
/// ```
/// use selvedge_experiments::analysis::{Better, Guardrail};
///
/// let guardrail: Guardrail = "refunds:0.05:lower".parse()?;
/// assert_eq!((guardrail.margin, guardrail.better), (0.05, Better::Lower));
/// # Ok::<(), selvedge_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidInput` for what is not written so.
impl FromStr for Guardrail {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parts = text.rsplitn(3, ':');
        let (way, margin, column) = (parts.next(), parts.next(), parts.next());
        let better = match way {
            Some("higher") => Some(Better::Higher),
            Some("lower") => Some(Better::Lower),
            _ => None,
        };
        let margin = margin.and_then(|margin| margin.parse().ok());
        match (column.filter(|column| !column.is_empty()), margin, better) {
            (Some(column), Some(margin), Some(better)) => Ok(Self { column: column.into(), margin, better }),
            _ => Err(invalid("this is no guardrail")
                .with("guardrail", text)
                .advise("write COLUMN:MARGIN:WAY, as in sessions:0.02:higher or refunds:0.05:lower")),
        }
    }
}

/// What became of a guardrail.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guarded {
    /// The column.
    pub column: String,
    /// The margin.
    pub margin: f64,
    /// Which way is better.
    pub better: Better,
    /// The relative effect; `None` where nothing can be compared.
    pub effect: Option<Effect>,
    /// The one-sided p-value of "worse by the margin or more".
    pub p: f64,
    /// Whether it is shown to be no worse than the margin. Not shown is not the same as harmed: it may need more users.
    pub holds: bool,
    /// Whether it is shown to be worse than the control.
    pub harmed: bool,
}

/// The test of non-inferiority: one side, at `alpha / 2`, so that it is the end of the usual interval.
pub fn guard(guardrail: &Guardrail, control: &Arm, treated: &Arm, alpha: f64) -> Guarded {
    let effect = test::relative(control, treated, alpha);
    let sign = if guardrail.better == Better::Higher { 1.0 } else { -1.0 };
    let p =
        effect.map_or(1.0, |effect| normal::tail((sign * effect.estimate + guardrail.margin) / effect.standard_error));
    let harmed = effect.is_some_and(|effect| if sign > 0.0 { effect.high < 0.0 } else { effect.low > 0.0 });
    let Guardrail { column, margin, better } = guardrail.clone();
    Guarded { column, margin, better, effect, p, holds: p < alpha / 2.0, harmed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(mean: f64, n: u64) -> Arm {
        Arm { n, mean, unadjusted: mean, variance: 1.0 }
    }

    #[test]
    fn what_is_written_otherwise_is_refused() {
        let wanted = Guardrail { column: "a:b".into(), margin: 0.02, better: Better::Higher };
        assert_eq!("a:b:0.02:higher".parse::<Guardrail>().expect("a guardrail"), wanted);
        for wrong in ["refunds", "refunds:0.05", ":0.05:lower", "refunds:x:lower", "refunds:0.05:up"] {
            assert!(wrong.parse::<Guardrail>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_worse_has_to_be_shown() {
        let higher = Guardrail { column: "sessions".into(), margin: 0.02, better: Better::Higher };
        let lower = Guardrail { better: Better::Lower, ..higher.clone() };
        let many = 1_000_000;
        let equal = guard(&higher, &arm(1.0, many), &arm(1.0, many), 0.05);
        assert!(equal.holds && !equal.harmed);
        // A few users show nothing.
        let few = guard(&higher, &arm(1.0, 100), &arm(1.0, 100), 0.05);
        assert!(!few.holds && !few.harmed);
        let worse = guard(&higher, &arm(1.0, many), &arm(0.95, many), 0.05);
        assert!(!worse.holds && worse.harmed);
        assert!(guard(&lower, &arm(1.0, many), &arm(0.95, many), 0.05).holds);
        assert!(guard(&lower, &arm(1.0, many), &arm(1.05, many), 0.05).harmed);
        // Worse, but by less than the margin: both are shown.
        let bearable = guard(&higher, &arm(1.0, many), &arm(0.99, many), 0.05);
        assert!(bearable.holds && bearable.harmed);
    }
}
