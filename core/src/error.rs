//! The one error type of every plugin and binding.

use std::{error::Error as StdError, fmt, time::Duration};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong; what a program decides by.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The caller passed something that can never work; nothing was changed.
    InvalidInput,
    /// What was asked for does not exist.
    NotFound,
    /// Something with that identity exists already and differs.
    Conflict,
    /// The lease or claim is no longer held: another worker may have the item now.
    LeaseLost,
    /// The plugin cannot do this; its capabilities say so.
    Unsupported,
    /// Busy for the moment: a queue is full, or another process holds a lock.
    Busy,
    /// A quota is used up; `retry_after` says when to come back.
    RateLimited,
    /// The caller cancelled.
    Cancelled,
    /// The deadline of the [`Context`](crate::Context) passed.
    DeadlineExceeded,
    /// The disk or the configured size limit is full.
    StorageFull,
    /// The file, folder or resource may not be written or read.
    PermissionDenied,
    /// Stored data is damaged; the file was left untouched.
    Damaged,
    /// Stored data was written by a newer version; it was left untouched.
    NewerVersion,
    /// The input is larger than a limit.
    TooLarge,
    /// A service or device cannot be reached.
    Unavailable,
    /// The engine, or its Store, was closed.
    Closed,
    /// A bug in Selvedge or a plugin.
    Internal,
}

impl ErrorKind {
    /// The kind in `snake_case`, as bindings and logs show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::LeaseLost => "lease_lost",
            Self::Unsupported => "unsupported",
            Self::Busy => "busy",
            Self::RateLimited => "rate_limited",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::StorageFull => "storage_full",
            Self::PermissionDenied => "permission_denied",
            Self::Damaged => "damaged",
            Self::NewerVersion => "newer_version",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::Closed => "closed",
            Self::Internal => "internal",
        }
    }

    /// Whether a failure of this kind usually passes by itself.
    fn usually_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::RateLimited | Self::Unavailable)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What failed, on what, and what to do next.
///
/// `retryable` is a promise: the operation had **no effect** and the same call may succeed later. The
/// [`Retry`](crate::layers::Retry) layer repeats nothing else.
///
/// ```
/// use selvedge_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::NotFound, "inference.open", "no such model file")
///     .with("path", "/models/missing.gguf")
///     .advise("check the path, or run `selvedge doctor`");
/// assert_eq!(
///     error.to_string(),
///     "inference.open: no such model file (path: /models/missing.gguf); check the path, or run `selvedge doctor`"
/// );
/// assert!(!error.retryable());
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    retryable: bool,
    retry_after: Option<Duration>,
    operation: &'static str,
    message: String,
    advice: Option<String>,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` in `operation` (`"store.commit"`, `"sqlite.open"`); `message` says what failed.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            retryable: kind.usually_retryable(),
            retry_after: None,
            operation,
            message: message.into(),
            advice: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// The error of a plugin that lacks a capability.
    pub fn unsupported(plugin: &str, operation: &'static str) -> Self {
        Self::new(ErrorKind::Unsupported, operation, format!("the {plugin} plugin cannot do this"))
            .advise("ask its capabilities first, or configure a plugin that can")
    }

    /// The error of an operation whose context was cancelled.
    pub fn cancelled(operation: &'static str) -> Self {
        Self::new(ErrorKind::Cancelled, operation, "cancelled by the caller")
    }

    /// The error of an operation whose deadline passed.
    pub fn deadline(operation: &'static str) -> Self {
        Self::new(ErrorKind::DeadlineExceeded, operation, "the deadline passed")
            .advise("give it more time, or ask for less work at once")
    }

    /// Adds what it failed on.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Overrides whether the same call may succeed later. Set it only when the operation is known to have had no effect.
    #[must_use]
    pub fn retry(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// Says when the same call may succeed.
    #[must_use]
    pub fn retry_in(mut self, after: Duration) -> Self {
        self.0.retryable = true;
        self.0.retry_after = Some(after);
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the operation had no effect and the same call may succeed later.
    pub fn retryable(&self) -> bool {
        self.0.retryable
    }

    /// How long to wait before the same call, when that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The operation that failed.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// What failed, without context and advice.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do next, if there is something.
    pub fn advice(&self) -> Option<&str> {
        self.0.advice.as_deref()
    }

    /// What it failed on: pairs of name and value.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { operation, message, context, advice, source, .. } = &*self.0;
        write!(f, "{operation}: {message}")?;
        for (index, (name, value)) in context.iter().enumerate() {
            write!(f, "{}{name}: {value}", if index == 0 { " (" } else { ", " })?;
        }
        if !context.is_empty() {
            f.write_str(")")?;
        }
        if let Some(source) = source {
            write!(f, ": {source}")?;
        }
        if let Some(advice) = advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}{}] {self}", self.kind(), if self.retryable() { ", retryable" } else { "" })
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
