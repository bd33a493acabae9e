use std::{sync::Arc, time::Duration};

use selvedge::{Error, ErrorKind, Intent, intent, store};

use crate::{
    call::{Call, CancelHandle},
    engine::{Engine, Running},
    error::Outcome,
    hosts::{HostedTransport, HttpTransport, NetworkStatus, ask},
};

/// Something the app wants its server to do exactly once.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct NewIntent {
    /// What the server should do: `orders.create`.
    pub operation: String,
    /// What it needs for that: JSON in UTF-8.
    pub payload: Vec<u8>,
    /// What the app calls it (a cart or order number), for people who read keys.
    #[uniffi(default = None)]
    pub business_key: Option<String>,
    /// Intents of one aggregate go out in order; without one, an intent waits for no other.
    #[uniffi(default = None)]
    pub aggregate: Option<String>,
    /// The first wait after a failed attempt, in ms; without it, 500.
    #[uniffi(default = None)]
    pub backoff_base_ms: Option<u64>,
    /// The longest wait between two attempts, in ms; without it, 15 minutes.
    #[uniffi(default = None)]
    pub backoff_max_ms: Option<u64>,
    /// Its id, a UUID, to submit the same one twice without harm; without it, a new one.
    #[uniffi(default = None)]
    pub id: Option<String>,
}

impl NewIntent {
    /// An intent with a new id.
    pub fn new(operation: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            operation: operation.into(),
            payload: payload.into(),
            business_key: None,
            aggregate: None,
            backoff_base_ms: None,
            backoff_max_ms: None,
            id: None,
        }
    }

    fn into_core(self) -> selvedge::Result<Intent> {
        let mut intent = Intent::new(self.operation, self.payload);
        intent.business_key = self.business_key;
        intent.aggregate = self.aggregate;
        let first = self.backoff_base_ms.map_or(Duration::from_millis(500), Duration::from_millis);
        let longest = self.backoff_max_ms.map_or(Duration::from_secs(900), Duration::from_millis);
        intent.backoff = store::Backoff::new(first, longest);
        if let Some(id) = self.id {
            intent.id = uuid(&id)?;
        }
        Ok(intent)
    }
}

fn uuid(text: &str) -> selvedge::Result<uuid::Uuid> {
    text.parse().map_err(|error: uuid::Error| {
        Error::new(ErrorKind::InvalidInput, "engine.intent", "this is not the id of an intent")
            .with("id", text)
            .caused_by(error)
            .advise("pass the id that `submit` returned")
    })
}

/// An intent that is safely written down.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Submitted {
    /// Its id.
    pub id: String,
    /// Its idempotency key.
    pub key: String,
    /// It was there already; nothing was added.
    pub duplicate: bool,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Flushed {
    /// Requests sent.
    pub attempts: u64,
    /// Intents the server answered, with yes or no.
    pub answered: u64,
    /// Requests that failed and will be repeated.
    pub failed: u64,
}

/// Whether an intent has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum IntentState {
    /// Not yet.
    Pending,
    /// The server did it.
    Done,
    /// The server refused it for good.
    Refused,
}

/// An intent as the app looks at it.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct IntentView {
    /// Its id.
    pub id: String,
    /// Its idempotency key.
    pub key: String,
    /// What the server should do.
    pub operation: String,
    /// What it needs for that.
    pub payload: Vec<u8>,
    /// Whether it has been answered.
    pub state: IntentState,
    /// The status of the answer.
    pub answer_status: Option<u16>,
    /// The body of the answer.
    pub answer_body: Option<Vec<u8>>,
    /// How often it was sent.
    pub attempts: u32,
    /// Why it failed last.
    pub last_error: Option<String>,
    /// The trace it belongs to, as a W3C `traceparent`.
    pub traceparent: Option<String>,
    /// When it was submitted, in ms since the Unix epoch.
    pub submitted_at_ms: i64,
}

impl From<intent::IntentView> for IntentView {
    fn from(view: intent::IntentView) -> Self {
        let (answer_status, answer_body) = view.answer.map(|answer| (answer.status, Vec::from(answer.body))).unzip();
        Self {
            id: view.intent.id.to_string(),
            key: view.intent.key(),
            traceparent: view.intent.trace.map(|trace| trace.to_string()),
            operation: view.intent.operation,
            payload: view.intent.payload.into(),
            state: match view.state {
                intent::IntentState::Pending => IntentState::Pending,
                intent::IntentState::Done => IntentState::Done,
                intent::IntentState::Refused => IntentState::Refused,
            },
            answer_status,
            answer_body,
            attempts: view.attempts,
            last_error: view.last_error,
            submitted_at_ms: view.submitted_at.as_micros() / 1000,
        }
    }
}

/// Which intents.
#[derive(Clone, Debug, Default, PartialEq, Eq, uniffi::Record)]
pub struct IntentFilter {
    /// In this state.
    #[uniffi(default = None)]
    pub state: Option<IntentState>,
    /// After this place: `next` of the page before.
    #[uniffi(default = None)]
    pub after: Option<i64>,
    /// The most rows; without it, 100.
    #[uniffi(default = None)]
    pub limit: Option<u32>,
}

/// One page of intents, in the order in which they were submitted.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct IntentPage {
    /// The intents.
    pub items: Vec<IntentView>,
    /// Pass it as `after` for the next page; `None` on the last.
    pub next: Option<i64>,
}

#[uniffi::export]
impl Engine {
    /// Writes an intent down before anything is sent. Once this returns, it survives the end of the process, and every
    /// attempt carries the same key.
    ///
    /// # Errors
    /// `InvalidInput`, `TooLarge`, `Conflict` when its id is known with another payload, `StorageFull`.
    pub async fn submit(&self, intent: NewIntent, call: Call, cancel: Option<Arc<CancelHandle>>) -> Outcome<Submitted> {
        self.run("engine.submit", call, cancel, |running, cx| async move {
            let submitted = running.engine.submit(&cx, intent.into_core()?).await?;
            Ok(Submitted { id: submitted.id.to_string(), key: submitted.key, duplicate: submitted.duplicate })
        })
        .await
    }

    /// One page of intents.
    ///
    /// # Errors
    /// Those of the Store.
    #[uniffi::method(default(cancel = None))]
    pub async fn intents(&self, filter: IntentFilter, cancel: Option<Arc<CancelHandle>>) -> Outcome<IntentPage> {
        self.run("engine.intents", Call::default(), cancel, |running, cx| async move {
            let filter = store::IntentFilter {
                state: filter.state.map(|state| match state {
                    IntentState::Pending => intent::IntentState::Pending,
                    IntentState::Done => intent::IntentState::Done,
                    IntentState::Refused => intent::IntentState::Refused,
                }),
                after: filter.after,
                limit: filter.limit.unwrap_or(100) as usize,
            };
            let page = running.engine.intents(&cx, filter).await?;
            Ok(IntentPage { items: page.items.into_iter().map(Into::into).collect(), next: page.next })
        })
        .await
    }

    /// One intent, if it is still kept.
    ///
    /// # Errors
    /// `InvalidInput` for what is not an id.
    #[uniffi::method(default(cancel = None))]
    pub async fn intent(&self, id: String, cancel: Option<Arc<CancelHandle>>) -> Outcome<Option<IntentView>> {
        self.run("engine.intent", Call::default(), cancel, |running, cx| async move {
            let id = uuid(&id)?;
            Ok(store::StoreExt::intent(running.engine.store()?, &cx, id).await?.map(Into::into))
        })
        .await
    }

    /// Sends every pending intent once, whether its retry is due or not: for the moment the network comes back, or the
    /// system gives the app a minute.
    ///
    /// # Errors
    /// `Unavailable` when there is no network; nothing is counted as an attempt then. A request that fails is no error: it
    /// is counted and tried again later.
    pub async fn flush(
        &self,
        transport: Arc<dyn HttpTransport>,
        call: Call,
        cancel: Option<Arc<CancelHandle>>,
    ) -> Outcome<Flushed> {
        self.run("engine.flush", call, cancel, |running, cx| async move {
            connected(&running).await?;
            let transport = HostedTransport { inner: transport, limit: running.config.callback_timeout() };
            let flush = running.engine.flush(&cx, &transport);
            let flushed = running
                .suspended()
                .until_cancelled(flush)
                .await
                .unwrap_or_else(|| Err(Error::cancelled("engine.flush")))?;
            Ok(Flushed { attempts: flushed.attempts, answered: flushed.answered, failed: flushed.failed })
        })
        .await
    }

    /// Sends intents as they come and again when their retry is due, until `cancel` is used: for an app in the foreground.
    ///
    /// # Errors
    /// `Cancelled` when the engine is suspended or closed, and those of the Store.
    pub async fn relay(
        &self,
        transport: Arc<dyn HttpTransport>,
        call: Call,
        cancel: Option<Arc<CancelHandle>>,
    ) -> Outcome<()> {
        self.run("engine.relay", call, None, |running, cx| async move {
            // The relay ends by itself when `cancel` is used.
            let cx = CancelHandle::replace(cx, cancel.as_deref());
            let limit = running.config.callback_timeout();
            let transport = HostedTransport { inner: transport, limit };
            let sink = running.engine.intent_sink(&transport).with_timeout(limit);
            let relay = running.engine.relay(&cx, &sink);
            running
                .suspended()
                .until_cancelled(relay)
                .await
                .unwrap_or_else(|| Err(Error::cancelled("engine.relay")))?;
            Ok(())
        })
        .await
    }
}

/// Asks the app for a network. An app that cannot tell is no reason not to try.
async fn connected(running: &Running) -> selvedge::Result<()> {
    let Some(connectivity) = running.hosts.connectivity.clone() else { return Ok(()) };
    match ask("host.connectivity", running.config.callback_timeout(), move || connectivity.status()).await {
        Ok(NetworkStatus::Offline) => Err(Error::new(ErrorKind::Unavailable, "engine.flush", "the device is offline")
            .advise("flush again when the network is back; nothing is lost")),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(%error, "the app could not tell whether there is a network; trying anyway");
            Ok(())
        }
    }
}
