use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use selvedge::{BoxFuture, Clock, Context, Error, Result, Timestamp, TokioClock, transport};

use crate::{
    engine::Threads,
    error::{EngineError, Outcome},
};

/// How often the app's clock is asked.
const CLOCK_TICK: Duration = Duration::from_secs(1);

/// What the app lends the engine. All of it is optional.
#[derive(Clone, Default, uniffi::Record)]
pub struct Hosts {
    /// Whether there is a network; without it, sending is always tried.
    #[uniffi(default = None)]
    pub connectivity: Option<Arc<dyn Connectivity>>,
    /// How hot the device is, for `doctor` and for Schedulers that go by it.
    #[uniffi(default = None)]
    pub thermal: Option<Arc<dyn ThermalSensor>>,
    /// The wall clock, where the app knows better than the system.
    #[uniffi(default = None)]
    pub clock: Option<Arc<dyn HostClock>>,
    /// Where log lines go; without it, nowhere.
    #[uniffi(default = None)]
    pub log: Option<Arc<dyn LogSink>>,
    /// The least urgent lines `log` is given; without it, `Info`.
    #[uniffi(default = None)]
    pub log_level: Option<LogLevel>,
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosts")
            .field("connectivity", &self.connectivity.is_some())
            .field("thermal", &self.thermal.is_some())
            .field("clock", &self.clock.is_some())
            .field("log", &self.log.is_some())
            .finish()
    }
}

/// A request to send to the app's server.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct HttpRequest {
    /// `POST`.
    pub method: String,
    /// The path below the server's address: `/v1/intents`.
    pub path: String,
    /// Names in lower case. Send all of them: `idempotency-key` makes a repeated order harmless.
    pub headers: Vec<Header>,
    /// The body.
    pub body: Vec<u8>,
}

/// A response that arrived whole, of any status.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// Names in any case.
    #[uniffi(default)]
    pub headers: Vec<Header>,
    /// The body.
    #[uniffi(default)]
    pub body: Vec<u8>,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Sends requests to the app's server: OkHttp, Ktor or URLSession. It must not retry and follow no redirect by itself.
#[uniffi::export(with_foreign)]
#[async_trait::async_trait]
pub trait HttpTransport: Send + Sync {
    /// Sends a request and waits for the whole response.
    ///
    /// # Errors
    /// `Unavailable` when the server could not be reached or the connection broke; the outbox tries again.
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, EngineError>;
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum NetworkStatus {
    /// There is none.
    Offline,
    /// It costs by the byte.
    Metered,
    /// It does not.
    Unmetered,
}

/// Tells whether there is a network.
#[uniffi::export(with_foreign)]
pub trait Connectivity: Send + Sync {
    /// The network now.
    ///
    /// # Errors
    /// When that cannot be told; sending is tried then.
    fn status(&self) -> Result<NetworkStatus, EngineError>;
}

/// How hot a device is, in steps: Android's `THERMAL_STATUS_*`, of which iOS knows four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum ThermalStatus {
    /// Cool.
    None,
    /// Warm; nobody notices.
    Light,
    /// Work is slowed a little.
    Moderate,
    /// Work is slowed a lot.
    Severe,
    /// All that can be done against heat is done.
    Critical,
    /// Parts are switched off.
    Emergency,
    /// The device is about to switch off.
    Shutdown,
}

/// What a thermal sensor shows.
#[derive(Clone, Copy, Debug, PartialEq, uniffi::Record)]
pub struct ThermalReading {
    /// The step.
    pub status: ThermalStatus,
    /// Android's forecast, normalised so that 1.0 is severe throttling and higher is hotter: not degrees. `None` where
    /// it is unknown or was asked for too often.
    #[uniffi(default = None)]
    pub headroom: Option<f32>,
}

/// Reads how hot the device is.
#[uniffi::export(with_foreign)]
pub trait ThermalSensor: Send + Sync {
    /// The heat now.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self) -> Result<ThermalReading, EngineError>;
}

/// A wall clock.
#[uniffi::export(with_foreign)]
pub trait HostClock: Send + Sync {
    /// Milliseconds since the Unix epoch. It is asked about once a second, and in between time goes on by itself.
    ///
    /// # Errors
    /// When it is not known; time then goes on from the last answer.
    fn now_ms(&self) -> Result<i64, EngineError>;
}

/// How urgent a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, uniffi::Enum)]
pub enum LogLevel {
    /// Something failed for good.
    Error,
    /// Something failed and is tried again.
    Warn,
    /// Rare events worth knowing.
    Info,
    /// What a developer wants to see.
    Debug,
    /// Everything.
    Trace,
}

/// One log line.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct LogRecord {
    /// How urgent it is.
    pub level: LogLevel,
    /// The part it comes from.
    pub target: String,
    /// The line, with its fields as `name=value`.
    pub message: String,
}

/// Where log lines go: Android's `Log`, `os.Logger`, slf4j.
#[uniffi::export(with_foreign)]
pub trait LogSink: Send + Sync {
    /// Takes a line. It is called on a thread of its own; when it is slow, lines are dropped rather than work held up.
    ///
    /// # Errors
    /// They are ignored.
    fn log(&self, record: LogRecord) -> Result<(), EngineError>;
}

/// Asks the app something on a thread that may block, for no longer than `limit`. A callback that never returns costs its
/// thread and nothing else.
pub(crate) async fn ask<T: Send + 'static>(
    operation: &'static str,
    limit: Duration,
    question: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Result<T> {
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(question)).await {
        Ok(Ok(answer)) => answer.map_err(|error| error.into_core(operation)),
        Ok(Err(_)) => Err(crate::error::internal(operation, "a callback of the app ended its thread")),
        Err(_) => Err(slow(operation, limit)),
    }
}

pub(crate) fn slow(operation: &'static str, limit: Duration) -> Error {
    Error::new(selvedge::ErrorKind::DeadlineExceeded, operation, "a callback of the app did not return in time")
        .with("limit_ms", limit.as_millis())
        .advise("return from callbacks, or raise callback_timeout_ms")
}

/// The app's HTTP client, as the engine sees it.
pub(crate) struct HostedTransport {
    pub(crate) inner: Arc<dyn HttpTransport>,
    pub(crate) limit: Duration,
}

impl fmt::Debug for HostedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostedTransport")
    }
}

impl transport::HttpTransport for HostedTransport {
    fn send<'a>(
        &'a self,
        _: &'a Context,
        request: transport::HttpRequest,
    ) -> BoxFuture<'a, Result<transport::HttpResponse>> {
        let headers = request.headers.into_iter().map(|(name, value)| Header { name, value }).collect();
        let request =
            HttpRequest { method: request.method.into(), path: request.path, headers, body: request.body.into() };
        Box::pin(async move {
            let response = tokio::time::timeout(self.limit, self.inner.send(request))
                .await
                .map_err(|_| slow("transport.send", self.limit))?
                .map_err(|error| error.into_core("transport.send"))?;
            Ok(transport::HttpResponse {
                status: response.status,
                headers: response
                    .headers
                    .into_iter()
                    .map(|header| (header.name.to_lowercase(), header.value))
                    .collect(),
                body: response.body.into(),
            })
        })
    }
}

/// The app's clock. The Store asks for the time in the middle of a write, where nothing may wait for the app: so the app is
/// asked in the background, and what is kept is how far its clock is from a monotonic one.
#[derive(Debug)]
pub(crate) struct HostedClock {
    start: Instant,
    /// The app's time at `start`, in µs.
    origin: AtomicI64,
}

impl HostedClock {
    pub(crate) async fn start(hosts: &Hosts, threads: &Threads, limit: Duration) -> Arc<dyn Clock> {
        let (Some(host), Some(handle)) = (hosts.clock.clone(), threads.handle()) else { return Arc::new(TokioClock) };
        let clock = Arc::new(Self { start: Instant::now(), origin: AtomicI64::new(Timestamp::now().as_micros()) });
        let first = handle.spawn({
            let (clock, host) = (clock.clone(), host.clone());
            async move { clock.set(host, limit).await }
        });
        // A clock that fails at first leaves the system's time in place.
        drop(first.await);
        let weak = Arc::downgrade(&clock);
        handle.spawn(async move {
            loop {
                tokio::time::sleep(CLOCK_TICK).await;
                let Some(clock) = weak.upgrade() else { return };
                clock.set(host.clone(), limit).await;
            }
        });
        clock
    }

    async fn set(&self, host: Arc<dyn HostClock>, limit: Duration) {
        match ask("host.clock", limit, move || host.now_ms()).await {
            Ok(now) => self.origin.store(now.saturating_mul(1000).saturating_sub(self.elapsed()), Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "the app's clock did not answer; time goes on from its last answer"),
        }
    }

    fn elapsed(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

impl Clock for HostedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.origin.load(Ordering::Relaxed).saturating_add(self.elapsed()))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        TokioClock.sleep(duration)
    }
}
