//! How JSON values compare: by type and value, never by what one could be turned into.

use std::{borrow::Cow, cmp::Ordering};

use serde_json::Value;

/// The same type and the same value. Numbers are equal by value: `1` and `1.0` are one number.
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => a == b,
        _ => false,
    }
}

/// How two numbers or two strings are ordered; nothing else is. Strings go by their UTF-16 code units.
pub(crate) fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) if a.is_ascii() && b.is_ascii() => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some(a.encode_utf16().cmp(b.encode_utf16())),
        _ => None,
    }
}

/// Whether a flag of this value is on: everything but `null`, `false`, `0` and `""`.
pub(crate) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0 && !number.is_nan()),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// A subject's id as the text that is hashed: a string, or a number as JavaScript prints it. Nothing else is an id, and
/// neither are `""` and `0`.
pub(crate) fn id(value: &Value) -> Option<Cow<'_, str>> {
    /// The last whole number that a double holds exactly.
    const EXACT: u64 = 1 << 53;
    match value {
        Value::String(text) if !text.is_empty() => Some(Cow::Borrowed(text)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()?) {
            (Some(0), _) => None,
            (Some(whole), _) if whole.unsigned_abs() <= EXACT => Some(Cow::Owned(whole.to_string())),
            (_, double) if double == 0.0 || !double.is_finite() => None,
            (_, double) => serde_json_canonicalizer::to_string(&double).ok().map(Cow::Owned),
        },
        _ => None,
    }
}

/// Lower case; borrowed where it is already.
pub(crate) fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.to_lowercase())
    }
}

/// How deeply arrays and objects nest, found without recursion.
pub(crate) fn depth(value: &Value) -> usize {
    let (mut deepest, mut left) = (0, vec![(value, 0)]);
    while let Some((value, depth)) = left.pop() {
        deepest = deepest.max(depth);
        match value {
            Value::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => left.extend(fields.values().map(|field| (field, depth + 1))),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_are_printed_as_javascript_prints_them() {
        for (value, text) in [
            (json!("ada"), Some("ada")),
            (json!(123), Some("123")),
            (json!(-7), Some("-7")),
            (json!(1.0), Some("1")),
            (json!(1.5), Some("1.5")),
            (json!(1e21), Some("1e+21")),
            (json!(1e-7), Some("1e-7")),
            (json!(9_007_199_254_740_993_u64), Some("9007199254740992")),
            (json!(0), None),
            (json!(-0.0), None),
            (json!(""), None),
            (json!(true), None),
            (json!(null), None),
            (json!(["1"]), None),
        ] {
            assert_eq!(id(&value).as_deref(), text, "{value}");
        }
    }

    #[test]
    fn strings_go_by_utf16_code_units() {
        // U+FF5E is one unit, 0xFF5E; U+1F600 is two, of which the first is 0xD83D.
        assert_eq!(order(&json!("～"), &json!("😀")), Some(Ordering::Greater));
    }
}
