//! Who an experiment is for: conditions on attributes, compiled once and then only looked through.
//!
//! The language is that of the [GrowthBook SDK specification](https://docs.growthbook.io/lib/build-your-own), 0.12, after
//! MongoDB's queries. Whatever this version cannot evaluate (an operator it does not know, a pattern that is no regular
//! expression) is neither true nor false, and stays so under `$not`: nobody is included by an exclusion that was not understood.

mod groups;
mod pattern;
mod scope;
mod test;

use serde_json::Value;

pub use self::groups::SavedGroups;
use self::{
    groups::Reference,
    scope::{Path, Scope},
    test::Test,
};
use super::{attributes::Attributes, value::depth};
use crate::{Error, ErrorKind, Result};

/// A compiled condition.
///
/// ```
/// use selvedge_core::experiment::{Attributes, condition::{Condition, SavedGroups}};
/// use serde_json::json;
///
/// let condition = Condition::compile(&json!({"country": {"$in": ["DE", "FR"]}, "app.version": {"$vgte": "2.10.0"}}))?;
/// let mut ada = Attributes::default();
/// ada.insert("country", json!("DE"));
/// ada.insert("app", json!({"version": "2.11.3"}));
/// assert!(condition.matches(&ada, &SavedGroups::default()));
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Condition {
    node: Node,
    source: Value,
}

/// What has to be true of a scope: a subject's attributes, an element of a list, or a prerequisite's value.
#[derive(Clone, Debug)]
enum Node {
    All(Box<[Node]>),
    /// One of them, or anything when there are none.
    Any(Box<[Node]>),
    Not(Box<Node>),
    Field(Path, Test),
    Group(Reference),
    /// Not understood.
    Unknown,
}

impl Condition {
    /// How deeply a condition may nest.
    pub const MAX_DEPTH: usize = 64;

    /// Compiles a condition. What is not understood in it is no error: it includes nobody.
    ///
    /// # Errors
    /// `TooLarge` for a condition that nests more deeply than [`Condition::MAX_DEPTH`].
    pub fn compile(source: &Value) -> Result<Self> {
        let nests = depth(source);
        if nests > Self::MAX_DEPTH {
            return Err(Error::new(ErrorKind::TooLarge, "experiment.condition", "the condition nests too deeply")
                .with("depth", nests)
                .with("most", Self::MAX_DEPTH)
                .advise("write it with fewer conditions inside conditions, or use a saved group"));
        }
        Ok(Self { node: Node::compile(source), source: source.clone() })
    }

    /// Whether the attributes meet the condition.
    pub fn matches(&self, attributes: &Attributes, groups: &SavedGroups) -> bool {
        self.evaluate(Scope::Attributes(attributes), groups, &Trail::default()) == Some(true)
    }

    /// Whether a prerequisite's value meets the condition, which calls it `value`.
    pub(crate) fn matches_value(&self, value: &Value, groups: &SavedGroups) -> bool {
        self.evaluate(Scope::Prerequisite(value), groups, &Trail::default()) == Some(true)
    }

    fn evaluate(&self, scope: Scope<'_>, groups: &SavedGroups, trail: &Trail<'_>) -> Option<bool> {
        self.node.evaluate(scope, groups, trail)
    }
}

/// As it was written.
impl serde::Serialize for Condition {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.source.serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Condition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::compile(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The saved groups that are being evaluated, to find cycles.
#[derive(Default)]
struct Trail<'a>(Option<(&'a str, &'a Trail<'a>)>);

impl Trail<'_> {
    /// How many groups may refer to each other in a chain.
    const MAX: usize = 16;

    /// Whether the group may be entered: it is not being evaluated already, and the chain is not too long.
    fn admits(&self, group: &str) -> bool {
        let (mut trail, mut length) = (self, 0);
        while let Some((name, before)) = trail.0 {
            if name == group || length == Self::MAX {
                return false;
            }
            (trail, length) = (before, length + 1);
        }
        true
    }
}

impl Node {
    fn compile(source: &Value) -> Self {
        let Value::Object(fields) = source else { return Self::Unknown };
        let mut nodes: Vec<Self> = fields.iter().map(|(key, value)| Self::clause(key, value)).collect();
        // What is quick to find false is looked at first; the result does not depend on the order.
        nodes.sort_by_key(|node| match node {
            Self::Field(_, test) => test.is_costly(),
            _ => true,
        });
        match nodes.pop() {
            Some(only) if nodes.is_empty() => only,
            last => {
                nodes.extend(last);
                Self::All(nodes.into())
            }
        }
    }

    fn clause(key: &str, value: &Value) -> Self {
        let several = || value.as_array().map(|all| all.iter().map(Self::compile).collect::<Box<[Self]>>());
        match key {
            "$and" => several().map_or(Self::Unknown, Self::All),
            "$or" => several().map_or(Self::Unknown, Self::Any),
            "$nor" => several().map_or(Self::Unknown, |all| Self::Not(Box::new(Self::Any(all)))),
            "$not" => Self::Not(Box::new(Self::compile(value))),
            "$savedGroup" => Reference::compile(value).map_or(Self::Unknown, Self::Group),
            attribute => Self::Field(Path::new(attribute), Test::compile(value)),
        }
    }

    fn evaluate(&self, scope: Scope<'_>, groups: &SavedGroups, trail: &Trail<'_>) -> Option<bool> {
        match self {
            Self::All(nodes) => all(nodes.iter().map(|node| node.evaluate(scope, groups, trail))),
            Self::Any(nodes) if nodes.is_empty() => Some(true),
            Self::Any(nodes) => any(nodes.iter().map(|node| node.evaluate(scope, groups, trail))),
            Self::Not(node) => node.evaluate(scope, groups, trail).map(|met| !met),
            Self::Field(path, test) => test.evaluate(scope.get(path), groups, trail),
            Self::Group(reference) => reference.evaluate(scope, groups, trail),
            Self::Unknown => None,
        }
    }
}

/// False as soon as one is false, whatever is unknown beside it (Kleene's logic).
fn all(parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut known = true;
    for part in parts {
        match part {
            Some(false) => return Some(false),
            Some(true) => {}
            None => known = false,
        }
    }
    known.then_some(true)
}

/// True as soon as one is true, whatever is unknown beside it.
fn any(parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    all(parts.map(|part| part.map(|met| !met))).map(|none| !none)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(condition: Value, attributes: Value) -> bool {
        let attributes = attributes.as_object().cloned().unwrap_or_default().into_iter().collect();
        Condition::compile(&condition).unwrap().matches(&attributes, &SavedGroups::default())
    }

    #[test]
    fn what_is_not_understood_includes_nobody_even_negated() {
        for condition in [
            json!({"name": {"$sounds": "ada"}}),
            json!({"$not": {"name": {"$sounds": "ada"}}}),
            json!({"name": {"$not": {"$regex": "(?=ada)"}}}),
            json!({"$not": {"name": {"$notRegex": "["}}}),
            json!({"$not": null}),
            json!({"$or": 3}),
            json!(null),
            json!([]),
        ] {
            assert!(!matches(condition.clone(), json!({"name": "ada"})), "{condition}");
        }
        assert!(matches(json!({"$or": [{"name": {"$sounds": "x"}}, {"name": "ada"}]}), json!({"name": "ada"})));
        assert!(matches(json!({"$not": {"a": {"$sounds": 1}, "name": "bob"}}), json!({"name": "ada"})));
    }

    #[test]
    fn nesting_is_bounded_and_never_overflows_the_stack() {
        let nested = |levels: usize| (0..levels).fold(json!({"a": 1}), |inner, _| json!({ "$not": inner }));
        assert!(matches(nested(60), json!({"a": 1})));
        assert_eq!(Condition::compile(&nested(64)).unwrap_err().kind(), ErrorKind::TooLarge);
        let deep = nested(5_000);
        assert_eq!(Condition::compile(&deep).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn a_condition_is_written_as_it_was_read() {
        let source = json!({"$or": [{"a": {"$gt": 1.5}}, {"b": {"$sounds": [1]}}]});
        let condition: Condition = serde_json::from_value(source.clone()).unwrap();
        assert_eq!(serde_json::to_value(&condition).unwrap(), source);
    }

    #[test]
    fn numbers_are_compared_by_value() {
        assert!(matches(json!({"n": 1}), json!({"n": 1.0})));
        assert!(matches(json!({"n": {"$in": [1.0]}}), json!({"n": 1})));
        assert!(matches(json!({"n": {"$lt": 1e300}}), json!({"n": u64::MAX})));
        for nan in ["NaN", "-Infinity", "1e999"] {
            assert!(!matches(json!({"n": {"$lt": 5}}), json!({"n": nan})), "{nan}");
            assert!(!matches(json!({"n": {"$gte": 5}}), json!({"n": nan})), "{nan}");
        }
    }
}
