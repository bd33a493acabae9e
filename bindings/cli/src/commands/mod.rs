//! The commands.

pub(crate) mod batch;
pub(crate) mod cost;
pub(crate) mod doctor;
pub(crate) mod experiment;
pub(crate) mod generate;
pub(crate) mod jobs;
pub(crate) mod model;
pub(crate) mod outbox;
mod placements;
pub(crate) mod serve;
pub(crate) mod shell;
mod store;

use std::future::Future;

use selvedge::{Error, ErrorKind, Result, llama::Llama};

use crate::config::Model;

/// Runs a command's async part.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Error::new(ErrorKind::Unavailable, "cli.start", "the runtime does not start").caused_by(error)
    })?;
    runtime.block_on(work)
}

fn open_model(model: &Model, scheduler: Option<selvedge::AnyScheduler>) -> Result<Llama> {
    let mut builder = Llama::builder(&model.path);
    if let Some(name) = &model.name {
        builder = builder.name(name);
    }
    if let Some(digest) = &model.sha256 {
        builder = builder.sha256(digest);
    }
    if let Some(threads) = model.threads {
        builder = builder.threads(threads.get());
    }
    if let Some(sequences) = model.sequences {
        builder = builder.sequences(sequences.get());
    }
    builder = builder.cores(model.cores.iter().copied());
    if let Some(length) = model.context_length {
        builder = builder.context_length(length.get());
    }
    if let Some(scheduler) = scheduler {
        // A server tells its models apart: an answer that was begun by another is not gone on with.
        builder = builder.scheduler(scheduler).identified();
    }
    builder.open()
}
