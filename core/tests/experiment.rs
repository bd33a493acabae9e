//! What evaluation promises whatever the payload and whoever the user.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use std::{collections::BTreeMap, fmt::Write as _};

use proptest::prelude::*;
use selvedge_core::{
    ErrorKind,
    experiment::{
        Definition, Evaluation, Payload, Source, User,
        sticky::{Documents, assignment_key},
    },
};
use serde_json::{Value, json};

fn payload(json: &Value) -> Payload {
    let payload = Payload::parse(json.to_string().as_bytes()).unwrap();
    assert!(payload.problems().is_empty(), "{:?}", payload.problems());
    payload
}

fn user(id: &str) -> User {
    User::new([("id".to_owned(), json!(id)), ("device".to_owned(), json!(format!("device of {id}")))])
}

/// An experiment as a feature's rule.
fn feature(key: &str, variations: usize, weights: &[f64], coverage: f64) -> Value {
    let sum: f64 = weights.iter().sum();
    let weights: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
    json!({"defaultValue": "none", "rules": [{
        "key": key, "variations": (0..variations).collect::<Vec<_>>(), "weights": weights, "coverage": coverage, "hashVersion": 2,
        "hashAttribute": "id", "fallbackAttribute": "device",
    }]})
}

prop_compose! {
    fn any_feature(key: &'static str)(weights in prop::collection::vec(0.05..1.0f64, 2..6), coverage in 0.0..1.0f64) -> Value {
        feature(key, weights.len(), &weights, coverage)
    }
}

prop_compose! {
    /// Assignments that a user and their device may have, by attribute and bucket version; variation 9 is gone.
    fn any_rows()(rows in prop::collection::btree_map(
        (prop::sample::select(vec!["id", "device"]), 0..3u32), prop::sample::select(vec!["0", "1", "2", "9"]), 0..4,
    )) -> BTreeMap<(&'static str, u32), &'static str> {
        rows
    }
}

fn documents(payload: &Payload, user: &User, rows: &BTreeMap<(&str, u32), &str>) -> Documents {
    let mut documents = payload.sticky_documents(user);
    for document in documents.values_mut() {
        let own = rows.iter().filter(|((attribute, _), _)| *attribute == document.attribute_name);
        document
            .assignments
            .extend(own.map(|((_, version), variation)| (assignment_key("test", *version), (*variation).into())));
    }
    documents
}

fn seen(payload: &Payload, user: &User, key: &str) -> Option<usize> {
    payload.evaluate(user).feature(key).experiment.map(|(_, result)| result.variation_id)
}

proptest! {
    #[test]
    fn an_assignment_that_is_kept_never_flips(
        id in "\\PC{1,20}", before in any_feature("test"), mut after in any_feature("test"), logs_in in any::<bool>(),
    ) {
        // Variations that are gone cannot be seen any more.
        after["rules"][0]["variations"] = before["rules"][0]["variations"].clone();
        let (before, after) = (payload(&json!({"features": {"f": before}})), payload(&json!({"features": {"f": after}})));
        let mut user = user(&id);
        user.sticky = Some(Documents::new());
        let whole = user.attributes.clone();
        if logs_in {
            user.attributes.remove("id");
        }
        let mut evaluation = before.evaluate(&user);
        let first = evaluation.feature("f").experiment.map(|(_, result)| result.variation_id);
        let documents = evaluation.finish().documents;
        prop_assert_eq!(documents.is_empty(), first.is_none());
        user.sticky = Some(documents);
        user.attributes = whole;
        if first.is_some() {
            prop_assert_eq!(seen(&after, &user, "f"), first);
        }
    }

    /// What may be believed of documents that were read a while ago, however many assignments were added since.
    #[test]
    fn what_rests_on_nothing_that_lacks_stays(
        version in 0..3u32, least in 0..3u32, coverage in prop::sample::select(vec![0.0, 0.5, 1.0]), targeted in any::<bool>(),
        signed_in in any::<bool>(), stopped in any::<bool>(), forced in any::<bool>(), before in any_rows(), since in any_rows(),
    ) {
        let mut feature = feature("test", 3, &[1.0, 1.0, 1.0], coverage);
        let rule = &mut feature["rules"][0];
        rule["bucketVersion"] = version.into();
        rule["minBucketVersion"] = least.into();
        if !targeted {
            rule["condition"] = json!({"country": "DE"});
        }
        let experiment = json!({
            "key": "test", "variations": [0, 1, 2], "hashVersion": 2, "bucketVersion": version, "minBucketVersion": least,
            "coverage": coverage, "hashAttribute": "device", "fallbackAttribute": "id",
            "status": if stopped { "stopped" } else { "running" }, "force": if forced { json!(1) } else { json!(null) },
        });
        let payload = payload(&json!({"features": {"f": feature}}));
        let experiment = Definition::parse(&experiment.to_string()).unwrap();
        let mut user = user("ada");
        if !signed_in {
            user.attributes.remove("id");
        }
        let mut later = user.clone();
        let all: BTreeMap<_, _> = since.into_iter().chain(before.clone()).collect();
        (user.sticky, later.sticky) = (Some(documents(&payload, &user, &before)), Some(documents(&payload, &later, &all)));
        let evaluated = |user: &User, alone: bool| {
            let mut evaluation = payload.evaluate(user);
            let value = if alone {
                format!("{:?}", evaluation.experiment(&experiment))
            } else {
                format!("{:?}", evaluation.feature("f"))
            };
            let outcome = evaluation.finish();
            (format!("{value} {:?}", outcome.exposures), outcome.documents, outcome.lacked)
        };
        for alone in [false, true] {
            let (first, changed, lacked) = evaluated(&user, alone);
            if changed.is_empty() && !lacked {
                prop_assert_eq!((first, changed, lacked), evaluated(&later, alone));
            }
        }
    }

    #[test]
    fn another_experiment_changes_nobodys_assignment(id in "\\PC{1,20}", one in any_feature("one"), other in any_feature("other")) {
        let (alone, both) = (json!({"features": {"a": one}}), json!({"features": {"a": one, "b": other}}));
        let (alone, both, user) = (payload(&alone), payload(&both), user(&id));
        let mut evaluation = both.evaluate(&user);
        evaluation.feature("b");
        let beside = evaluation.feature("a").experiment.map(|(_, result)| result.variation_id);
        prop_assert_eq!(beside, seen(&alone, &user, "a"));
    }

    #[test]
    fn more_coverage_moves_nobody(id in "\\PC{1,20}", mut one in any_feature("one"), more in 0.0..1.0f64) {
        let before = seen(&payload(&json!({"features": {"a": one}})), &user(&id), "a");
        let coverage = one["rules"][0]["coverage"].as_f64().unwrap();
        one["rules"][0]["coverage"] = json!(coverage.max(more));
        let after = seen(&payload(&json!({"features": {"a": one}})), &user(&id), "a");
        prop_assert!(before.is_none() || before == after);
    }

    #[test]
    fn no_payload_panics(text in "\\PC{0,200}") {
        let _ = Payload::parse(text.as_bytes());
        let _ = Payload::parse(format!(r#"{{"features": {{"f": {text}}}}}"#).as_bytes());
        let _ = Definition::parse(&text);
    }
}

#[test]
fn shares_are_as_configured() {
    let payload = payload(&json!({"features": {"f": feature("test", 3, &[0.6, 0.3, 0.1], 1.0)}}));
    let mut shares = BTreeMap::<_, f64>::new();
    for n in 0..20_000 {
        *shares.entry(seen(&payload, &user(&format!("user-{n}")), "f")).or_default() += 1.0;
    }
    for (variation, share) in [0.6f64, 0.3, 0.1].into_iter().enumerate() {
        let (expected, most) = (20_000.0 * share, 6.0 * (20_000.0 * share * (1.0 - share)).sqrt());
        let found = shares[&Some(variation)];
        assert!((found - expected).abs() < most, "{found} see {variation}, expected {expected} ± {most}");
    }
}

#[test]
fn what_is_malformed_is_left_out_alone() {
    let deep = format!("{}1{}", "{\"$not\":".repeat(100), "}".repeat(100));
    let deeper = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let json = format!(
        r#"{{"features": {{"good": {{"defaultValue": 1}}, "number": 5, "rules": {{"rules": 7}},
            "weights": {{"rules": [{{"variations": [1, 2], "weights": "half"}}]}},
            "deep": {{"rules": [{{"condition": {deep}, "force": 1}}]}}, "deeper": {{"defaultValue": {deeper}}}}},
        "experiments": [{{"key": "e", "variations": [1, 2]}}, {{"key": 7}}], "savedGroups": {{"g": [1], "h": {deeper}}},
        "somethingNew": {{}}}}"#
    );
    let payload = Payload::parse(json.as_bytes()).unwrap();
    let mut problems: Vec<String> =
        payload.problems().iter().map(|problem| format!("{} {}", problem.kind, problem.key)).collect();
    problems.sort();
    let expected = [
        "experiment 1",
        "feature deep",
        "feature deeper",
        "feature number",
        "feature rules",
        "feature weights",
        "saved group h",
    ];
    assert_eq!(problems, expected);
    assert!(payload.problems().iter().all(|problem| problem.error.kind() == ErrorKind::InvalidInput));
    let ada = user("ada");
    assert_eq!(payload.evaluate(&ada).feature("good").value, &json!(1));
    assert_eq!(payload.evaluate(&ada).feature("deep").source, Source::UnknownFeature);
    assert_eq!(payload.experiments().len(), 1);
}

#[test]
fn what_is_no_payload_is_an_error() {
    for text in
        ["", "no JSON", "[]", "7", "null", r#"{"features": []}"#, r#"{"experiments": {}}"#, r#"{"features": {"a": {}"#]
    {
        assert_eq!(Payload::parse(text.as_bytes()).unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
    }
    let large = vec![b' '; Payload::MAX_BYTES + 1];
    assert_eq!(Payload::parse(&large).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(Payload::parse(b"{}").unwrap().features().len(), 0);
}

#[test]
fn prerequisites_that_go_in_circles_or_on_for_ever_end() {
    let after = |id: &str| json!({"defaultValue": true, "rules": [{"parentConditions": [{"id": id, "condition": {"value": true}}], "force": true}]});
    let mut features = BTreeMap::from([("self".to_owned(), after("self"))]);
    for n in 0..3 {
        features.insert(format!("circle-{n}"), after(&format!("circle-{}", (n + 1) % 3)));
    }
    for n in 0..50_000 {
        features.insert(format!("chain-{n}"), after(&format!("chain-{}", n + 1)));
    }
    features.insert("chain-50000".into(), json!({"defaultValue": true}));
    // Each asks twice for the next: without a memory that is 2^40 evaluations.
    for n in 0..40 {
        let twice = json!([{"id": format!("double-{}", n + 1)}, {"id": format!("double-{}", n + 1)}]);
        features.insert(format!("double-{n}"), json!({"rules": [{"parentConditions": twice, "force": n}]}));
    }
    let payload = payload(&json!({ "features": features }));
    let ada = user("ada");
    for key in ["self", "circle-0", "circle-2", "chain-0"] {
        assert_eq!(payload.evaluate(&ada).feature(key).source, Source::CyclicPrerequisite, "{key}");
    }
    let near = format!("chain-{}", 50_001 - Evaluation::MAX_CHAIN);
    assert_eq!(payload.evaluate(&ada).feature(&near).source, Source::Force);
    assert_eq!(payload.evaluate(&ada).feature("double-0").value, &json!(0));
}

#[test]
fn an_experiment_that_a_prerequisite_runs_is_entered_once() {
    let behind = json!({"rules": [{"parentConditions": [{"id": "parent", "condition": {"value": {"$exists": true}}}], "force": 1}]});
    let payload =
        payload(&json!({"features": {"parent": feature("test", 2, &[0.5, 0.5], 1.0), "a": behind, "b": behind}}));
    let ada = user("ada");
    let mut evaluation = payload.evaluate(&ada);
    assert!(evaluation.exposures().is_empty());
    for key in ["a", "b", "parent"] {
        evaluation.feature(key);
    }
    let exposures = evaluation.finish().exposures;
    assert_eq!(exposures.len(), 1, "{exposures:?}");
    assert_eq!(exposures[0].experiment.definition.key(), "test");
    assert_eq!(exposures[0].result.feature_id, Some("parent"));
}

#[test]
fn fifty_thousand_experiments_load_and_run() {
    let mut json = String::from(r#"{"features": {"last": {"defaultValue": 0}"#);
    for n in 0..50_000 {
        write!(
            json,
            r#", "f{n}": {{"defaultValue": 0, "rules": [{{"key": "e{n}", "variations": [1, 2], "hashVersion": 2,
                "condition": {{"country": {{"$in": ["DE", "FR"]}}, "id": {{"$regex": "^user-\\d+$"}}}}}}]}}"#
        )
        .unwrap();
    }
    json.push_str("}}");
    let payload = Payload::parse(json.as_bytes()).unwrap();
    assert_eq!((payload.features().len(), payload.problems().len()), (50_001, 0));
    let mut ada = user("user-7");
    ada.attributes.insert("country", json!("FR"));
    let mut evaluation = payload.evaluate(&ada);
    let keys: Vec<String> = (0..2_000).map(|n| format!("f{}", n * 25)).collect();
    for key in &keys {
        assert_eq!(evaluation.feature(key).source, Source::Experiment, "{key}");
    }
    assert_eq!(evaluation.finish().exposures.len(), 2_000);
}

#[test]
fn ids_of_every_size_and_kind() {
    let payload = payload(&json!({"features": {"f": feature("test", 2, &[0.5, 0.5], 1.0)}}));
    let in_experiment = |id: Value| {
        let user = User::new([("id".to_owned(), id)]);
        payload.evaluate(&user).feature("f").source == Source::Experiment
    };
    for id in
        [json!("x".repeat(1 << 20)), json!("\0"), json!("用户"), json!(-1), json!(1e300), json!(u64::MAX), json!(0.1)]
    {
        assert!(in_experiment(id));
    }
    for id in [json!(""), json!(0), json!(-0.0), json!(null), json!(true), json!([]), json!({"a": 1})] {
        assert!(!in_experiment(id.clone()), "{id}");
    }
}

#[test]
fn sticky_attributes_are_those_of_experiments() {
    let payload = payload(&json!({
        "features": {"f": feature("test", 2, &[0.5, 0.5], 1.0), "g": {"rules": [{"force": 1, "coverage": 0.5, "hashAttribute": "company"}]}},
        "experiments": [{"key": "e", "variations": [1, 2], "hashAttribute": "session"}],
    }));
    assert_eq!(payload.sticky_attributes(), ["device", "id", "session"]);
    let mut user = user("ada");
    user.attributes.insert("id", json!(7.0));
    user.attributes.insert("session", json!(0));
    let documents: Vec<_> = payload.sticky_documents(&user).into_keys().collect();
    assert_eq!(documents, ["device||device of ada", "id||7"], "0 is no id");
}
