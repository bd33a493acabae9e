//! Making a model's file faster on this machine.

use std::path::{Path, PathBuf};

use selvedge_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::{
    backend::backend,
    digest::{digest, unreadable},
    gguf,
    sys::{self, Target},
};

/// A format of weights that llama.cpp multiplies fast on CPUs: it arranges them for the machine's vector units when a model
/// is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// 4 bits and a scale a block: the smallest, and the fastest to read prompts with.
    #[default]
    Q4_0,
    /// 8 bits and a scale a block: twice the size, nearly as exact as the original.
    Q8_0,
}

/// A file that [`prepare`] wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prepared {
    /// Where it is.
    pub path: PathBuf,
    /// Its digest, 64 hex digits.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// What it was: `llama 135M Q4_1`.
    pub from: String,
    /// What it is.
    pub to: String,
}

/// Writes the model in the file `from` to the file `to` with its weights in another format. A file that is there is replaced
/// once the new one is whole. Quantising what was quantised before loses a little of what the weights said.
///
/// This blocks, for seconds to minutes.
///
/// ```no_run
/// use selvedge_llama::{Format, prepare};
///
/// # fn main() -> selvedge_core::Result<()> {
/// let prepared = prepare("model.Q4_1.gguf", "model.Q4_0.gguf", Format::Q4_0)?;
/// println!("{} {}", prepared.to, prepared.sha256);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [opening](crate::Builder::open) `from`; `InvalidInput` when both are one file; `Unavailable` when `to` cannot be
/// written. What was in `to` stays then.
pub fn prepare(from: impl AsRef<Path>, to: impl AsRef<Path>, format: Format) -> Result<Prepared> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let before = gguf::check(from, false)?;
    backend()?;
    if to.canonicalize().is_ok_and(|to| from.canonicalize().is_ok_and(|from| from == to)) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "llama.prepare",
            "a model cannot be prepared in its own place",
        )
        .with("file", from.display())
        .advise("name another file"));
    }
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = to.with_file_name(name);
    let target = match format {
        Format::Q4_0 => Target::Q4_0,
        Format::Q8_0 => Target::Q8_0,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let finish = || -> Result<Prepared> {
        sys::quantize(from, &part, target, threads)?;
        let after = gguf::check(&part, false)?;
        let sha256 = digest(&part)?;
        let written = |error| {
            Error::new(ErrorKind::Unavailable, "llama.prepare", "the new model cannot be put in its place")
                .with("file", to.display())
                .caused_by(error)
                .advise("look for room on the disk and at the folder's permissions")
                .retry(false)
        };
        let file = std::fs::File::open(&part).map_err(|error| unreadable(&part, error))?;
        file.sync_all().map_err(written)?;
        let bytes = file.metadata().map_err(written)?.len();
        std::fs::rename(&part, to).map_err(written)?;
        Ok(Prepared { path: to.to_owned(), sha256, bytes, from: before.description(), to: after.description() })
    };
    let prepared = finish();
    if prepared.is_err() {
        drop(std::fs::remove_file(&part));
    }
    prepared
}
