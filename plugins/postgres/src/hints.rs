//! Where the next claim may begin: after what this process has claimed, priority by priority.
//!
//! Jobs that were worked off leave the index only when no transaction can see them any more. A claim that began at the head
//! of its queue would walk over all of them, again and again, for as long as one long transaction is open. So a claim begins
//! where the last one ended, and a look back from the head finds what lies before: jobs of a smaller number that were
//! committed late, leases that ran out, what other processes added without telling. Whoever adds a job tells its place, and
//! claims begin there. All of it is a hint: a claim that finds nothing looks back before it says so.
//! (Brandur Leach, "Postgres Job Queues & Failure By MVCC", 2015, has the problem and the idea of a place to begin at.)

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A job's place within its priority: due time, then number.
pub(crate) type Place = (i64, i64);

/// Even a queue that always has enough is looked through from its head this often.
const PERIOD: Duration = Duration::from_secs(1);
/// A look back that takes longer than this is dear: something keeps finished jobs in the index.
const DEAR: Duration = Duration::from_millis(4);
/// Looking back may take one part in so many of the time, once it is dear.
const SHARE: u32 = 20;

/// The hints of one process, for the queues that it leases from.
#[derive(Debug, Default)]
pub(crate) struct Hints(Mutex<HashMap<String, Queue>>);

/// When something was done: by this machine's clock, and by a test's, if it gave one.
#[derive(Clone, Copy, Debug)]
struct Moment {
    real: Instant,
    given: Option<i64>,
}

impl Moment {
    /// How long ago it was. Scheduled jobs become due by a test's clock, so what looks for them goes by it too.
    fn elapsed(self, given: Option<i64>) -> Duration {
        match (self.given, given) {
            (Some(then), Some(now)) => Duration::from_micros(now.abs_diff(then)),
            _ => self.real.elapsed(),
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    levels: BTreeMap<i16, Level>,
    looked: Option<Moment>,
    /// What the last looks took.
    costs: [Option<Duration>; 3],
    /// Something changed, and nobody knows where.
    stale: bool,
    /// The queue has limits.
    limited: bool,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// What lies up to here was claimed.
    after: Place,
    /// A job was added here since the last claim began.
    added: Option<Place>,
}

/// What a look back found.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Where the first ready job of each priority is.
    pub(crate) first: Vec<After>,
    /// The queues with limits.
    pub(crate) limited: Vec<String>,
    /// What it took.
    pub(crate) cost: Duration,
}

/// How long ago each queue was looked through, and whether that was before something changed.
#[derive(Debug)]
pub(crate) struct Before(Vec<(String, Option<Moment>, bool)>);

/// Where a claim begins in one priority of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct After {
    pub(crate) queue: String,
    pub(crate) priority: i16,
    pub(crate) place: Place,
}

impl Queue {
    fn is_dear(&self) -> bool {
        // All of the last ones: a single one may have waited for the processor.
        self.costs.iter().all(|cost| cost.is_some_and(|cost| cost > DEAR))
    }

    fn wants_look(&self, short: bool, given: Option<i64>) -> bool {
        let Some(looked) = self.looked else { return true };
        let dearest = self.costs.iter().flatten().max().copied().unwrap_or_default();
        let period = if self.is_dear() { PERIOD.max(dearest * SHARE) } else { PERIOD };
        ((short || self.stale) && !self.is_dear()) || looked.elapsed(given) >= period
    }
}

impl Hints {
    fn queues(&self) -> MutexGuard<'_, HashMap<String, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one of the queues has limits, as far as is known.
    pub(crate) fn has_limits(&self, queues: &[String]) -> bool {
        let known = self.queues();
        queues.iter().any(|queue| known.get(queue).is_some_and(|queue| queue.limited))
    }

    /// Whether to look back before a claim (or after one that came `short`).
    pub(crate) fn wants_look(&self, queues: &[String], short: bool, given: Option<i64>) -> bool {
        let known = self.queues();
        queues.iter().any(|queue| known.get(queue).is_none_or(|queue| queue.wants_look(short, given)))
    }

    /// A look back begins: what is told from now on, it may not see. What [`not_looked`](Self::not_looked) needs.
    pub(crate) fn look(&self, queues: &[String], given: Option<i64>) -> Before {
        let (mut known, now) = (self.queues(), Moment { real: Instant::now(), given });
        let look = |name: &String| {
            let queue = known.entry(name.clone()).or_default();
            (name.clone(), queue.looked.replace(now), std::mem::take(&mut queue.stale))
        };
        Before(queues.iter().map(look).collect())
    }

    /// The look failed.
    pub(crate) fn not_looked(&self, before: Before) {
        let mut known = self.queues();
        for (name, looked, stale) in before.0 {
            if let Some(queue) = known.get_mut(&name) {
                queue.looked = looked;
                queue.stale |= stale;
            }
        }
    }

    /// Claims begin where a look back found something, or where something was added in the meantime.
    pub(crate) fn looked(&self, queues: &[String], look: &Look) {
        let mut known = self.queues();
        for name in queues {
            let queue = known.entry(name.clone()).or_default();
            queue.limited = look.limited.contains(name);
            queue.costs.rotate_right(1);
            queue.costs[0] = Some(look.cost);
            // What was added in the meantime stays.
            queue.levels.retain(|_, level| level.added.is_some());
            for level in queue.levels.values_mut() {
                level.after = level.added.unwrap_or(level.after);
            }
            for found in look.first.iter().filter(|found| &found.queue == name) {
                let (due, id) = found.place;
                let before = (due, id.saturating_sub(1));
                let level = queue.levels.entry(found.priority).or_insert(Level { after: before, added: None });
                level.after = level.after.min(before);
            }
        }
    }

    /// Where a claim begins, smaller priorities first.
    pub(crate) fn begin(&self, queues: &[String]) -> Vec<After> {
        let mut known = self.queues();
        let mut begin = Vec::new();
        for name in queues {
            let Some(queue) = known.get_mut(name) else { continue };
            for (priority, level) in &mut queue.levels {
                level.after = level.added.take().map_or(level.after, |added| added.min(level.after));
                begin.push(After { queue: name.clone(), priority: *priority, place: level.after });
            }
        }
        begin.sort_by_key(|after| after.priority);
        begin
    }

    /// A claim took this job.
    pub(crate) fn claimed<'a>(&self, jobs: impl Iterator<Item = (&'a str, i16, Place)>) {
        let mut known = self.queues();
        for (queue, priority, place) in jobs {
            if let Some(level) = known.get_mut(queue).and_then(|queue| queue.levels.get_mut(&priority)) {
                level.after = level.after.max(place);
            }
        }
    }

    /// A job that is due then was added.
    pub(crate) fn added(&self, queue: &str, priority: i16, due: i64) {
        let place = (due, i64::MIN);
        // Only queues that this process leases from are known.
        if let Some(queue) = self.queues().get_mut(queue) {
            let level = queue.levels.entry(priority).or_insert(Level { after: place, added: None });
            level.added = Some(level.added.map_or(place, |added| added.min(place)));
        }
    }

    /// Something changed in a queue.
    pub(crate) fn changed(&self, queue: &str) {
        if let Some(queue) = self.queues().get_mut(queue) {
            queue.stale = true;
        }
    }

    /// Notifications were missed.
    pub(crate) fn all_changed(&self) {
        self.queues().values_mut().for_each(|queue| queue.stale = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints() -> (Hints, Vec<String>) {
        (Hints::default(), vec!["q".into()])
    }

    fn at(priority: i16, place: Place) -> After {
        After { queue: "q".into(), priority, place }
    }

    fn look(hints: &Hints, queues: &[String], first: &[After]) {
        hints.look(queues, None);
        hints.looked(queues, &Look { first: first.into(), ..Look::default() });
    }

    #[test]
    fn a_claim_begins_where_the_last_one_ended() {
        let (hints, queues) = hints();
        assert!(hints.wants_look(&queues, false, None), "nothing is known at first");
        look(&hints, &queues, &[at(0, (10, 5)), at(3, (1, 1))]);
        assert!(!hints.wants_look(&queues, false, None));
        assert!(hints.wants_look(&queues, true, None), "a cheap look is taken before saying that nothing is there");
        assert_eq!(hints.begin(&queues), [at(0, (10, 4)), at(3, (1, 0))]);
        hints.claimed([("q", 0, (10, 5)), ("q", 0, (11, 9))].into_iter());
        assert_eq!(hints.begin(&queues), [at(0, (11, 9)), at(3, (1, 0))]);
    }

    #[test]
    fn a_job_that_is_added_while_a_claim_runs_is_not_passed_over() {
        let (hints, queues) = hints();
        look(&hints, &queues, &[at(0, (10, 5))]);
        hints.begin(&queues);
        hints.added("q", 0, 7);
        hints.added("q", -1, 8);
        hints.claimed([("q", 0, (20, 9))].into_iter());
        assert_eq!(hints.begin(&queues), [at(-1, (8, i64::MIN)), at(0, (7, i64::MIN))]);
        // Nor by a look whose snapshot was older.
        hints.look(&queues, None);
        hints.added("q", 0, 6);
        hints.looked(&queues, &Look::default());
        assert_eq!(hints.begin(&queues), [at(0, (6, i64::MIN))]);
    }

    #[test]
    fn a_dear_look_is_rationed_and_a_slow_one_alone_is_not() {
        let (hints, queues) = hints();
        let slow = |hints: &Hints| {
            hints.look(&queues, None);
            hints.looked(&queues, &Look { cost: DEAR * 2, ..Look::default() });
        };
        slow(&hints);
        slow(&hints);
        assert!(hints.wants_look(&queues, true, None));
        slow(&hints);
        assert!(!hints.wants_look(&queues, true, None));
        hints.changed("q");
        assert!(!hints.wants_look(&queues, true, None));
        look(&hints, &queues, &[]);
        assert!(hints.wants_look(&queues, true, None));
    }

    #[test]
    fn a_look_that_failed_changes_nothing() {
        let (hints, queues) = hints();
        hints.not_looked(hints.look(&queues, None));
        assert!(hints.wants_look(&queues, false, None), "nothing is known yet");
        look(&hints, &queues, &[at(0, (10, 5))]);
        hints.changed("q");
        hints.not_looked(hints.look(&queues, None));
        assert!(hints.wants_look(&queues, false, None), "what changed is still to be seen");
        let before = hints.look(&queues, None);
        assert!(!hints.wants_look(&queues, false, None));
        hints.changed("q");
        hints.not_looked(before);
        assert!(hints.wants_look(&queues, false, None), "also what changed meanwhile");
        assert_eq!(hints.begin(&queues), [at(0, (10, 4))]);
    }

    #[test]
    fn by_a_tests_clock_a_second_passes_when_it_says_so() {
        let (hints, queues) = hints();
        hints.look(&queues, Some(5_000_000));
        hints.looked(&queues, &Look { first: vec![at(0, (10, 5))], ..Look::default() });
        assert!(!hints.wants_look(&queues, false, Some(5_999_999)));
        for moved in [6_000_000, 4_000_000] {
            assert!(hints.wants_look(&queues, false, Some(moved)), "{moved}");
        }
    }

    #[test]
    fn that_a_queue_has_limits_is_known_until_a_look_says_otherwise() {
        let (hints, queues) = hints();
        assert!(!hints.has_limits(&queues));
        hints.look(&queues, None);
        hints.looked(&queues, &Look { limited: queues.clone(), ..Look::default() });
        assert!(hints.has_limits(&queues) && !hints.wants_look(&queues, false, None));
        hints.changed("q");
        assert!(hints.wants_look(&queues, false, None), "they may have been lifted");
        look(&hints, &queues, &[]);
        assert!(!hints.has_limits(&queues));
    }
}
