use std::future::Future;

use bytes::Bytes;
use uuid::Uuid;

use super::{
    EventView, FactView, IntentFilter, JobFilter, JobId, JobRef, JobView, LoadHistory, Message, NewJob, Page, Query,
    QueueStats, Rows, StickyAssignment, Store, StoreInfo,
};
use crate::{Commit, Context, Error, ErrorKind, Result, Timestamp, intent::IntentView, store::Cron};

macro_rules! rows_of {
    ($rows:expr, $variant:ident) => {
        match $rows {
            Rows::$variant(rows) => Some(rows),
            _ => None,
        }
    };
}
/// Typed methods over [`Store::read`] and one-operation commits. Implemented for every Store.
pub trait StoreExt: Store {
    /// Enqueues one job.
    ///
    /// # Errors
    /// Those of [`Store::commit`].
    fn enqueue(&self, cx: &Context, job: NewJob) -> impl Future<Output = Result<JobRef>> + Send {
        async move {
            let receipt = self.commit(cx, Commit::new().enqueue([job])).await?;
            receipt.jobs().next().ok_or_else(|| wrong_rows("enqueue"))
        }
    }

    /// Publishes one message and returns its cursor.
    ///
    /// # Errors
    /// Those of [`Store::commit`].
    fn publish(
        &self,
        cx: &Context,
        topic: &str,
        payload: impl Into<Bytes>,
    ) -> impl Future<Output = Result<i64>> + Send {
        let commit = Commit::new().publish(topic, payload);
        async move {
            match self.commit(cx, commit).await?.outcomes.as_slice() {
                [super::Outcome::Published { cursor }] => Ok(*cursor),
                _ => Err(wrong_rows("publish")),
            }
        }
    }

    /// One page of jobs.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn jobs(&self, cx: &Context, filter: JobFilter) -> impl Future<Output = Result<Page<JobView>>> + Send {
        async move { typed(self.read(cx, Query::Jobs(filter)).await?, |rows| rows_of!(rows, Jobs)) }
    }

    /// One job, if it is still there.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn job(&self, cx: &Context, id: JobId) -> impl Future<Output = Result<Option<JobView>>> + Send {
        async move { typed(self.read(cx, Query::Job(id)).await?, |rows| rows_of!(rows, Jobs)).map(first) }
    }

    /// Depth and age of every queue, by tenant.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn queues(&self, cx: &Context) -> impl Future<Output = Result<Vec<QueueStats>>> + Send {
        async move { typed(self.read(cx, Query::Queues).await?, |rows| rows_of!(rows, Queues)) }
    }

    /// Cron schedules, each with the moment it fires next.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn schedules(&self, cx: &Context) -> impl Future<Output = Result<Vec<(Cron, Timestamp)>>> + Send {
        async move { typed(self.read(cx, Query::Schedules).await?, |rows| rows_of!(rows, Schedules)) }
    }

    /// One page of outbox events that have not gone out.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn outbox(
        &self,
        cx: &Context,
        dead: bool,
        after: Option<i64>,
        limit: usize,
    ) -> impl Future<Output = Result<Page<EventView>>> + Send {
        async move { typed(self.read(cx, Query::Outbox { dead, after, limit }).await?, |rows| rows_of!(rows, Outbox)) }
    }

    /// One page of intents.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn intents(&self, cx: &Context, filter: IntentFilter) -> impl Future<Output = Result<Page<IntentView>>> + Send {
        async move { typed(self.read(cx, Query::Intents(filter)).await?, |rows| rows_of!(rows, Intents)) }
    }

    /// One intent.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn intent(&self, cx: &Context, id: Uuid) -> impl Future<Output = Result<Option<IntentView>>> + Send {
        async move { typed(self.read(cx, Query::Intent(id)).await?, |rows| rows_of!(rows, Intents)).map(first) }
    }

    /// One page of a topic's messages.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn messages(
        &self,
        cx: &Context,
        topic: &str,
        after: i64,
        limit: usize,
    ) -> impl Future<Output = Result<Page<Message>>> + Send {
        let query = Query::Messages { topic: topic.into(), after, limit };
        async move { typed(self.read(cx, query).await?, |rows| rows_of!(rows, Messages)) }
    }

    /// The assignment of a subject in an experiment.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn assignment(
        &self,
        cx: &Context,
        subject: &str,
        experiment: &str,
    ) -> impl Future<Output = Result<Option<StickyAssignment>>> + Send {
        let query = Query::Assignment { subject: subject.into(), experiment: experiment.into() };
        async move { typed(self.read(cx, query).await?, |rows| rows_of!(rows, Assignment)) }
    }

    /// All assignments of some subjects in one read, by subject and then experiment.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn assignments<S: Into<String>>(
        &self,
        cx: &Context,
        subjects: impl IntoIterator<Item = S>,
    ) -> impl Future<Output = Result<Vec<StickyAssignment>>> + Send {
        let query = Query::Assignments { subjects: subjects.into_iter().map(Into::into).collect() };
        async move { typed(self.read(cx, query).await?, |rows| rows_of!(rows, Assignments)) }
    }

    /// One page of facts.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn facts(
        &self,
        cx: &Context,
        name: Option<&str>,
        after: i64,
        limit: usize,
    ) -> impl Future<Output = Result<Page<FactView>>> + Send {
        let query = Query::Facts { name: name.map(Into::into), after, limit };
        async move { typed(self.read(cx, query).await?, |rows| rows_of!(rows, Facts)) }
    }

    /// How many jobs came in over the last day, to be measured against a [`Ceiling`](super::Ceiling).
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn load(&self, cx: &Context) -> impl Future<Output = Result<LoadHistory>> + Send {
        async move { typed(self.read(cx, Query::Load).await?, |rows| rows_of!(rows, Load)) }
    }

    /// The Store itself.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn info(&self, cx: &Context) -> impl Future<Output = Result<StoreInfo>> + Send {
        async move { typed(self.read(cx, Query::Info).await?, |rows| rows_of!(rows, Info)) }
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

fn typed<T>(rows: Rows, pick: impl FnOnce(Rows) -> Option<T>) -> Result<T> {
    pick(rows).ok_or_else(|| wrong_rows("read"))
}

fn first<T>(page: Page<T>) -> Option<T> {
    page.items.into_iter().next()
}

fn wrong_rows(query: &str) -> Error {
    Error::new(ErrorKind::Internal, "store.read", "the Store answered another query").with("query", query)
}
