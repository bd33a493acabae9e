//! A commit is true all together or not at all, and bad input changes nothing.

use std::time::Duration;

use selvedge_core::{
    Commit, ErrorKind, Intent, Store,
    idempotency::{Answer, RecoveryPoint},
    store::{
        Cron, Event, Fact, IntentFilter, JobFilter, Lease, LeaseTarget, LeasedEvent, Limits, NewJob, Op, Outcome,
        Retry, Rows, StickyAssignment, StoreExt,
    },
};

use super::Bed;
use crate::suite::{Checked, cases, needs, refused, same};

cases! {
    a_commit_does_all_its_operations: "A commit of many kinds does them all, with one outcome each, in order.",
    a_bad_operation_undoes_all_before_it: "When one operation fails, nothing of its commit is visible, wherever in the commit it stands.",
    each_kind_of_operation_can_be_undone: "Every kind of operation is undone when a later one of its commit fails.",
    each_operation_that_can_fail_undoes_the_commit: "Every kind of operation that can fail undoes the good ones before it.",
    later_operations_see_earlier_ones: "Operations of a commit see what those before them did.",
    commits_that_race_are_not_mixed: "Commits that run at one moment are each whole: readers see all of one or nothing.",
    an_empty_commit_is_fine: "A commit without operations succeeds with no outcome.",
    bad_names_are_refused: "Names that are empty, too long or have control characters are `InvalidInput`, and nothing changes.",
    too_large_is_refused: "A payload beyond the limit is `TooLarge`, and nothing changes.",
    a_cancelled_or_late_call_is_refused: "A context that is cancelled or past its deadline is refused before anything happens.",
}

impl Bed {
    /// Everything that can be read, to compare before and after.
    async fn everything(&self) -> anyhow::Result<Vec<Rows>> {
        use selvedge_core::store::Query;
        let mut queries = Vec::new();
        if self.can.jobs {
            let all = JobFilter { limit: 1000, ..JobFilter::default() };
            queries.extend([Query::Jobs(all), Query::Queues, Query::Schedules]);
        }
        if self.can.outbox {
            let intents = IntentFilter { limit: 1000, ..IntentFilter::default() };
            queries.extend([Query::Outbox { dead: false, after: None, limit: 1000 }, Query::Intents(intents)]);
        }
        if self.can.topics {
            queries.push(Query::Messages { topic: "t".into(), after: 0, limit: 1000 });
        }
        if self.can.facts {
            queries.push(Query::Assignment { subject: "s".into(), experiment: "e".into() });
            queries.push(Query::Facts { name: None, after: 0, limit: 1000 });
        }
        let mut all = Vec::new();
        for query in queries {
            all.push(self.store()?.read(&self.cx, query).await?);
        }
        Ok(all)
    }

    /// One operation of each kind the plugin can do, all of which would succeed.
    async fn good_operations(&self) -> anyhow::Result<Vec<Op>> {
        let mut ops = Vec::new();
        if self.can.jobs {
            self.enqueue((0..12).map(|_| NewJob::new("work", ""))).await?;
            let held: Vec<_> = self.lease("work", 7).await?.into_iter().map(|job| job.lease).collect();
            let waiting = self.enqueue([NewJob::new("waiting", "")]).await?[0];
            let dead = self.enqueue([NewJob::new("dying", "")]).await?[0];
            let dying = self.lease_one("dying").await?.lease;
            self.commit(Commit::new().fail(dying, "x", Retry::Never)).await?;
            self.commit(Commit::new().schedule(Cron::new("old", "0 0 * * *", NewJob::new("q", ""))?)).await?;
            self.commit(Commit::new().pause("paused")).await?;
            ops.extend([
                Op::Enqueue(vec![NewJob::new("q", ""), NewJob::new("q", "").unique("u")]),
                Op::Complete(held[0]),
                Op::CompleteMany(vec![held[1], held[2]]),
                Op::Fail { lease: held[3], reason: "x".into(), retry: Retry::Backoff },
                Op::Release { lease: held[4], delay: Duration::ZERO },
                Op::Extend { lease: held[5], hold: Duration::from_secs(3000) },
                Op::Checkpoint { lease: held[6], data: "kept".into() },
                Op::Cancel(waiting),
                Op::Revive(dead),
                Op::Pause("waiting".into()),
                Op::Resume("paused".into()),
                Op::Limit { queue: "work".into(), limits: Limits { queue: Some(1), tenant: None } },
                Op::Schedule(Cron::new("new", "0 0 * * *", NewJob::new("q", ""))?),
                Op::Unschedule("old".into()),
            ]);
        }
        if self.can.outbox {
            let known = Intent::new("known", "{}");
            let dead = ["c", "d"].map(|aggregate| Event::new(aggregate, "t", ""));
            self.commit(dead.iter().cloned().fold(Commit::new(), Commit::emit)).await?;
            let die = |commit: Commit, event: LeasedEvent| commit.fail(event.lease, "x", Retry::Never);
            self.commit(self.relay(2).await?.into_iter().fold(Commit::new(), die)).await?;
            self.commit(
                Commit::new().submit(known.clone()).emit(Event::new("a", "t", "")).emit(Event::new("b", "t", "")),
            )
            .await?;
            let leases: Vec<_> = self.relay(2).await?.into_iter().map(|event| event.lease).collect();
            ops.extend([
                Op::Emit(Event::new("a", "t", "new")),
                Op::ReviveEvent(dead[0].id),
                Op::DropEvent(dead[1].id),
                Op::Submit(Intent::new("new", "{}")),
                Op::Answer { intent: known.id, answer: Answer::json(200, "{}") },
                Op::Complete(leases[0]),
                Op::Fail { lease: leases[1], reason: "x".into(), retry: Retry::Never },
            ]);
        }
        if self.can.topics {
            ops.push(Op::Publish { topic: "t".into(), payload: "new".into() });
        }
        if self.can.idempotency {
            let (one, two) = (self.fresh("one").await?, self.fresh("two").await?);
            let point = RecoveryPoint { name: "p".into(), data: "".into() };
            ops.extend([
                Op::Advance { ticket: one.clone(), point },
                Op::Settle { ticket: one, answer: Answer::json(200, "{}") },
                Op::Abandon(two),
            ]);
        }
        if self.can.facts {
            ops.extend([Op::Assign(sticky("v")), Op::Record(Fact::new("n", "s", "{}"))]);
        }
        Ok(ops)
    }

    /// One operation of each kind that fails, with the error it must give.
    async fn bad_operations(&self) -> anyhow::Result<Vec<(Op, ErrorKind)>> {
        let lost = |target| Lease { target, id: i64::MAX, token: 7 };
        let (job, event) = (lost(LeaseTarget::Job), lost(LeaseTarget::Event));
        let mut ops = Vec::new();
        if self.can.jobs {
            ops.extend([
                (Op::Complete(job), ErrorKind::LeaseLost),
                (Op::Fail { lease: job, reason: "x".into(), retry: Retry::Backoff }, ErrorKind::LeaseLost),
                (Op::Release { lease: job, delay: Duration::ZERO }, ErrorKind::LeaseLost),
                (Op::Extend { lease: job, hold: Duration::from_secs(1) }, ErrorKind::LeaseLost),
                (Op::Checkpoint { lease: job, data: "".into() }, ErrorKind::LeaseLost),
                (Op::Cancel(selvedge_core::store::JobId(i64::MAX)), ErrorKind::NotFound),
            ]);
        }
        if self.can.outbox {
            let answer = Answer::json(200, "");
            ops.extend([
                (Op::Complete(event), ErrorKind::LeaseLost),
                (Op::Fail { lease: event, reason: "x".into(), retry: Retry::Backoff }, ErrorKind::LeaseLost),
                (Op::Answer { intent: uuid::Uuid::now_v7(), answer }, ErrorKind::NotFound),
            ]);
        }
        if self.can.idempotency {
            let ticket = self.fresh("settled").await?;
            self.commit(Commit::new().settle(ticket.clone(), Answer::json(200, ""))).await?;
            let point = RecoveryPoint { name: "p".into(), data: "".into() };
            ops.extend([
                (Op::Settle { ticket: ticket.clone(), answer: Answer::json(201, "") }, ErrorKind::LeaseLost),
                (Op::Advance { ticket: ticket.clone(), point }, ErrorKind::LeaseLost),
                (Op::Abandon(ticket), ErrorKind::LeaseLost),
            ]);
        }
        Ok(ops)
    }
}

fn sticky(variation: &str) -> StickyAssignment {
    StickyAssignment { subject: "s".into(), experiment: "e".into(), variation: variation.into(), version: 1 }
}

fn commit_of(ops: impl IntoIterator<Item = Op>) -> Commit {
    ops.into_iter().fold(Commit::new(), Commit::op)
}

async fn a_commit_does_all_its_operations(bed: &Bed) -> Checked {
    let ops = bed.good_operations().await?;
    let before = bed.everything().await?;
    let receipt = bed.commit(commit_of(ops.clone())).await?;
    same!(receipt.outcomes.len(), ops.len());
    for (op, outcome) in ops.iter().zip(&receipt.outcomes) {
        let fits = match op {
            Op::Enqueue(jobs) => matches!(outcome, Outcome::Enqueued(refs) if refs.len() == jobs.len()),
            Op::CompleteMany(_) => matches!(outcome, Outcome::Completed { lost } if lost.is_empty()),
            Op::Fail { .. } => matches!(outcome, Outcome::Failed { .. }),
            Op::Extend { .. } => matches!(outcome, Outcome::Extended { .. }),
            Op::Cancel(_) => *outcome == Outcome::Cancelled { at_once: true },
            Op::Revive(_) | Op::ReviveEvent(_) => *outcome == Outcome::Revived(true),
            Op::DropEvent(_) => *outcome == Outcome::Dropped(true),
            Op::Submit(_) => *outcome == Outcome::Submitted { duplicate: false },
            Op::Publish { .. } => matches!(outcome, Outcome::Published { .. }),
            Op::Assign(_) => matches!(outcome, Outcome::Assigned(_)),
            Op::Record(_) => *outcome == Outcome::Recorded { duplicate: false },
            _ => *outcome == Outcome::Done,
        };
        anyhow::ensure!(fits, "found {outcome:?} for {op:?}");
    }
    let after = bed.everything().await?;
    for (before, after) in before.iter().zip(&after) {
        anyhow::ensure!(before != after, "the commit did not change {before:?}");
    }
    Ok(())
}

async fn a_bad_operation_undoes_all_before_it(bed: &Bed) -> Checked {
    let ops = bed.good_operations().await?;
    let Some((bad, kind)) = bed.bad_operations().await?.into_iter().next() else {
        return needs(false, "an operation that can fail");
    };
    let before = bed.everything().await?;
    for place in [0, ops.len() / 2, ops.len()] {
        let mut ops = ops.clone();
        ops.insert(place, bad.clone());
        let error = bed.try_commit(commit_of(ops)).await.map_err(|error| error.kind());
        same!(error, Err(kind), "with the bad operation at place {place}");
        same!(bed.everything().await?, before, "what is visible of a commit that failed at place {place}");
    }
    // Nothing is left of the failed commits that could get in the way of the same operations now.
    bed.commit(commit_of(ops)).await?;
    Ok(())
}

async fn each_kind_of_operation_can_be_undone(bed: &Bed) -> Checked {
    let ops = bed.good_operations().await?;
    let Some((bad, kind)) = bed.bad_operations().await?.into_iter().next() else {
        return needs(false, "an operation that can fail");
    };
    let before = bed.everything().await?;
    for op in ops {
        let commit = Commit::new().op(op.clone()).op(bad.clone());
        same!(bed.try_commit(commit).await.map_err(|error| error.kind()), Err(kind), "after {op:?}");
        same!(bed.everything().await?, before, "what is visible of {op:?}");
    }
    Ok(())
}

async fn each_operation_that_can_fail_undoes_the_commit(bed: &Bed) -> Checked {
    let good = bed.good_operations().await?;
    let bad = bed.bad_operations().await?;
    let before = bed.everything().await?;
    for (op, kind) in bad {
        let commit = commit_of(good.iter().cloned().chain([op.clone()]));
        same!(bed.try_commit(commit).await.map_err(|error| error.kind()), Err(kind), "of {op:?}");
        same!(bed.everything().await?, before, "what is visible before {op:?}");
    }
    Ok(())
}

async fn later_operations_see_earlier_ones(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let job = || NewJob::new("q", "").unique("k");
    let receipt = bed.commit(Commit::new().enqueue([job()]).enqueue([job()])).await?;
    same!(receipt.jobs().map(|job| job.duplicate).collect::<Vec<_>>(), vec![false, true]);
    let lease = bed.lease_one("q").await?.lease;
    let receipt = bed.commit(Commit::new().complete(lease).enqueue([job()])).await?;
    same!(receipt.jobs().map(|job| job.duplicate).collect::<Vec<_>>(), vec![false]);
    let lease = bed.lease_one("q").await?.lease;
    refused!(bed.try_commit(Commit::new().complete(lease).extend(lease, Duration::from_secs(1))).await, LeaseLost);
    Ok(())
}

async fn commits_that_race_are_not_mixed(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let store = bed.store()?;
    let done = crate::suite::race(8, |task| {
        let (store, cx) = (store.clone(), bed.cx.clone());
        async move {
            for round in 0..10 {
                if task % 2 == 0 {
                    let trio = |part| NewJob::new(format!("q{part}"), "").unique(format!("{task}-{round}"));
                    let lost = Lease { target: LeaseTarget::Job, id: i64::MAX, token: 7 };
                    let commit = Commit::new().enqueue([trio(0)]).enqueue([trio(1)]).enqueue([trio(2)]);
                    let commit = if round % 3 == 0 { commit.complete(lost) } else { commit };
                    same!(store.commit(&cx, commit).await.is_err(), round % 3 == 0);
                } else {
                    // One read is one moment: the queues' depths must be equal in it.
                    let stats = store.queues(&cx).await?;
                    let ready: Vec<_> = (0..3)
                        .map(|part| {
                            stats.iter().filter(|s| s.queue == format!("q{part}")).map(|s| s.ready).sum::<u64>()
                        })
                        .collect();
                    anyhow::ensure!(ready.iter().all(|n| *n == ready[0]), "a commit was seen in part: {ready:?}");
                }
            }
            Ok(())
        }
    });
    done.await?;
    same!(bed.lease("q2", 1000).await?.len(), 4 * 6);
    Ok(())
}

async fn an_empty_commit_is_fine(bed: &Bed) -> Checked {
    same!(bed.commit(Commit::new()).await?.outcomes.len(), 0);
    Ok(())
}

async fn bad_names_are_refused(bed: &Bed) -> Checked {
    let long = "x".repeat(NewJob::MAX_NAME + 1);
    let before = bed.everything().await?;
    for bad in ["", "a\0b", "a\nb", long.as_str()] {
        let mut commits = Vec::new();
        if bed.can.jobs {
            let good = || NewJob::new("q", "");
            commits.extend([
                Commit::new().enqueue([good(), NewJob::new(bad, "")]),
                Commit::new().enqueue([good(), good().tenant(bad)]),
                Commit::new().enqueue([good(), good().unique(bad)]),
                Commit::new().enqueue([good(), good().max_attempts(0)]),
                Commit::new().enqueue([good()]).pause(bad),
                Commit::new().enqueue([good()]).limit(bad, Limits::default()),
            ]);
        }
        if bed.can.outbox {
            commits.push(Commit::new().emit(Event::new(bad, "t", "")));
            commits.push(Commit::new().emit(Event::new("a", bad, "")));
            commits.push(Commit::new().submit(Intent::new("op", "not json")));
        }
        if bed.can.topics {
            commits.push(Commit::new().publish(bad, ""));
        }
        if bed.can.facts {
            commits.push(Commit::new().assign(sticky(bad)));
            commits.push(Commit::new().record(Fact::new(bad, "s", "")));
        }
        for commit in commits {
            refused!(bed.try_commit(commit).await, InvalidInput);
        }
    }
    same!(bed.everything().await?, before, "what is visible of refused commits");
    let longest = "x".repeat(NewJob::MAX_NAME);
    if bed.can.jobs {
        bed.enqueue([NewJob::new(&longest, "").tenant(&longest).unique(&longest)]).await?;
        same!(bed.lease_one(&longest).await?.tenant, Some(longest), "the longest name");
    }
    Ok(())
}

async fn too_large_is_refused(bed: &Bed) -> Checked {
    let large = vec![0; NewJob::MAX_PAYLOAD + 1];
    let before = bed.everything().await?;
    if bed.can.jobs {
        let commit = Commit::new().enqueue([NewJob::new("q", ""), NewJob::new("q", large.clone())]);
        refused!(bed.try_commit(commit).await, TooLarge);
    }
    if bed.can.outbox {
        refused!(bed.try_commit(Commit::new().emit(Event::new("a", "t", large.clone()))).await, TooLarge);
    }
    if bed.can.topics {
        refused!(bed.try_commit(Commit::new().publish("t", large)).await, TooLarge);
    }
    same!(bed.everything().await?, before, "what is visible of refused commits");
    Ok(())
}

async fn a_cancelled_or_late_call_is_refused(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let cancelled = selvedge_core::Context::new();
    cancelled.cancel().cancel();
    let late = selvedge_core::Context::new().with_deadline(std::time::Instant::now());
    let commit = || Commit::new().enqueue([NewJob::new("q", "")]);
    // Without layers, which would refuse in the plugin's stead.
    drop(bed.keep(None));
    let store = bed.home.open().await?;
    refused!(store.commit(&cancelled, commit()).await, Cancelled);
    refused!(store.commit(&late, commit()).await, DeadlineExceeded);
    refused!(store.lease(&cancelled, selvedge_core::store::LeaseRequest::new("q", 1)).await, Cancelled);
    let left = store.lease(&bed.cx, selvedge_core::store::LeaseRequest::new("q", 1)).await?;
    same!(left.len(), 0, "jobs of refused commits");
    Ok(())
}
