//! The contestants' turns.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};

use super::{
    super::{
        Plan, Report,
        measure::{self, Measurement},
        program,
    },
    cluster::{self, Cluster},
    held::{self, Touched},
    peers::{Peers, Who},
    raw, rows,
    target::{self, BURN_DOWN, CONTINUOUS},
};
use crate::shell;

/// Jobs at once of our worker.
pub(super) const CONCURRENCY: usize = 500;
pub(super) const OURS: Contestant = Contestant::Ours(CONCURRENCY);
/// The batches in which the plainest SQL is measured beside us.
pub(super) const BATCHES: [usize; 2] = [100, CONCURRENCY];
/// Clients that enqueue at once.
const CLIENTS: usize = 32;
const BACKLOG: usize = 75_000;

/// How much to do.
struct Scale {
    jobs: usize,
    /// For who does a hundred a second.
    few_jobs: usize,
    load: u32,
    latency: u32,
    enqueue: u32,
    held: usize,
}

/// Latencies are measured so often in each round: a flush that takes the disk a tenth of a second then spoils one of them.
const LATENCIES: usize = 3;

impl Scale {
    const FULL: Self = Self { jobs: 200_000, few_jobs: 2_000, load: 60, latency: 10, enqueue: 15, held: 80_000 };
    const QUICK: Self = Self { jobs: 50_000, few_jobs: 500, load: 10, latency: 3, enqueue: 5, held: 16_000 };
}

/// Who and what, and what was measured, round by round.
#[derive(Default)]
pub(super) struct Values(BTreeMap<(Contestant, String), Vec<f64>>);

/// A side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contestant {
    /// Ours, with so many jobs at once.
    Ours(usize),
    /// The plainest SQL, with batches of so many.
    Raw(usize),
    Peer(Who),
}

impl Values {
    fn add(&mut self, who: Contestant, case: &str, value: f64) {
        self.0.entry((who, case.to_owned())).or_default().push(value);
    }

    /// What one contestant reached in one case, round by round.
    pub(super) fn of(&self, who: Contestant, case: &str) -> Result<&[f64]> {
        let values = self.0.get(&(who, case.to_owned()));
        values.map(Vec::as_slice).with_context(|| format!("{case} was not measured for {who:?}"))
    }

    fn median(&self, who: Contestant, case: &str) -> Result<f64> {
        self.of(who, case).map(measure::median)
    }
}

pub(super) struct Contest<'p> {
    plan: &'p Plan,
    scale: Scale,
    ours: PathBuf,
    keeper: PathBuf,
    peers: Peers,
    cluster: Cluster,
    pub(super) values: Values,
    /// Clients with which the plainest SQL was fastest, by batch.
    clients: BTreeMap<usize, usize>,
    /// A tenth of our load, in jobs a second.
    pub(super) rate: f64,
    /// The rate that each peer was offered.
    pub(super) offers: BTreeMap<Who, f64>,
    pub(super) touched: Touched,
}

impl<'p> Contest<'p> {
    pub(super) fn prepare(plan: &'p Plan) -> Result<Self> {
        let peers = Peers::install()?;
        let (ours, keeper) = (program("pgqueue")?, cluster::keeper()?);
        let cluster = Cluster::start(&keeper, &["shared_buffers=512MB", "max_connections=200"])?;
        Ok(Self {
            plan,
            scale: if plan.quick { Scale::QUICK } else { Scale::FULL },
            ours,
            keeper,
            peers,
            cluster,
            values: Values::default(),
            clients: BTreeMap::new(),
            rate: 0.0,
            offers: BTreeMap::new(),
            touched: Touched::default(),
        })
    }

    pub(super) fn rounds(&mut self) -> Result<()> {
        for round in 1..=self.plan.rounds {
            for case in [BURN_DOWN, CONTINUOUS] {
                self.load(case, round)?;
            }
        }
        self.rate = self.values.median(OURS, CONTINUOUS)? / 10.0;
        for who in Who::ALL {
            let load = self.values.median(Contestant::Peer(who), CONTINUOUS)?;
            self.offers.insert(who, target::offered(self.rate, load));
        }
        for round in 1..=self.plan.rounds * LATENCIES {
            self.latency(round)?;
        }
        for round in 1..=self.plan.rounds {
            self.enqueue(round)?;
        }
        // What is counted is the same in every round.
        self.touched = held::measure(&self.keeper, &self.ours, self.scale.held)?;
        let replay = self.own(&format!("selvedge, {}", rows::REPLAY), "replay", &[])?;
        self.keep(OURS, rows::REPLAY, &replay, rows::REPLAY)
    }

    /// Everybody's turn at one of the two loads.
    fn load(&mut self, case: &'static str, round: usize) -> Result<()> {
        let asked = if case == BURN_DOWN { "burn-down" } else { "continuous" };
        for batch in BATCHES {
            let who = Contestant::Ours(batch);
            let label = format!("selvedge, {batch} at once, {case}, round {round}");
            let told = self.own(&label, asked, &["--concurrency", &batch.to_string()])?;
            self.keep(who, case, &told, case)?;
            let raw = self.raw(case, batch)?;
            self.values.add(Contestant::Raw(batch), case, raw);
        }
        for who in Who::ALL {
            let label = format!("{}, {case}, round {round}", who.peer().name);
            let told = self.turn(&label, who, asked, 0.0)?;
            self.keep(Contestant::Peer(who), case, &told, case)?;
        }
        Ok(())
    }

    fn raw(&mut self, case: &str, batch: usize) -> Result<f64> {
        let fresh = || self.cluster.fresh("raw");
        if case == BURN_DOWN {
            let (rate, clients) = raw::burn_down(&fresh, self.scale.jobs, batch)?;
            self.clients.insert(batch, clients);
            return Ok(rate);
        }
        let clients = *self.clients.get(&batch).context("the burn-down comes first")?;
        raw::continuous(&fresh()?, BACKLOG, batch, clients, self.scale.load)
    }

    /// Ours, in a new database.
    fn own(&self, label: &str, case: &str, more: &[&str]) -> Result<Vec<Measurement>> {
        self.own_at(self.rate, label, case, more)
    }

    fn own_at(&self, rate: f64, label: &str, case: &str, more: &[&str]) -> Result<Vec<Measurement>> {
        let mut command = Command::new(&self.ours);
        self.ask(&mut command, "selvedge", case, rate, false)?;
        measure::lines(label, command.args(more))
    }

    /// A peer, in a new database.
    fn turn(&self, label: &str, who: Who, case: &str, rate: f64) -> Result<Vec<Measurement>> {
        let (mut command, slow) = (self.peers.program(who), who == Who::Procrastinate);
        let url = self.ask(&mut command, "peer", case, rate, slow)?;
        if who != Who::RiverRust {
            return measure::lines(label, &mut command);
        }
        let mut migrate = Command::new(&self.peers.river);
        shell::quiet("River's schema", migrate.args(["migrate-up", "--database-url", &url]))?;
        if case == "latency" {
            return measure::lines(label, &mut command);
        }
        // Its own benchmark.
        let mut bench = Command::new(&self.peers.river);
        bench.args(["bench", "--database-url", &url, "--max-workers", "2000", "--max-connections", "20"]);
        if case == "burn-down" {
            bench.args(["--num-total-jobs", &self.scale.jobs.to_string()]);
        } else {
            bench.args(["--duration", &format!("{}s", self.scale.load), "--backlog", &BACKLOG.to_string()]);
        }
        let said = shell::quiet(label, &mut bench)?;
        let value = overall(&said).with_context(|| format!("riverqueue said no overall rate: {said}"))?;
        let case = if case == "burn-down" { BURN_DOWN } else { CONTINUOUS };
        Ok(vec![Measurement { case: case.into(), unit: "jobs/s".into(), value }])
    }

    /// Adds the options that every program takes, and makes the database; its URL.
    fn ask(&self, command: &mut Command, database: &str, case: &str, rate: f64, slow: bool) -> Result<String> {
        let Scale { jobs, few_jobs, load, latency, enqueue, .. } = self.scale;
        let url = self.cluster.fresh(database)?;
        let (jobs, backlog) = if slow { (few_jobs, 1_000) } else { (jobs, BACKLOG) };
        let seconds = match case {
            "latency" => latency,
            "enqueue" => enqueue,
            _ => load,
        };
        let arguments = [
            ("url", url.clone()),
            ("case", case.to_owned()),
            ("jobs", jobs.to_string()),
            ("backlog", backlog.to_string()),
            ("seconds", seconds.to_string()),
            ("rate", format!("{:.1}", rate.max(1.0))),
        ];
        for (name, value) in arguments {
            command.arg(format!("--{name}")).arg(value);
        }
        Ok(url)
    }

    /// Everybody's latency, each at the rate it can take; ours also at theirs.
    fn latency(&mut self, round: usize) -> Result<()> {
        let told = self.own_latency(self.rate, round)?;
        self.keep_waits(OURS, &told, str::to_owned)?;
        for who in Who::ALL {
            let load = self.values.median(Contestant::Peer(who), CONTINUOUS)?;
            let name = who.peer().name;
            // A peer that does not reach what it was offered is offered less, for all the rounds: the first one finds out.
            let mut tries = 0;
            let (told, asked) = loop {
                let asked = *self.offers.get(&who).context("every peer has an offer")?;
                let told =
                    self.turn(&format!("{name}, latency at {asked:.0} jobs/s, round {round}"), who, "latency", asked)?;
                let next = target::next_offer(asked, value(&told, "rate")?, load).filter(|_| round == 1);
                tries += 1;
                match next {
                    Some(less) if tries < 4 => self.offers.insert(who, less),
                    Some(_) => bail!("{name} takes no rate that it is offered"),
                    None => break (told, asked),
                };
            };
            self.keep_waits(Contestant::Peer(who), &told, str::to_owned)?;
            if asked < self.rate {
                let told = self.own_latency(asked, round)?;
                self.keep_waits(OURS, &told, |wait| rows::at_the_rate_of(wait, name))?;
            }
        }
        Ok(())
    }

    fn own_latency(&self, rate: f64, round: usize) -> Result<Vec<Measurement>> {
        let label = format!("selvedge, latency at {rate:.0} jobs/s, round {round}");
        let told = self.own_at(rate, &label, "latency", &[])?;
        shell::say(format_args!("{:.0} of {rate:.0} jobs/s were reached", value(&told, rows::REACHED)?));
        Ok(told)
    }

    fn keep_waits(&mut self, who: Contestant, told: &[Measurement], case: impl Fn(&str) -> String) -> Result<()> {
        for name in [rows::P50, rows::P99, rows::REACHED] {
            self.keep(who, &case(name), told, name)?;
        }
        Ok(())
    }

    fn enqueue(&mut self, round: usize) -> Result<()> {
        for wake_ups in ["on", "off"] {
            let label = format!("selvedge, enqueue with wake-ups {wake_ups}, round {round}");
            let told = self.own(&label, "enqueue", &["--wake-ups", wake_ups])?;
            let case = if wake_ups == "on" { rows::WITH } else { rows::WITHOUT };
            self.keep(OURS, case, &told, "enqueue")?;
        }
        for notify in [true, false] {
            let url = self.cluster.fresh("raw")?;
            let rate = raw::enqueue(&url, notify, CLIENTS, self.scale.enqueue)?;
            self.values.add(Contestant::Raw(1), if notify { rows::WITH } else { rows::WITHOUT }, rate);
        }
        Ok(())
    }

    /// Keeps one measurement of a turn.
    fn keep(&mut self, who: Contestant, case: &str, told: &[Measurement], name: &str) -> Result<()> {
        self.values.add(who, case, value(told, name)?);
        Ok(())
    }

    pub(super) fn report(&self) -> Result<Report> {
        let alone = rows::alone(self);
        Ok(Report { rows: rows::rows(self, self.plan.name, self.scale.held)?, alone, facts: self.facts()? })
    }

    fn facts(&self) -> Result<Vec<(String, String)>> {
        let ask = |sql: &str| self.cluster.ask(sql);
        let data = ask("SHOW data_directory")?;
        let files = super::super::first_line("stat", &["--file-system", "--format", "%T", "/tmp"]);
        let clients = self.clients.iter().map(|(batch, clients)| format!("{clients} clients for batch {batch}"));
        let reached = self.values.median(OURS, rows::REACHED)?;
        ensure!(!data.is_empty(), "the server has no data directory");
        let mut facts = vec![
            ("PostgreSQL", ask("SHOW server_version")?),
            ("its settings", "defaults, and shared_buffers=512MB, max_connections=200".into()),
            ("its files are on", files),
            ("raw SQL", format!("pgbench, prepared, {}", clients.collect::<Vec<_>>().join(", "))),
            ("rate of latencies", format!("{:.0} jobs/s offered, {reached:.0} jobs/s reached by ours", self.rate)),
        ];
        for who in Who::ALL {
            let peer = who.peer();
            facts.push(("peer", format!("{} {}", peer.name, peer.version)));
        }
        Ok(facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

fn value(told: &[Measurement], case: &str) -> Result<f64> {
    let found = told.iter().find(|one| one.case == case).map(|one| one.value);
    found.with_context(|| format!("{case:?} was not among what was measured: {told:?}"))
}

/// What `riverqueue bench` says at its end.
fn overall(said: &str) -> Option<f64> {
    let (_, rest) = said.lines().rev().find_map(|line| line.split_once("overall job/sec ["))?;
    rest.split(']').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overall_rate_of_river_is_read() {
        let said = "bench: jobs worked [ 1 ], inserted [ 2 ], job/sec [ 5991.5 ] [2.0s]\n\
                    bench: total jobs worked [ 20000 ], total jobs inserted [ 20000 ], overall job/sec [    10813.2 ], p95 [ 3.5s ]\n";
        assert_eq!(overall(said), Some(10_813.2));
        assert_eq!(overall("bench: jobs worked [ 1 ], job/sec [ 5991.5 ]"), None);
    }
}
