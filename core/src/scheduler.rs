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
            async fn admit(&self, cx: &Context, request: Admit) -> Result<Permit>;
        }
    }
}

/// What a place is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admit {
    /// Tokens it will take at the most, prompt and answer.
    pub tokens: usize,
}

/// How full a Scheduler is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that were turned away since the start.
    pub refused: u64,
}

/// A place; dropping it gives it back.
pub struct Permit {
    waited: Duration,
    give_back: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Permit {
    /// A place for which the request waited so long; `give_back` runs once, when it is dropped.
    pub fn new(waited: Duration, give_back: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { waited, give_back: Some(Box::new(give_back)) }
    }

    /// How long the request waited.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(give_back) = self.give_back.take() {
            give_back();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("waited", &self.waited).finish_non_exhaustive()
    }
}

/// What a backend shows before a forward pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The live sequences.
    pub sequences: Vec<SequenceView>,
    /// The most tokens the backend can take in one pass.
    pub batch: usize,
    /// The threads it has.
    pub threads: usize,
}

/// A live sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceView {
    /// Its number, the backend's own.
    pub id: u64,
    /// How urgent.
    pub class: Class,
    /// Prompt tokens that were not fed yet; 0 once it decodes.
    pub prompt_left: usize,
}

/// What the next forward pass does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The sequences that advance. One that is not here keeps its cache and waits.
    pub advance: Vec<Advance>,
    /// Threads to use.
    pub threads: usize,
}

/// How far one sequence goes in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// Its number.
    pub id: u64,
    /// Tokens to feed: prompt tokens, or 1 when it decodes.
    pub tokens: usize,
}

impl Plan {
    /// First come, first served: every decoding sequence takes one token, and prompts fill what is left of the batch.
    pub fn in_order(step: &Step) -> Self {
        let mut left = step.batch;
        let mut advance = Vec::with_capacity(step.sequences.len());
        for decoding in [true, false] {
            for sequence in step.sequences.iter().filter(|s| (s.prompt_left == 0) == decoding) {
                let tokens = sequence.prompt_left.max(1).min(left);
                if tokens > 0 {
                    advance.push(Advance { id: sequence.id, tokens });
                    left -= tokens;
                }
            }
        }
        Self { advance, threads: step.threads }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plan_in_order_fits_the_batch_and_lets_no_prompt_hold_up_a_token(
            prompts in proptest::collection::vec(0usize..1000, 0..20), batch in 1usize..600,
        ) {
            let sequences: Vec<_> = prompts.iter().enumerate()
                .map(|(id, left)| SequenceView { id: id as u64, class: Class::P0, prompt_left: *left }).collect();
            let step = Step { sequences, batch, threads: 2 };
            let plan = Plan::in_order(&step);
            prop_assert!(plan.advance.iter().map(|a| a.tokens).sum::<usize>() <= batch);
            let decoding = prompts.iter().filter(|left| **left == 0).count();
            let advanced = plan.advance.iter().filter(|a| prompts[a.id as usize] == 0).count();
            prop_assert_eq!(advanced, decoding.min(batch));
            prop_assert!(prompts.is_empty() || !plan.advance.is_empty());
        }
    }
}
