use std::{sync::Arc, time::Duration};

use crate::experiment::ExperimentsConfig;
use selvedge::{
    AnyScheduler, AnyStore, Clock, Engine, Error, ErrorKind, Result, TokioClock,
    experiments::Experiments,
    priority::Priority,
    sqlite::{self, SqliteStore},
};

/// What a power cut may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, uniffi::Enum)]
pub enum Durability {
    /// Nothing that was acknowledged.
    #[default]
    Durable,
    /// The last commits; the end of the process costs nothing. Faster where a flush is slow.
    Fast,
}

/// A language model to open.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct ModelConfig {
    /// The GGUF file.
    pub path: String,
    /// The name requests give; without it, the file's name.
    #[uniffi(default = None)]
    pub name: Option<String>,
    /// The digest the file must have, 64 hex digits.
    #[uniffi(default = None)]
    pub sha256: Option<String>,
    /// The longest context, in tokens; without it, the model's own, bounded by the plugin.
    #[uniffi(default = None)]
    pub context_tokens: Option<u32>,
    /// Threads that compute; without it, as many as help.
    #[uniffi(default = None)]
    pub threads: Option<u32>,
    /// Answers whose context is in memory at once; without it, as many as run at once.
    #[uniffi(default = None)]
    pub sequences: Option<u32>,
}

/// How an engine is opened.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct EngineConfig {
    /// The database file; it is created if it is not there.
    pub database: String,
    /// What a power cut may cost.
    #[uniffi(default = None)]
    pub durability: Option<Durability>,
    /// The most bytes the database may have; without it, no limit.
    #[uniffi(default = None)]
    pub max_bytes: Option<u64>,
    /// Language models. The first is the default.
    #[uniffi(default)]
    pub models: Vec<ModelConfig>,
    /// Model calls that run at once.
    #[uniffi(default = 2)]
    pub concurrency: u32,
    /// Model calls that wait at most; one more is `Busy`.
    #[uniffi(default = 8)]
    pub queue_limit: u32,
    /// Where placements come from; without it, there are none.
    #[uniffi(default = None)]
    pub experiments: Option<ExperimentsConfig>,
    /// The longest a callback of the app may take, in ms. After that the call that needed it goes on with an error.
    #[uniffi(default = 30000)]
    pub callback_timeout_ms: u64,
}

impl EngineConfig {
    /// Everything by default, on this file.
    pub fn at(database: impl Into<String>) -> Self {
        Self {
            database: database.into(),
            durability: None,
            max_bytes: None,
            models: Vec::new(),
            concurrency: 2,
            queue_limit: 8,
            experiments: None,
            callback_timeout_ms: 30_000,
        }
    }

    pub(crate) fn callback_timeout(&self) -> Duration {
        Duration::from_millis(self.callback_timeout_ms.max(1))
    }

    /// Opens the plugins; blocks.
    pub(crate) fn open(&self, clock: Arc<dyn Clock>) -> Result<Opened> {
        if self.database.is_empty() || self.database.contains('\0') {
            return Err(Error::new(ErrorKind::InvalidInput, "engine.open", "this is not the path of a file")
                .with("database", &self.database)
                .advise("pass a file in the app's own folder"));
        }
        let mut builder = SqliteStore::builder(&self.database).clock(clock.clone()).durability(match self.durability {
            None | Some(Durability::Durable) => sqlite::Durability::Durable,
            Some(Durability::Fast) => sqlite::Durability::Fast,
        });
        if let Some(bytes) = self.max_bytes {
            builder = builder.max_bytes(bytes);
        }
        let store = builder.open()?;
        let scheduler = || {
            let places = self.concurrency.max(1) as usize;
            AnyScheduler::new(Priority::new(places, self.queue_limit as usize).clock(Arc::new(TokioClock)))
        };
        let mut engine = selvedge::builder().store(store.clone()).scheduler(scheduler());
        let experiments = self.experiments.as_ref();
        let experiments = experiments.map(|config| config.open(AnyStore::new(store.clone()), clock)).transpose()?;
        if let Some(experiments) = &experiments {
            engine = engine.experiment(experiments.clone());
        }
        // What a pass takes is learnt, and differs from model to model: each has a planner of its own.
        let engine = self
            .models
            .iter()
            .try_fold(engine, |engine, model| open_model(engine, model, self.concurrency, scheduler()))?;
        Ok(Opened { engine: engine.build(), store, experiments })
    }
}

/// The plugins of an engine.
pub(crate) struct Opened {
    pub(crate) engine: Engine,
    pub(crate) store: SqliteStore,
    pub(crate) experiments: Option<Experiments>,
}

#[cfg(feature = "llama")]
fn open_model(
    engine: selvedge::EngineBuilder,
    model: &ModelConfig,
    concurrency: u32,
    scheduler: AnyScheduler,
) -> Result<selvedge::EngineBuilder> {
    let sequences = model.sequences.unwrap_or(concurrency).max(1) as usize;
    let mut builder = selvedge::llama::Llama::builder(&model.path).scheduler(scheduler).sequences(sequences);
    if let Some(name) = &model.name {
        builder = builder.name(name);
    }
    if let Some(digest) = &model.sha256 {
        builder = builder.sha256(digest);
    }
    if let Some(tokens) = model.context_tokens {
        builder = builder.context_length(tokens as usize);
    }
    if let Some(threads) = model.threads {
        builder = builder.threads(threads as usize);
    }
    Ok(engine.model(builder.open()?))
}

#[cfg(not(feature = "llama"))]
fn open_model(
    _: selvedge::EngineBuilder,
    model: &ModelConfig,
    _: u32,
    _: AnyScheduler,
) -> Result<selvedge::EngineBuilder> {
    Err(Error::new(ErrorKind::Unsupported, "engine.open", "this build of the library has no model backend")
        .with("model", &model.path)
        .advise("leave `models` empty, or use the package with llama.cpp inside"))
}
