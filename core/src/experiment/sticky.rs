//! Assignments that stay: what a subject saw once is kept in a document, and looked up before anything is computed.
//!
//! A document belongs to one value of one attribute (a user id, a device id) and holds one assignment for each experiment and
//! bucket version. Where it is kept is not decided here. The method is that of the
//! [GrowthBook SDK specification](https://docs.growthbook.io/lib/build-your-own)'s sticky bucketing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Documents by their [`document_key`].
pub type Documents = BTreeMap<String, Document>;

/// What one value of an attribute was assigned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// The attribute: `id`.
    pub attribute_name: String,
    /// Its value, as text.
    pub attribute_value: String,
    /// The key of the variation that was seen, by [`assignment_key`].
    pub assignments: BTreeMap<String, String>,
}

impl Document {
    /// A document without assignments.
    pub fn new(attribute: impl Into<String>, value: impl Into<String>) -> Self {
        Self { attribute_name: attribute.into(), attribute_value: value.into(), assignments: BTreeMap::new() }
    }

    /// The key it is kept under.
    pub fn key(&self) -> String {
        document_key(&self.attribute_name, &self.attribute_value)
    }
}

/// The key of the document of an attribute's value: `id||ada`.
pub fn document_key(attribute: &str, value: &str) -> String {
    format!("{attribute}||{value}")
}

/// The key of an assignment in its document: `my-test__0`. A new bucket version starts an experiment anew.
pub fn assignment_key(experiment: &str, bucket_version: u32) -> String {
    format!("{experiment}__{bucket_version}")
}

/// What documents say about an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept<'a> {
    /// Nothing.
    Nothing,
    /// The subject was assigned under a bucket version that is blocked by now, and must not take part again.
    Blocked,
    /// The key of the variation that was seen.
    Variation(&'a str),
}

/// Looks an experiment up in the documents of a subject, the one of the most telling attribute first. Who was assigned under a
/// bucket version before `least_version` is blocked.
pub fn find<'a>(documents: &[&'a Document], experiment: &str, version: u32, least_version: u32) -> Kept<'a> {
    let blocked = |key: &str| {
        let before = key.strip_prefix(experiment).and_then(|rest| rest.strip_prefix("__"));
        before.and_then(|version| version.parse::<u32>().ok()).is_some_and(|version| version < least_version)
    };
    if least_version > 0 && documents.iter().any(|document| document.assignments.keys().any(|key| blocked(key))) {
        return Kept::Blocked;
    }
    let key = assignment_key(experiment, version);
    let found = documents.iter().find_map(|document| document.assignments.get(&key));
    found.map_or(Kept::Nothing, |variation| Kept::Variation(variation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_document_is_the_most_telling() {
        let mut user = Document::new("id", "ada");
        let mut device = Document::new("device", "d1");
        device.assignments.insert(assignment_key("test", 1), "b".into());
        assert_eq!(find(&[&user, &device], "test", 1, 0), Kept::Variation("b"));
        user.assignments.insert(assignment_key("test", 1), "a".into());
        assert_eq!(find(&[&user, &device], "test", 1, 0), Kept::Variation("a"));
        assert_eq!(find(&[&user, &device], "test", 2, 0), Kept::Nothing);
        assert_eq!(find(&[&user, &device], "test", 2, 2), Kept::Blocked);
        assert_eq!(find(&[&user, &device], "tes", 2, 2), Kept::Nothing);
        assert_eq!(user.key(), "id||ada");
    }
}
