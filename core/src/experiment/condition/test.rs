//! What has to be true of one value.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Node, SavedGroups, Trail, all, any, groups, pattern::Pattern, scope::Scope};
use crate::experiment::{
    members::Members,
    value::{equal, lower, order},
    version::Version,
};

/// An operator with its operand, or several of them.
#[derive(Clone, Debug)]
pub(super) enum Test {
    All(Box<[Test]>),
    Not(Box<Test>),
    Equal(Value),
    EqualText(Box<str>),
    /// The ordering to the operand is one of these: less, equal, greater.
    Order(Allowed, Value),
    Version(Allowed, Version),
    In(Members),
    /// Each of these is passed by an element of the list.
    Every(Box<[Test]>),
    /// An element of the list passes the test.
    Element(Box<Test>),
    /// An element of the list meets the condition.
    ElementMeets(Box<Node>),
    Size(Box<Test>),
    Exists,
    Type(&'static str),
    Pattern(Pattern),
    /// Text that is equal in lower case.
    Folded(Box<str>),
    Group(Box<str>),
    NotGroup(Box<str>),
    /// Known, and never true.
    Never,
    /// Not understood.
    Unknown,
}

/// Which orderings an operator allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    less: bool,
    equal: bool,
    greater: bool,
}

impl Allowed {
    const fn new(less: bool, equal: bool, greater: bool) -> Self {
        Self { less, equal, greater }
    }

    fn allows(self, ordering: Ordering) -> bool {
        match ordering {
            Ordering::Less => self.less,
            Ordering::Equal => self.equal,
            Ordering::Greater => self.greater,
        }
    }

    fn of(operator: &str) -> Option<Self> {
        Some(match operator {
            "lt" => Self::new(true, false, false),
            "lte" => Self::new(true, true, false),
            "gt" => Self::new(false, false, true),
            "gte" => Self::new(false, true, true),
            _ => return None,
        })
    }
}

impl Test {
    /// A value is operators when all its keys are, and else what has to be equal.
    pub(super) fn compile(source: &Value) -> Self {
        match source {
            Value::Object(fields) if is_operators(source) => {
                let mut tests: Vec<Self> = fields.iter().map(|(name, operand)| Self::operator(name, operand)).collect();
                match tests.pop() {
                    Some(only) if tests.is_empty() => only,
                    last => {
                        tests.extend(last);
                        Self::All(tests.into())
                    }
                }
            }
            Value::String(text) => Self::EqualText(text.as_str().into()),
            value => Self::Equal(value.clone()),
        }
    }

    fn operator(name: &str, operand: &Value) -> Self {
        let list = |make: fn(&[Value]) -> Self| operand.as_array().map_or(Self::Never, |list| make(list));
        let not = |test: Self| match test {
            Self::Never => Self::Never,
            test => Self::Not(Box::new(test)),
        };
        let Some(name) = name.strip_prefix('$') else { return Self::Unknown };
        if let Some(allowed) = Allowed::of(name) {
            return Self::Order(allowed, operand.clone());
        }
        if let (Some(allowed), Value::String(version)) = (name.strip_prefix('v').and_then(Allowed::of), operand) {
            return Self::Version(allowed, Version::new(version));
        }
        match name {
            "eq" => Self::equal(operand),
            "ne" => not(Self::equal(operand)),
            "not" => not(Self::compile(operand)),
            "veq" => Self::same_version(operand),
            "vne" => not(Self::same_version(operand)),
            "vlt" | "vlte" | "vgt" | "vgte" => Self::Never,
            "in" => list(|list| Self::In(Members::new(list, false))),
            "nin" => not(list(|list| Self::In(Members::new(list, false)))),
            "ini" => list(|list| Self::In(Members::new(list, true))),
            "nini" => not(list(|list| Self::In(Members::new(list, true)))),
            "all" => list(|list| Self::Every(list.iter().map(Self::compile).collect())),
            "alli" => list(|list| Self::Every(list.iter().map(Self::folded).collect())),
            "inGroup" => operand.as_str().map_or(Self::Unknown, |group| Self::Group(group.into())),
            "notInGroup" => operand.as_str().map_or(Self::Unknown, |group| Self::NotGroup(group.into())),
            "regex" => Self::pattern(operand, false),
            "regexi" => Self::pattern(operand, true),
            "notRegex" => not(Self::pattern(operand, false)),
            "notRegexi" => not(Self::pattern(operand, true)),
            "elemMatch" if is_operators(operand) && !joins_conditions(operand) => {
                Self::Element(Box::new(Self::compile(operand)))
            }
            "elemMatch" => Self::ElementMeets(Box::new(Node::compile(operand))),
            "size" => Self::Size(Box::new(Self::compile(operand))),
            "exists" if crate::experiment::value::truthy(operand) => Self::Exists,
            "exists" => not(Self::Exists),
            "type" => operand.as_str().and_then(type_named).map_or(Self::Never, Self::Type),
            // They belong where a condition does; on a value they can be evaluated, and are never true.
            "and" | "or" | "nor" | "savedGroup" => Self::Not(Box::new(Self::All(Box::default()))),
            _ => Self::Unknown,
        }
    }

    fn equal(operand: &Value) -> Self {
        match operand {
            Value::String(text) => Self::EqualText(text.as_str().into()),
            value => Self::Equal(value.clone()),
        }
    }

    fn same_version(operand: &Value) -> Self {
        match operand {
            Value::String(version) => Self::Version(Allowed::new(false, true, false), Version::new(version)),
            value => Self::Equal(value.clone()),
        }
    }

    fn folded(operand: &Value) -> Self {
        match operand {
            Value::String(text) => Self::Folded(text.to_lowercase().into()),
            value => Self::compile(value),
        }
    }

    fn pattern(operand: &Value, ignore_case: bool) -> Self {
        let Value::String(pattern) = operand else { return Self::Unknown };
        Pattern::new(pattern, ignore_case).map_or(Self::Unknown, Self::Pattern)
    }

    /// Whether looking costs more than comparing does.
    pub(super) fn is_costly(&self) -> bool {
        matches!(self, Self::Pattern(Pattern::Regex(_)) | Self::ElementMeets(_))
    }

    pub(super) fn evaluate(&self, value: &Value, groups: &SavedGroups, trail: &Trail<'_>) -> Option<bool> {
        let test = |test: &Self, value: &Value| test.evaluate(value, groups, trail);
        Some(match (self, value) {
            (Self::All(tests), value) => return all(tests.iter().map(|one| test(one, value))),
            (Self::Not(one), value) => return test(one, value).map(|passed| !passed),
            (Self::EqualText(text), Value::String(value)) => **text == **value,
            (Self::Equal(operand), value) => equal(operand, value),
            (Self::Order(allowed, operand), value) => {
                order(value, operand).is_some_and(|ordering| allowed.allows(ordering))
            }
            (Self::Version(allowed, operand), Value::String(value)) => allowed.allows(operand.order(value)),
            (Self::In(members), value) => members.meet(value),
            (Self::Every(tests), Value::Array(items)) => {
                return all(tests.iter().map(|one| any(items.iter().map(|item| test(one, item)))));
            }
            (Self::Element(one), Value::Array(items)) => return any(items.iter().map(|item| test(one, item))),
            (Self::ElementMeets(node), Value::Array(items)) => {
                return any(items.iter().map(|item| node.evaluate(Scope::Element(item), groups, trail)));
            }
            (Self::Size(one), Value::Array(items)) => return test(one, &items.len().into()),
            (Self::Exists, value) => !value.is_null(),
            (Self::Type(name), value) => *name == type_of(value),
            (Self::Pattern(pattern), Value::String(value)) => pattern.is_match(value),
            (Self::Folded(text), Value::String(value)) => **text == *lower(value),
            (Self::Group(group), value) => match groups.list(group) {
                groups::List::Of(members) => members.meet(value),
                groups::List::Missing => false,
                groups::List::Unknown => return None,
            },
            (Self::NotGroup(group), value) => match groups.list(group) {
                groups::List::Of(members) => !members.meet(value),
                groups::List::Missing => true,
                groups::List::Unknown => return None,
            },
            (Self::Unknown, _) => return None,
            // An operator on a value of a type it is not for.
            _ => false,
        })
    }
}

/// Every key is an operator; so are the keys of `{}`.
fn is_operators(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| fields.keys().all(|key| key.starts_with('$')))
}

/// The operators join conditions, so they are about an element's fields.
fn joins_conditions(value: &Value) -> bool {
    ["$and", "$or", "$nor", "$savedGroup"].iter().any(|operator| value.get(operator).is_some())
}

const TYPES: [&str; 6] = ["string", "number", "boolean", "array", "object", "null"];

fn type_named(name: &str) -> Option<&'static str> {
    TYPES.into_iter().find(|known| *known == name)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Null => "null",
    }
}
