//! Assignments that stay, and facts that count once.

use selvedge_core::{
    Commit,
    store::{Fact, Outcome, StickyAssignment, StoreExt},
};

use super::Bed;
use crate::suite::{Checked, cases, needs, race, same};

cases! {
    the_first_assignment_wins: "Within one version the first assignment stays, and every later write is told which holds.",
    a_higher_version_replaces_an_assignment: "An assignment of a higher version replaces; one of a lower version does not.",
    assignments_that_race_agree: "However many assign one subject at once, all are told the same variation.",
    assignments_belong_to_subject_and_experiment: "Assignments of other subjects and experiments are separate, and survive a crash.",
    all_assignments_of_subjects_are_read: "All assignments of one or more subjects come back at once, by subject and experiment, in the order of their bytes, each once, and nobody else's.",
    a_fact_counts_once: "Recording a fact with a known id changes nothing and says so.",
    facts_come_back_as_recorded: "Facts come back whole, in the order they were recorded, all or of one name.",
}

fn sticky(variation: &str, version: u32) -> StickyAssignment {
    StickyAssignment { subject: "ada".into(), experiment: "paywall".into(), variation: variation.into(), version }
}

impl Bed {
    async fn assign(&self, assignment: StickyAssignment) -> anyhow::Result<StickyAssignment> {
        match self.commit(Commit::new().assign(assignment)).await?.outcomes.pop() {
            Some(Outcome::Assigned(kept)) => Ok(kept),
            other => anyhow::bail!("found {other:?}, expected an assignment"),
        }
    }
}

async fn the_first_assignment_wins(bed: &Bed) -> Checked {
    needs(bed.can.facts, "`facts`")?;
    same!(bed.store()?.assignment(&bed.cx, "ada", "paywall").await?, None);
    same!(bed.assign(sticky("blue", 1)).await?, sticky("blue", 1));
    same!(bed.assign(sticky("red", 1)).await?, sticky("blue", 1));
    same!(bed.store()?.assignment(&bed.cx, "ada", "paywall").await?, Some(sticky("blue", 1)));
    Ok(())
}

async fn a_higher_version_replaces_an_assignment(bed: &Bed) -> Checked {
    needs(bed.can.facts, "`facts`")?;
    bed.assign(sticky("blue", 3)).await?;
    same!(bed.assign(sticky("old", 2)).await?, sticky("blue", 3));
    same!(bed.assign(sticky("red", 4)).await?, sticky("red", 4));
    same!(bed.store()?.assignment(&bed.cx, "ada", "paywall").await?, Some(sticky("red", 4)));
    Ok(())
}

async fn assignments_that_race_agree(bed: &Bed) -> Checked {
    needs(bed.can.facts, "`facts`")?;
    use selvedge_core::Store;
    let store = bed.store()?;
    let kept = race(20, |n| {
        let (store, cx) = (store.clone(), bed.cx.clone());
        async move { Ok(store.commit(&cx, Commit::new().assign(sticky(&format!("v{n}"), 1))).await?.outcomes) }
    });
    let kept = kept.await?;
    anyhow::ensure!(kept.iter().all(|outcome| *outcome == kept[0]), "several variations: {kept:?}");
    Ok(())
}

async fn assignments_belong_to_subject_and_experiment(bed: &Bed) -> Checked {
    needs(bed.can.facts, "`facts`")?;
    let all = [("ada", "paywall"), ("ada", "home"), ("bob", "paywall")].map(|(subject, experiment)| StickyAssignment {
        subject: subject.into(),
        experiment: experiment.into(),
        variation: format!("{subject}-{experiment}"),
        version: 1,
    });
    bed.commit(all.iter().cloned().fold(Commit::new(), Commit::assign)).await?;
    if bed.can.durable {
        bed.crash().await?;
    }
    for kept in all {
        same!(bed.store()?.assignment(&bed.cx, &kept.subject, &kept.experiment).await?, Some(kept));
    }
    Ok(())
}

async fn all_assignments_of_subjects_are_read(bed: &Bed) -> Checked {
    needs(bed.can.facts, "`facts`")?;
    let of = |subject: &str, experiment: &str| StickyAssignment {
        subject: subject.into(),
        experiment: experiment.into(),
        ..sticky("blue", 0)
    };
    let mine =
        ["Zoom__0", "paywall__0", "paywall__1", "paywall__10", "é__0"].map(|experiment| of("id||ada", experiment));
    let others = ["id||ad", "id||adaa", "device||ada"].map(|subject| of(subject, "paywall__0"));
    bed.commit(mine.iter().rev().chain(&others).cloned().fold(Commit::new(), Commit::assign)).await?;
    same!(bed.store()?.assignments(&bed.cx, ["id||ada"]).await?, mine.to_vec());
    same!(bed.store()?.assignments(&bed.cx, ["id||nobody"]).await?, vec![]);
    same!(bed.store()?.assignments(&bed.cx, Vec::<String>::new()).await?, vec![]);
    let [_, _, device] = others;
    let both: Vec<_> = std::iter::once(device).chain(mine).collect();
    let known_by = ["id||ada", "id||nobody", "device||ada", "id||ada"];
    same!(bed.store()?.assignments(&bed.cx, known_by).await?, both);
    // More than a statement of some backends may have parameters.
    let crowd = (0..40_000).map(|n| format!("crowd||{n}")).chain(known_by.map(String::from));
    same!(bed.store()?.assignments(&bed.cx, crowd).await?, both);
    Ok(())
}

async fn a_fact_counts_once(bed: &Bed) -> Checked {
    needs(bed.can.facts, "`facts`")?;
    let fact = Fact::new("purchase", "ada", r#"{"cents":500}"#);
    let changed = Fact { properties: "{}".into(), ..fact.clone() };
    let receipt = bed.commit(Commit::new().record(fact.clone()).record(changed)).await?;
    same!(receipt.outcomes, vec![Outcome::Recorded { duplicate: false }, Outcome::Recorded { duplicate: true }]);
    if bed.can.durable {
        bed.crash().await?;
    }
    let receipt = bed.commit(Commit::new().record(fact.clone())).await?;
    same!(receipt.outcomes, vec![Outcome::Recorded { duplicate: true }]);
    let page = bed.store()?.facts(&bed.cx, None, 0, 100).await?;
    same!(page.items.into_iter().map(|view| view.fact).collect::<Vec<_>>(), vec![fact]);
    Ok(())
}

async fn facts_come_back_as_recorded(bed: &Bed) -> Checked {
    needs(bed.can.facts, "`facts`")?;
    let now = bed.now().await?;
    let facts: Vec<_> = (0..6u8)
        .map(|n| Fact::new(if n % 2 == 0 { "even" } else { "odd" }, format!("user {n} ü"), vec![n, 0, 0xff]))
        .collect();
    bed.commit(facts.iter().cloned().fold(Commit::new(), Commit::record)).await?;
    let all = bed.store()?.facts(&bed.cx, None, 0, 100).await?.items;
    anyhow::ensure!(all.iter().all(|view| view.recorded_at >= now), "recorded before it was recorded");
    same!(all.into_iter().map(|view| view.fact).collect::<Vec<_>>(), facts);
    let odd = bed.store()?.facts(&bed.cx, Some("odd"), 0, 100).await?.items;
    let expected: Vec<_> = facts.into_iter().filter(|fact| fact.name == "odd").collect();
    same!(odd.into_iter().map(|view| view.fact).collect::<Vec<_>>(), expected);
    Ok(())
}
