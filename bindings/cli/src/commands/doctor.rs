//! `selvedge doctor`: what is well, what is not, and what to do about it.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use owo_colors::{OwoColorize, Stream};
use selvedge::{Context, Error, ErrorKind, Inference, Result, store::StoreExt};
use serde::Serialize;

use super::{block_on, open_existing, open_model};
use crate::{
    arguments::Doctor,
    config::{self, Config, Model},
    output,
};

/// Below this much free disk a Store is in danger.
const LOW_DISK: u64 = 1 << 30;
/// Above this much a write-ahead log has not been checkpointed for long.
const LARGE_WAL: u64 = 256 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok,
    Warning,
    Error,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    health: Health,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    health: Health,
    findings: Vec<Finding>,
}

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, health: Health::Ok, found: found.into(), advice: None }
}

fn warning(check: &'static str, found: impl Into<String>, advice: &str) -> Finding {
    Finding { check, health: Health::Warning, found: found.into(), advice: Some(advice.into()) }
}

fn error(check: &'static str, error: &Error) -> Finding {
    let context: Vec<_> = error.context().iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let found = match context.as_slice() {
        [] => error.message().to_owned(),
        context => format!("{} ({})", error.message(), context.join(", ")),
    };
    Finding { check, health: Health::Error, found, advice: error.advice().map(Into::into) }
}

/// Exits 1 when something is broken; warnings do not count.
pub(crate) fn run(flag: Option<&Path>, options: &Doctor) -> Result<ExitCode> {
    let mut findings = vec![machine()];
    match config::load(flag) {
        Ok((config, path)) => {
            findings.push(ok(
                "config",
                path.map_or_else(|| "no file: all defaults".into(), |path| path.display().to_string()),
            ));
            findings.extend(store(&config));
            findings.extend(models(&config));
        }
        Err(failed) => findings.push(error("config", &failed)),
    }
    let health = findings.iter().map(|finding| finding.health).max().unwrap_or(Health::Ok);
    let report = Report { version: env!("CARGO_PKG_VERSION"), health, findings };
    if options.json {
        output::json(&report)?
    } else {
        print(&report)?
    }
    Ok(ExitCode::from(u8::from(health == Health::Error)))
}

fn machine() -> Finding {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    ok("machine", format!("{} {}, {threads} threads", std::env::consts::OS, std::env::consts::ARCH))
}

fn store(config: &Config) -> Vec<Finding> {
    let path = &config.store.path;
    let mut findings = vec![disk(path)];
    if !path.exists() {
        findings.push(ok("store", format!("{}: not there yet; `selvedge serve` creates it", path.display())));
        return findings;
    }
    let info = open_existing(path).and_then(|store| block_on(async { store.info(&Context::new()).await }));
    match info {
        Ok(info) => {
            let bytes = info.bytes.map(|bytes| format!(", {}", size(bytes))).unwrap_or_default();
            findings.push(ok(
                "store",
                format!("{}: {}, schema {}{bytes}; {}", info.location, info.backend, info.schema, info.durability),
            ));
            findings.push(wal(path));
        }
        Err(failed) => findings.push(error("store", &failed)),
    }
    findings
}

fn disk(path: &Path) -> Finding {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    match fs4::available_space(&folder) {
        Ok(free) if free < LOW_DISK => warning(
            "disk",
            format!("{} free in {}", size(free), folder.display()),
            "make room: a full disk stops all writes, and loses none that were confirmed",
        ),
        Ok(free) => ok("disk", format!("{} free in {}", size(free), folder.display())),
        Err(cause) => {
            let failed =
                Error::new(ErrorKind::NotFound, "cli.doctor", format!("the Store's folder cannot be read: {cause}"))
                    .with("folder", folder.display())
                    .advise("create the folder, or change store.path");
            error("disk", &failed)
        }
    }
}

fn wal(path: &Path) -> Finding {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    match std::fs::metadata(&name).map(|wal| wal.len()) {
        Ok(bytes) if bytes > LARGE_WAL => warning(
            "wal",
            size(bytes),
            "some reader stays open for very long and keeps the log from being checkpointed: find it, or restart it",
        ),
        Ok(bytes) => ok("wal", size(bytes)),
        Err(_) => ok("wal", "none"),
    }
}

fn models(config: &Config) -> Vec<Finding> {
    if config.models.is_empty() {
        return vec![ok("model", "none configured")];
    }
    config.models.iter().map(model).collect()
}

fn model(model: &Model) -> Finding {
    let opened = match open_model(model, None) {
        Ok(opened) => opened.model(),
        Err(failed) => return error("model", &failed),
    };
    let digest = if model.sha256.is_some() { "digest verified" } else { "digest not checked" };
    let found = format!("{}: {}, context {}, {digest}", opened.name, opened.description, opened.context_length);
    if opened.description.to_uppercase().contains("Q4_1") {
        return warning(
            "model",
            found,
            "slow prefill: llama.cpp has no fast kernels for Q4_1; re-quantise to Q4_0 or Q8_0",
        );
    }
    if model.sha256.is_none() {
        return warning("model", found, "set sha256 for it: nothing else finds a flipped bit in the weights");
    }
    ok("model", found)
}

fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

fn print(report: &Report) -> Result<()> {
    let mut text = String::new();
    for finding in &report.findings {
        let mark = match finding.health {
            Health::Ok => format!("{}", "ok  ".if_supports_color(Stream::Stdout, |text| text.green())),
            Health::Warning => format!("{}", "warn".if_supports_color(Stream::Stdout, |text| text.yellow())),
            Health::Error => format!("{}", "FAIL".if_supports_color(Stream::Stdout, |text| text.red())),
        };
        text.push_str(&format!("{mark}  {:8} {}\n", finding.check, finding.found));
        if let Some(advice) = &finding.advice {
            text.push_str(&format!("      try: {advice}\n"));
        }
    }
    output::print(&text)
}
