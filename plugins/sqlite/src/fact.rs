//! Assignments and facts.

use rusqlite::{Row, params};
use selvedge_core::{
    Error, ErrorKind, Result,
    store::{Fact, FactView, Outcome, StickyAssignment},
};

use crate::tx::{Tx, bytes, time, uuid};

pub(crate) fn assign(tx: &Tx<'_>, wanted: &StickyAssignment) -> Result<Outcome> {
    let sql = "INSERT INTO assignment (subject, experiment, variation, version) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT DO UPDATE SET
                 variation = iif(excluded.version > version, excluded.variation, variation),
                 version = max(excluded.version, version)
               RETURNING *";
    let params = params![wanted.subject, wanted.experiment, wanted.variation, wanted.version];
    let kept = tx.one(sql, params, assignment)?;
    kept.map(Outcome::Assigned).ok_or_else(|| Error::new(ErrorKind::Internal, "store.commit", "an assignment is gone"))
}

pub(crate) fn assignment(row: &Row<'_>) -> rusqlite::Result<StickyAssignment> {
    Ok(StickyAssignment {
        subject: row.get("subject")?,
        experiment: row.get("experiment")?,
        variation: row.get("variation")?,
        version: row.get("version")?,
    })
}

pub(crate) fn record(tx: &Tx<'_>, fact: &Fact) -> Result<Outcome> {
    let sql = "INSERT INTO fact (fact_id, name, subject, recorded_at, properties) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT (fact_id) DO NOTHING";
    let params = params![fact.id.as_bytes(), fact.name, fact.subject, tx.now.0, &fact.properties[..]];
    Ok(Outcome::Recorded { duplicate: tx.run(sql, params)? == 0 })
}

pub(crate) fn view(row: &Row<'_>) -> rusqlite::Result<FactView> {
    let fact = Fact {
        id: uuid(row, "fact_id")?,
        name: row.get("name")?,
        subject: row.get("subject")?,
        properties: bytes(row, "properties")?,
    };
    Ok(FactView { fact, recorded_at: time(row, "recorded_at")? })
}
