//! `selvedge cost`.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use fastrand::Rng;
use owo_colors::{OwoColorize, Stream};
use selvedge::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::{
    arguments::{Cost, CostCommand, CostInference},
    cost::{
        MONTH, article,
        bootstrap::{Interval, Sample},
        log::{self, Request},
        plan::{Crossover, PART_OF_P99, Plan, Target, Terms},
        traffic::{self, Traffic, is_batch},
        work::{ApiPrice, Speed, Sums, Work},
    },
    output::{self, dollars, millions, thousands},
};

/// Below this many requests the interval is itself a guess.
const FEW: usize = 100;

pub(crate) fn run(options: Cost) -> Result<()> {
    let CostCommand::Inference(options) = options.command;
    match &options.log {
        Some(path) => compare(&options, path),
        None => print_article(options.json),
    }
}

fn compare(options: &CostInference, path: &Path) -> Result<()> {
    let requests = log::read(open(path)?).map_err(|error| error.with("file", path.display()))?;
    let report = report(options, &requests)?;
    for warning in &report.warnings {
        output::warn(warning);
    }
    if options.json { output::json(&report) } else { show(&report) }
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = File::open(path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::InvalidInput,
        };
        Error::new(kind, "cost.log", "the log cannot be read")
            .with("file", path.display())
            .caused_by(error)
            .advise("check the path given with --log")
    })?;
    Ok(Box::new(BufReader::new(file)))
}

/// A number that the result rests on, and where it comes from.
#[derive(Debug, Serialize)]
struct Assumption {
    name: &'static str,
    value: f64,
    #[serde(skip)]
    shown: String,
    source: String,
}

#[derive(Debug, Serialize)]
struct Row {
    requests_per_month: f64,
    api: f64,
    self_hosted: f64,
    /// Spare ones too.
    nodes: u64,
    /// Of working nodes in the busiest hour, batch aside.
    utilisation: f64,
    p99_ttft_ms: f64,
    saved_by_self_hosting: f64,
    api_per_million_tokens: f64,
    self_hosted_per_million_tokens: f64,
    #[serde(skip)]
    is_log: bool,
}

#[derive(Debug, Serialize)]
struct Crossing {
    #[serde(flatten)]
    at: Crossover,
    first_interval: Interval,
    last_interval: Interval,
    resamples: u32,
    /// Of these, so many have no crossover.
    resamples_without: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    log: Traffic,
    assumptions: Vec<Assumption>,
    api_per_million_requests: f64,
    /// What nodes cannot get below, however many and full.
    self_hosted_per_million_requests_at_least: f64,
    volumes: Vec<Row>,
    crossover: Option<Crossing>,
    warnings: Vec<String>,
}

fn report(options: &CostInference, requests: &[Request]) -> Result<Report> {
    let traffic = Traffic::of(requests);
    if traffic.prompt_tokens.mean + traffic.completion_tokens.mean == 0.0 {
        return Err(invalid("the requests of the log have no tokens").advise("check which requests are in it"));
    }
    let mut warnings = Vec::new();
    if requests.len() < FEW {
        warnings.push(format!("the log has {} requests: intervals of so few are too narrow", requests.len()));
    }
    let mut ledger = Ledger::default();
    let price = ledger.api(options);
    let speed = ledger.speed(options, requests)?;
    let reading = reading(requests, speed);
    let terms = ledger.terms(options, &traffic, reading, &mut warnings)?;
    let sample = Sample::of(requests.iter().map(|request| Sums::of(request, price, speed)));
    let plan = Plan { terms, work: Work::of(sample.whole()) };
    let own = ledger.volume(options, &traffic);
    let mut volumes = if options.volume.is_empty() { vec![1e6, 3e6, 5e6, 1e7] } else { options.volume.clone() };
    volumes.extend(own);
    volumes.sort_by(f64::total_cmp);
    volumes.dedup();
    let rows = volumes.into_iter().map(|volume| row(&plan, volume, reading, own)).collect::<Result<_>>()?;
    Ok(Report {
        log: traffic,
        assumptions: ledger.0,
        api_per_million_requests: plan.api(1e6),
        self_hosted_per_million_requests_at_least: plan.least() * 1e6,
        volumes: rows,
        crossover: crossing(&plan, &sample, options),
        warnings,
    })
}

/// Seconds in which all but the longest prompts of interactive requests are read.
fn reading(requests: &[Request], speed: Speed) -> f64 {
    let interactive = requests.iter().filter(|request| !is_batch(request));
    let mut seconds: Vec<f64> = interactive.map(|request| speed.reading(request)).collect();
    seconds.sort_by(f64::total_cmp);
    traffic::quantile(&seconds, PART_OF_P99).unwrap_or(0.0)
}

fn row(plan: &Plan, volume: f64, reading: f64, own: Option<f64>) -> Result<Row> {
    let too_much = || {
        invalid("a volume needs more than a million nodes")
            .with("requests_per_month", volume)
            .advise("check --volume, --requests-per-month, --tokens-per-second and --p99-ttft-ms")
    };
    let working = plan.nodes(volume).ok_or_else(too_much)?;
    let (api, self_hosted) = (plan.api(volume), plan.self_hosted(volume).ok_or_else(too_much)?);
    let per_million_tokens = |cost: f64| cost / (volume * plan.work.tokens) * 1e6;
    Ok(Row {
        requests_per_month: volume,
        api,
        self_hosted,
        nodes: working + u64::from(plan.terms.spare),
        utilisation: plan.busy(volume, working),
        p99_ttft_ms: plan.ttft(volume, working, reading) * 1e3,
        saved_by_self_hosting: api - self_hosted,
        api_per_million_tokens: per_million_tokens(api),
        self_hosted_per_million_tokens: per_million_tokens(self_hosted),
        is_log: own == Some(volume),
    })
}

fn crossing(plan: &Plan, sample: &Sample, options: &CostInference) -> Option<Crossing> {
    let at = plan.crossover()?;
    let mut random = Rng::with_seed(options.seed);
    let draws: Vec<Option<Crossover>> = (0..options.resamples)
        .map(|_| Plan { work: Work::of(sample.draw(&mut random)), ..*plan }.crossover())
        .collect();
    let interval = |point, of: fn(Crossover) -> f64| Interval::of(point, draws.iter().map(|draw| draw.map(of)));
    Some(Crossing {
        at,
        first_interval: interval(at.first, |at| at.first),
        last_interval: interval(at.last, |at| at.last),
        resamples: options.resamples,
        resamples_without: draws.iter().filter(|draw| draw.is_none()).count(),
    })
}

/// What was assumed, as it is taken from flags, the log or a default.
#[derive(Debug, Default)]
struct Ledger(Vec<Assumption>);

impl Ledger {
    fn note(&mut self, name: &'static str, value: f64, shown: String, source: impl Into<String>) -> f64 {
        self.0.push(Assumption { name, value, shown, source: source.into() });
        value
    }

    /// A flag, or what counts without it.
    fn flag(&mut self, name: &'static str, flag: Option<f64>, or: (f64, &str), show: impl Fn(f64) -> String) -> f64 {
        let (value, source) = flag.map_or(or, |value| (value, "a flag"));
        self.note(name, value, show(value), source)
    }

    fn api(&mut self, options: &CostInference) -> ApiPrice {
        let list = "default: gpt-4o in LiteLLM 1.110's price list";
        ApiPrice {
            prompt: self.flag("api_prompt_price", options.api_prompt_price, (2.5, list), dollars),
            completion: self.flag("api_completion_price", options.api_completion_price, (10.0, list), dollars),
        }
    }

    fn speed(&mut self, options: &CostInference, requests: &[Request]) -> Result<Speed> {
        let shown = |rate: f64| format!("{} tokens/s", thousands(rate));
        let completion = match (options.tokens_per_second, options.log_nodes) {
            (Some(rate), _) => self.note("tokens_per_second", rate, shown(rate), "a flag"),
            (None, Some(nodes)) => {
                let rate = traffic::busiest_minute(requests)? / f64::from(nodes);
                let source = "the log: its busiest minute, prompt tokens too; nodes do at least that";
                self.note("tokens_per_second", rate, shown(rate), source)
            }
            (None, None) => {
                return Err(invalid("what a node can do is not known")
                    .advise("give --tokens-per-second, or --log-nodes when such nodes served the log"));
            }
        };
        let same = (completion, "default: as for completion tokens, which is too slow");
        let prompt = self.flag("prompt_tokens_per_second", options.prompt_tokens_per_second, same, shown);
        Ok(Speed { prompt, completion })
    }

    fn terms(
        &mut self,
        options: &CostInference,
        traffic: &Traffic,
        reading: f64,
        warnings: &mut Vec<String>,
    ) -> Result<Terms> {
        let month = options.node_price_month.or(options.node_price_hour.map(|hour| hour * MONTH / 3_600.0));
        let node = self.flag("node_price_month", month, (article::AFTER, "default: the article's, 8 A100"), dollars);
        let fixed = self.flag("fixed_price_month", options.fixed_price_month, (0.0, "default: none"), dollars);
        let plain = |value: f64| format!("{value}");
        let ratio = |value: f64| format!("{value:.2}");
        let percent = |value: f64| format!("{:.0} %", value * 100.0);
        let spare = options.spare_nodes.unwrap_or(1);
        let one_may_fail = (1.0, "default: one may fail");
        self.flag("spare_nodes", options.spare_nodes.map(f64::from), one_may_fail, plain);
        let streams = options.streams.unwrap_or(1);
        let one_at_once = (1.0, "default: as `selvedge serve`");
        self.flag("streams", options.streams.map(f64::from), one_at_once, plain);
        let implied = (article::implied_busy(), "default: what the article's figures imply");
        let busy = self.flag("max_utilisation", options.max_utilisation, implied, percent);
        let unknown = (1.0, "default: the log is too short or thin to tell");
        let peak = traffic.peak.map_or(unknown, |peak| (peak, "the log: its busiest hour over the mean"));
        if options.peak.is_none() && traffic.peak.is_none() {
            warnings.push(
                "the log is too short or thin to tell the busiest hour, so every hour counts as the same, which flatters \
                 self-hosting: give --peak"
                    .into(),
            );
        }
        let peak = self.flag("peak", options.peak, peak, ratio);
        let at_random = (1.0, "default: at random; the log is too thin to tell");
        let bursts = traffic.burstiness.map_or(at_random, |bursts| (bursts, "the log: its busiest hour"));
        let burstiness = self.flag("burstiness", options.burstiness, bursts, ratio);
        let target = options.p99_ttft_ms.map(|ms| Target { ttft: ms / 1e3, reading });
        if let Some(Target { ttft, reading }) = target {
            self.note("p99_ttft_ms", ttft * 1e3, format!("{:.0} ms", ttft * 1e3), "a flag");
            if ttft <= reading {
                return Err(invalid("no number of nodes keeps this target: reading a long prompt alone takes longer")
                    .with("p99_ttft_ms", ttft * 1e3)
                    .with("reading_ms", format!("{:.0}", reading * 1e3))
                    .advise(
                        "give what a node reads with --prompt-tokens-per-second, a longer target, or faster nodes",
                    ));
            }
        }
        Ok(Terms { node, fixed, spare, streams, busy, peak, burstiness, target })
    }

    fn volume(&mut self, options: &CostInference, traffic: &Traffic) -> Option<f64> {
        let (volume, source) = match options.requests_per_month {
            Some(volume) => (volume, "a flag"),
            None => (traffic.requests_per_month?, "the log, at its rate"),
        };
        Some(self.note("requests_per_month", volume, millions(volume), source))
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "cost.inference", message)
}

fn show(report: &Report) -> Result<()> {
    show_log(&report.log)?;
    output::print("\n")?;
    let assumed: Vec<_> = report
        .assumptions
        .iter()
        .map(|assumed| [assumed.name.replace('_', " "), assumed.shown.clone(), assumed.source.clone()])
        .collect();
    output::table(["assumed", "value", "from"], &assumed)?;
    output::print("\n")?;
    let rows: Vec<_> = report
        .volumes
        .iter()
        .map(|row| {
            [
                millions(row.requests_per_month),
                dollars(row.api),
                dollars(row.self_hosted),
                dollars(row.saved_by_self_hosting),
                dollars(row.api_per_million_tokens),
                dollars(row.self_hosted_per_million_tokens),
                row.nodes.to_string(),
                format!("{:.0} %", row.utilisation * 100.0),
                format!("{:.0} ms", row.p99_ttft_ms),
                if row.is_log { "the log's volume".into() } else { String::new() },
            ]
        })
        .collect();
    output::table(
        ["requests/month", "api", "self-hosted", "saved", "api/1M tok", "own/1M tok", "nodes", "busy", "p99 ttft", ""],
        &rows,
    )?;
    output::print(&format!("\n{}\n", verdict(report)))
}

fn show_log(log: &Traffic) -> Result<()> {
    output::print(&format!(
        "{} requests in {:.1} days, {:.0} % of them batch\n\n",
        thousands(log.requests as f64),
        log.days,
        log.batch * 100.0
    ))?;
    let spread = |name: &str, spread: Option<traffic::Spread>, unit: f64| {
        let spread = spread?;
        let [mean, p50, p95, p99] =
            [spread.mean, spread.p50, spread.p95, spread.p99].map(|value| thousands(value * unit));
        Some([name.to_owned(), mean, p50, p95, p99])
    };
    let rows: Vec<_> = [
        spread("prompt tokens", Some(log.prompt_tokens), 1.0),
        spread("completion tokens", Some(log.completion_tokens), 1.0),
        spread("first token, ms", log.ttft, 1e3),
        spread("latency, ms", log.latency, 1e3),
    ]
    .into_iter()
    .flatten()
    .collect();
    output::table(["log", "mean", "p50", "p95", "p99"], &rows)
}

fn verdict(report: &Report) -> String {
    let Some(crossing) = &report.crossover else {
        let line = format!(
            "no crossover: the API is cheaper at every volume. A million requests cost {} there, and {} on nodes however many \
             and full; cheaper or faster nodes, or a higher --max-utilisation, would change that",
            dollars(report.api_per_million_requests),
            dollars(report.self_hosted_per_million_requests_at_least),
        );
        return line.if_supports_color(Stream::Stdout, |text| text.yellow()).to_string();
    };
    let interval = |interval: Interval| match interval.high {
        Some(high) => format!("{} to {}", millions(interval.low), millions(high)),
        None => format!("{} or more, or never", millions(interval.low)),
    };
    let Crossover { first, last, nodes } = crossing.at;
    let mut text = format!(
        "crossover: {} requests a month ({}), with {nodes} nodes",
        millions(first).if_supports_color(Stream::Stdout, |text| text.green()),
        interval(crossing.first_interval)
    );
    if last > first {
        text += &format!(
            "\nstays cheaper from: {} requests a month ({}); before that each further node makes the API cheaper for a while",
            millions(last),
            interval(crossing.last_interval)
        );
    }
    text += &format!("\nin brackets: where 95 % of {} resamples of the log lie", crossing.resamples);
    if crossing.resamples_without > 0 {
        text += &format!("; {} of them have no crossover", crossing.resamples_without);
    }
    text
}

fn print_article(as_json: bool) -> Result<()> {
    let (rows, claims) = (article::rows(), article::claims());
    if as_json {
        return output::json(&serde_json::json!({
            "table": rows,
            "claims": claims,
            "break_even": article::break_even(),
        }));
    }
    output::print("As printed in \"Practical LLM Inference Scheduling on Kubernetes\", and what follows from it:\n\n")?;
    let cells: Vec<_> = rows
        .into_iter()
        .map(|row| {
            [
                row.requests,
                row.api,
                row.self_hosted,
                row.savings,
                row.implied_share_saved,
                row.implied_cost_per_million,
                row.implied_cost_of_next_million,
            ]
        })
        .collect();
    output::table(
        ["requests/month", "api", "self-hosted", "savings", "share saved", "own per 1M", "each further 1M"],
        &cells,
    )?;
    output::print("\nWhat it says, and what its own numbers say:\n")?;
    claims.iter().try_for_each(|claim| {
        let said = format!("{}: {}", claim.about, claim.printed);
        output::print(&format!(
            "\n{}\n    {}\n",
            said.if_supports_color(Stream::Stdout, |text| text.dimmed()),
            claim.implied
        ))
    })
}
