//! Quotas: token buckets.

use selvedge_core::{
    Result,
    store::{Ask, Bucket, Take, Taken},
};
use tokio_postgres::Row;

use crate::{
    error::unreadable,
    tx::{Tx, get, params, time},
};

pub(crate) async fn take(tx: &Tx<'_>, request: &Take) -> Result<Taken> {
    // A bucket nobody has used has no row to lock. Whoever adds it first holds it: the others wait here.
    let (fresh, _) = request.rule.apply(None, tx.now, Ask::Settle(0));
    let sql = "INSERT INTO selvedge.quota (name, micro_tokens, refilled_at) VALUES ($1, $2, $3)
               ON CONFLICT (name) DO NOTHING";
    let tokens = |bucket: &Bucket| bucket.micro_tokens.to_be_bytes();
    tx.run(sql, params![request.bucket, &tokens(&fresh)[..], fresh.refilled_at.0]).await?;
    let sql = "SELECT micro_tokens, refilled_at FROM selvedge.quota WHERE name = $1 FOR UPDATE";
    let read = |row: &Row| {
        let tokens = <[u8; 16]>::try_from(get::<&[u8]>(row, "micro_tokens")?);
        let tokens = tokens.map_err(|error| unreadable("bucket", error))?;
        Ok(Bucket { micro_tokens: i128::from_be_bytes(tokens), refilled_at: time(row, "refilled_at")? })
    };
    let state = tx.one(sql, params![request.bucket], read).await?;
    let (bucket, taken) = request.rule.apply(state, tx.now, request.ask);
    let sql = "UPDATE selvedge.quota SET micro_tokens = $2, refilled_at = $3 WHERE name = $1";
    tx.run(sql, params![request.bucket, &tokens(&bucket)[..], bucket.refilled_at.0]).await?;
    Ok(taken)
}
