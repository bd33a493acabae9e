//! What each operation of a commit does.

use rusqlite::Transaction;
use selvedge_core::store::hub::Signals;
use selvedge_core::{
    Commit, Error, Result, Timestamp,
    store::{Lease, LeaseTarget, Op, Outcome, Receipt},
};

use crate::{cron, fact, intent, job, key, outbox, topic, tx::Tx};

/// Applies a commit within a transaction of your own, on a connection of your own to the Store's file: its operations
/// become true when you commit, together with what else you wrote.
///
/// Begin the transaction with `BEGIN IMMEDIATE`. Through a [`SqliteStore`](crate::SqliteStore) you already have,
/// [`commit_with`](crate::SqliteStore::commit_with) does the same and shares its flushes. Watchers, in this process too,
/// notice the commit when they poll for other connections' writes.
///
/// ```
/// use selvedge_core::{Commit, Timestamp, store::NewJob};
/// use selvedge_sqlite::SqliteStore;
///
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let path = folder.path().join("app.db");
/// let store = SqliteStore::open(&path)?;
/// let mut own = rusqlite::Connection::open(&path).expect("opens");
/// let tx = own.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).expect("begins");
/// tx.execute("CREATE TABLE cart (id INTEGER PRIMARY KEY)", []).expect("creates");
/// let receipt = selvedge_sqlite::apply(&tx, &Commit::new().enqueue([NewJob::new("charge", "{}")]), Timestamp::now())?;
/// tx.commit().expect("commits");
/// assert_eq!(receipt.jobs().count(), 1);
/// # Ok::<(), selvedge_core::Error>(())
/// ```
///
/// # Errors
/// Those of [`Store::commit`](selvedge_core::Store::commit). Roll your transaction back: a part of the commit may be in it.
pub fn apply(tx: &Transaction<'_>, commit: &Commit, now: Timestamp) -> Result<Receipt> {
    commit.check()?;
    apply_checked(&mut Tx { conn: tx, now, signals: &mut Signals::muted() }, commit)
}

/// Applies a commit that was checked.
pub(crate) fn apply_checked(tx: &mut Tx<'_>, commit: &Commit) -> Result<Receipt> {
    let outcomes = commit.ops().iter().map(|op| apply_op(tx, op)).collect::<Result<_>>()?;
    Ok(Receipt { outcomes })
}

fn apply_op(tx: &mut Tx<'_>, op: &Op) -> Result<Outcome> {
    match op {
        Op::Enqueue(jobs) => {
            let jobs: Vec<_> = jobs.iter().collect();
            Ok(Outcome::Enqueued(job::enqueue_all(tx, &jobs)?))
        }
        Op::Complete(lease) => {
            let held = complete(tx, std::slice::from_ref(lease))?;
            ended_one(*lease, &held)
        }
        Op::CompleteMany(leases) => Ok(ended_many(leases, &complete(tx, leases)?)),
        Op::Fail { lease, reason, retry } => match lease.target {
            LeaseTarget::Job => job::fail(tx, *lease, reason, *retry),
            LeaseTarget::Event => outbox::fail(tx, *lease, reason, *retry),
        },
        Op::Release { lease, delay } => match lease.target {
            LeaseTarget::Job => job::release(tx, *lease, *delay),
            LeaseTarget::Event => outbox::release(tx, *lease, *delay),
        },
        Op::Extend { lease, hold } => match lease.target {
            LeaseTarget::Job => job::extend(tx, *lease, *hold),
            LeaseTarget::Event => outbox::extend(tx, *lease, *hold),
        },
        Op::Checkpoint { lease, data } => job::checkpoint(tx, *lease, data),
        Op::Cancel(id) => job::cancel(tx, *id),
        Op::Revive(id) => job::revive(tx, *id),
        Op::Pause(queue) => job::pause(tx, queue, true),
        Op::Resume(queue) => job::pause(tx, queue, false),
        Op::Limit { queue, limits } => job::limit(tx, queue, *limits),
        Op::Schedule(schedule) => cron::schedule(tx, schedule),
        Op::Unschedule(name) => cron::unschedule(tx, name),
        Op::Emit(event) => outbox::emit(tx, event),
        Op::ReviveEvent(id) => outbox::revive(tx, *id),
        Op::DropEvent(id) => outbox::drop_dead(tx, *id),
        Op::Submit(wanted) => intent::submit(tx, wanted),
        Op::Answer { intent: id, answer } => intent::answer(tx, *id, answer),
        Op::Publish { topic: name, payload } => topic::publish(tx, name, payload),
        Op::Settle { ticket, answer } => key::settle(tx, ticket, answer),
        Op::Advance { ticket, point } => key::advance(tx, ticket, point),
        Op::Abandon(ticket) => key::abandon(tx, ticket),
        Op::Assign(assignment) => fact::assign(tx, assignment),
        Op::Record(wanted) => fact::record(tx, wanted),
        // `Op` may grow; an operation this build does not know must not be dropped in silence.
        _ => Err(Error::unsupported("sqlite", "store.commit")),
    }
}

/// Ends what is leased; for each lease, whether it was held.
pub(crate) fn complete(tx: &mut Tx<'_>, leases: &[Lease]) -> Result<Vec<bool>> {
    let mut held = job::complete(tx, leases)?;
    for (lease, held) in leases.iter().zip(&mut held) {
        if lease.target == LeaseTarget::Event {
            *held = outbox::complete(tx, *lease)?;
        }
    }
    Ok(held)
}

/// What came of `Op::Complete`.
pub(crate) fn ended_one(lease: Lease, held: &[bool]) -> Result<Outcome> {
    if held == [true] { Ok(Outcome::Done) } else { Err(lease.lost()) }
}

/// What came of `Op::CompleteMany`.
pub(crate) fn ended_many(leases: &[Lease], held: &[bool]) -> Outcome {
    let lost = leases.iter().zip(held).filter(|(_, held)| !**held).map(|(lease, _)| *lease).collect();
    Outcome::Completed { lost }
}
