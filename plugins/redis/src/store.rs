use std::{fmt, future::Future, sync::Arc, time::Duration};

use redis::{Client, IntoConnectionInfo, Script};
use selvedge_core::{
    Clock, Commit, Context, Error, ErrorKind, Result, Store, Timestamp,
    idempotency::{Claim, ClaimRequest},
    store::{
        Ask, LeaseRequest, LeasedEvent, LeasedJob, Maintain, Maintained, Query, Receipt, RelayRequest, Rows,
        StoreCapabilities, StoreInfo, Subscription, Take, Taken, TokenBucket, Wakeups, Watch,
    },
};

use crate::{connection::Connection, error::ADDRESS};

const PLUGIN: &str = "redis";
/// Redis 5: a script may ask for the time and write.
const OLDEST: u32 = 5;
/// The longest time of a rule, in microseconds: 71 years.
const LONGEST: u128 = 1 << 51;

/// How a [`RedisStore`] is opened.
///
/// ```no_run
/// use std::time::Duration;
/// use selvedge_redis::RedisStore;
///
/// # async fn example() -> Result<(), selvedge_core::Error> {
/// let quotas = RedisStore::builder("rediss://app:secret@redis.internal:6379/0")
///     .prefix("shop")
///     .timeout(Duration::from_millis(500))
///     .open()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Builder {
    url: String,
    prefix: String,
    timeout: Duration,
    clock: Option<Arc<dyn Clock>>,
}

/// The URL may hold a password.
impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("prefix", &self.prefix).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Builder {
    /// Sets what its keys begin with. Default: `selvedge`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how long a connection and an answer are waited for. Default: one second.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Goes by another clock than Redis': for tests. Buckets then stay when they are full.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Connects. Within a tokio runtime.
    ///
    /// # Errors
    /// `InvalidInput` for a URL of another kind, `Unavailable`, `PermissionDenied`, `Unsupported` for a Redis before version 5.
    pub async fn open(self) -> Result<RedisStore> {
        const OPERATION: &str = "redis.open";
        let Self { url, prefix, timeout, clock } = self;
        let invalid = |error| {
            Error::new(ErrorKind::InvalidInput, OPERATION, "not the address of a Redis")
                .advise(ADDRESS)
                .caused_by(error)
        };
        if url.starts_with("rediss:") && rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another may have been faster: then there is one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::open(url.into_connection_info().map_err(invalid)?).map_err(invalid)?;
        let script = Script::new(include_str!("take.lua"));
        let inner = Inner { connection: Connection::new(client, timeout), script, prefix, clock };
        let store = RedisStore(Arc::new(inner));
        let version = store.version(OPERATION).await?;
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < OLDEST) {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, "this Redis is too old")
                .with("version", version)
                .advise(format!("use Redis {OLDEST} or newer, or Valkey")));
        }
        Ok(store)
    }
}

/// A Store on Redis whose only capability is quotas. Clones share its connection.
#[derive(Clone, Debug)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    connection: Connection,
    script: Script,
    prefix: String,
    clock: Option<Arc<dyn Clock>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("connection", &self.connection)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// The most tokens that a bucket may hold, and gain in its time: Redis' numbers are exact up to there.
    pub const MOST: u64 = 2_000_000_000;

    /// Connects to `redis://user:password@host:6379/0`, or to `rediss://…` over TLS. Within a tokio runtime.
    ///
    /// # Errors
    /// Those of [`Builder::open`].
    pub async fn open(url: impl Into<String>) -> Result<Self> {
        Self::builder(url).open().await
    }

    /// More to say about how it is opened.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder { url: url.into(), prefix: "selvedge".into(), timeout: Duration::from_secs(1), clock: None }
    }

    async fn version(&self, operation: &'static str) -> Result<String> {
        let info: String = self
            .0
            .connection
            .call(operation, |mut redis| async move { redis::cmd("INFO").arg("server").query_async(&mut redis).await })
            .await?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(version.unwrap_or("unknown").trim().to_owned())
    }

    async fn info(&self) -> Result<StoreInfo> {
        const OPERATION: &str = "store.read";
        let now = match &self.0.clock {
            Some(clock) => clock.now(),
            None => {
                let (seconds, micros): (i64, i64) = self
                    .0
                    .connection
                    .call(OPERATION, |mut redis| async move { redis::cmd("TIME").query_async(&mut redis).await })
                    .await?;
                Timestamp(seconds.saturating_mul(1_000_000).saturating_add(micros))
            }
        };
        Ok(StoreInfo {
            plugin: PLUGIN,
            backend: format!("Redis {}", self.version(OPERATION).await?),
            schema: 1,
            location: format!("redis://{}", self.0.connection.location()),
            bytes: None,
            durability: "what this Redis saves; a bucket that is lost is a full one".into(),
            wakeups: Wakeups::Poll,
            now,
        })
    }

    async fn apply(&self, request: Take) -> Result<Taken> {
        const OPERATION: &str = "store.take";
        check(OPERATION, &request)?;
        let Take { bucket, rule, ask } = request;
        let inner = &*self.0;
        let (ask, amount) = match ask {
            Ask::Spend(amount) => ("spend", amount.to_string()),
            Ask::Settle(by) => ("settle", by.to_string()),
        };
        let now = inner.clock.as_ref().map(|clock| clock.now().0.to_string()).unwrap_or_default();
        let mut call = inner.script.prepare_invoke();
        call.key(format!("{}:quota:{bucket}", inner.prefix));
        call.arg(rule.capacity).arg(rule.refill).arg(rule.per.as_micros().max(1).to_string());
        call.arg(ask).arg(amount).arg(now);
        let call = &call;
        let (what, number): (u8, u64) =
            inner.connection.call(OPERATION, |mut redis| async move { call.invoke_async(&mut redis).await }).await?;
        match what {
            0 => Ok(Taken::Denied { retry_after: Duration::from_micros(number) }),
            1 => Ok(Taken::Granted { remaining: number }),
            _ => Ok(Taken::Never),
        }
    }
}

/// Whether Redis' numbers are exact for this rule.
fn check(operation: &'static str, request: &Take) -> Result<()> {
    let TokenBucket { capacity, refill, per } = request.rule;
    if capacity <= RedisStore::MOST && refill <= RedisStore::MOST && per.as_micros() <= LONGEST {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, operation, "the bucket is larger than Redis can count exactly")
        .with("bucket", &request.bucket)
        .advise(format!("use at most {} tokens, and at most 71 years", RedisStore::MOST)))
}

/// Does something while the caller wants it.
async fn wanted<T>(cx: &Context, operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    cx.check(operation)?;
    let work = cx.cancel().until_cancelled(work);
    let done = match cx.remaining() {
        Some(left) => tokio::time::timeout(left, work).await.map_err(|_| Error::deadline(operation))?,
        None => work.await,
    };
    done.unwrap_or_else(|| Err(Error::cancelled(operation)))
}

fn denied<T>(cx: &Context, operation: &'static str) -> Result<T> {
    cx.check(operation)?;
    Err(Error::unsupported(PLUGIN, operation))
}

impl Store for RedisStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            plugin: PLUGIN,
            jobs: false,
            outbox: false,
            topics: false,
            idempotency: false,
            quotas: true,
            facts: false,
            cross_process: false,
            // That is for the Redis to say, and many keep nothing.
            durable: false,
        }
    }

    async fn commit(&self, cx: &Context, commit: Commit) -> Result<Receipt> {
        cx.check("store.commit")?;
        commit.check()?;
        // Nothing can be made true, so a commit of nothing is.
        if commit.is_empty() { Ok(Receipt::default()) } else { denied(cx, "store.commit") }
    }

    async fn lease(&self, cx: &Context, _: LeaseRequest) -> Result<Vec<LeasedJob>> {
        denied(cx, "store.lease")
    }

    async fn relay(&self, cx: &Context, _: RelayRequest) -> Result<Vec<LeasedEvent>> {
        denied(cx, "store.relay")
    }

    async fn claim(&self, cx: &Context, _: ClaimRequest) -> Result<Claim> {
        denied(cx, "store.claim")
    }

    async fn take(&self, cx: &Context, request: Take) -> Result<Taken> {
        wanted(cx, "store.take", self.apply(request)).await
    }

    async fn read(&self, cx: &Context, query: Query) -> Result<Rows> {
        match query {
            Query::Info => wanted(cx, "store.read", self.info()).await.map(Rows::Info),
            _ => denied(cx, "store.read"),
        }
    }

    async fn watch(&self, cx: &Context, _: Watch) -> Result<Subscription> {
        denied(cx, "store.watch")
    }

    /// Redis drops what is full by itself.
    async fn maintain(&self, cx: &Context, _: Maintain) -> Result<Maintained> {
        cx.check("store.maintain")?;
        Ok(Maintained::default())
    }
}
