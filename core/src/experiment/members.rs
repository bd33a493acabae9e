//! What `$in` and saved groups look a value up in.

use serde_json::Value;

use super::value::lower;

/// A list of values, sorted by kind, so that a long one costs little.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    strings: Box<[Box<str>]>,
    numbers: Box<[f64]>,
    /// Whether `false` and `true` are members.
    bools: [bool; 2],
    null: bool,
    /// Strings are compared in lower case.
    folded: bool,
}

impl Members {
    /// Those of the list that can be members: arrays and objects equal nothing.
    pub(crate) fn new(values: &[Value], folded: bool) -> Self {
        let (mut strings, mut numbers) = (Vec::new(), Vec::new());
        let mut members = Self { folded, ..Self::default() };
        for value in values {
            match value {
                Value::String(text) if folded => strings.push(text.to_lowercase().into_boxed_str()),
                Value::String(text) => strings.push(text.as_str().into()),
                Value::Number(number) => numbers.extend(number.as_f64().map(unsigned_zero)),
                Value::Bool(value) => members.bools[usize::from(*value)] = true,
                Value::Null => members.null = true,
                Value::Array(_) | Value::Object(_) => {}
            }
        }
        strings.sort_unstable();
        numbers.sort_unstable_by(f64::total_cmp);
        (members.strings, members.numbers) = (strings.into(), numbers.into());
        members
    }

    /// Whether the value is a member or, if it is an array, has one.
    pub(crate) fn meet(&self, value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().any(|item| self.contain(item)),
            value => self.contain(value),
        }
    }

    fn contain(&self, value: &Value) -> bool {
        match value {
            Value::String(text) if self.folded => self.contain_text(&lower(text)),
            Value::String(text) => self.contain_text(text),
            Value::Number(number) => number
                .as_f64()
                .map(unsigned_zero)
                .is_some_and(|number| self.numbers.binary_search_by(|member| member.total_cmp(&number)).is_ok()),
            Value::Bool(value) => self.bools[usize::from(*value)],
            Value::Null => self.null,
            Value::Array(_) | Value::Object(_) => false,
        }
    }

    fn contain_text(&self, text: &str) -> bool {
        // Up to here looking at all is quicker: most differ in length.
        const FEW: usize = 8;
        if self.strings.len() <= FEW {
            self.strings.iter().any(|member| **member == *text)
        } else {
            self.strings.binary_search_by(|member| (**member).cmp(text)).is_ok()
        }
    }
}

/// 0 and -0 are one number, which a total order tells apart.
fn unsigned_zero(number: f64) -> f64 {
    number + 0.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_found_by_kind() {
        let values: Vec<Value> =
            (0..100).map(|n| json!(format!("user-{n}"))).chain([json!(-0.0), json!(3), json!(null)]).collect();
        let members = Members::new(&values, false);
        for found in [json!("user-0"), json!("user-99"), json!(0), json!(3.0), json!(null), json!(["no", "user-5"])] {
            assert!(members.meet(&found), "{found}");
        }
        for missing in [json!("User-0"), json!("3"), json!(false), json!(4), json!([]), json!([["user-5"]])] {
            assert!(!members.meet(&missing), "{missing}");
        }
        assert!(Members::new(&values, true).meet(&json!("USER-7")));
    }
}
