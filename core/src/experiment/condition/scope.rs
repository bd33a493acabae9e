//! What a condition looks at.

use serde_json::Value;

use crate::experiment::attributes::{Attributes, Name};

/// Where a value is: `father.age`, `tags.0`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    first: Name,
    rest: Box<[Box<str>]>,
}

impl Path {
    pub(super) fn new(path: &str) -> Self {
        let mut parts = path.split('.');
        Self { first: Name::new(parts.next().unwrap_or_default()), rest: parts.map(Box::from).collect() }
    }
}

/// The values that a condition's paths lead to.
#[derive(Clone, Copy)]
pub(super) enum Scope<'a> {
    /// A subject's attributes.
    Attributes(&'a Attributes),
    /// An element of a list.
    Element(&'a Value),
    /// A prerequisite's value, which is all there is, under the name `value`.
    Prerequisite(&'a Value),
}

impl<'a> Scope<'a> {
    /// The value at the path; what is missing is `null`.
    pub(super) fn get(self, path: &Path) -> &'a Value {
        static MISSING: Value = Value::Null;
        self.find(path).unwrap_or(&MISSING)
    }

    fn find(self, path: &Path) -> Option<&'a Value> {
        let first = match self {
            Self::Attributes(attributes) => attributes.find(&path.first)?,
            Self::Element(element) => step(element, &path.first.text)?,
            Self::Prerequisite(value) => (*path.first.text == *"value").then_some(value)?,
        };
        path.rest.iter().try_fold(first, |value, part| step(value, part))
    }
}

fn step<'a>(value: &'a Value, part: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => fields.get(part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    }
}
