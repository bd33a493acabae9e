//! Wake-ups across processes: NOTIFY after the commit, one LISTEN connection, and polling as the net below.
//!
//! NOTIFY takes a lock over the whole database until its transaction is flushed. Within a business transaction it would make
//! all of them wait for each other, so it goes out afterwards, in a transaction of its own that need not be flushed, and at
//! most once in a few milliseconds. It is a hint: whoever misses one looks by itself a little later.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use selvedge_core::{
    Result,
    store::{
        NewJob,
        hub::{Hub, Signals},
    },
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio_postgres::{AsyncMessage, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    connections::Connections,
    hints::Hints,
    tx::{Flush, params},
};

const NOTIFY: &str = "store.notify";

/// After a NOTIFY the next waits so long for each thing that it told of, for it costs as much as a commit, and at most so long. So a
/// burst of commits costs a few of them.
const PAUSE: (Duration, Duration) = (Duration::from_micros(40), Duration::from_millis(5));
/// After so few it does not wait: they were told about as fast as they came.
const FEW: usize = 8;
/// How long the listener waits before it connects again, at first and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often it is tried whether notifications arrive, until they do.
const ECHO: Duration = Duration::from_secs(2);
/// While the listener works, watchers still look by themselves this often: for commits in others' transactions, and for
/// what a crash kept from being told.
const NET: Duration = Duration::from_secs(1);

/// What a transaction made true, told once it is committed.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// When the first job is due that was added in this priority of this queue.
    jobs: HashMap<(String, i16), i64>,
    /// Something else changed in these queues.
    queues: HashSet<String>,
    topics: HashSet<String>,
    outbox: bool,
    /// How many things it tells of, however few signals that makes.
    told: usize,
}

impl News {
    /// A job was added.
    pub(crate) fn job(&mut self, job: &NewJob, due: i64) {
        self.told += 1;
        self.added(&job.queue, job.priority, due);
    }

    fn added(&mut self, queue: &str, priority: i16, due: i64) {
        let earliest = self.jobs.entry((queue.into(), priority)).or_insert(due);
        *earliest = due.min(*earliest);
    }

    /// Something changed in a queue.
    pub(crate) fn queue(&mut self, queue: &str) {
        self.told += 1;
        if !self.queues.contains(queue) {
            self.queues.insert(queue.into());
        }
    }

    /// A topic has a message.
    pub(crate) fn topic(&mut self, topic: &str) {
        self.told += 1;
        self.topics.insert(topic.into());
    }

    /// The outbox has an event.
    pub(crate) fn outbox(&mut self) {
        self.told += 1;
        self.outbox = true;
    }

    fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.queues.is_empty() && self.topics.is_empty() && !self.outbox
    }

    fn add(&mut self, other: Self) {
        other.jobs.into_iter().for_each(|((queue, priority), due)| self.added(&queue, priority, due));
        self.queues.extend(other.queues);
        self.topics.extend(other.topics);
        self.outbox |= other.outbox;
        self.told += other.told;
    }

    /// Whom it wakes.
    fn signals(&self) -> Signals {
        let mut signals = Signals::default();
        self.jobs.keys().for_each(|(queue, _)| signals.queue(queue));
        self.queues.iter().for_each(|queue| signals.queue(queue));
        self.topics.iter().for_each(|topic| signals.topic(topic));
        if self.outbox {
            signals.outbox();
        }
        signals
    }

    /// The payloads of its NOTIFYs, with the sender's mark.
    fn payloads(&self, mark: &str) -> Vec<String> {
        let jobs = self.jobs.iter().map(|((queue, priority), due)| format!("{mark}j{priority},{due},{queue}"));
        let queues = self.queues.iter().map(|queue| format!("{mark}q,{queue}"));
        let topics = self.topics.iter().map(|topic| format!("{mark}t,{topic}"));
        jobs.chain(queues).chain(topics).chain(self.outbox.then(|| format!("{mark}o,"))).collect()
    }

    /// What a payload tells, unless this process sent it.
    fn heard(mark: &str, payload: &str) -> Option<Self> {
        if payload.starts_with(mark) {
            return None;
        }
        let (head, name) = payload.get(mark.len()..)?.split_once(',')?;
        let mut news = Self::default();
        match head {
            "q" => news.queue(name),
            "t" => news.topic(name),
            "o" => news.outbox(),
            _ => {
                let (due, queue) = name.split_once(',')?;
                news.added(queue, head.strip_prefix('j')?.parse().ok()?, due.parse().ok()?);
            }
        }
        Some(news)
    }
}

/// Tells watchers, in this process and in others, what became true.
#[derive(Clone, Debug)]
pub(crate) struct Bell {
    pub(crate) hub: Arc<Hub>,
    pub(crate) hints: Arc<Hints>,
    /// To the notifier; none when other processes are not told.
    pub(crate) posts: Option<UnboundedSender<News>>,
}

impl Bell {
    pub(crate) fn ring(&self, news: News) {
        if news.is_empty() {
            return;
        }
        self.tell(&news);
        if let Some(posts) = &self.posts {
            // The notifier ends with the Store; then nobody is left to tell.
            let _ = posts.send(news);
        }
    }

    /// Tells this process.
    fn tell(&self, news: &News) {
        news.jobs.iter().for_each(|((queue, priority), due)| self.hints.added(queue, *priority, *due));
        news.queues.iter().for_each(|queue| self.hints.changed(queue));
        if !self.hub.is_empty() {
            self.hub.ring(news.signals());
        }
    }
}

/// What marks this Store's own notifications: eight characters.
pub(crate) fn mark() -> String {
    format!("{:08x}", fastrand::u32(..))
}

/// Sends what commits signal, each signal once in a while however often it came.
pub(crate) async fn notify(connections: Connections, mark: String, mut posts: UnboundedReceiver<News>) {
    while let Some(mut batch) = posts.recv().await {
        while let Ok(more) = posts.try_recv() {
            batch.add(more);
        }
        if let Err(error) = send(&connections, &batch.payloads(&mark)).await {
            tracing::debug!(%error, "others were not notified; they will look by themselves");
        }
        if batch.told > FEW {
            let told = u32::try_from(batch.told).unwrap_or(u32::MAX);
            tokio::time::sleep(PAUSE.0.saturating_mul(told).min(PAUSE.1)).await;
        }
    }
}

/// Nothing is lost when the server forgets this in a crash, so it does not wait for the disk.
async fn send(connections: &Connections, payloads: &[String]) -> Result<()> {
    let conn = connections.get(NOTIFY).await?;
    let db = connections.alone(&conn, NOTIFY, Flush::Later);
    let sql = "SELECT pg_notify($1, payload)
               FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unflushed, unnest($2::text[]) AS notice (payload)";
    db.all(sql, params![db.schema.name(), payloads.to_vec()], |_| Ok(())).await.map(drop)
}

/// Listens on a connection of its own, for as long as the Store is open. It always drains: a listener that stops reading
/// keeps the server from cleaning up.
pub(crate) async fn listen(
    config: Config,
    tls: MakeRustlsConnect,
    connections: Connections,
    mark: String,
    bell: Bell,
    listening: Arc<AtomicBool>,
) {
    let mut pause = RECONNECT.0;
    loop {
        match follow(&config, tls.clone(), &connections, &mark, &bell, &listening).await {
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
    connections: &Connections,
    mark: &str,
    bell: &Bell,
    listening: &AtomicBool,
) -> Result<(), tokio_postgres::Error> {
    let (client, mut connection) = config.connect(tls).await?;
    let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx)).boxed();
    let listen = format!("LISTEN \"{}\"", connections.schema.name());
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
                let (connections, echo) = (connections.clone(), echo.clone());
                // Beside this loop, which has to go on reading.
                tokio::spawn(async move { drop(send(&connections, &[echo]).await) });
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
                    bell.hints.all_changed();
                    bell.hub.ring_all();
                }
                Some(Ok(AsyncMessage::Notification(notice))) => {
                    if let Some(news) = News::heard(mark, notice.payload()) {
                        bell.tell(&news);
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
    fn news_survive_their_way_and_their_sender_does_not_hear_them() {
        let mut news = News::default();
        news.added("mäil, fast", -7, 12);
        news.added("mäil, fast", -7, 11);
        news.queue("other,");
        news.topic("t");
        news.outbox();
        let sent = news.payloads("0123abcd");
        let mut heard = News::default();
        sent.iter().for_each(|payload| heard.add(News::heard("ffffffff", payload).expect("it is read")));
        assert_eq!(heard.jobs, HashMap::from([(("mäil, fast".to_owned(), -7), 11)]));
        assert_eq!((heard.queues, heard.topics, heard.outbox), (news.queues, news.topics, true));
        assert!(sent.iter().all(|payload| News::heard("0123abcd", payload).is_none()));
        for garbage in
            ["", "x", "0000000", "00000000", "00000000z", "00000000oops,", "00000000j1,x,q", "00000000j1,q", "ääää"]
        {
            assert!(News::heard("ffffffff", garbage).is_none(), "{garbage}");
        }
    }
}
