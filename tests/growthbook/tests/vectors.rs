//! Every conformance case of the SDK specification 0.12 that is about evaluation.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeMap;

use selvedge_core::experiment::{
    Definition, Payload, User,
    condition::{Condition, SavedGroups},
    hash::{self, Namespace, Range, Version},
    sticky::Document,
    url,
};
use selvedge_experiments::decrypt::decrypt;
use serde_json::{Map, Value, json};

mod corpus;

/// The suites, how many cases each has, and how one is checked: what differs, if something does.
type Check = fn(&Value) -> Result<(), String>;
const SUITES: [(&str, usize, Check); 18] = [
    ("hash", 27, check_hash),
    ("getBucketRange", 13, check_ranges),
    ("chooseVariation", 13, check_choice),
    ("inNamespace", 16, check_namespace),
    ("getEqualWeights", 6, check_weights),
    ("getQueryStringOverride", 16, check_query),
    ("evalCondition", 583, check_condition),
    ("feature", 61, check_feature),
    ("contextualBandit", 35, check_feature),
    ("run", 88, check_run),
    ("stickyBucket", 13, check_sticky),
    ("decrypt", 10, check_decrypt),
    ("urlRedirect", 4, check_redirect),
    ("savedGroupReferencesV2/evalCondition", 56, check_condition),
    ("savedGroupReferencesV2/feature", 4, check_feature),
    ("savedGroupReferencesV2/run", 4, check_run),
    ("savedGroupReferencesRemote/evalCondition", 15, check_condition),
    ("savedGroupReferencesRemote/feature", 3, check_feature),
];

/// Suites that are about something else.
const SKIPPED: [(&str, &str); 2] = [
    (
        "pruneCondition",
        "a server's part: it shortens a payload for one user before it is sent, and nothing is evaluated",
    ),
    (
        "reducePayload",
        "a server's part: it shortens a payload for one user before it is sent, and nothing is evaluated",
    ),
];

#[test]
fn every_case_of_the_specification() {
    let corpus: Value = serde_json::from_str(&corpus::file("tests/cases/cases.json")).unwrap();
    assert_eq!(corpus["specVersion"], "0.12.0");
    for (suite, value) in corpus.as_object().unwrap() {
        let known = suite == "specVersion"
            || SKIPPED.iter().any(|(name, _)| name == suite)
            || SUITES.iter().any(|(name, ..)| name.split('/').next() == Some(suite));
        assert!(known, "the suite {suite} is neither run nor skipped: {value}");
    }
    let (mut ran, mut wrong) = (0, Vec::new());
    for (suite, expected, check) in SUITES {
        let cases = corpus.pointer(&format!("/{suite}")).and_then(Value::as_array).expect(suite);
        assert!(cases.len() >= expected, "{suite} has {} cases, expected {expected}", cases.len());
        let failed = cases.iter().filter_map(|case| Some(format!("{suite}: {}: {}", case[0], check(case).err()?)));
        let before = wrong.len();
        wrong.extend(failed);
        println!("{suite}: {} of {} hold", cases.len() - (wrong.len() - before), cases.len());
        ran += cases.len();
    }
    for (suite, reason) in SKIPPED {
        println!("{suite}: {} skipped: {reason}", corpus[suite].as_array().unwrap().len());
    }
    println!("{ran} cases ran");
    assert!(wrong.is_empty(), "{} of {ran} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_case_the_peer_adds() {
    let corpus: Value = serde_json::from_str(&corpus::file("tests/cases/rust.json")).unwrap();
    let checks: [(&str, usize, Check); 3] = [
        ("evalCondition", 11, check_condition),
        ("feature", 17, check_feature_value),
        ("stickyBucket", 3, check_sticky),
    ];
    for (suite, expected, check) in checks {
        let cases = corpus[suite].as_array().unwrap();
        assert!(cases.len() >= expected, "{suite} has {} cases, expected {expected}", cases.len());
        let wrong: Vec<String> =
            cases.iter().filter_map(|case| Some(format!("{}: {}", case[0], check(case).err()?))).collect();
        println!("{suite}: {} of {} hold", cases.len() - wrong.len(), cases.len());
        assert!(wrong.is_empty(), "{suite}:\n{}", wrong.join("\n"));
    }
}

fn same(found: &Value, expected: &Value) -> Result<(), String> {
    if corpus::equal(found, expected) { Ok(()) } else { Err(format!("found {found}, expected {expected}")) }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn ranges(value: &Value) -> Vec<Range> {
    serde_json::from_value(value.clone()).expect("ranges")
}

fn numbers(value: &Value) -> Option<Vec<f64>> {
    serde_json::from_value(value.clone()).expect("numbers")
}

fn near(found: &[f64], expected: &[f64]) -> Result<(), String> {
    let near = found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-8);
    if near { Ok(()) } else { Err(format!("found {found:?}, expected {expected:?}")) }
}

fn check_hash(case: &Value) -> Result<(), String> {
    let version = Version::of(case[2].as_i64().unwrap());
    same(&json!(version.map(|version| hash::bucket(text(&case[0]), text(&case[1]), version))), &case[3])
}

fn check_ranges(case: &Value) -> Result<(), String> {
    let variations = case[1][0].as_u64().unwrap() as usize;
    let weights = numbers(&case[1][2]);
    let found = hash::ranges(variations, case[1][1].as_f64().unwrap(), weights.as_deref());
    let flat = |ranges: Vec<Range>| ranges.iter().flat_map(|range| [range.start, range.end]).collect::<Vec<f64>>();
    near(&flat(found.collect()), &flat(ranges(&case[2])))
}

fn check_choice(case: &Value) -> Result<(), String> {
    let found = hash::choose(case[1].as_f64().unwrap(), ranges(&case[2]));
    same(&json!(found.map_or(-1, |variation| variation as i64)), &case[3])
}

fn check_namespace(case: &Value) -> Result<(), String> {
    let namespace: Namespace = serde_json::from_value(case[2].clone()).unwrap();
    same(&json!(namespace.contains(text(&case[1]))), &case[3])
}

fn check_weights(case: &Value) -> Result<(), String> {
    let variations = usize::try_from(case[0].as_i64().unwrap()).unwrap_or(0);
    near(&hash::equal_weights(variations), &numbers(&case[1]).unwrap())
}

fn check_query(case: &Value) -> Result<(), String> {
    let found = url::forced_variation(text(&case[1]), text(&case[2]), case[3].as_u64().unwrap() as usize);
    same(&json!(found), &case[4])
}

fn check_condition(case: &Value) -> Result<(), String> {
    let condition = Condition::compile(&case[1]).unwrap();
    let mut groups = SavedGroups::default();
    for (id, group) in object(&case[4]) {
        groups.insert(&id, &group).unwrap();
    }
    same(&json!(condition.matches(&object(&case[2]).into_iter().collect(), &groups)), &case[3])
}

/// What a case calls its context, as a payload and a user.
fn read(context: &Value) -> (Payload, User) {
    let payload = Payload::parse(context.to_string().as_bytes()).unwrap();
    assert!(payload.problems().is_empty(), "{:?}", payload.problems());
    let known = [
        "features",
        "experiments",
        "savedGroups",
        "contextualBandits",
        "forcedVariations",
        "attributes",
        "url",
        "qaMode",
        "enabled",
        "remoteGroupIds",
        "stickyBucketAssignmentDocs",
    ];
    for key in object(context).keys() {
        assert!(known.contains(&key.as_str()), "the context's {key} means nothing here");
    }
    let mut user = User::new(object(&context["attributes"]));
    user.url = context["url"].as_str().map(str::to_owned);
    user.qa_mode = context["qaMode"] == true;
    user.enabled = context["enabled"] != false;
    if let Some(ids) = context["remoteGroupIds"].as_array() {
        user = user.in_remote_groups(ids.iter().map(|id| text(id).to_owned()));
    }
    (payload, user)
}

fn check_feature(case: &Value) -> Result<(), String> {
    let (payload, user) = read(&case[1]);
    let result = serde_json::to_value(payload.evaluate(&user).feature(text(&case[2]))).unwrap();
    same(&result, &case[3])
}

/// Without the experiment, which these cases leave out.
fn check_feature_value(case: &Value) -> Result<(), String> {
    let (payload, user) = read(&case[1]);
    let mut result = serde_json::to_value(payload.evaluate(&user).feature(text(&case[2]))).unwrap();
    if let Some(fields) = result.as_object_mut() {
        fields.retain(|key, _| case[3].get(key).is_some());
    }
    same(&result, &case[3])
}

fn check_run(case: &Value) -> Result<(), String> {
    let (payload, user) = read(&case[1]);
    let definition = Definition::parse(&case[2].to_string()).unwrap();
    let mut evaluation = payload.evaluate(&user);
    let result = evaluation.experiment(&definition);
    let found = json!([result.value, result.in_experiment, result.hash_used]);
    let exposed =
        evaluation.exposures().iter().any(|exposure| exposure.experiment.definition.key() == definition.key());
    if exposed != result.hash_used {
        return Err(format!("exposed: {exposed}, hash used: {}", result.hash_used));
    }
    same(&found, &json!([case[3], case[4], case[5]]))
}

fn check_sticky(case: &Value) -> Result<(), String> {
    let (payload, mut user) = read(&case[1]);
    let documents: Vec<Document> = serde_json::from_value(case[2].clone()).unwrap();
    let mut documents: BTreeMap<String, Document> =
        documents.into_iter().map(|document| (document.key(), document)).collect();
    // An app loads the documents of its user alone.
    let mine = |document: &Document| {
        user.attributes.get(&document.attribute_name).and_then(Value::as_str) == Some(&document.attribute_value)
    };
    documents.retain(|_, document| mine(document));
    user.sticky = Some(documents.clone());
    let mut evaluation = payload.evaluate(&user);
    let result = evaluation.feature(text(&case[3]));
    let found = result.experiment.map(|(_, result)| serde_json::to_value(result).unwrap());
    documents.extend(evaluation.finish().documents);
    let expected = object(&case[5]);
    same(&json!(found), &case[4])?;
    same(&serde_json::to_value(&documents).unwrap(), &Value::Object(expected))
}

fn check_decrypt(case: &Value) -> Result<(), String> {
    same(&json!(decrypt(text(&case[1]), text(&case[2])).ok()), &case[3])
}

fn check_redirect(case: &Value) -> Result<(), String> {
    let (payload, user) = read(&case[1]);
    let found: Vec<Value> = payload
        .evaluate(&user)
        .redirect()
        .map(|redirect| {
            json!({
                "inExperiment": redirect.result.in_experiment,
                "urlRedirect": redirect.result.value["urlRedirect"],
                "urlWithParams": redirect.url,
            })
        })
        .into_iter()
        .collect();
    same(&json!(found), &case[2])
}
