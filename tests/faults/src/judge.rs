//! Compares what was promised with what was done.

use std::collections::HashMap;

use crate::{
    counts::Verdict,
    produce::Promise,
    task::{Ends, Task, body_of},
};

/// A row of `effect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) job: i64,
    pub(crate) key: String,
    pub(crate) body: String,
}

/// A message that a job left when it ended by the engine's commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) job: i64,
    pub(crate) key: String,
}

/// What was lost, done twice, or done wrongly.
pub(crate) fn judge(promises: &HashMap<String, Promise>, effects: &[Effect], notes: &[Note]) -> Verdict {
    let mut verdict = Verdict { effects: effects.len() as u64, ..Verdict::default() };
    let ends = |ends: Ends, key: &str| promises.get(key).is_some_and(|promise| promise.ends == ends);
    // Every end of a job, by its number and by its key: a row for some jobs, a message for the others.
    let rows = effects.iter().filter(|effect| ends(Ends::ByRow, &effect.key)).map(|row| (row.job, row.key.as_str()));
    let told = notes.iter().filter(|note| ends(Ends::ByCommit, &note.key)).map(|note| (note.job, note.key.as_str()));
    let (mut by_job, mut by_key) = (HashMap::<(i64, &str), u64>::new(), HashMap::<&str, u64>::new());
    let mut keys_of = HashMap::<i64, &str>::new();
    for (job, key) in rows.chain(told) {
        *by_job.entry((job, key)).or_default() += 1;
        *by_key.entry(key).or_default() += 1;
        // A number is never used again, so it cannot have done the work of two keys.
        verdict.wrong += u64::from(*keys_of.entry(job).or_insert(key) != key);
    }
    for (key, promise) in promises {
        let key = key.as_str();
        verdict.acknowledged += u64::from(!promise.jobs.is_empty());
        verdict.lost += promise.jobs.iter().filter(|job| !by_job.contains_key(&(**job, key))).count() as u64;
        let most = u64::from(!promise.jobs.is_empty()) + promise.unsure;
        verdict.doubled += u64::from(by_key.get(key).is_some_and(|times| *times > most));
    }
    verdict.doubled += by_job.values().filter(|times| **times > 1).count() as u64;
    // Whoever left a message is followed by exactly one job, and nobody else is.
    let mut followed = HashMap::<&str, u64>::new();
    effects.iter().for_each(|effect| *followed.entry(effect.key.as_str()).or_default() += 1);
    let expected: HashMap<String, ()> = notes.iter().map(|note| (Task::after(note.job).key, ())).collect();
    for key in expected.keys() {
        match followed.get(key.as_str()) {
            None => verdict.lost += 1,
            Some(1) => (),
            Some(_) => verdict.doubled += 1,
        }
    }
    let known = |effect: &Effect| ends(Ends::ByRow, &effect.key) || expected.contains_key(&effect.key);
    verdict.wrong += effects.iter().filter(|row| !known(row) || row.body != body_of(&row.key)).count() as u64;
    verdict.wrong += notes.iter().filter(|note| !ends(Ends::ByCommit, &note.key)).count() as u64;
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(ends: Ends, unsure: u64, jobs: &[i64]) -> Promise {
        Promise { ends, unsure, jobs: jobs.to_vec() }
    }

    fn row(job: i64, key: &str) -> Effect {
        Effect { job, key: key.into(), body: body_of(key) }
    }

    fn note(job: i64, key: &str) -> Note {
        Note { job, key: key.into() }
    }

    /// One job of each kind, and one of which nobody knows.
    fn story() -> (HashMap<String, Promise>, Vec<Effect>, Vec<Note>) {
        let promises = [
            ("row".to_owned(), promise(Ends::ByRow, 0, &[1])),
            ("told".to_owned(), promise(Ends::ByCommit, 0, &[2])),
            ("unsure".to_owned(), promise(Ends::ByRow, 1, &[])),
        ];
        (promises.into(), vec![row(1, "row"), row(3, "after 2")], vec![note(2, "told")])
    }

    #[test]
    fn what_came_true_once_is_right() {
        let (promises, mut effects, notes) = story();
        let right = Verdict { acknowledged: 2, effects: 2, ..Verdict::default() };
        assert_eq!(judge(&promises, &effects, &notes), right);
        effects.push(row(4, "unsure"));
        assert_eq!(judge(&promises, &effects, &notes), Verdict { effects: 3, ..right });
    }

    #[test]
    fn every_kind_of_damage_is_counted() {
        let (promises, effects, notes) = story();
        let lost = |effects: &[Effect], notes: &[Note]| judge(&promises, effects, notes).lost;
        assert_eq!(lost(&effects[1..], &notes), 1, "an effect is missing");
        assert_eq!(lost(&effects[..1], &notes), 1, "the job that follows is missing");
        assert_eq!(lost(&effects[..1], &[]), 1, "the message is missing");

        let with = |more: &[Effect], notes: &[Note]| judge(&promises, &[&effects, more].concat(), notes);
        assert!(with(&[row(1, "row")], &notes).doubled > 0, "the same job twice");
        assert!(with(&[row(9, "row")], &notes).doubled > 0, "another job for the same key");
        assert!(with(&[row(3, "after 2")], &notes).doubled > 0, "what follows came twice");
        assert!(with(&[row(8, "unsure"), row(9, "unsure")], &notes).doubled > 0, "twice for one try");
        assert!(with(&[], &[note(2, "told"), note(2, "told")]).doubled > 0, "two messages of one job");

        assert!(with(&[row(9, "nobody")], &notes).wrong > 0, "nobody asked for it");
        assert!(with(&[row(9, "after 77")], &notes).wrong > 0, "it follows nothing");
        assert!(with(&[Effect { body: "other".into(), ..row(9, "unsure") }], &notes).wrong > 0, "another body");
        assert!(with(&[row(1, "unsure")], &notes).wrong > 0, "one number, two keys");
        assert!(with(&[], &[note(2, "told"), note(7, "row")]).wrong > 0, "a message of another kind of job");
    }
}
