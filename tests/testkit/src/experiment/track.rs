//! Facts: kept whole, counted once.

use selvedge_core::{Context, Experiment, store::Fact};

use super::Bed;
use crate::suite::{Checked, cases, race, refused, same};

cases! {
    facts_are_kept: "A fact that was tracked is there for analysis, whole, also after a restart.",
    a_fact_counts_once: "Tracking a fact again changes nothing, and is no error.",
    facts_that_race_count_once: "However many track one fact at once, it counts once.",
    a_bad_fact_is_refused: "A fact without a name or subject is `InvalidInput`, and nothing is kept.",
    an_event_without_its_properties_is_refused: "An event of the taxonomy without a property it needs, or with a wrong one, is `InvalidInput` and names both; nothing is kept.",
    an_event_of_the_app_passes: "A fact of any other name is kept as it is.",
    a_cancelled_or_late_fact_is_refused: "A context that is cancelled or past its deadline is refused, and nothing is kept.",
}

fn bought(subject: &str) -> Fact {
    let properties = r#"{"product_id":"pro","revenue":500,"currency":"USD","is_trial":false,"discount_pct":0}"#;
    Fact::new("purchase_completed", subject, properties)
}

/// The facts of this name; a plugin may keep others beside them.
async fn purchases(bed: &Bed) -> anyhow::Result<Vec<Fact>> {
    let mut facts = bed.home.facts().await?;
    facts.retain(|fact| fact.name == "purchase_completed");
    Ok(facts)
}

async fn facts_are_kept(bed: &Bed) -> Checked {
    let facts: Vec<_> = (0..5).map(|n| bought(&format!("user-{n}"))).collect();
    let plugin = bed.halves().await?;
    for fact in &facts {
        plugin.track(&bed.cx, fact.clone()).await?;
    }
    same!(purchases(bed).await?, facts);
    drop(plugin);
    let _again = bed.halves().await?;
    same!(purchases(bed).await?, facts, "after a restart");
    Ok(())
}

async fn a_fact_counts_once(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    let (one, equal) = (bought("ada"), bought("ada"));
    for fact in [&one, &one, &equal, &one] {
        plugin.track(&bed.cx, fact.clone()).await?;
    }
    same!(purchases(bed).await?, vec![one, equal], "two honest, equal purchases, one of them told three times");
    Ok(())
}

async fn facts_that_race_count_once(bed: &Bed) -> Checked {
    let (plugin, fact) = (bed.halves().await?, bought("ada"));
    let tracked = race(20, |_| {
        let (plugin, cx, fact) = (plugin.clone(), bed.cx.clone(), fact.clone());
        async move { Ok(plugin.track(&cx, fact).await?) }
    });
    tracked.await?;
    same!(purchases(bed).await?, vec![fact]);
    Ok(())
}

async fn a_bad_fact_is_refused(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    let long = "x".repeat(selvedge_core::store::NewJob::MAX_NAME + 1);
    for fact in [bought(""), bought("a\0b"), bought(&long), Fact::new("", "ada", "{}")] {
        refused!(plugin.track(&bed.cx, fact).await, InvalidInput);
    }
    same!(bed.home.facts().await?, vec![], "facts that were refused");
    Ok(())
}

async fn an_event_without_its_properties_is_refused(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    let wrong = [
        (
            "purchase_completed",
            "discount_pct",
            r#"{"product_id":"pro","revenue":500,"currency":"USD","is_trial":false}"#,
        ),
        ("purchase_initiated", "discount_pct", r#"{"product_id":"pro","offer_type":"none","discount_pct":101}"#),
        ("subscription_renewed", "revenue", r#"{"period":"P1M","revenue":9.99,"currency":"USD"}"#),
        ("paywall_impression", "cohort", r#"{"placement_id":"page","variant":"control"}"#),
        ("exit_offer_triggered", "trigger_type", r#"{"trigger_type":"rage","variant":"control"}"#),
    ];
    for (event, property, properties) in wrong {
        let refused = plugin.track(&bed.cx, Fact::new(event, "ada", properties)).await;
        let said = refused.as_ref().map_err(ToString::to_string).err().unwrap_or_default();
        anyhow::ensure!(said.contains(event) && said.contains(property), "{event} without {property}: {said:?}");
        refused!(refused, InvalidInput);
    }
    same!(bed.home.facts().await?, vec![], "facts that were refused");
    Ok(())
}

async fn an_event_of_the_app_passes(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    let fact = Fact::new("workout_finished", "ada", r#"{"minutes":[20,5]}"#);
    plugin.track(&bed.cx, fact.clone()).await?;
    same!(bed.home.facts().await?, vec![fact]);
    Ok(())
}

async fn a_cancelled_or_late_fact_is_refused(bed: &Bed) -> Checked {
    let plugin = bed.halves().await?;
    let cancelled = Context::new();
    cancelled.cancel().cancel();
    let late = Context::new().with_deadline(std::time::Instant::now());
    refused!(plugin.track(&cancelled, bought("ada")).await, Cancelled);
    refused!(plugin.track(&late, bought("ada")).await, DeadlineExceeded);
    same!(bed.home.facts().await?, vec![], "facts of refused calls");
    Ok(())
}
