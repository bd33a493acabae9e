//! Topics: messages in order, for any number of subscribers.

use selvedge_core::{
    Result,
    store::{Message, Notice, Outcome, Start},
};
use tokio_postgres::Row;

use crate::tx::{Db, Tx, bytes, get, gone, params, time};

/// How many messages a subscriber that skips nothing is given at once.
const PAGE: i64 = 64;

/// Cursors count up by one within their topic, so that what was missed can be counted without being there any more. The
/// topic's row stays locked until the commit: a later cursor is never seen before an earlier one.
pub(crate) async fn publish(tx: &mut Tx<'_>, topic: &str, payload: &[u8]) -> Result<Outcome> {
    let sql = "
        WITH place AS (
          INSERT INTO selvedge.topic AS topic (name, last) VALUES ($1, 1)
          ON CONFLICT (name) DO UPDATE SET last = topic.last + 1 RETURNING id, last
        )
        INSERT INTO selvedge.message (topic, cursor, published_at, payload) SELECT id, last, $2, $3 FROM place
        RETURNING cursor";
    let cursor = tx.one(sql, params![topic, tx.now.0, payload], |row| get(row, 0)).await?;
    tx.news.topic(topic);
    cursor.map(|cursor| Outcome::Published { cursor }).ok_or_else(|| gone("a topic gave no cursor"))
}

pub(crate) fn message(row: &Row) -> Result<Message> {
    Ok(Message {
        cursor: get(row, "cursor")?,
        payload: bytes(row, "payload")?,
        published_at: time(row, "published_at")?,
    })
}

/// The cursor after which a subscriber begins.
pub(crate) async fn start(db: &Db<'_>, topic: &str, from: Start) -> Result<i64> {
    let sql = match from {
        Start::After(cursor) => return Ok(cursor),
        Start::Now => "SELECT last FROM selvedge.topic WHERE name = $1",
        // With nothing kept, the beginning is now: what is gone was never promised.
        Start::Earliest => {
            "SELECT coalesce((SELECT min(cursor) - 1 FROM selvedge.message WHERE topic = kept.id), last)
             FROM selvedge.topic AS kept WHERE name = $1"
        }
    };
    Ok(db.one(sql, params![topic], |row| get(row, 0)).await?.unwrap_or(0))
}

/// What a subscriber that has seen everything up to `cursor` is told next.
pub(crate) async fn next_notices(db: &Db<'_>, topic: &str, cursor: i64, buffer: Option<usize>) -> Result<Vec<Notice>> {
    let mut after = cursor;
    if let Some(buffer) = buffer {
        let sql = "SELECT last FROM selvedge.topic WHERE name = $1";
        let last: i64 = db.one(sql, params![topic], |row| get(row, 0)).await?.unwrap_or(0);
        after = after.max(last.saturating_sub(i64::try_from(buffer).unwrap_or(i64::MAX)));
    }
    // A subscriber with a buffer is given one at a time: by the time it asks again, it may be too far behind.
    let limit = if buffer.is_some() { 1 } else { PAGE };
    let sql = "SELECT cursor, payload, published_at FROM selvedge.message
               WHERE topic = (SELECT id FROM selvedge.topic WHERE name = $1) AND cursor > $2 ORDER BY cursor LIMIT $3";
    let messages = db.all(sql, params![topic, after, limit], message).await?;
    let mut notices = Vec::with_capacity(messages.len() + 1);
    let mut seen = cursor;
    for message in messages {
        match message.cursor - 1 - seen {
            0 => (),
            missed => notices.push(Notice::Lagged(missed.unsigned_abs())),
        }
        seen = message.cursor;
        notices.push(Notice::Message(message));
    }
    Ok(notices)
}
