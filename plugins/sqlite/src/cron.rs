//! Cron schedules.

use rusqlite::params;
use selvedge_core::{
    Result,
    store::{Cron, Outcome},
};

use crate::{error::unreadable, job, tx::Tx};

pub(crate) fn schedule(tx: &Tx<'_>, cron: &Cron) -> Result<Outcome> {
    let next = cron.next_after(tx.now)?;
    let json = serde_json::to_string(cron).map_err(|error| unreadable("schedule", error))?;
    let sql = "INSERT INTO schedule (name, cron, next_at) VALUES (?1, ?2, ?3)
               ON CONFLICT DO UPDATE SET cron = ?2, next_at = ?3";
    tx.run(sql, params![cron.name, json, next.0])?;
    Ok(Outcome::Done)
}

pub(crate) fn unschedule(tx: &Tx<'_>, name: &str) -> Result<Outcome> {
    tx.run("DELETE FROM schedule WHERE name = ?1", [name])?;
    Ok(Outcome::Done)
}

pub(crate) fn parse(json: &str) -> Result<Cron> {
    serde_json::from_str(json).map_err(|error| unreadable("schedule", error))
}

/// Enqueues what is due, once for each schedule however many moments were missed; how many.
pub(crate) fn fire(tx: &mut Tx<'_>) -> Result<u64> {
    let sql = "SELECT cron FROM schedule WHERE next_at <= ?1 ORDER BY next_at, name";
    let due = tx.all(sql, [tx.now.0], |row| row.get::<_, String>(0))?;
    for json in &due {
        let cron = parse(json)?;
        job::enqueue(tx, &cron.job)?;
        match cron.next_after(tx.now) {
            Ok(next) => tx.run("UPDATE schedule SET next_at = ?2 WHERE name = ?1", params![cron.name, next.0])?,
            // It never fires again.
            Err(_) => tx.run("DELETE FROM schedule WHERE name = ?1", [&cron.name])?,
        };
    }
    Ok(due.len() as u64)
}

/// Counts every schedule's next moment anew, after the clock stepped back.
pub(crate) fn recount(tx: &Tx<'_>) -> Result<()> {
    for json in tx.all("SELECT cron FROM schedule", [], |row| row.get::<_, String>(0))? {
        let cron = parse(&json)?;
        if let Ok(next) = cron.next_after(tx.now) {
            let sql = "UPDATE schedule SET next_at = min(next_at, ?2) WHERE name = ?1";
            tx.run(sql, params![cron.name, next.0])?;
        }
    }
    Ok(())
}
