//! The Engine: holds the plugins and gives apps and servers their verbs.
//!
//! The main job reads in this order: [`Engine::submit`] → [`Engine::flush`] → [`HttpTransport`](crate::transport::HttpTransport)
//! → the server's claim and commit → the answer is kept. A question to a model goes [`Engine::chat`] →
//! [`Scheduler::admit`](crate::Scheduler::admit) → [`Inference::generate`].

mod charge;
mod chat;
mod handlers;
mod inbox;
mod quota;
mod relay;
mod submit;
mod worker;

pub use handlers::{EventHandler, HandlerSink};
pub use inbox::{Inbox, Received};
pub use quota::Quota;
pub use relay::{Delivery, EventSink, RelayReport};
pub use submit::{Flushed, IntentSink, Submitted};
pub use worker::{JobHandler, JobOutcome, WorkerOptions};

use std::{any::Any, collections::BTreeMap, sync::Arc};

use crate::{
    AnyExperiment, AnyInference, AnyScheduler, AnyStore, Clock, Context, Error, ErrorKind, Experiment, Inference,
    Layer, Result, Store, SystemClock,
    experiment::{Assign, Assignment},
    store::{Fact, Maintain, Maintained},
};

/// The plugins, wrapped in their layers. Cloning shares them.
///
/// An engine has no background work of its own: [`Engine::relay`], [`Engine::work`] and [`Engine::maintain`] are futures
/// that the host runs where and when it likes.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Plugins>);

#[derive(Debug)]
struct Plugins {
    store: Option<AnyStore>,
    quotas: Option<AnyStore>,
    scheduler: Option<AnyScheduler>,
    models: BTreeMap<String, AnyInference>,
    default_model: Option<String>,
    experiment: Option<AnyExperiment>,
    clock: Arc<dyn Clock>,
    ledger: Arc<charge::Ledger>,
}

/// Puts an [`Engine`] together.
#[derive(Debug)]
pub struct EngineBuilder {
    plugins: Plugins,
    layers: Vec<Arc<dyn Layer>>,
}

impl Engine {
    /// An engine without plugins, waiting by [`SystemClock`]. A host with a runtime sets its own clock.
    pub fn builder() -> EngineBuilder {
        EngineBuilder {
            plugins: Plugins {
                store: None,
                quotas: None,
                scheduler: None,
                models: BTreeMap::new(),
                default_model: None,
                experiment: None,
                clock: Arc::new(SystemClock),
                ledger: Arc::default(),
            },
            layers: Vec::new(),
        }
    }

    /// The Store.
    ///
    /// # Errors
    /// `Unsupported` when the engine has none.
    pub fn store(&self) -> Result<&AnyStore> {
        self.0.store.as_ref().ok_or_else(|| missing("Store", "engine.store", "store(…)"))
    }

    /// The Store that keeps quotas: one of its own, or the Store.
    ///
    /// # Errors
    /// `Unsupported` when the engine has neither.
    pub fn quotas(&self) -> Result<&AnyStore> {
        match &self.0.quotas {
            Some(quotas) => Ok(quotas),
            None => self.store(),
        }
    }

    /// The Scheduler.
    ///
    /// # Errors
    /// `Unsupported` when the engine has none.
    pub fn scheduler(&self) -> Result<&AnyScheduler> {
        self.0.scheduler.as_ref().ok_or_else(|| missing("Scheduler", "engine.scheduler", "scheduler(…)"))
    }

    /// The Experiment.
    ///
    /// # Errors
    /// `Unsupported` when the engine has none.
    pub fn experiment(&self) -> Result<&AnyExperiment> {
        self.0.experiment.as_ref().ok_or_else(|| missing("Experiment", "engine.experiment", "experiment(…)"))
    }

    /// A model by name; without a name the first that was added.
    ///
    /// # Errors
    /// `Unsupported` when the engine has no model, `NotFound` when it has none of that name.
    pub fn model(&self, name: Option<&str>) -> Result<&AnyInference> {
        let default = self.0.default_model.as_deref();
        let Some(wanted) = name.or(default) else {
            return Err(missing("Inference", "engine.model", "model(…)"));
        };
        self.0.models.get(wanted).ok_or_else(|| {
            let known: Vec<_> = self.0.models.keys().map(String::as_str).collect();
            Error::new(ErrorKind::NotFound, "engine.model", "no such model")
                .with("model", wanted)
                .with("known", if known.is_empty() { "none".into() } else { known.join(", ") })
                .advise("use one of the known names, or add the model to the engine")
        })
    }

    /// All models, by name.
    pub fn models(&self) -> impl Iterator<Item = (&str, &AnyInference)> {
        self.0.models.iter().map(|(name, model)| (name.as_str(), model))
    }

    /// The clock it waits by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// What a subject sees at a placement.
    ///
    /// # Errors
    /// Those of [`Experiment::assign`].
    pub async fn assign(&self, cx: &Context, request: Assign) -> Result<Assignment> {
        self.experiment()?.assign(cx, request).await
    }

    /// Keeps an event for analysis.
    ///
    /// # Errors
    /// Those of [`Experiment::track`].
    pub async fn track(&self, cx: &Context, fact: Fact) -> Result<()> {
        self.experiment()?.track(cx, fact).await
    }

    /// One tick of the Store's housekeeping. Run it about once a second on servers, and at each start on phones. It settles
    /// what model calls that were dropped owe of their [allowances](crate::allowance), too.
    ///
    /// # Errors
    /// Those of [`Store::maintain`].
    pub async fn maintain(&self, cx: &Context, request: Maintain) -> Result<Maintained> {
        self.settle().await;
        self.store()?.maintain(cx, request).await
    }
}

impl EngineBuilder {
    /// Sets the Store.
    #[must_use]
    pub fn store(mut self, store: impl Store) -> Self {
        self.plugins.store = Some(AnyStore::new(store));
        self
    }

    /// Sets a Store of its own for quotas, such as one on Redis. Without it they are in the Store. Places of concurrent requests
    /// are always in the Store.
    #[must_use]
    pub fn quotas(mut self, store: impl Store) -> Self {
        self.plugins.quotas = Some(AnyStore::new(store));
        self
    }

    /// Sets the Scheduler.
    #[must_use]
    pub fn scheduler(mut self, scheduler: impl crate::Scheduler) -> Self {
        self.plugins.scheduler = Some(AnyScheduler::new(scheduler));
        self
    }

    /// Adds a model under its own name. The first one added is the default.
    #[must_use]
    pub fn model(mut self, model: impl Inference) -> Self {
        let name = model.model().name;
        self.plugins.default_model.get_or_insert_with(|| name.clone());
        self.plugins.models.insert(name, AnyInference::new(model));
        self
    }

    /// Sets the Experiment.
    #[must_use]
    pub fn experiment(mut self, experiment: impl Experiment) -> Self {
        self.plugins.experiment = Some(AnyExperiment::new(experiment));
        self
    }

    /// Wraps all plugins in a layer. The layer added last is outermost.
    #[must_use]
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// Sets the clock it waits by.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.plugins.clock = clock;
        self
    }

    /// Puts the layers around the plugins. The order of `store`, `model` and `layer` calls does not matter otherwise.
    pub fn build(self) -> Engine {
        let Self { mut plugins, layers } = self;
        for layer in layers {
            plugins.store = plugins.store.map(|inner| layer.store(inner));
            plugins.quotas = plugins.quotas.map(|inner| layer.store(inner));
            plugins.scheduler = plugins.scheduler.map(|inner| layer.scheduler(inner));
            plugins.experiment = plugins.experiment.map(|inner| layer.experiment(inner));
            plugins.models = plugins.models.into_iter().map(|(name, inner)| (name, layer.inference(inner))).collect();
        }
        Engine(Arc::new(plugins))
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref().cloned());
    text.unwrap_or_else(|| "no message".into())
}

fn missing(plugin: &str, operation: &'static str, method: &str) -> Error {
    Error::new(ErrorKind::Unsupported, operation, format!("the engine has no {plugin} plugin"))
        .advise(format!("add one with EngineBuilder::{method}"))
}
