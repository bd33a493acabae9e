#![allow(unsafe_code, reason = "llama.cpp is called here and nowhere else")]
//! Threads that compute, kept for as long as a model is open.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;
use selvedge_core::{Error, ErrorKind, Result};

/// ggml's thread pool. Without one ggml starts and joins threads for every forward pass, which on a busy machine takes
/// longer than the pass. The thread that calls a pass is one of its workers.
#[derive(Debug)]
pub(crate) struct ThreadPool {
    pointer: NonNull<sys::ggml_threadpool>,
}

impl ThreadPool {
    /// The most cores a mask can name.
    pub(crate) const MOST_CORES: usize = 512;

    /// `threads` workers; on the given cores only, if any are named.
    pub(crate) fn new(threads: usize, cores: &[usize]) -> Result<Self> {
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        // SAFETY: a plain function of its argument.
        let mut params = unsafe { sys::ggml_threadpool_params_default(threads) };
        for core in cores {
            if let Some(place) = params.cpumask.get_mut(*core) {
                *place = true;
            }
        }
        // SAFETY: `params` is a whole value that outlives the call; nothing keeps a pointer to it.
        let pointer = unsafe { sys::ggml_threadpool_new(&raw mut params) };
        NonNull::new(pointer).map(|pointer| Self { pointer }).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "llama.open", "no threads can be started to compute with")
                .with("threads", threads)
                .advise("open the model with fewer threads")
                .retry(false)
        })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ggml_threadpool {
        self.pointer.as_ptr()
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: it was made by `ggml_threadpool_new`, is freed once, and no context is left that uses it: each keeps a
        // reference to this value until it is freed itself.
        unsafe { sys::ggml_threadpool_free(self.pointer.as_ptr()) }
    }
}
