//! `selvedge experiment`, and the server's placements and reports.

use std::{fmt::Write as _, path::Path};

use serde_json::{Value, json};

use crate::support::{Said, Server, client, run, selvedge, text, until};

fn experiment(folder: &Path, arguments: &[&str]) -> Said {
    run(selvedge(folder).arg("experiment").args(arguments))
}

fn found(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let said = experiment(folder.path(), arguments);
    assert_eq!(said.code, Some(0), "{said:?}");
    said.json()
}

fn payload(control: f64) -> String {
    json!({ "features": {
        "main_paywall": { "defaultValue": { "offering": "annual" }, "rules": [{
            "key": "depth", "hashVersion": 2, "weights": [control, 1.0 - control],
            "variations": [{ "offering": "annual" }, { "offering": "annual_half" }],
            "meta": [{ "key": "control" }, { "key": "half" }],
        }] },
        "upgrade_nudge": { "defaultValue": null },
    } })
    .to_string()
}

#[test]
fn boundaries_are_those_of_the_tables() {
    let looks = "0.2,0.4,0.6,0.8,1";
    let z = |spending: &str| {
        let json =
            found(&["bounds", "--looks", looks, "--spending", spending, "--alpha", "0.05", "--sides", "2", "--json"]);
        json["z"].as_array().unwrap().iter().map(|z| z.as_f64().unwrap()).collect::<Vec<_>>()
    };
    let near = |found: &[f64], table: &[f64]| {
        assert!(found.len() == table.len() && found.iter().zip(table).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?}");
    };
    // rpact 3.3.4.
    near(&z("obrien-fleming"), &[4.87688, 3.35701, 2.68028, 2.28982, 2.03103]);
    near(&z("pocock"), &[2.43798, 2.42681, 2.41019, 2.39665, 2.38600]);
}

#[test]
fn the_number_of_users_is_not_the_articles() {
    let power = |cv: &str| {
        let arguments =
            ["power", "--metric", "revenue", "--cv", cv, "--lift", "0.10", "--power", "0.8", "--alpha", "0.05"];
        found(&[&arguments[..], &["--looks", "1", "--json"]].concat())["n_per_arm"].as_u64().unwrap()
    };
    assert!((14_127..=14_131).contains(&power("3")), "{}", power("3"));
    assert!((39_244..=39_247).contains(&power("5")), "{}", power("5"));
}

#[test]
fn a_user_is_shown_what_the_payload_says() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("payload.json"), payload(0.0)).unwrap();
    let eval = |more: &[&str]| {
        let said = experiment(folder.path(), &[&["eval", "--payload", "payload.json", "--json"], more].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        said.json()
    };
    let feature = eval(&["--attributes", r#"{"id":"ada"}"#, "--feature", "main_paywall"]);
    assert_eq!((&feature["value"]["offering"], &feature["source"]), (&json!("annual_half"), &json!("experiment")));
    assert_eq!(feature["experimentResult"]["hashValue"], "ada");
    assert_eq!(eval(&["--attributes", "{}", "--feature", "nothing"])["source"], "unknownFeature");
    let inline = r#"{"key":"my-test","variations":[0,1]}"#;
    let ran = eval(&["--attributes", r#"{"id":"1"}"#, "--experiment", inline]);
    assert_eq!((&ran["inExperiment"], &ran["value"]), (&json!(true), &json!(1)));
    for wrong in [
        &["eval", "--payload", "payload.json", "--attributes", "[]", "--feature", "x"][..],
        &["eval", "--payload", "nowhere.json", "--feature", "x"],
        &["eval", "--payload", "payload.json"],
    ] {
        let said = experiment(folder.path(), wrong);
        assert!(said.code.is_some_and(|code| code > 0) && !said.err.is_empty(), "{said:?}");
    }
}

/// The article's variants: half the people at twice the price, and more.
fn users(folder: &Path) {
    let mut csv = "user_id,variation,revenue,converted\n".to_owned();
    for user in 0..20_000u32 {
        let (name, pays, price) = if user % 2 == 0 { ("control", 32, 60) } else { ("half", 58, 25) };
        let paid = if (user / 2) % 1_000 < pays { price } else { 0 };
        writeln!(csv, "u{user},{name},{paid},{}", u8::from(paid > 0)).unwrap();
    }
    std::fs::write(folder.join("users.csv"), csv).unwrap();
}

#[test]
fn a_file_becomes_a_report_in_three_forms() {
    let folder = tempfile::tempdir().unwrap();
    users(folder.path());
    let json = experiment(folder.path(), &["analyze", "--input", "users.csv", "--json"]).json();
    let rows = json["variations"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["name"], &rows[0]["n"]), (2, &json!("control"), &json!(10_000)));
    assert!((rows[0]["revenue_per_user"].as_f64().unwrap() - 1.92).abs() < 1e-9, "{}", rows[0]);
    assert!((rows[1]["revenue_per_user"].as_f64().unwrap() - 1.45).abs() < 1e-9, "{}", rows[1]);
    let shown = experiment(folder.path(), &["analyze", "--input", "users.csv"]);
    assert!(shown.out.contains("control") && shown.out.contains("half"), "{shown:?}");
    let said = experiment(folder.path(), &["analyze", "--input", "users.csv", "--html", "report.html"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("<script src") && !page.contains("http://"), "it stands alone");
}

#[test]
fn what_is_wrong_in_a_file_is_named_by_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    for (text, named) in [
        ("", "empty"),
        ("user_id,variation,revenue\n", "converted"),
        ("user_id,variation,revenue,converted\na,control,NaN,0\n", "revenue"),
        ("user_id,variation,revenue,converted\na,control,1,1\nb,half\n", "3"),
    ] {
        std::fs::write(folder.path().join("users.csv"), text).unwrap();
        let said = experiment(folder.path(), &["analyze", "--input", "users.csv", "--json"]);
        assert!(said.code.is_some_and(|code| code > 0) && said.err.contains(named), "{text:?}: {said:?}");
    }
}

#[test]
fn a_configuration_is_signed_by_a_key_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("payload.json"), payload(0.5)).unwrap();
    let sign = ["sign", "--payload", "payload.json", "--key", "secret.txt", "--key-id", "2027-a"];
    let without = experiment(folder.path(), &sign);
    assert!(without.code != Some(0) && without.err.contains("openssl rand -hex 32"), "{without:?}");
    std::fs::write(folder.path().join("secret.txt"), "07".repeat(32)).unwrap();
    let signed = experiment(folder.path(), &sign);
    assert_eq!((signed.code, signed.out.trim().split('.').count()), (Some(0), 3), "{signed:?}");
    // RFC 8032's public key of this secret, by another implementation.
    assert!(
        signed.err.contains("2027-a = ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c"),
        "{signed:?}"
    );
}

#[tokio::test]
async fn a_server_has_placements_takes_events_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("payload.json"), payload(0.5)).unwrap();
    std::fs::write(
        folder.path().join("selvedge.toml"),
        "[log]\nlevel = \"error\"\n[experiments]\nconfig = \"payload.json\"\n",
    )
    .unwrap();
    let server = Server::within(folder);
    let see = async |subject: &str| {
        let body = json!({ "subject": subject }).to_string();
        let (status, answer) =
            text(client().post(server.url("/v1/placements/main_paywall")).body(body).send().await.unwrap()).await;
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    let mut events = Vec::new();
    for user in 0..200 {
        let subject = format!("user-{user}");
        let seen = see(&subject).await;
        let price = if seen["variation"] == "half" { 1_500 } else { 3_000 };
        if user % 5 == 0 {
            let properties = json!({ "product_id": "pro", "revenue": price, "currency": "EUR", "is_trial": false, "discount_pct": 0 });
            let id = format!("00000000-0000-4000-8000-{user:012}");
            events
                .push(json!({ "id": id, "name": "purchase_completed", "subject": subject, "properties": properties }));
        }
    }
    for _ in 0..2 {
        let posted =
            client().post(server.url("/v1/events")).body(Value::from(events.clone()).to_string()).send().await.unwrap();
        let (status, answer) = text(posted).await;
        assert!((200..300).contains(&status), "{status} {answer}");
    }
    let (status, report) = server.get("/v1/experiments/depth/report").await;
    assert_eq!(status, 200, "{report}");
    let report: Value = serde_json::from_str(&report).unwrap();
    let users: u64 = report["variations"].as_array().unwrap().iter().map(|one| one["n"].as_u64().unwrap()).sum();
    assert_eq!(users, 200);
    let browser = client().get(server.url("/v1/experiments/depth/report")).header("accept", "text/html,*/*");
    assert!(text(browser.send().await.unwrap()).await.1.contains("<svg"));
    let by_command =
        run(selvedge(server.folder()).args(["experiment", "report", "depth", "--refunds", "net", "--json"])).json();
    assert_eq!(by_command["variations"], report["variations"]);
    assert_eq!(server.get("/v1/experiments/nothing/report").await.0, 404);

    // The file is read again when it changes; who was assigned stays.
    let before = see("user-1").await;
    std::fs::write(server.folder().join("payload.json"), payload(1.0)).unwrap();
    until("the new file is served", async || server.get("/v1/config").await.1.contains("[1.0,0.0]")).await;
    assert_eq!(see("user-1").await["variation"], before["variation"]);
    let fresh = see("somebody new").await;
    assert_eq!(fresh["variation"], "control");
    // And what is no payload is not.
    std::fs::write(server.folder().join("payload.json"), "{\"features\": {").unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert!(server.get("/v1/config").await.1.contains("[1.0,0.0]"));
}
