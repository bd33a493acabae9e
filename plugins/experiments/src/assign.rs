//! Who sees what: evaluated from the configuration and what is kept, and kept before it is told.

use std::{borrow::Cow, collections::BTreeMap};

use selvedge_core::{
    AnyStore, Commit, Context, Error, ErrorKind, Result, Store,
    experiment::{
        Assign, Assignment, ExperimentResult, Exposure, FeatureResult, PaywallImpression, Source, User,
        sticky::{Document, Documents, assignment_key},
    },
    store::{Fact, Outcome, StickyAssignment, StoreExt},
};
use serde_json::Value;

use crate::{Delivery, Experiments, config::Config};

const OPERATION: &str = "experiment.assign";

/// How often an assignment is computed anew because another call assigned first, or its rows had to be kept before its
/// exposures. Then there is nothing left to assign.
const ATTEMPTS: usize = 4;

impl Experiments {
    pub(crate) async fn assigned(&self, cx: &Context, request: &Assign) -> Result<Assignment> {
        // Subjects are refused here as they would be where they are kept.
        Fact::new(OPERATION, request.subject.as_str(), "{}").check()?;
        let config = self.usable()?;
        let mut user = self.user(request);
        for _ in 0..ATTEMPTS {
            let mut found = self.evaluated(cx, &config, request, &mut user).await?;
            if request.peek || found.writes.is_empty() {
                return Ok(found.assignment);
            }
            if self.parts().delivery == Delivery::Outbox {
                // Looked at again behind the lock: whoever was before may have assigned.
                let _one = self.parts().assigning.lock().await;
                found = self.evaluated(cx, &config, request, &mut user).await?;
                if found.writes.is_empty() || self.keep(cx, found.writes).await? {
                    return Ok(found.assignment);
                }
            } else if self.keep(cx, found.writes).await? {
                return Ok(found.assignment);
            }
        }
        Err(Error::new(ErrorKind::Busy, OPERATION, "others kept assigning this subject at the same time")
            .with("placement", &request.placement))
    }

    /// Evaluates the placement with all that is kept by now.
    async fn evaluated(&self, cx: &Context, config: &Config, request: &Assign, user: &mut User) -> Result<Found> {
        let kept = Kept::read(cx, &self.parts().store, config, user).await?;
        user.sticky = Some(kept.documents.clone());
        cx.check(OPERATION)?;
        evaluate(config, request, user, &kept, self.known_by(request))
    }

    /// Keeps assignments and exposures in one commit. Whether that was all, and it holds: if others were first, theirs does.
    async fn keep(&self, cx: &Context, writes: Writes) -> Result<bool> {
        let Writes { assignments, exposures, more } = writes;
        let mut commit = assignments.iter().cloned().fold(Commit::new(), Commit::assign);
        for exposure in exposures {
            commit = self.parts().delivery.keep(commit, exposure, cx.trace())?;
        }
        let receipt = self.parts().store.commit(cx, commit).await?;
        let hold = receipt.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Assigned(holds) => Some(holds),
            _ => None,
        });
        Ok(hold.eq(&assignments) && !more)
    }

    /// The attribute that says who the subject is.
    fn known_by(&self, request: &Assign) -> &str {
        if request.is_anonymous() { &self.parts().device_attribute } else { &self.parts().identified_by }
    }

    /// The user as targeting and hashing see it. While nobody has signed in, only the device is known.
    fn user(&self, request: &Assign) -> User {
        let mut attributes = request.attributes.clone();
        if let Some(device) = &request.device {
            attributes.insert(self.parts().device_attribute.clone(), device.as_str().into());
        }
        if request.is_anonymous() {
            attributes.remove(&self.parts().identified_by);
        } else {
            attributes.insert(self.parts().identified_by.clone(), request.subject.as_str().into());
        }
        User::new(attributes)
    }
}

/// What a placement comes to, and what there is to keep.
struct Found {
    assignment: Assignment,
    writes: Writes,
}

struct Writes {
    assignments: Vec<StickyAssignment>,
    exposures: Vec<Fact>,
    /// More follows once these are kept.
    more: bool,
}

impl Writes {
    fn is_empty(&self) -> bool {
        self.assignments.is_empty() && self.exposures.is_empty()
    }
}

/// All that is kept for what the user is known by.
struct Kept {
    documents: Documents,
    /// The version of each row, by subject and experiment.
    versions: BTreeMap<(String, String), u32>,
}

impl Kept {
    async fn read(cx: &Context, store: &AnyStore, config: &Config, user: &User) -> Result<Self> {
        let (mut documents, mut versions) = (Documents::new(), BTreeMap::new());
        for attribute in config.payload.sticky_attributes() {
            let Some(value) = user.attributes.get(attribute).and_then(text) else { continue };
            let mut document = Document::new(attribute, value);
            let subject = document.key();
            for row in store.assignments(cx, &subject).await? {
                versions.insert((row.subject, row.experiment.clone()), row.version);
                document.assignments.insert(row.experiment, row.variation);
            }
            documents.insert(subject, document);
        }
        Ok(Self { documents, versions })
    }

    /// What of `documents` is not kept yet.
    ///
    /// The bucketing version is part of an experiment's name here, so that all of them stay. A row's own version only goes up
    /// where the variation it names is gone from the experiment, so that the next one replaces it.
    fn lacks(&self, documents: Documents) -> Vec<StickyAssignment> {
        let mut new = Vec::new();
        for (subject, document) in documents {
            let before = self.documents.get(&subject);
            for (experiment, variation) in document.assignments {
                if before.and_then(|before| before.assignments.get(&experiment)) != Some(&variation) {
                    let key = (subject.clone(), experiment);
                    let version = self.versions.get(&key).map_or(0, |version| version.saturating_add(1));
                    new.push(StickyAssignment { subject: key.0, experiment: key.1, variation, version });
                }
            }
        }
        new
    }
}

/// An id as documents are named by it.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) if !text.is_empty() => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

fn evaluate(config: &Config, request: &Assign, user: &User, kept: &Kept, known_by: &str) -> Result<Found> {
    let mut evaluation = config.payload.evaluate(user);
    let feature = evaluation.feature(&request.placement);
    let refused = |kind, message: &str| Error::new(kind, OPERATION, message).with("placement", &request.placement);
    match feature.source {
        Source::UnknownFeature => {
            return Err(refused(ErrorKind::NotFound, "no such placement is configured")
                .advise("check its name; a placement that shows nothing is configured with the value null"));
        }
        Source::CyclicPrerequisite => {
            return Err(refused(ErrorKind::InvalidInput, "the placement's prerequisites lead back to it")
                .advise("remove one of them from the configuration"));
        }
        _ => (),
    }
    let outcome = evaluation.finish();
    let assignments = kept.lacks(outcome.documents);
    let mut writes = Writes { assignments, exposures: Vec::new(), more: false };
    for exposure in &outcome.exposures {
        let key = assignment_key(exposure.experiment.definition.key(), exposure.experiment.definition.bucket_version());
        let new = writes.assignments.iter().any(|assignment| assignment.experiment == key);
        let is_subject = exposure.result.hash_attribute == known_by;
        if !is_subject && new {
            // A whole company is assigned. Which variation it has is only certain once the row is kept.
            writes.more = true;
        } else if !is_subject || new || !exposure.result.sticky_bucket_used {
            // Who was assigned before, as a subject, was exposed in that very commit.
            writes.exposures.push(impression(request, exposure));
        }
    }
    Ok(Found { assignment: assignment(request, &feature), writes })
}

fn impression(request: &Assign, exposure: &Exposure<'_>) -> Fact {
    let definition = exposure.experiment.definition;
    let variant = variation(&exposure.result);
    let impression = PaywallImpression {
        placement_id: request.placement.clone(),
        experiment: Some(definition.key().to_owned()),
        cohort: format!("{}:{variant}", definition.key()),
        variant,
        is_exit_offer: request.exit_offer,
        shows_nothing: exposure.result.value.is_null(),
        device: request.device.clone(),
    };
    impression.exposure(&request.subject, definition.bucket_version())
}

fn variation(result: &ExperimentResult<'_>) -> String {
    result.key.clone().into_owned()
}

fn assignment(request: &Assign, feature: &FeatureResult<'_>) -> Assignment {
    let ran = feature.experiment.as_ref().filter(|(_, result)| result.in_experiment);
    Assignment {
        placement: request.placement.clone(),
        experiment: ran.map(|(ran, _)| ran.definition.key().to_owned()),
        variation: ran.map_or_else(|| Assignment::NO_EXPERIMENT.to_owned(), |(_, result)| variation(result)),
        show: Some(feature.value.clone()).filter(|value| !value.is_null()),
        enrolled: ran.is_some_and(|(_, result)| result.hash_used && (!request.peek || result.sticky_bucket_used)),
    }
}
