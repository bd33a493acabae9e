//! Leases as they are kept: one row for a span, which is a run of jobs with consecutive numbers that one call was given.
//!
//! What happens to one job of a span only (it ends, its lease is extended, it is cancelled) cuts the span.

use rusqlite::{Row, params};
use selvedge_core::{Result, Timestamp, store::Lease};

use crate::tx::{Tx, time};

/// Joins jobs to the span that each is in. Spans do not overlap.
pub(crate) const OF_JOB: &str = "lease.id = (SELECT max(id) FROM lease WHERE id <= job.id) AND lease.last >= job.id";

/// A row of `lease`.
#[derive(Debug)]
pub(crate) struct Span {
    first: i64,
    last: i64,
    /// Of the first job; those of the others count up from it.
    token: i64,
    leased_at: Timestamp,
    leased_until: Timestamp,
    /// The job is to be cancelled. It is alone in its span then.
    pub(crate) cancelled: bool,
    pub(crate) queue: String,
}

impl Span {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            first: row.get(0)?,
            last: row.get(1)?,
            token: row.get(2)?,
            leased_at: time(row, 3)?,
            leased_until: time(row, 4)?,
            cancelled: row.get(5)?,
            queue: row.get(6)?,
        })
    }

    /// The lease is on one of its jobs, the token fits, and it has not run out.
    pub(crate) fn holds(&self, lease: &Lease, now: Timestamp) -> bool {
        (self.first..=self.last).contains(&lease.id)
            && self.token.checked_add(lease.id - self.first) == Some(lease.token)
            && !Lease::expired(self.leased_at, self.leased_until, now)
    }

    /// Takes the jobs from `from` to `to` out of the span.
    pub(crate) fn remove(&self, tx: &Tx<'_>, from: i64, to: i64) -> Result<()> {
        if to < self.last {
            self.copy(tx, to + 1, self.last)?;
        }
        if self.first < from {
            tx.run("UPDATE lease SET last = ?2 WHERE id = ?1", [self.first, from - 1]).map(drop)
        } else {
            tx.run("DELETE FROM lease WHERE id = ?1", [self.first]).map(drop)
        }
    }

    /// Gives one of its jobs a span of its own.
    pub(crate) fn isolate(&self, tx: &Tx<'_>, id: i64) -> Result<()> {
        if id < self.last {
            self.copy(tx, id + 1, self.last)?;
        }
        if self.first < id {
            self.copy(tx, id, id)?;
            tx.run("UPDATE lease SET last = ?2 WHERE id = ?1", [self.first, id - 1])?;
        } else if id < self.last {
            tx.run("UPDATE lease SET last = ?1 WHERE id = ?1", [id])?;
        }
        Ok(())
    }

    fn copy(&self, tx: &Tx<'_>, first: i64, last: i64) -> Result<()> {
        let sql = "INSERT INTO lease (id, last, token, leased_at, leased_until, queue, tenant, owner, limited, cancel)
                   SELECT ?2, ?3, token + (?2 - id), leased_at, leased_until, queue, tenant, owner, limited, cancel
                   FROM lease WHERE id = ?1";
        tx.run(sql, [self.first, first, last]).map(drop)
    }
}

/// The span that a job is in, while it runs.
pub(crate) fn of(tx: &Tx<'_>, id: i64) -> Result<Option<Span>> {
    let sql = "SELECT id, last, token, leased_at, leased_until, cancel, queue FROM lease
               WHERE id <= ?1 ORDER BY id DESC LIMIT 1";
    Ok(tx.one(sql, [id], Span::read)?.filter(|span| id <= span.last))
}

/// The span of a lease that is held.
pub(crate) fn held(tx: &Tx<'_>, lease: &Lease) -> Result<Span> {
    of(tx, lease.id)?.filter(|span| span.holds(lease, tx.now)).ok_or_else(|| lease.lost())
}

/// Gives each running job of a queue a span of its own, which counts by its tenant.
pub(crate) fn count_each(tx: &Tx<'_>, queue: &str) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO lease (id, last, token, leased_at, leased_until, queue, tenant, owner, limited,
                 cancel)
               SELECT job.id, job.id, token + (job.id - lease.id), leased_at, leased_until, lease.queue, job.tenant,
                 owner, 1, cancel
               FROM lease CROSS JOIN job ON job.id BETWEEN lease.id AND lease.last
               WHERE lease.queue = ?1 AND limited = 0";
    tx.run(sql, params![queue]).map(drop)
}
