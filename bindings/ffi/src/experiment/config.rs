use std::{path::Path, sync::Arc, time::Duration};

use selvedge::{
    AnyStore, Clock, Error, ErrorKind, Result,
    experiments::{ConfigSource, Delivery, Experiments, Health},
};

use crate::error::millis;

/// Where placements come from, and whom to believe.
#[derive(Clone, Debug, Default, PartialEq, Eq, uniffi::Record)]
pub struct ExperimentsConfig {
    /// The payload that comes with the app, as JSON, for the first launch without a network.
    #[uniffi(default = None)]
    pub bundled_json: Option<String>,
    /// The file that keeps the last good configuration between runs; without it, none is kept.
    #[uniffi(default = None)]
    pub cache: Option<String>,
    /// The keys that configurations may be signed with. With any, nothing unsigned is believed.
    #[uniffi(default)]
    pub trusted_keys: Vec<TrustedKey>,
    /// How old a configuration may be before [`ConfigHealth::stale`] says so, in ms; without it, 24 hours.
    #[uniffi(default = None)]
    pub max_age_ms: Option<u64>,
}

/// A key that configurations may be signed with.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct TrustedKey {
    /// Its id.
    pub id: String,
    /// Its public half: 32 bytes of Ed25519 in 64 hex digits.
    pub public_key: String,
}

/// Where a configuration came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum ConfigOrigin {
    /// There is none.
    Nowhere,
    /// It came with the app.
    Bundled,
    /// It was kept from an earlier run.
    Cache,
    /// The server sent it, or said that it is still the newest.
    Server,
}

/// How the placements' configuration is doing.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct ConfigHealth {
    /// Where the one that holds came from.
    pub source: ConfigOrigin,
    /// How long ago the server vouched for it, in ms; `None` when it never did.
    pub age_ms: Option<u64>,
    /// It is older than allowed, or nobody ever vouched for it.
    pub stale: bool,
    /// How many placements and other features it has.
    pub features: u64,
    /// The parts of it that could not be read and were left out.
    pub left_out: Vec<String>,
    /// Why the last refresh, or reading what was kept, came to nothing.
    pub last_error: Option<String>,
}

impl ExperimentsConfig {
    /// Reads what came with the app and what was kept.
    pub(crate) fn open(&self, store: AnyStore, clock: Arc<dyn Clock>) -> Result<Experiments> {
        let mut builder = Experiments::builder().store(store).delivery(Delivery::Outbox).clock(clock);
        if let Some(json) = &self.bundled_json {
            builder = builder.bundled(json);
        }
        if let Some(cache) = &self.cache {
            builder = builder.cache(Path::new(cache));
        }
        if let Some(ms) = self.max_age_ms {
            builder = builder.max_age(Duration::from_millis(ms));
        }
        for TrustedKey { id, public_key } in &self.trusted_keys {
            let key = unhex(public_key).ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, "engine.open", "a trusted key is no public key")
                    .with("key", id)
                    .advise("pass the 64 hex digits that `selvedge experiment sign` prints")
            })?;
            builder = builder.trusted_key(id, &key);
        }
        builder.build()
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl From<Health> for ConfigHealth {
    fn from(health: Health) -> Self {
        Self {
            source: match health.source {
                ConfigSource::Nowhere => ConfigOrigin::Nowhere,
                ConfigSource::Bundled => ConfigOrigin::Bundled,
                ConfigSource::Cache => ConfigOrigin::Cache,
                // Apps have no way to hand one in but a transport.
                ConfigSource::Server | ConfigSource::Host => ConfigOrigin::Server,
            },
            age_ms: health.age.map(millis),
            stale: health.stale,
            features: health.features as u64,
            left_out: health.left_out,
            last_error: health.last_error,
        }
    }
}
