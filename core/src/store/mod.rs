//! The Store: what must not be lost.
//!
//! **A write is a value.** A [`Commit`] is a list of operations that becomes true all together or not at all; the Store
//! decides how to make it so (SQLite's writer thread and PostgreSQL's pipeline put many commits into one flush, each with
//! its own outcome). Everything else is reading, or taking something that only one caller may have: a lease, a claim, a
//! share of a quota.
//!
//! Leases, schedules and retention go by the Store's clock, never by a worker's.

mod backoff;
mod commit;
mod cron;
mod ext;
mod fact;
pub mod hub;
mod job;
mod load;
mod maintain;
mod outbox;
mod query;
mod quota;
mod topic;
mod turn;

pub use backoff::Backoff;
pub use commit::{Commit, JobRef, Op, Outcome, Receipt};
pub use cron::Cron;
pub use ext::StoreExt;
pub use fact::{Fact, StickyAssignment};
pub use job::{JobId, JobState, JobView, Lease, LeaseRequest, LeaseTarget, LeasedJob, Limits, NewJob, Retry, When};
pub use load::{Ceiling, Load, LoadHistory, LoadSample};
pub use maintain::{Maintain, Maintained, Retention};
pub use outbox::{Event, LeasedEvent, RelayRequest};
pub use query::{EventView, FactView, IntentFilter, JobFilter, Page, Query, QueueStats, Rows, StoreInfo, Wakeups};
pub use quota::{Ask, Bucket, Take, Taken, TokenBucket};
pub use topic::{Message, Notice, Start, Subscription, Watch};
pub use turn::{Ready, in_turns, one_line};

use std::future::Future;

use crate::{
    Context, Result,
    idempotency::{Claim, ClaimRequest},
    plugin::plugin_trait,
};

/// What a Store can do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StoreCapabilities {
    /// The plugin's name, as error messages give it: `sqlite`.
    pub plugin: &'static str,
    /// Jobs: enqueue, lease, complete, retry, schedule.
    pub jobs: bool,
    /// An outbox with per-aggregate order.
    pub outbox: bool,
    /// Topics that a subscriber can replay from a cursor.
    pub topics: bool,
    /// Idempotency keys.
    pub idempotency: bool,
    /// Token buckets.
    pub quotas: bool,
    /// Sticky assignments and facts.
    pub facts: bool,
    /// Wake-ups reach other processes, not only this one.
    pub cross_process: bool,
    /// What was written survives the end of the process.
    pub durable: bool,
}

plugin_trait! {
    /// Durable state: jobs, outbox, topics, idempotency keys, quotas, assignments and facts.
    ///
    /// # Cancellation safety
    /// Dropping the future of [`commit`](Store::commit), [`lease`](Store::lease), [`relay`](Store::relay),
    /// [`claim`](Store::claim) or [`take`](Store::take) does not undo it: it may have happened. A lease or claim that
    /// nobody received expires by itself.
    pub trait Store, StoreTwin, AnyStore {
        sync {
            /// What this Store can do. Asking for more is an `Unsupported` error.
            fn capabilities(&self) -> StoreCapabilities;
        }

        async {
            /// Makes all operations of `commit` true, or none.
            ///
            /// # Errors
            /// `LeaseLost` when a lease or claim in it is no longer held, `InvalidInput`, `Conflict`, `StorageFull`,
            /// `PermissionDenied`, `Busy`, `Unavailable`; nothing of the commit is then visible.
            async fn commit(&self, cx: &Context, commit: Commit) -> Result<Receipt>;

            /// Leases jobs that are ready: each to one caller, until it completes, fails, or lets the lease run out. Fewer than
            /// were asked for does not mean that no others are ready: ask again.
            async fn lease(&self, cx: &Context, request: LeaseRequest) -> Result<Vec<LeasedJob>>;

            /// Leases the outbox events that may go out next: at most one for each aggregate, always its oldest.
            async fn relay(&self, cx: &Context, request: RelayRequest) -> Result<Vec<LeasedEvent>>;

            /// Inserts or finds an idempotency key, in one step.
            async fn claim(&self, cx: &Context, request: ClaimRequest) -> Result<Claim>;

            /// Takes tokens from a bucket, or says when to come back; or settles what was taken before by what was used.
            async fn take(&self, cx: &Context, request: Take) -> Result<Taken>;

            /// Reads one page. [`StoreExt`] has a typed method for each query.
            async fn read(&self, cx: &Context, query: Query) -> Result<Rows>;

            /// Follows a topic, or waits for work.
            async fn watch(&self, cx: &Context, request: Watch) -> Result<Subscription>;

            /// One tick of housekeeping: rescues expired leases, fires cron jobs, drops what is past its retention.
            async fn maintain(&self, cx: &Context, request: Maintain) -> Result<Maintained>;
        }
    }
}
