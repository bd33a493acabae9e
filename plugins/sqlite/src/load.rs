//! Samples of how many jobs came in.

use rusqlite::{Row, params};
use selvedge_core::{
    Result, Timestamp,
    store::{LoadHistory, LoadSample},
};

use crate::tx::Tx;

/// Takes a sample if one is due, and drops those that are past their time.
pub(crate) fn sample(tx: &Tx<'_>) -> Result<()> {
    let last = tx.one("SELECT max(at) FROM load", [], |row| row.get::<_, Option<i64>>(0))?.flatten();
    if !LoadHistory::is_due(last.map(Timestamp), tx.now) {
        return Ok(());
    }
    let over = tx.now - LoadHistory::KEEP;
    tx.run("DELETE FROM load WHERE at <= ?1 OR at > ?2", params![over.0, tx.now.0])?;
    // The highest number that a job ever had is how many there were; SQLite keeps it anyway.
    let sql = "INSERT INTO load (at, enqueued)
               VALUES (?1, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'job'), 0)) ON CONFLICT DO NOTHING";
    tx.run(sql, [tx.now.0]).map(drop)
}

pub(crate) const SAMPLES: &str = "SELECT at, enqueued FROM load ORDER BY at";

pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<LoadSample> {
    Ok(LoadSample { at: Timestamp(row.get(0)?), enqueued: row.get(1)? })
}
