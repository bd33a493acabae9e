//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

// The chores read this file too, from another folder.
#[path = "arguments/experiment.rs"]
pub(crate) mod experiment;

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
    /// Submits files of requests to a model, and shows what became of them
    Batch(Batch),
    /// Makes model files ready for this machine
    Model(Model),
    /// Shows events that have not gone out, and lets dead ones go again or drops them
    Outbox(Outbox),
    /// Checks the configuration, the Store, the models and the machine
    Doctor(Doctor),
    /// Computes what something costs
    Cost(Cost),
    /// Plans experiments on revenue per user, and tells what came of them
    Experiment(experiment::Experiment),
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
pub(crate) struct Batch {
    /// The Store: postgres://…, sqlite:FILE or a file's path
    #[arg(long, visible_alias = "db", value_name = "URL|FILE", global = true)]
    pub(crate) store: Option<String>,
    /// Whose batches [default: those without a tenant]
    #[arg(long, value_name = "TENANT", global = true)]
    pub(crate) tenant: Option<String>,
    /// Prints JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: BatchCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BatchCommand {
    /// Submits a file of requests, one JSON object a line; a running server works them off
    Submit {
        /// The file; `-` reads stdin
        file: PathBuf,
        /// What the requests ask for: /v1/chat/completions, /v1/completions or /v1/embeddings
        #[arg(long, value_name = "PATH", default_value = "/v1/chat/completions")]
        endpoint: String,
        /// How long it may take, in hours (h) or days (d)
        #[arg(long, value_name = "TIME", default_value = "24h")]
        window: String,
        /// Waits until it is over, and tells how far it is
        #[arg(long)]
        wait: bool,
    },
    /// Shows a batch
    Status {
        /// Its id
        id: String,
        /// Waits until it is over, and tells how far it is
        #[arg(long)]
        wait: bool,
    },
    /// Prints the answers of a batch as JSON lines, those so far if it is not over
    Output {
        /// Its id
        id: String,
        /// Prints what was not answered, and why, instead
        #[arg(long)]
        errors: bool,
    },
    /// Ends a batch: what waits is not begun, what runs is stopped
    Cancel {
        /// Its id
        id: String,
    },
    /// Lists batches, the latest first
    List {
        /// At the most so many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Model {
    /// Prints one JSON object
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: ModelCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Writes a model with its weights in a format that this machine multiplies fast
    Prepare {
        /// The model file (GGUF)
        file: PathBuf,
        /// Where to write [default: beside it, named for the format]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// The format of the weights
        #[arg(long, value_enum, default_value_t = Format::Q4_0)]
        format: Format,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// 4 bits: the smallest, and the fastest to read prompts with
    #[value(name = "q4_0")]
    Q4_0,
    /// 8 bits: twice the size, nearly as exact as the original
    #[value(name = "q8_0")]
    Q8_0,
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

#[derive(Debug, Args)]
pub(crate) struct Cost {
    #[command(subcommand)]
    pub(crate) command: CostCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CostCommand {
    /// Compares an API with nodes of your own, from a log of requests: by volume, and where both cost the same
    Inference(Box<CostInference>),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["log", "article"]))]
#[command(group = clap::ArgGroup::new("capacity").args(["tokens_per_second", "log_nodes"]))]
pub(crate) struct CostInference {
    /// One JSON object a line: a time, prompt tokens and completion tokens, as OpenAI's answers have them; `-` is stdin
    #[arg(long, value_name = "FILE", requires = "capacity")]
    pub(crate) log: Option<PathBuf>,
    /// Prints the table of the article that this command answers, as printed and as its own numbers say
    #[arg(long)]
    pub(crate) article: bool,
    /// The API's price of a million prompt tokens [default: 2.50, gpt-4o in LiteLLM 1.110's price list]
    #[arg(long, value_name = "USD", value_parser = zero_or_more, allow_negative_numbers = true)]
    pub(crate) api_prompt_price: Option<f64>,
    /// The API's price of a million completion tokens [default: 10.00, from the same list]
    #[arg(long, value_name = "USD", value_parser = zero_or_more, allow_negative_numbers = true)]
    pub(crate) api_completion_price: Option<f64>,
    /// What a node costs a month of 730 hours [default: 16000, the article's 8 A100]
    #[arg(long, value_name = "USD", value_parser = positive, allow_negative_numbers = true, conflicts_with = "node_price_hour")]
    pub(crate) node_price_month: Option<f64>,
    /// What a node costs an hour
    #[arg(long, value_name = "USD", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) node_price_hour: Option<f64>,
    /// What running nodes costs a month whatever the volume: people, storage, monitoring [default: 0]
    #[arg(long, value_name = "USD", value_parser = zero_or_more, allow_negative_numbers = true)]
    pub(crate) fixed_price_month: Option<f64>,
    /// Completion tokens a second of a full node, measured with your model
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) tokens_per_second: Option<f64>,
    /// The log was served by so many such nodes: their busiest minute is what they can do
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) log_nodes: Option<u32>,
    /// Prompt tokens a second of a full node [default: as many as completion tokens, which is too few]
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) prompt_tokens_per_second: Option<f64>,
    /// Requests that a node serves at once [default: 1, as `selvedge serve`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) streams: Option<u32>,
    /// The largest share of the time that nodes are to be busy [default: 0.65, what the article's figures imply]
    #[arg(long, value_name = "SHARE", value_parser = share, allow_negative_numbers = true)]
    pub(crate) max_utilisation: Option<f64>,
    /// 99 % of requests, batch aside, are to have their first token in this time (the article's: 200) [default: none]
    #[arg(long, value_name = "MS", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) p99_ttft_ms: Option<f64>,
    /// Nodes beside those that are needed, so that so many may fail [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000))]
    pub(crate) spare_nodes: Option<u32>,
    /// The busiest hour over the mean one [default: the log's]
    #[arg(long, value_name = "RATIO", value_parser = at_least_one, allow_negative_numbers = true)]
    pub(crate) peak: Option<f64>,
    /// How uneven requests come within an hour: variance over mean of their counts, 1 at random [default: the log's]
    #[arg(long, value_name = "RATIO", value_parser = zero_or_more, allow_negative_numbers = true)]
    pub(crate) burstiness: Option<f64>,
    /// Your volume, when the log is only a part of it [default: the log's]
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) requests_per_month: Option<f64>,
    /// A monthly volume to show; may be given several times [default: 1, 3, 5 and 10 million, the article's]
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) volume: Vec<f64>,
    /// How often the log is drawn again for the interval of the crossover
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub(crate) resamples: u32,
    /// The same seed draws the same
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// No amount here is larger; the rest is a slip of the finger.
const LARGEST: f64 = 1e15;

fn number(text: &str, is: impl Fn(f64) -> bool, meant: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| is(*number));
    number.ok_or_else(|| format!("write {meant}"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |number| number > 0.0 && number <= LARGEST, "a number above 0")
}

fn zero_or_more(text: &str) -> Result<f64, String> {
    number(text, |number| (0.0..=LARGEST).contains(&number), "a number, 0 or more")
}

fn at_least_one(text: &str) -> Result<f64, String> {
    number(text, |number| (1.0..=LARGEST).contains(&number), "a number, 1 or more")
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |number| number > 0.0 && number <= 0.99, "a share above 0 and at most 0.99")
}
