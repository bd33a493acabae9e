//! Assignments and facts.

use selvedge_core::{
    Result,
    store::{Fact, FactView, Outcome, StickyAssignment},
};
use tokio_postgres::Row;

use crate::tx::{Tx, bytes, count, get, gone, params, time};

pub(crate) async fn assign(tx: &Tx<'_>, wanted: &StickyAssignment) -> Result<Outcome> {
    let sql = "
        INSERT INTO selvedge.assignment AS kept (subject, experiment, variation, version) VALUES ($1, $2, $3, $4)
        ON CONFLICT (subject, experiment) DO UPDATE SET
          variation = CASE WHEN excluded.version > kept.version THEN excluded.variation ELSE kept.variation END,
          version = greatest(excluded.version, kept.version)
        RETURNING *";
    let kept = tx
        .one(sql, params![wanted.subject, wanted.experiment, wanted.variation, i64::from(wanted.version)], assignment)
        .await?;
    kept.map(Outcome::Assigned).ok_or_else(|| gone("an assignment is gone"))
}

pub(crate) fn assignment(row: &Row) -> Result<StickyAssignment> {
    Ok(StickyAssignment {
        subject: get(row, "subject")?,
        experiment: get(row, "experiment")?,
        variation: get(row, "variation")?,
        version: count(row, "version")?,
    })
}

pub(crate) async fn record(tx: &Tx<'_>, fact: &Fact) -> Result<Outcome> {
    let sql = "INSERT INTO selvedge.fact (fact_id, name, subject, recorded_at, properties) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (fact_id) DO NOTHING";
    Ok(Outcome::Recorded {
        duplicate: tx.run(sql, params![fact.id, fact.name, fact.subject, tx.now.0, &fact.properties[..]]).await? == 0,
    })
}

pub(crate) fn view(row: &Row) -> Result<FactView> {
    let fact = Fact {
        id: get(row, "fact_id")?,
        name: get(row, "name")?,
        subject: get(row, "subject")?,
        properties: bytes(row, "properties")?,
    };
    Ok(FactView { fact, recorded_at: time(row, "recorded_at")? })
}
