use std::{path::Path, path::PathBuf, sync::Arc, time::Duration};

use selvedge_core::{AnyStore, Clock, Error, ErrorKind, Result, Store, SystemClock, transport::HttpTransport};

use crate::{
    Delivery, Experiments,
    config::{Cache, Configs, Remote, TrustedKeys},
    remembered::Remembered,
};

/// What is done when the configuration is older than [`ExperimentsBuilder::max_age`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenStale {
    /// Go by the last good one; [`Health::stale`](crate::Health::stale) says so.
    #[default]
    Answer,
    /// Refuse to assign, with `Unavailable`.
    Refuse,
}

/// Sets up [`Experiments`].
#[derive(Debug)]
pub struct ExperimentsBuilder {
    store: Option<AnyStore>,
    remote: Option<Remote>,
    cache: Option<PathBuf>,
    bundled: Option<String>,
    keys: Vec<(String, [u8; 32])>,
    identified_by: String,
    device_attribute: String,
    delivery: Delivery,
    max_age: Duration,
    when_stale: WhenStale,
    remembered_subjects: usize,
    clock: Arc<dyn Clock>,
}

impl ExperimentsBuilder {
    pub(crate) fn new() -> Self {
        Self {
            store: None,
            remote: None,
            cache: None,
            bundled: None,
            keys: Vec::new(),
            identified_by: "id".into(),
            device_attribute: "deviceId".into(),
            delivery: Delivery::Store,
            max_age: Duration::from_secs(86_400),
            when_stale: WhenStale::Answer,
            remembered_subjects: 10_000,
            clock: Arc::new(SystemClock),
        }
    }

    /// Where assignments and facts are kept. It is needed.
    #[must_use]
    pub fn store(mut self, store: AnyStore) -> Self {
        self.store = Some(store);
        self
    }

    /// Where [`Experiments::refresh`] fetches: a path of the transport's server, `/v1/config`.
    #[must_use]
    pub fn config(mut self, transport: Arc<dyn HttpTransport>, path: impl Into<String>) -> Self {
        self.remote = Some(Remote { transport, path: path.into() });
        self
    }

    /// The file that keeps the last good configuration between runs. It is replaced whole. Default: none is kept.
    #[must_use]
    pub fn cache(mut self, path: impl AsRef<Path>) -> Self {
        self.cache = Some(path.as_ref().to_owned());
        self
    }

    /// The payload that comes with the app, for the first launch without a network. It is not signed, and is never kept as
    /// if a server had sent it.
    #[must_use]
    pub fn bundled(mut self, json: impl Into<String>) -> Self {
        self.bundled = Some(json.into());
        self
    }

    /// Trusts an Ed25519 public key to sign configurations. Once a key is trusted, nothing unsigned is believed. Several may be
    /// trusted, so that keys can change: [`sign`](crate::sign).
    #[must_use]
    pub fn trusted_key(mut self, id: impl Into<String>, key: &[u8; 32]) -> Self {
        self.keys.push((id.into(), *key));
        self
    }

    /// The attribute that a subject's id is given as, where targeting and hashing look for it. Default: `id`.
    #[must_use]
    pub fn identified_by(mut self, attribute: impl Into<String>) -> Self {
        self.identified_by = attribute.into();
        self
    }

    /// The attribute that a device's id is given as: an experiment's `fallbackAttribute`. Default: `deviceId`.
    #[must_use]
    pub fn device_attribute(mut self, attribute: impl Into<String>) -> Self {
        self.device_attribute = attribute.into();
        self
    }

    /// Where facts go once they are kept. Default: they stay in the Store.
    #[must_use]
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// How old a configuration may be. Default: 24 hours.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// What is done beyond that. Default: go by the last good one.
    #[must_use]
    pub fn when_stale(mut self, when_stale: WhenStale) -> Self {
        self.when_stale = when_stale;
        self
    }

    /// Of how many subjects (users, devices) assignments are remembered in memory, so that they are not read again when somebody
    /// comes back; those who were not asked for the longest go first. A subject takes about 180 bytes with an id of 36 characters
    /// and one assignment, and 30 bytes for each further one. An answer from memory is one that the Store would give; what is not
    /// certain is read. Default: 10,000, about 2 MB; with 0 the Store is read each time.
    #[must_use]
    pub fn remembered_subjects(mut self, most: usize) -> Self {
        self.remembered_subjects = most;
        self
    }

    /// The clock that ages are measured by. Default: the system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Reads what came with the app and what was kept. A kept configuration that is damaged is passed over, and
    /// [`Experiments::health`] says so.
    ///
    /// # Errors
    /// `InvalidInput` without a Store or for a key that is none; `Unsupported` for a Store that keeps no facts, or, with
    /// [`Delivery::Outbox`], has no outbox; `Damaged` when what came with the app is no payload.
    pub fn build(self) -> Result<Experiments> {
        let store = self.store.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "experiments.build", "no Store was given")
                .advise("call store(…) with the Store of the engine")
        })?;
        let can = store.capabilities();
        if !can.facts || (self.delivery == Delivery::Outbox && !can.outbox) {
            return Err(Error::unsupported(can.plugin, "experiments.build"));
        }
        let mut keys = TrustedKeys::default();
        for (id, key) in &self.keys {
            keys.add(id, key)?;
        }
        let cache = self.cache.as_deref().map(Cache::at);
        let configs = Configs::open(keys, cache, self.clock, self.bundled.as_deref())?;
        Ok(Experiments::new(crate::experiments::Parts {
            store,
            configs,
            remote: self.remote,
            refreshing: Default::default(),
            identified_by: self.identified_by,
            device_attribute: self.device_attribute,
            delivery: self.delivery,
            max_age: self.max_age,
            when_stale: self.when_stale,
            assigning: Default::default(),
            remembered: Remembered::new(self.remembered_subjects),
        }))
    }
}
