//! Whether a model file is the one that was meant.

use std::{
    fs::File,
    io::{ErrorKind as IoKind, Read},
    path::{Path, PathBuf},
};

use selvedge_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Which file a model is: the JSON beside it, `{ "file": "model.gguf", "sha256": "b179…" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The model's file, relative to the manifest.
    pub file: PathBuf,
    /// The SHA-256 digest of that file, 64 hex digits.
    pub sha256: String,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// `NotFound` or `PermissionDenied` when it cannot be read, `Damaged` when it is no manifest.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read(path).map_err(|error| unreadable(path, error))?;
        serde_json::from_slice(&text).map_err(|error| {
            Error::new(ErrorKind::Damaged, "llama.open", "the manifest cannot be understood")
                .with("file", path.display())
                .caused_by(error)
                .advise(r#"write it as { "file": "model.gguf", "sha256": "<64 hex digits>" }"#)
        })
    }
}

/// The error of a file that cannot be opened or read.
pub(crate) fn unreadable(path: &Path, error: std::io::Error) -> Error {
    let (kind, advice) = match error.kind() {
        IoKind::NotFound => (ErrorKind::NotFound, "check the path, or fetch the model first"),
        IoKind::PermissionDenied => (ErrorKind::PermissionDenied, "let this user read the file"),
        IoKind::IsADirectory => (ErrorKind::InvalidInput, "name the model's file, not its folder"),
        _ => (ErrorKind::Unavailable, "check the disk"),
    };
    Error::new(kind, "llama.open", "the file cannot be read")
        .with("file", path.display())
        .caused_by(error)
        .advise(advice)
}

/// Compares a file's digest with the expected one; the digest in lower case.
pub(crate) fn verify(path: &Path, expected: &str) -> Result<String> {
    let expected = expected.to_ascii_lowercase();
    if expected.len() != 64 || !expected.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::new(ErrorKind::InvalidInput, "llama.open", "that is no SHA-256 digest")
            .with("digest", expected)
            .advise("give 64 hex digits, as sha256sum prints them"));
    }
    let found = digest(path)?;
    if found != expected {
        return Err(Error::new(ErrorKind::Damaged, "llama.open", "the model is not the file that was expected")
            .with("file", path.display())
            .with("expected", expected)
            .with("found", found)
            .advise("fetch the file again, or correct the digest"));
    }
    Ok(found)
}

/// The digest of a file, read piece by piece.
pub(crate) fn digest(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|error| unreadable(path, error))?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => hasher.update(&piece[..length]),
            Err(error) if error.kind() == IoKind::Interrupted => {}
            Err(error) => return Err(unreadable(path, error)),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_one_of_the_standard() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(verify(file.path(), &abc.to_uppercase()).unwrap(), abc);
        assert_eq!(verify(file.path(), &"0".repeat(64)).unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(verify(file.path(), "abc").unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
