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
    OneVersion,
    BlocksNobody,
    OneExperiment,
    DeviceIgnored,
    AlwaysByDevice,
    CountsEveryTime,
    NothingUncounted,
    ExitOfferUntold,
    WrongEventsSwallowed,
}

const FLAWS: [Flaw; 14] = [
    Flaw::NewSubjectEveryTime,
    Flaw::PeekEnrols,
    Flaw::UnknownShowsNothing,
    Flaw::FactsDoubled,
    Flaw::NotSticky,
    Flaw::OneVersion,
    Flaw::BlocksNobody,
    Flaw::OneExperiment,
    Flaw::DeviceIgnored,
    Flaw::AlwaysByDevice,
    Flaw::CountsEveryTime,
    Flaw::NothingUncounted,
    Flaw::ExitOfferUntold,
    Flaw::WrongEventsSwallowed,
];

struct Home<const FLAW: usize>(MemoryExperiment);

impl<const FLAW: usize> ExperimentHome for Home<FLAW> {
    fn new() -> Result<Self> {
        Ok(Self(MemoryExperiment::new(&[])))
    }
    async fn open(&self, mut placements: Vec<Placement>) -> Result<AnyExperiment> {
        let flaw = FLAWS[FLAW];
        for placement in &mut placements {
            match flaw {
                Flaw::OneVersion => placement.version = 0,
                Flaw::BlocksNobody => placement.min_version = 0,
                Flaw::OneExperiment => placement.experiment = "the experiment".into(),
                Flaw::DeviceIgnored => placement.by_device = false,
                Flaw::AlwaysByDevice => placement.by_device = true,
                _ => (),
            }
        }
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
            Flaw::ExitOfferUntold => request.exit_offer = false,
            Flaw::NothingUncounted if !request.peek => {
                let looked = self.inner.assign(cx, request.clone().peeking()).await?;
                if looked.show.is_none() && looked.experiment.is_some() {
                    return Ok(Assignment { enrolled: true, ..looked });
                }
            }
            Flaw::CountsEveryTime if !request.peek => {
                let assigned = self.inner.assign(cx, request.clone()).await?;
                let exposure = self.facts.facts().into_iter().rfind(|fact| fact.subject == request.subject);
                if let Some(exposure) = exposure {
                    self.facts.track(cx, Fact { id: uuid::Uuid::new_v4(), ..exposure }).await?;
                }
                return Ok(assigned);
            }
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
        match self.facts.track(cx, fact).await {
            Err(error) if self.flaw == Flaw::WrongEventsSwallowed && error.kind() == ErrorKind::InvalidInput => Ok(()),
            tracked => tracked,
        }
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
    a_subject_without_memory_is_found: NewSubjectEveryTime, "assign::a_subject_sees_the_same_every_time", ["assign", "sticky", "exposure"];
    a_peek_that_enrols_is_found: PeekEnrols, "assign::a_peek_enrols_nobody", ["assign::a_peek"];
    a_placement_made_up_is_found: UnknownShowsNothing, "assign::an_unknown_placement_is_not_found", ["assign::an_unknown"];
    a_fact_counted_twice_is_found: FactsDoubled, "track::a_fact_counts_once", ["track"];
    a_forgotten_assignment_is_found: NotSticky, "assign::an_assignment_stays_when_shares_change", ["assign::an_assignment", "sticky", "exposure"];
    a_version_that_means_nothing_is_found: OneVersion, "sticky::a_new_version_assigns_anew", ["sticky", "exposure::each_experiment"];
    a_block_that_lets_in_is_found: BlocksNobody, "sticky::who_is_blocked_takes_no_part", ["sticky::who_is_blocked"];
    experiments_of_one_name_are_found: OneExperiment, "sticky::experiments_are_kept_apart", ["assign", "sticky", "exposure"];
    a_login_that_forgets_is_found: DeviceIgnored, "sticky::an_account_takes_over_its_device", ["sticky::an_account_takes_over"];
    a_device_that_always_counts_is_found: AlwaysByDevice, "sticky::a_device_means_nothing_unless_asked", ["sticky::a_device"];
    an_exposure_counted_each_time_is_found: CountsEveryTime, "exposure::an_assignment_counts_once", ["exposure", "sticky::who_is_blocked"];
    nothing_that_does_not_count_is_found: NothingUncounted, "exposure::showing_nothing_counts", ["exposure::showing_nothing"];
    an_exit_offer_untold_is_found: ExitOfferUntold, "exposure::an_exit_offer_is_counted_as_one", ["exposure::an_exit_offer"];
    a_wrong_event_swallowed_is_found: WrongEventsSwallowed, "track::an_event_without_its_properties_is_refused", ["track"];
}
