//! Files of users: what is read, and what is refused, by line and column.
#![cfg(feature = "analysis")]
#![allow(clippy::expect_used, reason = "A test may panic, and so may what it is made of.")]

use selvedge_core::{Error, Result};
use selvedge_experiments::analysis::{
    Better, Guardrail, Options, Refunds, Report, analyze,
    input::{Csv, export},
};

const HEAD: &str = "user_id,variation,revenue,converted\n";

fn read(text: &str, options: &Options) -> Result<Report> {
    let columns: Vec<_> = options.guardrails.iter().map(|guardrail| guardrail.column.clone()).collect();
    analyze(Csv::new(text.as_bytes(), &columns)?, options)
}

/// Users that buy now and then, as a file.
fn users(count: usize) -> String {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut text = String::from(HEAD);
    for user in 0..count {
        let paid = if rng.f64() < 0.1 { 1.0 + (rng.f64() * 3_000.0).round() / 100.0 } else { 0.0 };
        text += &format!("u{user},{},{paid},{}\n", ["A", "B"][user % 2], u8::from(paid > 0.0));
    }
    text
}

#[track_caller]
fn refused(text: &str, line: u64, column: &str) -> Error {
    let error = read(text, &Options::default()).expect_err("it must be refused");
    let on = |name: &str| error.context().iter().find(|pair| pair.0 == name).map(|pair| pair.1.as_str());
    assert_eq!((on("line"), on("column")), (Some(line.to_string().as_str()), Some(column)), "{error}");
    error
}

#[test]
fn bad_input_is_refused_by_line_and_column() {
    let file = |rows: &str| format!("{HEAD}{rows}");
    refused("", 1, "user_id");
    refused("user_id,variation,revenue\nu1,A,0\n", 1, "converted");
    refused("user_id,variation,revenue,converted,revenue\n", 1, "revenue");
    refused(&file("u1,A,0,0\nu2,B,NaN,0\n"), 3, "revenue");
    refused(&file("u1,A,inf,0\n"), 2, "revenue");
    refused(&file("u1,A,,0\n"), 2, "revenue");
    refused(&file("u1,A,4.99 USD,1\n"), 2, "revenue");
    refused(&file("u1,A,-4.99,1\n"), 2, "revenue");
    refused(&file("u1,A,0,maybe\n"), 2, "converted");
    refused(&file("u1,,0,0\n"), 2, "variation");
    refused(&file(",A,0,0\n"), 2, "user_id");
    refused(&file("u1,A,0,0\nu1,B,0,0\n"), 3, "variation");
    refused(&file("u1,A,0,0\nu1,A,0,0\n"), 3, "user_id");
    let short = refused(&file("u1,A,0,0\nu2,B,4.9"), 3, "converted");
    assert!(short.message().contains("cut short"), "{short}");
    refused(&file("u1,A,0,0,7\n"), 2, "converted");
    let cash = "user_id,variation,revenue,converted,currency\nu1,A,1,1,USD\nu2,B,1,1,EUR\n";
    refused(cash, 3, "currency");
    refused("user_id,variation,revenue,converted,day\nu1,A,1,1,soon\n", 2, "day");
    refused("user_id,variation,revenue,converted,day\nu1,A,1,1,3\nu2,A,1,1,2026-01-01\n", 3, "day");
    refused("user_id,variation,revenue,converted,covariate\nu1,A,1,1,\n", 2, "covariate");
    refused("user_id,variation,revenue,converted,discount_pct\nu1,A,1,1,120\n", 2, "discount_pct");
}

#[test]
fn a_file_without_two_variations_is_refused() {
    for text in [HEAD, "user_id,variation,revenue,converted\nu1,A,0,0\n"] {
        let error = read(text, &Options::default()).expect_err("nothing to compare");
        assert!(error.message().contains("no users") || error.message().contains("only one"), "{error}");
    }
}

#[test]
fn refunds_are_a_choice() {
    let text = users(400).replace("u1,B,0,0", "u1,B,-3.5,1");
    let of = |refunds| read(&text, &Options { refunds, ..Options::default() });
    assert!(of(Refunds::Refuse).is_err());
    let (net, zero) = (of(Refunds::Net).expect("net"), of(Refunds::Zero).expect("zero"));
    let revenue = |report: &Report| report.variations[1].revenue;
    assert!((revenue(&zero) - revenue(&net) - 3.5).abs() < 1e-9);
    assert!(net.notes.iter().any(|note| note.contains("1 users have negative revenue")), "{:?}", net.notes);
}

#[test]
fn nothing_is_dropped_in_silence() {
    let text =
        users(400).replace("converted\n", "converted,country\n").replace(",0\n", ",0,DE\n").replace(",1\n", ",1,FR\n");
    let report = read(&text, &Options::default()).expect("a report");
    assert_eq!(report.users, 400);
    assert!(report.notes.contains(&"columns not looked at: country".to_owned()), "{:?}", report.notes);
}

#[test]
fn json_has_what_checks_look_for() {
    let report = read(&users(2_000), &Options::default()).expect("a report");
    let json = serde_json::to_value(&report).expect("JSON");
    let b = &json["variations"][1];
    assert_eq!((b["name"].as_str(), b["n"].as_u64()), (Some("B"), Some(1_000)));
    for pointer in [
        "/revenue",
        "/revenue_per_user",
        "/conversion",
        "/lift/absolute/estimate",
        "/lift/relative/low",
        "/lift/relative/p",
    ] {
        assert!(b.pointer(pointer).is_some_and(serde_json::Value::is_f64), "{pointer} in {b}");
    }
    assert!(b["decomposition"]["volume"].is_f64() && b["cuped"].is_null());
    assert!(json["srm"]["p"].is_f64() && json["decision"]["action"].is_string());
    assert!(json["variations"][0].get("lift").is_none());
}

#[test]
fn columns_that_may_be_there_are_used() {
    let mut text =
        String::from("user_id,variation,revenue,converted,covariate,day,discount_pct,product_id,currency,sessions\n");
    let mut rng = fastrand::Rng::with_seed(5);
    for user in 0..6_000 {
        let before = rng.f64() * 20.0;
        let paid = if rng.f64() < 0.5 { before + rng.f64() } else { 0.0 };
        let variation = ["control", "half"][user % 2];
        text += &format!(
            "u{user},{variation},{paid},{},{before},2026-11-{:02},{},{},EUR,{}\n",
            u8::from(paid > 0.0),
            1 + user / 2 % 6,
            if user % 2 == 1 { "50" } else { "" },
            if user % 3 == 0 { "year" } else { "month" },
            5 + user % 3,
        );
    }
    let guardrail = Guardrail { column: "sessions".into(), margin: 0.02, better: Better::Higher };
    let options = Options {
        guardrails: vec![guardrail],
        winsorise: Some(0.99),
        planned_per_arm: Some(6_000),
        ..Options::default()
    };
    let report = read(&text, &options).expect("a report");
    assert_eq!((report.control.as_str(), report.currency.as_deref()), ("control", Some("EUR")));
    let (_, half) = (&report.variations[0], report.variations[1].comparison.as_ref().expect("a comparison"));
    assert!(half.cuped.is_some_and(|cuped| cuped.variance_removed > 0.15), "{:?}", half.cuped);
    assert!(half.guardrails[0].holds && half.guardrails[0].effect.is_some());
    assert!(half.winsorised.is_some_and(|capped| capped.capped > 20 && capped.capped < 40), "{:?}", half.winsorised);
    assert!(half.decomposition.discount < 0.0 && half.decomposition.price > 0.0, "{:?}", half.decomposition);
    assert_eq!(half.novelty.as_ref().map(|novelty| novelty.by_day[5].day.as_str()), Some("2026-11-06"));
    // Six days of equal size are six looks, at half of the planned users by the end.
    let fractions: Vec<_> = report.looks.iter().map(|look| (look.fraction * 12.0).round()).collect();
    assert_eq!(fractions, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let html = report.html();
    assert_eq!(html.matches("<svg").count(), 4);
    for outside in ["<script", "http://", "https://", "NaN", "inf"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(report.text().contains("guardrail sessions"), "{}", report.text());
}

#[test]
fn what_is_exported_is_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let text =
        users(3_000).replace("converted\n", "converted,day\n").replace(",0\n", ",0,4\n").replace(",1\n", ",1,5\n");
    let wanted = read(&text, &Options::default()).expect("a report");
    let endings: &[&str] = if cfg!(feature = "parquet") { &["csv", "parquet"] } else { &["csv"] };
    for ending in endings {
        let path = folder.path().join(format!("users.{ending}"));
        let mut rows = Csv::new(text.as_bytes(), &[]).expect("the head");
        assert_eq!(export(&mut rows, &path).expect("written"), 3_000);
        let options = Options::default();
        let found = analyze(selvedge_experiments::analysis::input::open(&path, &options).expect("opened"), &options);
        assert_eq!(found.expect("a report"), wanted, "{ending}");
    }
}

/// The article's variant B: more users convert, at half the price, and each exposed user pays less.
#[test]
fn conversion_would_ship_what_revenue_keeps_out() {
    let mut text = String::from(HEAD);
    for user in 0..40_000 {
        let (a, b) = (user % 1_000 < 32, user % 1_000 < 58);
        text += &format!("a{user},A,{},{}\n", if a { 60.0 } else { 0.0 }, u8::from(a));
        text += &format!("b{user},B,{},{}\n", if b { 25.0 } else { 0.0 }, u8::from(b));
    }
    let report = read(&text, &Options::default()).expect("a report");
    assert_eq!(report.decision.action, selvedge_experiments::analysis::report::Action::KeepControl);
    assert_eq!(report.decision.conversion_would_ship.as_deref(), Some("B"));
    assert!((report.variations[0].revenue_per_user - 1.92).abs() < 1e-9);
    assert!((report.variations[1].revenue_per_user - 1.45).abs() < 1e-9);
}

#[test]
fn arms_of_unequal_size_are_looked_into_first() {
    let mut text = users(4_000);
    (0..400).for_each(|user| text += &format!("more{user},B,0,0\n"));
    let report = read(&text, &Options::default()).expect("a report");
    assert!(!report.srm.holds);
    assert_eq!(report.decision.action, selvedge_experiments::analysis::report::Action::Investigate);
    let weights = [("A".to_owned(), 2_000.0), ("B".to_owned(), 2_400.0)].into();
    assert!(read(&text, &Options { weights, ..Options::default() }).expect("a report").srm.holds);
}

#[test]
fn users_who_pay_nothing_are_a_report_too() {
    let mut text = String::from("user_id,variation,revenue,converted,covariate,day\n");
    (0..100).for_each(|user| text += &format!("u{user},{},0,0,1,{}\n", ["A", "B"][user % 2], user / 50));
    let options = Options { winsorise: Some(0.999), planned_per_arm: Some(100), ..Options::default() };
    let report = read(&text, &options).expect("a report");
    let b = report.variations[1].comparison.as_ref().expect("a comparison");
    assert!(b.lift.absolute.is_none() && b.cuped.is_none() && b.winsorised.is_none() && b.p_adjusted.is_none());
    assert!(!report.html().contains("NaN") && report.text().contains("cannot be compared"));
    assert!(serde_json::to_string(&report).is_ok());
}

proptest::proptest! {
    /// Whatever a file holds, it is a report or an error.
    #[test]
    fn garbage_is_refused(
        head in proptest::sample::select(vec!["", HEAD, "user_id,variation,revenue,converted,day,covariate,currency\n"]),
        rows in proptest::collection::vec("[a-c\",\n\r0-9.eE+NaN-]{0,40}", 0..8),
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60),
    ) {
        let mut text = format!("{head}{}", rows.join("\n")).into_bytes();
        text.extend(bytes);
        if let Ok(csv) = Csv::new(text.as_slice(), &[])
            && let Ok(report) = analyze(csv, &Options { refunds: Refunds::Net, ..Options::default() })
        {
            proptest::prop_assert!(!report.html().is_empty());
        }
    }
}
