//! The newest events, found without reading the others.

use std::collections::{BTreeMap, VecDeque};

use selvedge_core::{
    AnyStore, Context, Result, Timestamp,
    store::{FactView, StoreExt},
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{SHORT, short};

/// How far back it looks, in rows of the Store.
pub(super) const LOOK_BACK: i64 = 500;
/// How many are shown one by one.
const SHOWN: usize = 20;
/// A fact may have megabytes of properties: few at a time.
const AT_ONCE: usize = 20;

/// The newest events of a Store.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Newest {
    /// How many of them there are: those among the last 500 rows.
    pub(super) seen: usize,
    /// How many of each name.
    pub(super) names: BTreeMap<String, u64>,
    /// The newest first.
    pub(super) newest: Vec<Seen>,
}

/// An event.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Seen {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) subject: String,
    pub(super) recorded_at: Timestamp,
    /// Its properties; what is longer than a page should show is cut off, and is then a text.
    pub(super) properties: Value,
}

impl From<FactView> for Seen {
    fn from(FactView { fact, recorded_at }: FactView) -> Self {
        let cut = || Value::String(short(&String::from_utf8_lossy(&fact.properties)));
        let small = fact.properties.len() <= SHORT;
        let json = small.then(|| serde_json::from_slice(&fact.properties).ok()).flatten();
        Self { id: fact.id, name: fact.name, subject: fact.subject, recorded_at, properties: json.unwrap_or_else(cut) }
    }
}

/// Looks at the last rows: about 2 log₂(n) reads of one row to find the end of n facts, then at most
/// `LOOK_BACK / AT_ONCE` reads of a few. What is recorded meanwhile may be seen or not.
pub(super) async fn newest(store: &AnyStore, cx: &Context) -> Result<Newest> {
    let mut after = (last(store, cx).await? - LOOK_BACK).max(0);
    let (mut found, mut shown) = (Newest::default(), VecDeque::with_capacity(SHOWN + 1));
    for _ in 0..LOOK_BACK / AT_ONCE as i64 {
        let page = store.facts(cx, None, after, AT_ONCE).await?;
        for view in page.items {
            found.seen += 1;
            *found.names.entry(view.fact.name.clone()).or_default() += 1;
            shown.push_front(Seen::from(view));
            shown.truncate(SHOWN);
        }
        let Some(next) = page.next else { break };
        after = next;
    }
    found.newest = shown.into();
    Ok(found)
}

/// The number of the last row; 1 without any. A Store reads facts forwards only, and says whether there are any after a
/// number: that is enough to search by halves.
async fn last(store: &AnyStore, cx: &Context) -> Result<i64> {
    // If there are rows, the last is after `low`, and none is after `high`.
    let (mut low, mut high) = (0, 1);
    while any_after(store, cx, high).await? {
        (low, high) = (high, high.saturating_mul(2));
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if any_after(store, cx, middle).await? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(high)
}

async fn any_after(store: &AnyStore, cx: &Context, row: i64) -> Result<bool> {
    Ok(row < i64::MAX && !store.facts(cx, None, row, 1).await?.items.is_empty())
}
