//! What 64 flags with targeting cost for one user, ours beside the crate `growthbook-rust`, turn by turn. Prints a JSON line for
//! each contestant: the median of its turns. `--files FOLDER` also leaves payload, attributes and values for `evaluate.mjs`.
#![allow(clippy::print_stdout, clippy::expect_used, missing_docs)]

use std::{collections::HashMap, fs, hint::black_box, path::PathBuf, time::Instant};

use growthbook_rust::{
    client::{GrowthBookClient, GrowthBookClientBuilder, GrowthBookClientTrait},
    model_public::{GrowthBookAttribute, GrowthBookAttributeValue},
};
use selvedge_core::experiment::{Payload, User};
use serde_json::{Value, json};

const FLAGS: usize = 64;

/// Flags as a shop has them: switches, rollouts, experiments, prerequisites and saved groups, each behind conditions.
fn payload() -> Value {
    let everywhere = json!({"country": {"$in": ["DE", "FR", "AT", "CH"]}, "app.version": {"$vgte": "2.10.0"}});
    let elsewhere = json!({"country": {"$in": ["US", "CA", "MX"]}, "plan": {"$ne": "enterprise"}});
    let matured =
        json!({"$and": [{"days": {"$gte": 30}}, {"$or": [{"plan": "pro"}, {"email": {"$regex": "@example\\.com$"}}]}]});
    let flag = |n: usize| match n % 8 {
        0 => json!({"defaultValue": false, "rules": [
            {"condition": elsewhere, "force": false}, {"id": "on", "condition": everywhere, "force": true}]}),
        1 => json!({"defaultValue": "old", "rules": [
            {"condition": elsewhere, "force": "never"},
            {"condition": everywhere, "force": "new", "coverage": 0.5, "hashVersion": 2, "hashAttribute": "id"}]}),
        2 => json!({"defaultValue": 0, "rules": [
            {"condition": {"id": {"$inGroup": "staff"}}, "force": 9},
            {"condition": {"id": {"$notInGroup": "blocked"}}, "force": 1}]}),
        3 => json!({"defaultValue": "none", "rules": [
            {"condition": {"tags": {"$elemMatch": {"$eq": "beta"}}}, "force": "beta"},
            {"parentConditions": [{"id": format!("flag-{}", n - 3), "condition": {"value": true}}], "force": "behind"}]}),
        4 => json!({"defaultValue": {"title": "Join"}, "rules": [
            {"condition": elsewhere, "force": {"title": "Join us"}},
            {"key": format!("exp-{n}"), "seed": format!("seed-{n}"), "hashAttribute": "id", "hashVersion": 2, "coverage": 0.8,
             "weights": [0.5, 0.3, 0.2], "condition": matured, "meta": [{"key": "a"}, {"key": "b"}, {"key": "c"}],
             "variations": [{"title": "Join"}, {"title": "Try"}, {"title": "Buy"}]}]}),
        _ => json!({"defaultValue": "control", "rules": [
            {"condition": {"device.os": "ios", "device.model": {"$regex": "^iPad"}}, "force": "tablet"},
            {"key": format!("exp-{n}"), "hashAttribute": "id", "hashVersion": 2, "coverage": 1, "weights": [0.5, 0.5],
             "condition": everywhere, "meta": [{"key": "0"}, {"key": "1"}], "variations": ["control", "treatment"]}]}),
    };
    let features: HashMap<String, Value> = (0..FLAGS).map(|n| (format!("flag-{n}"), flag(n))).collect();
    let group = |name: &str| (0..100).map(|n| format!("{name}-{n}")).collect::<Vec<_>>();
    json!({"features": features, "savedGroups": {"staff": group("staff"), "blocked": group("blocked")}})
}

fn attributes() -> Value {
    json!({
        "id": "550e8400-e29b-41d4-a716-446655440000", "country": "DE", "plan": "pro", "email": "ada@example.com", "days": 120,
        "premium": true, "tags": ["mail", "early"], "app": {"version": "2.11.3", "build": 4711},
        "device": {"os": "android", "model": "Pixel 9", "memory": 12}, "language": "de-DE",
    })
}

fn keys() -> Vec<String> {
    (0..FLAGS).map(|n| format!("flag-{n}")).collect()
}

fn peer(payload: &Value, attributes: &Value) -> GrowthBookClient {
    let attribute = |(key, value): (&String, &Value)| {
        (key.clone(), GrowthBookAttribute::new(key.clone(), GrowthBookAttributeValue::from(value.clone())))
    };
    let attributes = attributes.as_object().expect("an object").iter().map(attribute).collect();
    let builder = GrowthBookClientBuilder::new().auto_refresh(false).attributes(attributes);
    let builder = builder.saved_groups(payload["savedGroups"].clone());
    let builder = builder.features_json(payload["features"].clone()).expect("the peer reads the payload");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(builder.build()).expect("a client without a server")
}

/// Nanoseconds a call.
fn time(calls: u32, mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let folder =
        arguments.iter().position(|argument| argument == "--files").map(|at| PathBuf::from(&arguments[at + 1]));
    let (json, attributes, keys) = (payload(), attributes(), keys());

    let payload = Payload::parse(json.to_string().as_bytes()).expect("a payload");
    assert!(payload.problems().is_empty(), "{:?}", payload.problems());
    let user = User::new(attributes.as_object().expect("an object").clone());
    let client = peer(&json, &attributes);

    let mut evaluation = payload.evaluate(&user);
    let values: Vec<&Value> = keys.iter().map(|key| evaluation.feature(key).value).collect();
    for (key, value) in keys.iter().zip(&values) {
        assert_eq!(&&client.feature_result(key, None).value, value, "{key}: ours and the peer's differ");
    }
    let entered = evaluation.finish().exposures.len();
    assert!(entered > FLAGS / 4, "only {entered} experiments are entered");
    if let Some(folder) = folder {
        let write = |name: &str, value: Value| fs::write(folder.join(name), value.to_string()).expect("a file");
        write("payload.json", json);
        write("attributes.json", attributes);
        write("values.json", json!(keys.iter().zip(&values).collect::<HashMap<_, _>>()));
    }

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (rounds, scale) = if quick { (3, 1) } else { (7, 5) };
    for _ in 0..rounds {
        ours.push(time(4_000 * scale, || {
            let mut evaluation = payload.evaluate(&user);
            for key in &keys {
                black_box(evaluation.feature(black_box(key)));
            }
            black_box(evaluation.finish());
        }));
        theirs.push(time(20 * scale, || {
            for key in &keys {
                black_box(client.feature_result(black_box(key), None));
            }
        }));
    }
    for (contestant, values) in [("selvedge", ours), ("growthbook-rust", theirs)] {
        let line = json!({
            "contestant": contestant, "case": "64 flags, one user", "unit": "ns/user", "value": median(values),
        });
        println!("{line}");
    }
}
