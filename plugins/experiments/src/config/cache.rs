//! The last good configuration, in a file that is replaced whole.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use selvedge_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Age;

const OPERATION: &str = "experiments.cache";

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cached {
    pub(crate) etag: Option<String>,
    pub(crate) age: Age,
    /// What the server sent, still signed: it is checked again when it is read.
    pub(crate) body: String,
    /// The body's SHA-256: a file system may lose what it was told to keep.
    sha256: String,
}

impl Cached {
    pub(crate) fn new(etag: Option<String>, age: Age, body: String) -> Self {
        let sha256 = digest(&body);
        Self { etag, age, body, sha256 }
    }
}

fn digest(body: &str) -> String {
    Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a configuration is kept over restarts.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    path: PathBuf,
}

impl Cache {
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// What is kept; `None` when nothing is.
    pub(crate) fn read(&self) -> Result<Option<Cached>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("the kept configuration cannot be read", error)),
        };
        let damaged = || {
            Error::new(ErrorKind::Damaged, OPERATION, "the kept configuration is damaged")
                .with("path", self.path.display())
                .advise("nothing needs to be done: the next refresh replaces it")
        };
        let cached: Cached = serde_json::from_slice(&bytes).map_err(|error| damaged().caused_by(error))?;
        if cached.sha256 == digest(&cached.body) { Ok(Some(cached)) } else { Err(damaged()) }
    }

    /// Replaces what is kept: after a crash at any moment there is the old or the new, whole.
    pub(crate) fn write(&self, cached: &Cached) -> Result<()> {
        let bytes = serde_json::to_vec(cached).map_err(|error| self.failed("cannot be encoded", error))?;
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = self.path.with_file_name(name);
        let written = fs::File::create(&new).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        });
        written.map_err(|error| {
            // What was begun is of no use to anybody.
            let _ = fs::remove_file(&new);
            self.failed("the configuration cannot be kept", error)
        })
    }

    fn failed(&self, message: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(ErrorKind::Unavailable, OPERATION, message)
            .with("path", self.path.display())
            .caused_by(error)
            .advise("give a path in a folder that the app may write to")
    }
}

#[cfg(test)]
mod tests {
    use selvedge_core::Timestamp;

    use super::*;

    fn cached(body: &str) -> Cached {
        Cached::new(Some("\"1\"".into()), Age::new(Timestamp(5)), body.into())
    }

    #[test]
    fn what_was_written_is_read_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(&folder.path().join("config.json"));
        assert_eq!(cache.read().unwrap(), None);
        for body in [r#"{"features":{}}"#, &"long ".repeat(10_000), ""] {
            cache.write(&cached(body)).unwrap();
            assert_eq!(cache.read().unwrap(), Some(cached(body)));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_damaged_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let cache = Cache::at(&path);
        cache.write(&cached("the body")).unwrap();
        let whole = fs::read(&path).unwrap();
        for damaged in [
            &whole[..whole.len() / 2],
            b"",
            &[0; 100],
            &String::from_utf8_lossy(&whole).replace("body", "BODY").into_bytes(),
        ] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.read().unwrap_err().kind(), ErrorKind::Damaged);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(&folder.path().join("none/config.json"));
        assert_eq!(cache.write(&cached("")).unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
