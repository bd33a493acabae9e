//! The engine against a second implementation, `second.py`, whose results are in `second.json`.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use selvedge_core::experiment::{
    Definition, Payload, User,
    hash::{Version, bucket},
};
use serde_json::{Value, json};

#[test]
fn both_share_users_out_alike() {
    let vectors: Value = serde_json::from_str(include_str!("second.json")).unwrap();
    let hashes = vectors["hash"].as_array().unwrap();
    assert!(hashes.len() >= 252);
    for case in hashes {
        let version = Version::of(case[2].as_i64().unwrap()).unwrap();
        let found = bucket(case[0].as_str().unwrap(), case[1].as_str().unwrap(), version);
        assert_eq!(Some(found), case[3].as_f64(), "{case}");
    }
    let users = vectors["users"].as_array().unwrap();
    let payload = Payload::default();
    let (mut inside, mut outside) = (0, 0);
    for run in vectors["runs"].as_array().unwrap() {
        let definition = Definition::parse(&run["experiment"].to_string()).unwrap();
        for (id, expected) in users.iter().zip(run["variations"].as_array().unwrap()) {
            let user = User::new([("id".to_owned(), id.clone())]);
            let result = payload.evaluate(&user).experiment(&definition);
            let found = result.in_experiment.then_some(result.variation_id);
            assert_eq!(&json!(found), expected, "{id} in {}", run["experiment"]);
            *if found.is_some() { &mut inside } else { &mut outside } += 1;
        }
    }
    println!("{} hashes, {inside} users inside and {outside} outside an experiment", hashes.len());
    assert!(inside > 1000 && outside > 300, "{inside} inside, {outside} outside");
}
