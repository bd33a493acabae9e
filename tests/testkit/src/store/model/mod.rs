//! Random programs, run on the Store under test and on the plain one in memory side by side: every answer and everything
//! that can be read must be the same after each step.
//!
//! Left out on purpose, because two right Stores may differ there: jitter, the text of a rescue's reason, numbers (they
//! are mapped), a clock that steps back, and whether a lease that ran out has been noticed yet.

mod step;
mod translate;
mod twins;

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use self::step::{Step, program};
use super::Bed;
use crate::suite::{Checked, cases, needs};

cases! {
    random_programs_agree_with_the_plain_store: "Whatever is committed, leased, claimed and taken in whatever order, over crashes and as time passes, every answer and every page is what the plain Store in memory gives.",
}

/// How long new programs are tried; looking for a shorter one that fails too comes on top.
const BUDGET: Duration = Duration::from_secs(8);
/// A seed of one's own, to run a failure again.
const SEED: &str = "SELVEDGE_SEED";

async fn random_programs_agree_with_the_plain_store(bed: &Bed) -> Checked {
    needs(bed.home.takes_clock(), "a Store that goes by a given clock")?;
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse()?,
        Err(_) => fastrand::u64(..),
    };
    // The generator is not async; each program is run to its end within it.
    tokio::task::block_in_place(|| check(bed, seed))
}

fn check(bed: &Bed, seed: u64) -> Checked {
    let runtime = tokio::runtime::Handle::current();
    let (started, failed) = (Instant::now(), Cell::new(false));
    let config = Config {
        failure_persistence: None,
        max_shrink_time: 20_000,
        max_shrink_iters: 10_000,
        verbose: 0,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, rng(seed));
    let ended = runner.run(&program(), |program| {
        if started.elapsed() > BUDGET && !failed.get() {
            return Ok(());
        }
        runtime.block_on(run(bed, &program)).map_err(|error| {
            failed.set(true);
            TestCaseError::fail(format!("{error:#}"))
        })
    });
    match ended {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, program)) => {
            let steps: String = program.iter().map(|step| format!("\n    {step:?}")).collect();
            anyhow::bail!("{reason}\n  the shortest program found:{steps}\n  run it again with {SEED}={seed}")
        }
        Err(TestError::Abort(reason)) => anyhow::bail!("{reason} ({SEED}={seed})"),
    }
}

fn rng(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

async fn run(bed: &Bed, program: &[Step]) -> Checked {
    let mut twins = twins::Twins::new(bed.another().await?);
    for (number, step) in program.iter().enumerate() {
        twins.step(step).await.map_err(|error| error.context(format!("after step {number}, {step:?}")))?;
    }
    Ok(())
}
