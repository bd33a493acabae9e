//! Who is one person: a device, and the account that signed in on it.

use std::collections::{HashMap, HashSet};

use selvedge_core::{
    Context, Result,
    store::{FactView, Store},
};
use serde::Deserialize;

use super::facts::each_fact;

/// Whose devices those are that were exposed while nobody had signed in.
///
/// An impression names its `device`. Where that is its subject too, nobody had signed in, and the device itself is exposed.
/// Where it is not, the subject is an account on that device: the first account that is recorded so, at this experiment or
/// elsewhere, before or after, owns what the device did signed out.
#[derive(Debug, Default)]
pub(super) struct People {
    accounts: HashMap<String, String>,
    /// A device was exposed as one.
    pub(super) with_devices: bool,
}

/// Of an impression's properties those that say who it is about.
#[derive(Debug, Deserialize)]
struct Named {
    #[serde(default)]
    experiment: Option<String>,
    #[serde(default)]
    device: Option<String>,
}

impl People {
    /// Reads the impressions alone: a later one may say whose an earlier exposure was. Those that cannot be read are for the
    /// reader of all facts to count.
    ///
    /// # Errors
    /// Those of the Store.
    pub(super) async fn read(store: &impl Store, cx: &Context, experiment: &str) -> Result<Self> {
        let (mut accounts, mut exposed) = (HashMap::new(), HashSet::new());
        let take = |view: &FactView| {
            let named = serde_json::from_slice::<Named>(&view.fact.properties).ok();
            let Some(Named { experiment: of, device: Some(device) }) = named else { return Ok(()) };
            if device != view.fact.subject {
                accounts.entry(device).or_insert_with(|| view.fact.subject.clone());
            } else if of.as_deref() == Some(experiment) {
                exposed.insert(device);
            }
            Ok(())
        };
        each_fact(store, cx, Some(super::store::IMPRESSION), take).await?;
        accounts.retain(|device, _| exposed.contains(device));
        Ok(Self { accounts, with_devices: !exposed.is_empty() })
    }

    /// The person that a subject is: the account of a device, else the subject itself.
    pub(super) fn person<'a>(&'a self, subject: &'a str) -> &'a str {
        self.accounts.get(subject).map_or(subject, String::as_str)
    }

    /// Makes `account` the owner of a device that has none. Whether it does.
    pub(super) fn claim(&mut self, device: &str, account: &str) -> bool {
        let free = !self.accounts.contains_key(device);
        if free {
            self.accounts.insert(device.to_owned(), account.to_owned());
        }
        free
    }
}
