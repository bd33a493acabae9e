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

/// How often an assignment is computed anew because another call assigned first. The second time there is nothing left to
/// assign, unless the configuration changes too.
const ATTEMPTS: usize = 4;

impl Experiments {
    pub(crate) async fn assigned(&self, cx: &Context, request: &Assign) -> Result<Assignment> {
        // Subjects are refused here as they would be where they are kept.
        Fact::new(OPERATION, request.subject.as_str(), "{}").check()?;
        let config = self.usable()?;
        let mut user = self.user(request);
        for _ in 0..ATTEMPTS {
            let documents = documents(cx, &self.parts().store, &config, &user).await?;
            user.sticky = Some(documents);
            let found = evaluate_placement(&config, request, &user, cx)?;
            if request.peek || found.writes.is_empty() {
                return Ok(found.assignment);
            }
            if self.parts().delivery == Delivery::Outbox {
                // Looked at again behind the lock: whoever was before may have assigned.
                let _one = self.parts().assigning.lock().await;
                user.sticky = Some(self::documents(cx, &self.parts().store, &config, &user).await?);
                let found = evaluate_placement(&config, request, &user, cx)?;
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

    /// Keeps assignments and exposures in one commit. Whether they hold: if others were first, theirs do.
    async fn keep(&self, cx: &Context, writes: Writes) -> Result<bool> {
        let Writes { assignments, exposures } = writes;
        let mut commit = assignments.iter().cloned().fold(Commit::new(), Commit::assign);
        for exposure in exposures {
            commit = self.parts().delivery.keep(commit, exposure, cx.trace())?;
        }
        let receipt = self.parts().store.commit(cx, commit).await?;
        let hold = receipt.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Assigned(holds) => Some(holds),
            _ => None,
        });
        Ok(hold.eq(&assignments))
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

#[derive(Default)]
struct Writes {
    assignments: Vec<StickyAssignment>,
    exposures: Vec<Fact>,
}

impl Writes {
    fn is_empty(&self) -> bool {
        self.assignments.is_empty() && self.exposures.is_empty()
    }
}

/// All that is kept for what the user is known by.
async fn documents(cx: &Context, store: &AnyStore, config: &Config, user: &User) -> Result<Documents> {
    let mut documents = Documents::new();
    for attribute in config.payload.sticky_attributes() {
        let Some(value) = user.attributes.get(attribute).and_then(text) else { continue };
        let mut document = Document::new(attribute, value);
        let kept = store.assignments(cx, &document.key()).await?;
        document.assignments.extend(kept.into_iter().map(|kept| (kept.experiment, kept.variation)));
        documents.insert(document.key(), document);
    }
    Ok(documents)
}

/// An id as documents are named by it.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) if !text.is_empty() => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

fn evaluate_placement(config: &Config, request: &Assign, user: &User, cx: &Context) -> Result<Found> {
    cx.check(OPERATION)?;
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
    let writes = Writes {
        assignments: new_assignments(outcome.documents, user.sticky.as_ref()),
        exposures: Vec::new(),
    };
    let fresh = |exposure: &&Exposure<'_>| is_fresh(exposure, &writes.assignments);
    let exposures = outcome.exposures.iter().filter(fresh).map(|exposure| impression(request, exposure)).collect();
    Ok(Found { assignment: assignment(request, &feature), writes: Writes { exposures, ..writes } })
}

/// An exposure that may not have been recorded yet. Whoever was assigned before, and is kept as such, was exposed in that very
/// commit.
fn is_fresh(exposure: &Exposure<'_>, new: &[StickyAssignment]) -> bool {
    let key = assignment_key(exposure.experiment.definition.key(), exposure.experiment.definition.bucket_version());
    !exposure.result.sticky_bucket_used || new.iter().any(|assignment| assignment.experiment == key)
}

fn new_assignments(documents: Documents, before: Option<&Documents>) -> Vec<StickyAssignment> {
    let nothing = BTreeMap::new();
    documents
        .into_iter()
        .flat_map(|(subject, document)| {
            let before = before.and_then(|before| before.get(&subject)).map_or(&nothing, |before| &before.assignments);
            let new = document.assignments.into_iter().filter(|(key, variation)| before.get(key) != Some(variation));
            let new: Vec<_> = new.collect();
            new.into_iter().map(move |(experiment, variation)| StickyAssignment {
                subject: subject.clone(),
                experiment,
                variation,
                // The version is part of the name, so that all of them stay.
                version: 0,
            })
        })
        .collect()
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
