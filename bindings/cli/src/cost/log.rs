//! Reading a log of requests: one JSON object a line.
//!
//! What an OpenAI client gets back can be written down as it is: `created` and `usage` are understood, and so are flat names.

use std::io::BufRead;

use chrono::DateTime;
use selvedge::{Error, ErrorKind, Result, scheduler::Class};
use serde_json::{Map, Value};

/// One request of a log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Request {
    /// When it came, in seconds since 1970.
    pub(crate) at: f64,
    pub(crate) prompt: u32,
    pub(crate) completion: u32,
    /// Seconds to the first token.
    pub(crate) ttft: Option<f64>,
    /// Seconds to the end.
    pub(crate) latency: Option<f64>,
    pub(crate) class: Class,
}

const TIME: [&str; 5] = ["created", "created_at", "time", "timestamp", "ts"];
const PROMPT: [&str; 2] = ["prompt_tokens", "input_tokens"];
const COMPLETION: [&str; 2] = ["completion_tokens", "output_tokens"];
const TTFT: [(&str, f64); 2] = [("ttft_ms", 1e-3), ("ttft_seconds", 1.0)];
const LATENCY: [(&str, f64); 2] = [("latency_ms", 1e-3), ("latency_seconds", 1.0)];
const CLASS: [&str; 2] = ["class", "priority"];

/// Numbers above this are milliseconds: as seconds they would be after the year 5000.
const MILLISECONDS: f64 = 1e11;

/// Reads all requests, in the order in which they came. Blank lines are none.
///
/// # Errors
/// `InvalidInput` that names the line and its field: a line that is left out would make every result wrong.
pub(crate) fn read(text: impl BufRead) -> Result<Vec<Request>> {
    let mut requests = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.map_err(|error| bad("a line cannot be read").with("line", number).caused_by(error))?;
        if !line.trim().is_empty() {
            requests.push(parse(&line).map_err(|error| error.with("line", number))?);
        }
    }
    if requests.is_empty() {
        return Err(bad("the log has no requests").advise("write one JSON object a line, one for each request"));
    }
    requests.sort_by(|one: &Request, other| one.at.total_cmp(&other.at));
    Ok(requests)
}

/// Reads one line.
///
/// # Errors
/// `InvalidInput` that names the field.
pub(crate) fn parse(line: &str) -> Result<Request> {
    let object: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
        bad("a line is not one JSON object")
            .caused_by(error)
            .advise("write one JSON object a line, one for each request")
    })?;
    let usage = match object.get("usage") {
        None => &object,
        Some(Value::Object(usage)) => usage,
        Some(other) => return Err(wrong("usage", other, "an object, as OpenAI writes it")),
    };
    Ok(Request {
        at: time(&object)?,
        prompt: tokens(usage, &PROMPT)?,
        completion: tokens(usage, &COMPLETION)?,
        ttft: seconds(&object, &TTFT)?,
        latency: seconds(&object, &LATENCY)?,
        class: class(&object)?,
    })
}

fn time(object: &Map<String, Value>) -> Result<f64> {
    let (name, value) = required(object, &TIME)?;
    let seconds = match value {
        Value::String(text) => DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros() as f64 / 1e6),
        Value::Number(number) => {
            number.as_f64().map(|number| if number > MILLISECONDS { number / 1e3 } else { number })
        }
        _ => None,
    };
    seconds
        .filter(|seconds| (0.0..MILLISECONDS).contains(seconds))
        .ok_or_else(|| wrong(name, value, "seconds or milliseconds since 1970, or a time such as 2026-11-27T09:30:00Z"))
}

fn tokens(object: &Map<String, Value>, names: &[&'static str]) -> Result<u32> {
    let (name, value) = required(object, names)?;
    value
        .as_u64()
        .and_then(|count| u32::try_from(count).ok())
        .ok_or_else(|| wrong(name, value, "a whole number of tokens, 0 or more"))
}

fn seconds(object: &Map<String, Value>, names: &[(&'static str, f64)]) -> Result<Option<f64>> {
    let Some((name, unit, value)) = names.iter().find_map(|(name, unit)| Some((*name, *unit, object.get(*name)?)))
    else {
        return Ok(None);
    };
    match value {
        // A failed or unmeasured request.
        Value::Null => Ok(None),
        _ => match value.as_f64().filter(|number| *number >= 0.0) {
            Some(number) => Ok(Some(number * unit)),
            None => Err(wrong(name, value, "a number, 0 or more")),
        },
    }
}

fn class(object: &Map<String, Value>) -> Result<Class> {
    match find(object, &CLASS) {
        None | Some((_, Value::Null)) => Ok(Class::default()),
        Some((name, value)) => value
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| wrong(name, value, "p0 (a person waits), p1 (soon) or p2 (batch)")),
    }
}

fn find<'a>(object: &'a Map<String, Value>, names: &[&'static str]) -> Option<(&'static str, &'a Value)> {
    names.iter().find_map(|name| Some((*name, object.get(*name)?)))
}

fn required<'a>(object: &'a Map<String, Value>, names: &[&'static str]) -> Result<(&'static str, &'a Value)> {
    find(object, names).ok_or_else(|| {
        bad("a field is missing")
            .with("field", names.first().copied().unwrap_or_default())
            .advise(format!("name it {}", names.join(", ")))
    })
}

fn wrong(name: &'static str, value: &Value, meant: &str) -> Error {
    // A log may hold whole prompts; an error is no place for them.
    let shown: String = value.to_string().chars().take(40).collect();
    bad("a field cannot be read").with("field", name).with("value", shown).advise(format!("write {meant}"))
}

fn bad(message: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "cost.log", message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fails(line: &str, words: &[&str]) {
        let message = parse(line).expect_err(line).to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message:?}");
        }
    }

    #[test]
    fn openais_shape_and_flat_names_say_the_same() {
        let expected =
            Request { at: 1_700_000_000.0, prompt: 12, completion: 34, ttft: None, latency: None, class: Class::P0 };
        for line in [
            r#"{"id":"x","created":1700000000,"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}"#,
            r#"{"created_at":1700000000,"usage":{"input_tokens":12,"output_tokens":34}}"#,
            r#"{"time":"2023-11-14T22:13:20Z","prompt_tokens":12,"completion_tokens":34,"class":null,"ttft_ms":null}"#,
            r#"{"ts":1700000000000,"input_tokens":12,"output_tokens":34,"priority":"P0"}"#,
        ] {
            assert_eq!(parse(line).expect(line), expected);
        }
        let all =
            r#"{"time":1,"prompt_tokens":0,"completion_tokens":0,"ttft_ms":250,"latency_seconds":1.5,"class":"p2"}"#;
        let all = parse(all).expect(all);
        assert_eq!((all.ttft, all.latency, all.class), (Some(0.25), Some(1.5), Class::P2));
    }

    #[test]
    fn each_field_that_is_wrong_is_named() {
        let good = r#"{"time":1,"prompt_tokens":2,"completion_tokens":3}"#;
        assert!(parse(good).is_ok());
        for (from, to, words) in [
            ("\"time\":1,", "", &["missing", "field: created", "timestamp"][..]),
            ("\"time\":1", "\"time\":\"noon\"", &["field: time", "noon", "1970"]),
            ("\"time\":1", "\"time\":-1", &["field: time", "-1"]),
            ("\"time\":1", "\"time\":null", &["field: time"]),
            ("\"prompt_tokens\":2,", "", &["missing", "field: prompt_tokens", "input_tokens"]),
            ("\"prompt_tokens\":2", "\"prompt_tokens\":-2", &["field: prompt_tokens", "-2"]),
            ("\"prompt_tokens\":2", "\"prompt_tokens\":2.5", &["field: prompt_tokens", "2.5"]),
            ("\"prompt_tokens\":2", "\"prompt_tokens\":\"2\"", &["field: prompt_tokens"]),
            ("\"prompt_tokens\":2", "\"prompt_tokens\":5000000000", &["field: prompt_tokens", "5000000000"]),
            (",\"completion_tokens\":3", "", &["missing", "field: completion_tokens"]),
            ("\"completion_tokens\":3", "\"completion_tokens\":null", &["field: completion_tokens"]),
            ("\"time\":1", "\"time\":1,\"usage\":3", &["field: usage"]),
            ("\"time\":1", "\"time\":1,\"usage\":{}", &["missing", "field: prompt_tokens"]),
            ("\"time\":1", "\"time\":1,\"ttft_ms\":-1", &["field: ttft_ms"]),
            ("\"time\":1", "\"time\":1,\"latency_ms\":\"fast\"", &["field: latency_ms", "fast"]),
            ("\"time\":1", "\"time\":1,\"class\":\"p9\"", &["field: class", "p9", "p2"]),
            ("}", "", &["JSON object"]),
            ("}", "} {}", &["JSON object"]),
        ] {
            assert!(good.contains(from), "{from}");
            fails(&good.replacen(from, to, 1), words);
        }
        for line in ["[]", "42", "null", "request"] {
            fails(line, &["JSON object"]);
        }
        let long = format!(r#"{{"time":"{}"}}"#, "secret ".repeat(100));
        assert!(parse(&long).expect_err("no time").to_string().len() < 300);
    }

    #[test]
    fn the_line_is_named_and_none_is_skipped() {
        let good = r#"{"time":9,"prompt_tokens":2,"completion_tokens":3}"#;
        let early = good.replace('9', "1");
        let read = |text: String| read(text.as_bytes());
        assert_eq!(
            read(format!("{good}\n\n{early}\n")).expect("a log").iter().map(|r| r.at).collect::<Vec<_>>(),
            [1.0, 9.0]
        );
        let error = read(format!("{good}\n\n{{}}\n{good}")).expect_err("the third line is bad").to_string();
        assert!(error.contains("line: 3"), "{error}");
        for nothing in ["", "\n \n"] {
            let error = read(nothing.into()).expect_err("nothing in it").to_string();
            assert!(error.contains("no requests"), "{error}");
        }
        let error = super::read(&b"{\"time\":\xff}"[..]).expect_err("no text").to_string();
        assert!(error.contains("line: 1"), "{error}");
    }

    proptest! {
        #[test]
        fn a_line_never_panics(line in ".{0,80}") {
            let _ = parse(&line);
        }

        #[test]
        fn what_is_written_is_read(
            at in 0u32..4_000_000_000, prompt in any::<u32>(), completion in any::<u32>(), nested in any::<bool>(),
        ) {
            let usage = format!(r#""prompt_tokens":{prompt},"completion_tokens":{completion}"#);
            let line = match nested {
                true => format!(r#"{{"created":{at},"usage":{{{usage}}}}}"#),
                false => format!(r#"{{"created":{at},{usage}}}"#),
            };
            let request = parse(&line).expect("a line");
            prop_assert_eq!((request.at, request.prompt, request.completion), (f64::from(at), prompt, completion));
        }
    }
}
