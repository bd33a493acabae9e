//! What a placement shows, as the app reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ExitOfferSettings;
use crate::{Error, ErrorKind, Result};

/// The value of a placement: a feature whose key is the placement's name and whose value is this object.
///
/// Everything may be left out, and what is unknown here is passed over, so that an app may keep more in it.
///
/// ```
/// use selvedge_core::experiment::PlacementValue;
///
/// let value = PlacementValue::from_json(&serde_json::json!({
///     "offering": "annual", "discount_pct": 0, "copy": { "title": "Go pro" },
///     "exit_offer": { "enabled": true, "placement": "exit_offer" },
/// }))?;
/// assert_eq!(value.offering.as_deref(), Some("annual"));
/// assert!(value.exit_offer.is_some_and(|exit| exit.enabled));
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlacementValue {
    /// What is sold: the purchase SDK's name for a set of products.
    pub offering: Option<String>,
    /// Texts, by name.
    pub copy: BTreeMap<String, String>,
    /// Percent off the full price: 0 to 100.
    pub discount_pct: u8,
    /// Whether, where and when an offer is made to who is leaving.
    pub exit_offer: Option<ExitOfferSettings>,
}

impl PlacementValue {
    /// Reads a placement's value: what [`Assignment::show`](super::Assignment::show) holds.
    ///
    /// # Errors
    /// `InvalidInput` when it is not such an object.
    pub fn from_json(value: &serde_json::Value) -> Result<Self> {
        let invalid = |message: &str| Error::new(ErrorKind::InvalidInput, "experiment.placement", message);
        let read = Self::deserialize(value)
            .map_err(|error| invalid("a placement's value does not have its shape").caused_by(error))?;
        if read.discount_pct > 100 {
            return Err(invalid("a discount is more than 100 percent").with("discount_pct", read.discount_pct));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_out_has_its_default_and_what_is_unknown_is_passed_over() {
        assert_eq!(PlacementValue::from_json(&json!({})).unwrap(), PlacementValue::default());
        let read = PlacementValue::from_json(&json!({ "offering": "annual", "theme": { "dark": true } })).unwrap();
        assert_eq!(read, PlacementValue { offering: Some("annual".into()), ..Default::default() });
    }

    #[test]
    fn another_shape_is_an_error() {
        for value in [
            json!(null),
            json!("annual"),
            json!({ "discount_pct": 101 }),
            json!({ "discount_pct": -1 }),
            json!({ "discount_pct": 9.5 }),
            json!({ "copy": ["Go pro"] }),
            json!({ "exit_offer": { "enabled": "yes" } }),
        ] {
            assert_eq!(PlacementValue::from_json(&value).unwrap_err().kind(), ErrorKind::InvalidInput, "{value}");
        }
    }
}
