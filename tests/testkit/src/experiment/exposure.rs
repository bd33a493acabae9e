//! Exposures: who counts in an experiment, once.

use selvedge_core::{
    Experiment,
    experiment::{Assign, PaywallEvent, PaywallImpression},
    store::Fact,
};

use super::{Bed, Placement};
use crate::suite::{Checked, cases, race, same};

cases! {
    an_assignment_is_counted: "An assignment records one impression, with placement, experiment and variation.",
    an_assignment_counts_once: "However many assign one subject at once, again, or after a restart, it is counted once.",
    each_experiment_counts: "A subject is counted in each of its experiments, and anew in a new version.",
    showing_nothing_counts: "Who is shown nothing is counted like all others, and the impression says so.",
    an_exit_offer_is_counted_as_one: "An impression of an exit offer says that it is one.",
}

/// The impressions that were recorded, and of whom.
async fn impressions(bed: &Bed) -> anyhow::Result<Vec<(String, PaywallImpression)>> {
    let read = |fact: &Fact| match PaywallEvent::from_fact(fact)? {
        Some(PaywallEvent::PaywallImpression(impression)) => Ok(Some((fact.subject.clone(), impression))),
        _ => Ok(None),
    };
    bed.home.facts().await?.iter().filter_map(|fact| read(fact).transpose()).collect()
}

async fn an_assignment_is_counted(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    for subject in ["ada", "bob", "cyd"] {
        let before = impressions(bed).await?;
        let assigned = plugin.assign(&bed.cx, Assign::new(subject, "page").on_device("phone")).await?;
        let after = impressions(bed).await?;
        same!(after.len(), before.len() + 1, "impressions");
        let (of, impression) = &after[before.len()];
        same!(of, subject);
        let PaywallImpression { placement_id, experiment, variant, cohort, is_exit_offer, shows_nothing, device } =
            impression;
        same!((placement_id, experiment, variant), (&assigned.placement, &assigned.experiment, &assigned.variation));
        same!((*is_exit_offer, *shows_nothing, device.as_deref()), (false, false, Some("phone")));
        anyhow::ensure!(!cohort.is_empty(), "the impression has no cohort");
    }
    Ok(())
}

async fn an_assignment_counts_once(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    let assigned = race(100, |_| {
        let (plugin, cx) = (plugin.clone(), bed.cx.clone());
        async move { Ok(plugin.assign(&cx, Assign::new("ada", "page")).await?.variation) }
    });
    let assigned = assigned.await?;
    bed.assign(&plugin, "ada", "page").await?;
    drop(plugin);
    let plugin = bed.halves().await?;
    bed.assign(&plugin, "ada", "page").await?;
    let counted: Vec<_> = impressions(bed).await?.into_iter().map(|(_, impression)| impression.variant).collect();
    same!(counted, vec![assigned[0].clone()], "the variations that were counted over 102 assignments");
    Ok(())
}

async fn each_experiment_counts(bed: &Bed) -> Checked {
    let halves = |name| Placement::new(name, &[("control", 50), ("treatment", 50)]);
    let second = Placement { version: 1, ..halves("one") };
    for placements in [[halves("one"), halves("two")], [second, halves("two")]] {
        let plugin = bed.open(&placements).await?;
        bed.assign(&plugin, "ada", "one").await?;
        bed.assign(&plugin, "ada", "two").await?;
    }
    let mut counted: Vec<_> =
        impressions(bed).await?.into_iter().filter_map(|(_, impression)| impression.experiment).collect();
    counted.sort();
    same!(counted, vec!["one-experiment", "one-experiment", "two-experiment"]);
    Ok(())
}

async fn showing_nothing_counts(bed: &Bed) -> Checked {
    let mut placement = Placement::new("page", &[("nothing", 1)]);
    placement.variations[0].show = None;
    let plugin = bed.open(&[placement]).await?;
    bed.assign(&plugin, "ada", "page").await?;
    let counted = impressions(bed).await?;
    same!(counted.iter().map(|(_, impression)| impression.shows_nothing).collect::<Vec<_>>(), vec![true]);
    Ok(())
}

async fn an_exit_offer_is_counted_as_one(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    plugin.assign(&bed.cx, Assign { exit_offer: true, ..Assign::new("ada", "page") }).await?;
    let counted = impressions(bed).await?;
    same!(counted.iter().map(|(_, impression)| impression.is_exit_offer).collect::<Vec<_>>(), vec![true]);
    Ok(())
}
