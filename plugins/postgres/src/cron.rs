//! Cron schedules.

use selvedge_core::{
    Result,
    store::{Cron, Outcome},
};

use crate::{
    error::unreadable,
    job,
    tx::{Tx, get, params},
};

pub(crate) async fn schedule(tx: &Tx<'_>, cron: &Cron) -> Result<Outcome> {
    let next = cron.next_after(tx.now)?;
    let json = serde_json::to_string(cron).map_err(|error| unreadable("schedule", error))?;
    let sql = "INSERT INTO selvedge.schedule (name, cron, next_at) VALUES ($1, $2, $3)
               ON CONFLICT (name) DO UPDATE SET cron = $2, next_at = $3";
    tx.run(sql, params![cron.name, json, next.0]).await?;
    Ok(Outcome::Done)
}

pub(crate) async fn unschedule(tx: &Tx<'_>, name: &str) -> Result<Outcome> {
    tx.run("DELETE FROM selvedge.schedule WHERE name = $1", params![name]).await?;
    Ok(Outcome::Done)
}

pub(crate) fn parse(json: &str) -> Result<Cron> {
    serde_json::from_str(json).map_err(|error| unreadable("schedule", error))
}

/// Enqueues what is due, once for each schedule however many moments were missed; how many. A schedule that another process
/// is firing is left to it.
pub(crate) async fn fire(tx: &mut Tx<'_>) -> Result<u64> {
    let sql = "SELECT cron FROM selvedge.schedule WHERE next_at <= $1 ORDER BY next_at, name FOR UPDATE SKIP LOCKED";
    let due = tx.all(sql, params![tx.now.0], |row| get::<String>(row, 0)).await?;
    for json in &due {
        let cron = parse(json)?;
        job::enqueue(tx, std::slice::from_ref(&cron.job)).await?;
        match cron.next_after(tx.now) {
            Ok(next) => {
                let sql = "UPDATE selvedge.schedule SET next_at = $2 WHERE name = $1";
                tx.run(sql, params![cron.name, next.0]).await?
            }
            // It never fires again.
            Err(_) => tx.run("DELETE FROM selvedge.schedule WHERE name = $1", params![cron.name]).await?,
        };
    }
    Ok(due.len() as u64)
}

/// Counts every schedule's next moment anew, after the clock stepped back.
pub(crate) async fn recount(tx: &Tx<'_>) -> Result<()> {
    for json in tx.all("SELECT cron FROM selvedge.schedule", &[], |row| get::<String>(row, 0)).await? {
        let cron = parse(&json)?;
        if let Ok(next) = cron.next_after(tx.now) {
            let sql = "UPDATE selvedge.schedule SET next_at = least(next_at, $2) WHERE name = $1";
            tx.run(sql, params![cron.name, next.0]).await?;
        }
    }
    Ok(())
}
