//! Samples of how many jobs came in.

use selvedge_core::{
    Result, Timestamp,
    store::{LoadHistory, LoadSample},
};
use tokio_postgres::Row;

use crate::tx::{Db, Tx, get, params, time};

/// Takes a sample if one is due, and drops those that are past their time.
pub(crate) async fn sample(tx: &Tx<'_>) -> Result<()> {
    let last = tx.one("SELECT max(at) FROM selvedge.load", &[], |row| get::<Option<i64>>(row, 0)).await?.flatten();
    if !LoadHistory::is_due(last.map(Timestamp), tx.now) {
        return Ok(());
    }
    let over = tx.now - LoadHistory::KEEP;
    tx.run("DELETE FROM selvedge.load WHERE at <= $1 OR at > $2", params![over.0, tx.now.0]).await?;
    // The sequence counts anyway, so nothing is added to enqueueing. It also counts numbers that were not used: those of
    // commits that were undone, and of duplicates.
    let sql = "INSERT INTO selvedge.load (at, enqueued)
               SELECT $1, CASE WHEN is_called THEN last_value ELSE 0 END FROM selvedge.job_id_seq ON CONFLICT DO NOTHING";
    tx.run(sql, params![tx.now.0]).await.map(drop)
}

pub(crate) async fn history(db: &Db<'_>) -> Result<LoadHistory> {
    let now = db.clock().await?;
    let read = |row: &Row| {
        let enqueued = u64::try_from(get::<i64>(row, "enqueued")?).unwrap_or(0);
        Ok(LoadSample { at: time(row, "at")?, enqueued })
    };
    let samples = db.all("SELECT at, enqueued FROM selvedge.load ORDER BY at", &[], read).await?;
    Ok(LoadHistory { now, samples })
}
