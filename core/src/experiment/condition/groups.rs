//! Saved groups: lists and conditions that other conditions refer to by id.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    Condition, Trail,
    scope::{Path, Scope},
};
use crate::{Result, experiment::members::Members};

/// Every saved group, by its id.
#[derive(Clone, Debug, Default)]
pub struct SavedGroups(HashMap<Box<str>, Group>);

#[derive(Clone, Debug)]
enum Group {
    /// An old group: values that say nothing of their attribute.
    Values(Members),
    /// The values of an attribute.
    List {
        attribute: Option<Path>,
        members: Members,
    },
    Condition(Condition),
    /// Who is in it is known elsewhere, and comes with the attributes.
    Remote {
        attribute: Option<Box<str>>,
    },
    /// Not understood.
    Unknown,
}

/// What `$inGroup` finds under an id.
pub(super) enum List<'a> {
    Of(&'a Members),
    Missing,
    /// A group that is no list, or is not understood.
    Unknown,
}

impl SavedGroups {
    /// The attribute that lists the ids of the remote groups that a subject is in.
    pub const REMOTE_IDS: &str = "__gb_remoteGroupIds";

    /// Adds a group; one of that id is replaced. What is not understood includes nobody.
    ///
    /// # Errors
    /// `TooLarge` for a group whose condition nests more deeply than [`Condition::MAX_DEPTH`].
    pub fn insert(&mut self, id: &str, group: &Value) -> Result<()> {
        self.0.insert(id.into(), Group::compile(group)?);
        Ok(())
    }

    pub(super) fn list(&self, id: &str) -> List<'_> {
        match self.0.get(id) {
            None => List::Missing,
            Some(Group::Values(members) | Group::List { members, .. }) => List::Of(members),
            Some(_) => List::Unknown,
        }
    }
}

impl Group {
    fn compile(group: &Value) -> Result<Self> {
        if let Value::Array(values) = group {
            return Ok(Self::Values(Members::new(values, false)));
        }
        let attribute = group.get("attributeKey").and_then(Value::as_str);
        Ok(match group.get("type").and_then(Value::as_str) {
            Some("list") => group.get("values").and_then(Value::as_array).map_or(Self::Unknown, |values| Self::List {
                attribute: attribute.map(Path::new),
                members: Members::new(values, false),
            }),
            Some("condition") => match group.get("condition") {
                Some(condition) => Self::Condition(Condition::compile(condition)?),
                None => Self::Unknown,
            },
            Some("remote") => Self::Remote { attribute: attribute.map(Box::from) },
            _ => Self::Unknown,
        })
    }
}

/// `$savedGroup`: a group, and maybe another attribute than its own to look at.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    id: Box<str>,
    attribute: Option<(Box<str>, Path)>,
}

impl Reference {
    /// `None` for what is no reference.
    pub(super) fn compile(source: &Value) -> Option<Self> {
        let id = source.get("id")?.as_str()?.into();
        let attribute = match source.get("attributeKey") {
            None => None,
            Some(name) => name.as_str().map(|name| Some((name.into(), Path::new(name))))?,
        };
        Some(Self { id, attribute })
    }

    pub(super) fn evaluate(&self, scope: Scope<'_>, groups: &SavedGroups, trail: &Trail<'_>) -> Option<bool> {
        let Some(group) = groups.0.get(&self.id) else { return Some(false) };
        match group {
            Group::List { attribute, members } => {
                let path = self.attribute.as_ref().map(|(_, path)| path).or(attribute.as_ref())?;
                Some(members.meet(scope.get(path)))
            }
            Group::Condition(_) if !trail.admits(&self.id) => None,
            Group::Condition(condition) => condition.evaluate(scope, groups, &Trail(Some((&self.id, trail)))),
            Group::Remote { attribute } => {
                let own = |(name, _): &(Box<str>, Path)| attribute.as_ref() == Some(name);
                if !self.attribute.as_ref().is_none_or(own) {
                    return None;
                }
                let ids = scope.get(&Path::new(SavedGroups::REMOTE_IDS)).as_array()?;
                Some(ids.iter().any(|id| id.as_str() == Some(&*self.id)))
            }
            Group::Values(_) | Group::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn long_chains_and_cycles_include_nobody() {
        let mut groups = SavedGroups::default();
        let refer = |id: String| json!({"type": "condition", "condition": {"$savedGroup": {"id": id}}});
        for n in 0..10_000 {
            groups.insert(&format!("chain-{n}"), &refer(format!("chain-{}", n + 1))).unwrap();
        }
        groups.insert("chain-10000", &json!({"type": "condition", "condition": {"plan": "pro"}})).unwrap();
        groups
            .insert("self", &json!({"type": "condition", "condition": {"$not": {"$savedGroup": {"id": "self"}}}}))
            .unwrap();
        let in_group = |id: &str| {
            let condition = Condition::compile(&json!({"$savedGroup": {"id": id}})).unwrap();
            condition.matches(&[("plan".to_owned(), json!("pro"))].into_iter().collect(), &groups)
        };
        assert!(in_group("chain-9990"));
        assert!(!in_group("chain-0"));
        assert!(!in_group("self"));
    }
}
