//! What waits, in the order of the queues. One row is a span: a run of jobs with consecutive numbers that were enqueued
//! together, and differ in nothing that the order depends on.

use rusqlite::{Row, params};
use selvedge_core::Result;

use crate::{span::OF_JOB, tx::Tx};

/// Puts the jobs from `first` to `last` in their place.
pub(crate) fn add_span(
    tx: &Tx<'_>,
    (queue, priority, run_at): (&str, i16, i64),
    tenant: Option<&str>,
    (first, last): (i64, i64),
) -> Result<()> {
    let sql = "INSERT INTO ready (queue, priority, run_at, id, last, tenant) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    tx.run(sql, params![queue, priority, run_at, first, last, tenant]).map(drop)
}

/// Puts a job in its place.
pub(crate) fn add(tx: &Tx<'_>, id: i64) -> Result<()> {
    let sql = "INSERT OR FAIL INTO ready (queue, priority, run_at, id, last, tenant)
               SELECT queue, priority, run_at, id, id, tenant FROM job WHERE id = ?1";
    tx.run(sql, [id]).map(drop)
}

/// Takes out the spans of a priority that begin in this range of due times and numbers: the first ones there are.
pub(crate) fn remove_first(
    tx: &Tx<'_>,
    (queue, priority): (&str, i16),
    (from, mut first): (i64, i64),
    (to, last): (i64, i64),
) -> Result<()> {
    // SQLite walks along two ranges faster than along one whose end is a pair.
    if from < to {
        tx.run("DELETE FROM ready WHERE queue = ?1 AND priority = ?2 AND run_at < ?3", params![queue, priority, to])?;
        first = i64::MIN;
    }
    let sql = "DELETE FROM ready WHERE queue = ?1 AND priority = ?2 AND run_at = ?3 AND id BETWEEN ?4 AND ?5";
    tx.run(sql, params![queue, priority, to, first, last]).map(drop)
}

/// Takes one job out of its span.
pub(crate) fn remove(tx: &Tx<'_>, id: i64) -> Result<()> {
    let sql = "SELECT ready.queue, ready.priority, ready.run_at, ready.id, ready.last, ready.tenant
               FROM job CROSS JOIN ready
                 ON (ready.queue, ready.priority, ready.run_at) = (job.queue, job.priority, job.run_at)
                 AND ready.id <= job.id
               WHERE job.id = ?1 ORDER BY ready.id DESC LIMIT 1";
    let read = |row: &Row<'_>| {
        let place = (row.get::<_, String>(0)?, row.get(1)?, row.get(2)?);
        Ok((place, (row.get(3)?, row.get(4)?), row.get::<_, Option<String>>(5)?))
    };
    let found = tx.one(sql, [id], read)?.filter(|(_, (_, last), _)| id <= *last);
    let Some(((queue, priority, run_at), (first, last), tenant)) = found else { return Ok(()) };
    let sql = "DELETE FROM ready WHERE queue = ?1 AND priority = ?2 AND run_at = ?3 AND id = ?4";
    tx.run(sql, params![queue, priority, run_at, first])?;
    for (first, last) in [(first, id - 1), (id + 1, last)] {
        if first <= last {
            add_span(tx, (&queue, priority, run_at), tenant.as_deref(), (first, last))?;
        }
    }
    Ok(())
}

/// Puts all that wait in their places anew.
pub(crate) fn reorder(tx: &Tx<'_>) -> Result<()> {
    tx.run("DELETE FROM ready", [])?;
    let sql = "INSERT INTO ready (queue, priority, run_at, id, last, tenant)
               SELECT job.queue, priority, run_at, job.id, job.id, job.tenant FROM job LEFT JOIN lease ON {}
               WHERE state = 0 AND lease.id IS NULL ORDER BY 1, 2, 3, 4";
    tx.run(&sql.replace("{}", OF_JOB), []).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rusqlite::Connection;
    use selvedge_core::{
        Commit, Context, Store,
        store::{JobId, LeaseRequest, Limits, NewJob},
    };

    use crate::SqliteStore;

    fn jobs(count: usize) -> impl Iterator<Item = NewJob> {
        (0..count).map(|_| NewJob::new("q", &b"x"[..]))
    }

    fn spans(conn: &Connection) -> Vec<(i64, i64)> {
        let mut statement = conn.prepare("SELECT id, last FROM ready ORDER BY queue, priority, run_at, id").unwrap();
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    async fn lease(store: &SqliteStore, count: usize) -> Vec<i64> {
        let leased = store.lease(&Context::new(), LeaseRequest::new("q", count)).await.unwrap();
        leased.into_iter().map(|job| job.id.0).collect()
    }

    #[tokio::test]
    async fn what_is_enqueued_together_is_one_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let (store, cx) = (SqliteStore::open(&path).unwrap(), Context::new());
        let conn = Connection::open(&path).unwrap();
        store.commit(&cx, Commit::new().enqueue(jobs(100))).await.unwrap();
        assert_eq!(spans(&conn), [(1, 100)]);

        store.commit(&cx, Commit::new().cancel(JobId(1)).cancel(JobId(5)).cancel(JobId(100))).await.unwrap();
        assert_eq!(spans(&conn), [(2, 4), (6, 99)]);
        assert_eq!(lease(&store, 2).await, [2, 3]);
        assert_eq!(spans(&conn), [(4, 4), (6, 99)]);
        assert_eq!(lease(&store, 5).await, [4, 6, 7, 8, 9]);
        assert_eq!(spans(&conn), [(10, 99)]);

        store.commit(&cx, Commit::new().enqueue(jobs(2))).await.unwrap();
        assert_eq!(spans(&conn), [(10, 99), (101, 102)]);
        assert_eq!(lease(&store, 91).await, (10..=99).chain([101]).collect::<Vec<_>>());
        assert_eq!(spans(&conn), [(102, 102)]);
        assert_eq!(lease(&store, 9).await, [102]);
        assert!(spans(&conn).is_empty() && lease(&store, 1).await.is_empty());
    }

    #[tokio::test]
    async fn tenants_take_turns_out_of_the_middle_of_spans() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let (store, cx) = (SqliteStore::open(&path).unwrap(), Context::new());
        let conn = Connection::open(&path).unwrap();
        let of = |tenant: &str| jobs(4).map(|job| job.tenant(tenant)).collect::<Vec<_>>();
        let commit = Commit::new().limit("q", Limits { queue: None, tenant: Some(2) });
        store.commit(&cx, commit.enqueue(of("a")).enqueue(of("b"))).await.unwrap();
        assert_eq!(spans(&conn), [(1, 4), (5, 8)]);
        assert_eq!(lease(&store, 9).await, [1, 5, 2, 6]);
        assert_eq!(spans(&conn), [(3, 4), (7, 8)]);
    }
}
