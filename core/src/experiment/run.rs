//! How one experiment is run for a user.

use std::borrow::Cow;

use super::{
    definition::Definition,
    evaluate::{Evaluation, Known, Met, NULL},
    hash::equal_weights,
    result::{Bandit, ExperimentResult, Exposure, Ran},
    sticky::{Document, Kept, assignment_key, document_key, find},
    url,
};

/// Why the user sees a variation.
enum Decision {
    /// Not in the experiment.
    Out,
    /// Not in the experiment, because an earlier bucket version is blocked.
    Blocked,
    /// Forced into a variation; one there is not leaves the user out.
    Forced(i64),
    /// By the hash, at this place, or by an earlier assignment.
    Assigned { variation: usize, place: f64, sticky: bool },
}

impl<'a> Evaluation<'a> {
    /// Runs an experiment, and notes that the user entered it. `filtered` says that its filters were looked at already.
    pub(super) fn run(
        &mut self,
        mut ran: Ran<'a>,
        feature: Option<&'a str>,
        filtered: bool,
    ) -> (Ran<'a>, ExperimentResult<'a>) {
        let definition = ran.definition;
        let known = self.known(&definition.identity, !definition.disable_sticky_bucketing);
        let decision = self.decide(&ran, &known, filtered);
        let result = result(&mut ran, feature, &known, &decision);
        if let Decision::Assigned { .. } = decision {
            self.keep(definition, &known, &result);
            self.expose(&ran, &result);
        }
        (ran, result)
    }

    fn decide(&mut self, ran: &Ran<'a>, known: &Known<'a>, filtered: bool) -> Decision {
        let (definition, user, payload) = (ran.definition, self.user, self.payload);
        let variations = definition.variations.len();
        if variations < 2 || !user.enabled {
            return Decision::Out;
        }
        if let Some(patterns) = &definition.url_patterns
            && !url::targets(patterns, user.url.as_deref().unwrap_or_default())
        {
            return Decision::Out;
        }
        if let Some(address) = &user.url
            && let Some(variation) = url::forced_variation(definition.key(), address, variations)
        {
            return Decision::Forced(variation as i64);
        }
        for forced in [&user.forced_variations, &payload.forced_variations] {
            if !forced.is_empty()
                && let Some(variation) = forced.get(definition.key())
            {
                return Decision::Forced(*variation);
            }
        }
        if !definition.runs() || known.id.is_empty() {
            return Decision::Out;
        }
        let kept = self.kept(definition, known);
        if !matches!(kept, Some(Ok(_))) && !self.is_for(definition, known, filtered) {
            return Decision::Out;
        }
        let Some(place) = definition.identity.place(definition.key(), &known.id) else { return Decision::Out };
        let assigned = match kept {
            Some(Ok(variation)) => Some(variation),
            Some(Err(Blocked)) => return Decision::Blocked,
            None => definition.variation_at(place, ran.weights),
        };
        match (assigned, definition.force) {
            (None, _) => Decision::Out,
            (Some(_), Some(variation)) => Decision::Forced(variation),
            (Some(_), None) if user.qa_mode || definition.stopped() => Decision::Out,
            (Some(variation), None) => Decision::Assigned { variation, place, sticky: kept.is_some() },
        }
    }

    /// Whether the experiment is meant for the user.
    fn is_for(&mut self, definition: &'a Definition, known: &Known<'a>, filtered: bool) -> bool {
        let shared = match (&definition.filters, &definition.namespace) {
            (Some(filters), _) => filtered || self.passes(filters),
            (None, Some(namespace)) => namespace.contains(&known.id),
            (None, None) => true,
        };
        let (attributes, groups) = (&self.user.attributes, &self.payload.groups);
        shared
            && definition.condition.as_ref().is_none_or(|condition| condition.matches(attributes, groups))
            && definition
                .parent_conditions
                .iter()
                .flatten()
                .all(|prerequisite| matches!(self.prerequisite(prerequisite), Met::Yes))
    }

    fn keeps(&self, definition: &Definition) -> bool {
        self.user.sticky.is_some() && !definition.disable_sticky_bucketing
    }

    fn document(&self, key: &str) -> Option<&Document> {
        self.documents.get(key).or_else(|| self.user.sticky.as_ref()?.get(key))
    }

    /// The variation the user was assigned before, or that this is blocked; `None` when there is nothing to go by.
    fn kept(&mut self, definition: &'a Definition, known: &Known<'a>) -> Option<Result<usize, Blocked>> {
        if !self.keeps(definition) {
            return None;
        }
        // Where no fallback is named, it is the attribute that is the first by default.
        let fallback = definition.identity.fallback_attribute.as_deref().unwrap_or("id");
        let fallback = (fallback != known.attribute).then(|| self.user.known_by(fallback, None));
        let document = |known: &Known<'_>| {
            (!known.id.is_empty()).then(|| self.document(&document_key(known.attribute, &known.id))).flatten()
        };
        let own = document(known);
        let documents: Vec<_> = own.into_iter().chain(fallback.as_ref().and_then(document)).collect();
        let (version, least) = (definition.bucket_version(), definition.min_bucket_version.unwrap_or(0));
        let (kept, lacked) = match find(&documents, definition.key(), version, least) {
            Kept::Nothing => (None, true),
            Kept::Blocked => (Some(Err(Blocked)), false),
            Kept::Variation(key) => {
                let is_own =
                    own.is_some_and(|own| own.assignments.contains_key(&assignment_key(definition.key(), version)));
                let variation =
                    (0..definition.variations.len()).find(|index| *variation_key(definition, *index) == *key);
                (variation.map(Ok), variation.is_none() || !is_own || least > 0)
            }
        };
        self.lacked |= lacked;
        kept
    }

    /// Notes the assignment in the user's document.
    fn keep(&mut self, definition: &'a Definition, known: &Known<'a>, result: &ExperimentResult<'a>) {
        if !self.keeps(definition) {
            return;
        }
        let key = document_key(known.attribute, &known.id);
        let assignment = assignment_key(definition.key(), definition.bucket_version());
        let before = self.document(&key);
        if before.and_then(|document| document.assignments.get(&assignment)).is_some_and(|kept| **kept == *result.key) {
            return;
        }
        let mut document = before.cloned().unwrap_or_else(|| Document::new(known.attribute, known.id.as_ref()));
        document.assignments.insert(assignment, result.key.clone().into_owned());
        self.documents.insert(key, document);
    }

    /// Notes that the user entered the experiment, once.
    fn expose(&mut self, ran: &Ran<'a>, result: &ExperimentResult<'a>) {
        let same = |exposure: &Exposure<'_>| {
            let (before, now) = (exposure.experiment.definition, ran.definition);
            before.key == now.key
                && exposure.result.variation_id == result.variation_id
                && exposure.result.hash_attribute == result.hash_attribute
        };
        if !self.exposures.iter().any(same) {
            self.exposures.push(Exposure { experiment: ran.clone(), result: result.clone() });
        }
    }

    /// The experiment with the weights of the contextual bandit it refers to.
    pub(super) fn with_bandit(&self, definition: &'a Definition) -> Ran<'a> {
        let payload = self.payload;
        let reference = definition.contextual_bandit_ref.as_deref();
        let Some(bandit) = reference.and_then(|reference| payload.bandits.get(reference)) else {
            return Ran { definition, weights: None, bandit: None };
        };
        let (attributes, groups) = (&self.user.attributes, &payload.groups);
        let leaf = bandit
            .contexts
            .iter()
            .flatten()
            .find(|leaf| leaf.condition.as_ref().is_none_or(|condition| condition.matches(attributes, groups)));
        let weights = leaf.map(|leaf| &*leaf.weights);
        let variation_weights = match weights.or(definition.weights.as_deref()) {
            Some(weights) => Cow::Borrowed(weights),
            None => Cow::Owned(equal_weights(definition.variations.len())),
        };
        let leaf_id = leaf.map_or(-1, |leaf| leaf.leaf_id);
        let bandit = Bandit { leaf_id, variation_weights, bandit_version: bandit.bandit_version.as_ref() };
        Ran { definition, weights, bandit: Some(Box::new(bandit)) }
    }
}

/// An earlier bucket version is blocked.
#[derive(Clone, Copy)]
struct Blocked;

/// The key of a variation: the one it was given, or else its index.
fn variation_key(definition: &Definition, variation: usize) -> Cow<'_, str> {
    const INDICES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match (definition.meta(variation).and_then(|meta| meta.key.as_deref()), INDICES.get(variation)) {
        (Some(key), _) | (None, Some(&key)) => Cow::Borrowed(key),
        (None, None) => Cow::Owned(variation.to_string()),
    }
}

fn result<'a>(
    ran: &mut Ran<'a>,
    feature: Option<&'a str>,
    known: &Known<'a>,
    decision: &Decision,
) -> ExperimentResult<'a> {
    let definition = ran.definition;
    let variation = match *decision {
        Decision::Out | Decision::Blocked => None,
        Decision::Forced(variation) => usize::try_from(variation).ok(),
        Decision::Assigned { variation, .. } => Some(variation),
    };
    let variation = variation.filter(|variation| *variation < definition.variations.len());
    let (place, sticky) = match *decision {
        Decision::Assigned { place, sticky, .. } => (Some(place), sticky),
        _ => (None, matches!(decision, Decision::Blocked)),
    };
    let (in_experiment, variation_id) = (variation.is_some(), variation.unwrap_or(0));
    let hash_used = place.is_some() && in_experiment;
    if !hash_used {
        ran.bandit = None;
    }
    let meta = definition.meta(variation_id);
    ExperimentResult {
        key: variation_key(definition, variation_id),
        feature_id: feature,
        in_experiment,
        hash_used,
        variation_id,
        value: definition.variations.get(variation_id).unwrap_or(&NULL),
        hash_attribute: known.attribute,
        hash_value: known.value,
        sticky_bucket_used: sticky,
        name: meta.and_then(|meta| meta.name.as_deref()),
        bucket: place,
        passthrough: meta.is_some_and(|meta| meta.passthrough),
        bandit: ran.bandit.clone(),
    }
}
