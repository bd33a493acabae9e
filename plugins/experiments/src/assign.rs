//! Who sees what: evaluated from the configuration and what is kept, and kept before it is told.

use std::collections::BTreeMap;

use selvedge_core::{
    Commit, Context, Error, ErrorKind, Result, Store,
    experiment::{
        Assign, Assignment, ExperimentResult, Exposure, FeatureResult, PaywallImpression, Source, User,
        sticky::{Documents, assignment_key},
    },
    store::{Fact, Outcome, StickyAssignment, StoreExt},
};

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
        if let Some(assignment) = self.remembered(&config, request, &mut user) {
            return Ok(assignment);
        }
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

    /// The answer from memory, where the Store could give no other: see [`Remembered`](crate::remembered::Remembered).
    fn remembered(&self, config: &Config, request: &Assign, user: &mut User) -> Option<Assignment> {
        let mut documents = config.payload.sticky_documents(user);
        self.parts().remembered.fill(&config.payload, &mut documents);
        user.sticky = Some(documents);
        let found = self.found(config, request, user, &Versions::new()).ok()?;
        (found.writes.is_empty() && !found.lacked).then_some(found.assignment)
    }

    /// Evaluates the placement with all that is kept by now.
    async fn evaluated(&self, cx: &Context, config: &Config, request: &Assign, user: &mut User) -> Result<Found> {
        let mut documents = config.payload.sticky_documents(user);
        let mut versions = Versions::new();
        if !documents.is_empty() {
            for row in self.parts().store.assignments(cx, documents.keys()).await? {
                if let Some(document) = documents.get_mut(&row.subject) {
                    document.assignments.insert(row.experiment.clone(), row.variation);
                    versions.insert((row.subject, row.experiment), row.version);
                }
            }
        }
        self.parts().remembered.note(&config.payload, &documents);
        user.sticky = Some(documents);
        cx.check(OPERATION)?;
        self.found(config, request, user, &versions)
    }

    /// What the placement comes to for the user, by the documents that the user has.
    fn found(&self, config: &Config, request: &Assign, user: &User, versions: &Versions) -> Result<Found> {
        evaluate(config, request, user, versions, self.known_by(request))
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
    /// Rows that were not there might lead to another answer.
    lacked: bool,
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

/// The version of each row that is kept, by subject and experiment.
type Versions = BTreeMap<(String, String), u32>;

/// What of `documents` is not in those that are `kept`.
///
/// The bucketing version is part of an experiment's name here, so that all of them stay. A row's own version only goes up
/// where the variation it names is gone from the experiment, so that the next one replaces it.
fn not_kept(documents: Documents, kept: Option<&Documents>, versions: &Versions) -> Vec<StickyAssignment> {
    let mut new = Vec::new();
    for (subject, document) in documents {
        let before = kept.and_then(|kept| kept.get(&subject));
        for (experiment, variation) in document.assignments {
            if before.and_then(|before| before.assignments.get(&experiment)) != Some(&variation) {
                let key = (subject.clone(), experiment);
                let version = versions.get(&key).map_or(0, |version| version.saturating_add(1));
                new.push(StickyAssignment { subject: key.0, experiment: key.1, variation, version });
            }
        }
    }
    new
}

fn evaluate(config: &Config, request: &Assign, user: &User, versions: &Versions, known_by: &str) -> Result<Found> {
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
    let assignments = not_kept(outcome.documents, user.sticky.as_ref(), versions);
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
    Ok(Found { assignment: assignment(request, &feature), writes, lacked: outcome.lacked })
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
