//! What becomes of a job: order, retries, dead letters, unique keys, schedules, limits, cancelling.

use std::time::Duration;

use selvedge_core::{
    Commit, ErrorKind, Store, Timestamp,
    store::{Backoff, Cron, JobId, JobState, JobView, LeaseRequest, Limits, NewJob, Outcome, Retry, StoreExt, When},
};

use super::Bed;
use crate::suite::{Checked, cases, fits, needs, race, refused, same};

const SECOND: Duration = Duration::from_secs(1);

cases! {
    smaller_priorities_run_first_then_the_earlier_then_the_older: "Jobs are leased by priority, then `run_at`, then number.",
    several_queues_are_one_line: "A lease over several queues takes jobs of all of them in one order.",
    later_jobs_have_larger_numbers: "Numbers grow and are never used again.",
    a_failed_job_waits_by_its_backoff: "After failure n a job waits between half and all of base·2ⁿ⁻¹, at most the cap, and keeps the reason.",
    retry_after_waits_exactly_so_long: "`Retry::After` sets the next attempt to that moment.",
    retry_never_is_dead_at_once: "`Retry::Never` makes a dead letter that is not leased again.",
    a_job_is_started_as_often_as_it_may_be: "A job that always fails is dead after `max_attempts` starts.",
    a_dead_letter_can_be_revived: "Revive gives a dead job all its attempts again, and says whether there was one.",
    releasing_costs_no_attempt: "A released job comes back after its delay with the same attempt number.",
    a_checkpoint_survives_a_failed_attempt: "What an attempt kept is given to the next, also after the lease ran out.",
    a_unique_key_holds_in_one_batch_and_across: "While a job with a unique key is waiting or running, another is not added and its number is returned.",
    a_unique_key_is_held_over_retries_and_freed_at_the_end: "A unique key is held while a job is retried, and free once it is done, dead or cancelled.",
    a_unique_key_belongs_to_its_queue: "The same unique key in another queue is another job.",
    racing_for_a_unique_key_adds_one_job: "However many enqueue one unique key at once, one job is added.",
    jobs_wait_for_their_time: "`When::After` and `When::At` hold a job back until then, and no longer.",
    a_cron_job_fires_once_after_downtime: "A schedule that missed several moments enqueues its job once, then at the next moment.",
    a_schedule_can_be_replaced_and_removed: "Writing a schedule's name again replaces it; unscheduling removes it.",
    a_queue_limit_is_never_exceeded: "Never more jobs of a queue run at once than its limit, however many workers race.",
    a_limited_tenant_does_not_starve_others: "Jobs of a tenant at its limit are passed over, not waited for.",
    tenants_take_turns: "In a queue with a limit for each tenant, jobs of one priority go by turns of their tenants, over several leases too; priority comes first.",
    turns_of_several_queues_are_one_line: "Taken together with another queue, a queue whose tenants take turns gives its jobs in their own order.",
    a_paused_queue_leases_nothing: "A paused queue keeps its jobs until it is resumed.",
    a_waiting_job_is_cancelled_at_once: "Cancelling a waiting job says `at_once` and it never runs.",
    a_running_job_learns_that_it_is_cancelled: "Cancelling a running job tells its worker at the next extension, and it is not retried.",
    what_is_not_there_cannot_be_cancelled: "Cancelling a job that is not there is `NotFound`.",
    payloads_are_bytes: "A payload may be any bytes up to 16 MiB, and comes back the same.",
    queue_statistics_are_right: "`Queues` counts ready, scheduled, running and dead jobs and the age of the oldest, by tenant.",
    jobs_survive_a_crash: "What was committed before a crash is there after it, and nothing else.",
}

impl Bed {
    pub(super) async fn job(&self, id: JobId) -> anyhow::Result<JobView> {
        self.store()?.job(&self.cx, id).await?.ok_or_else(|| anyhow::anyhow!("job {id} is gone"))
    }

    pub(super) async fn lease_ids(&self, queue: &str, limit: usize) -> anyhow::Result<Vec<JobId>> {
        Ok(self.lease(queue, limit).await?.into_iter().map(|job| job.id).collect())
    }

    async fn enqueue_one(&self, job: NewJob) -> anyhow::Result<(JobId, bool)> {
        let job = self.store()?.enqueue(&self.cx, job).await?;
        Ok((job.id, job.duplicate))
    }
}

async fn smaller_priorities_run_first_then_the_earlier_then_the_older(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let now = bed.now().await?;
    let job = |priority, seconds| NewJob::new("q", "").priority(priority).when(When::At(now - SECOND * seconds));
    let ids = bed.enqueue([job(5, 9), job(0, 1), job(0, 3), job(-5, 1), job(0, 3), job(i16::MIN, 0)]).await?;
    let order = [5, 3, 2, 4, 1, 0].map(|index: usize| ids[index]);
    same!(bed.lease_ids("q", 4).await?, order[..4]);
    same!(bed.lease_ids("q", 4).await?, order[4..]);
    Ok(())
}

async fn several_queues_are_one_line(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let ids = bed
        .enqueue([
            NewJob::new("a", "").priority(2),
            NewJob::new("b", "").priority(1),
            NewJob::new("c", "").priority(0),
            NewJob::new("a", "").priority(0),
        ])
        .await?;
    let request = LeaseRequest { queues: vec!["a".into(), "b".into()], ..LeaseRequest::new("", 10) };
    let jobs = bed.store()?.lease(&bed.cx, request).await?;
    same!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), vec![ids[3], ids[1], ids[0]]);
    Ok(())
}

async fn later_jobs_have_larger_numbers(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let mut all = bed.enqueue([NewJob::new("q", ""), NewJob::new("q", "")]).await?;
    for job in bed.lease("q", 2).await? {
        bed.commit(Commit::new().complete(job.lease)).await?;
    }
    all.extend(bed.enqueue([NewJob::new("q", "")]).await?);
    if bed.can.durable {
        bed.lease("q", 1).await?;
        bed.crash().await?;
    }
    all.extend(bed.enqueue([NewJob::new("other", "")]).await?);
    anyhow::ensure!(all.is_sorted_by(|a, b| a < b), "the numbers do not grow: {all:?}");
    Ok(())
}

async fn a_failed_job_waits_by_its_backoff(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let backoff = Backoff::new(SECOND * 10, SECOND * 60);
    let id = bed.enqueue([NewJob::new("q", "").backoff(backoff).max_attempts(9)]).await?[0];
    for failures in 1..=5 {
        let (job, now) = (bed.lease_one("q").await?, bed.now().await?);
        same!(job.attempt, failures);
        let receipt = bed.commit(Commit::new().fail(job.lease, format!("no {failures}"), Retry::Backoff)).await?;
        let [Outcome::Failed { retry_at: Some(retry_at) }] = receipt.outcomes[..] else {
            anyhow::bail!("found {receipt:?}, expected a retry");
        };
        let window = now + backoff.delay(failures, 0.0)..=now + backoff.delay(failures, 1.0) + SECOND;
        anyhow::ensure!(window.contains(&retry_at), "retry {failures} at {retry_at}, expected within {window:?}");
        let view = bed.job(id).await?;
        same!((view.state, view.run_at, view.last_error), (JobState::Ready, retry_at, Some(format!("no {failures}"))));
        bed.pass(retry_at.since(bed.now().await?) - Duration::from_micros(1))?;
        same!(bed.lease("q", 1).await?.len(), 0, "jobs leased before their retry");
        bed.pass(Duration::from_micros(1))?;
    }
    Ok(())
}

async fn retry_after_waits_exactly_so_long(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", "")]).await?;
    let lease = bed.lease_one("q").await?.lease;
    bed.commit(Commit::new().fail(lease, "x", Retry::After(SECOND * 100))).await?;
    bed.pass(SECOND * 99)?;
    same!(bed.lease("q", 1).await?.len(), 0, "jobs leased before their retry");
    bed.pass(SECOND)?;
    same!(bed.lease_one("q").await?.attempt, 2);
    Ok(())
}

async fn retry_never_is_dead_at_once(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let id = bed.enqueue([NewJob::new("q", "")]).await?[0];
    let lease = bed.lease_one("q").await?.lease;
    let receipt = bed.commit(Commit::new().fail(lease, "bad input", Retry::Never)).await?;
    same!(receipt.outcomes, vec![Outcome::Failed { retry_at: None }]);
    let job = bed.job(id).await?;
    same!((job.state, job.last_error.as_deref(), job.leased_until), (JobState::Dead, Some("bad input"), None));
    same!(bed.lease("q", 1).await?.len(), 0, "dead jobs leased");
    Ok(())
}

async fn a_job_is_started_as_often_as_it_may_be(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let id = bed.enqueue([NewJob::new("q", "").max_attempts(4)]).await?[0];
    for attempt in 1..=4 {
        let job = bed.lease_one("q").await?;
        same!(job.attempt, attempt);
        bed.commit(Commit::new().fail(job.lease, "x", Retry::After(Duration::ZERO))).await?;
    }
    same!(bed.lease("q", 1).await?.len(), 0, "jobs leased beyond their attempts");
    same!(bed.job(id).await?.state, JobState::Dead);
    Ok(())
}

async fn a_dead_letter_can_be_revived(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let id = bed.enqueue([NewJob::new("q", "keep me").max_attempts(1)]).await?[0];
    same!(bed.commit(Commit::new().revive(id)).await?.outcomes, vec![Outcome::Revived(false)], "reviving a ready job");
    let lease = bed.lease_one("q").await?.lease;
    bed.commit(Commit::new().fail(lease, "x", Retry::Backoff)).await?;
    same!(bed.job(id).await?.state, JobState::Dead);
    same!(bed.commit(Commit::new().revive(id)).await?.outcomes, vec![Outcome::Revived(true)]);
    let job = bed.lease_one("q").await?;
    same!((job.id, job.attempt, job.max_attempts, &job.payload[..]), (id, 1, 1, &b"keep me"[..]));
    let unknown = Commit::new().revive(JobId(i64::MAX));
    same!(bed.commit(unknown).await?.outcomes, vec![Outcome::Revived(false)], "reviving an unknown job");
    Ok(())
}

async fn releasing_costs_no_attempt(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", "").max_attempts(1)]).await?;
    for _ in 0..3 {
        let job = bed.lease_one("q").await?;
        same!(job.attempt, 1);
        bed.commit(Commit::new().release(job.lease, SECOND * 10)).await?;
        same!(bed.lease("q", 1).await?.len(), 0, "jobs leased before their delay");
        bed.pass(SECOND * 10)?;
    }
    Ok(())
}

async fn a_checkpoint_survives_a_failed_attempt(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", "")]).await?;
    let lease = bed.lease_one("q").await?.lease;
    bed.commit(Commit::new().checkpoint(lease, "one").checkpoint(lease, vec![0, 0xff])).await?;
    bed.commit(Commit::new().fail(lease, "x", Retry::After(Duration::ZERO))).await?;
    let job = bed.lease_one("q").await?;
    same!(job.checkpoint.as_deref(), Some(&[0, 0xff][..]));
    bed.pass(SECOND * 31)?;
    same!(bed.lease_one("q").await?.checkpoint.as_deref(), Some(&[0, 0xff][..]), "after the lease ran out");
    Ok(())
}

async fn a_unique_key_holds_in_one_batch_and_across(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let job = || NewJob::new("q", "").unique("k");
    let receipt = bed.commit(Commit::new().enqueue([job(), job(), NewJob::new("q", "")])).await?;
    let refs: Vec<_> = receipt.jobs().collect();
    same!(refs.iter().map(|job| job.duplicate).collect::<Vec<_>>(), vec![false, true, false]);
    same!(refs[0].id, refs[1].id);
    same!(bed.enqueue_one(job()).await?, (refs[0].id, true));
    same!(bed.lease("q", 10).await?.len(), 2);
    same!(bed.enqueue_one(job()).await?, (refs[0].id, true), "while it runs");
    Ok(())
}

async fn a_unique_key_is_held_over_retries_and_freed_at_the_end(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let job = || NewJob::new("q", "").unique("k");
    let (id, _) = bed.enqueue_one(job()).await?;
    let lease = bed.lease_one("q").await?.lease;
    bed.commit(Commit::new().fail(lease, "x", Retry::After(SECOND))).await?;
    same!(bed.enqueue_one(job()).await?, (id, true), "while it waits for its retry");
    bed.pass(SECOND)?;
    let lease = bed.lease_one("q").await?.lease;
    let receipt = bed.commit(Commit::new().complete(lease).enqueue([job()])).await?;
    let second = receipt.jobs().next().map(|job| (job.id, job.duplicate));
    fits!(second, Some((next, false)) if *next != id);
    let lease = bed.lease_one("q").await?.lease;
    bed.commit(Commit::new().fail(lease, "x", Retry::Never)).await?;
    let (third, duplicate) = bed.enqueue_one(job()).await?;
    anyhow::ensure!(!duplicate, "a dead job holds its unique key");
    bed.commit(Commit::new().cancel(third)).await?;
    anyhow::ensure!(!bed.enqueue_one(job()).await?.1, "a cancelled job holds its unique key");
    refused!(bed.try_commit(Commit::new().revive(third)).await, Conflict);
    Ok(())
}

async fn a_unique_key_belongs_to_its_queue(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue_one(NewJob::new("a", "").unique("k")).await?;
    anyhow::ensure!(!bed.enqueue_one(NewJob::new("b", "").unique("k")).await?.1, "the key reached another queue");
    Ok(())
}

async fn racing_for_a_unique_key_adds_one_job(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let store = bed.store()?;
    let refs = race(20, |_| {
        let (store, cx) = (store.clone(), bed.cx.clone());
        async move { Ok(store.enqueue(&cx, NewJob::new("q", "").unique("k")).await?) }
    });
    let refs = refs.await?;
    same!(refs.iter().filter(|job| !job.duplicate).count(), 1, "jobs added");
    anyhow::ensure!(refs.iter().all(|job| job.id == refs[0].id), "several numbers: {refs:?}");
    same!(bed.lease("q", 10).await?.len(), 1);
    Ok(())
}

async fn jobs_wait_for_their_time(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let now = bed.now().await?;
    let job = |when| NewJob::new("q", "").when(when);
    let moments =
        [When::After(SECOND * 10), When::At(now + SECOND * 20), When::At(now - SECOND), When::At(Timestamp(0))];
    let ids = bed.enqueue(moments.map(job)).await?;
    same!(bed.lease_ids("q", 10).await?, vec![ids[3], ids[2]]);
    bed.pass(SECOND * 9)?;
    same!(bed.lease("q", 10).await?.len(), 0, "jobs leased too early");
    bed.pass(SECOND)?;
    same!(bed.lease_ids("q", 10).await?, vec![ids[0]]);
    bed.pass(SECOND * 10)?;
    same!(bed.lease_ids("q", 10).await?, vec![ids[1]]);
    Ok(())
}

async fn a_cron_job_fires_once_after_downtime(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let now = bed.now().await?;
    let cron = Cron::new("hourly", "0 * * * *", NewJob::new("q", "tick").tenant("acme"))?;
    let next = cron.next_after(now)?;
    bed.commit(Commit::new().schedule(cron.clone())).await?;
    same!(bed.store()?.schedules(&bed.cx).await?, vec![(cron.clone(), next)]);
    same!(bed.maintain().await?.fired, 0, "fired too early");
    if bed.can.durable {
        bed.crash().await?;
    }
    bed.pass(SECOND * 3600 * 5)?;
    same!(bed.maintain().await?.fired, 1);
    same!(bed.maintain().await?.fired, 0, "fired twice");
    let jobs = bed.lease("q", 10).await?;
    same!(jobs.len(), 1);
    same!((&jobs[0].payload[..], jobs[0].tenant.as_deref()), (&b"tick"[..], Some("acme")));
    let next = cron.next_after(bed.now().await?)?;
    same!(bed.store()?.schedules(&bed.cx).await?, vec![(cron, next)]);
    bed.pass(next.since(bed.now().await?))?;
    same!(bed.maintain().await?.fired, 1, "at the next moment");
    Ok(())
}

async fn a_schedule_can_be_replaced_and_removed(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let daily = Cron::new("s", "0 0 * * *", NewJob::new("old", ""))?;
    let minutely = Cron::new("s", "* * * * *", NewJob::new("new", ""))?;
    bed.commit(Commit::new().schedule(daily).schedule(minutely)).await?;
    same!(bed.store()?.schedules(&bed.cx).await?.len(), 1);
    bed.pass(SECOND * 60)?;
    bed.maintain().await?;
    same!((bed.lease("old", 1).await?.len(), bed.lease("new", 1).await?.len()), (0, 1));
    bed.commit(Commit::new().unschedule("s").unschedule("never was")).await?;
    bed.pass(SECOND * 86_400)?;
    same!(bed.maintain().await?.fired, 0);
    same!(bed.store()?.schedules(&bed.cx).await?.len(), 0);
    Ok(())
}

async fn a_queue_limit_is_never_exceeded(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };
    bed.commit(Commit::new().limit("q", Limits { queue: Some(3), tenant: None })).await?;
    bed.enqueue((0..60).map(|_| NewJob::new("q", ""))).await?;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let store = bed.store()?;
    let done = race(8, |_| {
        let (store, cx, running, most) = (store.clone(), bed.cx.clone(), running.clone(), most.clone());
        async move {
            let (mut done, ends) = (0, tokio::time::Instant::now() + crate::suite::WAIT);
            while tokio::time::Instant::now() < ends {
                let jobs = store.lease(&cx, LeaseRequest::new("q", 2)).await?;
                most.fetch_max(running.fetch_add(jobs.len(), SeqCst) + jobs.len(), SeqCst);
                tokio::task::yield_now().await;
                // Counted down before the Store knows, so that the count is never above what the Store allows.
                running.fetch_sub(jobs.len(), SeqCst);
                done += jobs.len();
                let left = store.queues(&cx).await?.iter().map(|queue| queue.ready).sum::<u64>();
                store.commit(&cx, Commit::new().complete_many(jobs.into_iter().map(|job| job.lease))).await?;
                if left == 0 {
                    break;
                }
            }
            Ok(done)
        }
    });
    let done: usize = done.await?.into_iter().sum();
    same!(done, 60, "jobs done");
    let most = most.load(SeqCst);
    anyhow::ensure!(most <= 3, "{most} jobs ran at once, the limit is 3");
    Ok(())
}

async fn a_limited_tenant_does_not_starve_others(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.commit(Commit::new().limit("q", Limits { queue: None, tenant: Some(2) })).await?;
    let job = |tenant| NewJob::new("q", "").tenant(tenant);
    let ids = bed.enqueue((0..50).map(|_| job("noisy")).chain([job("quiet"), job("quiet"), job("quiet")])).await?;
    let jobs = bed.lease("q", 10).await?;
    let leased: Vec<_> = jobs.iter().map(|job| job.id).collect();
    same!(leased, vec![ids[0], ids[50], ids[1], ids[51]]);
    same!(bed.lease("q", 10).await?.len(), 0, "jobs leased beyond the limits");
    bed.commit(Commit::new().complete(jobs[0].lease)).await?;
    same!(bed.lease_ids("q", 10).await?, vec![ids[2]]);
    bed.commit(Commit::new().limit("q", Limits::default())).await?;
    same!(bed.lease("q", 100).await?.len(), 48, "jobs leased once the limit is gone");
    Ok(())
}

async fn tenants_take_turns(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.commit(Commit::new().limit("q", Limits { queue: None, tenant: Some(100) })).await?;
    let of = |tenant: &str, count: usize| vec![NewJob::new("q", "").tenant(tenant); count];
    let bulk = bed.enqueue(of("noisy", 20)).await?;
    let few = bed.enqueue([of("quiet", 2), vec![NewJob::new("q", "")], of("calm", 1)].concat()).await?;
    // By name; jobs without a tenant are one more.
    same!(bed.lease_ids("q", 3).await?, vec![few[2], few[3], bulk[0]]);
    // One at a time goes on where the last lease ended, also when each job is done before the next.
    for expected in [few[0], bulk[1], few[1], bulk[2]] {
        let job = bed.lease_one("q").await?;
        same!(job.id, expected);
        bed.commit(Commit::new().complete(job.lease)).await?;
    }
    if bed.can.durable {
        bed.crash().await?;
    }
    // Nobody's turn is before a smaller priority. Each priority has turns of its own.
    let urgent = |tenant: &str| NewJob::new("q", "").tenant(tenant).priority(-1);
    let (late, urgent) =
        (bed.enqueue(of("quiet", 1)).await?, bed.enqueue(["noisy", "noisy", "quiet"].map(urgent)).await?);
    same!(bed.lease_ids("q", 6).await?, vec![urgent[0], urgent[2], urgent[1], late[0], bulk[3], bulk[4]]);
    // Without a limit for each tenant the oldest is first again.
    let last = bed.enqueue([of("quiet", 1), of("calm", 1)].concat()).await?;
    bed.commit(Commit::new().limit("q", Limits { queue: Some(1000), tenant: None })).await?;
    let rest = bed.lease_ids("q", 100).await?;
    same!(rest, [&bulk[5..], &last[..]].concat());
    Ok(())
}

async fn turns_of_several_queues_are_one_line(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let limits = Limits { queue: Some(4), tenant: Some(2) };
    bed.commit(Commit::new().limit("turns", limits).limit("also", limits)).await?;
    let now = bed.now().await?;
    let job = |queue: &str, tenant: &str, age| NewJob::new(queue, "").tenant(tenant).when(When::At(now - SECOND * age));
    let ids = bed
        .enqueue([
            job("turns", "a", 9),
            job("turns", "a", 8),
            job("turns", "a", 7),
            job("turns", "b", 3),
            job("plain", "a", 5),
            job("plain", "a", 2),
            job("also", "b", 4),
            job("also", "a", 1),
        ])
        .await?;
    let queues = ["turns", "plain", "also"].map(String::from).to_vec();
    let request = LeaseRequest { queues, ..LeaseRequest::new("", 5) };
    let mut taken = Vec::new();
    for _ in 0..2 {
        let jobs = bed.store()?.lease(&bed.cx, request.clone()).await?;
        taken.push(jobs.into_iter().map(|job| job.id).collect::<Vec<_>>());
    }
    // What waits for its turn is not yet first in its queue, however old it is.
    same!(taken[0], vec![ids[0], ids[4], ids[3], ids[1], ids[5]]);
    same!(taken[1], vec![ids[7], ids[6]]);
    Ok(())
}

async fn a_paused_queue_leases_nothing(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", ""), NewJob::new("other", "")]).await?;
    bed.commit(Commit::new().pause("q")).await?;
    if bed.can.durable {
        bed.crash().await?;
    }
    same!((bed.lease("q", 1).await?.len(), bed.lease("other", 1).await?.len()), (0, 1));
    let stats = bed.store()?.queues(&bed.cx).await?;
    same!(stats.iter().find(|stats| stats.queue == "q").map(|stats| (stats.paused, stats.ready)), Some((true, 1)));
    bed.commit(Commit::new().resume("q")).await?;
    same!(bed.lease("q", 1).await?.len(), 1);
    Ok(())
}

async fn a_waiting_job_is_cancelled_at_once(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let id = bed.enqueue([NewJob::new("q", "")]).await?[0];
    let receipt = bed.commit(Commit::new().cancel(id)).await?;
    same!(receipt.outcomes, vec![Outcome::Cancelled { at_once: true }]);
    same!(bed.lease("q", 1).await?.len(), 0, "cancelled jobs leased");
    same!(bed.job(id).await?.state, JobState::Cancelled);
    same!(bed.commit(Commit::new().revive(id)).await?.outcomes, vec![Outcome::Revived(true)]);
    same!(bed.lease_ids("q", 1).await?, vec![id], "a cancelled job that was revived");
    Ok(())
}

async fn a_running_job_learns_that_it_is_cancelled(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let ids = bed.enqueue((0..3).map(|_| NewJob::new("q", ""))).await?;
    let jobs = bed.lease("q", 3).await?;
    for id in &ids {
        let receipt = bed.commit(Commit::new().cancel(*id)).await?;
        same!(receipt.outcomes, vec![Outcome::Cancelled { at_once: false }]);
    }
    let receipt = bed.commit(Commit::new().extend(jobs[0].lease, SECOND * 60)).await?;
    fits!(receipt.outcomes[..], [Outcome::Extended { cancelled: true, .. }]);
    bed.commit(Commit::new().complete(jobs[0].lease)).await?;
    bed.commit(Commit::new().fail(jobs[1].lease, "stopped", Retry::After(Duration::ZERO))).await?;
    bed.pass(SECOND * 31)?;
    same!(bed.lease("q", 3).await?.len(), 0, "cancelled jobs leased again");
    same!((bed.job(ids[1]).await?.state, bed.job(ids[2]).await?.state), (JobState::Cancelled, JobState::Cancelled));
    Ok(())
}

async fn what_is_not_there_cannot_be_cancelled(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    refused!(bed.try_commit(Commit::new().cancel(JobId(i64::MAX))).await, NotFound);
    Ok(())
}

async fn payloads_are_bytes(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let random: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(1 << 20).collect();
    let payloads = [vec![], vec![0], vec![0xff, 0xfe, 0], b"\x00\xc3\x28'\";--".to_vec(), random];
    bed.enqueue(payloads.iter().map(|payload| NewJob::new("q", payload.clone()))).await?;
    if bed.can.durable {
        bed.crash().await?;
    }
    let jobs = bed.lease("q", 10).await?;
    same!(jobs.len(), payloads.len());
    for (job, payload) in jobs.iter().zip(&payloads) {
        anyhow::ensure!(job.payload == payload, "a payload of {} bytes came back changed", payload.len());
    }
    let most = vec![7; NewJob::MAX_PAYLOAD];
    bed.enqueue([NewJob::new("large", most.clone())]).await?;
    anyhow::ensure!(bed.lease_one("large").await?.payload == most, "the largest payload came back changed");
    Ok(())
}

async fn queue_statistics_are_right(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let job = |tenant: &str| NewJob::new("q", "").tenant(tenant);
    bed.enqueue([
        NewJob::new("q", "").priority(9),
        job("a"),
        job("a"),
        job("a"),
        job("a").when(When::After(SECOND * 500)),
    ])
    .await?;
    let jobs = bed.lease("q", 2).await?;
    bed.commit(Commit::new().fail(jobs[0].lease, "x", Retry::Never)).await?;
    bed.pass(SECOND * 7)?;
    let mut stats = bed.store()?.queues(&bed.cx).await?;
    stats.sort_by(|one, two| one.tenant.cmp(&two.tenant));
    let counts: Vec<_> = stats
        .iter()
        .map(|s| (s.tenant.as_deref(), s.ready, s.scheduled, s.running, s.dead, s.oldest, s.paused))
        .collect();
    same!(counts, vec![(None, 1, 0, 0, 0, SECOND * 7, false), (Some("a"), 1, 1, 1, 1, SECOND * 7, false)]);
    Ok(())
}

async fn jobs_survive_a_crash(bed: &Bed) -> Checked {
    needs(bed.can.jobs && bed.can.durable, "`jobs` and `durable`")?;
    let ids = bed.enqueue((0..20).map(|n| NewJob::new("q", vec![n]).unique(format!("k{n}")))).await?;
    let bad = Commit::new().enqueue([NewJob::new("q", "")]).cancel(JobId(i64::MAX));
    same!(bed.try_commit(bad).await.map_err(|error| error.kind()).err(), Some(ErrorKind::NotFound));
    let lease = bed.lease_one("q").await?.lease;
    bed.commit(Commit::new().complete(lease)).await?;
    bed.crash().await?;
    let jobs = bed.lease("q", 100).await?;
    same!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), ids[1..]);
    same!(bed.enqueue_one(NewJob::new("q", "").unique("k5")).await?, (ids[5], true), "the unique key");
    Ok(())
}
