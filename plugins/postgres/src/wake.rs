//! Wake-ups across processes: NOTIFY after the commit, one LISTEN connection, and polling as the net below.
//!
//! NOTIFY takes a lock over the whole database until its transaction is flushed. Within a business transaction it would make
//! all of them wait for each other, so it goes out afterwards, in a transaction of its own that need not be flushed, and at
//! most once in a few milliseconds. It is a hint: whoever misses one looks by itself a little later.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Pool;
use futures_util::StreamExt;
use selvedge_core::store::hub::{Hub, Signal, Signals};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio_postgres::{AsyncMessage, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tx::{Schema, params};

/// After a NOTIFY the next waits this long: a burst of commits costs a few of them.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the listener waits before it connects again, at first and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often it is tried whether notifications arrive, until they do.
const ECHO: Duration = Duration::from_secs(2);
/// While the listener works, watchers still look by themselves this often: for commits in others' transactions, and for
/// what a crash kept from being told.
const NET: Duration = Duration::from_secs(1);

/// Tells watchers, in this process and in others, what became true.
#[derive(Clone, Debug)]
pub(crate) struct Bell {
    pub(crate) hub: Arc<Hub>,
    pub(crate) posts: UnboundedSender<Signals>,
}

impl Bell {
    pub(crate) fn ring(&self, signals: Signals) {
        if signals.iter().next().is_some() {
            self.hub.ring(signals.clone());
            // The notifier ends with the Store; then nobody is left to tell.
            let _ = self.posts.send(signals);
        }
    }
}

/// A signal as the payload of a NOTIFY, with its sender's mark.
fn payload(mark: &str, signal: &Signal) -> String {
    match signal {
        Signal::Queue(name) => format!("{mark}q{name}"),
        Signal::Topic(name) => format!("{mark}t{name}"),
        Signal::Outbox => format!("{mark}o"),
    }
}

/// The signal in a payload, unless this process sent it.
fn parse(mark: &str, payload: &str) -> Option<Signal> {
    if payload.starts_with(mark) {
        return None;
    }
    let rest = payload.get(mark.len()..)?;
    match rest.split_at_checked(1)? {
        ("q", name) => Some(Signal::Queue(name.into())),
        ("t", name) => Some(Signal::Topic(name.into())),
        ("o", "") => Some(Signal::Outbox),
        _ => None,
    }
}

/// What marks this Store's own notifications: eight characters.
pub(crate) fn mark() -> String {
    format!("{:08x}", fastrand::u32(..))
}

/// Sends what commits signal, each signal once in a while however often it came.
pub(crate) async fn notify(pool: Pool, schema: Schema, mark: String, mut posts: UnboundedReceiver<Signals>) {
    while let Some(mut batch) = posts.recv().await {
        while let Ok(more) = posts.try_recv() {
            more.iter().for_each(|signal| batch.add(signal.clone()));
        }
        let payloads: Vec<String> = batch.iter().map(|signal| payload(&mark, signal)).collect();
        if let Err(error) = send(&pool, &schema, &payloads).await {
            tracing::debug!(%error, "others were not notified; they will look by themselves");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn send(
    pool: &Pool,
    schema: &Schema,
    payloads: &[String],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let conn = pool.get().await?;
    // Nothing is lost when the server forgets this transaction in a crash, so it does not wait for the disk.
    conn.batch_execute("BEGIN; SET LOCAL synchronous_commit = off").await?;
    let sql = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS notice (payload)";
    let sent = conn.query_typed(sql, params![schema.name(), payloads.to_vec()]).await;
    conn.batch_execute(if sent.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    sent.map(drop).map_err(Into::into)
}

/// Listens on a connection of its own, for as long as the Store is open. It always drains: a listener that stops reading
/// keeps the server from cleaning up.
pub(crate) async fn listen(
    config: Config,
    tls: MakeRustlsConnect,
    pool: Pool,
    schema: Schema,
    mark: String,
    hub: Arc<Hub>,
    listening: Arc<AtomicBool>,
) {
    let mut pause = RECONNECT.0;
    loop {
        match follow(&config, tls.clone(), &pool, &schema, &mark, &hub, &listening).await {
            Ok(()) => tracing::debug!("the listening connection ended"),
            Err(error) => tracing::debug!(%error, "cannot listen"),
        }
        if listening.swap(false, Ordering::AcqRel) {
            tracing::warn!("the listening connection is lost: watchers poll until it is back");
            pause = RECONNECT.0;
        }
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}

async fn follow(
    config: &Config,
    tls: MakeRustlsConnect,
    pool: &Pool,
    schema: &Schema,
    mark: &str,
    hub: &Hub,
    listening: &AtomicBool,
) -> Result<(), tokio_postgres::Error> {
    let (client, mut connection) = config.connect(tls).await?;
    let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx)).boxed();
    let listen = format!("LISTEN \"{}\"", schema.name());
    let mut asked = Box::pin(client.batch_execute(&listen));
    // PgBouncer in transaction mode takes a LISTEN and passes nothing on. So it counts once an echo has come, sent the way that
    // all notifications are sent.
    let echo = format!("{mark}e");
    let (mut echoes, mut sent, mut stands) = (tokio::time::interval(ECHO), 0, false);
    loop {
        tokio::select! {
            done = &mut asked, if !stands => {
                done?;
                stands = true;
            }
            _ = echoes.tick(), if stands && !listening.load(Ordering::Acquire) => {
                let (pool, schema, echo) = (pool.clone(), schema.clone(), echo.clone());
                // Beside this loop, which has to go on reading.
                tokio::spawn(async move { drop(send(&pool, &schema, &[echo]).await) });
                sent += 1;
                if sent == 2 {
                    tracing::warn!(
                        "nothing arrives on the connection that listens, so watchers poll: if its URL leads through \
                         PgBouncer, give the listener a direct one"
                    );
                }
            }
            message = messages.next() => match message {
                Some(Ok(AsyncMessage::Notification(notice))) if notice.payload() == echo => {
                    listening.store(true, Ordering::Release);
                    // What was told in the meantime was missed.
                    hub.ring_all();
                }
                Some(Ok(AsyncMessage::Notification(notice))) => {
                    if let Some(signal) = parse(mark, notice.payload()) {
                        let mut signals = Signals::default();
                        signals.add(signal);
                        hub.ring(signals);
                    }
                }
                Some(Ok(_)) => (),
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
        }
    }
}

/// Rings everybody now and then: often while nobody listens, seldom otherwise.
pub(crate) async fn poll(hub: Arc<Hub>, listening: Arc<AtomicBool>, interval: Duration) {
    loop {
        let pause = if listening.load(Ordering::Acquire) { NET.max(interval) } else { interval };
        // Processes that were started together do not look together.
        tokio::time::sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        if !hub.is_empty() {
            hub.ring_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_survives_its_way_and_its_sender_does_not_hear_it() {
        for signal in [Signal::Queue("mäil".into()), Signal::Topic(String::new()), Signal::Outbox] {
            let sent = payload("0123abcd", &signal);
            assert_eq!(parse("ffffffff", &sent), Some(signal));
            assert_eq!(parse("0123abcd", &sent), None);
        }
        for garbage in ["", "x", "0000000", "00000000", "00000000z", "00000000oops", "ääää"] {
            assert_eq!(parse("ffffffff", garbage), None);
        }
    }
}
