//! What each operation of a commit does.

use std::collections::BTreeSet;

use selvedge_core::{
    Commit, Error, Result,
    store::{Lease, LeaseTarget, Op, Outcome, Receipt},
};

use crate::{
    cron, fact, intent, job, key, outbox, topic,
    tx::{Tx, get, params},
};

/// Applies a commit that was checked.
pub(crate) async fn apply(tx: &mut Tx<'_>, commit: &Commit) -> Result<Receipt> {
    lock_order(tx, commit).await?;
    let mut outcomes = Vec::with_capacity(commit.ops().len());
    for op in commit.ops() {
        outcomes.push(apply_op(tx, op).await?);
    }
    Ok(Receipt { outcomes })
}

async fn apply_op(tx: &mut Tx<'_>, op: &Op) -> Result<Outcome> {
    match op {
        Op::Enqueue(jobs) => job::enqueue(tx, jobs).await,
        Op::Complete(lease) => {
            let lost = complete(tx, std::slice::from_ref(lease)).await?;
            if lost.is_empty() { Ok(Outcome::Done) } else { Err(lease.lost()) }
        }
        Op::CompleteMany(leases) => Ok(Outcome::Completed { lost: complete(tx, leases).await? }),
        Op::Fail { lease, reason, retry } => match lease.target {
            LeaseTarget::Job => job::fail(tx, *lease, reason, *retry).await,
            LeaseTarget::Event => outbox::fail(tx, *lease, reason, *retry).await,
        },
        Op::Release { lease, delay } => match lease.target {
            LeaseTarget::Job => job::release(tx, *lease, *delay).await,
            LeaseTarget::Event => outbox::release(tx, *lease, *delay).await,
        },
        Op::Extend { lease, hold } => match lease.target {
            LeaseTarget::Job => job::extend(tx, *lease, *hold).await,
            LeaseTarget::Event => outbox::extend(tx, *lease, *hold).await,
        },
        Op::Checkpoint { lease, data } => job::checkpoint(tx, *lease, data).await,
        Op::Cancel(id) => job::cancel(tx, *id).await,
        Op::Revive(id) => job::revive(tx, *id).await,
        Op::Pause(queue) => job::pause(tx, queue, true).await,
        Op::Resume(queue) => job::pause(tx, queue, false).await,
        Op::Limit { queue, limits } => job::limit(tx, queue, *limits).await,
        Op::Schedule(schedule) => cron::schedule(tx, schedule).await,
        Op::Unschedule(name) => cron::unschedule(tx, name).await,
        Op::Emit(event) => outbox::emit(tx, event).await,
        Op::ReviveEvent(id) => outbox::revive(tx, *id).await,
        Op::DropEvent(id) => outbox::drop_dead(tx, *id).await,
        Op::Submit(wanted) => intent::submit(tx, wanted).await,
        Op::Answer { intent: id, answer } => intent::answer(tx, *id, answer).await,
        Op::Publish { topic: name, payload } => topic::publish(tx, name, payload).await,
        Op::Settle { ticket, answer } => key::settle(tx, ticket, answer).await,
        Op::Advance { ticket, point } => key::advance(tx, ticket, point).await,
        Op::Abandon(ticket) => key::abandon(tx, ticket).await,
        Op::Assign(assignment) => fact::assign(tx, assignment).await,
        Op::Record(wanted) => fact::record(tx, wanted).await,
        // `Op` may grow; an operation this build does not know must not be dropped in silence.
        _ => Err(Error::unsupported("postgres", "store.commit")),
    }
}

/// Ends what is leased; the leases that were not held.
async fn complete(tx: &mut Tx<'_>, leases: &[Lease]) -> Result<Vec<Lease>> {
    let of = |target: LeaseTarget| leases.iter().copied().filter(move |lease| lease.target == target);
    let jobs: Vec<_> = of(LeaseTarget::Job).collect();
    let held = job::complete(tx, &jobs, Some(tx.now.0)).await?;
    let mut lost: Vec<_> = jobs.into_iter().zip(held).filter_map(|(lease, held)| (!held).then_some(lease)).collect();
    for lease in of(LeaseTarget::Event) {
        if !outbox::complete(tx, lease).await? {
            lost.push(lease);
        }
    }
    Ok(lost)
}

/// Takes the locks that keep events of one aggregate, and messages of one topic, in the order of their commits. All at once
/// and in one order, so that two commits never wait for each other.
async fn lock_order(tx: &Tx<'_>, commit: &Commit) -> Result<()> {
    let mut aggregates = BTreeSet::new();
    let mut topics = BTreeSet::new();
    let (mut events, mut dropped) = (Vec::new(), Vec::new());
    for op in commit.ops() {
        match op {
            Op::Emit(event) => drop(aggregates.insert(event.aggregate.clone())),
            Op::DropEvent(id) => dropped.push(*id),
            Op::Publish { topic, .. } => drop(topics.insert(topic.as_str())),
            Op::Complete(lease) => events.push(*lease),
            Op::CompleteMany(leases) => events.extend(leases),
            _ => (),
        }
    }
    events.retain(|lease| lease.target == LeaseTarget::Event);
    if !events.is_empty() {
        let ids = events.iter().map(|lease| lease.id).collect::<Vec<_>>();
        let sql = "SELECT aggregate FROM selvedge.outbox WHERE id = ANY($1)";
        aggregates.extend(tx.all(sql, params![ids], |row| get::<String>(row, 0)).await?);
    }
    if !dropped.is_empty() {
        let sql = "SELECT aggregate FROM selvedge.outbox WHERE event_id = ANY($1)";
        aggregates.extend(tx.all(sql, params![dropped], |row| get::<String>(row, 0)).await?);
    }
    // A single topic's own row is lock enough.
    if topics.len() == 1 {
        topics.clear();
    }
    if aggregates.is_empty() && topics.is_empty() {
        return Ok(());
    }
    let schema = tx.schema.name();
    let aggregates = aggregates.iter().map(|name| format!("{schema}\u{1}aggregate\u{1}{name}"));
    let names: Vec<String> =
        aggregates.chain(topics.iter().map(|name| format!("{schema}\u{1}topic\u{1}{name}"))).collect();
    let sql = "SELECT pg_advisory_xact_lock(lock) FROM (
                 SELECT DISTINCT hashtextextended(name, 0) AS lock FROM unnest($1::text[]) AS named (name) ORDER BY 1
               ) AS ordered";
    tx.run(sql, params![names]).await.map(drop)
}
