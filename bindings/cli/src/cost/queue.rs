//! How long requests wait for a free server: an estimate for any arrivals, any service times and any number of servers.
//!
//! The mean is Allen and Cunneen's, with Sakasegawa's approximation of the chance to wait:
//!
//! ```text
//! P(wait > 0) ≈ ρ^(√(2(c+1)) − 1)
//! E[wait]     ≈ (Ca² + Cs²)/2 · P(wait > 0) / (c·(1 − ρ)) · E[S]
//! P(wait > t) ≈ P(wait > 0) · exp(−t / E[wait | wait > 0])
//! ```
//!
//! with c servers that are busy the share ρ of the time, the mean service time E[S], and the squared coefficients of variation
//! Ca² of the times between arrivals and Cs² of the service times. It is exact for M/M/1.
//!
//! - A. O. Allen, *Probability, Statistics, and Queueing Theory*, 2nd ed., 1990, section 5.3 (Allen and Cunneen).
//! - H. Sakasegawa, "An approximation formula Lq ≃ α·ρ^β/(1−ρ)", Annals of the Institute of Statistical Mathematics 29, 1977.
//! - W. Whitt, "Approximations for the GI/G/m queue", Production and Operations Management 2(2), 1993, for the exponential tail.

/// What queues up, and at what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Queue {
    /// c: how many are served at once.
    pub(crate) servers: f64,
    /// E[S]: how long one is served on average, in seconds.
    pub(crate) service: f64,
    /// Cs²: the variance of that over its squared mean. 0 when all take the same time, 1 when it is exponential.
    pub(crate) service_scv: f64,
    /// Ca²: the same of the time between two arrivals. 1 for a Poisson process, more when they come in bursts.
    pub(crate) arrival_scv: f64,
}

impl Queue {
    /// The share of requests that have to wait when servers are busy the share `busy` of the time.
    pub(crate) fn waits(&self, busy: f64) -> f64 {
        busy.powf((2.0 * (self.servers + 1.0)).sqrt() - 1.0)
    }

    /// The mean wait of those that wait, in seconds.
    fn wait_of_waiting(&self, busy: f64) -> f64 {
        (self.arrival_scv + self.service_scv) / 2.0 * self.service / (self.servers * (1.0 - busy))
    }

    /// The mean wait, in seconds.
    #[cfg(test)]
    fn mean_wait(&self, busy: f64) -> f64 {
        self.waits(busy) * self.wait_of_waiting(busy)
    }

    /// The wait, in seconds, that is not exceeded by the share `quantile` of requests.
    pub(crate) fn wait(&self, busy: f64, quantile: f64) -> f64 {
        if busy >= 1.0 {
            return f64::INFINITY;
        }
        let excess = self.waits(busy) / (1.0 - quantile);
        if excess <= 1.0 { 0.0 } else { self.wait_of_waiting(busy) * excess.ln() }
    }

    /// The largest share of the time, up to `most`, that servers may be busy so that the wait stays within `target` seconds.
    pub(crate) fn busiest(&self, quantile: f64, target: f64, most: f64) -> f64 {
        if self.wait(most, quantile) <= target {
            return most;
        }
        // The wait grows with the load, so halving finds the place; the lower end always keeps the target.
        let (mut low, mut high) = (0.0, most);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if self.wait(middle, quantile) <= target {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BinaryHeap;

    use proptest::prelude::*;

    use super::*;

    fn mm(servers: f64) -> Queue {
        Queue { servers, service: 2.0, service_scv: 1.0, arrival_scv: 1.0 }
    }

    /// The exact chance to wait in M/M/c.
    fn erlang_c(servers: u32, busy: f64) -> f64 {
        let load = f64::from(servers) * busy;
        let blocked = (1..=servers).fold(1.0, |blocked, n| load * blocked / (f64::from(n) + load * blocked));
        blocked / (1.0 - busy * (1.0 - blocked))
    }

    #[test]
    fn one_server_is_exact() {
        for busy in [0.1, 0.5, 0.9] {
            assert!((mm(1.0).mean_wait(busy) - busy / (1.0 - busy) * 2.0).abs() < 1e-12);
            // P(W > t) = ρ·exp(−(1−ρ)t/E[S])
            let t = mm(1.0).wait(busy, 0.99);
            let exceeded = busy * (-(1.0 - busy) * t / 2.0).exp();
            assert!((exceeded - 0.01).abs() < 1e-12, "{exceeded}");
        }
        // Pollaczek and Khinchine: fixed service times wait half as long.
        let fixed = Queue { service_scv: 0.0, ..mm(1.0) };
        assert!((fixed.mean_wait(0.8) - mm(1.0).mean_wait(0.8) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn many_servers_are_close_to_erlangs_formula() {
        for servers in [2, 4, 8, 16, 64] {
            for busy in [0.65, 0.8, 0.9, 0.95] {
                let exact = erlang_c(servers, busy) * 2.0 / (f64::from(servers) * (1.0 - busy));
                let error = (mm(servers.into()).mean_wait(busy) - exact).abs();
                // Where hardly anybody waits the ratio says little, so the error is held against the service time.
                assert!(error < 0.02 * 2.0 + 0.05 * exact, "{servers} servers, {busy} busy: off by {error} of {exact}");
            }
        }
    }

    /// Waits in a queue with Poisson arrivals and service times that are lognormal, played out.
    fn played(queue: Queue, busy: f64, requests: usize) -> Vec<f64> {
        let mut random = fastrand::Rng::with_seed(7);
        let sigma = (1.0 + queue.service_scv).ln().sqrt();
        let mut free: BinaryHeap<std::cmp::Reverse<u64>> =
            (0..queue.servers as usize).map(|_| std::cmp::Reverse(0)).collect();
        let (mut now, mut waits) = (0.0, Vec::with_capacity(requests));
        for _ in 0..requests {
            now += -(1.0 - random.f64()).ln() * queue.service / (queue.servers * busy);
            let normal = (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos();
            let service = queue.service * (sigma * normal - sigma * sigma / 2.0).exp();
            let std::cmp::Reverse(earliest) = free.pop().expect("a server");
            let start = (earliest as f64 / 1e6).max(now);
            free.push(std::cmp::Reverse(((start + service) * 1e6) as u64));
            waits.push(start - now);
        }
        waits.sort_by(f64::total_cmp);
        waits
    }

    #[test]
    fn a_queue_that_is_played_out_waits_about_as_long() {
        for (servers, scv, busy) in [(1.0, 1.5, 0.7), (4.0, 1.5, 0.8), (16.0, 0.5, 0.9), (8.0, 2.0, 0.85)] {
            let queue = Queue { servers, service_scv: scv, ..mm(1.0) };
            let waits = played(queue, busy, 400_000);
            let mean = waits.iter().sum::<f64>() / waits.len() as f64;
            let p99 = waits[waits.len() * 99 / 100];
            let (mean_ratio, p99_ratio) = (queue.mean_wait(busy) / mean, queue.wait(busy, 0.99) / p99);
            println!("c {servers} Cs² {scv} ρ {busy}: mean {mean_ratio:.2}, p99 {p99_ratio:.2}");
            assert!((0.8..1.25).contains(&mean_ratio), "{queue:?} at {busy}: {mean_ratio}");
            assert!((0.75..1.3).contains(&p99_ratio), "{queue:?} at {busy}: {p99_ratio}");
        }
    }

    fn queues() -> impl Strategy<Value = Queue> {
        (1u32..200, 0.01..100.0, 0.0..5.0, 0.1..5.0).prop_map(|(servers, service, service_scv, arrival_scv)| Queue {
            servers: servers.into(),
            service,
            service_scv,
            arrival_scv,
        })
    }

    proptest! {
        #[test]
        fn more_load_waits_longer_and_more_servers_wait_shorter(
            queue in queues(), busy in 0.01..0.98, quantile in 0.5..0.999,
        ) {
            let wait = queue.wait(busy, quantile);
            prop_assert!(queue.wait(busy + 0.01, quantile) >= wait);
            let more = Queue { servers: queue.servers + 1.0, ..queue };
            prop_assert!(more.wait(busy, quantile) <= wait);
        }

        #[test]
        fn the_busiest_load_keeps_the_target_and_a_bit_more_does_not(
            queue in queues(), target in 0.0..10.0, most in 0.1..0.99,
        ) {
            let busy = queue.busiest(0.99, target, most);
            prop_assert!(queue.wait(busy, 0.99) <= target);
            prop_assert!(busy <= most);
            prop_assert!(busy == most || queue.wait(busy + 1e-6, 0.99) > target);
        }
    }
}
