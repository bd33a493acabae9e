//! How a model is opened.

use std::path::PathBuf;

use selvedge_core::{AnyScheduler, Error, ErrorKind, Result};

use crate::{
    Llama, Manifest,
    digest::{digest, unreadable, verify},
    gguf,
    sys::ThreadPool,
};

/// The most threads ggml computes with.
const MOST_THREADS: usize = 512;

/// Opens a model; see [`Llama::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    path: PathBuf,
    name: Option<String>,
    sha256: Option<String>,
    identified: bool,
    manifest: Option<PathBuf>,
    threads: Option<usize>,
    cores: Vec<usize>,
    context_length: Option<usize>,
    sequences: usize,
    batch: usize,
    scheduler: Option<AnyScheduler>,
}

/// What the worker is started with: everything in it was checked.
pub(crate) struct Settings {
    pub(crate) path: PathBuf,
    pub(crate) threads: usize,
    pub(crate) cores: Vec<usize>,
    pub(crate) context_length: Option<usize>,
    pub(crate) sequences: usize,
    pub(crate) batch: usize,
    pub(crate) scheduler: Option<AnyScheduler>,
}

impl Builder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            name: None,
            sha256: None,
            identified: false,
            manifest: None,
            threads: None,
            cores: Vec::new(),
            context_length: None,
            sequences: 4,
            batch: 512,
            scheduler: None,
        }
    }

    /// The name that requests give. Default: the file's name without its extension.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The SHA-256 digest that the file must have, 64 hex digits; checked before the file is opened as a model. It is the
    /// only check that finds a flipped bit in the weights, and what an architecture needs
    /// [whose layout is not checked](crate#files-that-cannot-be-trusted).
    #[must_use]
    pub fn sha256(mut self, digest: impl Into<String>) -> Self {
        self.sha256 = Some(digest.into());
        self
    }

    /// Reads the whole file when it is opened, so that [`ModelInfo::sha256`](selvedge_core::inference::ModelInfo::sha256) tells
    /// it apart from others even if no digest is given. That says nothing about whether the file can be trusted.
    #[must_use]
    pub fn identified(mut self) -> Self {
        self.identified = true;
        self
    }

    /// A [`Manifest`] that says which digest the file must have.
    #[must_use]
    pub fn manifest(mut self, path: impl Into<PathBuf>) -> Self {
        self.manifest = Some(path.into());
        self
    }

    /// Threads that compute, 1 to 512. They are started once and live as long as the model is open; a Scheduler may use fewer
    /// for a pass. Default: as many as the machine runs at once.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The cores that those threads may run on, by their numbers, 0 to 511. Which gain from it is a matter of the device:
    /// measure. Not supported on Apple's systems. Default: where the system puts them.
    #[must_use]
    pub fn cores(mut self, cores: impl IntoIterator<Item = usize>) -> Self {
        self.cores = cores.into_iter().collect();
        self
    }

    /// The most requests whose caches are in memory as slots of the context, 1 to 256; memory for
    /// [`context_length`](Self::context_length) symbols is set aside for each. More may be live: those that the Scheduler lets
    /// wait are parked, at the cost of a copy. Default: 4.
    #[must_use]
    pub fn sequences(mut self, sequences: usize) -> Self {
        self.sequences = sequences;
        self
    }

    /// The most symbols that prompt and answer have together; memory grows with it. Default: what the model was trained
    /// for, at most 2048.
    #[must_use]
    pub fn context_length(mut self, symbols: usize) -> Self {
        self.context_length = Some(symbols);
        self
    }

    /// The most symbols in one forward pass. A prompt is read in pieces of this size at the most, and a request is cancelled
    /// between two of them: smaller pieces react faster, larger ones read faster. Default: 512.
    #[must_use]
    pub fn batch(mut self, symbols: usize) -> Self {
        self.batch = symbols;
        self
    }

    /// The Scheduler whose [`plan`](selvedge_core::Scheduler::plan) is asked before each forward pass. Default:
    /// [`Plan::in_order`](selvedge_core::scheduler::Plan::in_order).
    #[must_use]
    pub fn scheduler(mut self, scheduler: AnyScheduler) -> Self {
        self.scheduler = Some(scheduler);
        self
    }

    /// Opens the model. This blocks while the file is checked and mapped: a fraction of a second, and the time of reading
    /// the whole file when a digest is given. In async code, call it on a thread where blocking is allowed.
    ///
    /// # Errors
    /// `InvalidInput` for a setting that cannot be used, `NotFound` or `PermissionDenied` when the file cannot be read,
    /// `Damaged` when it is no model, cut off, or not the one with the digest, `Unsupported` when its kind is not known, or
    /// [not checked](crate#files-that-cannot-be-trusted) and no digest is given, `Unavailable` when memory is short.
    pub fn open(self) -> Result<Llama> {
        let threads = match self.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism().map_or(1, |threads| threads.get().min(MOST_THREADS)),
        };
        for (setting, value, most) in [
            ("threads", threads, MOST_THREADS),
            ("sequences", self.sequences, 256),
            ("cores", self.cores.iter().max().map_or(1, |most| most + 1), ThreadPool::MOST_CORES),
            ("batch", self.batch, 1 << 20),
            ("context_length", self.context_length.unwrap_or(1), 1 << 24),
        ] {
            if value == 0 || value > most {
                return Err(Error::new(ErrorKind::InvalidInput, "llama.open", "a setting is out of range")
                    .with("setting", setting)
                    .with("value", value)
                    .advise(format!("use 1 to {most}")));
            }
        }
        let expected = self.expected_digest()?;
        let sha256 = match &expected {
            Some(expected) => verify(&self.path, expected)?,
            None if self.identified => digest(&self.path)?,
            None => String::new(),
        };
        let summary = gguf::check(&self.path, expected.is_some())?;
        let name = match self.name {
            Some(name) => name,
            None => self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let settings = Settings {
            path: self.path,
            threads,
            cores: self.cores,
            context_length: self.context_length,
            sequences: self.sequences,
            batch: self.batch,
            scheduler: self.scheduler,
        };
        Llama::start(name, sha256, summary, settings)
    }

    /// The digest that the file must have, if one was given.
    fn expected_digest(&self) -> Result<Option<String>> {
        let Some(path) = &self.manifest else {
            return Ok(self.sha256.clone());
        };
        let manifest = Manifest::read(path)?;
        let named = path.parent().unwrap_or(path).join(&manifest.file);
        let same = |path: &PathBuf| path.canonicalize().map_err(|error| unreadable(path, error));
        let disagrees = self.sha256.as_ref().is_some_and(|digest| !digest.eq_ignore_ascii_case(&manifest.sha256));
        if disagrees || same(&named)? != same(&self.path)? {
            return Err(Error::new(ErrorKind::InvalidInput, "llama.open", "the manifest is about another file")
                .with("file", self.path.display())
                .with("manifest", path.display())
                .with("its file", manifest.file.display())
                .with("its digest", manifest.sha256)
                .advise("give the manifest that belongs to the model"));
        }
        Ok(Some(manifest.sha256))
    }
}
