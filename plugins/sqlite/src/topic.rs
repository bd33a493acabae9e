//! Topics: messages in order, for any number of subscribers.

use rusqlite::{Connection, OptionalExtension, Row, params};
use selvedge_core::{
    Error, ErrorKind, Result,
    store::{Message, Notice, Outcome, Start},
};

use crate::{
    error::from_sql,
    tx::{Tx, bytes, time},
};

/// How many messages a subscriber that skips nothing is given at once.
const PAGE: i64 = 64;

/// Cursors count up by one within their topic, so that what was missed can be counted without being there any more.
pub(crate) fn publish(tx: &mut Tx<'_>, topic: &str, payload: &[u8]) -> Result<Outcome> {
    let sql = "INSERT INTO topic (name, last) VALUES (?1, 1) ON CONFLICT DO UPDATE SET last = last + 1
               RETURNING id, last";
    let place = tx.one(sql, [topic], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    let (id, cursor) =
        place.ok_or_else(|| Error::new(ErrorKind::Internal, "store.commit", "a topic gave no cursor"))?;
    let sql = "INSERT INTO message (topic, cursor, published_at, payload) VALUES (?1, ?2, ?3, ?4)";
    tx.run(sql, params![id, cursor, tx.now.0, payload])?;
    tx.signals.topic(topic);
    Ok(Outcome::Published { cursor })
}

pub(crate) fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        cursor: row.get("cursor")?,
        payload: bytes(row, "payload")?,
        published_at: time(row, "published_at")?,
    })
}

fn read_error(error: rusqlite::Error) -> Error {
    from_sql("store.watch", error)
}

/// The cursor after which a subscriber begins.
pub(crate) fn start(conn: &Connection, topic: &str, from: Start) -> Result<i64> {
    let sql = match from {
        Start::After(cursor) => return Ok(cursor),
        Start::Now => "SELECT last FROM topic WHERE name = ?1",
        // With nothing kept, the beginning is now: what is gone was never promised.
        Start::Earliest => {
            "SELECT coalesce((SELECT min(cursor) - 1 FROM message WHERE topic = topic.id), last) FROM topic
             WHERE name = ?1"
        }
    };
    let found = conn.prepare_cached(sql).and_then(|mut sql| sql.query_row([topic], |row| row.get(0)).optional());
    Ok(found.map_err(read_error)?.unwrap_or(0))
}

/// What a subscriber that has seen everything up to `cursor` is told next.
pub(crate) fn next_notices(conn: &Connection, topic: &str, cursor: i64, buffer: Option<usize>) -> Result<Vec<Notice>> {
    let read = |sql: &str, limit: i64, after: i64| -> rusqlite::Result<Vec<Message>> {
        conn.prepare_cached(sql)?.query_map(params![topic, after, limit], message)?.collect()
    };
    let next = "SELECT m.cursor, m.payload, m.published_at FROM topic t JOIN message m ON m.topic = t.id
                WHERE t.name = ?1 AND m.cursor > ?2 ORDER BY m.cursor LIMIT ?3";
    let mut after = cursor;
    if let Some(buffer) = buffer {
        let last = "SELECT last FROM topic WHERE name = ?1";
        let last = conn.prepare_cached(last).and_then(|mut sql| sql.query_row([topic], |row| row.get(0)).optional());
        let last: i64 = last.map_err(read_error)?.unwrap_or(0);
        after = after.max(last.saturating_sub(i64::try_from(buffer).unwrap_or(i64::MAX)));
    }
    // A subscriber with a buffer is given one at a time: by the time it asks again, it may be too far behind.
    let messages = read(next, if buffer.is_some() { 1 } else { PAGE }, after).map_err(read_error)?;
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
