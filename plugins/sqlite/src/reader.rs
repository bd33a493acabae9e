//! Readers: threads with read-only connections, so that no caller's thread waits for the disk; and one connection for what
//! is read by its key, which takes less time than waking a thread.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use futures_channel::oneshot;
use rusqlite::Connection;
use selvedge_core::{Context, Error, ErrorKind, Result};

use crate::error::closed;

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// `None` ends a thread.
type Message = Option<Job>;

#[derive(Debug)]
pub(crate) struct Readers {
    sender: Sender<Message>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// For [`read_here`](Self::read_here), until the Store is closed.
    here: Mutex<Option<Connection>>,
}

impl Readers {
    /// `here` must not wait when the database is busy.
    pub(crate) fn start(connections: Vec<Connection>, here: Connection) -> Result<Self> {
        let (sender, receiver) = channel::<Message>();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for conn in connections {
            let receiver = receiver.clone();
            let thread = std::thread::Builder::new()
                .name("selvedge-sqlite-reader".into())
                .spawn(move || run(&conn, &receiver))
                .map_err(|error| {
                    Error::new(ErrorKind::Unavailable, "sqlite.open", "a reader thread could not start")
                        .caused_by(error)
                })?;
            threads.push(thread);
        }
        Ok(Self { sender, threads: Mutex::new(threads), here: Mutex::new(Some(here)) })
    }

    /// Reads a few rows by their key on the caller's thread, which takes less time than waking another (ADR 026). When
    /// somebody else is at it, or the database is busy, one of the threads does it.
    pub(crate) async fn read_here<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: &'static str,
        read: impl Fn(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        cx.check(operation)?;
        if let Ok(here) = self.here.try_lock() {
            match read(here.as_ref().ok_or_else(closed)?) {
                Err(error) if error.kind() == ErrorKind::Busy => {}
                rows => return rows,
            }
        }
        self.read(cx, operation, read).await
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: &'static str,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        cx.check(operation)?;
        let (reply, answer) = oneshot::channel();
        let cx = cx.clone();
        let job = move |conn: &Connection| {
            let rows = cx.check(operation).and_then(|()| read(conn));
            drop(reply.send(rows));
        };
        self.sender.send(Some(Box::new(job))).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Ends the threads and waits for them.
    pub(crate) fn close(&self) {
        drop(self.here.lock().unwrap_or_else(PoisonError::into_inner).take());
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.iter().for_each(|_| drop(self.sender.send(None)));
        for thread in threads {
            if thread.thread().id() != std::thread::current().id() {
                drop(thread.join());
            }
        }
    }
}

fn run(conn: &Connection, receiver: &Mutex<Receiver<Message>>) {
    loop {
        let message = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match message {
            Ok(Some(job)) => {
                // A panic while reading drops the reply, which the caller sees as an error; the thread goes on.
                drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(conn))));
            }
            Ok(None) | Err(_) => return,
        }
    }
}
