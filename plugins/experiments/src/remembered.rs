use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hashlink::LruCache;
use selvedge_core::experiment::{Payload, sticky::Documents};

/// Assignments of the subjects that were read last, kept in memory, so that whoever comes again costs no read.
///
/// The Store says what holds, and an answer from memory has to be one that the Store would give. It is, because memory is only
/// believed about what it *has*, never about what it lacks:
///
/// - What is here was read from the Store, and there a row is written once. It is never deleted, and its variation changes in
///   one case, which is below.
/// - An evaluation that found something missing ([`Outcome::lacked`](selvedge_core::experiment::Outcome::lacked)), or has
///   something to write, is thrown away and done again with what the Store has. So a subject that another process assigns
///   first is found, a device's assignment is carried over to the account with both as they are by then, and a version that
///   is blocked by `minBucketVersion` is looked for each time.
/// - Where every lookup ended at the row of the very attribute that the experiment goes by, and that row names a variation
///   that there is, other rows change nothing: that row is looked at first. The Store would lead to the same answer.
/// - A row belongs to an attribute and its value. Another user on the same device is another subject, with rows of their own.
/// - A peek goes by the same rule, and keeps nothing either way.
///
/// The one case: a row is replaced, with a higher version, by whoever goes by a configuration that no longer has its variation.
/// A process whose configuration still has it goes on showing it from memory, as it did a moment before. It would also have
/// shown it to anybody new, for it has not heard yet. With the next configuration that it takes, whatever it is, memory is
/// emptied and the Store is read; so nobody is shown a variation that their configuration does not have, and all who go by the
/// same configuration agree again even if the variation comes back.
pub(crate) struct Remembered(Mutex<State>);

struct State {
    /// The configuration it was read under.
    payload: Arc<Payload>,
    subjects: LruCache<Box<str>, Rows>,
}

/// A subject's experiments, each with its variation.
type Rows = Arc<[(Box<str>, Box<str>)]>;

impl Remembered {
    /// Keeps as many subjects as this at most; those that were not asked for the longest go first.
    pub(crate) fn new(most: usize) -> Self {
        Self(Mutex::new(State { payload: Arc::default(), subjects: LruCache::new(most) }))
    }

    /// Adds to the documents what is remembered of them.
    pub(crate) fn fill(&self, payload: &Arc<Payload>, documents: &mut Documents) {
        let mut state = self.under(payload);
        let known: Vec<_> = documents.keys().map(|subject| state.subjects.get(subject.as_str()).cloned()).collect();
        drop(state);
        for (document, rows) in documents.values_mut().zip(known) {
            let rows = rows.iter().flat_map(|rows| rows.iter());
            document
                .assignments
                .extend(rows.map(|(experiment, variation)| (experiment.to_string(), variation.to_string())));
        }
    }

    /// Notes what the Store has. Of a subject without assignments there is nothing to know.
    pub(crate) fn note(&self, payload: &Arc<Payload>, documents: &Documents) {
        let rows =
            documents.iter().filter(|(_, document)| !document.assignments.is_empty()).map(|(subject, document)| {
                let rows = document.assignments.iter().map(|(experiment, variation)| {
                    (Box::<str>::from(experiment.as_str()), Box::<str>::from(variation.as_str()))
                });
                (Box::from(subject.as_str()), rows.collect())
            });
        let rows: Vec<(Box<str>, Rows)> = rows.collect();
        let mut state = self.under(payload);
        for (subject, rows) in rows {
            state.subjects.insert(subject, rows);
        }
    }

    /// What is remembered under this configuration: nothing, if it was another one so far.
    fn under(&self, payload: &Arc<Payload>) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&state.payload, payload) {
            state.subjects.clear();
            state.payload = payload.clone();
        }
        state
    }
}

/// Who is remembered is nobody's business.
impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Remembered").field("subjects", &state.subjects.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use selvedge_core::experiment::sticky::Document;

    use super::*;

    fn documents(names: &[&str], kept: bool) -> Documents {
        let document = |name: &&str| {
            let mut document = Document::new("id", *name);
            if kept {
                document.assignments.insert("test__0".into(), "a".into());
            }
            (document.key(), document)
        };
        names.iter().map(document).collect()
    }

    fn known(remembered: &Remembered, payload: &Arc<Payload>, names: &[&str]) -> Vec<bool> {
        let mut found = documents(names, false);
        remembered.fill(payload, &mut found);
        found.values().map(|document| !document.assignments.is_empty()).collect()
    }

    #[test]
    fn who_was_not_asked_for_the_longest_goes_first() {
        let (payload, remembered) = (Arc::default(), Remembered::new(2));
        remembered.note(&payload, &documents(&["a"], true));
        remembered.note(&payload, &documents(&["b"], true));
        assert_eq!(known(&remembered, &payload, &["a"]), [true]);
        remembered.note(&payload, &documents(&["c"], true));
        assert_eq!(known(&remembered, &payload, &["a", "b", "c"]), [true, false, true]);
        let none = Remembered::new(0);
        none.note(&payload, &documents(&["a"], true));
        assert_eq!(known(&none, &payload, &["a"]), [false]);
    }

    #[test]
    fn another_configuration_begins_with_nothing() {
        let (first, other, remembered) = (Arc::default(), Arc::default(), Remembered::new(2));
        remembered.note(&first, &documents(&["a"], true));
        assert_eq!(known(&remembered, &other, &["a"]), [false]);
        assert_eq!(known(&remembered, &first, &["a"]), [false], "also when it comes back");
    }

    #[test]
    fn a_subject_without_assignments_takes_no_place() {
        let (payload, remembered) = (Arc::default(), Remembered::new(1));
        remembered.note(&payload, &documents(&["a"], true));
        remembered.note(&payload, &documents(&["b"], false));
        assert_eq!(known(&remembered, &payload, &["a"]), [true]);
        assert!(!format!("{remembered:?}").contains("id||a"));
    }
}
