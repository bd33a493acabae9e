//! Experiments in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use selvedge_core::{
    Context, Error, ErrorKind, Experiment, Result,
    experiment::{Assign, Assignment, ExperimentCapabilities, PaywallEvent, PaywallImpression},
    idempotency::Fingerprint,
    store::Fact,
};

use crate::experiment::{Placement, Variation};

/// An Experiment plugin in memory that keeps every rule of the Experiment suite, so that the suite can be tested.
#[derive(Clone, Debug)]
pub struct MemoryExperiment {
    placements: Vec<Placement>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The variation of a subject in an experiment's version.
    assigned: BTreeMap<(String, String, u32), String>,
    facts: Vec<Fact>,
}

impl Kept {
    fn record(&mut self, fact: Fact) {
        if !self.facts.iter().any(|known| known.id == fact.id) {
            self.facts.push(fact);
        }
    }
}

impl MemoryExperiment {
    /// A plugin with these placements, and nothing kept yet.
    pub fn new(placements: &[Placement]) -> Self {
        Self { placements: placements.to_vec(), kept: Arc::default() }
    }

    /// The same plugin with other placements: what was kept stays.
    #[must_use]
    pub fn with(&self, placements: &[Placement]) -> Self {
        Self { placements: placements.to_vec(), kept: self.kept.clone() }
    }

    /// All facts, in the order they came.
    pub fn facts(&self) -> Vec<Fact> {
        self.kept().facts.clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The share of a subject: the same for ever, and independent from experiment to experiment.
fn choose<'a>(placement: &'a Placement, subject: &str) -> Option<&'a Variation> {
    let [a, b, c, d, ..] = Fingerprint::of(&placement.experiment, subject.as_bytes()).0;
    let sum: u32 = placement.variations.iter().map(|variation| variation.weight).sum();
    let mut place = u32::from_be_bytes([a, b, c, d]).checked_rem(sum)?;
    placement.variations.iter().find(|variation| {
        let here = place < variation.weight;
        place = place.saturating_sub(variation.weight);
        here
    })
}

impl Experiment for MemoryExperiment {
    fn capabilities(&self) -> ExperimentCapabilities {
        ExperimentCapabilities { plugin: "memory", sticky: true, peek: true }
    }

    async fn assign(&self, cx: &Context, request: Assign) -> Result<Assignment> {
        cx.check("experiment.assign")?;
        let Some(placement) = self.placements.iter().find(|placement| placement.name == request.placement) else {
            return Err(Error::new(ErrorKind::NotFound, "experiment.assign", "no such placement")
                .with("placement", &request.placement));
        };
        let mut kept = self.kept();
        let kept_for = |subject: &str, version| {
            let who = (subject.to_owned(), placement.experiment.clone(), version);
            let name = kept.assigned.get(&who)?;
            placement.variations.iter().find(|variation| variation.name == *name)
        };
        let device = request.device.as_deref().filter(|_| placement.by_device);
        let known = |version| {
            kept_for(&request.subject, version).or_else(|| device.and_then(|device| kept_for(device, version)))
        };
        let blocked = (0..placement.min_version).any(|version| known(version).is_some());
        let before = known(placement.version);
        let chosen = before.or_else(|| choose(placement, &request.subject)).filter(|_| !blocked);
        let enrolled = chosen.is_some() && (before.is_some() || !request.peek);
        if let Some(chosen) = chosen.filter(|_| !request.peek) {
            let who = (request.subject.clone(), placement.experiment.clone(), placement.version);
            kept.assigned.insert(who, chosen.name.clone());
            let impression = PaywallImpression {
                placement_id: placement.name.clone(),
                experiment: Some(placement.experiment.clone()),
                variant: chosen.name.clone(),
                cohort: format!("{}:{}", placement.experiment, chosen.name),
                is_exit_offer: request.exit_offer,
                shows_nothing: chosen.show.is_none(),
                device: request.device.clone(),
            };
            kept.record(impression.exposure(&request.subject, placement.version));
        }
        Ok(Assignment {
            placement: placement.name.clone(),
            experiment: chosen.map(|_| placement.experiment.clone()),
            variation: chosen.map_or(Assignment::NO_EXPERIMENT, |chosen| &chosen.name).to_owned(),
            show: chosen.and_then(|chosen| chosen.show.clone()),
            enrolled,
        })
    }

    async fn track(&self, cx: &Context, fact: Fact) -> Result<()> {
        cx.check("experiment.track")?;
        PaywallEvent::check_fact(&fact)?;
        self.kept().record(fact);
        Ok(())
    }
}
