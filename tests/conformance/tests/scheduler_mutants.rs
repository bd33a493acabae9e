//! The Scheduler suite finds what is broken.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use selvedge_core::{
    AnyScheduler, Context, Result, Scheduler,
    scheduler::{Advance, Class, Load, Permit, Plan, SchedulerCapabilities, Step, Work},
};
use selvedge_priority::Priority;
use selvedge_testkit::scheduler_suite;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    NoBound,
    LostPermit,
    ClassIgnored,
    BatchOverflow,
    FirstOnly,
    DeadlineIgnored,
    RefusalsUncounted,
    BusyWithoutTime,
    WrongClass,
    ReservationLost,
    LessUrgentFirst,
    SlotsTaken,
    ParkedForgotten,
}

#[derive(Debug)]
struct Broken {
    inner: Priority,
    flaw: Flaw,
    admitted: AtomicU64,
}

impl Scheduler for Broken {
    fn capabilities(&self) -> SchedulerCapabilities {
        self.inner.capabilities()
    }

    fn load(&self) -> Load {
        let mut load = self.inner.load();
        if self.flaw == Flaw::RefusalsUncounted {
            load.classes.iter_mut().for_each(|class| class.refused = 0);
        }
        load
    }

    fn plan(&self, step: &Step) -> Plan {
        let mut plan = self.inner.plan(step);
        match self.flaw {
            Flaw::BatchOverflow => plan.advance.iter_mut().for_each(|advance| advance.tokens += 1),
            Flaw::FirstOnly => {
                let first = step.sequences.first().filter(|_| step.batch > 0);
                let tokens = |left: usize| left.clamp(1, step.batch);
                let advance = first.map(|first| Advance { id: first.id, tokens: tokens(first.prompt_left), draft: 0 });
                plan.advance = advance.into_iter().collect();
            }
            Flaw::LessUrgentFirst => {
                let class =
                    |id| step.sequences.iter().find(|sequence| sequence.id == id).map(|sequence| sequence.class);
                let most = plan.advance.iter().filter_map(|advance| class(advance.id)).min();
                if plan.advance.iter().any(|advance| class(advance.id) != most) {
                    plan.advance.retain(|advance| class(advance.id) != most);
                }
            }
            Flaw::SlotsTaken => {
                let resident = |id| step.sequences.iter().any(|sequence| sequence.id == id && sequence.resident);
                if let Some(away) = step.sequences.iter().find(|sequence| !sequence.resident)
                    && plan.advance.iter().all(|advance| resident(advance.id))
                    && let Some(first) = plan.advance.first_mut()
                {
                    *first = Advance { id: away.id, tokens: 1, draft: 0 };
                }
            }
            Flaw::ParkedForgotten => {
                let parked = |id| step.sequences.iter().any(|s| s.id == id && !s.resident && s.cached > 0);
                if plan.advance.len() > 1 {
                    plan.advance.retain(|advance| !parked(advance.id));
                }
            }
            _ => (),
        }
        plan
    }

    async fn admit(&self, cx: &Context, request: Work) -> Result<Permit> {
        let number = self.admitted.fetch_add(1, Ordering::Relaxed);
        let cx = match self.flaw {
            Flaw::ClassIgnored => cx.clone().with_class(Class::P0),
            // Only on a large one: on a small one requests would wait for ever for the last place.
            Flaw::ReservationLost if self.inner.capabilities().concurrency > 8 => {
                cx.clone().with_class(cx.class().max(Class::P1))
            }
            Flaw::DeadlineIgnored => Context::new().with_cancel(cx.cancel().clone()),
            _ => cx.clone(),
        };
        match self.flaw {
            Flaw::NoBound if number % 5 == 4 => Ok(Permit::new(cx.class(), std::time::Duration::ZERO, |_| ())),
            Flaw::LostPermit if number % 5 == 4 => {
                std::mem::forget(self.inner.admit(&cx, request).await?);
                Ok(Permit::new(cx.class(), std::time::Duration::ZERO, |_| ()))
            }
            Flaw::WrongClass => {
                let inner = self.inner.admit(&cx, request).await?;
                Ok(Permit::new(Class::P0, inner.waited(), move |_| drop(inner)))
            }
            Flaw::BusyWithoutTime => self.inner.admit(&cx, request).await.map_err(|error| {
                selvedge_core::Error::new(error.kind(), error.operation(), error.message().to_owned())
            }),
            _ => self.inner.admit(&cx, request).await,
        }
    }
}

fn finds(flaw: Flaw, case: &str) {
    let suite = scheduler_suite(move |concurrency, queue| {
        let inner = Priority::new(concurrency, queue);
        Ok(AnyScheduler::new(Broken { inner, flaw, admitted: AtomicU64::new(0) }))
    });
    let failed: Vec<_> = suite.report().failed.into_iter().map(|finding| finding.name).collect();
    assert!(failed.iter().any(|name| name == case), "{case} did not fail; failed: {failed:#?}");
    let area = case.rsplit_once("::").expect("a case is in a module").0;
    assert!(failed.iter().all(|name| name.starts_with(area)), "cases outside {area} failed: {failed:#?}");
}

#[test]
fn a_bound_that_does_not_hold_is_found() {
    finds(Flaw::NoBound, "scheduler::admit::no_more_run_than_its_concurrency");
}

#[test]
fn a_lost_permit_is_found() {
    finds(Flaw::LostPermit, "scheduler::admit::a_permit_granted_to_nobody_comes_back");
}

#[test]
fn an_ignored_class_is_found() {
    finds(Flaw::ClassIgnored, "scheduler::admit::urgent_classes_go_first");
}

#[test]
fn an_overfull_batch_is_found() {
    finds(Flaw::BatchOverflow, "scheduler::plan::a_plan_fits_the_step");
}

#[test]
fn a_starving_sequence_is_found() {
    finds(Flaw::FirstOnly, "scheduler::plan::a_prompt_holds_up_no_answer");
}

#[test]
fn an_ignored_deadline_is_found() {
    finds(Flaw::DeadlineIgnored, "scheduler::admit::a_deadline_ends_the_wait");
}

#[test]
fn refusals_that_are_not_counted_are_found() {
    finds(Flaw::RefusalsUncounted, "scheduler::admit::load_counts");
}

#[test]
fn a_refusal_that_does_not_say_when_is_found() {
    finds(Flaw::BusyWithoutTime, "scheduler::admit::one_more_than_the_queue_holds_is_busy");
}

#[test]
fn a_permit_of_another_class_is_found() {
    finds(Flaw::WrongClass, "scheduler::admit::a_permit_has_a_class");
}

#[test]
fn a_reserved_place_that_is_not_given_is_found() {
    finds(Flaw::ReservationLost, "scheduler::admit::a_reserved_place_is_had_at_once");
}

#[test]
fn a_less_urgent_sequence_that_goes_first_is_found() {
    finds(Flaw::LessUrgentFirst, "scheduler::plan::nobody_more_urgent_is_left_out");
}

#[test]
fn a_slot_that_is_taken_from_an_equal_is_found() {
    finds(Flaw::SlotsTaken, "scheduler::plan::slots_change_hands_only_for_the_more_urgent");
}

#[test]
fn a_parked_sequence_that_is_forgotten_is_found() {
    finds(Flaw::ParkedForgotten, "scheduler::plan::a_parked_sequence_comes_back");
}
