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
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// Of the first job; those of the others count up from it.
    pub(crate) token: i64,
    pub(crate) leased_at: Timestamp,
    pub(crate) leased_until: Timestamp,
    pub(crate) queue: String,
    pub(crate) tenant: Option<String>,
    pub(crate) owner: String,
    /// It counts towards the limits of its queue. The job is alone in its span then.
    pub(crate) limited: bool,
    /// The job is to be cancelled. It is alone in its span then.
    pub(crate) cancelled: bool,
}

const COLUMNS: &str = "id, last, token, leased_at, leased_until, queue, tenant, owner, limited, cancel";

impl Span {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            first: row.get(0)?,
            last: row.get(1)?,
            token: row.get(2)?,
            leased_at: time(row, 3)?,
            leased_until: time(row, 4)?,
            queue: row.get(5)?,
            tenant: row.get(6)?,
            owner: row.get(7)?,
            limited: row.get(8)?,
            cancelled: row.get(9)?,
        })
    }

    pub(crate) fn insert(&self, tx: &Tx<'_>) -> Result<()> {
        self.insert_part(tx, self.first, self.last)
    }

    /// Writes a row for some of the span's jobs.
    fn insert_part(&self, tx: &Tx<'_>, first: i64, last: i64) -> Result<()> {
        // From values: for a row that it selects, SQLite begins a journal.
        let sql = format!("INSERT INTO lease ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)");
        let Self { leased_at, leased_until, queue, tenant, owner, limited, cancelled, .. } = self;
        let token = self.token + (first - self.first);
        tx.run(&sql, params![first, last, token, leased_at.0, leased_until.0, queue, tenant, owner, limited, cancelled])
            .map(drop)
    }

    /// The lease is on one of its jobs, the token fits, and it has not run out.
    pub(crate) fn holds(&self, lease: &Lease, now: Timestamp) -> bool {
        (self.first..=self.last).contains(&lease.id)
            && self.token.checked_add(lease.id - self.first) == Some(lease.token)
            && !Lease::expired(self.leased_at, self.leased_until, now)
    }

    /// Takes the jobs from `from` to `to` out of the span.
    pub(crate) fn remove(&self, tx: &Tx<'_>, from: i64, to: i64) -> Result<()> {
        let (before, after) = (self.first < from, to < self.last);
        if before && after {
            self.insert_part(tx, to + 1, self.last)?;
        }
        let change = match (before, after) {
            (true, _) => tx.run("UPDATE lease SET last = ?2 WHERE id = ?1", [self.first, from - 1]),
            (false, true) => {
                tx.run("UPDATE lease SET id = ?2, token = token + (?2 - id) WHERE id = ?1", [self.first, to + 1])
            }
            (false, false) => tx.run("DELETE FROM lease WHERE id = ?1", [self.first]),
        };
        change.map(drop)
    }

    /// Gives one of its jobs a span of its own.
    pub(crate) fn isolate(&self, tx: &Tx<'_>, id: i64) -> Result<()> {
        if id < self.last {
            self.insert_part(tx, id + 1, self.last)?;
        }
        if self.first < id {
            self.insert_part(tx, id, id)?;
            tx.run("UPDATE lease SET last = ?2 WHERE id = ?1", [self.first, id - 1])?;
        } else if id < self.last {
            tx.run("UPDATE lease SET last = ?1 WHERE id = ?1", [id])?;
        }
        Ok(())
    }
}

/// The span that a job is in, while it runs.
pub(crate) fn of(tx: &Tx<'_>, id: i64) -> Result<Option<Span>> {
    let sql = format!("SELECT {COLUMNS} FROM lease WHERE id <= ?1 ORDER BY id DESC LIMIT 1");
    Ok(tx.one(&sql, [id], Span::read)?.filter(|span| id <= span.last))
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
