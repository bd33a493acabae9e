use std::{any::Any, fmt, panic::AssertUnwindSafe};

use selvedge::Error;

/// What every call returns.
pub(crate) type Outcome<T> = Result<T, EngineError>;

/// What kind of thing went wrong; what an app decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, uniffi::Enum)]
pub enum ErrorKind {
    /// The caller passed something that can never work; nothing was changed.
    InvalidInput,
    /// What was asked for does not exist.
    NotFound,
    /// Something with that identity exists already and differs.
    Conflict,
    /// The lease or claim is no longer held.
    LeaseLost,
    /// The engine has no plugin for it, or the plugin cannot do it.
    Unsupported,
    /// Too much is going on; the same call may work later.
    Busy,
    /// A quota is used up.
    RateLimited,
    /// The caller cancelled.
    Cancelled,
    /// Time ran out.
    DeadlineExceeded,
    /// The disk or the configured size limit is full.
    StorageFull,
    /// The file or folder may not be written or read.
    PermissionDenied,
    /// Stored data is damaged; the file was left untouched.
    Damaged,
    /// Stored data was written by a newer version; it was left untouched.
    NewerVersion,
    /// The input is larger than a limit.
    TooLarge,
    /// A service or device cannot be reached.
    Unavailable,
    /// The engine was closed.
    Closed,
    /// A bug in Selvedge, a plugin or a callback of the host.
    Internal,
}

impl From<selvedge::ErrorKind> for ErrorKind {
    fn from(kind: selvedge::ErrorKind) -> Self {
        use selvedge::ErrorKind as Core;
        match kind {
            Core::InvalidInput => Self::InvalidInput,
            Core::NotFound => Self::NotFound,
            Core::Conflict => Self::Conflict,
            Core::LeaseLost => Self::LeaseLost,
            Core::Unsupported => Self::Unsupported,
            Core::Busy => Self::Busy,
            Core::RateLimited => Self::RateLimited,
            Core::Cancelled => Self::Cancelled,
            Core::DeadlineExceeded => Self::DeadlineExceeded,
            Core::StorageFull => Self::StorageFull,
            Core::PermissionDenied => Self::PermissionDenied,
            Core::Damaged => Self::Damaged,
            Core::NewerVersion => Self::NewerVersion,
            Core::TooLarge => Self::TooLarge,
            Core::Unavailable => Self::Unavailable,
            Core::Closed => Self::Closed,
            _ => Self::Internal,
        }
    }
}

impl From<ErrorKind> for selvedge::ErrorKind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput => Self::InvalidInput,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::LeaseLost => Self::LeaseLost,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Busy => Self::Busy,
            ErrorKind::RateLimited => Self::RateLimited,
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::DeadlineExceeded => Self::DeadlineExceeded,
            ErrorKind::StorageFull => Self::StorageFull,
            ErrorKind::PermissionDenied => Self::PermissionDenied,
            ErrorKind::Damaged => Self::Damaged,
            ErrorKind::NewerVersion => Self::NewerVersion,
            ErrorKind::TooLarge => Self::TooLarge,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Closed => Self::Closed,
            ErrorKind::Internal => Self::Internal,
        }
    }
}

/// What failed, on what, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Failure {
    /// What kind of thing went wrong.
    pub kind: ErrorKind,
    /// The operation: `store.commit`.
    pub operation: String,
    /// What failed, on what and why, as one sentence for people, advice included.
    pub message: String,
    /// What to do next, if there is something.
    #[uniffi(default = None)]
    pub advice: Option<String>,
    /// What it failed on, by name.
    #[uniffi(default)]
    pub context: std::collections::HashMap<String, String>,
    /// The operation had no effect and the same call may succeed later.
    #[uniffi(default = false)]
    pub retryable: bool,
    /// How long to wait before the same call, in ms, when that is known.
    #[uniffi(default = None)]
    pub retry_after_ms: Option<u64>,
}

/// The error of every call, and of every callback of the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, uniffi::Error)]
pub enum EngineError {
    /// It failed.
    #[error("{}", failure.message)]
    Failed {
        /// What, on what, and what to do next.
        failure: Failure,
    },
}

impl EngineError {
    /// What failed.
    pub fn failure(&self) -> &Failure {
        let Self::Failed { failure } = self;
        failure
    }
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        let failure = Failure {
            kind: error.kind().into(),
            operation: error.operation().into(),
            message: error.to_string(),
            advice: error.advice().map(Into::into),
            context: error.context().iter().map(|(name, value)| ((*name).into(), value.clone())).collect(),
            retryable: error.retryable(),
            retry_after_ms: error.retry_after().map(millis),
        };
        Self::Failed { failure }
    }
}

/// What a callback of the host threw without declaring it.
impl From<uniffi::UnexpectedUniFFICallbackError> for EngineError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        selvedge::Error::new(selvedge::ErrorKind::Internal, "host.callback", "a callback of the app threw")
            .with("error", error.reason)
            .advise("throw a Selvedge error from callbacks, so that its kind arrives")
            .into()
    }
}

impl EngineError {
    /// The error of a callback, as plugins see it.
    pub(crate) fn into_core(self, operation: &'static str) -> Error {
        let Self::Failed { failure } = self;
        let kind = failure.kind.into();
        let error = Error::new(kind, operation, failure.message).retry(failure.retryable);
        match failure.retry_after_ms {
            Some(ms) => error.retry_in(std::time::Duration::from_millis(ms)),
            None => error,
        }
    }
}

pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Runs a synchronous call; a panic becomes an error.
pub(crate) fn guarded<T>(operation: &'static str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(operation, &*panic).into()))
}

/// The error of work that panicked.
pub(crate) fn panicked(operation: &'static str, panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    internal(operation, format_args!("the engine panicked: {}", said.unwrap_or("no message")))
}

pub(crate) fn internal(operation: &'static str, message: impl fmt::Display) -> Error {
    Error::new(selvedge::ErrorKind::Internal, operation, message.to_string())
        .advise("this is a bug: report it with this message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_says_what_happened() {
        let outcome: Outcome<()> = guarded("test.panic", || panic!("the roof is on fire"));
        let EngineError::Failed { failure } = outcome.expect_err("it panicked");
        assert_eq!(failure.kind, ErrorKind::Internal);
        assert!(failure.message.contains("the roof is on fire"), "{}", failure.message);
    }
}
