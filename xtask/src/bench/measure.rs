//! Measurements, and what follows from setting two of them side by side.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::shell;

/// One line of a benchmark program: `{"case":"enqueue batch 100","unit":"jobs/s","value":123.0}`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Measurement {
    pub(super) case: String,
    pub(super) unit: String,
    pub(super) value: f64,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    Higher,
    Lower,
}

impl Better {
    /// Rates (`jobs/s`) are better high, times (`ns/call`, `ms`) are better low.
    pub(super) fn of(unit: &str) -> Self {
        if unit.ends_with("/s") { Self::Higher } else { Self::Lower }
    }
}

/// One case, ours beside a peer's. A ratio of more than one is in our favour whatever the unit.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    bench: &'static str,
    pub(super) case: String,
    pub(super) ours: f64,
    pub(super) peer: f64,
    pub(super) peer_name: String,
    peer_version: String,
    pub(super) unit: String,
    better: Better,
    pub(super) ratio: f64,
    /// What the ratio has to reach; none where the row is there to inform.
    pub(super) target: Option<f64>,
    pub(super) holds: bool,
    /// The least and the most of our rounds and of the peer's, for the page.
    #[serde(skip)]
    pub(super) spread: [(f64, f64); 2],
}

/// Who is measured beside us.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) version: String,
}

/// The values of one contestant, round by round.
#[derive(Debug, Default)]
pub(super) struct Rounds(BTreeMap<String, (String, Vec<f64>)>);

impl Rounds {
    /// Adds one round's measurements.
    pub(super) fn add(&mut self, measurements: Vec<Measurement>) {
        for Measurement { case, unit, value } in measurements {
            self.0.entry(case).or_insert_with(|| (unit, Vec::new())).1.push(value);
        }
    }

    /// Cases with their unit and median.
    pub(super) fn medians(&self) -> impl Iterator<Item = (&str, &str, f64)> {
        self.0.iter().map(|(case, (unit, values))| (case.as_str(), unit.as_str(), median(values)))
    }

    /// Pairs the cases that both have.
    pub(super) fn against(
        &self,
        bench: &'static str,
        peer: &Peer,
        theirs: &Self,
        target: impl Fn(&str) -> Option<f64>,
    ) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (case, (unit, ours)) in &self.0 {
            let Some((their_unit, values)) = theirs.0.get(case) else { continue };
            if unit != their_unit {
                bail!("{case:?} is measured in {unit} here and in {their_unit} by {}", peer.name);
            }
            let mut row = Row::new(bench, case, unit, median(ours), median(values), peer, target(case));
            row.spread = [extent(ours), extent(values)];
            rows.push(row);
        }
        Ok(rows)
    }
}

impl Row {
    pub(super) fn new(
        bench: &'static str,
        case: &str,
        unit: &str,
        ours: f64,
        theirs: f64,
        peer: &Peer,
        target: Option<f64>,
    ) -> Self {
        let better = Better::of(unit);
        let ratio = match better {
            Better::Higher => ours / theirs,
            Better::Lower => theirs / ours,
        };
        Self {
            bench,
            case: case.to_owned(),
            ours,
            peer: theirs,
            peer_name: peer.name.to_owned(),
            peer_version: peer.version.clone(),
            unit: unit.to_owned(),
            better,
            ratio,
            target,
            holds: target.is_none_or(|target| ratio >= target),
            spread: [(ours, ours), (theirs, theirs)],
        }
    }
}

/// Runs a program that prints one measurement a line.
pub(super) fn lines(label: &str, command: &mut Command) -> Result<Vec<Measurement>> {
    let found: Vec<Measurement> = records(label, command)?;
    if let Some(odd) = found.iter().find(|one| !(one.value.is_finite() && one.value > 0.0)) {
        bail!("{label} measured {} for {:?}, which cannot be", odd.value, odd.case);
    }
    Ok(found)
}

/// Runs a program that prints one JSON object a line, of any form.
pub(super) fn records<T: DeserializeOwned>(label: &str, command: &mut Command) -> Result<Vec<T>> {
    let text = shell::quiet(label, command)?;
    let found: Vec<T> = text
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).with_context(|| format!("{label} printed {line:?}")))
        .collect::<Result<_>>()?;
    if found.is_empty() {
        bail!("{label} printed no measurement: {}", shell::line_of(command));
    }
    Ok(found)
}

/// The middle value; the mean of the two middle ones of an even number.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn extent(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer { name: "peer", version: "1.0".into() }
    }

    fn rounds(unit: &str, values: &[f64]) -> Rounds {
        let mut rounds = Rounds::default();
        for value in values {
            rounds.add(vec![Measurement { case: "case".into(), unit: unit.into(), value: *value }]);
        }
        rounds
    }

    #[test]
    fn a_ratio_over_one_is_in_our_favour_for_rates_and_for_times() {
        let rate =
            &rounds("jobs/s", &[10.0, 30.0, 20.0]).against("b", &peer(), &rounds("jobs/s", &[10.0]), |_| Some(2.0));
        let row = &rate.as_ref().unwrap()[0];
        assert_eq!((row.ours, row.ratio, row.holds), (20.0, 2.0, true));
        let time =
            rounds("ns/call", &[50.0]).against("b", &peer(), &rounds("ns/call", &[25.0]), |_| Some(1.0)).unwrap();
        assert_eq!((time[0].ratio, time[0].holds), (0.5, false));
    }

    #[test]
    fn different_units_are_never_compared() {
        assert!(rounds("ms", &[1.0]).against("b", &peer(), &rounds("ns", &[1.0]), |_| None).is_err());
    }

    #[test]
    fn a_program_that_measures_nothing_or_nonsense_is_an_error() {
        let program = |text: &str| lines("trial", Command::new("echo").arg(text));
        assert!(program("nothing to see").is_err());
        assert!(program(r#"{"case":"a","unit":"jobs/s","value":0}"#).is_err());
        assert_eq!(program(r#"{"case":"a","unit":"jobs/s","value":2}"#).unwrap()[0].value, 2.0);
    }

    #[test]
    fn a_row_has_the_fields_that_others_read() {
        let row = Row::new("b", "case", "jobs/s", 3.0, 2.0, &peer(), Some(1.5));
        let json = serde_json::to_value(&row).unwrap();
        let mut names: Vec<&String> = json.as_object().unwrap().keys().collect();
        names.sort();
        let expected = "bench better case holds ours peer peer_name peer_version ratio target unit";
        assert_eq!(names, expected.split(' ').collect::<Vec<_>>());
    }
}
