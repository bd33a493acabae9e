//! `selvedge doctor`: what is well, what is not, and what to do about it.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use owo_colors::{OwoColorize, Stream};
use selvedge::{
    AnyStore, Context, Error, ErrorKind, Inference, Result,
    store::{Load, StoreExt, StoreInfo, Wakeups},
};
use serde::{Serialize, Serializer};

use super::{
    block_on, open_model,
    store::{self, Place},
};
use crate::{
    arguments::Doctor,
    config::{self, Config, Model},
    output,
};

/// Below this much free disk a Store is in danger.
const LOW_DISK: u64 = 1 << 30;
/// Above this much a write-ahead log has not been checkpointed for long.
const LARGE_WAL: u64 = 256 << 20;
/// How long the connection that listens may take to stand.
const LISTENS_WITHIN: Duration = Duration::from_secs(3);

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
    /// How far the queue is from its ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<Line>,
}

/// A [`Load`] in plain numbers.
#[derive(Debug, Serialize)]
struct Line {
    jobs_per_second: Option<f64>,
    ceiling: f64,
    headroom: Option<f64>,
    #[serde(serialize_with = "seconds")]
    over_ceiling_seconds: Duration,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl From<Load> for Line {
    fn from(load: Load) -> Self {
        let Load { ceiling, rate, headroom, over_for } = load;
        Self { jobs_per_second: rate, ceiling, headroom, over_ceiling_seconds: over_for }
    }
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
pub(crate) fn run(flag: Option<&Path>, options: Doctor) -> Result<ExitCode> {
    let mut findings = vec![machine()];
    let mut load = None;
    match config::load(flag) {
        Ok((mut config, path)) => {
            config.store.replace(options.store);
            findings.push(ok(
                "config",
                path.map_or_else(|| "no file: all defaults".into(), |path| path.display().to_string()),
            ));
            let (found, measured) = store(&config);
            findings.extend(found);
            load = measured.map(Line::from);
            findings.extend(quotas(&config));
            findings.extend(models(&config));
        }
        Err(failed) => findings.push(error("config", &failed)),
    }
    let health = findings.iter().map(|finding| finding.health).max().unwrap_or(Health::Ok);
    let report = Report { version: env!("CARGO_PKG_VERSION"), health, findings, load };
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

fn store(config: &Config) -> (Vec<Finding>, Option<Load>) {
    let place = match Place::of(&config.store) {
        Ok(place) => place,
        Err(failed) => return (vec![error("store", &failed)], None),
    };
    let mut findings = Vec::new();
    let absent = ok("store", format!("{place}: not there yet; `selvedge serve` creates it"));
    if let Place::File(path) = &place {
        findings.push(disk(path));
        if !store::is_there(path) {
            findings.push(absent);
            return (findings, None);
        }
    }
    let looked = block_on(async {
        let store = store::open_existing(&config.store).await?;
        let info = settled(&store).await?;
        let load = config.store.ceiling().measure(&store.load(&Context::new()).await?);
        Ok((info, load))
    });
    let (info, load) = match looked {
        Ok(found) => found,
        Err(failed) => {
            // The database is there, and nothing in it is broken.
            let only_missing =
                failed.kind() == ErrorKind::NotFound && failed.context().iter().any(|(name, _)| *name == "schema");
            findings.push(if only_missing { absent } else { error("store", &failed) });
            return (findings, None);
        }
    };
    let bytes = info.bytes.map(|bytes| format!(", {}", size(bytes))).unwrap_or_default();
    findings.push(ok(
        "store",
        format!("{}: {}, schema {}{bytes}; {}", info.location, info.backend, info.schema, info.durability),
    ));
    match &place {
        Place::File(path) => findings.push(wal(path)),
        Place::Server(_) => findings.push(wakeups(info.wakeups)),
    }
    findings.push(line(&load, Duration::from_secs(60) * config.store.ceiling_minutes));
    (findings, Some(load))
}

/// The Store of the quotas, if they have one of their own.
fn quotas(config: &Config) -> Option<Finding> {
    let looked = block_on(async {
        let Some(quotas) = store::quotas(&config.quotas).await? else { return Ok(None) };
        quotas.info(&Context::new()).await.map(Some)
    });
    match looked {
        Ok(info) => info.map(|info| ok("quotas", format!("{}: {}; {}", info.location, info.backend, info.durability))),
        Err(failed) => Some(error("quotas", &failed)),
    }
}

/// What a Store says of itself, once the connection that listens has had time to stand.
async fn settled(store: &AnyStore) -> Result<StoreInfo> {
    let began = Instant::now();
    loop {
        let info = store.info(&Context::new()).await?;
        if info.wakeups != Wakeups::Fallback || began.elapsed() > LISTENS_WITHIN {
            return Ok(info);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn wakeups(wakeups: Wakeups) -> Finding {
    match wakeups {
        Wakeups::Listen => ok("wake-ups", "at once, by LISTEN"),
        Wakeups::Poll => ok("wake-ups", "by polling: store.listen is off"),
        Wakeups::Fallback => warning(
            "wake-ups",
            "by polling: the connection that is to listen does not stand",
            "set store.listener_url to a URL that leads to the server itself: PgBouncer in transaction mode cannot pass LISTEN on",
        ),
    }
}

/// How far the queue is from its ceiling, and for how long.
fn line(load: &Load, patience: Duration) -> Finding {
    let (Some(rate), Some(headroom)) = (load.rate, load.headroom) else {
        return ok("load", "not known: samples are taken while `selvedge serve`, or whoever calls `maintain`, runs");
    };
    let share = rate / load.ceiling * 100.0;
    let left = if headroom < 0.0 { "above" } else { "below" };
    let found = format!(
        "{rate:.1} jobs/s, {share:.0} % of the ceiling: {:.0} {left} {:.0} jobs/s",
        headroom.abs(),
        load.ceiling
    );
    if load.over_for.is_zero() || load.over_for < patience {
        return ok("load", found);
    }
    warning(
        "load",
        format!("{found}; near it or above for {:.0} min", load.over_for.as_secs_f64() / 60.0),
        "raise store.ceiling_jobs_per_second if this server was measured to keep up with more; else move work off it: \
         docs/guide/outgrowing-postgres.md",
    )
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
            &format!(
                "prompts are read slowly: llama.cpp has no fast kernels for Q4_1; write it in Q4_0 with `selvedge model prepare {}`",
                model.path.display()
            ),
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
