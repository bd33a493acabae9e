//! Experiments in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use selvedge_core::{
    Context, Error, ErrorKind, Experiment, Result,
    experiment::{Assign, Assignment, ExperimentCapabilities},
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
    /// The variation of a subject in an experiment.
    assigned: BTreeMap<(String, String), String>,
    facts: Vec<Fact>,
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
        let who = (request.subject.clone(), placement.experiment.clone());
        let before = kept.assigned.get(&who);
        let before = before.and_then(|name| placement.variations.iter().find(|variation| variation.name == *name));
        let chosen = before.or_else(|| choose(placement, &request.subject));
        let enrolled = before.is_some() || (chosen.is_some() && !request.peek);
        if let Some(chosen) = chosen.filter(|_| !request.peek) {
            kept.assigned.insert(who, chosen.name.clone());
        }
        Ok(Assignment {
            placement: placement.name.clone(),
            experiment: chosen.map(|_| placement.experiment.clone()),
            variation: chosen.map(|chosen| chosen.name.clone()).unwrap_or_default(),
            show: chosen.and_then(|chosen| chosen.show.clone()),
            enrolled,
        })
    }

    async fn track(&self, cx: &Context, fact: Fact) -> Result<()> {
        cx.check("experiment.track")?;
        fact.check()?;
        let mut kept = self.kept();
        if !kept.facts.iter().any(|known| known.id == fact.id) {
            kept.facts.push(fact);
        }
        Ok(())
    }
}
