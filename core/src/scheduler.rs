//! The Scheduler: who runs next, and with how much of the machine.
//!
//! It works on two time scales. [`admit`](Scheduler::admit) is for requests: it waits and hands out a [`Permit`] that
//! returns its capacity when dropped. [`plan`](Scheduler::plan) is for steps: before each forward pass a backend shows it
//! the live sequences, and it says which advance. Preemption is a sequence left out of the plan; no thread is ever killed.

use std::{fmt, future::Future, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Context, Error, ErrorKind, Result, plugin::plugin_trait};

/// How urgent a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A person is waiting.
    #[default]
    P0,
    /// Soon is good enough.
    P1,
    /// Whenever the machine is idle.
    P2,
}

impl Class {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::P0, Self::P1, Self::P2];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P0 => "p0",
            Self::P1 => "p1",
            Self::P2 => "p2",
        })
    }
}

impl FromStr for Class {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "p0" => Ok(Self::P0),
            "p1" => Ok(Self::P1),
            "p2" => Ok(Self::P2),
            _ => Err(Error::new(ErrorKind::InvalidInput, "scheduler.class", "no such priority class")
                .with("class", text)
                .advise("use p0, p1 or p2")),
        }
    }
}

/// What a Scheduler can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchedulerCapabilities {
    /// The plugin's name, as error messages give it: `priority`.
    pub plugin: &'static str,
    /// It treats classes differently; otherwise first come, first served.
    pub classes: bool,
    /// It leaves sequences out of a step for more urgent ones.
    pub preemption: bool,
    /// The most requests that run at once.
    pub concurrency: usize,
    /// The most requests that wait.
    pub queue: usize,
}

plugin_trait! {
    /// Admission and step planning.
    pub trait Scheduler, SchedulerTwin, AnyScheduler {
        sync {
            /// What this Scheduler can do.
            fn capabilities(&self) -> SchedulerCapabilities;

            /// How full it is now.
            fn load(&self) -> Load;

            /// Which sequences advance in the next forward pass. Called before every step, so it must not wait.
            fn plan(&self, step: &Step) -> Plan;
        }

        async {
            /// Waits for a place, with the urgency of [`Context::class`].
            ///
            /// # Errors
            /// `Busy` with `retry_after` when too many wait already; `DeadlineExceeded`, `Cancelled`.
            ///
            /// # Cancellation safety
            /// Dropping the future gives up the place in the queue.
            async fn admit(&self, cx: &Context, work: Work) -> Result<Permit>;
        }
    }
}

/// What a place is asked for: the work that a request brings, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Tokens to be read.
    pub prompt: usize,
    /// Tokens to be added; the most of them while the answer is not known.
    pub answer: usize,
}

/// How full a Scheduler is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Each class, the most urgent first.
    pub classes: [ClassLoad; Class::ALL.len()],
}

/// How much of one class is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassLoad {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that were turned away since the start.
    pub refused: u64,
}

impl Load {
    /// A class's share.
    pub fn of(&self, class: Class) -> ClassLoad {
        self.classes[class as usize]
    }

    /// All classes together.
    pub fn total(&self) -> ClassLoad {
        self.classes.iter().fold(ClassLoad::default(), |sum, class| ClassLoad {
            running: sum.running + class.running,
            waiting: sum.waiting + class.waiting,
            refused: sum.refused + class.refused,
        })
    }
}

/// A place; dropping it gives it back.
pub struct Permit {
    class: Class,
    waited: Duration,
    done: Option<Work>,
    give_back: Option<Box<GiveBack>>,
}

/// What a Scheduler does with a place that comes back, and with what was done in it if that is known.
type GiveBack = dyn FnOnce(Option<Work>) + Send + Sync;

impl Permit {
    /// A place in a class for which the request waited so long. `give_back` runs once, when it is dropped; it is told what was
    /// [done](Permit::done).
    pub fn new(class: Class, waited: Duration, give_back: impl FnOnce(Option<Work>) + Send + Sync + 'static) -> Self {
        Self { class, waited, done: None, give_back: Some(Box::new(give_back)) }
    }

    /// The class in which the request runs: the one it asked for, or a less urgent one that its tenant is limited to.
    pub fn class(&self) -> Class {
        self.class
    }

    /// How long the request waited.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Says what was really done: an estimate was all there was when the place was given.
    pub fn done(&mut self, work: Work) {
        self.done = Some(work);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(give_back) = self.give_back.take() {
            give_back(self.done);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("class", &self.class).field("waited", &self.waited).finish_non_exhaustive()
    }
}

/// What a backend shows before a forward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// The live sequences, in the order in which they came.
    pub sequences: Vec<SequenceView>,
    /// The most tokens the backend can take in one pass.
    pub batch: usize,
    /// The threads it has.
    pub threads: usize,
    /// The most sequences whose caches it holds at once: no more can advance in one pass. Those of others are parked, at the
    /// cost of a copy.
    pub slots: usize,
    /// The pass before this one; `None` when there was none, or when it was cut short.
    pub last: Option<Pass>,
}

/// A forward pass that was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Tokens of sequences that decode: one each, and those of their drafts.
    pub decode: usize,
    /// Tokens of prompts.
    pub prefill: usize,
    /// Tokens in the caches of the sequences that advanced: what each new token attends to, summed over the sequences.
    pub cached: usize,
    /// The threads it ran on.
    pub threads: usize,
    /// How long it took.
    pub took: Duration,
}

/// A live sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SequenceView {
    /// Its number, the backend's own.
    pub id: u64,
    /// How urgent.
    pub class: Class,
    /// Prompt tokens that were not fed yet; 0 once it decodes.
    pub prompt_left: usize,
    /// Tokens in its cache.
    pub cached: usize,
    /// Whether its cache is in a slot; otherwise it is parked, or has none yet.
    pub resident: bool,
    /// Which slot, if it is in one. Backends may be faster with a pass whose slots lie side by side.
    pub slot: usize,
    /// Since it advanced last, or since it came.
    pub idle: Duration,
    /// Something that can draft for it, if there is.
    pub draft: Option<Draft>,
}

/// What is known of a draft for a sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draft {
    /// The acceptance rate of a drafted token whose predecessors were accepted, 0 to 1.
    pub acceptance: f32,
    /// The most tokens it can draft now.
    pub most: usize,
}

/// What the next forward pass does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The sequences that advance. One that is not here keeps its cache and waits.
    pub advance: Vec<Advance>,
    /// Threads to use.
    pub threads: usize,
    /// The pass may be cut short for a request of this class or a more urgent one that comes meanwhile; what it did is then done
    /// again. `None`: it runs to its end whoever comes.
    pub yields_to: Option<Class>,
    /// The pass is cut short only so soon after its beginning, and later runs to its end. `None`: it may be at any time.
    pub yields_for: Option<Duration>,
}

/// How far one sequence goes in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// Its number.
    pub id: u64,
    /// Tokens to feed: prompt tokens, or 1 when it decodes.
    pub tokens: usize,
    /// Tokens to draft and to verify in the same pass.
    pub draft: usize,
}

impl Plan {
    /// First come, first served: every decoding sequence takes one token, and prompts fill what is left of the batch. Sequences
    /// that hold a slot keep it until they end.
    pub fn in_order(step: &Step) -> Self {
        let held = step.sequences.iter().filter(|sequence| sequence.resident).count();
        let mut free = step.slots.saturating_sub(held);
        let mut seated = Vec::with_capacity(step.sequences.len().min(step.slots));
        for sequence in &step.sequences {
            if sequence.resident {
                seated.push(sequence);
            } else if free > 0 {
                free -= 1;
                seated.push(sequence);
            }
        }
        let mut left = step.batch;
        let mut advance = Vec::with_capacity(seated.len());
        for decoding in [true, false] {
            for sequence in seated.iter().filter(|s| (s.prompt_left == 0) == decoding) {
                let tokens = sequence.prompt_left.max(1).min(left);
                if tokens > 0 {
                    advance.push(Advance { id: sequence.id, tokens, draft: 0 });
                    left -= tokens;
                }
            }
        }
        Self { advance, threads: step.threads, yields_to: None, yields_for: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plan_in_order_fits_the_batch_and_lets_no_prompt_hold_up_a_token(
            prompts in proptest::collection::vec((0usize..1000, any::<bool>()), 0..20), batch in 1usize..600, spare in 0usize..9,
        ) {
            let sequences: Vec<_> = prompts.iter().enumerate().map(|(id, (left, resident))| {
                SequenceView { id: id as u64, prompt_left: *left, resident: *resident, ..SequenceView::default() }
            }).collect();
            let resident = prompts.iter().filter(|(_, resident)| *resident).count();
            let slots = (resident + spare).max(1);
            let step = Step { sequences, batch, threads: 2, slots, last: None };
            let plan = Plan::in_order(&step);
            prop_assert!(plan.advance.iter().map(|a| a.tokens).sum::<usize>() <= batch);
            prop_assert!(plan.advance.len() <= slots);
            let decoding = prompts.iter().filter(|(left, resident)| *left == 0 && *resident).count();
            let advanced = plan.advance.iter().filter(|a| prompts[a.id as usize] == (0, true)).count();
            prop_assert!(advanced >= decoding.min(batch.saturating_sub(spare)));
            prop_assert!(prompts.is_empty() || !plan.advance.is_empty());
        }
    }
}
