//! What a configuration says, in the words of an operator: each placement, its rules, and who sees what.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use selvedge_core::{
    Error, ErrorKind, Result, Timestamp,
    experiment::{
        Definition, Payload,
        hash::{Range, ranges},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

const OPERATION: &str = "http.placements";

/// What narrows down who takes part, by the names that the payload has for it.
const TARGETING: [&str; 5] = ["condition", "parentConditions", "namespace", "filters", "urlPatterns"];

/// What a configuration says. What cannot be read is left out of it, and `left_out` names it.
#[derive(Debug, Default)]
pub(in crate::server) struct Outline {
    /// The key that it says it was signed with; devices check that, and the server if it trusts any key.
    pub(super) signed_by: Option<String>,
    pub(super) issued_at: Option<Timestamp>,
    /// By name.
    pub(super) placements: Vec<Placement>,
    /// Those that are no placement's rule.
    pub(super) experiments: Vec<Trial>,
    pub(super) left_out: Vec<String>,
    /// Why nothing of it could be read.
    pub(super) problem: Option<String>,
}

/// A placement, or another feature.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Placement {
    pub(super) name: String,
    /// What is shown when no rule says otherwise.
    pub(super) default: Value,
    /// That is nothing.
    pub(super) shows_nothing: bool,
    /// The first that fits somebody decides.
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Rule {
    /// Shares people out.
    Experiment(Trial),
    /// Shows everybody it fits the same.
    Value { shows: Value, coverage: f64, targeting: BTreeMap<&'static str, Value> },
    /// Decides nothing: it has neither variations nor a value.
    Nothing,
}

/// An experiment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Trial {
    /// Its name, as events have it.
    pub(super) experiment: String,
    /// The path of its report.
    pub(super) report: String,
    /// The bucketing version.
    pub(super) version: u32,
    /// The share of those it fits that takes part, 0 to 1.
    pub(super) coverage: f64,
    pub(super) targeting: BTreeMap<&'static str, Value>,
    /// `draft`, `running` or `stopped`, where the payload says so.
    pub(super) status: Option<String>,
    /// The control first.
    pub(super) variations: Vec<Arm>,
}

/// A variation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Arm {
    /// Its name, as events have it.
    pub(super) variation: String,
    /// Its part of those who take part, 0 to 1; none where the payload gives ranges instead.
    pub(super) weight: Option<f64>,
    /// Its part of all whom the experiment fits, 0 to 1.
    pub(super) share: f64,
    pub(super) shows: Value,
}

#[derive(Deserialize)]
struct PayloadJson<'a> {
    #[serde(borrow, default)]
    features: Option<BTreeMap<String, &'a RawValue>>,
    #[serde(borrow, default)]
    experiments: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FeatureJson<'a> {
    #[serde(default)]
    default_value: Value,
    #[serde(borrow, default)]
    rules: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Header {
    kid: String,
    issued_at: Timestamp,
}

impl Outline {
    /// Reads what is handed out: a payload, or a signed one. The signature is for those to check who believe it.
    pub(in crate::server) fn of(body: &[u8]) -> Self {
        read(body).unwrap_or_else(|error| Self { problem: Some(error.to_string()), ..Self::default() })
    }
}

fn read(body: &[u8]) -> Result<Outline> {
    if is_json(body) {
        return outline(body);
    }
    let unreadable = || {
        Error::new(ErrorKind::Damaged, OPERATION, "the configuration is neither a payload nor a signed one")
            .with("bytes", body.len())
            .advise("hand out what GrowthBook's endpoint answers, or what `selvedge experiment sign` wrote")
    };
    let mut parts = body.trim_ascii().split(|byte| *byte == b'.');
    let mut part = || BASE64.decode(parts.next()?).ok();
    let (header, payload) = part().zip(part()).ok_or_else(unreadable)?;
    let header: Header = serde_json::from_slice(&header).map_err(|error| unreadable().caused_by(error))?;
    Ok(Outline { signed_by: Some(header.kid), issued_at: Some(header.issued_at), ..outline(&payload)? })
}

/// Whether a configuration is a payload as it is, not a signed one.
pub(in crate::server) fn is_json(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'{')
}

fn outline(json: &[u8]) -> Result<Outline> {
    // What the engine leaves out is not listed as if it were there.
    let problems = Payload::parse(json)?;
    let problems = problems.problems();
    let left_out = problems.iter().map(|problem| format!("{} {}: {}", problem.kind, problem.key, problem.error));
    let payload: PayloadJson<'_> = serde_json::from_slice(json).map_err(|error| {
        Error::new(ErrorKind::InvalidInput, OPERATION, "the configuration is no payload of features").caused_by(error)
    })?;
    Ok(Outline {
        placements: payload
            .features
            .into_iter()
            .flatten()
            .filter_map(|(name, source)| placement(name, source))
            .collect(),
        experiments: payload.experiments.into_iter().flatten().filter_map(|source| trial(source, "")).collect(),
        left_out: left_out.collect(),
        ..Outline::default()
    })
}

fn placement(name: String, source: &RawValue) -> Option<Placement> {
    let feature: FeatureJson<'_> = serde_json::from_str(source.get()).ok()?;
    let rules: Option<Vec<Rule>> = feature.rules.into_iter().flatten().map(|source| rule(source, &name)).collect();
    Some(Placement {
        shows_nothing: feature.default_value.is_null(),
        default: feature.default_value,
        rules: rules?,
        name,
    })
}

fn rule(source: &RawValue, feature: &str) -> Option<Rule> {
    let json: Map<String, Value> = serde_json::from_str(source.get()).ok()?;
    // A value goes before variations, as it does in the engine.
    if let Some(shows) = json.get("force") {
        let range = json.get("range").and_then(|range| Range::deserialize(range).ok());
        let share = range.map(|range| range.end - range.start).or_else(|| json.get("coverage")?.as_f64());
        return Some(Rule::Value {
            shows: shows.clone(),
            coverage: share.unwrap_or(1.0).clamp(0.0, 1.0),
            targeting: targeting(&json),
        });
    }
    let shared =
        ["variations", "contextualVariations"].iter().any(|name| json.get(*name).is_some_and(|it| !it.is_null()));
    if shared { trial(source, feature).map(Rule::Experiment) } else { Some(Rule::Nothing) }
}

fn trial(source: &RawValue, feature: &str) -> Option<Trial> {
    let json: Map<String, Value> = serde_json::from_str(source.get()).ok()?;
    let definition = Definition::parse(source.get()).ok()?;
    let name = if definition.key().is_empty() { feature } else { definition.key() };
    let count = definition.variations().len();
    let given: Option<Vec<f64>> = json.get("weights").and_then(|weights| Vec::deserialize(weights).ok());
    let (shares, weights) = match json.get("ranges").and_then(|ranges| Vec::<Range>::deserialize(ranges).ok()) {
        Some(ranges) => (widths(ranges), None),
        None => {
            let coverage = json.get("coverage").and_then(Value::as_f64).unwrap_or(1.0);
            let of = |coverage| widths(ranges(count, coverage, given.as_deref()));
            (of(coverage), Some(of(1.0)))
        }
    };
    let named = |index: usize| {
        let key = json.get("meta")?.get(index)?.get("key")?.as_str()?;
        (!key.is_empty()).then(|| key.to_owned())
    };
    let arm = |(index, shows): (usize, &Value)| Arm {
        variation: named(index).unwrap_or_else(|| index.to_string()),
        weight: weights.as_ref().map(|weights| weights[index]),
        share: shares.get(index).copied().unwrap_or_default(),
        shows: shows.clone(),
    };
    let inactive = (json.get("active") == Some(&Value::Bool(false))).then(|| "inactive".to_owned());
    Some(Trial {
        report: format!("/v1/experiments/{}/report", path_segment(name)),
        experiment: name.to_owned(),
        version: definition.bucket_version(),
        coverage: rounded(shares.iter().sum::<f64>().clamp(0.0, 1.0)),
        targeting: targeting(&json),
        status: json.get("status").and_then(Value::as_str).map(ToOwned::to_owned).or(inactive),
        variations: definition.variations().iter().enumerate().map(arm).collect(),
    })
}

fn widths(ranges: impl IntoIterator<Item = Range>) -> Vec<f64> {
    ranges.into_iter().map(|range| rounded(range.end - range.start)).collect()
}

/// Without what the difference of two shares adds: 0.2, not 0.19999999999999996.
fn rounded(share: f64) -> f64 {
    (share * 1e9).round() / 1e9
}

fn targeting(json: &Map<String, Value>) -> BTreeMap<&'static str, Value> {
    let given = |name: &'static str| Some((name, json.get(name).filter(|value| !value.is_null())?.clone()));
    TARGETING.into_iter().filter_map(given).collect()
}

/// A name as one segment of a path (RFC 3986, section 3.3).
pub(super) fn path_segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => segment.push(byte.into()),
            // A dot as well: `.` and `..` alone are no names in a path.
            other => segment.push_str(&format!("%{other:02X}")),
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(payload: &Value) -> Outline {
        Outline::of(payload.to_string().as_bytes())
    }

    fn shares(trial: &Value) -> Vec<(String, Option<f64>, f64)> {
        let outline = of(&json!({ "experiments": [trial] }));
        outline.experiments[0].variations.iter().map(|arm| (arm.variation.clone(), arm.weight, arm.share)).collect()
    }

    #[test]
    fn shares_are_those_that_people_are_shared_out_by() {
        let named = |name: &str, weight, share| (name.to_owned(), weight, share);
        let equal = json!({ "key": "a", "variations": [1, 2] });
        assert_eq!(shares(&equal), [named("0", Some(0.5), 0.5), named("1", Some(0.5), 0.5)]);
        let part = json!({ "key": "a", "variations": [1, 2], "coverage": 0.5, "weights": [0.8, 0.2], "meta": [{ "key": "c" }] });
        assert_eq!(shares(&part), [named("c", Some(0.8), 0.4), named("1", Some(0.2), 0.1)]);
        // Weights that do not add up count as equal.
        let wrong = json!({ "key": "a", "variations": [1, 2], "weights": [0.8, 0.8] });
        assert_eq!(shares(&wrong), [named("0", Some(0.5), 0.5), named("1", Some(0.5), 0.5)]);
        let ranges = json!({ "key": "a", "variations": [1, 2], "ranges": [[0.0, 0.1], [0.5, 0.8]] });
        assert_eq!(shares(&ranges), [named("0", None, 0.1), named("1", None, 0.3)]);
    }

    #[test]
    fn a_rule_is_what_the_engine_makes_of_it() {
        let outline = of(&json!({ "features": { "paywall": { "rules": [
            { "variations": [1, 2] },
            { "force": null, "coverage": 0.25, "condition": { "country": "DE" } },
            { "force": 3, "variations": [1, 2] },
            { "id": "fr_1" },
        ] } } }));
        let [paywall] = &outline.placements[..] else { panic!("one placement") };
        assert!(paywall.shows_nothing);
        let Rule::Experiment(trial) = &paywall.rules[0] else { panic!("an experiment") };
        assert_eq!((trial.experiment.as_str(), trial.coverage), ("paywall", 1.0), "the feature names it");
        let condition = [("condition", json!({ "country": "DE" }))].into();
        assert_eq!(paywall.rules[1], Rule::Value { shows: Value::Null, coverage: 0.25, targeting: condition });
        assert_eq!(paywall.rules[2], Rule::Value { shows: json!(3), coverage: 1.0, targeting: [].into() });
        assert_eq!(paywall.rules[3], Rule::Nothing);
    }

    #[test]
    fn what_is_malformed_is_left_out_and_named() {
        let outline = of(&json!({ "features": {
            "good": { "defaultValue": 1 },
            "bad": { "rules": [{ "variations": "none" }] },
        } }));
        assert_eq!(outline.placements.iter().map(|placement| &placement.name[..]).collect::<Vec<_>>(), ["good"]);
        assert!(outline.left_out.len() == 1 && outline.left_out[0].contains("feature bad"), "{:?}", outline.left_out);
        for body in ["", "a.b.c", "{", "[]", "e30.e30.x", "{\"features\":7}"] {
            let outline = Outline::of(body.as_bytes());
            assert!(outline.problem.is_some() && outline.placements.is_empty(), "{body}: {outline:?}");
        }
    }

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        assert_eq!(path_segment("paywall-exit_2~"), "paywall-exit_2~");
        assert_eq!(path_segment("a/b?c#d ö%"), "a%2Fb%3Fc%23d%20%C3%B6%25");
        assert_eq!(path_segment(".."), "%2E%2E");
    }
}
