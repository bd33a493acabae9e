//! Many callers that want the same at once are served together, and what came of it is dealt out: flat combining (Hendler,
//! Incze, Shavit and Tzafrir, SPAA 2010).
//!
//! They all wait already, so each gets what it would have got had they been served in the order they came.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_channel::oneshot;
use rusqlite::Transaction;
use selvedge_core::{
    Commit, Context, Error, ErrorKind, Result,
    store::{Lease, LeaseRequest, LeasedJob, NewJob, Op, Outcome, Receipt},
};

use crate::{
    apply, job, lease,
    room::Room,
    tx::Tx,
    writer::{Group, Work},
};

/// The way back to a caller. It gets the work itself, with what came of it, and frees it: the writer has no time for that.
pub(crate) type Reply<W> = oneshot::Sender<Result<Box<W>>>;

/// A caller that wants jobs.
pub(crate) struct LeaseWork {
    pub(crate) cx: Context,
    pub(crate) request: LeaseRequest,
    pub(crate) jobs: Vec<LeasedJob>,
    pub(crate) reply: Option<Reply<Self>>,
}

impl LeaseWork {
    fn wants_the_same(&self, request: &LeaseRequest) -> bool {
        let own = &self.request;
        (&own.queues, own.hold, &own.owner) == (&request.queues, request.hold, &request.owner)
    }
}

impl Work for LeaseWork {
    fn run(&mut self, tx: &mut Tx<'_>, _: &Transaction<'_>) -> Result<()> {
        self.cx.check("store.lease")?;
        self.jobs = lease::lease(tx, &self.request)?;
        Ok(())
    }

    /// A lease adds rows before it ends any: where there is room for a few only, a few can be worked off.
    fn reduce(&mut self) -> bool {
        self.request.limit /= 2;
        self.request.limit > 0
    }

    fn finish(mut self: Box<Self>, result: Result<()>) {
        let reply = self.reply.take();
        // A send fails when nobody listens any more: the leases then run out.
        let _ = reply.map(|reply| reply.send(result.map(|()| self)));
    }
}

/// Serves all who wait, and moves them to the group. After an error the rest are left.
#[expect(clippy::vec_box, reason = "they go on to the group as they are")]
pub(crate) fn lease(tx: &mut Tx<'_>, waiting: &mut Vec<Box<LeaseWork>>, group: &mut Group) -> Result<()> {
    while let Some(mut request) = waiting.first().map(|work| work.request.clone()) {
        let alike = waiting.extract_if(.., |work| work.wants_the_same(&request));
        // The caller may have gone, or its time may have run out, while it waited in line.
        let alike: Vec<_> = alike.map(|work| (work.cx.check("store.lease"), work)).collect();
        let limits = alike.iter().filter(|(checked, _)| checked.is_ok()).map(|(_, work)| work.request.limit);
        request.limit = limits.fold(0, usize::saturating_add);
        let leased = lease::lease(tx, &request);
        let (mut jobs, failed) = match leased {
            Ok(jobs) => (jobs.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        for (checked, mut work) in alike {
            if checked.is_ok() {
                // `collect` would make room for more than there are.
                work.jobs.reserve_exact(work.request.limit.min(jobs.len()));
                work.jobs.extend(jobs.by_ref().take(work.request.limit));
            }
            group.push((work, checked));
        }
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(())
}

/// A caller that wants a commit.
pub(crate) struct CommitWork {
    pub(crate) cx: Context,
    pub(crate) commit: Commit,
    pub(crate) room: Option<Room>,
    pub(crate) receipt: Option<Receipt>,
    pub(crate) reply: Option<Reply<Self>>,
}

/// Commits that one statement, or a few, can serve together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alike {
    /// They add jobs and do nothing else.
    Enqueue,
    /// They end jobs or events and do nothing else.
    Complete,
}

impl CommitWork {
    /// What it may share a statement with. Where there is a size limit, each commit is checked by itself.
    pub(crate) fn alike(&self) -> Option<Alike> {
        match self.commit.ops() {
            _ if self.room.is_some() => None,
            [Op::Enqueue(_)] => Some(Alike::Enqueue),
            [Op::Complete(_) | Op::CompleteMany(_)] => Some(Alike::Complete),
            _ => None,
        }
    }

    fn try_run(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        self.cx.check("store.commit")?;
        self.room.map_or(Ok(()), |room| room.check(tx, &self.commit))?;
        self.receipt = Some(apply::apply_checked(tx, &self.commit)?);
        Ok(())
    }
}

impl Work for CommitWork {
    fn run(&mut self, tx: &mut Tx<'_>, _: &Transaction<'_>) -> Result<()> {
        unpanicked(|| self.try_run(tx))
    }

    fn finish(mut self: Box<Self>, result: Result<()>) {
        let reply = self.reply.take();
        // A send fails when nobody listens any more: the caller has dropped its future, and the write stands.
        let _ = reply.map(|reply| reply.send(result.map(|()| self)));
    }
}

/// A panic must not end the writer.
fn unpanicked<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "store.commit", "the commit panicked")))
}

/// Serves commits that are alike, and moves them to the group, also when it fails.
#[expect(clippy::vec_box, reason = "they go on to the group as they are")]
pub(crate) fn commit(tx: &mut Tx<'_>, waiting: &mut Vec<Box<CommitWork>>, group: &mut Group) -> Result<()> {
    let mut served: Vec<_> = waiting.drain(..).map(|work| (work.cx.check("store.commit"), work)).collect();
    let failed = unpanicked(|| match served.first().and_then(|(_, work)| work.alike()) {
        Some(Alike::Enqueue) => enqueue(tx, &mut served),
        Some(Alike::Complete) => complete(tx, &mut served),
        None => Ok(()),
    });
    group.extend(served.into_iter().map(|(result, work)| (work as Box<dyn Work>, result)));
    failed
}

type Served = [(Result<()>, Box<CommitWork>)];

/// The operations of those who still wait for theirs.
fn ops(served: &Served) -> impl Iterator<Item = &Op> {
    served.iter().filter(|(checked, _)| checked.is_ok()).flat_map(|(_, work)| work.commit.ops())
}

fn jobs_of(op: &Op) -> &[NewJob] {
    if let Op::Enqueue(jobs) = op { jobs } else { &[] }
}

fn leases_of(op: &Op) -> &[Lease] {
    match op {
        Op::Complete(lease) => std::slice::from_ref(lease),
        Op::CompleteMany(leases) => leases,
        _ => &[],
    }
}

fn enqueue(tx: &mut Tx<'_>, served: &mut Served) -> Result<()> {
    let jobs: Vec<&NewJob> = ops(served).flat_map(jobs_of).collect();
    let mut added = job::enqueue_all(tx, &jobs)?.into_iter();
    for (_, work) in served.iter_mut().filter(|(checked, _)| checked.is_ok()) {
        let count = |op: &Op| Outcome::Enqueued(added.by_ref().take(jobs_of(op).len()).collect());
        work.receipt = Some(Receipt { outcomes: work.commit.ops().iter().map(count).collect() });
    }
    Ok(())
}

fn complete(tx: &mut Tx<'_>, served: &mut Served) -> Result<()> {
    let leases: Vec<_> = ops(served).flat_map(leases_of).copied().collect();
    let held = apply::complete(tx, &leases)?;
    let mut held = held.as_slice();
    for (checked, work) in served.iter_mut().filter(|(checked, _)| checked.is_ok()) {
        let outcome = match work.commit.ops() {
            [Op::Complete(lease)] => apply::ended_one(*lease, held.split_off(..1).unwrap_or_default()),
            [Op::CompleteMany(leases)] => {
                Ok(apply::ended_many(leases, held.split_off(..leases.len()).unwrap_or_default()))
            }
            _ => continue,
        };
        match outcome {
            Ok(outcome) => work.receipt = Some(Receipt { outcomes: vec![outcome] }),
            Err(lost) => *checked = Err(lost),
        }
    }
    Ok(())
}
