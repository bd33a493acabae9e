//! The properties of an event: read one by one, so that an error names the event and the property.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::{Error, ErrorKind, Result};

/// The properties of one event.
pub(super) struct Properties<'a> {
    event: &'a str,
    values: Map<String, Value>,
}

impl<'a> Properties<'a> {
    /// Reads a JSON object.
    pub(super) fn read(event: &'a str, json: &[u8]) -> Result<Self> {
        match serde_json::from_slice(json) {
            Ok(Value::Object(values)) => Ok(Self { event, values }),
            Ok(_) => Err(invalid(event, "an event's properties are not a JSON object")),
            Err(error) => Err(invalid(event, "an event's properties are not a JSON object").caused_by(error)),
        }
    }

    /// A value that is there and not `null`.
    fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(&self, name: &'static str, needs: impl Into<String>) -> Error {
        invalid(self.event, "a property of an event is missing or wrong").with("property", name).advise(needs)
    }

    fn required<T>(&self, name: &'static str, value: Option<T>, needs: &str) -> Result<T> {
        value.ok_or_else(|| self.wrong(name, format!("give {name} as {needs}")))
    }

    /// A text that is not empty.
    pub(super) fn text(&self, name: &'static str) -> Result<String> {
        let value = self.optional_text(name)?;
        self.required(name, value, TEXT)
    }

    pub(super) fn optional_text(&self, name: &'static str) -> Result<Option<String>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if (1..=MAX_TEXT).contains(&text.len()) => Ok(Some(text.clone())),
            Some(_) => self.required(name, None, TEXT),
        }
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<bool> {
        self.required(name, self.get(name).and_then(Value::as_bool), "true or false")
    }

    /// `false` when it is not there.
    pub(super) fn optional_flag(&self, name: &'static str) -> Result<bool> {
        if self.get(name).is_none() { Ok(false) } else { self.flag(name) }
    }

    /// A whole number: `9.99` and `"999"` are refused, never rounded.
    pub(super) fn integer(&self, name: &'static str, range: RangeInclusive<i64>, needs: &str) -> Result<i64> {
        let value = self.get(name).and_then(Value::as_i64).filter(|value| range.contains(value));
        self.required(name, value, needs)
    }

    /// A value that serde reads: one of an enum's names.
    pub(super) fn one_of<T: serde::de::DeserializeOwned>(&self, name: &'static str, needs: &str) -> Result<T> {
        let value = self.get(name).and_then(|value| serde_json::from_value(value.clone()).ok());
        self.required(name, value, needs)
    }
}

const MAX_TEXT: usize = 255;
const TEXT: &str = "a text of 1 to 255 bytes";

pub(super) fn invalid(event: &str, message: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "experiment.track", message).with("event", event)
}
