//! What a random program is made of.

use proptest::{collection::vec, option, prelude::*, sample::subsequence, strategy::Union};
use selvedge_core::store::Retry;
use std::time::Duration;

/// One thing that a program does. Numbers pick among what there is at that moment, so a step keeps a meaning while a failing
/// program is made shorter. Times are in seconds.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Commit(Vec<Act>),
    Lease { queues: Vec<u8>, limit: usize, hold: u64 },
    Relay { topics: Vec<u8>, limit: usize, hold: u64, eager: bool },
    Claim { key: u8, payload: u8, hold: u64, retention: u64 },
    Take { bucket: u8, capacity: u64, amount: u64 },
    SettleTake { bucket: u8, capacity: u64, by: i64 },
    Pass(u64),
    Maintain { keep: u64 },
    Crash,
}

/// One operation of a commit.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Enqueue { queue: u8, tenant: Option<u8>, unique: Option<u8>, priority: i16, delay: u64, max_attempts: u32 },
    Complete(usize),
    CompleteMany(Vec<usize>),
    Fail { lease: usize, retry: Retry },
    Release { lease: usize, delay: u64 },
    Extend { lease: usize, hold: u64 },
    Checkpoint { lease: usize },
    Cancel(usize),
    Revive(usize),
    Pause(u8),
    Resume(u8),
    Limit { queue: u8, all: Option<u32>, tenant: Option<u32> },
    Schedule { name: u8, every: u8 },
    Unschedule(u8),
    Emit { id: u8, aggregate: u8, topic: u8 },
    ReviveEvent(u8),
    DropEvent(u8),
    Submit { id: u8, payload: u8 },
    Answer { id: u8, status: u16 },
    Publish { topic: u8 },
    Settle { ticket: usize, status: u16 },
    Advance { ticket: usize },
    Abandon(usize),
    Assign { subject: u8, variation: u8, version: u32 },
    Record { id: u8, name: u8 },
}

pub(super) fn program() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..70)
}

fn step() -> impl Strategy<Value = Step> {
    let some = |n: u8| subsequence((0..n).collect::<Vec<_>>(), 1..=usize::from(n));
    let hold = || prop_oneof![Just(5u64), Just(30)];
    prop_oneof![
        8 => vec(act(), 1..4).prop_map(Step::Commit),
        4 => (some(2), 0usize..4, hold()).prop_map(|(queues, limit, hold)| Step::Lease { queues, limit, hold }),
        2 => (subsequence(vec![0u8, 1], 0..=2), prop_oneof![Just(0usize), Just(10), Just(10)], hold(), prop::bool::weighted(0.2))
            .prop_map(|(topics, limit, hold, eager)| Step::Relay { topics, limit, hold, eager }),
        2 => (0u8..2, prop::bool::weighted(0.1), hold(), prop_oneof![Just(20u64), Just(600)]).prop_map(
            |(key, other, hold, retention)| Step::Claim { key, payload: other.into(), hold, retention }
        ),
        1 => (0u8..2, 1u64..4, 0u64..5).prop_map(|(bucket, capacity, amount)| Step::Take { bucket, capacity, amount }),
        1 => (0u8..2, 1u64..4, -3i64..5).prop_map(|(bucket, capacity, by)| Step::SettleTake { bucket, capacity, by }),
        3 => prop_oneof![4 => 0u64..7, 2 => 20u64..40, 1 => 60u64..4000].prop_map(Step::Pass),
        1 => prop_oneof![Just(10u64), Just(86_400)].prop_map(|keep| Step::Maintain { keep }),
        1 => Just(Step::Crash),
    ]
}

fn act() -> Union<BoxedStrategy<Act>> {
    let pick = || 0usize..8;
    let seconds = || 0u64..12;
    let retry = prop_oneof![
        Just(Retry::Backoff),
        (0u64..12).prop_map(|delay| Retry::After(Duration::from_secs(delay))),
        Just(Retry::Never),
    ];
    let status = || prop_oneof![Just(200u16), Just(422)];
    let new_job = (
        0u8..2,
        option::weighted(0.5, 0u8..2),
        option::weighted(0.4, 0u8..2),
        -1i16..2,
        prop_oneof![2 => Just(0u64), 1 => 0u64..12],
        1u32..4,
    );
    let new_job = new_job.prop_map(|(queue, tenant, unique, priority, delay, max_attempts)| Act::Enqueue {
        queue,
        tenant,
        unique,
        priority,
        delay,
        max_attempts,
    });
    Union::new_weighted(vec![
        (10, new_job.boxed()),
        (4, pick().prop_map(Act::Complete).boxed()),
        (2, vec(pick(), 0..4).prop_map(Act::CompleteMany).boxed()),
        (4, (pick(), retry).prop_map(|(lease, retry)| Act::Fail { lease, retry }).boxed()),
        (2, (pick(), seconds()).prop_map(|(lease, delay)| Act::Release { lease, delay }).boxed()),
        (2, (pick(), 1u64..60).prop_map(|(lease, hold)| Act::Extend { lease, hold }).boxed()),
        (2, pick().prop_map(|lease| Act::Checkpoint { lease }).boxed()),
        (2, pick().prop_map(Act::Cancel).boxed()),
        (2, pick().prop_map(Act::Revive).boxed()),
        (1, (0u8..2).prop_map(Act::Pause).boxed()),
        (2, (0u8..2).prop_map(Act::Resume).boxed()),
        (
            1,
            (0u8..2, option::of(0u32..3), option::of(0u32..3))
                .prop_map(|(queue, all, tenant)| Act::Limit { queue, all, tenant })
                .boxed(),
        ),
        (1, (0u8..2, 1u8..4).prop_map(|(name, every)| Act::Schedule { name, every }).boxed()),
        (1, (0u8..2).prop_map(Act::Unschedule).boxed()),
        (4, (0u8..8, 0u8..2, 0u8..2).prop_map(|(id, aggregate, topic)| Act::Emit { id, aggregate, topic }).boxed()),
        (1, (0u8..8).prop_map(Act::ReviveEvent).boxed()),
        (1, (0u8..8).prop_map(Act::DropEvent).boxed()),
        (
            2,
            (0u8..4, prop::bool::weighted(0.1))
                .prop_map(|(id, other)| Act::Submit { id, payload: other.into() })
                .boxed(),
        ),
        (1, (0u8..4, status()).prop_map(|(id, status)| Act::Answer { id, status }).boxed()),
        (2, (0u8..2).prop_map(|topic| Act::Publish { topic }).boxed()),
        (2, (pick(), status()).prop_map(|(ticket, status)| Act::Settle { ticket, status }).boxed()),
        (2, pick().prop_map(|ticket| Act::Advance { ticket }).boxed()),
        (1, pick().prop_map(Act::Abandon).boxed()),
        (
            2,
            (0u8..2, 0u8..3, 1u32..4)
                .prop_map(|(subject, variation, version)| Act::Assign { subject, variation, version })
                .boxed(),
        ),
        (2, (0u8..6, 0u8..2).prop_map(|(id, name)| Act::Record { id, name }).boxed()),
    ])
}
