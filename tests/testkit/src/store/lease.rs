//! Leases: each job to one worker, and only while the lease holds.

use std::{collections::BTreeMap, time::Duration};

use selvedge_core::{
    Commit, Store,
    store::{JobState, LeaseRequest, NewJob, Outcome, Retry, StoreExt},
};

use super::Bed;
use crate::suite::{Checked, cases, needs, race, refused, same};

cases! {
    a_second_worker_gets_none_of_them: "A job under lease is leased to nobody else.",
    workers_that_race_get_each_job_once: "However many workers race, each job is leased exactly once.",
    a_lost_lease_can_do_nothing: "Complete, fail, release, extend and checkpoint with a lost lease fail with `LeaseLost`, and nothing of their commit is visible.",
    a_finished_lease_is_lost: "A lease that was completed cannot be used again.",
    an_expired_lease_is_lost_before_anybody_rescues_it: "A lease ends at its time, whether or not somebody has noticed.",
    another_lease_has_another_token: "Every lease of a job has a token of its own.",
    complete_many_reports_what_was_lost: "`CompleteMany` completes what is held and reports the rest.",
    maintain_rescues_expired_leases: "`maintain` makes a job whose lease ran out ready again, and counts it.",
    a_lease_rescues_expired_leases: "A job whose lease ran out can be leased again without `maintain`.",
    what_becomes_ready_behind_all_others_is_found_at_once: "Under a given clock, a job that becomes ready before where leases have come to is in the next lease, however long looking for it takes.",
    a_lease_on_the_last_attempt_that_runs_out_is_a_dead_letter: "A job whose last lease ran out is dead, not lost and not run again.",
    extending_keeps_a_lease: "An extended lease holds until its new end and no longer.",
    an_extension_that_ends_sooner_ends_the_lease_then: "A lease that is extended to an earlier moment than it had, by one who knows that he will be done, is given back at that moment.",
    a_clock_that_steps_back_ends_leases: "A lease granted in the future of the clock is over: it cannot last for as long as the step.",
    a_leased_job_brings_everything_along: "A leased job has the payload, priority, tenant, trace and counts it was enqueued with.",
    a_lease_survives_a_restart: "A lease taken before a crash still holds after it.",
}

async fn a_second_worker_gets_none_of_them(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue((0..10).map(|n| NewJob::new("q", vec![n]))).await?;
    same!(bed.lease("q", 10).await?.len(), 10);
    same!(bed.lease("q", 10).await?.len(), 0);
    Ok(())
}

async fn workers_that_race_get_each_job_once(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    const JOBS: usize = 200;
    bed.enqueue((0..JOBS).map(|_| NewJob::new("q", ""))).await?;
    let store = bed.store()?;
    let leased = race(8, |worker| {
        let (store, cx) = (store.clone(), bed.cx.clone());
        async move {
            let mut mine = Vec::new();
            loop {
                let jobs = store.lease(&cx, LeaseRequest::new("q", 1 + worker % 4)).await?;
                if jobs.is_empty() {
                    return Ok(mine);
                }
                mine.extend(jobs.into_iter().map(|job| job.id));
            }
        }
    });
    let mut times = BTreeMap::<_, usize>::new();
    for job in leased.await?.into_iter().flatten() {
        *times.entry(job).or_default() += 1;
    }
    same!(times.len(), JOBS, "how many jobs were leased");
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times != 1).collect();
    same!(twice.len(), 0, "jobs leased more than once: {twice:?}");
    Ok(())
}

async fn a_lost_lease_can_do_nothing(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let id = bed.enqueue([NewJob::new("q", "")]).await?[0];
    let lost = bed.lease_one("q").await?.lease;
    bed.pass(Duration::from_secs(31))?;
    let held = bed.lease_one("q").await?.lease;
    let commits = [
        Commit::new().complete(lost),
        Commit::new().fail(lost, "late", Retry::Never),
        Commit::new().release(lost, Duration::ZERO),
        Commit::new().extend(lost, Duration::from_secs(60)),
        Commit::new().checkpoint(lost, "late"),
    ];
    for late in commits {
        refused!(bed.try_commit(Commit::new().enqueue([NewJob::new("effect", "")]).and(late.clone())).await, LeaseLost);
        refused!(bed.try_commit(late.enqueue([NewJob::new("effect", "")])).await, LeaseLost);
    }
    same!(bed.lease("effect", 10).await?.len(), 0, "effects of a lost lease");
    let job = bed.store()?.job(&bed.cx, id).await?.ok_or_else(|| anyhow::anyhow!("the job is gone"))?;
    same!((job.state, job.attempt, job.checkpoint), (JobState::Running, 2, None));
    bed.commit(Commit::new().complete(held)).await?;
    Ok(())
}

async fn a_finished_lease_is_lost(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", "")]).await?;
    let lease = bed.lease_one("q").await?.lease;
    bed.commit(Commit::new().complete(lease)).await?;
    refused!(bed.try_commit(Commit::new().complete(lease)).await, LeaseLost);
    bed.enqueue([NewJob::new("q", "")]).await?;
    let lease = bed.lease_one("q").await?.lease;
    bed.commit(Commit::new().release(lease, Duration::ZERO)).await?;
    refused!(bed.try_commit(Commit::new().complete(lease)).await, LeaseLost);
    let lease = bed.lease_one("q").await?.lease;
    refused!(bed.try_commit(Commit::new().complete(lease).complete(lease)).await, LeaseLost);
    bed.commit(Commit::new().complete(lease)).await?;
    Ok(())
}

async fn an_expired_lease_is_lost_before_anybody_rescues_it(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", "")]).await?;
    let lease = bed.lease_one("q").await?.lease;
    bed.pass(Duration::from_secs(30))?;
    refused!(bed.try_commit(Commit::new().complete(lease)).await, LeaseLost);
    same!(bed.lease("q", 1).await?.len(), 1, "jobs that can be leased again");
    Ok(())
}

async fn another_lease_has_another_token(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", "")]).await?;
    let mut tokens = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let job = bed.lease_one("q").await?;
        anyhow::ensure!(tokens.insert(job.lease.token), "token {} was given twice", job.lease.token);
        bed.commit(Commit::new().release(job.lease, Duration::ZERO)).await?;
    }
    Ok(())
}

async fn complete_many_reports_what_was_lost(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue((0..4).map(|_| NewJob::new("q", ""))).await?;
    let leases: Vec<_> = bed.lease("q", 4).await?.into_iter().map(|job| job.lease).collect();
    bed.commit(Commit::new().release(leases[1], Duration::ZERO)).await?;
    let receipt = bed.commit(Commit::new().complete_many(leases.clone())).await?;
    same!(receipt.outcomes, vec![Outcome::Completed { lost: vec![leases[1]] }]);
    same!(bed.lease("q", 4).await?.len(), 1, "jobs left");
    Ok(())
}

async fn maintain_rescues_expired_leases(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let ids = bed.enqueue((0..3).map(|_| NewJob::new("q", ""))).await?;
    bed.lease("q", 3).await?;
    bed.pass(Duration::from_secs(29))?;
    same!(bed.maintain().await?.rescued, 0, "rescued too early");
    bed.pass(Duration::from_secs(2))?;
    same!(bed.maintain().await?.rescued, 3);
    for id in ids {
        let job = bed.store()?.job(&bed.cx, id).await?.ok_or_else(|| anyhow::anyhow!("job {id} is gone"))?;
        same!((job.state, job.attempt, job.leased_until, job.owner), (JobState::Ready, 1, None, None));
    }
    Ok(())
}

async fn a_lease_rescues_expired_leases(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", "")]).await?;
    same!(bed.lease_one("q").await?.attempt, 1);
    bed.pass(Duration::from_secs(31))?;
    same!(bed.lease_one("q").await?.attempt, 2);
    Ok(())
}

async fn what_becomes_ready_behind_all_others_is_found_at_once(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    const LEVELS: i16 = 3000;
    let store = bed.store()?;
    let first = bed.enqueue([NewJob::new("q", "").priority(-1)]).await?[0];
    let short = LeaseRequest::new("q", 1).hold(Duration::from_millis(500));
    same!(store.lease(&bed.cx, short).await?.len(), 1);
    // A Store that looks for ready jobs priority by priority has much to look at, and might do it rarely.
    bed.enqueue((0..LEVELS).map(|level| NewJob::new("q", "").priority(level))).await?;
    let long = LeaseRequest::new("q", LEVELS as usize).hold(Duration::from_secs(3600));
    same!(store.lease(&bed.cx, long).await?.len(), LEVELS as usize);
    for _ in 0..4 {
        same!(bed.lease("q", 1).await?.len(), 0, "jobs leased twice");
    }
    bed.pass(Duration::from_millis(500))?;
    same!(bed.lease_ids("q", 1).await?, vec![first], "the job whose lease ran out");
    Ok(())
}

async fn a_lease_on_the_last_attempt_that_runs_out_is_a_dead_letter(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let ids = bed.enqueue([NewJob::new("q", "").max_attempts(1), NewJob::new("q", "").max_attempts(2)]).await?;
    bed.lease("q", 2).await?;
    bed.pass(Duration::from_secs(31))?;
    let done = bed.maintain().await?;
    same!((done.rescued, done.dead), (1, 1), "rescued and dead");
    let job = bed.store()?.job(&bed.cx, ids[0]).await?.ok_or_else(|| anyhow::anyhow!("the dead letter is gone"))?;
    same!((job.state, job.last_error.is_some()), (JobState::Dead, true));
    same!(bed.lease_one("q").await?.id, ids[1]);
    bed.pass(Duration::from_secs(31))?;
    same!(bed.lease("q", 2).await?.len(), 0, "jobs leased beyond their attempts");
    Ok(())
}

async fn extending_keeps_a_lease(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", "")]).await?;
    let lease = bed.lease_one("q").await?.lease;
    bed.pass(Duration::from_secs(20))?;
    let until = bed.now().await? + Duration::from_secs(30);
    let receipt = bed.commit(Commit::new().extend(lease, Duration::from_secs(30))).await?;
    same!(receipt.outcomes, vec![Outcome::Extended { until, cancelled: false }]);
    bed.pass(Duration::from_secs(29))?;
    same!(bed.lease("q", 1).await?.len(), 0, "jobs leased while the extension holds");
    bed.pass(Duration::from_secs(2))?;
    same!(bed.lease("q", 1).await?.len(), 1, "jobs leased after it");
    Ok(())
}

async fn an_extension_that_ends_sooner_ends_the_lease_then(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let [sooner, other] =
        [bed.enqueue([NewJob::new("q", "")]).await?[0], bed.enqueue([NewJob::new("q", "")]).await?[0]];
    let leased = bed.lease("q", 2).await?;
    let lease = leased.iter().find(|job| job.id == sooner).map(|job| job.lease);
    let lease = lease.ok_or_else(|| anyhow::anyhow!("a job was not leased"))?;
    let until = bed.now().await? + Duration::from_secs(5);
    let receipt = bed.commit(Commit::new().extend(lease, Duration::from_secs(5))).await?;
    same!(receipt.outcomes, vec![Outcome::Extended { until, cancelled: false }]);
    bed.pass(Duration::from_secs(4))?;
    same!(bed.maintain().await?.rescued, 0, "leases that ran out before their new end");
    bed.pass(Duration::from_secs(1))?;
    same!(bed.maintain().await?.rescued, 1, "leases that ran out at their new end");
    same!(bed.lease("q", 2).await?.iter().map(|job| job.id).collect::<Vec<_>>(), vec![sooner], "jobs leased after it");
    // The one that was leased with it has all its time, and is found too when that is over.
    bed.pass(Duration::from_secs(24))?;
    same!(bed.maintain().await?.rescued, 0, "leases that ran out before their end");
    bed.pass(Duration::from_secs(1))?;
    same!(bed.lease("q", 2).await?.iter().map(|job| job.id).collect::<Vec<_>>(), vec![other], "jobs leased at the end");
    Ok(())
}

async fn a_clock_that_steps_back_ends_leases(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", "").when(selvedge_core::store::When::At(selvedge_core::Timestamp(0)))]).await?;
    let lease = bed.lease_one("q").await?.lease;
    bed.step_back(Duration::from_secs(3600))?;
    // A Store may go on by a clock that never runs backwards until its next tick of housekeeping.
    bed.store()?.maintain(&bed.cx, Default::default()).await?;
    refused!(bed.try_commit(Commit::new().complete(lease)).await, LeaseLost);
    same!(bed.lease_one("q").await?.attempt, 2);
    Ok(())
}

async fn a_leased_job_brings_everything_along(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let trace = selvedge_core::TraceContext::start();
    let (payload, now) = (vec![0, 0xff, 0xfe, b'x', 0], bed.now().await?);
    let new = NewJob::new("q", payload.clone()).tenant("acme").priority(-7).max_attempts(3).trace(Some(trace));
    let id = bed.enqueue([new]).await?[0];
    let job = bed.lease_one("q").await?;
    same!((job.id, &*job.queue, job.payload.to_vec(), job.priority), (id, "q", payload, -7));
    same!((job.tenant.as_deref(), job.trace, job.attempt, job.max_attempts), (Some("acme"), Some(trace), 1, 3));
    same!(job.checkpoint, None);
    anyhow::ensure!(job.enqueued_at >= now, "enqueued_at {} is before {now}", job.enqueued_at);
    let view = bed.store()?.job(&bed.cx, id).await?.ok_or_else(|| anyhow::anyhow!("the job is gone"))?;
    same!((view.state, view.leased_until), (JobState::Running, Some(job.leased_until)));
    Ok(())
}

async fn a_lease_survives_a_restart(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", ""), NewJob::new("q", "")]).await?;
    let lease = bed.lease_one("q").await?.lease;
    bed.crash().await?;
    same!(bed.lease("q", 5).await?.len(), 1, "jobs leased after the crash");
    bed.commit(Commit::new().complete(lease)).await?;
    Ok(())
}
