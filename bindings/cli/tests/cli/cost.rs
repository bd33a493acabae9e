//! `selvedge cost`: logs in, tables and JSON out.

use std::{
    fmt::Write as _,
    fs::File,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::support::{Said, run, selvedge, with};

/// Two days of a request every 20 seconds, twice as many from 10 to 11 on the first, in OpenAI's shape.
fn log(folder: &Path) -> PathBuf {
    let mut text = String::new();
    for index in 0..8_641_u32 {
        let at = 1_764_201_600 + index * 20;
        let copies = if (1_800..1_980).contains(&index) { 2 } else { 1 };
        for _ in 0..copies {
            let (prompt, completion) = (500 + index % 1_001, 100 + index * 7 % 401);
            writeln!(
                text,
                r#"{{"id":"a","created":{at},"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion}}},"ttft_ms":180}}"#
            )
            .unwrap();
        }
    }
    let path = folder.join("requests.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

fn cost(flags: &[&str]) -> Said {
    let folder = tempfile::tempdir().unwrap();
    let log = log(folder.path());
    run(selvedge(folder.path()).args(["cost", "inference", "--log"]).arg(log).args(flags))
}

fn report(flags: &[&str]) -> Value {
    let said = cost(&[flags, &["--json"]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    said.json()
}

fn close(one: &Value, other: f64) {
    let one = one.as_f64().unwrap_or_else(|| panic!("{one} is no number"));
    assert!((one - other).abs() <= other.abs() * 1e-6, "{one} is not {other}");
}

#[test]
fn json_says_what_the_log_holds_and_what_each_volume_costs() {
    let report = report(&["--tokens-per-second", "2500", "--spare-nodes", "0", "--volume", "2000000"]);
    assert_eq!(report["log"]["requests"], 8_821);
    let median = report["log"]["prompt_tokens"]["p50"].as_f64().unwrap();
    assert!((950.0..1_050.0).contains(&median), "{median}, of 500 to 1,500");
    close(&report["log"]["ttft"]["p99"], 0.18);
    close(&report["log"]["peak"], 360.0 / (8_820.0 / 48.0));
    let volume = |requests: f64| {
        let rows = report["volumes"].as_array().unwrap();
        rows.iter().find(|row| (row["requests_per_month"].as_f64().unwrap() - requests).abs() < 1.0).unwrap()
    };
    let (prompt, completion) = (&report["log"]["prompt_tokens"]["mean"], &report["log"]["completion_tokens"]["mean"]);
    let api = prompt.as_f64().unwrap() * 2.5 + completion.as_f64().unwrap() * 10.0;
    close(&volume(2e6)["api"], 2.0 * api);
    close(&report["api_per_million_requests"], api);
    let row = volume(2e6);
    let (nodes, own) = (row["nodes"].as_u64().unwrap(), row["self_hosted"].as_f64().unwrap());
    close(&row["self_hosted"], nodes as f64 * 16_000.0);
    close(&row["saved_by_self_hosting"], 2.0 * api - own);
    // By hand: the tokens of two million requests in the busiest hour, at 2,500 a second and 65 % busy.
    let seconds = (prompt.as_f64().unwrap() + completion.as_f64().unwrap()) / 2_500.0;
    let needed = 2e6 / (730.0 * 3_600.0) * seconds * report["log"]["peak"].as_f64().unwrap() / 0.65;
    assert_eq!(nodes, needed.ceil() as u64);
    // What is in the log comes to a volume of its own.
    close(&volume(8_820.0 / 2.0 * 365.0 / 12.0)["api"], 8_820.0 / 2.0 * 365.0 / 12.0 / 1e6 * api);
}

#[test]
fn the_crossover_costs_the_same_and_lies_in_its_interval() {
    let flags = ["--tokens-per-second", "20000", "--prompt-tokens-per-second", "100000"];
    let first = report(&flags);
    let crossing = &first["crossover"];
    let at = crossing["first"].as_f64().unwrap();
    let interval = &crossing["first_interval"];
    let (low, high) = (interval["low"].as_f64().unwrap(), interval["high"].as_f64().unwrap());
    assert!(low <= at && at <= high && low < high, "{crossing}");
    assert!(crossing["last"].as_f64().unwrap() >= at);
    let at = format!("{at:?}");
    let same = report(&[&flags[..], &["--volume", &at, "--requests-per-month", &at]].concat());
    let [row] = &same["volumes"].as_array().unwrap()[..] else { panic!("not one row: {same}") };
    close(&row["api"], row["self_hosted"].as_f64().unwrap());
    assert_eq!(row["nodes"], crossing["nodes"]);
    // The same seed says the same, another one about the same.
    assert_eq!(first["crossover"], report(&flags)["crossover"]);
    let other = report(&[&flags[..], &["--seed", "1"]].concat());
    assert_eq!(other["crossover"]["first"], crossing["first"]);
    assert_ne!(other["crossover"]["first_interval"], crossing["first_interval"]);
}

#[test]
fn a_latency_target_costs_nodes_and_one_that_cannot_be_kept_is_refused() {
    let flags = ["--tokens-per-second", "3000", "--prompt-tokens-per-second", "30000"];
    let target = |ms: &str| report(&[&flags[..], &["--p99-ttft-ms", ms]].concat());
    let nodes = |report: &Value| report["volumes"].as_array().unwrap().last().unwrap()["nodes"].as_u64().unwrap();
    let (none, loose, tight) = (report(&flags), target("60000"), target("100"));
    assert!(nodes(&none) == nodes(&loose) && nodes(&loose) < nodes(&tight), "{none}\n{loose}\n{tight}");
    for row in tight["volumes"].as_array().unwrap() {
        assert!(row["p99_ttft_ms"].as_f64().unwrap() <= 100.001, "{row}");
    }
    cost(&[&flags[..], &["--p99-ttft-ms", "20"]].concat()).failed(1, &["p99_ttft_ms: 20", "reading_ms: 50", "try: "]);
}

#[test]
fn people_get_a_table_with_the_source_of_every_number() {
    let said = cost(&["--tokens-per-second", "20000", "--prompt-tokens-per-second", "100000"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    for words in [
        "8,821 requests in 2.0 days",
        "prompt tokens",
        "gpt-4o in LiteLLM",
        "the article's, 8 A100",
        "the log: its busiest hour over the mean",
        "REQUESTS/MONTH",
        "10M",
        "the log's volume",
        "crossover: ",
        "1000 resamples",
    ] {
        assert!(said.out.contains(words), "{words:?} is not in {}", said.out);
    }
    assert!(!said.out.contains('\x1b'), "no colour off a terminal");
}

#[test]
fn no_crossover_says_why() {
    let said = cost(&["--tokens-per-second", "50", "--api-prompt-price", "0.1", "--api-completion-price", "0.1"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("no crossover") && said.out.contains("cheaper or faster nodes"), "{}", said.out);
    let flags = ["--tokens-per-second", "50", "--api-prompt-price", "0.1", "--api-completion-price", "0.1"];
    assert_eq!(report(&flags)["crossover"], Value::Null);
}

#[test]
fn the_log_can_say_what_its_nodes_do() {
    let report = report(&["--log-nodes", "2"]);
    let speed =
        report["assumptions"].as_array().unwrap().iter().find(|one| one["name"] == "tokens_per_second").unwrap();
    // The busiest minute has six requests.
    let rate = speed["value"].as_f64().unwrap() * 2.0 * 60.0 / 6.0;
    assert!((600.0..2_000.0).contains(&rate), "{speed}");
    assert!(speed["source"].as_str().unwrap().contains("busiest minute"), "{speed}");
}

#[test]
fn the_article_is_printed_to_the_letter_and_answered() {
    let said = with(["cost", "inference", "--article"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let squeezed: Vec<String> =
        said.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for row in [
        "1M $6,800 $16,000 -$9,200 (API wins) -135% $16,000 -",
        "3M $20,400 $16,000 $4,400 22% $5,333 $0",
        "5M $34,000 $17,500 $16,500 49% $3,500 $750",
        "10M $68,000 $21,000 $47,000 (69%) 69% $2,100 $700",
    ] {
        assert!(squeezed.iter().any(|line| line == row), "{row:?} is not in {}", said.out);
    }
    assert!(said.out.contains("around 3M") && said.out.contains("2.35M"), "{}", said.out);
    let json = with(["cost", "inference", "--article", "--json"]).json();
    close(&json["break_even"], 16_000.0 / 6_800.0 * 1e6);
    assert_eq!(json["table"][3]["savings"], "$47,000 (69%)");
    assert!(json["claims"].as_array().unwrap().len() >= 12);
}

#[test]
fn mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| {
        std::fs::write(folder.path().join("log"), text).unwrap();
        run(selvedge(folder.path()).args(["cost", "inference", "--log", "log", "--tokens-per-second", "1"]))
    };
    let good = r#"{"time":1,"prompt_tokens":1,"completion_tokens":1}"#;
    write(&format!("{good}\n{{\"time\":2}}\n")).failed(1, &["line: 2", "field: prompt_tokens", "file: log", "try: "]);
    write(&format!("{good}\nnothing\n")).failed(1, &["line: 2", "JSON"]);
    write("").failed(1, &["no requests"]);
    write(&good.replace("tokens\":1", "tokens\":0")).failed(1, &["no tokens"]);
    run(selvedge(folder.path()).args(["cost", "inference", "--log", "gone", "--log-nodes", "1"]))
        .failed(1, &["gone", "--log"]);
    for (flags, word) in [
        (&[][..], "--tokens-per-second"),
        (&["--tokens-per-second", "0"], "--tokens-per-second"),
        (&["--tokens-per-second", "fast"], "--tokens-per-second"),
        (&["--tokens-per-second", "NaN"], "--tokens-per-second"),
        (&["--tokens-per-second", "inf"], "--tokens-per-second"),
        (&["--tokens-per-second", "1", "--log-nodes", "1"], "--log-nodes"),
        (&["--log-nodes", "0"], "--log-nodes"),
        (&["--api-prompt-price", "-1"], "--api-prompt-price"),
        (&["--api-completion-price", "cheap"], "--api-completion-price"),
        (&["--node-price-month", "0"], "--node-price-month"),
        (&["--node-price-hour", "-2"], "--node-price-hour"),
        (&["--node-price-hour", "2", "--node-price-month", "2"], "--node-price-month"),
        (&["--fixed-price-month", "-1"], "--fixed-price-month"),
        (&["--prompt-tokens-per-second", "0"], "--prompt-tokens-per-second"),
        (&["--streams", "0"], "--streams"),
        (&["--max-utilisation", "1"], "--max-utilisation"),
        (&["--max-utilisation", "0"], "--max-utilisation"),
        (&["--p99-ttft-ms", "0"], "--p99-ttft-ms"),
        (&["--spare-nodes", "-1"], "-1"),
        (&["--peak", "0.5"], "--peak"),
        (&["--burstiness", "-1"], "--burstiness"),
        (&["--requests-per-month", "0"], "--requests-per-month"),
        (&["--volume", "0"], "--volume"),
        (&["--resamples", "10"], "--resamples"),
        (&["--seed", "x"], "--seed"),
        (&["--article"], "--article"),
    ] {
        cost(flags).failed(2, &[word]);
    }
    with(["cost", "inference"]).failed(2, &["--log", "--article"]);
    with(["cost"]).failed(2, &["inference"]);
}

#[test]
fn the_log_may_come_from_stdin() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::open(log(folder.path())).unwrap();
    let mut command = selvedge(folder.path());
    command.args(["cost", "inference", "--log", "-", "--tokens-per-second", "900", "--json"]).stdin(file);
    assert_eq!(run(&mut command).json()["log"]["requests"], 8_821);
}

#[test]
fn a_short_log_warns_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let line = |at: u32| format!("{{\"time\":{at},\"prompt_tokens\":9,\"completion_tokens\":9}}\n");
    std::fs::write(folder.path().join("log"), line(1) + &line(100)).unwrap();
    let said = run(selvedge(folder.path()).args(["cost", "inference", "--log", "log", "--tokens-per-second", "9"]));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("2 requests") && said.err.contains("--peak"), "{}", said.err);
    assert!(said.out.contains("too short or thin"), "{}", said.out);
}
