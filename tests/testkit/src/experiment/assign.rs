//! Assignments: the same for ever, in the shares that were configured.

use std::collections::BTreeMap;

use selvedge_core::{
    Context, Experiment,
    experiment::{Assign, Assignment},
};

use super::{Bed, Placement, Variation};
use crate::suite::{Checked, cases, needs, race, refused, same};

cases! {
    a_subject_sees_the_same_every_time: "The same subject sees the same variation at a placement every time, whoever else asks in between.",
    a_subject_sees_the_same_after_a_restart: "The same subject sees the same variation after the plugin was opened again.",
    requests_that_race_agree: "However many ask for one subject at once, all are told the same.",
    an_assignment_says_what_decided: "An assignment names its placement, the experiment that decided, one of its variations and what that shows, and counts its subject in.",
    shares_are_as_configured: "Over many subjects each variation has its share, within six standard deviations.",
    a_weight_of_zero_is_never_seen: "Nobody sees a variation whose weight is 0.",
    experiments_are_independent: "What a subject sees in one experiment says nothing about another.",
    an_unknown_placement_is_not_found: "A placement that is not configured is `NotFound`.",
    showing_nothing_is_an_answer: "A variation that shows nothing is an assignment like any other, and no error.",
    an_assignment_stays_when_shares_change: "With `sticky`, a subject that was assigned stays where it is when the weights change.",
    a_peek_shows_what_assigning_will: "With `peek`, looking shows what a later assignment gives.",
    a_peek_enrols_nobody: "With `peek`, looking keeps nothing: the subject is not enrolled, no fact is recorded, and changed weights apply to it.",
    without_peek_looking_is_unsupported: "A plugin that cannot look without enrolling says `Unsupported`, and enrols nobody.",
    a_cancelled_or_late_call_is_refused: "A context that is cancelled or past its deadline is refused, and nobody is enrolled.",
}

fn subjects(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("user-{n}")).collect()
}

fn peek(subject: &str) -> Assign {
    Assign { peek: true, ..Assign::new(subject, "page") }
}

async fn a_subject_sees_the_same_every_time(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    let mut first = Vec::new();
    for subject in subjects(50) {
        first.push(bed.assign(&plugin, &subject, "page").await?.variation);
    }
    for _ in 0..3 {
        for (subject, first) in subjects(50).iter().zip(&first) {
            same!(&bed.assign(&plugin, subject, "page").await?.variation, first, "what {subject} sees");
        }
    }
    Ok(())
}

async fn a_subject_sees_the_same_after_a_restart(bed: &Bed) -> Checked {
    let mut rounds = Vec::new();
    for _ in 0..2 {
        let plugin = bed.halves().await?;
        let mut seen = Vec::new();
        for subject in subjects(50) {
            seen.push(bed.assign(&plugin, &subject, "page").await?);
        }
        rounds.push(seen);
    }
    same!(rounds[1], rounds[0]);
    Ok(())
}

async fn requests_that_race_agree(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    for subject in subjects(5) {
        let seen = race(20, |_| {
            let (plugin, cx, request) = (plugin.clone(), bed.cx.clone(), Assign::new(subject.clone(), "page"));
            async move { Ok(plugin.assign(&cx, request).await?) }
        });
        let seen = seen.await?;
        anyhow::ensure!(seen.iter().all(|one| *one == seen[0]), "{subject} sees several things: {seen:?}");
    }
    Ok(())
}

async fn an_assignment_says_what_decided(bed: &Bed) -> Checked {
    let placement = Placement::new("page", &[("control", 50), ("treatment", 50)]);
    let plugin = bed.open(std::slice::from_ref(&placement)).await?;
    for subject in subjects(20) {
        let assignment = bed.assign(&plugin, &subject, "page").await?;
        let variation = placement.variations.iter().find(|variation| variation.name == assignment.variation);
        let Some(Variation { name, show, .. }) = variation else { anyhow::bail!("no such variation: {assignment:?}") };
        let expected = Assignment {
            placement: "page".into(),
            experiment: Some(placement.experiment.clone()),
            variation: name.clone(),
            show: show.clone(),
            enrolled: true,
        };
        same!(assignment, expected);
    }
    Ok(())
}

/// How often each variation is seen.
async fn shares(bed: &Bed, variations: &[(&str, u32)]) -> anyhow::Result<BTreeMap<String, usize>> {
    let plugin = bed.open(&[Placement::new("page", variations)]).await?;
    let mut shares = BTreeMap::new();
    for subject in subjects(SUBJECTS) {
        *shares.entry(bed.assign(&plugin, &subject, "page").await?.variation).or_default() += 1;
    }
    Ok(shares)
}

const SUBJECTS: usize = 2000;

async fn shares_are_as_configured(bed: &Bed) -> Checked {
    let shares = shares(bed, &[("a", 60), ("b", 30), ("c", 10)]).await?;
    for (name, share) in [("a", 0.6), ("b", 0.3), ("c", 0.1)] {
        let expected = SUBJECTS as f64 * share;
        let most = 6.0 * (expected * (1.0 - share)).sqrt();
        let found = shares.get(name).copied().unwrap_or(0) as f64;
        anyhow::ensure!((found - expected).abs() <= most, "{found} see {name:?}, expected {expected} ± {most:.0}");
    }
    Ok(())
}

async fn a_weight_of_zero_is_never_seen(bed: &Bed) -> Checked {
    let shares = shares(bed, &[("never", 0), ("always", 100), ("nor this", 0)]).await?;
    same!(shares, BTreeMap::from([("always".to_owned(), SUBJECTS)]));
    Ok(())
}

async fn experiments_are_independent(bed: &Bed) -> Checked {
    let halves = |name| Placement::new(name, &[("control", 50), ("treatment", 50)]);
    let plugin = bed.open(&[halves("one"), halves("two")]).await?;
    let (mut in_one, mut in_both) = (0.0f64, 0.0);
    for subject in subjects(SUBJECTS) {
        let one = bed.assign(&plugin, &subject, "one").await?.variation == "treatment";
        let two = bed.assign(&plugin, &subject, "two").await?.variation == "treatment";
        in_one += f64::from(u8::from(one));
        in_both += f64::from(u8::from(one && two));
    }
    let (expected, most) = (in_one / 2.0, 6.0 * (in_one / 4.0).sqrt());
    anyhow::ensure!(
        (in_both - expected).abs() <= most,
        "of {in_one} in one treatment {in_both} are in the other, expected {expected} ± {most:.0}"
    );
    Ok(())
}

async fn an_unknown_placement_is_not_found(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    refused!(plugin.assign(&bed.cx, Assign::new("ada", "nowhere")).await, NotFound);
    Ok(())
}

async fn showing_nothing_is_an_answer(bed: &Bed) -> Checked {
    let mut placement = Placement::new("page", &[("nothing", 1)]);
    placement.variations[0].show = None;
    let plugin = bed.open(&[placement]).await?;
    let assignment = bed.assign(&plugin, "ada", "page").await?;
    same!((&*assignment.variation, assignment.show, assignment.enrolled), ("nothing", None, true));
    Ok(())
}

async fn an_assignment_stays_when_shares_change(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    needs(plugin.capabilities().sticky, "`sticky`")?;
    let mut before = Vec::new();
    for subject in subjects(50) {
        before.push(bed.assign(&plugin, &subject, "page").await?.variation);
    }
    drop(plugin);
    let plugin = bed.open(&[Placement::new("page", &[("control", 0), ("treatment", 100)])]).await?;
    for (subject, before) in subjects(50).iter().zip(&before) {
        same!(&bed.assign(&plugin, subject, "page").await?.variation, before, "what {subject} sees");
    }
    same!(bed.assign(&plugin, "somebody new", "page").await?.variation, "treatment");
    Ok(())
}

async fn a_peek_shows_what_assigning_will(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    needs(plugin.capabilities().peek, "`peek`")?;
    for subject in subjects(50) {
        let looked = plugin.assign(&bed.cx, peek(&subject)).await?;
        let assigned = bed.assign(&plugin, &subject, "page").await?;
        same!((looked.variation, looked.show), (assigned.variation, assigned.show), "what {subject} sees");
    }
    Ok(())
}

async fn a_peek_enrols_nobody(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    needs(plugin.capabilities().peek, "`peek`")?;
    for subject in subjects(20) {
        same!(plugin.assign(&bed.cx, peek(&subject)).await?.enrolled, false, "whether {subject} is enrolled");
    }
    same!(bed.home.facts().await?, vec![], "facts of looking");
    drop(plugin);
    let plugin = bed.open(&[Placement::new("page", &[("control", 0), ("treatment", 100)])]).await?;
    for subject in subjects(20) {
        same!(bed.assign(&plugin, &subject, "page").await?.variation, "treatment", "what {subject} sees");
    }
    Ok(())
}

async fn without_peek_looking_is_unsupported(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    needs(!plugin.capabilities().peek, "a plugin that cannot look without enrolling: it says it can")?;
    refused!(plugin.assign(&bed.cx, peek("ada")).await, Unsupported);
    same!(bed.home.facts().await?, vec![], "facts of looking");
    Ok(())
}

async fn a_cancelled_or_late_call_is_refused(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    let cancelled = Context::new();
    cancelled.cancel().cancel();
    let late = Context::new().with_deadline(std::time::Instant::now());
    refused!(plugin.assign(&cancelled, Assign::new("ada", "page")).await, Cancelled);
    refused!(plugin.assign(&late, Assign::new("ada", "page")).await, DeadlineExceeded);
    same!(bed.home.facts().await?, vec![], "facts of refused calls");
    Ok(())
}
