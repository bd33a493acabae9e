//! The facts of a Store, page by page.

use selvedge_core::{
    Context, Result,
    store::{FactView, Store, StoreExt},
};

/// Facts that are read at once.
const PAGE: usize = 1_000;

/// Hands over every fact, or every one of a name, in the order in which they were recorded. It holds a page of them.
///
/// # Errors
/// Those of the Store and of `take`.
pub(super) async fn each_fact(
    store: &impl Store,
    cx: &Context,
    name: Option<&str>,
    mut take: impl FnMut(&FactView) -> Result<()>,
) -> Result<()> {
    let mut after = 0;
    loop {
        let page = store.facts(cx, name, after, PAGE).await?;
        page.items.iter().try_for_each(&mut take)?;
        match page.next {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}
