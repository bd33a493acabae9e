//! A size limit that never locks the Store up.

use selvedge_core::{Commit, Error, ErrorKind, Result, store::Op};

use crate::tx::Tx;

/// The limit of a file, in pages.
///
/// Leasing and ending a job makes rows longer before it makes them fewer. So a part of the limit is kept for that: new work is
/// refused first, and what is there already can be worked off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    for_new_work: u64,
}

impl Room {
    /// Of `pages`, an eighth is kept back.
    pub(crate) fn of(pages: u64) -> Self {
        Self { for_new_work: pages - pages / 8 }
    }

    /// Refuses a commit that only adds when its part of the limit is used up.
    pub(crate) fn check(self, tx: &Tx<'_>, commit: &Commit) -> Result<()> {
        if !only_adds(commit) {
            return Ok(());
        }
        let number = |pragma: &str| tx.one(pragma, [], |row| row.get::<_, u64>(0)).map(Option::unwrap_or_default);
        let used = number("PRAGMA page_count")?.saturating_sub(number("PRAGMA freelist_count")?);
        if used < self.for_new_work {
            return Ok(());
        }
        Err(Error::new(ErrorKind::StorageFull, "store.commit", "the file has reached its size limit")
            .with("pages", used)
            .with("pages_for_new_work", self.for_new_work)
            .advise("work off what is there, run housekeeping, or raise the size limit"))
    }
}

/// It adds something, and ends nothing.
fn only_adds(commit: &Commit) -> bool {
    let adds = |op: &Op| {
        matches!(
            op,
            Op::Enqueue(_)
                | Op::Emit(_)
                | Op::Submit(_)
                | Op::Publish { .. }
                | Op::Record(_)
                | Op::Assign(_)
                | Op::Schedule(_)
        )
    };
    !commit.is_empty() && commit.ops().iter().all(adds)
}
