//! What a user sees: features and experiments, evaluated without waiting for anything.
//!
//! The rules are those of the [GrowthBook SDK specification](https://docs.growthbook.io/lib/build-your-own), 0.12. An evaluation
//! is given all there is to know and changes nothing: it says which experiments the user entered and which sticky documents
//! are to be kept, and whoever only wants to look leaves both alone.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use serde_json::Value;

use super::{
    attributes::Attributes,
    condition::{Condition, SavedGroups},
    definition::{Definition, Filter, Identity, Prerequisite, Rollout},
    payload::{Kind, Payload, Rule},
    result::{ExperimentResult, Exposure, FeatureResult, Ran, Source},
    sticky::{Document, Documents},
    url, value,
};

pub(super) static NULL: Value = Value::Null;
static EMPTY: Value = Value::String(String::new());

/// Who is looking, and from where.
#[derive(Clone, Debug)]
pub struct User {
    /// What targeting may look at; ids are among it.
    pub attributes: Attributes,
    /// The address the user is at.
    pub url: Option<String>,
    /// Variations that are forced, by the experiment's key.
    pub forced_variations: BTreeMap<String, i64>,
    /// Values that are forced, by the feature's key.
    pub forced_features: BTreeMap<String, Value>,
    /// The user's sticky documents; `None` where assignments are not kept, so that nothing is looked up either.
    pub sticky: Option<Documents>,
    /// Experiments run; without it everybody sees the control.
    pub enabled: bool,
    /// Only forced variations are seen, so that a test sees the same every time.
    pub qa_mode: bool,
}

impl User {
    /// A user with these attributes, whose assignments are not kept.
    pub fn new(attributes: impl IntoIterator<Item = (String, Value)>) -> Self {
        Self {
            attributes: attributes.into_iter().collect(),
            url: None,
            forced_variations: BTreeMap::new(),
            forced_features: BTreeMap::new(),
            sticky: None,
            enabled: true,
            qa_mode: false,
        }
    }

    /// Says which remote saved groups the user is in, in place of what the attributes said.
    #[must_use]
    pub fn in_remote_groups(mut self, ids: impl IntoIterator<Item = String>) -> Self {
        self.attributes.insert(SavedGroups::REMOTE_IDS, ids.into_iter().collect());
        self
    }

    /// The attribute and value that a user is known by: the fallback's where the first is missing.
    pub(super) fn known_by<'a>(&'a self, attribute: &'a str, fallback: Option<&'a str>) -> Known<'a> {
        let known = |attribute: &'a str| {
            let value = self.attributes.get(attribute)?;
            Some(Known { attribute, value, id: value::id(value)? })
        };
        let found = known(attribute).or_else(|| known(fallback?));
        found.unwrap_or(Known { attribute, value: &EMPTY, id: Cow::Borrowed("") })
    }
}

/// By what a user is known; the id is empty when the user is not.
pub(super) struct Known<'a> {
    pub(super) attribute: &'a str,
    pub(super) value: &'a Value,
    pub(super) id: Cow<'a, str>,
}

/// Where an address leads that an experiment redirects.
#[derive(Clone, Debug)]
pub struct Redirect<'a> {
    /// The experiment's result.
    pub result: ExperimentResult<'a>,
    /// The address to go to, with the query that is to be kept.
    pub url: String,
}

/// The evaluation of a payload for one user.
pub struct Evaluation<'a> {
    pub(super) payload: &'a Payload,
    pub(super) user: &'a User,
    /// The features that are being evaluated, each a prerequisite of the one before.
    chain: Vec<&'a str>,
    /// What prerequisites came to: many features share one.
    prerequisites: HashMap<&'a str, (&'a Value, Source)>,
    pub(super) exposures: Vec<Exposure<'a>>,
    pub(super) documents: BTreeMap<String, Document>,
    pub(super) lacked: bool,
}

/// What is left to do after an evaluation.
#[derive(Clone, Debug, Default)]
pub struct Outcome<'a> {
    /// The experiments the user entered, each once, those of prerequisites too.
    pub exposures: Vec<Exposure<'a>>,
    /// The sticky documents that changed, whole, by their keys.
    pub documents: Documents,
    /// Whether something was decided by what the user's documents lack, so that an assignment that was added to them since
    /// might decide it otherwise: one that was looked up was not in the document of the attribute that the experiment goes
    /// by, or named a variation that is gone, or earlier bucket versions are blocked and none was found. What is false here
    /// stays as it is, whatever else is added.
    pub lacked: bool,
}

impl Payload {
    /// Starts an evaluation for a user.
    pub fn evaluate<'a>(&'a self, user: &'a User) -> Evaluation<'a> {
        Evaluation {
            payload: self,
            user,
            chain: Vec::new(),
            prerequisites: HashMap::new(),
            exposures: Vec::new(),
            documents: BTreeMap::new(),
            lacked: false,
        }
    }
}

impl<'a> Evaluation<'a> {
    /// How many features may be prerequisites of each other in a chain.
    pub const MAX_CHAIN: usize = 64;

    /// What the user sees of a feature.
    pub fn feature(&mut self, key: &str) -> FeatureResult<'a> {
        let of = |value, source| FeatureResult { value, source, rule_id: "", experiment: None };
        let user = self.user;
        if !user.forced_features.is_empty()
            && let Some(value) = user.forced_features.get(key)
        {
            return of(value, Source::Override);
        }
        let Some((key, feature)) = self.payload.features.get_key_value(key) else {
            return of(&NULL, Source::UnknownFeature);
        };
        if self.chain.len() >= Self::MAX_CHAIN || self.chain.contains(&&**key) {
            return of(&NULL, Source::CyclicPrerequisite);
        }
        self.chain.push(key);
        let decided = feature.rules.iter().find_map(|rule| self.rule(key, rule));
        self.chain.pop();
        decided.unwrap_or_else(|| of(&feature.default, Source::DefaultValue))
    }

    /// What the user sees of an experiment that is no feature's rule.
    pub fn experiment(&mut self, definition: &'a Definition) -> ExperimentResult<'a> {
        self.run(Ran { definition, weights: None, bandit: None }, None, false).1
    }

    /// Where the first of the payload's experiments that redirects the user's address leads.
    pub fn redirect(&mut self) -> Option<Redirect<'a>> {
        let (payload, user) = (self.payload, self.user);
        let current = user.url.as_deref()?;
        payload.experiments().iter().find_map(|definition| {
            let result = self.experiment(definition);
            let target = result.value.get("urlRedirect")?.as_str().filter(|_| result.in_experiment)?;
            let keep = definition.persist_query_string;
            let url = if keep { url::with_query_of(target, current) } else { target.to_owned() };
            Some(Redirect { result, url })
        })
    }

    /// The experiments the user has entered so far.
    pub fn exposures(&self) -> &[Exposure<'a>] {
        &self.exposures
    }

    /// Ends the evaluation: what is to be recorded and kept, unless it was only a look.
    pub fn finish(self) -> Outcome<'a> {
        Outcome { exposures: self.exposures, documents: self.documents, lacked: self.lacked }
    }

    /// What the rule makes of the feature; `None` when it does not apply.
    fn rule(&mut self, feature: &'a str, rule: &'a Rule) -> Option<FeatureResult<'a>> {
        let of = |value, source| FeatureResult { value, source, rule_id: &rule.id, experiment: None };
        for prerequisite in &rule.prerequisites {
            let blocked = |source| FeatureResult { value: &NULL, source, rule_id: "", experiment: None };
            match self.prerequisite(prerequisite) {
                Met::Yes => {}
                Met::Cyclic => return Some(blocked(Source::CyclicPrerequisite)),
                Met::No if prerequisite.gate => return Some(blocked(Source::Prerequisite)),
                Met::No => return None,
            }
        }
        if !self.passes(&rule.filters) {
            return None;
        }
        match &rule.kind {
            Kind::Force { value, condition, rollout } => {
                let meets = |condition: &Condition| condition.matches(&self.user.attributes, &self.payload.groups);
                let applies = condition.as_ref().is_none_or(meets) && self.is_included(feature, rollout);
                applies.then(|| of(value, Source::Force))
            }
            Kind::Run(definition) => {
                let ran = self.with_bandit(definition);
                let (ran, result) = self.run(ran, Some(feature), true);
                (result.in_experiment && !result.passthrough).then(|| FeatureResult {
                    experiment: Some((ran, result.clone())),
                    ..of(result.value, Source::Experiment)
                })
            }
            Kind::Nothing => None,
        }
    }

    /// Whether the feature's value is as the prerequisite wants it.
    pub(super) fn prerequisite(&mut self, prerequisite: &'a Prerequisite) -> Met {
        let id = &*prerequisite.id;
        let (value, source) = match self.prerequisites.get(id) {
            Some(known) => *known,
            None => {
                let result = self.feature(id);
                self.prerequisites.insert(id, (result.value, result.source));
                (result.value, result.source)
            }
        };
        let groups = &self.payload.groups;
        match (source, &prerequisite.condition) {
            (Source::CyclicPrerequisite, _) => Met::Cyclic,
            (_, None) => Met::Yes,
            (_, Some(condition)) if condition.matches_value(value, groups) => Met::Yes,
            _ => Met::No,
        }
    }

    /// Whether the user passes all filters.
    pub(super) fn passes(&self, filters: &[Filter]) -> bool {
        filters.iter().all(|filter| {
            let known = self.user.known_by(filter.attribute(), None);
            !known.id.is_empty() && filter.admits(&known.id)
        })
    }

    /// Whether the user is in the share that a rule is for.
    fn is_included(&self, feature: &str, rollout: &'a Rollout) -> bool {
        if !rollout.is_partial() {
            return true;
        }
        let known = self.known(&rollout.identity, !rollout.disable_sticky_bucketing);
        let place = || rollout.identity.place(feature, &known.id);
        !known.id.is_empty() && place().is_some_and(|place| rollout.admits(place))
    }

    /// By what the user is known to an experiment. The fallback counts only where assignments are kept: without them the user
    /// would change sides on logging in.
    pub(super) fn known(&self, identity: &'a Identity, sticky: bool) -> Known<'a> {
        let keeps = sticky && self.user.sticky.is_some();
        self.user.known_by(identity.attribute(), identity.fallback_attribute.as_deref().filter(|_| keeps))
    }
}

/// What came of a prerequisite.
pub(super) enum Met {
    Yes,
    No,
    Cyclic,
}
