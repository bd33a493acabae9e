//! Quotas: token buckets.

use rusqlite::params;
use selvedge_core::{
    Result,
    store::{Bucket, Take, Taken},
};

use crate::tx::{Tx, time};

pub(crate) fn take(tx: &Tx<'_>, request: &Take) -> Result<Taken> {
    let sql = "SELECT micro_tokens, refilled_at FROM quota WHERE name = ?1";
    let state = tx.one(sql, [&request.bucket], |row| {
        let micro_tokens = i128::from_be_bytes(row.get("micro_tokens")?);
        Ok(Bucket { micro_tokens, refilled_at: time(row, "refilled_at")? })
    })?;
    let (bucket, taken) = request.rule.apply(state, tx.now, request.ask);
    let sql = "INSERT INTO quota (name, micro_tokens, refilled_at) VALUES (?1, ?2, ?3)
               ON CONFLICT DO UPDATE SET micro_tokens = ?2, refilled_at = ?3";
    tx.run(sql, params![request.bucket, bucket.micro_tokens.to_be_bytes(), bucket.refilled_at.0])?;
    Ok(taken)
}
