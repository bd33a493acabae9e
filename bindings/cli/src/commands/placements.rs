//! The placements of `selvedge serve`: a file that is read again when it changes.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use selvedge::{AnyStore, Error, ErrorKind, Result, experiments::Experiments};
use selvedge_http::ServedConfig;

use super::experiment::sign::unhex;
use crate::config;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// A file of placements, and who goes by it.
pub(super) struct Placements {
    pub(super) experiments: Experiments,
    pub(super) served: ServedConfig,
    path: PathBuf,
    read: Option<SystemTime>,
}

impl Placements {
    /// Reads the file; `None` when none is configured.
    pub(super) fn open(config: &config::Experiments, store: AnyStore) -> Result<Option<Self>> {
        if config.config.as_os_str().is_empty() {
            return Ok(None);
        }
        let mut builder = Experiments::builder().store(store);
        for (id, key) in &config.trusted_keys {
            let key = unhex(key).ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, "cli.serve", "a trusted key is no public key")
                    .with("experiments.trusted_keys", id)
                    .advise("give the 64 hex digits that `selvedge experiment sign` prints")
            })?;
            builder = builder.trusted_key(id, &key);
        }
        let experiments = builder.build()?;
        let body = read(&config.config)?;
        experiments.load(&body).map_err(|error| error.with("file", config.config.display()))?;
        let served = ServedConfig::new(body);
        Ok(Some(Self { experiments, served, path: config.config.clone(), read: changed(&config.config) }))
    }

    /// Reads it again whenever it changes. What cannot be believed is told, and the last good one stays.
    pub(super) async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = changed(&self.path);
            if now.is_none() || now == self.read {
                continue;
            }
            self.read = now;
            let taken = read(&self.path).and_then(|body| self.experiments.load(&body).map(|()| body));
            match taken {
                Ok(body) => {
                    self.served.replace(body);
                    tracing::info!(file = %self.path.display(), "placements changed");
                }
                Err(error) => {
                    tracing::error!(file = %self.path.display(), %error, "placements stay as they were");
                }
            }
        }
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|file| file.modified()).ok()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        Error::new(ErrorKind::NotFound, "cli.serve", "the file of placements cannot be read")
            .with("experiments.config", path.display())
            .caused_by(error)
    })
}
