//! `selvedge experiment`.

mod analyze;
mod eval;
mod how;
mod plan;
pub(super) mod sign;

use std::process::ExitCode;

use selvedge::Result;

use crate::{
    arguments::experiment::{Experiment, ExperimentCommand},
    config::Config,
};

/// Runs the command; `config` is asked for only where a Store is needed.
pub(crate) fn run(config: impl FnOnce() -> Result<Config>, options: Experiment) -> Result<ExitCode> {
    match options.command {
        ExperimentCommand::Eval(options) => eval::run(&options)?,
        ExperimentCommand::Bounds(options) => plan::bounds(&options)?,
        ExperimentCommand::Power(options) => plan::power(&options)?,
        ExperimentCommand::Analyze(options) => analyze::file(options)?,
        ExperimentCommand::Report(options) => analyze::report(config()?, options)?,
        ExperimentCommand::Check(options) => return analyze::check(config, options),
        ExperimentCommand::Export(options) => analyze::export(config()?, options)?,
        ExperimentCommand::Sign(options) => sign::run(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}
