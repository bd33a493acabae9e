//! Whose turn it is: the order in which jobs are leased from queues that have a limit for each tenant.

use super::JobId;
use crate::Timestamp;

/// A job that may run now: where it stands in its queue, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Smaller runs first.
    pub priority: i16,
    /// Since when it is due.
    pub run_at: Timestamp,
    /// Its number.
    pub id: JobId,
    /// Its tenant. Jobs without one share a turn, as if they had the empty name.
    pub tenant: Option<String>,
}

impl Ready {
    fn name(&self) -> &str {
        self.tenant.as_deref().unwrap_or_default()
    }

    fn owner(&self) -> (i16, &str) {
        (self.priority, self.name())
    }

    fn place(&self) -> (i16, Timestamp, JobId) {
        (self.priority, self.run_at, self.id)
    }
}

/// Puts the ready jobs of one queue into the order of turns. Pure: every Store leases in this order where a queue has a limit for
/// each tenant.
///
/// Priority comes first. Within one priority the tenants take turns, each with its oldest job: in the order of their names, going
/// on after the one that was `served` last in that priority. So however many jobs one tenant has, each other one gets a job in
/// every round (round robin: J. Nagle, "On Packet Switches with Infinite Storage", RFC 970, 1985).
///
/// ```
/// use selvedge_core::{Timestamp, store::{JobId, Ready, in_turns}};
///
/// let job = |id, tenant: &str| Ready { priority: 0, run_at: Timestamp(0), id: JobId(id), tenant: Some(tenant.into()) };
/// let jobs = vec![job(1, "noisy"), job(2, "noisy"), job(3, "quiet")];
/// let order = |served| in_turns(jobs.clone(), |_| served).iter().map(|job| job.id.0).collect::<Vec<_>>();
/// assert_eq!(order(None), [1, 3, 2]);
/// assert_eq!(order(Some("noisy")), [3, 1, 2]);
/// ```
pub fn in_turns<'a>(mut ready: Vec<Ready>, served: impl Fn(i16) -> Option<&'a str>) -> Vec<Ready> {
    ready.sort_by(|one, other| (one.owner(), one.place()).cmp(&(other.owner(), other.place())));
    let rounds: Vec<usize> =
        ready.chunk_by(|one, next| one.owner() == next.owner()).flat_map(|same| 0..same.len()).collect();
    let mut placed: Vec<_> = rounds.into_iter().zip(ready).collect();
    placed.sort_by(|(round, one), (other_round, other)| {
        let had_its_turn = |job: &Ready| served(job.priority).is_some_and(|served| job.name() <= served);
        let turn = |round, job: &Ready| (job.priority, round, had_its_turn(job));
        turn(round, one).cmp(&turn(other_round, other)).then_with(|| one.name().cmp(other.name()))
    });
    placed.into_iter().map(|(_, job)| job).collect()
}

/// Takes up to `limit` jobs from several queues, each in its own order; with each job the number of its queue. Of the jobs that
/// stand first in their queues, the next is the one of the smallest priority, then the earliest due, then the oldest. Pure: every
/// Store leases from several queues by it.
///
/// ```
/// use selvedge_core::{Timestamp, store::{JobId, Ready, one_line}};
///
/// let job = |id, priority| Ready { priority, run_at: Timestamp(0), id: JobId(id), tenant: None };
/// let line = one_line(vec![vec![job(3, 0), job(1, 2)], vec![job(2, 1)]], 2);
/// assert_eq!(line.iter().map(|(queue, job)| (*queue, job.id.0)).collect::<Vec<_>>(), [(0, 3), (1, 2)]);
/// ```
pub fn one_line(queues: Vec<Vec<Ready>>, limit: usize) -> Vec<(usize, Ready)> {
    let mut queues: Vec<_> = queues.into_iter().map(|queue| queue.into_iter().peekable()).collect();
    let mut line = Vec::new();
    while line.len() < limit {
        let first = queues.iter_mut().enumerate().filter_map(|(number, queue)| Some((queue.peek()?.place(), number)));
        let Some((_, number)) = first.min() else { break };
        line.extend(queues[number].next().map(|job| (number, job)));
    }
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn jobs() -> impl Strategy<Value = Vec<Ready>> {
        let job = (-1i16..2, 0i64..4, option::of(0u8..4));
        vec(job, 0..40).prop_map(|jobs| {
            let number = |(id, (priority, run_at, tenant)): (i64, (i16, i64, Option<u8>))| Ready {
                priority,
                run_at: Timestamp(run_at),
                id: JobId(id),
                tenant: tenant.map(|n| format!("t{n}")),
            };
            (0..).zip(jobs).map(number).collect()
        })
    }

    /// One job after the other, as a server would that leases them one by one.
    fn one_by_one(mut ready: Vec<Ready>, served: Option<String>) -> Vec<Ready> {
        let mut last: BTreeMap<i16, String> =
            served.map(|name| (-1..2).map(|p| (p, name.clone())).collect()).unwrap_or_default();
        let mut order = Vec::new();
        while let Some(priority) = ready.iter().map(|job| job.priority).min() {
            let names = || ready.iter().filter(|job| job.priority == priority).map(Ready::name);
            let after = last.get(&priority).and_then(|last| names().filter(|name| *name > last.as_str()).min());
            let next = after.or_else(|| names().min()).unwrap().to_owned();
            let of_next = |job: &&Ready| job.priority == priority && job.name() == next;
            let oldest = ready.iter().filter(of_next).min_by_key(|job| job.place()).unwrap().id;
            let index = ready.iter().position(|job| job.id == oldest).unwrap();
            order.push(ready.remove(index));
            last.insert(priority, next);
        }
        order
    }

    proptest! {
        #[test]
        fn many_at_once_are_in_the_order_of_one_by_one(ready in jobs(), served in option::of(0u8..5)) {
            let served = served.map(|n| format!("t{n}"));
            prop_assert_eq!(in_turns(ready.clone(), |_| served.as_deref()), one_by_one(ready, served.clone()));
        }

        #[test]
        fn nobody_waits_for_more_than_one_job_of_each_other_tenant(ready in jobs(), served in option::of(0u8..5)) {
            let served = served.map(|n| format!("t{n}"));
            let order = in_turns(ready, |_| served.as_deref());
            for same in order.chunk_by(|one, next| one.priority == next.priority) {
                for (place, job) in same.iter().enumerate() {
                    let before = same[..place].iter().rev().take_while(|other| other.tenant != job.tenant);
                    let mut others: Vec<_> = before.map(Ready::name).collect();
                    let count = others.len();
                    others.sort_unstable();
                    others.dedup();
                    prop_assert_eq!(others.len(), count, "a tenant had two turns while {:?} waited", job);
                }
            }
        }

        #[test]
        fn a_line_of_sorted_queues_is_sorted(one in jobs(), limit in 0usize..50) {
            let mut all: Vec<_> = one.iter().map(Ready::place).collect();
            all.sort_unstable();
            all.truncate(limit);
            let mut queues = vec![Vec::new(); 3];
            for job in one {
                queues[job.id.0 as usize % 3].push(job);
            }
            queues.iter_mut().for_each(|queue| queue.sort_by_key(Ready::place));
            let line = one_line(queues, limit);
            prop_assert!(line.iter().all(|(queue, job)| job.id.0 as usize % 3 == *queue));
            prop_assert_eq!(line.iter().map(|(_, job)| job.place()).collect::<Vec<_>>(), all);
        }
    }
}
