//! What was measured, side by side.

use anyhow::Result;

use super::{
    super::measure::{self, Measurement, Peer, Rounds, Row},
    contest::{BATCHES, Contest, Contestant, OURS},
    peers::Who,
    target::{self, BURN_DOWN, CONTINUOUS},
};

/// What the programs call the waits and the rate they were measured at.
pub(super) const P50: &str = "p50";
pub(super) const P99: &str = "p99";
pub(super) const REACHED: &str = "rate";
/// Enqueuing, with those who wait told and not.
pub(super) const WITH: &str = "enqueue, wake-ups on";
pub(super) const WITHOUT: &str = "enqueue, wake-ups off";
pub(super) const REPLAY: &str = "replay of a completed request";

/// What a wait of ours at the rate of a slower peer is kept as.
pub(super) fn at_the_rate_of(name: &str, peer: &str) -> String {
    format!("{name} at the rate of {peer}")
}

fn nobody(name: &'static str) -> Peer {
    Peer { name, version: "-".into() }
}

/// All rows of one bench.
struct Table {
    bench: &'static str,
    rows: Vec<Row>,
}

impl Table {
    fn add(&mut self, case: &str, unit: &str, sides: [&[f64]; 2], peer: &Peer, target: Option<f64>) -> Result<()> {
        let [ours, theirs] = sides.map(|values| {
            let mut rounds = Rounds::default();
            rounds.add(
                values
                    .iter()
                    .map(|value| Measurement { case: case.into(), unit: unit.into(), value: *value })
                    .collect(),
            );
            rounds
        });
        self.rows.extend(ours.against(self.bench, peer, &theirs, |_| target)?);
        Ok(())
    }
}

pub(super) fn rows(contest: &Contest<'_>, bench: &'static str, held: usize) -> Result<Vec<Row>> {
    let mut table = Table { bench, rows: Vec::new() };
    let of = |who, case| contest.values.of(who, case);
    let (raw, bound) = (nobody("raw SQL"), nobody("the bound"));
    for case in [BURN_DOWN, CONTINUOUS] {
        for who in Who::ALL {
            let sides = [of(OURS, case)?, of(Contestant::Peer(who), case)?];
            table.add(case, "jobs/s", sides, &who.peer(), Some(target::against_peer(true)))?;
        }
        for batch in BATCHES {
            let sides = [of(Contestant::Ours(batch), case)?, of(Contestant::Raw(batch), case)?];
            table.add(&format!("{case}, batch {batch}"), "jobs/s", sides, &raw, Some(target::CEILING))?;
        }
    }
    for quantile in [P50, P99] {
        let case = format!("enqueue to start, {quantile}");
        for who in Who::ALL {
            let (peer, target) = (who.peer(), Some(target::against_peer(false)));
            let (ours, theirs) = (of(OURS, quantile)?, of(Contestant::Peer(who), quantile)?);
            let offer = contest.offers.get(&who).copied().unwrap_or(contest.rate);
            if offer < contest.rate {
                let slow = contest.values.of(OURS, &at_the_rate_of(quantile, peer.name))?;
                table.add(&format!("{case}, both at {offer:.0} jobs/s"), "ms", [slow, theirs], &peer, target)?;
                table.add(&format!("{case}, the peer at {offer:.0} jobs/s"), "ms", [ours, theirs], &peer, target)?;
            } else {
                table.add(&case, "ms", [ours, theirs], &peer, target)?;
            }
        }
    }
    table.add("enqueue to start, p99", "ms", [of(OURS, P99)?, &[target::P99]], &bound, Some(1.0))?;
    let silent = nobody("ours, without");
    table.add(
        "enqueue, 32 clients, wake-ups",
        "jobs/s",
        [of(OURS, WITH)?, of(OURS, WITHOUT)?],
        &silent,
        Some(target::WAKE_UPS),
    )?;
    for (case, name) in [(WITHOUT, "raw SQL"), (WITH, "raw, NOTIFY inside")] {
        let sides = [of(OURS, WITH)?, of(Contestant::Raw(1), case)?];
        table.add("enqueue, 32 clients", "jobs/s", sides, &nobody(name), None)?;
    }
    // The worst one counts against the bound, not the median.
    let (most, case) = (
        contest.touched.claims.iter().copied().fold(0.0, f64::max),
        format!("a claim while a snapshot is held through {held} jobs"),
    );
    let raw_most = contest.touched.raw.iter().copied().fold(0.0, f64::max);
    table.add(&format!("{case}, most"), "buffers", [&[most], &[target::BUFFERS]], &bound, Some(1.0))?;
    table.add(&format!("{case}, most"), "buffers", [&[most], &[raw_most]], &raw, None)?;
    let [ours, theirs] = [&contest.touched.claims, &contest.touched.raw].map(|values| [measure::median(values)]);
    table.add(&format!("{case}, median"), "buffers", [&ours, &theirs], &raw, None)?;
    table.add(REPLAY, "round trips", [of(OURS, REPLAY)?, &[target::ROUND_TRIPS]], &bound, Some(1.0))?;
    Ok(table.rows)
}

/// What has no peer: what planning adds to a claim, and our look from the beginning of the queue, which is rationed.
pub(super) fn alone(contest: &Contest<'_>) -> Vec<(String, f64, String)> {
    let planned = contest.touched.planned.iter().copied().fold(0.0, f64::max);
    let found = &contest.touched.look_backs;
    let many = found.len() as f64;
    let mut alone = vec![
        ("a claim while a snapshot is held, with planning, most".to_owned(), planned, "buffers".to_owned()),
        ("looks back while a snapshot is held".to_owned(), many, "of them".to_owned()),
    ];
    if !found.is_empty() {
        let most = found.iter().copied().fold(0.0, f64::max);
        alone.push(("a look back while a snapshot is held, most".into(), most, "buffers".into()));
        alone.push(("a look back while a snapshot is held, median".into(), measure::median(found), "buffers".into()));
    }
    alone
}
