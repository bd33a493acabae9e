//! llama.cpp's state of the whole process.

use std::sync::OnceLock;

use llama_cpp_2::{LogOptions, llama_backend::LlamaBackend, send_logs_to_tracing};
use selvedge_core::{Error, ErrorKind, Result};

/// The backend, set up at the first call and kept until the process ends, as llama.cpp allows only one.
pub(crate) fn backend() -> Result<&'static LlamaBackend> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    BACKEND
        .get_or_init(|| {
            // Before anything is logged: llama.cpp writes to stderr otherwise.
            send_logs_to_tracing(LogOptions::default());
            LlamaBackend::init().map_err(|error| error.to_string())
        })
        .as_ref()
        .map_err(|error| {
            Error::new(ErrorKind::Unavailable, "llama.open", "llama.cpp cannot be set up")
                .with("reason", error)
                .advise("let only one library of the process set up llama.cpp")
                .retry(false)
        })
}
