#![allow(unsafe_code, reason = "llama.cpp is called here and nowhere else")]
//! Weights in another format.

use std::{ffi::CString, path::Path};

use llama_cpp_sys_2 as sys;
use selvedge_core::{Error, ErrorKind, Result};

/// The format of the weights that are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Q4_0,
    Q8_0,
}

/// Writes the model in `from` to `to`, its weights in another format. `to` is not whole before this returns.
pub(crate) fn quantize(from: &Path, to: &Path, target: Target, threads: usize) -> Result<()> {
    let path = |path: &Path| {
        path.to_str().and_then(|text| CString::new(text).ok()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "llama.prepare", "llama.cpp cannot be given this path")
                .with("path", path.display())
                .advise("use a path that is UTF-8 text without the character NUL")
        })
    };
    let (from_c, to_c) = (path(from)?, path(to)?);
    // SAFETY: a plain function.
    let mut params = unsafe { sys::llama_model_quantize_default_params() };
    params.nthread = i32::try_from(threads).unwrap_or(0);
    params.ftype = match target {
        Target::Q4_0 => sys::LLAMA_FTYPE_MOSTLY_Q4_0,
        Target::Q8_0 => sys::LLAMA_FTYPE_MOSTLY_Q8_0,
    };
    // The file at hand is quantised already, as files for phones are.
    params.allow_requantize = true;
    // SAFETY: both paths are C strings and `params` is whole; all outlive the call, which catches its own exceptions.
    let code = unsafe { sys::llama_model_quantize(from_c.as_ptr(), to_c.as_ptr(), &raw const params) };
    if code == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, "llama.prepare", "llama.cpp cannot write the model in this format")
        .with("from", from.display())
        .with("to", to.display())
        .advise("look for room on the disk; llama.cpp's log says more")
        .retry(false))
}
