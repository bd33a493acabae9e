//! Experiments whose truth is known: most users pay nothing, the others a lognormal amount.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
};

use selvedge_experiments::analysis::{
    Arm, Boundaries, Effect, Looks, Moments, Plan, Prior, Variance, bayes, bounds, normal, power, sequence,
    test::{difference, relative},
};
use serde::Serialize;

/// The coefficient of variation of what payers pay, as in paywall data.
pub(crate) const PAYER_CV: f64 = 0.66;

/// What an arm's users do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    /// The share of them that pays.
    pub(crate) payers: f64,
    /// What a payer pays on average.
    pub(crate) price: f64,
}

impl Behaviour {
    /// Revenue per user of this coefficient of variation.
    pub(crate) fn with_cv(cv: f64) -> Self {
        Self { payers: (1.0 + PAYER_CV * PAYER_CV) / (1.0 + cv * cv), price: 20.0 }
    }

    /// The same with a lift in revenue per user.
    pub(crate) fn lifted(self, lift: f64, by: Variance) -> Self {
        match by {
            Variance::Price => Self { price: self.price * (1.0 + lift), ..self },
            Variance::Equal | Variance::Volume => Self { payers: self.payers * (1.0 + lift), ..self },
        }
    }

    fn mean(self) -> f64 {
        self.payers * self.price
    }
}

/// An arm up to a look.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    revenue: Moments,
    payers: u64,
}

/// Draws normal values, two at a time (Box and Muller).
struct Draw {
    rng: fastrand::Rng,
    spare: Option<f64>,
}

impl Draw {
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.rng.f64()).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * self.rng.f64()).sin_cos();
        self.spare = Some(radius * sine);
        radius * cosine
    }

    /// Adds a day's users. Those who do not pay are skipped in one step: how many come before the next payer is a
    /// geometric number.
    fn day(&mut self, seen: &mut Seen, users: u64, behaviour: Behaviour) {
        let sigma = (PAYER_CV * PAYER_CV).ln_1p().sqrt();
        let mu = behaviour.price.ln() - 0.5 * sigma * sigma;
        let no_payer = (-behaviour.payers).ln_1p();
        let mut left = users;
        loop {
            let skipped = ((1.0 - self.rng.f64()).ln() / no_payer).floor();
            if skipped >= left as f64 {
                seen.revenue.add_zeros(left);
                return;
            }
            seen.revenue.add_zeros(skipped as u64);
            seen.revenue.add((mu + sigma * self.normal()).exp());
            seen.payers += 1;
            left -= skipped as u64 + 1;
        }
    }
}

/// What is simulated.
#[derive(Clone, Debug)]
pub(crate) struct Design {
    pub(crate) control: Behaviour,
    pub(crate) treated: Behaviour,
    pub(crate) users_per_arm: u64,
    pub(crate) looks: u32,
    pub(crate) experiments: usize,
    pub(crate) seed: u64,
}

/// What became of one experiment: for each rule, whether it ever stopped.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    naive: bool,
    obrien_fleming: bool,
    obrien_fleming_up: bool,
    pocock: bool,
    always_valid: bool,
    bayes: [bool; 3],
    covered_absolute: bool,
    covered_relative: bool,
    covered_always: bool,
    conversion_up: bool,
    share_used: f64,
}

/// The shares of experiments.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Shares {
    /// |z| > 1.96 at some look.
    pub(crate) naive: f64,
    /// Beyond the O'Brien–Fleming boundary at some look.
    pub(crate) obrien_fleming: f64,
    /// Of those, to the treated arm's favour.
    pub(crate) obrien_fleming_up: f64,
    /// Beyond the Pocock boundary at some look.
    pub(crate) pocock: f64,
    /// The confidence sequence excludes zero at some look.
    pub(crate) always_valid: f64,
    /// The credible interval of the relative lift excludes zero at some look, with a flat prior.
    pub(crate) bayes_flat: f64,
    /// The same with a prior of 0 ± 10 %.
    pub(crate) bayes_10: f64,
    /// The same with a prior of 0 ± 5 %.
    pub(crate) bayes_5: f64,
    /// The interval of the difference covers the truth at the last look.
    pub(crate) covered_absolute: f64,
    /// The interval of the relative lift covers the truth at the last look.
    pub(crate) covered_relative: f64,
    /// The confidence sequence covers the truth at all looks.
    pub(crate) covered_always: f64,
    /// Conversion is higher at the last look, with p < 0.05.
    pub(crate) conversion_up: f64,
    /// The share of the users that it takes until O'Brien and Fleming's boundary is reached, on average.
    pub(crate) share_used: f64,
}

pub(crate) const PRIORS: [Option<f64>; 3] = [None, Some(0.10), Some(0.05)];

struct Rules {
    obrien_fleming: Boundaries,
    pocock: Boundaries,
}

/// Runs a design's experiments on all cores. The seed decides, not the number of threads.
pub(crate) fn simulate(design: &Design) -> Shares {
    let plan = |spending| bounds(&Looks { spending, ..Looks::equal(design.looks) }).expect("boundaries");
    let rules = Rules {
        obrien_fleming: plan(selvedge_experiments::analysis::Spending::ObrienFleming),
        pocock: plan(selvedge_experiments::analysis::Spending::Pocock),
    };
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let work = || {
        let mut outcomes = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= design.experiments {
                return outcomes;
            }
            outcomes.push((index, run(design, &rules, index as u64)));
        }
    };
    let mut outcomes: Vec<(usize, Outcome)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
    });
    outcomes.sort_by_key(|outcome| outcome.0);
    let share = |is: &dyn Fn(&Outcome) -> bool| {
        outcomes.iter().filter(|(_, outcome)| is(outcome)).count() as f64 / outcomes.len() as f64
    };
    Shares {
        naive: share(&|outcome| outcome.naive),
        obrien_fleming: share(&|outcome| outcome.obrien_fleming),
        obrien_fleming_up: share(&|outcome| outcome.obrien_fleming_up),
        pocock: share(&|outcome| outcome.pocock),
        always_valid: share(&|outcome| outcome.always_valid),
        bayes_flat: share(&|outcome| outcome.bayes[0]),
        bayes_10: share(&|outcome| outcome.bayes[1]),
        bayes_5: share(&|outcome| outcome.bayes[2]),
        covered_absolute: share(&|outcome| outcome.covered_absolute),
        covered_relative: share(&|outcome| outcome.covered_relative),
        covered_always: share(&|outcome| outcome.covered_always),
        conversion_up: share(&|outcome| outcome.conversion_up),
        share_used: outcomes.iter().map(|(_, outcome)| outcome.share_used).sum::<f64>() / outcomes.len() as f64,
    }
}

fn run(design: &Design, rules: &Rules, index: u64) -> Outcome {
    let seed = design.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(index.wrapping_mul(0xD1B5_4A32_D192_ED03));
    let mut draw = Draw { rng: fastrand::Rng::with_seed(seed), spare: None };
    let (mut a, mut b) = (Seen::default(), Seen::default());
    let truth = design.treated.mean() - design.control.mean();
    let (difference_is, lift_is) = (truth, truth / design.control.mean());
    let mut outcome = Outcome { covered_always: true, share_used: 1.0, ..Outcome::default() };
    let looks = u64::from(design.looks);
    for look in 0..looks {
        let users = design.users_per_arm * (look + 1) / looks - design.users_per_arm * look / looks;
        draw.day(&mut a, users, design.control);
        draw.day(&mut b, users, design.treated);
        let (arm_a, arm_b) = (a.revenue.arm(), b.revenue.arm());
        let (Some(absolute), Some(lift)) = (difference(&arm_a, &arm_b, 0.05), relative(&arm_a, &arm_b, 0.05)) else {
            continue;
        };
        let reached = |rule: &Boundaries| rule.z[look as usize].is_some_and(|z| absolute.z.abs() >= z);
        outcome.naive |= absolute.z.abs() > 1.959_964;
        if reached(&rules.obrien_fleming) && !outcome.obrien_fleming {
            (outcome.obrien_fleming, outcome.obrien_fleming_up) = (true, absolute.z > 0.0);
            outcome.share_used = (look + 1) as f64 / looks as f64;
        }
        outcome.pocock |= reached(&rules.pocock);
        let all = 2.0 * design.users_per_arm as f64;
        let sequence = sequence::always_valid(&absolute, arm_a.n + arm_b.n, 0.05, all);
        outcome.always_valid |= sequence.low > 0.0 || sequence.high < 0.0;
        outcome.covered_always &= sequence.low <= difference_is && difference_is <= sequence.high;
        for (stopped, deviation) in outcome.bayes.iter_mut().zip(PRIORS) {
            let posterior = bayes::credible(&lift, deviation.map(|deviation| Prior { mean: 0.0, deviation }), 0.05);
            *stopped |= posterior.0 > 0.0 || posterior.1 < 0.0;
        }
        if look + 1 == looks {
            let covers = |effect: Effect, truth: f64| effect.low <= truth && truth <= effect.high;
            outcome.covered_absolute = covers(absolute, difference_is);
            outcome.covered_relative = covers(lift, lift_is);
            let proportion = |seen: &Seen| Arm::proportion(seen.payers, seen.revenue.n);
            let conversion = difference(&proportion(&a), &proportion(&b), 0.05);
            outcome.conversion_up = conversion.is_some_and(|effect| effect.estimate > 0.0 && effect.p < 0.05);
        }
    }
    outcome
}

/// The users of an arm for a lift of 10 % and 80 % power, looking daily.
pub(crate) fn sample_size(cv: f64, looks: u32, variance: Variance) -> u64 {
    let plan = Plan { variance, ..Plan::new(cv, 0.10).looks(Looks::equal(looks)) };
    power(&plan).expect("a sample size").n_per_arm
}

/// What integration says of the rule |z| > 1.96 at so many looks.
#[allow(dead_code, reason = "The test has its own bound.")]
pub(crate) fn naive_expected(looks: u32) -> f64 {
    bayes::peeking(looks, 2.0 * normal::tail(1.959_964), 1.0, None).expect("peeking").false_positives
}
