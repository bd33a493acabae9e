//! What llama.cpp can do and its safe crate does not reach, made safe: contexts whose threads change while they live, that
//! run on a lasting thread pool, can be cut short, and let the state of one sequence out and in. The only unsafe code of this
//! crate is below this folder.
//!
//! llama-cpp-2 keeps the pointers of its contexts to itself, so a context made by it can do none of this: contexts and
//! batches are made here, and models, vocabularies, templates and grammars there. ADR 017 says which call is whose, and why.

mod batch;
mod context;
mod pool;
mod quantize;

pub(crate) use batch::Batch;
pub(crate) use context::{Context, Decoded, Pooling, Settings};
pub(crate) use pool::ThreadPool;
pub(crate) use quantize::{Target, quantize};
