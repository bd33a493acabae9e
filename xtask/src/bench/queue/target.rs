//! What the ratios have to reach.

/// The cases' names, as the rows have them.
pub(super) const BURN_DOWN: &str = "burn-down";
pub(super) const CONTINUOUS: &str = "continuous load";

/// Against another queue: half as many jobs again for each second of either load, and no later a start.
pub(super) const fn against_peer(rate: bool) -> f64 {
    if rate { 1.5 } else { 1.0 }
}

/// Against the plainest SQL with the same batch.
pub(super) const CEILING: f64 = 0.6;
/// Enqueuing with wake-ups against enqueuing without.
pub(super) const WAKE_UPS: f64 = 0.9;
/// The latest start, in milliseconds, of 99 in 100 jobs.
pub(super) const P99: f64 = 5.0;
/// Buffers that a claim may touch while a snapshot is held.
pub(super) const BUFFERS: f64 = 50.0;
/// Round trips of a replay.
pub(super) const ROUND_TRIPS: f64 = 1.0;

/// The rate at which a peer's latency is measured: ours, if it can keep up with a tenth to spare, or else a tenth of its own.
pub(super) fn offered(shared: f64, its_own_load: f64) -> f64 {
    if its_own_load * 0.9 >= shared { shared } else { its_own_load / 10.0 }
}

/// The rate to try next when `asked` was not reached; none when it was.
pub(super) fn next_offer(asked: f64, reached: f64, its_own_load: f64) -> Option<f64> {
    (reached < 0.95 * asked).then(|| (its_own_load / 10.0).min(reached / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_keep_up_is_offered_less() {
        assert_eq!(offered(1_000.0, 8_000.0), 1_000.0);
        assert_eq!(offered(1_000.0, 100.0), 10.0);
        assert_eq!(next_offer(1_000.0, 990.0, 8_000.0), None);
        assert_eq!(next_offer(1_000.0, 700.0, 8_000.0), Some(350.0));
        assert_eq!(next_offer(1_000.0, 700.0, 1_000.0), Some(100.0));
    }
}
