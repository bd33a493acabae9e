//! Step planning: what fits, and that everybody comes to an end.

use std::{collections::BTreeMap, time::Duration};

use selvedge_core::{
    AnyScheduler, Scheduler,
    scheduler::{Class, Draft, Pass, Plan, SequenceView, Step},
};

use super::Bed;
use crate::suite::{Checked, cases, needs, same};

cases! {
    a_plan_fits_the_step: "A plan advances only live sequences, each once, by at least one token and no more than it has left, within the batch and the threads.",
    a_plan_makes_progress: "A step with live sequences and room advances at least one of them.",
    a_prompt_holds_up_no_answer: "A sequence that decodes takes its token in every step, however long another's prompt is.",
    nobody_starves: "Whatever comes in beside it, a sequence of the same class is fed its whole prompt and decodes.",
    urgent_sequences_go_first: "With room for some only, sequences of a more urgent class advance before less urgent ones.",
    nobody_more_urgent_is_left_out: "A sequence that decodes is left out of a pass only if no less urgent one advances in it.",
    slots_change_hands_only_for_the_more_urgent: "As many sequences without a slot advance as slots are free, or are held by less urgent ones that stand still.",
    a_parked_sequence_comes_back: "A sequence that lost its slot advances again once one is free.",
    an_empty_step_is_an_empty_plan: "A step without sequences, or without room, advances nothing.",
}

fn random_step(random: &mut fastrand::Rng) -> Step {
    let view = |id: u64, random: &mut fastrand::Rng| SequenceView {
        id: id * 7 + 3,
        class: [Class::P0, Class::P1, Class::P2][random.usize(..3)],
        prompt_left: if random.bool() { 0 } else { random.usize(1..1000) },
        cached: random.usize(..2000),
        resident: random.bool(),
        slot: random.usize(..12),
        idle: Duration::from_millis(random.u64(..100_000)),
        draft: random.bool().then(|| Draft { acceptance: random.f32(), most: random.usize(..20) }),
    };
    let count = random.u64(0..12);
    let sequences: Vec<_> = (0..count).map(|id| view(id, random)).collect();
    let resident = sequences.iter().filter(|sequence| sequence.resident).count();
    let last = random.bool().then(|| Pass {
        decode: random.usize(..20),
        prefill: random.usize(..600),
        cached: random.usize(..20_000),
        threads: random.usize(1..9),
        took: Duration::from_micros(random.u64(..1_000_000)),
    });
    Step {
        sequences,
        batch: random.usize(1..600),
        threads: random.usize(1..9),
        slots: resident.max(1) + random.usize(..4),
        last,
    }
}

/// A step of a backend with room for all.
fn step(sequences: Vec<SequenceView>, batch: usize) -> Step {
    Step { slots: sequences.len(), sequences, batch, threads: 2, last: None }
}

/// A sequence that holds a slot.
fn view(id: u64, class: Class, prompt_left: usize) -> SequenceView {
    SequenceView { id, class, prompt_left, resident: true, ..SequenceView::default() }
}

fn fits(step: &Step, plan: &Plan) -> Checked {
    let live: BTreeMap<_, _> = step.sequences.iter().map(|sequence| (sequence.id, sequence)).collect();
    let mut seen = std::collections::BTreeSet::new();
    let mut tokens = 0;
    for advance in &plan.advance {
        let Some(sequence) = live.get(&advance.id) else { anyhow::bail!("sequence {} is not live", advance.id) };
        anyhow::ensure!(seen.insert(advance.id), "sequence {} advances twice", advance.id);
        let most = sequence.prompt_left.max(1);
        anyhow::ensure!((1..=most).contains(&advance.tokens), "{advance:?} of {sequence:?}");
        let most = sequence.draft.map_or(0, |draft| draft.most);
        anyhow::ensure!(advance.draft <= most && (advance.draft == 0 || sequence.prompt_left == 0), "{advance:?}");
        tokens += advance.tokens + advance.draft;
    }
    anyhow::ensure!(plan.advance.len() <= step.slots, "{} sequences in {} slots", plan.advance.len(), step.slots);
    anyhow::ensure!(tokens <= step.batch, "{tokens} tokens in a batch of {}", step.batch);
    anyhow::ensure!((1..=step.threads).contains(&plan.threads), "{} of {} threads", plan.threads, step.threads);
    Ok(())
}

async fn a_plan_fits_the_step(bed: &Bed) -> Checked {
    let scheduler = bed.open(4, 4)?;
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..500 {
        let step = random_step(&mut random);
        let plan = scheduler.plan(&step);
        fits(&step, &plan).map_err(|error| error.context(format!("{plan:?}\n    for {step:?}")))?;
    }
    Ok(())
}

async fn a_plan_makes_progress(bed: &Bed) -> Checked {
    let scheduler = bed.open(4, 4)?;
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..500 {
        let step = random_step(&mut random);
        anyhow::ensure!(
            step.sequences.is_empty() || !scheduler.plan(&step).advance.is_empty(),
            "nothing advances in {step:?}"
        );
    }
    Ok(())
}

async fn a_prompt_holds_up_no_answer(bed: &Bed) -> Checked {
    let scheduler = bed.open(4, 4)?;
    for batch in [2, 3, 16, 512] {
        let sequences = vec![view(1, Class::P0, 100_000), view(2, Class::P0, 0), view(3, Class::P0, 5_000)];
        let plan = scheduler.plan(&step(sequences, batch));
        anyhow::ensure!(
            plan.advance.iter().any(|advance| advance.id == 2 && advance.tokens == 1),
            "the answer does not advance in a batch of {batch}: {plan:?}"
        );
    }
    Ok(())
}

/// Follows one sequence over many steps behind others, while more arrive whenever one ends; what it has left of its prompt,
/// and how many tokens it decoded.
fn follow(scheduler: &AnyScheduler, watched: SequenceView, beside: u64, steps: usize) -> (usize, usize) {
    const ANSWER: usize = 5;
    let mut decoded = BTreeMap::<u64, usize>::new();
    let fresh = |id| view(id, watched.class, 300);
    let mut live: Vec<_> = (100..100 + beside).map(fresh).chain([watched]).collect();
    for arrival in 0..steps as u64 {
        let plan = scheduler.plan(&step(live.clone(), 64));
        for advance in plan.advance {
            let Some(sequence) = live.iter_mut().find(|sequence| sequence.id == advance.id) else { continue };
            if sequence.prompt_left == 0 {
                *decoded.entry(advance.id).or_default() += 1;
            }
            sequence.prompt_left = sequence.prompt_left.saturating_sub(advance.tokens);
        }
        let ends = |sequence: &SequenceView| decoded.get(&sequence.id).is_some_and(|tokens| *tokens >= ANSWER);
        if ends(&watched) {
            return (0, ANSWER);
        }
        let before = live.len();
        live.retain(|sequence| !ends(sequence));
        live.extend((live.len()..before).map(|place| fresh(1_000 + arrival * 100 + place as u64)));
    }
    let left = live.iter().find(|sequence| sequence.id == watched.id).map_or(0, |sequence| sequence.prompt_left);
    (left, decoded.get(&watched.id).copied().unwrap_or(0))
}

async fn nobody_starves(bed: &Bed) -> Checked {
    let scheduler = bed.open(8, 8)?;
    for class in [Class::P0, Class::P2] {
        let watched = view(1, class, 200);
        let (left, decoded) = follow(&scheduler, watched, 3, 400);
        anyhow::ensure!(left == 0 && decoded >= 5, "after 400 steps {left} prompt tokens are left, {decoded} decoded");
    }
    Ok(())
}

async fn urgent_sequences_go_first(bed: &Bed) -> Checked {
    let can = bed.can()?;
    needs(can.classes && can.preemption, "`classes` and `preemption`")?;
    let scheduler = bed.open(8, 8)?;
    let sequences =
        [(1, Class::P2), (2, Class::P1), (3, Class::P0), (4, Class::P0)].map(|(id, class)| view(id, class, 0)).to_vec();
    let plan = scheduler.plan(&step(sequences, 2));
    let mut ids: Vec<_> = plan.advance.iter().map(|advance| advance.id).collect();
    ids.sort_unstable();
    same!(ids, vec![3, 4]);
    Ok(())
}

async fn nobody_more_urgent_is_left_out(bed: &Bed) -> Checked {
    let can = bed.can()?;
    needs(can.classes && can.preemption, "`classes` and `preemption`")?;
    let scheduler = bed.open(8, 8)?;
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..500 {
        let sequences: Vec<_> = (0..random.u64(2..16))
            .map(|id| SequenceView { cached: random.usize(..500), ..view(id, Class::ALL[random.usize(..3)], 0) })
            .collect();
        let step = step(sequences, random.usize(1..12));
        let plan = scheduler.plan(&step);
        let advances = |sequence: &SequenceView| plan.advance.iter().any(|advance| advance.id == sequence.id);
        let left_out =
            step.sequences.iter().filter(|sequence| !advances(sequence)).map(|sequence| sequence.class).min();
        let least = step.sequences.iter().filter(|sequence| advances(sequence)).map(|sequence| sequence.class).max();
        anyhow::ensure!(
            left_out.is_none() || least <= left_out,
            "one of class {left_out:?} is left out for one of {least:?}: {plan:?}\n    for {step:?}"
        );
    }
    Ok(())
}

async fn slots_change_hands_only_for_the_more_urgent(bed: &Bed) -> Checked {
    let can = bed.can()?;
    let scheduler = bed.open(8, 8)?;
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..1000 {
        let step = random_step(&mut random);
        let plan = scheduler.plan(&step);
        let advances = |sequence: &&SequenceView| plan.advance.iter().any(|advance| advance.id == sequence.id);
        let (resident, away): (Vec<_>, Vec<_>) = step.sequences.iter().partition(|sequence| sequence.resident);
        let free = step.slots - resident.len();
        for class in Class::ALL {
            let takers = away.iter().copied().filter(advances).filter(|sequence| sequence.class >= class).count();
            let stands =
                resident.iter().copied().filter(|sequence| !advances(sequence) && sequence.class > class).count();
            let givers = if can.preemption { stands } else { 0 };
            anyhow::ensure!(
                takers <= free + givers,
                "{takers} sequences of {class} or less get {free} free slots and {givers} others: {plan:?}\n    for {step:?}"
            );
        }
    }
    Ok(())
}

async fn a_parked_sequence_comes_back(bed: &Bed) -> Checked {
    let scheduler = bed.open(8, 8)?;
    for class in Class::ALL {
        let parked = SequenceView { cached: 300, resident: false, idle: Duration::from_secs(1), ..view(1, class, 0) };
        let step = Step { slots: 2, ..step(vec![parked, view(2, class, 0)], 16) };
        let mut ids: Vec<_> = scheduler.plan(&step).advance.iter().map(|advance| advance.id).collect();
        ids.sort_unstable();
        same!(ids, vec![1, 2], "with a slot for a sequence of class {class}");
    }
    Ok(())
}

async fn an_empty_step_is_an_empty_plan(bed: &Bed) -> Checked {
    let scheduler = bed.open(1, 1)?;
    same!(scheduler.plan(&step(Vec::new(), 512)).advance, vec![]);
    same!(scheduler.plan(&step(vec![view(1, Class::P0, 5)], 0)).advance, vec![]);
    Ok(())
}
