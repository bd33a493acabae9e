use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Cron, Event, Fact, JobId, JobState, JobView, LoadHistory, Message, StickyAssignment};
use crate::{
    Timestamp,
    intent::{IntentState, IntentView},
};

/// What to read. [`StoreExt`](super::StoreExt) has a typed method for each.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// Jobs, by number.
    Jobs(JobFilter),
    /// One job.
    Job(JobId),
    /// Depth and age of every queue, by tenant.
    Queues,
    /// Cron schedules, by name.
    Schedules,
    /// Outbox events that have not gone out, by order of commit.
    Outbox {
        /// Only dead ones.
        dead: bool,
        /// After this event number.
        after: Option<i64>,
        /// The most rows.
        limit: usize,
    },
    /// Intents, by order of submission.
    Intents(IntentFilter),
    /// One intent.
    Intent(Uuid),
    /// Messages of a topic.
    Messages {
        /// Which topic.
        topic: String,
        /// After this cursor.
        after: i64,
        /// The most rows.
        limit: usize,
    },
    /// The assignment of a subject in an experiment.
    Assignment {
        /// Who.
        subject: String,
        /// In what.
        experiment: String,
    },
    /// All assignments of some subjects, by subject and then experiment, in the order of their bytes: as many as they take
    /// part in experiments, so there are no pages. A subject that is named twice is answered once.
    Assignments {
        /// Who: what one person is known by.
        subjects: Vec<String>,
    },
    /// Facts, by order of recording.
    Facts {
        /// Only of this name.
        name: Option<String>,
        /// After this row.
        after: i64,
        /// The most rows.
        limit: usize,
    },
    /// How many jobs came in over the last day.
    Load,
    /// The Store itself.
    Info,
}

/// Which jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFilter {
    /// Of this queue.
    pub queue: Option<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// In this state.
    pub state: Option<JobState>,
    /// After this number.
    pub after: Option<JobId>,
    /// The most rows.
    pub limit: usize,
}

impl Default for JobFilter {
    fn default() -> Self {
        Self { queue: None, tenant: None, state: None, after: None, limit: 100 }
    }
}

/// Which intents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntentFilter {
    /// In this state.
    pub state: Option<IntentState>,
    /// After this place: [`Page::next`] of the page before.
    pub after: Option<i64>,
    /// The most rows.
    pub limit: usize,
}

impl Default for IntentFilter {
    fn default() -> Self {
        Self { state: None, after: None, limit: 100 }
    }
}

/// One page of rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Pass it as `after` for the next page; `None` on the last.
    pub next: Option<i64>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { items: Vec::new(), next: None }
    }
}

/// What was read: the variant belongs to the query.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// For [`Query::Jobs`] and [`Query::Job`].
    Jobs(Page<JobView>),
    /// For [`Query::Queues`].
    Queues(Vec<QueueStats>),
    /// For [`Query::Schedules`]: each with the moment it fires next.
    Schedules(Vec<(Cron, Timestamp)>),
    /// For [`Query::Outbox`].
    Outbox(Page<EventView>),
    /// For [`Query::Intents`] and [`Query::Intent`].
    Intents(Page<IntentView>),
    /// For [`Query::Messages`].
    Messages(Page<Message>),
    /// For [`Query::Assignment`].
    Assignment(Option<StickyAssignment>),
    /// For [`Query::Assignments`].
    Assignments(Vec<StickyAssignment>),
    /// For [`Query::Facts`].
    Facts(Page<FactView>),
    /// For [`Query::Load`].
    Load(LoadHistory),
    /// For [`Query::Info`].
    Info(StoreInfo),
}

/// Depth and age of one queue, for one tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueStats {
    /// The queue.
    pub queue: String,
    /// The tenant; `None` for jobs without one.
    pub tenant: Option<String>,
    /// May run now.
    pub ready: u64,
    /// Will run later: scheduled or to be retried.
    pub scheduled: u64,
    /// Leased.
    pub running: u64,
    /// Dead letters.
    pub dead: u64,
    /// How long the oldest job that may run has been waiting.
    pub oldest: Duration,
    /// The queue is paused.
    pub paused: bool,
}

/// An outbox event as people look at it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventView {
    /// Its number, in order of commit.
    pub number: i64,
    /// The event.
    pub event: Event,
    /// How often it was sent.
    pub attempts: u32,
    /// When it may be sent next.
    pub run_at: Timestamp,
    /// When it was committed.
    pub emitted_at: Timestamp,
    /// It failed for good and holds up its aggregate.
    pub dead: bool,
    /// Why it failed last.
    pub last_error: Option<String>,
}

/// A fact as it was recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FactView {
    /// The fact.
    pub fact: Fact,
    /// When.
    pub recorded_at: Timestamp,
}

/// The Store itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreInfo {
    /// The plugin's name.
    pub plugin: &'static str,
    /// The backend's version: `SQLite 3.50.4`.
    pub backend: String,
    /// The version of its schema.
    pub schema: u32,
    /// Where it is: a path or an address, without secrets.
    pub location: String,
    /// Bytes it takes up, when that is known.
    pub bytes: Option<u64>,
    /// What a power cut may cost, in words.
    pub durability: String,
    /// How it learns of other processes' commits.
    pub wakeups: Wakeups,
    /// Its clock.
    pub now: Timestamp,
}

/// How those who wait on a Store learn of other processes' commits. Nothing is lost either way; it is a matter of how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wakeups {
    /// The backend tells them at once.
    Listen,
    /// They look by themselves now and then, as they are meant to.
    Poll,
    /// They are meant to be told at once, and look by themselves for now: the way by which they are told is lost.
    Fallback,
}

impl Wakeups {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Listen, Self::Poll, Self::Fallback];

    /// Its name: `listen`, `poll` or `fallback`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Poll => "poll",
            Self::Fallback => "fallback",
        }
    }
}
