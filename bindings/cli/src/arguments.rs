//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// One engine for an app and its backend: durable jobs, idempotent intents and language models.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// The configuration; else the file in SELVEDGE_CONFIG, else ./selvedge.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves the engine over HTTP: OpenAI's API, intents, health and metrics
    Serve(Serve),
    /// Generates text with a model file
    Generate(Generate),
    /// Shows and changes jobs in the Store
    Jobs(Jobs),
    /// Shows events that have not gone out, and lets dead ones go again or drops them
    Outbox(Outbox),
    /// Checks the configuration, the Store, the models and the machine
    Doctor(Doctor),
    /// Prints the default configuration, every key documented
    Config,
    /// Prints completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Prints the manual page, or writes one for each command into a folder
    Man {
        /// Where to write
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<SocketAddr>,
    /// The Store: postgres://…, sqlite:FILE or a file's path
    #[arg(long, visible_alias = "db", value_name = "URL|FILE")]
    pub(crate) store: Option<String>,
    /// A model file; may be given several times, and replaces the models of the configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) model: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// The model file (GGUF)
    #[arg(long, value_name = "FILE", env = "SELVEDGE_MODEL")]
    pub(crate) model: PathBuf,
    /// The digest that the file must have, 64 hex digits
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<String>,
    /// What to go on from; `-` reads it from stdin
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// What the model is told to be
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub(crate) system: Option<String>,
    /// The most tokens to add
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_tokens: usize,
    /// 0 takes the likeliest token always; 1 is the model's own distribution
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Takes only the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// The same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u32,
    /// A text that ends the answer; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Threads to compute with [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// The most tokens of prompt and answer [default: the model's own, at most 2048]
    #[arg(long, value_name = "N")]
    pub(crate) context_length: Option<usize>,
    /// Goes on with the prompt as it stands, without the model's chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// Prints one JSON object: tokens, text, stop_reason, counts and timings
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// The Store: postgres://…, sqlite:FILE or a file's path
    #[arg(long, visible_alias = "db", value_name = "URL|FILE", global = true)]
    pub(crate) store: Option<String>,
    /// Prints JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: JobsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Lists jobs, oldest first
    List {
        /// Of this queue
        #[arg(long, value_name = "QUEUE")]
        queue: Option<String>,
        /// Of this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// In this state
        #[arg(long, value_enum)]
        state: Option<State>,
        /// At the most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Lists dead letters: jobs that failed for good, with why and after how many attempts
    Dead {
        /// Of this queue
        #[arg(long, value_name = "QUEUE")]
        queue: Option<String>,
        /// Of this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// At the most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Shows one job with its payload
    Show {
        /// Its number
        id: i64,
    },
    /// Makes dead or cancelled jobs ready again, with all their attempts
    Retry {
        /// Their numbers
        #[arg(required = true)]
        ids: Vec<i64>,
    },
    /// Cancels jobs: at once if they wait; a running one is asked to stop
    Cancel {
        /// Their numbers
        #[arg(required = true)]
        ids: Vec<i64>,
    },
    /// Stops a queue from giving out jobs
    Pause {
        /// The queue
        queue: String,
    },
    /// Lets a paused queue give out jobs again
    Resume {
        /// The queue
        queue: String,
    },
    /// Shows how full and how old every queue is, by tenant
    Depth,
}

#[derive(Debug, Args)]
pub(crate) struct Outbox {
    /// The Store: postgres://…, sqlite:FILE or a file's path
    #[arg(long, visible_alias = "db", value_name = "URL|FILE", global = true)]
    pub(crate) store: Option<String>,
    /// Prints JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: OutboxCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// Lists events that have not gone out, oldest first
    List {
        /// Only dead ones, which hold up what comes after them in their aggregate
        #[arg(long)]
        dead: bool,
        /// At the most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Lets dead events go out again, and then what waits behind them
    Retry {
        /// Their numbers
        #[arg(required = true)]
        numbers: Vec<i64>,
    },
    /// Drops dead events, so that what waits behind them goes out without them
    Drop {
        /// Their numbers
        #[arg(required = true)]
        numbers: Vec<i64>,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum State {
    Ready,
    Running,
    Dead,
    Cancelled,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The Store: postgres://…, sqlite:FILE or a file's path
    #[arg(long, visible_alias = "db", value_name = "URL|FILE")]
    pub(crate) store: Option<String>,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
