//! The `selvedge` command: a server, a model at the prompt, a look at jobs, a check-up, and what inference costs.

mod arguments;
mod commands;
mod config;
mod cost;
mod output;

use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;
use selvedge::{ErrorKind, Result};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        // Whoever pressed Ctrl-C or closed the pipe knows.
        Err(error) if error.kind() == ErrorKind::Cancelled && error.operation() == "output" => ExitCode::SUCCESS,
        Err(error) => {
            output::fail(&error);
            ExitCode::from(if error.kind() == ErrorKind::Cancelled { 130 } else { 1 })
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        // These need no configuration, so a broken one must not keep anybody from repairing it.
        Command::Config => output::print(config::DEFAULT)?,
        Command::Completions { shell } => commands::shell::completions(shell)?,
        Command::Man { folder } => commands::shell::man(folder.as_deref())?,
        Command::Cost(options) => commands::cost::run(options)?,
        Command::Doctor(options) => return commands::doctor::run(arguments.config.as_deref(), options),
        Command::Generate(options) => {
            log(&config::Log { level: "error".into(), format: config::LogFormat::Text });
            commands::generate::run(options)?;
        }
        Command::Model(options) => {
            log(&config::Log { level: "error".into(), format: config::LogFormat::Text });
            commands::model::run(options)?;
        }
        Command::Serve(options) => {
            let (config, path) = config::load(arguments.config.as_deref())?;
            log(&config.log);
            commands::serve::run(config, path, options)?;
        }
        Command::Experiment(options) => {
            log(&config::Log { level: "error".into(), format: config::LogFormat::Text });
            let config = || config::load(arguments.config.as_deref()).map(|(config, _)| config);
            return commands::experiment::run(config, options);
        }
        Command::Batch(options) => {
            let (config, _) = config::load(arguments.config.as_deref())?;
            log(&config::Log { level: "error".into(), format: config::LogFormat::Text });
            return commands::batch::run(config, options);
        }
        Command::Jobs(options) => {
            let (config, _) = config::load(arguments.config.as_deref())?;
            log(&config::Log { level: "error".into(), format: config::LogFormat::Text });
            commands::jobs::run(config, options)?;
        }
        Command::Outbox(options) => {
            let (config, _) = config::load(arguments.config.as_deref())?;
            log(&config::Log { level: "error".into(), format: config::LogFormat::Text });
            commands::outbox::run(config, options)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the log, on stderr.
fn log(settings: &config::Log) {
    let filter = EnvFilter::try_from_env("SELVEDGE_LOG").unwrap_or_else(|_| EnvFilter::new(&settings.level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.format {
        config::LogFormat::Json => builder.json().init(),
        config::LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
    }
}
