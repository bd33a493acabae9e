//! The command line of `selvedge experiment`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct Experiment {
    #[command(subcommand)]
    pub(crate) command: ExperimentCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExperimentCommand {
    /// Evaluates a feature or an experiment for one user
    Eval(Eval),
    /// Computes what |z| must reach at each look, so that looking often does not lead astray
    Bounds(Bounds),
    /// Computes how many users it takes to find a lift
    Power(Power),
    /// Analyses a file with one line for each user
    Analyze(Analyze),
    /// Analyses an experiment from the facts in the Store
    Report(Report),
    /// Checks whether an experiment's data can be trusted; exits with 1 if they cannot
    Check(Check),
    /// Writes the users of an experiment in the Store, or the events themselves, to a file
    Export(Export),
    /// Signs a payload, so that devices know it is yours
    Sign(Sign),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["feature", "experiment"]))]
pub(crate) struct Eval {
    /// A payload in GrowthBook's format: features, experiments, saved groups
    #[arg(long, value_name = "FILE")]
    pub(crate) payload: PathBuf,
    /// What is known of the user, as one JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) attributes: String,
    /// The feature, or placement
    #[arg(long, value_name = "KEY")]
    pub(crate) feature: Option<String>,
    /// An experiment that is no feature's, as JSON
    #[arg(long, value_name = "JSON")]
    pub(crate) experiment: Option<String>,
    /// The address the user is at
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// The payload
    #[arg(long, value_name = "FILE")]
    pub(crate) payload: PathBuf,
    /// The secret key: 32 bytes of Ed25519 in 64 hex digits
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// The key's id, by which devices find its public half
    #[arg(long, value_name = "ID")]
    pub(crate) key_id: String,
    /// Where the signed configuration goes; `-` is stdout
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Bounds {
    /// The share of the planned users at each look, rising
    #[arg(long, value_name = "T,…", value_delimiter = ',', required = true)]
    pub(crate) looks: Vec<f64>,
    #[command(flatten)]
    pub(crate) error: Allowed,
    /// 2, or 1 where only a better variation counts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) sides: u8,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// How much error is allowed, and when.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Allowed {
    /// How the error is spent over the looks
    #[arg(long, value_enum, default_value_t = SpendingName::ObrienFleming)]
    pub(crate) spending: SpendingName,
    /// The error allowed: how many experiments without an effect may seem to have one
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub(crate) alpha: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SpendingName {
    /// Very little early, nearly all of it at the end
    ObrienFleming,
    /// About the same at every look
    Pocock,
}

#[derive(Debug, Args)]
pub(crate) struct Power {
    /// What is to be found out
    #[arg(long, value_enum, default_value_t = Metric::Revenue)]
    pub(crate) metric: Metric,
    /// The standard deviation of revenue per user over its mean, non-payers too; or give --payers
    #[arg(long, value_name = "CV", conflicts_with = "payers")]
    pub(crate) cv: Option<f64>,
    /// The share of users who pay, instead of --cv
    #[arg(long, value_name = "SHARE")]
    pub(crate) payers: Option<f64>,
    /// The standard deviation of what payers pay over its mean
    #[arg(long, value_name = "CV", default_value_t = 0.66)]
    pub(crate) payer_cv: f64,
    /// The smallest lift to find, as a fraction: 0.1 for 10 %
    #[arg(long, value_name = "LIFT", allow_negative_numbers = true)]
    pub(crate) lift: f64,
    /// The probability to find it
    #[arg(long, value_name = "P", default_value_t = 0.8)]
    pub(crate) power: f64,
    #[command(flatten)]
    pub(crate) error: Allowed,
    /// 2, or 1 where only a better variation counts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) sides: u8,
    /// How often it is looked, at equal steps; or the shares of users at which it is
    #[arg(long, value_name = "N|T,…", default_value = "1")]
    pub(crate) looks: String,
    /// Users of the treated arm for each of the control
    #[arg(long, value_name = "RATIO", default_value_t = 1.0)]
    pub(crate) allocation: f64,
    /// What the lift does to the variance: nothing, or what more payers or higher prices do
    #[arg(long, value_enum, default_value_t = VarianceName::Equal)]
    pub(crate) variance: VarianceName,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Metric {
    /// Revenue per exposed user
    Revenue,
    /// The share of users who buy, with --payers
    Conversion,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum VarianceName {
    /// Nothing, as in textbooks
    Equal,
    /// More users pay
    Volume,
    /// The same users pay more
    Price,
}

/// How an experiment is analysed.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// The variation that the others are compared with [default: `control`, else the first by name]
    #[arg(long, value_name = "NAME")]
    pub(crate) control: Option<String>,
    /// The share of users that a variation was to have, for each of them [default: equal]
    #[arg(long = "weight", value_name = "NAME=SHARE", value_parser = weight)]
    pub(crate) weights: Vec<(String, f64)>,
    #[command(flatten)]
    pub(crate) error: Allowed,
    /// Users of each arm that were planned [default: this is the only look]
    #[arg(long, value_name = "N")]
    pub(crate) planned: Option<u64>,
    /// The shares of the planned users at which it was looked before [default: each day in the data]
    #[arg(long, value_name = "T,…", value_delimiter = ',', requires = "planned")]
    pub(crate) looks: Vec<f64>,
    /// How p-values of several variations are corrected
    #[arg(long, value_enum, default_value_t = CorrectionName::Holm)]
    pub(crate) correction: CorrectionName,
    /// The standard deviation of the relative lift that is expected beforehand, around 0 [default: a flat prior]
    #[arg(long, value_name = "SD")]
    pub(crate) prior: Option<f64>,
    /// Caps what one user paid at this quantile of those who paid, and reports that too: 0.999
    #[arg(long, value_name = "Q")]
    pub(crate) winsorise: Option<f64>,
    /// What negative revenue is
    #[arg(long, value_enum, default_value_t = RefundsName::Refuse)]
    pub(crate) refunds: RefundsName,
    /// A column, or in a Store the name of a fact, that may get worse by a margin at most, and which way is better:
    /// sessions:0.02:higher
    #[arg(long = "guardrail", value_name = "COLUMN:MARGIN:WAY")]
    pub(crate) guardrails: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CorrectionName {
    /// Keeps the chance of any false finding
    Holm,
    /// Keeps the share of false ones among the findings
    BenjaminiHochberg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RefundsName {
    /// An error
    Refuse,
    /// It counts as it is
    Net,
    /// It counts as nothing
    Zero,
}

/// What is printed.
#[derive(Debug, Args)]
pub(crate) struct Shown {
    /// Writes one page of HTML with plots to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Analyze {
    /// CSV or Parquet with user_id, variation, revenue, converted and more if wanted; `-` is CSV on stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// The experiment's key
    pub(crate) experiment: String,
    /// The Store: postgres://…, sqlite:FILE or a file's path
    #[arg(long, visible_alias = "db", value_name = "URL|FILE")]
    pub(crate) store: Option<String>,
    /// Takes out noise by what each user paid before the exposure (CUPED)
    #[arg(long)]
    pub(crate) past_revenue: bool,
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    pub(crate) shown: Shown,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["experiment", "input"]))]
pub(crate) struct Check {
    /// The experiment's key
    pub(crate) experiment: Option<String>,
    /// A file instead: CSV or Parquet; `-` is CSV on stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// The Store: postgres://…, sqlite:FILE or a file's path
    #[arg(long, visible_alias = "db", value_name = "URL|FILE", conflicts_with = "input")]
    pub(crate) store: Option<String>,
    #[command(flatten)]
    pub(crate) how: How,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The experiment's key: its users are written, a row each
    #[arg(required_unless_present = "events", conflicts_with = "events")]
    pub(crate) experiment: Option<String>,
    /// Writes the events themselves instead, a row each, in the order in which they were recorded
    #[arg(long)]
    pub(crate) events: bool,
    /// Only events of this name
    #[arg(long, value_name = "NAME", requires = "events", conflicts_with = "experiment")]
    pub(crate) name: Option<String>,
    /// Where to write: CSV, or Parquet by its ending; `-` is CSV on stdout
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    /// The Store: postgres://…, sqlite:FILE or a file's path
    #[arg(long, visible_alias = "db", value_name = "URL|FILE")]
    pub(crate) store: Option<String>,
    /// What negative revenue is
    #[arg(long, value_enum, default_value_t = RefundsName::Refuse, conflicts_with = "events")]
    pub(crate) refunds: RefundsName,
    /// Adds what each user paid before the exposure, as the covariate
    #[arg(long, conflicts_with = "events")]
    pub(crate) past_revenue: bool,
}

fn weight(text: &str) -> Result<(String, f64), String> {
    let parts = text.rsplit_once('=').and_then(|(name, share)| Some((name.to_owned(), share.parse().ok()?)));
    parts.ok_or_else(|| "write NAME=SHARE, as in control=0.5".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read() {
        assert_eq!(weight("a=b=0.5"), Ok(("a=b".into(), 0.5)));
        assert!(weight("a").is_err());
    }
}
