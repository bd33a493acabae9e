//! Ten million users, analysed from a file: prints one JSON object with the time, the peak of memory and the results, and
//! with `--python` those of gbstats on the same file.
//!
//! `cargo bench -p selvedge-experiments --features parquet --bench analyse -- [--users N] [--folder DIR] [--python PATH]`
#![allow(clippy::expect_used, reason = "A benchmark that cannot go on has nothing to say.")]

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use selvedge_experiments::analysis::{Options, Report, analyze, input};
use serde_json::{Value, json};

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let flag = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name);
        place.and_then(|place| arguments.get(place + 1)).cloned()
    };
    // A process of its own does the analysis, so that its peak of memory is that of nothing else.
    if let Some(file) = flag("--analyse") {
        println!("{}", analyse(Path::new(&file)));
        return;
    }
    let users = flag("--users").map_or(10_000_000, |users| users.parse().expect("a number"));
    let folder = flag("--folder").map_or_else(std::env::temp_dir, PathBuf::from);
    let csv = folder.join("selvedge-users.csv");
    write(&csv, users);
    let mut files = vec![csv.clone()];
    if cfg!(feature = "parquet") {
        let parquet = csv.with_extension("parquet");
        let mut rows = input::open(&csv, &Options::default()).expect("the file");
        input::export(&mut rows, &parquet).expect("Parquet");
        files.push(parquet);
    }
    let mut report = json!({ "users": users });
    for file in &files {
        let program = std::env::current_exe().expect("this program");
        let ours = output(Command::new(program).arg("--analyse").arg(file));
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or("csv");
        report[ending] = ours;
    }
    if let Some(python) = flag("--python") {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gbstats_peer.py");
        let peer = output(Command::new(python).arg(script).arg(&csv));
        report["largest_relative_difference"] = json!(compare(&report["csv"]["results"], &peer["results"]));
        report["gbstats"] = peer;
    }
    files.iter().for_each(|file| drop(std::fs::remove_file(file)));
    println!("{report}");
}

fn output(command: &mut Command) -> Value {
    let output = command.output().expect("a process");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Users of whom one in twenty pays, with something known of them from before.
fn write(path: &Path, users: u64) {
    let mut rng = fastrand::Rng::with_seed(2026);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).expect("a file"));
    writeln!(file, "user_id,variation,revenue,converted,covariate").expect("written");
    for user in 0..users {
        let variation = usize::from(rng.bool());
        let before = (rng.f64() * 5_000.0).round() / 100.0;
        let payers = [0.05, 0.0502][variation];
        let paid = if rng.f64() < payers { (before * 0.4 + 30.0 * rng.f64().powi(2)).max(0.99) } else { 0.0 };
        let cents = (paid * 100.0).round() as u64;
        let (whole, part) = (cents / 100, cents % 100);
        let name = ["control", "treated"][variation];
        writeln!(file, "user-{user},{name},{whole}.{part:02},{},{before}", u8::from(cents > 0)).expect("written");
    }
    file.flush().expect("written");
}

fn analyse(file: &Path) -> Value {
    let began = Instant::now();
    let options = Options { tuned_for: Some(5_000.0), ..Options::default() };
    let report = analyze(input::open(file, &options).expect("the file"), &options).expect("a report");
    let seconds = began.elapsed().as_secs_f64();
    json!({ "seconds": seconds, "peak_mib": peak_mib(), "results": results(&report) })
}

/// The most memory that this process had.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

fn results(report: &Report) -> Value {
    let treated = report.variations[1].comparison.as_ref().expect("a comparison");
    let effect = |effect: Option<selvedge_experiments::analysis::Effect>| {
        let effect = effect.expect("an effect");
        json!([effect.estimate, effect.low, effect.high, effect.p])
    };
    let bayes = treated.bayes.as_ref().expect("a posterior");
    let always = treated.always_valid.expect("a sequence");
    let cuped = treated.cuped.expect("a covariate");
    json!({
        "n": [report.variations[0].n, report.variations[1].n],
        "revenue": [report.variations[0].revenue, report.variations[1].revenue],
        "absolute": effect(treated.lift.absolute),
        "relative": effect(treated.lift.relative),
        "conversion": effect(treated.conversion_lift.relative),
        "always_valid": [always.low, always.high, always.p],
        "bayes": [bayes.chance_to_win, bayes.low, bayes.high, bayes.loss_if_kept, bayes.loss_if_shipped],
        "cuped": effect(Some(cuped.absolute)),
        "cuped_theta": [cuped.theta],
        "srm": [report.srm.p],
    })
}

/// The largest difference, relative to the larger of both.
fn compare(ours: &Value, peer: &Value) -> f64 {
    let ours = ours.as_object().expect("results");
    let mut largest = 0.0f64;
    for (name, values) in ours {
        let (values, others) = (values.as_array().expect("values"), peer[name].as_array().expect("the peer's"));
        assert_eq!(values.len(), others.len(), "{name}");
        for (value, other) in values.iter().zip(others) {
            let (value, other) = (value.as_f64().expect("a number"), other.as_f64().expect("a number"));
            let scale = value.abs().max(other.abs());
            largest = largest.max(if scale == 0.0 { 0.0 } else { (value - other).abs() / scale });
        }
    }
    largest
}
