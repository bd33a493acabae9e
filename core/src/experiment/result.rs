//! What an evaluation finds, borrowed from the payload and the user it was made of.

use std::borrow::Cow;

use serde::{
    Serialize,
    ser::{Error as _, SerializeMap, Serializer},
};
use serde_json::{Number, Value};

use super::{definition::Definition, value::truthy};

/// Why a feature has its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// No feature of that key is in the payload.
    UnknownFeature,
    /// No rule applied.
    DefaultValue,
    /// A rule gave the value to everybody, or to a share.
    Force,
    /// The user's own forced values.
    Override,
    /// An experiment's variation.
    Experiment,
    /// A prerequisite that gates the feature is not met.
    Prerequisite,
    /// The feature is a prerequisite of itself, or its prerequisites form too long a chain.
    CyclicPrerequisite,
}

/// A feature's value for a user, and why.
#[derive(Clone, Debug)]
pub struct FeatureResult<'a> {
    /// The value; `null` when there is none.
    pub value: &'a Value,
    /// Why.
    pub source: Source,
    /// The rule that decided; empty when it has no id, or none did.
    pub rule_id: &'a str,
    /// The experiment that decided, and its result.
    pub experiment: Option<(Ran<'a>, ExperimentResult<'a>)>,
}

impl FeatureResult<'_> {
    /// The feature is on: its value is not `null`, `false`, `0` or `""`.
    pub fn on(&self) -> bool {
        truthy(self.value)
    }
}

impl Serialize for FeatureResult<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("value", self.value)?;
        map.serialize_entry("on", &self.on())?;
        map.serialize_entry("off", &!self.on())?;
        map.serialize_entry("source", &self.source)?;
        map.serialize_entry("ruleId", self.rule_id)?;
        if let Some((experiment, result)) = &self.experiment {
            map.serialize_entry("experiment", experiment)?;
            map.serialize_entry("experimentResult", result)?;
        }
        map.end()
    }
}

/// An experiment as it ran: a contextual bandit may have given it other weights.
#[derive(Clone, Debug)]
pub struct Ran<'a> {
    /// The experiment.
    pub definition: &'a Definition,
    /// Weights that a bandit gave in place of the experiment's.
    pub(super) weights: Option<&'a [f64]>,
    /// The bandit's part in the result.
    pub(super) bandit: Option<Box<Bandit<'a>>>,
}

impl Serialize for Ran<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.weights.is_none() && self.bandit.is_none() {
            return self.definition.serialize(serializer);
        }
        let mut json = serde_json::to_value(self.definition).map_err(S::Error::custom)?;
        if let Some(weights) = self.weights {
            json["weights"] = weights.into();
        }
        if let Some(bandit) = &self.bandit {
            json["contextualBandit"] = serde_json::to_value(bandit).map_err(S::Error::custom)?;
        }
        json.serialize(serializer)
    }
}

/// Which leaf of a contextual bandit the user's context led to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandit<'a> {
    /// The leaf; -1 when none matched.
    pub leaf_id: i64,
    /// The weights the variation was chosen by.
    pub variation_weights: Cow<'a, [f64]>,
    /// The version of the bandit's model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandit_version: Option<&'a Number>,
}

/// A user's variation in an experiment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentResult<'a> {
    /// The variation's key: the one it was given, or else its index.
    pub key: Cow<'a, str>,
    /// The feature the experiment is a rule of.
    pub feature_id: Option<&'a str>,
    /// The user takes part.
    pub in_experiment: bool,
    /// The hash decided, or an earlier assignment by it: only these users are analysed.
    pub hash_used: bool,
    /// The variation's index.
    pub variation_id: usize,
    /// What the variation shows.
    pub value: &'a Value,
    /// The attribute the user is known by.
    pub hash_attribute: &'a str,
    /// Its value; `""` when the user has none.
    pub hash_value: &'a Value,
    /// An earlier assignment decided.
    pub sticky_bucket_used: bool,
    /// The variation's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// Where the user falls between 0 and 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<f64>,
    /// The rules after this one go on to decide, as behind a holdout.
    #[serde(skip_serializing_if = "is_false")]
    pub passthrough: bool,
    /// The contextual bandit's part.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub bandit: Option<Box<Bandit<'a>>>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A user has entered an experiment: what is recorded when the variation is shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exposure<'a> {
    /// The experiment as it ran.
    pub experiment: Ran<'a>,
    /// The user's variation.
    pub result: ExperimentResult<'a>,
}
