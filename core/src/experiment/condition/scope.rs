//! What a condition looks at.

use serde_json::{Map, Value};

/// Where a value is: `father.age`, `tags.0`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    first: Box<str>,
    rest: Box<[Box<str>]>,
}

impl Path {
    pub(super) fn new(path: &str) -> Self {
        let mut parts = path.split('.').map(Box::from);
        Self { first: parts.next().unwrap_or_default(), rest: parts.collect() }
    }
}

/// The values that a condition's paths lead to.
#[derive(Clone, Copy)]
pub(super) enum Scope<'a> {
    /// A subject's attributes.
    Attributes(&'a Map<String, Value>),
    /// An element of a list.
    Element(&'a Value),
    /// A prerequisite's value, which is all there is, under the name `value`.
    Prerequisite(&'a Value),
}

impl<'a> Scope<'a> {
    /// The value at the path; what is missing is `null`.
    pub(super) fn get(self, path: &Path) -> &'a Value {
        static MISSING: Value = Value::Null;
        let first = match self {
            Self::Attributes(attributes) => attributes.get(&*path.first),
            Self::Element(element) => step(element, &path.first),
            Self::Prerequisite(value) => (*path.first == *"value").then_some(value),
        };
        path.rest.iter().fold(first, |value, part| step(value?, part)).unwrap_or(&MISSING)
    }
}

fn step<'a>(value: &'a Value, part: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => fields.get(part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    }
}
