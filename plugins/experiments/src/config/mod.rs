//! The configuration: where it comes from, what is believed of it, and which one holds.

mod age;
mod cache;
mod refresh;
mod signed;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use selvedge_core::{Clock, Error, ErrorKind, Result, Timestamp, experiment::Payload};
use serde::{Deserialize, Serialize};

pub(crate) use age::Age;
pub(crate) use cache::{Cache, Cached};
pub use refresh::Refreshed;
pub(crate) use refresh::Remote;
pub(crate) use signed::TrustedKeys;
pub use signed::{public_key, sign};

const OPERATION: &str = "experiments.config";

/// Where the configuration that holds came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigSource {
    /// There is none yet.
    Nowhere,
    /// It came with the app.
    Bundled,
    /// It was kept from an earlier run.
    Cache,
    /// The server sent it, or said that it is still the newest.
    Server,
    /// The host gave it.
    Host,
}

/// One configuration that was read and believed.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) payload: Arc<Payload>,
    pub(crate) source: ConfigSource,
    pub(crate) issued_at: Option<Timestamp>,
    body: String,
    etag: Option<String>,
    age: Age,
    /// When the age was taken, on a clock that only goes forward.
    aged_at: Instant,
}

impl Config {
    fn nothing(now: Timestamp) -> Self {
        Self {
            payload: Arc::default(),
            source: ConfigSource::Nowhere,
            issued_at: None,
            body: String::new(),
            etag: None,
            age: Age::new(now),
            aged_at: Instant::now(),
        }
    }

    /// How long ago the server last vouched for it; what came with the app is as old as anything can be.
    fn age(&self, now: Timestamp) -> Option<Duration> {
        let vouched = matches!(self.source, ConfigSource::Server | ConfigSource::Cache | ConfigSource::Host);
        vouched.then(|| self.age.advanced(now, self.aged_at.elapsed()).duration())
    }
}

/// The configuration that holds, and those that may come after it.
#[derive(Debug)]
pub(crate) struct Configs {
    keys: TrustedKeys,
    cache: Option<Cache>,
    pub(crate) clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<Config>,
    problem: Option<Problem>,
}

/// Why the last try came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
}

impl Problem {
    fn of(error: &Error) -> Self {
        Self { kind: error.kind(), message: error.to_string() }
    }
}

impl Configs {
    /// Reads what came with the app and what was kept. What was kept and cannot be believed is passed over: health says why.
    pub(crate) fn open(
        keys: TrustedKeys,
        cache: Option<Cache>,
        clock: Arc<dyn Clock>,
        bundled: Option<&str>,
    ) -> Result<Self> {
        let now = clock.now();
        let mut config = Config::nothing(now);
        if let Some(bundled) = bundled {
            // It came with the program, and is trusted like it.
            let (payload, issued_at) = plain(bundled.as_bytes())?;
            config = Config { payload, issued_at, source: ConfigSource::Bundled, ..config };
        }
        let configs = Self { keys, cache, clock, state: Mutex::new(State { config: Arc::new(config), problem: None }) };
        if let Err(error) = configs.restore(now) {
            configs.state().problem = Some(Problem::of(&error));
        }
        Ok(configs)
    }

    fn restore(&self, now: Timestamp) -> Result<()> {
        let Some(cache) = &self.cache else { return Ok(()) };
        let Some(cached) = cache.read()? else { return Ok(()) };
        let (payload, issued_at) = self.read(cached.body.as_bytes())?;
        let age = cached.age.advanced(now, Duration::ZERO);
        // Written back at once: the time until here is counted even if the clock is set back before the next run.
        cache.write(&Cached::new(cached.etag.clone(), age, cached.body.clone()))?;
        self.state().config = Arc::new(Config {
            payload,
            source: ConfigSource::Cache,
            issued_at,
            body: cached.body,
            etag: cached.etag,
            age,
            aged_at: Instant::now(),
        });
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<Config> {
        self.state().config.clone()
    }

    /// Its age, when somebody vouched for it at all.
    pub(crate) fn age(&self, config: &Config) -> Option<Duration> {
        config.age(self.clock.now())
    }

    pub(crate) fn problem(&self) -> Option<Problem> {
        self.state().problem.clone()
    }

    pub(crate) fn etag(&self) -> Option<String> {
        self.current().etag.clone()
    }

    /// Takes a new configuration; when it cannot be believed, the one that holds stays.
    pub(crate) fn take(&self, body: &[u8], etag: Option<String>, source: ConfigSource) -> Result<()> {
        let taken = self.read(body).and_then(|(payload, issued_at)| {
            let body = String::from_utf8_lossy(body).into_owned();
            let config = Config { payload, source, issued_at, body, etag, ..Config::nothing(self.clock.now()) };
            self.replace(config)
        });
        self.note(taken)?;
        self.keep();
        Ok(())
    }

    /// The server said that the one that holds is the newest.
    pub(crate) fn confirm(&self) {
        let current = self.current();
        let config = Config {
            payload: current.payload.clone(),
            source: ConfigSource::Server,
            issued_at: current.issued_at,
            body: current.body.clone(),
            etag: current.etag.clone(),
            ..Config::nothing(self.clock.now())
        };
        self.state().config = Arc::new(config);
        self.keep();
    }

    /// Remembers what went wrong, or that nothing did.
    pub(crate) fn note<T>(&self, result: Result<T>) -> Result<T> {
        self.state().problem = result.as_ref().err().map(Problem::of);
        result
    }

    fn replace(&self, config: Config) -> Result<()> {
        let mut state = self.state();
        let before = state.config.issued_at.filter(|_| state.config.source != ConfigSource::Bundled);
        newer(before, config.issued_at)?;
        state.config = Arc::new(config);
        Ok(())
    }

    /// Keeps the one that holds for the next run. It holds in this one even when it cannot be kept.
    fn keep(&self) {
        let config = self.current();
        let cached = || Cached::new(config.etag.clone(), config.age, config.body.clone());
        if let Some(Err(error)) = self.cache.as_ref().map(|cache| cache.write(&cached())) {
            self.state().problem = Some(Problem::of(&error));
        }
    }

    /// Checks the signature, when keys are trusted, and reads the payload.
    fn read(&self, body: &[u8]) -> Result<(Arc<Payload>, Option<Timestamp>)> {
        if self.keys.is_empty() {
            return plain(body);
        }
        let signed = self.keys.verify(body)?;
        Ok((plain(&signed.payload)?.0, Some(signed.issued_at)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A configuration that was captured once must not be sent again later.
fn newer(holds: Option<Timestamp>, new: Option<Timestamp>) -> Result<()> {
    match (holds, new) {
        (Some(holds), new) if new.is_none_or(|new| new < holds) => {
            let error =
                Error::new(ErrorKind::Conflict, OPERATION, "the configuration is older than the one that holds")
                    .with("holds", holds)
                    .advise("sign it anew, or look for a cache between server and app that serves old answers");
            Err(match new {
                Some(new) => error.with("issued_at", new),
                None => error,
            })
        }
        _ => Ok(()),
    }
}

/// Reads GrowthBook's payload as its endpoint sends it, with the moment it was last changed.
fn plain(json: &[u8]) -> Result<(Arc<Payload>, Option<Timestamp>)> {
    /// What no payload lacks: without it, an error page in JSON would switch everything off.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(rename = "features")]
        _features: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
        #[serde(default)]
        date_updated: Option<String>,
    }
    let damaged = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Damaged, OPERATION, "the configuration is no payload of features, or was cut off")
            .with("bytes", json.len())
            .caused_by(error)
            .advise("serve the answer of GrowthBook's SDK endpoint, unchanged")
    };
    let shape: Shape = serde_json::from_slice(json).map_err(|error| damaged(error.into()))?;
    let payload = Payload::parse(json).map_err(|error| damaged(error.into()))?;
    Ok((Arc::new(payload), shape.date_updated.as_deref().and_then(moment)))
}

/// A moment in RFC 3339.
fn moment(text: &str) -> Option<Timestamp> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|moment| Timestamp(moment.timestamp_micros()))
}
