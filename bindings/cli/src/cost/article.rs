//! The published comparison that this command answers: its table as it was printed, and what its own numbers say.
//!
//! "Practical LLM Inference Scheduling on Kubernetes", <https://blog.mvpfactory.co/llm-inference-kubernetes-cut-gpu-costs-70>.

use serde::Serialize;

use super::MONTH;
use crate::output::{dollars, millions};

/// Dollars of a month with a million requests at the API: its table is linear.
pub(crate) const API_PER_MILLION: f64 = 6_800.0;
/// Requests a month, and dollars of its own nodes: points, with no rule given between them.
const SELF_HOSTED: [(f64, f64); 4] = [(1e6, 16_000.0), (3e6, 16_000.0), (5e6, 17_500.0), (1e7, 21_000.0)];
/// Dollars a month of its cluster before and after, and the GPUs it has.
const BEFORE: f64 = 52_000.0;
pub(crate) const AFTER: f64 = 16_000.0;
const GPUS: f64 = 8.0;
/// How busy it says dedicated nodes are.
const BUSY_BEFORE: f64 = 0.2;
/// Shares of a GPU, and the part of all shares that is reserved for people who wait.
const REPLICAS: f64 = 4.0;
const RESERVED: f64 = 0.3;

/// The busy share that its cut in cost needs: what was paid for 20 % is paid for this.
pub(crate) fn implied_busy() -> f64 {
    BUSY_BEFORE * BEFORE / AFTER
}

pub(crate) fn api(volume: f64) -> f64 {
    volume / 1e6 * API_PER_MILLION
}

/// Straight lines between its points, level before the first and straight on after the last.
pub(crate) fn self_hosted(volume: f64) -> f64 {
    let [first, second, third, fourth] = SELF_HOSTED;
    let ((from, cost), (to, dearer)) = match volume {
        v if v <= second.0 => (first, second),
        v if v <= third.0 => (second, third),
        _ => (third, fourth),
    };
    cost + (volume.max(first.0) - from) / (to - from) * (dearer - cost)
}

/// The volume at which both cost the same. There is one: the API's line begins below and rises faster.
pub(crate) fn break_even() -> f64 {
    let (mut low, mut high) = (0.0, 1e7);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if api(middle) < self_hosted(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// A row: as printed, and then what follows from it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) requests: String,
    pub(crate) api: String,
    pub(crate) self_hosted: String,
    pub(crate) savings: String,
    pub(crate) implied_share_saved: String,
    pub(crate) implied_cost_per_million: String,
    pub(crate) implied_cost_of_next_million: String,
}

/// Its table.
pub(crate) fn rows() -> Vec<Row> {
    let mut before: Option<(f64, f64)> = None;
    let row = |(volume, own): (f64, f64)| {
        let saved = api(volume) - own;
        let share = format!("{:.0}%", 100.0 * saved / api(volume));
        let savings = match dollars(saved) {
            savings if saved < 0.0 => format!("{savings} (API wins)"),
            // It gives the share in its last row only.
            savings if volume == 1e7 => format!("{savings} ({share})"),
            savings => savings,
        };
        let each = before.map_or_else(|| "-".into(), |(from, cost)| dollars((own - cost) / (volume - from) * 1e6));
        before = Some((volume, own));
        Row {
            requests: millions(volume),
            api: dollars(api(volume)),
            self_hosted: dollars(own),
            savings,
            implied_share_saved: share,
            implied_cost_per_million: dollars(own / volume * 1e6),
            implied_cost_of_next_million: each,
        }
    };
    SELF_HOSTED.into_iter().map(row).collect()
}

/// Something it says that its own numbers contradict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Claim {
    pub(crate) about: &'static str,
    pub(crate) printed: &'static str,
    pub(crate) implied: String,
}

/// All of them, computed from its numbers.
pub(crate) fn claims() -> Vec<Claim> {
    let claim = |about, printed, implied| Claim { about, printed, implied };
    let even = break_even();
    let [first, second, third, fourth] = SELF_HOSTED;
    let slope = |from: (f64, f64), to: (f64, f64)| (to.1 - from.1) / (to.0 - from.0) * 1e6;
    let (gpu, gpu_before) = (AFTER / GPUS, BEFORE / GPUS);
    let cut = 1.0 - AFTER / BEFORE;
    let shares = GPUS * REPLICAS;
    vec![
        claim(
            "break-even",
            "around 3M",
            format!("{}: {} / {} per 1M", precise(even), dollars(AFTER), dollars(API_PER_MILLION)),
        ),
        claim(
            "below 3M",
            "the API is cheaper",
            format!(
                "not from {} on: 2.5M cost {} at the API, {} self-hosted",
                precise(even),
                dollars(api(2.5e6)),
                dollars(self_hosted(2.5e6))
            ),
        ),
        claim(
            "where it matters",
            "2M to 10M, moderate scale only",
            format!(
                "2M lose {}; above 10M it saves more: the next 1M costs {} instead of {}",
                dollars(self_hosted(2e6) - api(2e6)),
                dollars(slope(third, fourth)),
                dollars(API_PER_MILLION)
            ),
        ),
        claim(
            "growth",
            "sub-linear, as utilisation grows",
            format!(
                "each further 1M costs {}, {}, {}: utilisation that grows costs nothing until a GPU is full",
                dollars(slope(first, second)),
                dollars(slope(second, third)),
                dollars(slope(third, fourth))
            ),
        ),
        claim(
            "steps",
            "+$1,500 and +$3,500",
            format!(
                "{:.2} and {:.2} GPUs of {}: no whole ones",
                (third.1 - second.1) / gpu,
                (fourth.1 - third.1) / gpu,
                dollars(gpu)
            ),
        ),
        claim(
            "the cluster",
            "8 A100, $52,000 before, $16,000 after",
            format!(
                "{} or {} a GPU and month: the same eight cannot cost both; at the first price $16,000 are {:.1} GPUs",
                dollars(gpu_before),
                dollars(gpu),
                AFTER / gpu_before
            ),
        ),
        claim(
            "70 % less",
            "up to 70 %",
            format!("{:.1} %, of the old cluster; the table's 69 % is another, of the API at 10M", 100.0 * cut),
        ),
        claim(
            "utilisation",
            "20 % before; batch fills every idle cycle",
            format!(
                "the cut makes it {:.0} %; filling every cycle would cut {:.0} %",
                100.0 * implied_busy(),
                100.0 * (1.0 - BUSY_BEFORE)
            ),
        ),
        claim("one ConfigMap", "doubles or triples capacity", "cuts 50 % to 67 %, less than 70 %".into()),
        claim(
            "reserved",
            "30 % of the slices; batch takes the rest and fills every idle cycle",
            format!(
                "{:.1} of {shares} slices, no whole number; what is reserved and idle stays idle",
                RESERVED * shares
            ),
        ),
        claim("pods are scheduled", "on a scale of minutes", "and, further on, of seconds to minutes".into()),
        claim(
            "p99",
            "real-time requests take less than 200 ms",
            format!(
                "it does not say what: 10M a month are {:.1} requests/s, and a whole answer of 100 tokens in 200 ms is 500 tokens/s in one stream; read it as the time to the first token",
                1e7 / MONTH
            ),
        ),
    ]
}

fn precise(volume: f64) -> String {
    format!("{:.2}M", volume / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as it was printed.
    const PRINTED: &str = "\
| 1M | $6,800 | $16,000 | -$9,200 (API wins) |
| 3M | $20,400 | $16,000 | $4,400 |
| 5M | $34,000 | $17,500 | $16,500 |
| 10M | $68,000 | $21,000 | $47,000 (69%) |
";

    #[test]
    fn the_printed_table_comes_out_to_the_letter() {
        let table: String = rows()
            .iter()
            .map(|row| format!("| {} | {} | {} | {} |\n", row.requests, row.api, row.self_hosted, row.savings))
            .collect();
        assert_eq!(table, PRINTED);
    }

    #[test]
    fn what_follows_from_the_table() {
        let implied: Vec<_> = rows()
            .iter()
            .map(|row| {
                [&row.implied_share_saved, &row.implied_cost_per_million, &row.implied_cost_of_next_million]
                    .map(String::clone)
            })
            .collect();
        assert_eq!(
            implied,
            [["-135%", "$16,000", "-"], ["22%", "$5,333", "$0"], ["49%", "$3,500", "$750"], ["69%", "$2,100", "$700"]]
        );
    }

    #[test]
    fn the_break_even_is_2_35_million_and_not_3() {
        let even = break_even();
        assert!((even - 16_000.0 / 6_800.0 * 1e6).abs() < 1.0, "{even}");
        assert!((api(even) - self_hosted(even)).abs() < 0.01);
        assert!(api(even * 0.999) < self_hosted(even * 0.999) && api(even * 1.001) > self_hosted(even * 1.001));
    }

    #[test]
    fn its_points_are_on_the_lines() {
        for (volume, cost) in SELF_HOSTED {
            assert_eq!(self_hosted(volume), cost);
        }
        assert_eq!((self_hosted(0.0), self_hosted(4e6), self_hosted(2e7)), (16_000.0, 16_750.0, 28_000.0));
    }

    #[test]
    fn every_contradiction_has_its_number() {
        let claims = claims();
        for (about, number) in [
            ("break-even", "2.35M"),
            ("below 3M", "$17,000"),
            ("where it matters", "2M lose $2,400"),
            ("growth", "$750, $700"),
            ("steps", "0.75 and 1.75 GPUs of $2,000"),
            ("the cluster", "$6,500 or $2,000"),
            ("the cluster", "2.5 GPUs"),
            ("70 % less", "69.2 %"),
            ("utilisation", "65 %"),
            ("utilisation", "80 %"),
            ("reserved", "9.6 of 32"),
            ("p99", "3.8 requests/s"),
        ] {
            let claim = claims.iter().find(|claim| claim.about == about).expect(about);
            assert!(claim.implied.contains(number), "{number} is not in {claim:?}");
        }
    }
}
