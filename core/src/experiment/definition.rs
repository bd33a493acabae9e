//! What an experiment is: its variations, who takes part, and how they are shared out.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{
    attributes::Name,
    condition::Condition,
    hash::{self, Namespace, Range, Version},
    payload::object,
    url::UrlPattern,
};
use crate::{Error, ErrorKind, Result};

/// An experiment, as the [GrowthBook SDK specification](https://docs.growthbook.io/lib/build-your-own) writes it in JSON.
///
/// ```
/// use selvedge_core::experiment::Definition;
///
/// let experiment = Definition::parse(r#"{"key": "paywall", "variations": ["yearly", "monthly"], "weights": [0.8, 0.2]}"#)?;
/// assert_eq!(experiment.key(), "paywall");
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Definition {
    pub(super) key: Name,
    pub(super) variations: Vec<Value>,
    #[serde(skip_serializing)]
    contextual_variations: Option<Vec<Value>>,
    #[serde(skip_serializing)]
    pub(super) contextual_bandit_ref: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weights: Option<Box<[f64]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coverage: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ranges: Option<Box<[Range]>>,
    #[serde(flatten)]
    pub(super) identity: Identity,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Box<[Meta]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) filters: Option<Box<[Filter]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<Namespace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) condition: Option<Condition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent_conditions: Option<Box<[Prerequisite]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) url_patterns: Option<Box<[UrlPattern]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) force: Option<i64>,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) disable_sticky_bucketing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bucket_version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) min_bucket_version: Option<u32>,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) persist_query_string: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// By what a subject is known, and how that is hashed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Identity {
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "filled")]
    hash_attribute: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "filled")]
    pub(super) fallback_attribute: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    hash_version: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "filled")]
    seed: Option<Box<str>>,
}

impl Identity {
    /// The attribute that tells subjects apart.
    pub(super) fn attribute(&self) -> &str {
        self.hash_attribute.as_deref().unwrap_or("id")
    }

    /// Where the subject falls; `None` for a hash version that is not known.
    pub(super) fn place(&self, name: &str, subject: &str) -> Option<f64> {
        let version = Version::of(self.hash_version.unwrap_or(1))?;
        Some(hash::bucket(self.seed.as_deref().unwrap_or(name), subject, version))
    }
}

/// What else is known of a variation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Meta {
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "filled")]
    pub(super) key: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "filled")]
    pub(super) name: Option<Box<str>>,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) passthrough: bool,
}

/// Places that a subject has to be in beside those of the experiment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Filter {
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "filled")]
    attribute: Option<Box<str>>,
    seed: Box<str>,
    ranges: Box<[Range]>,
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "whole")]
    hash_version: Option<i64>,
}

impl Filter {
    pub(super) fn attribute(&self) -> &str {
        self.attribute.as_deref().unwrap_or("id")
    }

    pub(super) fn admits(&self, subject: &str) -> bool {
        Version::of(self.hash_version.unwrap_or(2)).is_some_and(|version| {
            let place = hash::bucket(&self.seed, subject, version);
            self.ranges.iter().any(|range| range.contains(place))
        })
    }
}

/// A feature whose value decides as well.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Prerequisite {
    pub(super) id: Box<str>,
    /// What has to be true of its `value`; nothing when left out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) condition: Option<Condition>,
    /// The whole feature is blocked when this is not met.
    #[serde(skip_serializing_if = "is_false", default)]
    pub(super) gate: bool,
}

impl Definition {
    /// Reads an experiment.
    ///
    /// # Errors
    /// `InvalidInput` for what is no experiment, and for a condition that nests too deeply.
    pub fn parse(json: &str) -> Result<Self> {
        let mut definition: Self = object(json).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "experiment.parse", "this is no experiment")
                .caused_by(error)
                .advise("compare it with the SDK specification's Experiment")
        })?;
        if let Some(variations) = definition.contextual_variations.take() {
            definition.variations = variations;
        }
        Ok(definition)
    }

    /// Makes it a rule of a feature, which names it if nothing else does. Where and after what it runs is then for the rule to say.
    pub(super) fn belong_to(&mut self, feature: &str) {
        if self.key.text.is_empty() {
            self.key = Name::new(feature);
        }
        (self.parent_conditions, self.url_patterns, self.active, self.status) = (None, None, None, None);
    }

    /// The experiment's name, as facts and sticky documents have it.
    pub fn key(&self) -> &str {
        &self.key.text
    }

    /// The bucketing version: in a higher one everybody is assigned anew.
    pub fn bucket_version(&self) -> u32 {
        self.bucket_version.unwrap_or(0)
    }

    /// What the variations show, the control first.
    pub fn variations(&self) -> &[Value] {
        &self.variations
    }

    /// Runs at all: neither inactive nor a draft.
    pub(super) fn runs(&self) -> bool {
        self.active != Some(false) && self.status.as_deref() != Some("draft")
    }

    /// Over: only those who are forced still see a variation.
    pub(super) fn stopped(&self) -> bool {
        self.status.as_deref() == Some("stopped")
    }

    /// The variation at a place, with other weights than its own if a bandit gave some.
    pub(super) fn variation_at(&self, place: f64, weights: Option<&[f64]>) -> Option<usize> {
        if let Some(ranges) = &self.ranges {
            return hash::choose(place, ranges.iter().copied());
        }
        let weights = weights.or(self.weights.as_deref());
        hash::choose(place, hash::ranges(self.variations.len(), self.coverage.unwrap_or(1.0), weights))
    }

    /// What else is known of a variation.
    pub(super) fn meta(&self, variation: usize) -> Option<&Meta> {
        self.meta.as_ref()?.get(variation)
    }
}

/// An empty name is none.
fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<str>>, D::Error> {
    Ok(Option::<Box<str>>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// A whole number, also when written as `2.0`; 0 is none.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.map(|number| number as i64).filter(|number| *number != 0))
}

/// A rule that sends subjects to a value: everybody, or a share.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rollout {
    #[serde(flatten)]
    pub(super) identity: Identity,
    pub(super) coverage: Option<f64>,
    pub(super) range: Option<Range>,
    pub(super) disable_sticky_bucketing: bool,
}

impl Rollout {
    /// Whether a share is cut off at all.
    pub(super) fn is_partial(&self) -> bool {
        self.coverage.is_some() || self.range.is_some()
    }

    pub(super) fn admits(&self, place: f64) -> bool {
        match (self.range, self.coverage) {
            (Some(range), _) => range.contains(place),
            (None, Some(coverage)) => place < coverage,
            (None, None) => true,
        }
    }
}
