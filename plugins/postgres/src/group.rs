//! Group commit: what many callers ask for at one moment becomes one statement and one flush, each with its own outcome.
//!
//! It is done for the three commits that come in numbers: jobs that are enqueued, completed, and kept. Whoever comes while a
//! group is on its way waits for the next one, so a lone caller waits for nobody.

use std::{sync::Arc, time::Duration};

use selvedge_core::{
    Commit, Result,
    store::{Lease, LeaseTarget, Op, Outcome, Receipt},
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    apply,
    connections::Connections,
    error::{closed, copy, is_refused},
    job,
    store::Task,
    tx::{Db, Flush},
    wake::{Bell, News},
};

/// Groups of each kind under way at once, where flushes are slow: one is written while another is flushed.
const WIDTH: u32 = 2;
/// So long a group waits for the one before. Where that takes less, two at once would only be smaller ones.
const PATIENCE: Duration = Duration::from_millis(2);
/// The most jobs, and bytes of payload, of one group; a single commit may have more.
const MOST: (usize, usize) = (4_000, 8 << 20);
const OPERATION: &str = "store.commit";

/// The groups of a Store.
#[derive(Debug)]
pub(crate) struct Groups {
    enqueue: mpsc::UnboundedSender<Member>,
    complete: mpsc::UnboundedSender<Member>,
    extend: mpsc::UnboundedSender<Member>,
}

/// A caller's commit.
struct Member {
    commit: Commit,
    reply: oneshot::Sender<Result<Receipt>>,
}

impl Groups {
    /// Starts the tasks that form groups.
    pub(crate) fn start(connections: &Connections, bell: &Bell) -> (Self, Vec<Task>) {
        let mut tasks = Vec::new();
        let mut lane = || {
            let (sender, received) = mpsc::unbounded_channel();
            let lane = Lane { connections: connections.clone(), bell: bell.clone() };
            tasks.push(Task::start(lane.form(received)));
            sender
        };
        let groups = Self { enqueue: lane(), complete: lane(), extend: lane() };
        (groups, tasks)
    }

    /// Makes a commit true together with others, if it is one of those that come in numbers; gives it back otherwise.
    pub(crate) fn join(&self, commit: Commit) -> std::result::Result<oneshot::Receiver<Result<Receipt>>, Commit> {
        let lane = match commit.ops() {
            // A unique key may have to wait for another transaction, and others should not wait with it.
            [Op::Enqueue(jobs)] if jobs.iter().all(|job| job.unique.is_none()) => &self.enqueue,
            [Op::Complete(lease)] if lease.target == LeaseTarget::Job => &self.complete,
            [Op::CompleteMany(leases)] if leases.iter().all(|lease| lease.target == LeaseTarget::Job) => &self.complete,
            [Op::Extend { lease, .. }] if lease.target == LeaseTarget::Job => &self.extend,
            _ => return Err(commit),
        };
        let (reply, answer) = oneshot::channel();
        lane.send(Member { commit, reply }).map_err(|unsent| unsent.0.commit)?;
        Ok(answer)
    }

    /// What became of a commit.
    pub(crate) async fn answer(answer: oneshot::Receiver<Result<Receipt>>) -> Result<Receipt> {
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

/// How much of a group a commit fills: jobs and bytes.
fn weight(commit: &Commit) -> (usize, usize) {
    match commit.ops() {
        [Op::Enqueue(jobs)] => (jobs.len(), jobs.iter().map(|job| job.payload.len()).sum()),
        [Op::CompleteMany(leases)] => (leases.len(), 0),
        _ => (1, 0),
    }
}

/// Forms the groups of one kind.
#[derive(Clone, Debug)]
struct Lane {
    connections: Connections,
    bell: Bell,
}

impl Lane {
    async fn form(self, mut received: mpsc::UnboundedReceiver<Member>) {
        let places = Arc::new(Semaphore::new(WIDTH as usize));
        while let Some(first) = received.recv().await {
            // Whoever comes until there is a place joins this group. All places are free when nobody is under way; after so long
            // one of them will do.
            drop(tokio::time::timeout(PATIENCE, places.acquire_many(WIDTH)).await);
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (mut jobs, mut bytes) = weight(&first.commit);
            let mut members = vec![first];
            while jobs < MOST.0 && bytes < MOST.1 {
                let Ok(next) = received.try_recv() else { break };
                let (more, larger) = weight(&next.commit);
                (jobs, bytes) = (jobs + more, bytes + larger);
                members.push(next);
            }
            let this = self.clone();
            tokio::spawn(async move {
                this.run(members).await;
                drop(place);
            });
        }
    }

    async fn run(&self, members: Vec<Member>) {
        match self.together(&members).await {
            Ok((outcomes, news)) => {
                self.bell.ring(news);
                for (member, outcome) in members.into_iter().zip(outcomes) {
                    // Nobody may be waiting any more.
                    let _ = member.reply.send(outcome.map(|outcome| Receipt { outcomes: vec![outcome] }));
                }
            }
            // Nothing of it happened: one of them, or another transaction, was in the way of all.
            Err(error) if is_refused(&error) => {
                for Member { commit, reply } in members {
                    let _ = reply.send(self.alone(commit).await);
                }
            }
            Err(error) => {
                for member in members {
                    let _ = member.reply.send(Err(copy(&error)));
                }
            }
        }
    }

    /// Does commits of one kind in one statement; what became of each, and whom to wake.
    async fn together(&self, members: &[Member]) -> Result<(Vec<Result<Outcome>>, News)> {
        let conn = self.connections.get(OPERATION).await?;
        let db = self.connections.alone(&conn, OPERATION, Flush::Waits);
        let commits: Vec<&Commit> = members.iter().map(|member| &member.commit).collect();
        let mut news = News::default();
        let outcomes = match commits.first().map(|commit| commit.ops()) {
            Some([Op::Enqueue(_)]) => enqueue(&db, &commits, &mut news).await?,
            Some([Op::Extend { .. }]) => extend(&db, &commits).await?,
            _ => complete(&db, &commits).await?,
        };
        Ok((outcomes, news))
    }

    async fn alone(&self, commit: Commit) -> Result<Receipt> {
        let commit = Arc::new(commit);
        let done = self.connections.transaction(OPERATION, Flush::Waits, |tx| {
            let commit = commit.clone();
            Box::pin(async move { apply::apply(tx, &commit).await })
        });
        let (receipt, news) = done.await?;
        self.bell.ring(news);
        Ok(receipt)
    }
}

async fn enqueue(db: &Db<'_>, commits: &[&Commit], news: &mut News) -> Result<Vec<Result<Outcome>>> {
    let each = commits.iter().map(|commit| match commit.ops() {
        [Op::Enqueue(jobs)] => jobs.as_slice(),
        _ => &[],
    });
    let jobs: Vec<_> = each.clone().flatten().collect();
    let added = job::enqueue_all(db, &jobs, db.given).await?;
    jobs.iter().zip(&added).for_each(|(job, added)| news.job(job, added.due));
    let mut added = added.into_iter().map(|added| added.job);
    Ok(each.map(|jobs| Ok(Outcome::Enqueued(added.by_ref().take(jobs.len()).collect()))).collect())
}

async fn complete(db: &Db<'_>, commits: &[&Commit]) -> Result<Vec<Result<Outcome>>> {
    let leases: Vec<Lease> = commits.iter().flat_map(|commit| leases_of(commit)).copied().collect();
    let mut held = job::complete(db, &leases, db.given).await?.into_iter();
    let outcome = |commit: &&Commit| {
        let lost = leases_of(commit).iter().copied().filter(|_| held.next() == Some(false)).collect::<Vec<_>>();
        match commit.ops() {
            [Op::Complete(lease)] if !lost.is_empty() => Err(lease.lost()),
            [Op::Complete(_)] => Ok(Outcome::Done),
            _ => Ok(Outcome::Completed { lost }),
        }
    };
    Ok(commits.iter().map(outcome).collect())
}

fn leases_of(commit: &Commit) -> &[Lease] {
    match commit.ops() {
        [Op::Complete(lease)] => std::slice::from_ref(lease),
        [Op::CompleteMany(leases)] => leases,
        _ => &[],
    }
}

async fn extend(db: &Db<'_>, commits: &[&Commit]) -> Result<Vec<Result<Outcome>>> {
    let wanted: Vec<_> = commits
        .iter()
        .filter_map(|commit| match commit.ops() {
            [Op::Extend { lease, hold }] => Some((*lease, *hold)),
            _ => None,
        })
        .collect();
    let kept = job::extend_all(db, &wanted, db.given).await?;
    let outcome = |(lease, _): &(Lease, _)| match kept.get(&(lease.id, lease.token)) {
        Some((until, cancelled)) => Ok(Outcome::Extended { until: *until, cancelled: *cancelled }),
        None => Err(lease.lost()),
    };
    Ok(wanted.iter().map(outcome).collect())
}
