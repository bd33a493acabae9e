//! Money as events carry it: whole minor units and a currency, never floats.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// A currency's ISO 4217 code: `USD`.
///
/// Three capital letters are asked for. Whether the code is in use today is not: that list changes, and old events stay.
///
/// ```
/// use selvedge_core::experiment::Currency;
///
/// assert_eq!(Currency::new("EUR")?.as_str(), "EUR");
/// assert!(Currency::new("euro").is_err());
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency(String);

impl Currency {
    /// Checks a code.
    ///
    /// # Errors
    /// `InvalidInput` when it is not three capital letters.
    pub fn new(code: impl Into<String>) -> Result<Self> {
        let code = code.into();
        if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Ok(Self(code));
        }
        Err(Error::new(ErrorKind::InvalidInput, "experiment.track", "not a currency code")
            .with("currency", code)
            .advise("give the three capital letters of ISO 4217: USD"))
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Currency {
    type Error = Error;
    fn try_from(code: String) -> Result<Self> {
        Self::new(code)
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.0
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text is a subscription period as the stores write it: an ISO 8601 duration of whole days, weeks, months or
/// years, `P1M` or `P1Y6M`.
pub(super) fn is_period(text: &str) -> bool {
    let Some(mut rest) = text.strip_prefix('P').filter(|rest| !rest.is_empty()) else { return false };
    let mut units = "YMWD".chars();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let Some(unit) = rest.get(digits..).and_then(|after| after.chars().next()) else { return false };
        // `any` moves on: units come in order, each at most once.
        if !(1..=4).contains(&digits) || !units.any(|known| known == unit) {
            return false;
        }
        rest = &rest[digits + 1..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_those_of_the_stores() {
        for period in ["P1W", "P1M", "P3M", "P6M", "P1Y", "P3D", "P1Y6M", "P4W2D"] {
            assert!(is_period(period), "{period}");
        }
        for not in ["", "P", "1M", "PM", "P1", "P1M1Y", "P1M1M", "P-1M", "P1.5M", "PT1H", "monthly", "P1é", "P99999D"]
        {
            assert!(!is_period(not), "{not}");
        }
    }

    #[test]
    fn a_currency_is_three_capital_letters_also_in_json() {
        assert_eq!(serde_json::from_str::<Currency>(r#""JPY""#).unwrap().to_string(), "JPY");
        for not in ["", "usd", "US", "USDT", "US$", "ÜSD"] {
            assert_eq!(Currency::new(not).unwrap_err().kind(), ErrorKind::InvalidInput, "{not}");
            assert!(serde_json::from_value::<Currency>(not.into()).is_err(), "{not}");
        }
    }
}
