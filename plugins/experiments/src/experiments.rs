use std::{sync::Arc, time::Duration};

use futures_util::lock::Mutex;
use selvedge_core::{
    AnyStore, Commit, Context, Error, ErrorKind, Experiment, Result, Store,
    experiment::{Assign, Assignment, ExperimentCapabilities, PaywallEvent},
    store::Fact,
    transport::HttpTransport,
};

use crate::{
    ConfigSource, Delivery, ExperimentsBuilder, Health, Refreshed, WhenStale,
    config::{Config, Configs, Remote},
    remembered::Remembered,
};

/// Placements, assignments and facts. Cloning shares them.
///
/// Nobody is signed in to it: subject, device and attributes are arguments of each call, so there is no user to switch and
/// nothing to race with. Of those who came before it remembers what was read of them
/// ([`remembered_subjects`](ExperimentsBuilder::remembered_subjects)). Two first assignments of one subject that race agree, because the Store says which one holds.
#[derive(Clone, Debug)]
pub struct Experiments(Arc<Parts>);

#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) store: AnyStore,
    pub(crate) configs: Configs,
    pub(crate) remote: Option<Remote>,
    /// One refresh at a time.
    pub(crate) refreshing: Mutex<()>,
    pub(crate) identified_by: String,
    pub(crate) device_attribute: String,
    pub(crate) delivery: Delivery,
    pub(crate) max_age: Duration,
    pub(crate) when_stale: WhenStale,
    /// On a phone first assignments come one after the other: what loses must not have an exposure on its way to the server.
    pub(crate) assigning: Mutex<()>,
    pub(crate) remembered: Remembered,
}

impl Experiments {
    /// Begins with nothing set.
    pub fn builder() -> ExperimentsBuilder {
        ExperimentsBuilder::new()
    }

    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.0
    }

    /// Fetches the configuration if it has changed, by one conditional request. Call it when the app comes to the foreground, or
    /// now and then; meanwhile assignments go by the one that holds. Whatever goes wrong, that one stays.
    ///
    /// # Errors
    /// `InvalidInput` when no server was set; `Unavailable` when it does not answer with a configuration, and the transport's
    /// own; `Damaged` for what is malformed or was cut off; `PermissionDenied` for a signature that is wrong or not trusted;
    /// `Conflict` for a configuration older than the one that holds.
    pub async fn refresh(&self, cx: &Context) -> Result<Refreshed> {
        cx.check("experiments.refresh")?;
        let Some(remote) = &self.0.remote else {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "experiments.refresh",
                "no server of configurations was set",
            )
            .advise("call config(…) on the builder, or give a configuration with load"));
        };
        self.fetch(cx, remote).await
    }

    /// [`refresh`](Self::refresh) by another transport than the builder's, which a host lends for the call.
    ///
    /// # Errors
    /// Those of [`refresh`](Self::refresh).
    pub async fn refresh_by(
        &self,
        cx: &Context,
        transport: Arc<dyn HttpTransport>,
        path: impl Into<String>,
    ) -> Result<Refreshed> {
        cx.check("experiments.refresh")?;
        self.fetch(cx, &Remote { transport, path: path.into() }).await
    }

    async fn fetch(&self, cx: &Context, remote: &Remote) -> Result<Refreshed> {
        let _one = self.0.refreshing.lock().await;
        self.0.configs.refresh(cx, remote).await
    }

    /// Takes a configuration that the host has: a server's file, or an answer it fetched itself. It is checked like one that
    /// was fetched.
    ///
    /// # Errors
    /// `Damaged`, `PermissionDenied` or `Conflict`, as for [`refresh`](Self::refresh); the one that holds stays.
    pub fn load(&self, config: &[u8]) -> Result<()> {
        self.0.configs.take(config, None, ConfigSource::Host)
    }

    /// How the configuration is doing.
    pub fn health(&self) -> Health {
        let config = self.0.configs.current();
        let age = self.0.configs.age(&config);
        let problem = self.0.configs.problem();
        let left_out = |problem: &selvedge_core::experiment::payload::Problem| {
            format!("{} {}: {}", problem.kind, problem.key, problem.error)
        };
        Health {
            source: config.source,
            issued_at: config.issued_at,
            age,
            stale: self.is_stale(age),
            features: config.payload.features().len(),
            left_out: config.payload.problems().iter().map(left_out).collect(),
            last_error: problem.as_ref().map(|problem| problem.message.clone()),
            last_error_kind: problem.map(|problem| problem.kind),
        }
    }

    fn is_stale(&self, age: Option<Duration>) -> bool {
        age.is_none_or(|age| age > self.0.max_age)
    }

    /// The configuration to go by.
    pub(crate) fn usable(&self) -> Result<Arc<Config>> {
        let config = self.0.configs.current();
        if self.0.when_stale == WhenStale::Refuse {
            let age = self.0.configs.age(&config);
            if self.is_stale(age) {
                let error = Error::new(ErrorKind::Unavailable, "experiment.assign", "the configuration is too old");
                let error = match age {
                    Some(age) => error.with("age", format!("{age:?}")),
                    None => error.with("age", "never fetched"),
                };
                return Err(error.advise("refresh it, or allow it to be older with max_age or when_stale"));
            }
        }
        Ok(config)
    }
}

impl Experiment for Experiments {
    fn capabilities(&self) -> ExperimentCapabilities {
        ExperimentCapabilities { plugin: "experiments", sticky: true, peek: true }
    }

    async fn assign(&self, cx: &Context, request: Assign) -> Result<Assignment> {
        cx.check("experiment.assign")?;
        self.assigned(cx, &request).await
    }

    async fn track(&self, cx: &Context, fact: Fact) -> Result<()> {
        cx.check("experiment.track")?;
        PaywallEvent::check_fact(&fact)?;
        let commit = self.0.delivery.keep(Commit::new(), fact, cx.trace())?;
        self.0.store.commit(cx, commit).await.map(|_| ())
    }
}
