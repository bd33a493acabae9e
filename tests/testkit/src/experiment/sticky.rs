//! What is kept: by version, by experiment, and through a login.

use selvedge_core::{AnyExperiment, Experiment, experiment::Assign};

use super::{Bed, Placement};
use crate::suite::{Checked, cases, needs, race, same};

cases! {
    a_new_version_assigns_anew: "With `sticky`, a higher bucketing version assigns everybody anew; the lower one, set back, still holds.",
    who_is_blocked_takes_no_part: "With `sticky`, who was assigned in a version below the lowest allowed is in no experiment, and nothing is recorded.",
    experiments_are_kept_apart: "With `sticky`, many experiments of one subject never overwrite each other.",
    an_account_takes_over_its_device: "With `sticky`, an account without an assignment takes over its device's, and keeps it on other devices.",
    an_account_keeps_its_own: "With `sticky`, an account's own assignment wins over that of a device it signs in on.",
    a_device_means_nothing_unless_asked: "Where the experiment does not go by device, an account takes over nothing.",
    switching_users_mixes_nobody_up: "However requests of two users and their devices race, each sees its own.",
}

/// Halves that go by device.
fn by_device() -> Placement {
    Placement { by_device: true, ..Placement::new("page", &[("control", 50), ("treatment", 50)]) }
}

async fn sticky(bed: &Bed, placement: &Placement) -> anyhow::Result<AnyExperiment> {
    let plugin = bed.open(std::slice::from_ref(placement)).await?;
    needs(plugin.capabilities().sticky, "`sticky`")?;
    Ok(plugin)
}

/// What somebody sees on a device.
async fn sees(bed: &Bed, plugin: &AnyExperiment, subject: &str, device: &str) -> anyhow::Result<String> {
    Ok(plugin.assign(&bed.cx, Assign::new(subject, "page").on_device(device)).await?.variation)
}

/// Subjects that see `control` at halves that go by device: all weight then moves away from it.
async fn in_control(bed: &Bed, plugin: &AnyExperiment, name: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for number in 0..1000 {
        let subject = format!("{name}-{number}");
        if sees(bed, plugin, &subject, &subject).await? == "control" {
            found.push(subject);
        }
        if found.len() == count {
            return Ok(found);
        }
    }
    anyhow::bail!("of 1000 subjects only {} see a variation of weight 50%", found.len())
}

async fn a_new_version_assigns_anew(bed: &Bed) -> Checked {
    let first = Placement::new("page", &[("control", 1), ("treatment", 0)]);
    let moved = first.all_on_the_last();
    let plugin = sticky(bed, &first).await?;
    same!(bed.assign(&plugin, "ada", "page").await?.variation, "control");
    for (version, expected) in [(0, "control"), (1, "treatment"), (0, "control"), (1, "treatment")] {
        let plugin = sticky(bed, &Placement { version, ..moved.clone() }).await?;
        same!(bed.assign(&plugin, "ada", "page").await?.variation, expected, "in version {version}");
    }
    let plugin = sticky(bed, &Placement { version: 1, ..first }).await?;
    same!(bed.assign(&plugin, "ada", "page").await?.variation, "treatment", "version 1 is kept too");
    Ok(())
}

async fn who_is_blocked_takes_no_part(bed: &Bed) -> Checked {
    let placement = Placement::new("page", &[("control", 50), ("treatment", 50)]);
    let plugin = sticky(bed, &placement).await?;
    bed.assign(&plugin, "ada", "page").await?;
    let facts = bed.home.facts().await?;
    let plugin = sticky(bed, &Placement { version: 1, min_version: 1, ..placement }).await?;
    let blocked = bed.assign(&plugin, "ada", "page").await?;
    same!((blocked.experiment, blocked.enrolled), (None, false), "the experiment of who is blocked");
    same!(bed.home.facts().await?, facts, "facts of who is blocked");
    same!(bed.assign(&plugin, "bob", "page").await?.enrolled, true, "whether somebody new takes part");
    Ok(())
}

async fn experiments_are_kept_apart(bed: &Bed) -> Checked {
    let (one, other) = (("control", 1), ("treatment", 0));
    let swap = |(name, weight): (&'static str, u32)| (name, 1 - weight);
    let place = |n: usize, shares: [(&str, u32); 2]| Placement::new(&format!("page-{n}"), &shares);
    let shares = |n: usize| if n.is_multiple_of(2) { [one, other] } else { [one, other].map(swap) };
    let expected = |n: usize| if n.is_multiple_of(2) { "control" } else { "treatment" };
    let before: Vec<_> = (0..30).map(|n| place(n, shares(n))).collect();
    let after: Vec<_> = (0..30).map(|n| place(n, shares(n).map(swap))).collect();
    for placements in [before, after] {
        let plugin = bed.open(&placements).await?;
        needs(plugin.capabilities().sticky, "`sticky`")?;
        for (n, placement) in placements.iter().enumerate() {
            same!(bed.assign(&plugin, "ada", &placement.name).await?.variation, expected(n), "at {}", placement.name);
        }
    }
    Ok(())
}

async fn an_account_takes_over_its_device(bed: &Bed) -> Checked {
    let plugin = sticky(bed, &by_device()).await?;
    let phones = in_control(bed, &plugin, "phone", 5).await?;
    drop(plugin);
    let plugin = sticky(bed, &by_device().all_on_the_last()).await?;
    for (number, phone) in phones.iter().enumerate() {
        let user = format!("user-{number}");
        same!(sees(bed, &plugin, &user, phone).await?, "control", "what {user} sees on {phone}");
        same!(sees(bed, &plugin, &user, "new phone").await?, "control", "what {user} sees on another phone");
    }
    same!(sees(bed, &plugin, "nobody", "newer phone").await?, "treatment", "what somebody new sees");
    Ok(())
}

async fn an_account_keeps_its_own(bed: &Bed) -> Checked {
    let plugin = sticky(bed, &by_device()).await?;
    let phones = in_control(bed, &plugin, "phone", 1).await?;
    drop(plugin);
    let plugin = sticky(bed, &by_device().all_on_the_last()).await?;
    same!(sees(bed, &plugin, "ada", "tablet").await?, "treatment");
    same!(sees(bed, &plugin, "ada", &phones[0]).await?, "treatment", "what ada sees on a phone that sees control");
    same!(sees(bed, &plugin, &phones[0], &phones[0]).await?, "control", "what the phone sees signed out");
    Ok(())
}

async fn a_device_means_nothing_unless_asked(bed: &Bed) -> Checked {
    let placement = Placement::new("page", &[("control", 1), ("treatment", 0)]);
    let plugin = sticky(bed, &placement).await?;
    sees(bed, &plugin, "phone", "phone").await?;
    let plugin = sticky(bed, &placement.all_on_the_last()).await?;
    same!(sees(bed, &plugin, "ada", "phone").await?, "treatment");
    Ok(())
}

async fn switching_users_mixes_nobody_up(bed: &Bed) -> Checked {
    let plugin = sticky(bed, &by_device()).await?;
    let people = in_control(bed, &plugin, "person", 2).await?;
    let mut moved = Vec::new();
    for name in &people {
        moved.push(format!("{name}-late"));
    }
    drop(plugin);
    let plugin = sticky(bed, &by_device().all_on_the_last()).await?;
    let seen = race(40, |number| {
        let (plugin, cx) = (plugin.clone(), bed.cx.clone());
        let name = if number % 2 == 0 { people[number / 2 % 2].clone() } else { moved[number / 2 % 2].clone() };
        let request = Assign::new(name.clone(), "page").on_device(name);
        async move { Ok(plugin.assign(&cx, request).await?.variation) }
    });
    for (number, seen) in seen.await?.iter().enumerate() {
        same!(seen, if number % 2 == 0 { "control" } else { "treatment" }, "what request {number} saw");
    }
    Ok(())
}
