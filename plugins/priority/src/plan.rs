//! Who advances in the next forward pass, and how far.
//!
//! Decisions are made before each pass (Yu et al., "Orca", OSDI 2022), and a prompt is read in pieces, so that a pass keeps to a
//! bound while someone waits for his next token (Agrawal et al., "Sarathi-Serve", OSDI 2024). A sequence that is left out keeps
//! its cache: it was preempted at the cost of nothing.
//!
//! - While a P0 reads its prompt, less urgent sequences join only if the pass becomes hardly longer: a row costs the same in the
//!   next pass, and the person who waits for the first token does not have to pay for it.
//! - While a P0 answers, the others join as far as the bound leaves room: eight rows in one pass cost far less than eight passes.
//!   Such a pass gives way to the next P0 that comes, like one without any. An answer that would make the pass slower in tokens a
//!   second waits for its turn.
//! - Without a P0, everybody joins, and prompts fill the batch. They fill it slowly after a P0 was there: a pass may take as long as
//!   none has been seen, so that a pass which is cut short was at most half of the time since.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use selvedge_core::scheduler::{Advance, Class, Plan, SequenceView, Step};

use crate::{
    cost::{Model, Rates, Rows},
    draft,
    settings::{PerClass, Settings},
};

/// By how much others may lengthen a pass that reads the prompt of a P0.
const SHARED: f64 = 1.04;
/// A pass that does nothing but read prompts may take so many times its fixed cost: shorter ones would waste more than a tenth.
const READING: f64 = 10.0;
/// How long one who decodes is left out in favour of his equals, in milliseconds: most answers to persons are shorter.
const TURN: u128 = 500;
/// A pass of which only this part of the bound is left is not cut short, if that is less than what would be done again.
const NEARLY: f64 = 0.25;
/// So much faster a pass has to be without an answer that is left out of it: the costs are known about as well.
const WORTH: f64 = 1.02;
/// What prompts get of a pass, as a part of its bound, however much the answers take.
const PROMPTS: f64 = 0.25;
/// So much of a P0's prompt may be left over when the rest of it is read at once: a pass for a few tokens costs more than they do.
const REST: f64 = 0.25;

/// Plans passes: what was learnt of them, and when a P0 was live last.
#[derive(Debug)]
pub(crate) struct Planner {
    settings: Arc<Settings>,
    model: Model,
    urgent_seen: Option<Duration>,
    /// The sequence that was promoted.
    promoted: Option<u64>,
}

impl Planner {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, model: Model::default(), urgent_seen: None, promoted: None }
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn plan(&mut self, now: Duration, step: &Step) -> Plan {
        if let Some(pass) = &step.last {
            self.model.learn(pass);
        }
        if step.sequences.iter().any(|sequence| sequence.class == Class::P0) {
            self.urgent_seen = Some(now);
        }
        self.promoted = promoted(step, self.promoted, self.settings.promote_after);
        let rules = Rules {
            bound: self.settings.step_bound.as_secs_f64(),
            promoted: self.promoted,
            quiet: self.urgent_seen.map(|seen| now.saturating_sub(seen).as_secs_f64()),
        };
        plan(step, self.model.rates(step.threads), &rules)
    }
}

/// What a plan keeps to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The longest pass while a P0 answers, in seconds.
    pub(crate) bound: f64,
    /// The sequence that runs like a P0, so that it does not starve.
    pub(crate) promoted: Option<u64>,
    /// For how many seconds no P0 was live; `None` when there never was one.
    pub(crate) quiet: Option<f64>,
}

/// A sequence and what it gets.
struct Row<'a> {
    view: &'a SequenceView,
    /// Its class, or P0 when it was promoted.
    urgency: Class,
    promoted: bool,
    seated: bool,
    /// It gets the slot of another, who stands still for it: then it must come on.
    took: bool,
    tokens: usize,
}

impl Row<'_> {
    fn decodes(&self) -> bool {
        self.view.prompt_left == 0
    }

    fn advances(&self) -> bool {
        self.tokens > 0
    }
}

/// The pass as it is put together.
struct Pass<'a> {
    rates: &'a Rates,
    rows: Rows,
    /// What is left of the batch.
    left: usize,
}

impl Pass<'_> {
    fn time(&self) -> f64 {
        self.rates.time(self.rows)
    }

    fn with_decode(&self, view: &SequenceView, tokens: usize) -> Rows {
        Rows { decode: self.rows.decode + tokens, cached: self.rows.cached + view.cached, ..self.rows }
    }

    /// Lets a sequence decode if the pass then takes no longer than `limit`.
    fn decode(&mut self, row: &mut Row<'_>, limit: f64) {
        let rows = self.with_decode(row.view, 1);
        if self.left > 0 && self.rates.time(rows) <= limit {
            self.rows = rows;
            self.left -= 1;
            row.tokens = 1;
        }
    }

    /// Reads as much of a prompt as `limit` allows, and at least so many tokens.
    fn read(&mut self, row: &mut Row<'_>, limit: f64, least: usize) {
        let mut room = self.rates.room(self.rows, row.view.cached, limit).max(least);
        let rest = row.view.prompt_left.saturating_sub(room);
        if row.view.class == Class::P0 && rest as f64 <= room as f64 * REST {
            room += rest;
        }
        let tokens = room.min(row.view.prompt_left).min(self.left);
        if tokens > 0 {
            self.rows.prefill += tokens;
            self.rows.cached += row.view.cached;
            self.left -= tokens;
            row.tokens = tokens;
        }
    }
}

/// The plan of one pass: a function of what it is shown.
pub(crate) fn plan(step: &Step, rates: &Rates, rules: &Rules) -> Plan {
    let threads = step.threads.max(1);
    let mut rows = ranked(step, rules);
    seat(&mut rows, step.slots);
    let mut pass = Pass { rates, rows: Rows::default(), left: step.batch };
    let urgent = step.sequences.iter().any(|sequence| sequence.class == Class::P0);
    let first = rows.partition_point(|row| row.urgency == Class::P0);
    let (most_urgent, others) = rows.split_at_mut(first);
    let limit = if urgent {
        admit_urgent(&mut pass, most_urgent, rules);
        let reads = most_urgent.iter().any(|row| row.view.class == Class::P0 && !row.decodes());
        // What nobody would notice is always shared, also on a machine that cannot keep the bound.
        let unnoticed = pass.time() * SHARED;
        let limit = if reads { unnoticed } else { rules.bound.max(unnoticed) };
        join(&mut pass, others, limit);
        leave_out(&mut pass, others);
        limit
    } else {
        admit_all(&mut pass, most_urgent, others, rules);
        f64::INFINITY
    };
    if rows.iter().all(|row| !row.advances())
        && let Some(row) = rows.iter_mut().find(|row| row.seated && step.batch > 0)
    {
        row.tokens = 1;
        pass.left = step.batch - 1;
    }
    let yields_to = yields_to(&rows);
    let advance = advances(&mut pass, &rows, limit);
    let takes = pass.time();
    let yields_for = Duration::try_from_secs_f64((takes / 2.0).max(takes - rules.bound * NEARLY)).ok();
    Plan { advance, threads, yields_to, yields_for }
}

/// For whom the pass may be cut short: for who is more urgent than all that advance, and for a P0 when others joined the answers
/// of P0s. The one that comes has a prompt, and nobody joins the pass that reads it: so no two passes in a row are lost to those
/// who answer.
///
/// A pass that advances one who was promoted is not cut short: persons who come all the time would undo it each time.
fn yields_to(rows: &[Row<'_>]) -> Option<Class> {
    let advancing = || rows.iter().filter(|row| row.advances());
    let reads = rows.iter().any(|row| row.view.class == Class::P0 && !row.decodes());
    match advancing().map(|row| row.urgency).min()? {
        Class::P0 if advancing().any(|row| row.promoted) || reads => None,
        Class::P0 => advancing().any(|row| row.urgency > Class::P0).then_some(Class::P0),
        Class::P1 => Some(Class::P0),
        Class::P2 => Some(Class::P1),
    }
}

/// Who is promoted: one at a time, so that those who stood still together do not lengthen the same passes, and until it ends or
/// nobody more urgent is there, because a sequence that got one token every two minutes would starve as well.
fn promoted(step: &Step, before: Option<u64>, after: PerClass<Option<Duration>>) -> Option<u64> {
    let still = |id: &u64| {
        let view = step.sequences.iter().find(|view| view.id == *id);
        view.is_some_and(|view| step.sequences.iter().any(|other| other.class < view.class))
    };
    let late = |view: &&SequenceView| after[view.class as usize].is_some_and(|after| view.idle >= after);
    let longest = || step.sequences.iter().filter(late).max_by_key(|view| (view.idle, Reverse(view.id)));
    before.filter(still).or_else(|| longest().map(|view| view.id))
}

/// The sequences in the order in which they get something.
fn ranked<'a>(step: &'a Step, rules: &Rules) -> Vec<Row<'a>> {
    let row = |view: &'a SequenceView| {
        let promoted = rules.promoted == Some(view.id);
        let urgency = if promoted { Class::P0 } else { view.class };
        Row { view, urgency, promoted, seated: false, took: false, tokens: 0 }
    };
    let mut rows: Vec<_> = step.sequences.iter().map(row).collect();
    let persons = || step.sequences.iter().filter(|view| view.class == Class::P0 && view.resident);
    let far = |view: &SequenceView| persons().map(|person| person.slot.abs_diff(view.slot)).min();
    // Those that decode take turns when there is no room for all; who is left out for a turn is far from the persons, so that the
    // slots of the others lie side by side. A prompt that was begun is read to its end, as the sort is
    // stable and sequences are shown in the order in which they came; that of one who was promoted comes after those of P0s.
    rows.sort_by_key(|row| {
        let turn = if row.decodes() { row.view.idle.as_millis() / TURN } else { 0 };
        let far = if row.decodes() { far(row.view) } else { None };
        (row.urgency, !row.decodes(), row.promoted && !row.decodes(), Reverse(turn), !row.view.resident, far)
    });
    rows
}

/// Gives the slots to sequences: who has one keeps it, unless someone of a more urgent class has none. One that is free goes to who
/// was promoted before anybody else: there may never be one that no P0 wants.
fn seat(rows: &mut [Row<'_>], slots: usize) {
    let mut free = slots;
    for row in rows.iter_mut().filter(|row| row.view.resident) {
        row.seated = free > 0;
        free = free.saturating_sub(1);
    }
    let promoted = rows.iter().position(|row| row.promoted);
    for index in promoted.into_iter().chain((0..rows.len()).filter(|index| Some(*index) != promoted)) {
        if rows[index].view.resident {
            continue;
        }
        if free > 0 {
            free -= 1;
        } else {
            let class = rows[index].view.class;
            let gives_way = |row: &Row<'_>| row.seated && row.view.resident && !row.promoted && row.view.class > class;
            let Some(victim) = rows.iter().rposition(gives_way) else { continue };
            rows[victim].seated = false;
            rows[index].took = true;
        }
        rows[index].seated = true;
    }
}

fn seated<'r, 'a>(rows: &'r mut [Row<'a>], class: Class, decodes: bool) -> impl Iterator<Item = &'r mut Row<'a>> {
    rows.iter_mut().filter(move |row| row.seated && row.urgency == class && row.decodes() == decodes)
}

/// P0s, and who was promoted, beside nobody yet.
fn admit_urgent(pass: &mut Pass<'_>, rows: &mut [Row<'_>], rules: &Rules) {
    // Should the batch be too small for all, prompts do not wait until all answers have ended.
    let prompts = seated(rows, Class::P0, false).count().min(2);
    let kept = prompts.min(pass.left.saturating_sub(1));
    pass.left -= kept;
    seated(rows, Class::P0, true).for_each(|row| pass.decode(row, f64::INFINITY));
    pass.left += kept;
    let answers = rows.iter().any(|row| row.advances() && row.view.class == Class::P0);
    let limit = if answers { with_prompts(pass, rules.bound) } else { rules.bound.max(pass.rates.fixed() * READING) };
    // The first comes on in every pass, and so does one who was promoted.
    let mut least = 1;
    let promoted = usize::from(rows.iter().any(|row| row.promoted && row.seated && !row.decodes()));
    for row in seated(rows, Class::P0, false) {
        let kept = if row.promoted { 0 } else { promoted.min(pass.left.saturating_sub(1)) };
        pass.left -= kept;
        pass.read(row, limit, if row.promoted { 1 } else { least });
        pass.left += kept;
        least = 0;
    }
}

/// The limit of a pass to which prompts are added: they get a part of it although the answers take more than the bound.
fn with_prompts(pass: &Pass<'_>, bound: f64) -> f64 {
    let answers = if pass.rows == Rows::default() { 0.0 } else { pass.time() };
    bound.max(answers + bound.max(answers) * PROMPTS)
}

/// Less urgent sequences beside a P0: the more urgent first, as far as the pass stays within its limit.
fn join(pass: &mut Pass<'_>, rows: &mut [Row<'_>], limit: f64) {
    for class in [Class::P1, Class::P2] {
        seated(rows, class, true).for_each(|row| pass.decode(row, limit));
        seated(rows, class, false).for_each(|row| pass.read(row, limit, 0));
        // What had no room for someone has none for anybody who is less urgent.
        if rows.iter().any(|row| row.seated && row.urgency == class && !row.advances()) {
            break;
        }
    }
}

/// Leaves out the answers without which the pass makes more tokens a second: where kernels take four rows at a time, a ninth costs as
/// much as four.
fn leave_out(pass: &mut Pass<'_>, rows: &mut [Row<'_>]) {
    let speed = |rows: Rows| rows.decode as f64 / pass.rates.time(rows);
    let mut fewer = pass.rows;
    let mut best = (speed(fewer) * WORTH, fewer, 0);
    let joined = || rows.iter().enumerate().rev().filter(|(_, row)| row.advances() && row.decodes());
    for (count, (_, row)) in joined().enumerate() {
        fewer.decode -= 1;
        fewer.cached -= row.view.cached;
        if speed(fewer) > best.0 {
            best = (speed(fewer), fewer, count + 1);
        }
    }
    let out: Vec<_> = joined().take(best.2).map(|(index, _)| index).collect();
    pass.left += out.len();
    pass.rows = best.1;
    out.into_iter().for_each(|index| rows[index].tokens = 0);
}

/// Everybody, when no P0 is live: answers first, because a row each is little, and prompts in what is left.
fn admit_all(pass: &mut Pass<'_>, promoted: &mut [Row<'_>], others: &mut [Row<'_>], rules: &Rules) {
    let always = f64::INFINITY;
    seated(promoted, Class::P0, true).for_each(|row| pass.decode(row, always));
    seated(others, Class::P1, true).for_each(|row| pass.decode(row, always));
    // In a small batch the answers of P2 leave half to the prompts of P1.
    let wanted: usize = seated(others, Class::P1, false).map(|row| row.view.prompt_left).sum();
    let kept = wanted.min(pass.left.div_ceil(2));
    pass.left -= kept;
    seated(others, Class::P2, true).for_each(|row| pass.decode(row, always));
    pass.left += kept;
    let limit = match rules.quiet {
        Some(quiet) => with_prompts(pass, rules.bound.max(quiet)),
        None => always,
    };
    let mut least = 1;
    for row in seated(promoted, Class::P0, false) {
        pass.read(row, limit, least);
        least = 0;
    }
    for class in [Class::P1, Class::P2] {
        for row in seated(others, class, false) {
            pass.read(row, limit, if row.took { 1 } else { least });
            least = 0;
        }
    }
}

/// The plan's entries, with drafts where they pay: the more urgent first, within the batch and the limit.
fn advances(pass: &mut Pass<'_>, rows: &[Row<'_>], limit: f64) -> Vec<Advance> {
    let mut yields = pass.rows.decode as f64;
    let advance = |row: &Row<'_>| {
        let draft = match row.view.draft {
            Some(draft) if row.decodes() => {
                let base = pass.rows;
                let time = |length: usize| {
                    let time = pass.rates.time(Rows { decode: base.decode + length, ..base });
                    (length <= pass.left && (length == 0 || time <= limit)).then_some(time)
                };
                let length = draft::length(draft, (yields - 1.0).max(0.0), time);
                pass.rows.decode += length;
                pass.left -= length;
                yields += draft::expected(f64::from(draft.acceptance).clamp(0.0, 1.0), length) - 1.0;
                length
            }
            _ => 0,
        };
        Advance { id: row.view.id, tokens: row.tokens, draft }
    };
    rows.iter().filter(|row| row.advances()).map(advance).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use selvedge_core::scheduler::{Draft, Pass};

    use super::*;

    /// SmolLM2-135M in Q4_0 on one core of a server: 13 ms and 4.5 ms for a row, 2.4 ms for a prompt's token.
    const CPU: [f64; 4] = [13e-3, 4.5e-3, 2.4e-3, 0.1e-6];
    /// A machine on which rows cost next to nothing.
    const GPU: [f64; 4] = [20e-3, 0.05e-3, 0.02e-3, 0.0];

    fn rates([fixed, decode, prefill, cached]: [f64; 4]) -> Rates {
        let mut model = Model::default();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            let (rows, prompt, tokens) = (random.usize(1..9), random.usize(0..64), random.usize(0..2000));
            let took = fixed + decode * rows as f64 + prefill * prompt as f64 + cached * tokens as f64;
            let took = Duration::from_secs_f64(took);
            model.learn(&Pass { decode: rows, prefill: prompt, cached: tokens, threads: 2, took });
        }
        model.rates(2).clone()
    }

    fn rules(quiet: Option<f64>) -> Rules {
        Rules { bound: 0.050, promoted: None, quiet }
    }

    fn view(id: u64, class: Class, prompt_left: usize) -> SequenceView {
        SequenceView { id, class, prompt_left, resident: true, ..SequenceView::default() }
    }

    fn step(sequences: Vec<SequenceView>, slots: usize) -> Step {
        Step { sequences, batch: 512, threads: 2, slots, last: None }
    }

    fn batch_jobs(count: u64) -> impl Iterator<Item = SequenceView> {
        (0..count).map(|id| SequenceView { idle: Duration::from_millis(id * 500), ..view(100 + id, Class::P2, 0) })
    }

    fn planned(plan: &Plan) -> Vec<(u64, usize)> {
        plan.advance.iter().map(|advance| (advance.id, advance.tokens)).collect()
    }

    #[test]
    fn beside_the_prompt_of_a_person_there_is_nobody_whom_he_would_notice() {
        let sequences: Vec<_> = [view(1, Class::P0, 32)].into_iter().chain(batch_jobs(8)).collect();
        let alone = plan(&step(sequences.clone(), 9), &rates(CPU), &rules(Some(0.0)));
        assert_eq!(planned(&alone), [(1, 32)]);
        assert_eq!(alone.yields_to, None);
        let shared = plan(&step(sequences, 9), &rates(GPU), &rules(Some(0.0)));
        assert_eq!(shared.advance.len(), 9, "where rows cost nothing, all advance: {shared:?}");
    }

    #[test]
    fn beside_the_answer_of_a_person_others_take_turns_within_the_bound() {
        let sequences: Vec<_> = [view(1, Class::P0, 0)].into_iter().chain(batch_jobs(12)).collect();
        let plan = plan(&step(sequences, 13), &rates(CPU), &rules(Some(0.0)));
        // 13 + 8·4.5 = 49 ms: the person, and the seven that waited longest.
        let ids: Vec<_> = plan.advance.iter().map(|advance| advance.id).collect();
        assert_eq!(ids, [1, 111, 110, 109, 108, 107, 106, 105]);
        assert_eq!(plan.yields_to, Some(Class::P0), "the next person does not wait for the seven");
        let until = plan.yields_for.unwrap().as_secs_f64() * 1e3;
        assert!((34.0..40.0).contains(&until), "49 ms of which a quarter of the bound is left: {until} ms");
        let short = [view(1, Class::P2, 0)];
        let short = super::plan(&step(short.to_vec(), 1), &rates(CPU), &rules(None));
        let until = short.yields_for.unwrap().as_secs_f64() * 1e3;
        assert!((8.0..9.5).contains(&until), "half of 17.5 ms: {until} ms");
    }

    #[test]
    fn an_answer_that_costs_as_much_as_four_waits_for_the_next_pass() {
        let tiles = |rows: usize| Duration::from_secs_f64(5e-3 + 11.5e-3 * rows.div_ceil(4) as f64);
        let mut model = Model::default();
        for number in 0..2000 {
            let decode = number % 12 + 1;
            model.learn(&Pass { decode, prefill: 0, cached: 0, threads: 2, took: tiles(decode) });
        }
        let beside = |count| {
            let sequences: Vec<_> = [view(1, Class::P0, 0)].into_iter().chain(batch_jobs(count)).collect();
            let rules = Rules { bound: 0.1, ..rules(Some(0.0)) };
            let plan = plan(&step(sequences, 20), model.rates(2), &rules);
            plan.advance.iter().map(|advance| advance.id).collect::<Vec<_>>()
        };
        assert_eq!(beside(8), [1, 107, 106, 105, 104, 103, 102, 101], "the one that waited least");
        assert_eq!(beside(7).len(), 8);
        // Of equals it is the one whose slot is at the edge.
        let at = |slot: usize, class| SequenceView { slot, ..view(slot as u64, class, 0) };
        let sequences = (0..9).map(|slot| at(slot, if slot == 6 { Class::P0 } else { Class::P2 })).collect();
        let plan = plan(&step(sequences, 9), model.rates(2), &Rules { bound: 0.1, ..rules(Some(0.0)) });
        let mut slots: Vec<_> = plan.advance.iter().map(|advance| advance.id).collect();
        slots.sort_unstable();
        assert_eq!(slots, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(beside(11).len(), 12);
        assert_eq!(beside(3).len(), 4);
        assert_eq!(beside(5).len(), 4, "four rows in 16.5 ms are more a second than six in 28");
        assert_eq!(beside(6).len(), 7);
    }

    #[test]
    fn a_prompt_is_read_in_pieces_beside_an_answer_and_in_one_without() {
        let both = vec![view(1, Class::P0, 0), view(2, Class::P0, 200)];
        let pieces = plan(&step(both.clone(), 2), &rates(CPU), &rules(Some(0.0)));
        assert!(std::matches!(&planned(&pieces)[..], [(1, 1), (2, 12..=13)]), "{pieces:?}");
        let alone = plan(&step(both[1..].to_vec(), 2), &rates(CPU), &rules(Some(0.0)));
        assert!(std::matches!(&planned(&alone)[..], [(2, 45..=55)]), "ten times the fixed cost: {alone:?}");
        let few = plan(&step(vec![view(2, Class::P0, 58)], 2), &rates(CPU), &rules(Some(0.0)));
        assert_eq!(planned(&few), [(2, 58)], "no pass for the few that would be left");
        // When the answers alone take the bound, a prompt still comes on.
        let many: Vec<_> = (0..20).map(|id| view(id, Class::P0, 0)).chain([view(90, Class::P0, 200)]).collect();
        let full = plan(&step(many, 32), &rates(CPU), &rules(Some(0.0)));
        assert!(std::matches!(planned(&full)[20], (90, 9..=12)), "{full:?}");
    }

    #[test]
    fn without_a_person_prompts_fill_the_batch_but_slowly_after_one_was_there() {
        let sequences: Vec<_> = batch_jobs(8).chain([view(1, Class::P2, 2000)]).collect();
        let prompt = |quiet| {
            let plan = plan(&step(sequences.clone(), 9), &rates(CPU), &rules(quiet));
            assert_eq!((plan.yields_to, plan.advance.len()), (Some(Class::P1), 9));
            planned(&plan)[8].1
        };
        assert_eq!(prompt(None), 504);
        assert_eq!(prompt(Some(10.0)), 504);
        assert!((5..=7).contains(&prompt(Some(0.0))), "{}", prompt(Some(0.0)));
        assert!((55..=65).contains(&prompt(Some(0.2))), "{}", prompt(Some(0.2)));
    }

    #[test]
    fn one_that_stood_still_too_long_runs_with_the_persons_until_it_ends() {
        let after = Settings::new(1, 1).promote_after;
        let late = |id, idle| SequenceView { idle: Duration::from_secs(idle), ..view(id, Class::P2, 0) };
        let person = view(1, Class::P0, 32);
        let then = step(vec![person, late(2, 121), late(3, 125), late(4, 119)], 4);
        assert_eq!(promoted(&then, None, after), Some(3), "the one that stood longest");
        let rules = Rules { promoted: Some(3), ..rules(Some(0.0)) };
        assert_eq!(planned(&plan(&then, &rates(CPU), &rules)), [(3, 1), (1, 32)]);
        let later = step(vec![person, late(2, 122), late(3, 0), late(4, 120)], 4);
        assert_eq!(promoted(&later, Some(3), after), Some(3), "it has not ended");
        let ended = step(vec![person, late(2, 122), late(4, 121)], 4);
        assert_eq!(promoted(&ended, Some(3), after), Some(2));
        let alone = step(vec![late(3, 0), late(4, 1)], 4);
        assert_eq!(promoted(&alone, Some(3), after), None, "nobody is more urgent");
        // Its prompt comes after those of persons, but comes on.
        let reads = step(vec![SequenceView { prompt_left: 500, ..late(3, 121) }, view(1, Class::P0, 500)], 4);
        let reads = plan(&reads, &rates(CPU), &rules);
        assert!(std::matches!(&planned(&reads)[..], [(1, 40..), (3, 1)]), "{reads:?}");
    }

    #[test]
    fn slots_go_to_the_more_urgent_and_stay_with_equals() {
        let away = |id, class| SequenceView { resident: false, idle: Duration::from_secs(20), ..view(id, class, 0) };
        let seats = |sequences: Vec<SequenceView>, slots| {
            let mut ids: Vec<_> = planned(&plan(&step(sequences, slots), &rates(GPU), &rules(None)))
                .into_iter()
                .map(|(id, _)| id)
                .collect();
            ids.sort_unstable();
            ids
        };
        let (p0, p1, p2) = (Class::P0, Class::P1, Class::P2);
        assert_eq!(seats(vec![view(1, p2, 0), view(2, p2, 0), away(3, p2)], 2), [1, 2]);
        assert_eq!(seats(vec![view(1, p1, 0), view(2, p1, 0), away(3, p1)], 2), [1, 2]);
        assert_eq!(seats(vec![view(1, p2, 0), view(2, p2, 0), away(3, p1)], 2).len(), 2);
        assert!(seats(vec![view(1, p2, 0), view(2, p2, 0), away(3, p1)], 2).contains(&3));
        assert_eq!(seats(vec![view(1, p1, 0), view(2, p2, 0), away(3, p0)], 2), [1, 3]);
        assert_eq!(seats(vec![view(1, p1, 0), view(2, p0, 0), away(3, p0)], 2), [2, 3]);
        assert_eq!(seats(vec![view(1, p0, 0), view(2, p0, 0), away(3, p0)], 2), [1, 2]);
        assert_eq!(seats(vec![view(1, p2, 0), away(2, p2), away(3, p1)], 3), [1, 2, 3]);
        // With room for one of two, it is the more urgent.
        assert_eq!(seats(vec![view(1, p2, 0), away(2, p2), away(3, p1)], 2), [1, 3]);
    }

    #[test]
    fn drafts_are_for_who_has_the_machine_to_himself() {
        let draft = Some(Draft { acceptance: 0.8, most: 8 });
        let alone = vec![SequenceView { draft, ..view(1, Class::P0, 0) }];
        let alone = plan(&step(alone, 9), &rates(CPU), &rules(Some(0.0)));
        assert!(alone.advance[0].draft >= 2, "{alone:?}");
        let beside: Vec<_> =
            [SequenceView { draft, ..view(1, Class::P0, 0) }].into_iter().chain(batch_jobs(20)).collect();
        let beside = plan(&step(beside, 30), &rates(CPU), &rules(Some(0.0)));
        assert!(beside.advance[0].draft <= 1, "{beside:?}");
    }

    #[test]
    fn a_plan_for_64_sequences_takes_microseconds() {
        let draft = Some(Draft { acceptance: 0.6, most: 8 });
        let sequence = |id: u64| SequenceView {
            id,
            class: Class::ALL[(id % 3) as usize],
            prompt_left: if id.is_multiple_of(5) { 100 } else { 0 },
            cached: 300,
            resident: id < 48,
            slot: id as usize,
            idle: Duration::from_millis(id * 7 % 50),
            draft,
        };
        let step = step((0..64).map(sequence).collect(), 48);
        let (rates, rules) = (rates(GPU), rules(Some(0.0)));
        let begun = std::time::Instant::now();
        for _ in 0..2000 {
            std::hint::black_box(plan(std::hint::black_box(&step), &rates, &rules));
        }
        let each = begun.elapsed() / 2000;
        println!("a plan for 64 sequences: {each:?}");
        assert!(each < Duration::from_millis(1), "{each:?}");
    }

    fn any_view() -> impl Strategy<Value = SequenceView> {
        let draft = proptest::option::of((0.0f32..=1.0, 0usize..12));
        (0usize..3, any::<bool>(), 1usize..600, 0usize..2000, any::<bool>(), 0u64..150, draft).prop_map(
            |(class, decodes, prompt, cached, resident, idle, draft)| SequenceView {
                id: 0,
                class: Class::ALL[class],
                prompt_left: if decodes { 0 } else { prompt },
                cached,
                resident,
                slot: cached % 12,
                idle: Duration::from_secs(idle),
                draft: draft.map(|(acceptance, most)| Draft { acceptance, most }),
            },
        )
    }

    proptest! {
        /// Whatever is live: the plan fits, slots change hands only to the more urgent, the bound holds, and nothing is idle that
        /// could run.
        #[test]
        fn plans_keep_the_rules(
            mut sequences in proptest::collection::vec(any_view(), 1..16),
            batch in 1usize..300, spare in 0usize..4, gpu in any::<bool>(), quiet in proptest::option::of(0.0f64..2.0),
        ) {
            sequences.iter_mut().zip(1..).for_each(|(view, id)| view.id = id);
            let resident = sequences.iter().filter(|view| view.resident).count();
            let step = Step { batch, ..step(sequences.clone(), (resident + spare).max(1)) };
            let late = promoted(&step, None, Settings::new(1, 1).promote_after);
            let (rates, rules) = (rates(if gpu { GPU } else { CPU }), Rules { promoted: late, ..rules(quiet) });
            let plan = plan(&step, &rates, &rules);
            let of = |id: u64| sequences.iter().find(|view| view.id == id).copied().unwrap();
            let on: Vec<_> = plan.advance.iter().map(|advance| (of(advance.id), *advance)).collect();
            prop_assert!(!on.is_empty() && on.len() <= step.slots);
            prop_assert!(on.iter().map(|(_, advance)| advance.tokens + advance.draft).sum::<usize>() <= batch);
            for (view, advance) in &on {
                prop_assert!((1..=view.prompt_left.max(1)).contains(&advance.tokens));
                prop_assert!(advance.draft <= view.draft.map_or(0, |draft| draft.most));
            }

            // Slots: those who have none get a free one, or one of a strictly less urgent sequence that stands still.
            let free = step.slots - resident;
            let stands = |view: &&SequenceView| view.resident && !on.iter().any(|(other, _)| other.id == view.id);
            for class in Class::ALL {
                let takers = on.iter().filter(|(view, _)| !view.resident && view.class >= class).count();
                let givers = sequences.iter().filter(stands).filter(|view| view.class > class).count();
                prop_assert!(takers <= free + givers, "{takers} of {class} or less for {free} free and {givers} others");
            }

            // Time: what is not P0's own, or promoted, is within the bound.
            let late = |view: &SequenceView| late == Some(view.id);
            let urgent = sequences.iter().any(|view| view.class == Class::P0);
            let rows = |of: &dyn Fn(&SequenceView) -> bool| {
                on.iter().filter(|(view, _)| of(view)).fold(Rows::default(), |rows, (view, advance)| Rows {
                    decode: rows.decode + if view.prompt_left == 0 { 1 + advance.draft } else { 0 },
                    prefill: rows.prefill + if view.prompt_left == 0 { 0 } else { advance.tokens },
                    cached: rows.cached + view.cached,
                })
            };
            let others = on.iter().any(|(view, advance)| view.class != Class::P0 && !late(view) || advance.draft > 0);
            if urgent && others {
                let all = rates.time(rows(&|_| true));
                let own = rates.time(rows(&|view| view.class == Class::P0 || late(view)));
                prop_assert!(all <= rules.bound.max(own * SHARED) * 1.0001, "{all} s, of which {own} are P0's own: {plan:?}");
            }

            // Nothing idle: without a P0, everybody that decodes and has a slot advances, or the batch is full.
            let full = on.iter().map(|(_, advance)| advance.tokens).sum::<usize>() >= batch;
            let waits = |view: &SequenceView| view.resident && view.prompt_left == 0 && on.iter().all(|(o, _)| o.id != view.id);
            let takers = on.iter().filter(|(view, _)| !view.resident).count();
            if !urgent && !full && batch >= 2 * sequences.len() {
                let idle = sequences.iter().filter(|view| waits(view)).count();
                prop_assert!(idle <= takers.saturating_sub(free), "{idle} stand still: {plan:?}");
            }
            // What is lost when it is cut short is not only the persons' own.
            let least = on.iter().filter(|(view, _)| !late(view)).map(|(view, _)| view.class).max();
            prop_assert!(plan.yields_to.is_none_or(|class| least.is_some_and(|least| class < least)), "{plan:?}");
        }
    }
}
