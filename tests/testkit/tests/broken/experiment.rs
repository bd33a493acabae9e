//! Experiments that break one rule each.

use selvedge_core::{
    AnyExperiment, Context, ErrorKind, Experiment, Result,
    experiment::{Assign, Assignment, ExperimentCapabilities},
    store::Fact,
};
use selvedge_testkit::{ExperimentHome, MemoryExperiment, Placement, experiment_suite};

use super::finds;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    NewSubjectEveryTime,
    PeekEnrols,
    UnknownShowsNothing,
    FactsDoubled,
    NotSticky,
}

const FLAWS: [Flaw; 5] =
    [Flaw::NewSubjectEveryTime, Flaw::PeekEnrols, Flaw::UnknownShowsNothing, Flaw::FactsDoubled, Flaw::NotSticky];

struct Home<const FLAW: usize>(MemoryExperiment);

impl<const FLAW: usize> ExperimentHome for Home<FLAW> {
    fn new() -> Result<Self> {
        Ok(Self(MemoryExperiment::new(&[])))
    }
    async fn open(&self, placements: Vec<Placement>) -> Result<AnyExperiment> {
        let flaw = FLAWS[FLAW];
        let forgets = flaw == Flaw::NotSticky;
        let inner = if forgets { MemoryExperiment::new(&placements) } else { self.0.with(&placements) };
        Ok(AnyExperiment::new(Broken { inner, facts: self.0.clone(), flaw }))
    }
    async fn facts(&self) -> Result<Vec<Fact>> {
        Ok(self.0.facts())
    }
}

#[derive(Debug)]
struct Broken {
    inner: MemoryExperiment,
    facts: MemoryExperiment,
    flaw: Flaw,
}

impl Experiment for Broken {
    fn capabilities(&self) -> ExperimentCapabilities {
        self.inner.capabilities()
    }

    async fn assign(&self, cx: &Context, mut request: Assign) -> Result<Assignment> {
        match self.flaw {
            Flaw::NewSubjectEveryTime => request.subject = format!("{}", fastrand::u64(..)),
            Flaw::PeekEnrols => request.peek = false,
            _ => (),
        }
        let placement = request.placement.clone();
        match self.inner.assign(cx, request).await {
            Err(error) if self.flaw == Flaw::UnknownShowsNothing && error.kind() == ErrorKind::NotFound => {
                let variation = String::new();
                Ok(Assignment { placement, experiment: None, variation, show: None, enrolled: false })
            }
            answer => answer,
        }
    }

    async fn track(&self, cx: &Context, mut fact: Fact) -> Result<()> {
        if self.flaw == Flaw::FactsDoubled {
            fact.id = uuid::Uuid::new_v4();
        }
        self.facts.track(cx, fact).await
    }
}

macro_rules! mutants {
    ($($name:ident: $flaw:ident, $case:literal, [$($reach:literal),*];)*) => {
        $(#[test]
        fn $name() {
            let report = experiment_suite::<Home<{ Flaw::$flaw as usize }>>().report();
            finds(&report, concat!("experiment::", $case), &[$(concat!("experiment::", $reach)),*]);
        })*
    };
}

mutants! {
    a_subject_without_memory_is_found: NewSubjectEveryTime, "assign::a_subject_sees_the_same_every_time", ["assign"];
    a_peek_that_enrols_is_found: PeekEnrols, "assign::a_peek_enrols_nobody", ["assign::a_peek"];
    a_placement_made_up_is_found: UnknownShowsNothing, "assign::an_unknown_placement_is_not_found", ["assign::an_unknown"];
    a_fact_counted_twice_is_found: FactsDoubled, "track::a_fact_counts_once", ["track"];
    a_forgotten_assignment_is_found: NotSticky, "assign::an_assignment_stays_when_shares_change", ["assign::an_assignment"];
}
