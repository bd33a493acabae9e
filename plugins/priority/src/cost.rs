//! What a forward pass costs, learnt from the passes that were done.
//!
//! The model is linear, `t = pass + decode·tokens + prefill·tokens + cached·tokens`, as the budgets of Sarathi-Serve (Agrawal et
//! al., OSDI 2024) suppose, with a fit for each number of threads. On a CPU the kernels work on tiles of rows, so that four rows
//! may cost less than three: for passes that only decode, what the line misses is learnt for each number of rows.
//!
//! Three things keep the fit sane. Errors are relative, so that long passes do not drown short ones. A pass that is far off
//! counts little (Huber's weights): a thread that was descheduled says nothing of the model. And what is not observed for a while
//! is not forgotten: a pass without a prompt leaves the price of prompts where it was.

use std::time::Duration;

use selvedge_core::scheduler::{Pass, Work};

use crate::fairness::{Cost as Charge, MOST};

/// The number of prices.
const PRICES: usize = 4;
/// What a machine is supposed to cost before any pass was seen, in seconds: a small model on one core of a server.
const GUESS: [f64; PRICES] = [10e-3, 4e-3, 2e-3, 0.2e-6];
/// No price is zero: a plan divides by them.
const LEAST: [f64; PRICES] = [1e-6, 1e-8, 1e-8, 0.0];
/// How much of what was learnt is kept at each pass: half of it is from the last 140.
const KEPT: f64 = 0.995;
/// A pass that is off by more than this part counts less.
const OFF: f64 = 0.3;
/// Passes with at most so many rows have a correction of their own.
const ROWS: usize = 32;
/// What a correction may come to, and how fast it follows.
const CORRECTION: (f64, f64, f64) = (0.6, 1.6, 0.1);
/// The most thread counts for which there is a fit.
const FITS: usize = 16;

/// Prices of the parts of a pass, in seconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rates {
    /// Of the pass itself, of a token that decodes, of a prompt's token, of a token in the cache of a sequence that advances.
    prices: [f64; PRICES],
    /// What passes that only decode cost beside the line, by their rows.
    corrections: [f64; ROWS + 1],
}

impl Default for Rates {
    fn default() -> Self {
        Self { prices: GUESS, corrections: [1.0; ROWS + 1] }
    }
}

/// What a pass is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) decode: usize,
    pub(crate) prefill: usize,
    pub(crate) cached: usize,
}

impl Rates {
    /// How long a pass is likely to take, in seconds.
    pub(crate) fn time(&self, rows: Rows) -> f64 {
        self.line(rows) * self.correction(rows)
    }

    /// What every pass costs, whatever is in it.
    pub(crate) fn fixed(&self) -> f64 {
        self.prices[0]
    }

    /// How many tokens of one prompt can join a pass that shall take `limit` seconds.
    pub(crate) fn room(&self, rows: Rows, cached: usize, limit: f64) -> usize {
        let time = self.line(Rows { cached: rows.cached + cached, ..rows });
        // A cast from a float ends at the least or the greatest number.
        ((limit - time) / self.prices[2]) as usize
    }

    /// What a request costs when the passes it takes part in are shared by so many.
    pub(crate) fn tariff(&self, shared_by: usize) -> Tariff {
        let decode = self.prices[1] + self.prices[0] / shared_by.max(1) as f64;
        Tariff { prompt: self.prices[2], answer: decode }
    }

    fn line(&self, rows: Rows) -> f64 {
        features(rows).iter().zip(self.prices).map(|(feature, price)| feature * price).sum()
    }

    fn correction(&self, rows: Rows) -> f64 {
        if rows.prefill == 0 { self.corrections.get(rows.decode).copied().unwrap_or(1.0) } else { 1.0 }
    }
}

fn features(rows: Rows) -> [f64; PRICES] {
    [1.0, rows.decode as f64, rows.prefill as f64, rows.cached as f64]
}

/// What a request's tokens cost, in seconds each. It is fixed when the request comes, so that what it is charged and what it is
/// paid back are in one currency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tariff {
    prompt: f64,
    answer: f64,
}

impl Tariff {
    /// The cost of some work.
    pub(crate) fn cost(&self, work: Work) -> Charge {
        let seconds = work.prompt as f64 * self.prompt + work.answer as f64 * self.answer;
        ((seconds * 1e6) as Charge).min(MOST)
    }
}

/// The model, for each number of threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// The fit that was used last is the last.
    fits: Vec<(usize, Fit)>,
    unseen: Rates,
}

impl Model {
    /// The prices of passes on so many threads. Of a number that was never seen, those of the number used last.
    pub(crate) fn rates(&self, threads: usize) -> &Rates {
        let same = self.fits.iter().find(|(count, _)| *count == threads);
        same.or(self.fits.last()).map_or(&self.unseen, |(_, fit)| &fit.rates)
    }

    /// The prices of the passes that were done last.
    pub(crate) fn latest(&self) -> &Rates {
        self.fits.last().map_or(&self.unseen, |(_, fit)| &fit.rates)
    }

    /// Takes a pass into account.
    pub(crate) fn learn(&mut self, pass: &Pass) {
        if pass.took.is_zero() || pass.decode + pass.prefill == 0 {
            return;
        }
        let fit = match self.fits.iter().position(|(threads, _)| *threads == pass.threads) {
            Some(index) => self.fits.remove(index).1,
            // More threads are not a new machine: what is known is the best guess.
            None => Fit { rates: self.rates(pass.threads).clone(), ..Fit::default() },
        };
        if self.fits.len() >= FITS {
            self.fits.remove(0);
        }
        self.fits.push((pass.threads, fit));
        if let Some((_, fit)) = self.fits.last_mut() {
            fit.learn(Rows { decode: pass.decode, prefill: pass.prefill, cached: pass.cached }, pass.took);
        }
    }
}

/// Least squares with forgetting, kept as normal equations and solved by coordinate descent from where it stands: a price that
/// nothing is known of stays, and none becomes negative.
#[derive(Clone, Debug, Default)]
struct Fit {
    rates: Rates,
    gram: [[f64; PRICES]; PRICES],
    moment: [f64; PRICES],
    seen: bool,
}

impl Fit {
    fn learn(&mut self, rows: Rows, took: Duration) {
        let took = took.as_secs_f64();
        let x = features(rows);
        if !self.seen {
            self.seen = true;
            // The first pass says how fast the machine is; which part of a pass costs what, the guess has to say yet.
            let speed = (took / self.rates.line(rows)).clamp(1e-4, 1e4);
            self.rates.prices = std::array::from_fn(|i| (self.rates.prices[i] * speed).max(LEAST[i]));
        }
        let line = self.rates.line(rows);
        let ratio = took / line;
        let off = (ratio - 1.0).abs();
        let weight = if off > OFF { OFF / off } else { 1.0 };
        for (i, (row, moment)) in self.gram.iter_mut().zip(&mut self.moment).enumerate() {
            for (entry, xj) in row.iter_mut().zip(x) {
                *entry = kept(*entry) + weight * (x[i] / line) * (xj / line);
            }
            *moment = kept(*moment) + weight * (x[i] / line) * ratio;
        }
        self.solve();
        if rows.prefill == 0 && off < OFF * 2.0 {
            let (least, most, speed) = CORRECTION;
            let found = (took / self.rates.line(rows)).clamp(least, most);
            if let Some(correction) = self.rates.corrections.get_mut(rows.decode) {
                *correction += speed * (found - *correction);
            }
        }
    }

    fn solve(&mut self) {
        let prices = &mut self.rates.prices;
        // First all prices together: a machine that became slower became slower for all.
        let product =
            |gram: &[f64; PRICES], prices: &[f64; PRICES]| gram.iter().zip(prices).map(|(g, p)| g * p).sum::<f64>();
        let norm: f64 = self.gram.iter().zip(prices.iter()).map(|(row, price)| price * product(row, prices)).sum();
        let along = product(&self.moment, prices);
        if norm > f64::MIN_POSITIVE && (along / norm).is_finite() {
            let speed = (along / norm).clamp(1e-4, 1e4);
            prices.iter_mut().for_each(|price| *price *= speed);
        }
        for _ in 0..8 {
            for i in (0..PRICES).rev() {
                let own = self.gram[i][i];
                if own > 1e-12 {
                    let lacks = self.moment[i] - product(&self.gram[i], prices);
                    let price = prices[i] + lacks / own;
                    if price.is_finite() {
                        prices[i] = price.max(LEAST[i]);
                    }
                }
            }
        }
        prices.iter_mut().zip(LEAST).for_each(|(price, least)| *price = price.max(least));
    }
}

/// What is left of an entry after a pass. What became tiny is nothing: denormal numbers are slow.
fn kept(entry: f64) -> f64 {
    let kept = entry * KEPT;
    if kept.abs() < 1e-30 { 0.0 } else { kept }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A law that the model does not know.
    fn law(rows: Rows, prices: [f64; PRICES]) -> f64 {
        features(rows).iter().zip(prices).map(|(feature, price)| feature * price).sum()
    }

    fn mixed(random: &mut fastrand::Rng) -> Rows {
        let decode = random.usize(0..9);
        let prefill = if decode == 0 || random.usize(0..10) == 0 { random.usize(1..128) } else { 0 };
        Rows { decode, prefill, cached: random.usize(0..4000) }
    }

    fn pass(rows: Rows, seconds: f64) -> Pass {
        Pass {
            decode: rows.decode,
            prefill: rows.prefill,
            cached: rows.cached,
            threads: 2,
            took: Duration::from_secs_f64(seconds),
        }
    }

    /// The mean relative error over passes like those that were learnt.
    fn error(model: &Model, prices: [f64; PRICES], random: &mut fastrand::Rng) -> f64 {
        let errors = (0..500).map(|_| {
            let rows = mixed(random);
            (model.rates(2).time(rows) / law(rows, prices) - 1.0).abs()
        });
        errors.sum::<f64>() / 500.0
    }

    #[test]
    fn it_learns_machines_that_differ_a_hundredfold() {
        for speed in [0.05, 1.0, 8.0] {
            let prices = [13e-3, 4.5e-3, 2.4e-3, 1e-6].map(|price| price * speed);
            let mut random = fastrand::Rng::with_seed(7);
            let mut model = Model::default();
            for _ in 0..300 {
                let rows = mixed(&mut random);
                let noise = 0.9 + 0.2 * random.f64();
                model.learn(&pass(rows, law(rows, prices) * noise));
            }
            let error = error(&model, prices, &mut random);
            assert!(error < 0.04, "off by {error} at speed {speed}: {:?}", model.rates(2).prices);
        }
    }

    #[test]
    fn passes_that_were_descheduled_do_not_move_it_far() {
        let prices = [8e-3, 2.6e-3, 1.2e-3, 0.5e-6];
        let mut random = fastrand::Rng::with_seed(8);
        let mut model = Model::default();
        for number in 0..1000 {
            let rows = mixed(&mut random);
            let slow = if number % 20 == 19 { 12.0 } else { 1.0 };
            model.learn(&pass(rows, law(rows, prices) * slow));
        }
        let error = error(&model, prices, &mut random);
        assert!(error < 0.06, "off by {error}: {:?}", model.rates(2).prices);
    }

    #[test]
    fn a_slow_first_pass_is_forgotten_soon() {
        let prices = [8e-3, 2.6e-3, 1.2e-3, 0.5e-6];
        let mut random = fastrand::Rng::with_seed(9);
        let mut model = Model::default();
        model.learn(&pass(Rows { decode: 0, prefill: 30, cached: 0 }, 5.0));
        for _ in 0..60 {
            let rows = mixed(&mut random);
            model.learn(&pass(rows, law(rows, prices)));
        }
        let error = error(&model, prices, &mut random);
        assert!(error < 0.08, "off by {error}: {:?}", model.rates(2).prices);
    }

    #[test]
    fn the_price_of_prompts_outlives_a_long_time_without_any() {
        let prices = [8e-3, 2.6e-3, 1.2e-3, 0.0];
        let mut random = fastrand::Rng::with_seed(10);
        let mut model = Model::default();
        for _ in 0..300 {
            let rows = mixed(&mut random);
            model.learn(&pass(rows, law(rows, prices)));
        }
        let rows = Rows { decode: 8, prefill: 0, cached: 1600 };
        for _ in 0..50_000 {
            model.learn(&pass(rows, law(rows, prices) * (0.95 + 0.1 * random.f64())));
        }
        let rows = Rows { decode: 1, prefill: 64, cached: 0 };
        let off = model.rates(2).time(rows) / law(rows, prices);
        assert!((0.8..1.25).contains(&off), "off by {off}");
    }

    #[test]
    fn it_follows_a_machine_that_slows_down() {
        let prices = [8e-3, 2.6e-3, 1.2e-3, 0.5e-6];
        let mut random = fastrand::Rng::with_seed(11);
        let mut model = Model::default();
        for number in 0..1200 {
            let rows = mixed(&mut random);
            model.learn(&pass(rows, law(rows, prices) * if number < 600 { 1.0 } else { 2.0 }));
        }
        let error = error(&model, prices.map(|price| price * 2.0), &mut random);
        assert!(error < 0.06, "off by {error}");
    }

    #[test]
    fn it_learns_that_four_rows_cost_less_than_three() {
        // Seconds for 1 to 8 rows, measured with SmolLM2-135M in Q4_0 on one core.
        let table = [16.5, 23.8, 29.1, 27.6, 39.0, 47.3, 62.5, 50.6];
        let mut model = Model::default();
        for number in 0..2000 {
            let decode = number % table.len() + 1;
            model.learn(&pass(Rows { decode, prefill: 0, cached: 200 }, table[decode - 1] / 1e3));
        }
        for (took, decode) in table.iter().zip(1..) {
            let time = model.rates(2).time(Rows { decode, prefill: 0, cached: 200 }) * 1e3;
            assert!((time / took - 1.0).abs() < 0.05, "{decode} rows: {time} instead of {took}");
        }
    }

    #[test]
    fn thread_counts_are_learnt_apart() {
        let mut model = Model::default();
        let rows = Rows { decode: 4, prefill: 0, cached: 0 };
        for _ in 0..50 {
            model.learn(&Pass { threads: 1, ..pass(rows, 0.040) });
            model.learn(&Pass { threads: 2, ..pass(rows, 0.020) });
        }
        assert!((model.rates(1).time(rows) - 0.040).abs() < 0.002);
        assert!((model.rates(2).time(rows) - 0.020).abs() < 0.002);
    }

    proptest! {
        /// Whatever it is shown: prices are numbers, none is negative, and a plan gets a time.
        #[test]
        fn it_never_says_nonsense(
            passes in proptest::collection::vec(
                (0usize..100, 0usize..5000, 0usize..10_000_000, 0usize..20, 0u64..100_000_000_000), 0..80,
            ),
        ) {
            let mut model = Model::default();
            for (decode, prefill, cached, threads, nanos) in passes {
                model.learn(&Pass { decode, prefill, cached, threads, took: Duration::from_nanos(nanos) });
                let rates = model.rates(threads);
                prop_assert!(rates.prices.iter().zip(LEAST).all(|(price, least)| price.is_finite() && *price >= least));
                let time = rates.time(Rows { decode: 3, prefill: 100, cached: 1000 });
                prop_assert!(time.is_finite() && time > 0.0);
                let correction = rates.correction(Rows { decode: 3, ..Rows::default() });
                prop_assert!(correction > 0.5);
                let most = rates.tariff(4).cost(Work { prompt: usize::MAX, answer: usize::MAX });
                prop_assert!(most <= MOST);
            }
            prop_assert!(model.fits.len() <= FITS);
        }
    }
}
