//! The configuration of features and experiments: read once, compiled, and shared by every evaluation.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value, value::RawValue};

use super::{
    condition::{Condition, SavedGroups},
    definition::{Definition, Filter, Prerequisite, Rollout},
    evaluate::User,
    sticky::{Document, Documents},
    value,
};
use crate::{Error, ErrorKind, Result};

/// Everything that evaluations need beside the user.
///
/// A feature or experiment that cannot be read is left out, and [`Payload::problems`] says why; the others are served.
///
/// ```
/// use selvedge_core::experiment::{Payload, User};
/// use serde_json::json;
///
/// let payload = Payload::parse(br#"{"features": {"banner": {"defaultValue": "none", "rules": [
///     {"condition": {"country": "DE"}, "force": "sale"}
/// ]}}}"#)?;
/// let ada = User::new([("id".to_owned(), json!("ada")), ("country".to_owned(), json!("DE"))]);
/// assert_eq!(payload.evaluate(&ada).feature("banner").value, "sale");
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Payload {
    pub(super) features: HashMap<Box<str>, Feature>,
    experiments: Vec<Definition>,
    pub(super) groups: SavedGroups,
    pub(super) bandits: HashMap<Box<str>, Bandit>,
    pub(super) forced_variations: BTreeMap<String, i64>,
    problems: Vec<Problem>,
    /// What assignments are kept by, in order, each once.
    sticky_attributes: Vec<Box<str>>,
}

/// A part of a payload that was left out.
#[derive(Debug)]
pub struct Problem {
    /// What kind of part: `feature`, `experiment`, `saved group` or `contextual bandit`.
    pub kind: &'static str,
    /// Its key; an experiment's index where its key cannot be read.
    pub key: String,
    /// What is wrong with it.
    pub error: Error,
}

/// A flag: its default, and the rules that may give it another value.
#[derive(Debug, Default)]
pub(super) struct Feature {
    pub(super) default: Value,
    pub(super) rules: Box<[Rule]>,
}

/// One rule of a feature.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: Box<str>,
    pub(super) prerequisites: Box<[Prerequisite]>,
    pub(super) filters: Box<[Filter]>,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Force {
        value: Value,
        condition: Option<Condition>,
        rollout: Box<Rollout>,
    },
    Run(Box<Definition>),
    /// Neither a value nor variations.
    Nothing,
}

/// A contextual bandit: weights that depend on who the user is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bandit {
    pub(super) bandit_version: Option<Number>,
    #[serde(default)]
    pub(super) contexts: Option<Box<[Leaf]>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Leaf {
    pub(super) leaf_id: i64,
    #[serde(default)]
    pub(super) condition: Option<Condition>,
    pub(super) weights: Box<[f64]>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PayloadJson<'a> {
    #[serde(borrow, default)]
    features: Option<HashMap<String, &'a RawValue>>,
    #[serde(borrow, default)]
    experiments: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    saved_groups: Option<HashMap<String, &'a RawValue>>,
    #[serde(borrow, default)]
    contextual_bandits: Option<HashMap<String, &'a RawValue>>,
    #[serde(default)]
    forced_variations: Option<BTreeMap<String, i64>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FeatureJson<'a> {
    #[serde(default)]
    default_value: Value,
    #[serde(borrow, default)]
    rules: Option<Vec<&'a RawValue>>,
}

/// What rules of every kind have, and what a forcing one has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleJson {
    #[serde(default)]
    id: Option<Box<str>>,
    #[serde(default, deserialize_with = "present")]
    force: Option<Value>,
    #[serde(default)]
    condition: Option<Condition>,
    #[serde(default)]
    parent_conditions: Option<Box<[Prerequisite]>>,
    #[serde(default)]
    filters: Option<Box<[Filter]>>,
    #[serde(default)]
    variations: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    contextual_variations: Option<serde::de::IgnoredAny>,
}

/// `null` is a value too: only what is left out is `None`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Payload {
    /// The largest payload that is read, in bytes.
    pub const MAX_BYTES: usize = 64 << 20;

    /// Reads and compiles a payload.
    ///
    /// # Errors
    /// `InvalidInput` for what is not JSON or has the wrong shape, `TooLarge` for more than [`Payload::MAX_BYTES`].
    pub fn parse(json: &[u8]) -> Result<Self> {
        if json.len() > Self::MAX_BYTES {
            return Err(Error::new(ErrorKind::TooLarge, "experiment.payload", "the payload is too large")
                .with("bytes", json.len())
                .with("most", Self::MAX_BYTES)
                .advise("archive experiments that are over, or move long lists into saved groups"));
        }
        let text = std::str::from_utf8(json).map_err(serde::de::Error::custom);
        let json: PayloadJson<'_> = text.and_then(object).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "experiment.payload", "this is no payload of features and experiments")
                .caused_by(error)
                .advise("check that it is the SDK endpoint's answer, and decrypted if it was encrypted")
        })?;
        let mut payload = Self { forced_variations: json.forced_variations.unwrap_or_default(), ..Self::default() };
        for (key, source) in json.features.into_iter().flatten() {
            match Feature::parse(&key, source) {
                Ok(feature) => drop(payload.features.insert(key.into(), feature)),
                Err(error) => payload.leave_out("feature", key, error),
            }
        }
        for (index, source) in json.experiments.into_iter().flatten().enumerate() {
            match Definition::parse(source.get()) {
                Ok(definition) => payload.experiments.push(definition),
                Err(error) => payload.leave_out("experiment", index.to_string(), error),
            }
        }
        for (key, source) in json.saved_groups.into_iter().flatten() {
            let group = serde_json::from_str(source.get()).map_err(unreadable);
            if let Err(error) = group.and_then(|group: Value| payload.groups.insert(&key, &group)) {
                payload.leave_out("saved group", key, error);
            }
        }
        for (key, source) in json.contextual_bandits.into_iter().flatten() {
            match read(source) {
                Ok(bandit) => drop(payload.bandits.insert(key.into(), bandit)),
                Err(error) => payload.leave_out("contextual bandit", key, error),
            }
        }
        payload.sticky_attributes = payload.kept_by();
        Ok(payload)
    }

    /// What was left out, and why.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The keys of the features, in no order.
    pub fn features(&self) -> impl ExactSizeIterator<Item = &str> {
        self.features.keys().map(|key| &**key)
    }

    /// The experiments that are no feature's rule, in the payload's order.
    pub fn experiments(&self) -> &[Definition] {
        &self.experiments
    }

    /// The attributes that assignments are kept by.
    pub fn sticky_attributes(&self) -> Vec<&str> {
        self.sticky_attributes.iter().map(|attribute| &**attribute).collect()
    }

    /// The documents to load for a user before an evaluation, still empty: one for each such attribute that the user has an id
    /// under.
    pub fn sticky_documents(&self, user: &User) -> Documents {
        let of = |attribute: &str| {
            let id = value::id(user.attributes.get(attribute)?)?;
            let document = Document::new(attribute, id);
            Some((document.key(), document))
        };
        self.sticky_attributes.iter().filter_map(|attribute| of(attribute)).collect()
    }

    fn kept_by(&self) -> Vec<Box<str>> {
        let rules = self.features.values().flat_map(|feature| &feature.rules);
        let ran = rules.filter_map(|rule| match &rule.kind {
            Kind::Run(definition) => Some(&**definition),
            _ => None,
        });
        let attributes: BTreeSet<&str> = ran
            .chain(&self.experiments)
            .flat_map(|definition| {
                [Some(definition.identity.attribute()), definition.identity.fallback_attribute.as_deref()]
            })
            .flatten()
            .collect();
        attributes.into_iter().map(Box::from).collect()
    }

    fn leave_out(&mut self, kind: &'static str, key: String, error: Error) {
        self.problems.push(Problem { kind, key, error });
    }
}

impl Feature {
    fn parse(key: &str, source: &RawValue) -> Result<Self> {
        let json: FeatureJson<'_> = read(source)?;
        let rules = json.rules.into_iter().flatten().map(|rule| Rule::parse(key, rule)).collect::<Result<_>>()?;
        Ok(Self { default: json.default_value, rules })
    }
}

impl Rule {
    fn parse(feature: &str, source: &RawValue) -> Result<Self> {
        let json: RuleJson = read(source)?;
        let kind = if let Some(value) = json.force {
            Kind::Force { value, condition: json.condition, rollout: Box::new(read(source)?) }
        } else if json.variations.is_some() || json.contextual_variations.is_some() {
            let mut definition = Definition::parse(source.get())?;
            definition.belong_to(feature);
            Kind::Run(Box::new(definition))
        } else {
            Kind::Nothing
        };
        Ok(Self {
            id: json.id.unwrap_or_default(),
            prerequisites: json.parent_conditions.unwrap_or_default(),
            filters: json.filters.unwrap_or_default(),
            kind,
        })
    }
}

/// Reads a part of the payload; one that nests too deeply for the reader is an error like any other.
fn read<'a, T: Deserialize<'a>>(source: &'a RawValue) -> Result<T> {
    object(source.get()).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::InvalidInput, "experiment.payload", "this part of the payload cannot be read")
        .caused_by(error)
        .advise("compare it with the SDK specification")
}

/// Reads an object; a derived reader would take a list of its fields too.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a str) -> serde_json::Result<T> {
    if json.trim_start().starts_with('{') {
        serde_json::from_str(json)
    } else {
        Err(serde::de::Error::custom("it is no object"))
    }
}
