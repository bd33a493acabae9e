//! How many nodes a volume needs, what that costs, and where it costs what the API does.
//!
//! Two things bound what some nodes take. In the busiest hour they must serve all interactive requests within the latency target
//! and not be busier than allowed. Over the whole month they must have time for everything; batch fills what is idle and gives
//! way, so it counts only there. Both bounds grow at least in proportion to the nodes, because a larger pool needs less slack:
//! that is what lets the searches below halve.

use serde::Serialize;

use super::{MONTH, queue::Queue, work::Work};

/// More nodes than this are no plan.
const MOST_NODES: u64 = 1 << 20;
/// Half of the one percent that may miss the target may miss it by waiting, the other half by a long prompt: together no more
/// than one percent does, whether or not the two go together.
pub(crate) const PART_OF_P99: f64 = 0.995;

/// A time to the first token that 99 % of interactive requests are to keep, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) ttft: f64,
    /// What reading a long prompt takes of it: the 99.5th percentile.
    pub(crate) reading: f64,
}

/// A node, and how it is to be used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Terms {
    /// Dollars a month.
    pub(crate) node: f64,
    /// Dollars a month, whatever the volume.
    pub(crate) fixed: f64,
    /// Nodes beside those that are needed: so many may fail.
    pub(crate) spare: u32,
    /// Requests that a node serves at once.
    pub(crate) streams: u32,
    /// The largest share of the time that nodes are to be busy.
    pub(crate) busy: f64,
    /// The busiest hour over the mean one.
    pub(crate) peak: f64,
    pub(crate) burstiness: f64,
    pub(crate) target: Option<Target>,
}

/// Terms for requests of a kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) terms: Terms,
    pub(crate) work: Work,
}

/// Where both cost the same, in requests a month.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Crossover {
    /// Below it the API is cheaper at every volume.
    pub(crate) first: f64,
    /// Above it nodes are cheaper at every volume. Between the two each further node makes the API cheaper for a while.
    pub(crate) last: f64,
    /// The nodes at the first, spare ones too.
    pub(crate) nodes: u64,
}

impl Plan {
    fn queue(&self, nodes: u64) -> Queue {
        let streams = f64::from(self.terms.streams);
        Queue {
            servers: nodes as f64 * streams,
            // The node's speed is that of all its streams together, so one stream takes so many times as long.
            service: self.work.interactive_seconds * streams,
            service_scv: self.work.interactive_scv,
            arrival_scv: self.terms.burstiness,
        }
    }

    /// Requests a month that so many working nodes take.
    pub(crate) fn capacity(&self, nodes: u64) -> f64 {
        if nodes == 0 {
            return 0.0;
        }
        let (terms, work) = (&self.terms, &self.work);
        let seconds = nodes as f64 * MONTH;
        let all = seconds * terms.busy / work.seconds;
        let waited_for = work.interactive * work.interactive_seconds * terms.peak;
        if waited_for == 0.0 {
            return all;
        }
        let busy = match terms.target {
            None => terms.busy,
            Some(target) if target.ttft < target.reading => 0.0,
            Some(target) => self.queue(nodes).busiest(PART_OF_P99, target.ttft - target.reading, terms.busy),
        };
        all.min(seconds * busy / waited_for)
    }

    /// Working nodes that a volume needs; `None` when no number does.
    pub(crate) fn nodes(&self, volume: f64) -> Option<u64> {
        smallest(|nodes| self.capacity(nodes) >= volume)
    }

    /// Dollars a month of so many working nodes.
    fn price(&self, nodes: u64) -> f64 {
        self.terms.fixed + (nodes as f64 + f64::from(self.terms.spare)) * self.terms.node
    }

    /// Dollars a month of a volume on nodes.
    pub(crate) fn self_hosted(&self, volume: f64) -> Option<f64> {
        Some(self.price(self.nodes(volume)?))
    }

    /// Dollars a month of a volume at the API.
    pub(crate) fn api(&self, volume: f64) -> f64 {
        volume * self.work.api
    }

    /// How busy so many nodes are with interactive requests in the busiest hour.
    pub(crate) fn busy(&self, volume: f64, nodes: u64) -> f64 {
        volume * self.work.interactive * self.work.interactive_seconds * self.terms.peak / (nodes as f64 * MONTH)
    }

    /// Seconds to the first token that 99 % keep in the busiest hour.
    pub(crate) fn ttft(&self, volume: f64, nodes: u64, reading: f64) -> f64 {
        self.queue(nodes).wait(self.busy(volume, nodes), PART_OF_P99) + reading
    }

    /// Dollars that a request cannot get below on nodes, however many and full they are.
    pub(crate) fn least(&self) -> f64 {
        self.price(MOST_NODES) / self.capacity(MOST_NODES)
    }

    /// Where both cost the same; `None` when the API is cheaper at every volume.
    pub(crate) fn crossover(&self) -> Option<Crossover> {
        // Nodes that are full are the cheapest they get.
        let first = smallest(|nodes| self.api(self.capacity(nodes)) >= self.price(nodes))?;
        // Where nodes win with a node that has just been added, they win from then on.
        let last = smallest(|nodes| self.api(self.capacity(nodes - 1)) >= self.price(nodes))?;
        let equal = |nodes| self.price(nodes) / self.work.api;
        Some(Crossover {
            first: equal(first),
            last: equal((last - 1).max(first)),
            nodes: first + u64::from(self.terms.spare),
        })
    }
}

/// The smallest number of nodes for which something holds that holds for every larger one too.
fn smallest(holds: impl Fn(u64) -> bool) -> Option<u64> {
    let mut high = 1;
    while !holds(high) {
        high *= 2;
        if high > MOST_NODES {
            return None;
        }
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = u64::midpoint(low, high);
        if holds(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One node at $1,000 a month takes a million requests a month, and the API costs $0.002 a request.
    fn plan() -> Plan {
        Plan {
            terms: Terms {
                node: 1_000.0,
                fixed: 0.0,
                spare: 0,
                streams: 1,
                busy: 1.0,
                peak: 1.0,
                burstiness: 1.0,
                target: None,
            },
            work: Work {
                api: 0.002,
                tokens: 100.0,
                seconds: MONTH / 1e6,
                interactive: 1.0,
                interactive_seconds: MONTH / 1e6,
                interactive_scv: 1.0,
            },
        }
    }

    #[test]
    fn by_hand() {
        let plan = plan();
        assert_eq!((plan.nodes(0.0), plan.nodes(999_999.0), plan.nodes(1_000_001.0)), (Some(1), Some(1), Some(2)));
        assert_eq!(plan.self_hosted(2_500_000.0), Some(3_000.0));
        // One node is paid off at 500,000; from a million and one on two nodes cost what a million at the API does.
        assert_eq!(plan.crossover(), Some(Crossover { first: 5e5, last: 5e5, nodes: 1 }));
        let spare = Plan { terms: Terms { spare: 1, fixed: 500.0, ..plan.terms }, ..plan };
        // 2,500 at 1.25M is above what one takes; two and a spare cost 3,500, paid off at 1.75M; at 2M the next costs 4,500.
        assert_eq!(spare.crossover(), Some(Crossover { first: 1.75e6, last: 2.25e6, nodes: 3 }));
        let dear = Plan { terms: Terms { node: 2_001.0, ..plan.terms }, ..plan };
        assert_eq!(dear.crossover(), None);
    }

    #[test]
    fn batch_fills_what_is_idle() {
        let half = |interactive| Plan {
            terms: Terms { peak: 3.0, ..plan().terms },
            work: Work { interactive, ..plan().work },
        };
        // Alone, the peak takes three nodes a million. With two thirds in batch, the same nodes take three times as much.
        assert!((half(1.0).capacity(3) - 1e6).abs() < 1.0);
        assert!((half(1.0 / 3.0).capacity(3) - 3e6).abs() < 1.0);
        assert!((half(0.0).capacity(3) - 3e6).abs() < 1.0);
    }

    #[test]
    fn a_target_that_reading_alone_breaks_is_never_kept() {
        let target =
            |ttft, reading| Plan { terms: Terms { target: Some(Target { ttft, reading }), ..plan().terms }, ..plan() };
        assert_eq!((target(0.2, 0.3).nodes(1.0), target(0.2, 0.3).crossover()), (None, None));
        assert!(target(0.2, 0.1).nodes(1.0).is_some());
    }

    fn plans() -> impl Strategy<Value = Plan> {
        let terms = (1.0..50_000.0, 0.0..50_000.0, 0u32..4, 1u32..64, 0.1..0.99, 1.0..10.0, 0.1..4.0);
        let work = (1e-5..0.1, 0.01..60.0, 0.0..1.0, 0.01..60.0, 0.0..4.0);
        let target = proptest::option::of((0.1..20.0, 0.0..0.09));
        (terms, work, target).prop_map(|((node, fixed, spare, streams, busy, peak, burstiness), work, target)| {
            let (api, seconds, interactive, interactive_seconds, interactive_scv) = work;
            let target = target.map(|(ttft, reading)| Target { ttft, reading });
            Plan {
                terms: Terms { node, fixed, spare, streams, busy, peak, burstiness, target },
                work: Work { api, tokens: 1.0, seconds, interactive, interactive_seconds, interactive_scv },
            }
        })
    }

    proptest! {
        #[test]
        fn a_larger_pool_takes_more_for_each_node(plan in plans(), nodes in 1u64..2_000) {
            let each = |nodes: u64| plan.capacity(nodes) / nodes as f64;
            prop_assert!(each(nodes + 1) >= each(nodes) * (1.0 - 1e-12), "{} < {}", each(nodes + 1), each(nodes));
        }

        #[test]
        fn costs_grow_with_the_volume(plan in plans(), volume in 0.0..1e7, more in 0.0..1e7) {
            prop_assert!(plan.api(volume + more) >= plan.api(volume));
            if let Some(cost) = plan.self_hosted(volume + more) {
                prop_assert!(plan.self_hosted(volume).expect("less is possible too") <= cost);
            }
        }

        #[test]
        fn the_nodes_of_a_volume_are_enough_and_one_fewer_is_not(plan in plans(), volume in 1.0..1e7) {
            if let Some(nodes) = plan.nodes(volume) {
                prop_assert!(plan.capacity(nodes) >= volume);
                prop_assert!(nodes == 1 || plan.capacity(nodes - 1) < volume);
                prop_assert!(plan.busy(volume, nodes) <= plan.terms.busy * (1.0 + 1e-9));
                if let Some(target) = plan.terms.target {
                    let ttft = plan.ttft(volume * (1.0 - 1e-9), nodes, target.reading);
                    prop_assert!(ttft <= target.ttft * (1.0 + 1e-6), "{ttft} > {}", target.ttft);
                }
            }
        }

        #[test]
        fn at_a_crossover_both_cost_the_same_and_beside_it_one_is_cheaper(plan in plans(), share in 0.001..0.999) {
            let Some(crossover) = plan.crossover() else {
                // However full, nodes never cost less.
                for nodes in [1, 10, 1_000] {
                    prop_assert!(plan.api(plan.capacity(nodes)) < plan.price(nodes));
                }
                return Ok(());
            };
            let Crossover { first, last, .. } = crossover;
            prop_assert!(first <= last);
            for volume in [first, last] {
                let (api, own) = (plan.api(volume), plan.self_hosted(volume).expect("it is a plan"));
                prop_assert!((api / own - 1.0).abs() < 1e-9, "{api} is not {own} at {volume}");
            }
            let below = first * share;
            prop_assert!(plan.api(below) < plan.self_hosted(below).expect("less is possible too"));
            let above = last / share;
            if let Some(own) = plan.self_hosted(above) {
                prop_assert!(plan.api(above) >= own * (1.0 - 1e-9), "at {above} of {last}");
            }
        }
    }
}
