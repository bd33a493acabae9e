//! Opening: where the server is, and bringing its schema up to date.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use selvedge_core::{Clock, Error, ErrorKind, Result, store::hub::Hub};
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    connections::Connections,
    error::from_sql,
    schema::{MIGRATIONS, VERSION},
    store::{PostgresStore, Task},
    tx::{Db, Schema, get, params},
    wake::{self, Bell},
};

const OPERATION: &str = "postgres.open";

/// The oldest server whose statements these are: 13.
const OLDEST: i32 = 130_000;

/// How a [`PostgresStore`] is opened.
///
/// ```no_run
/// use selvedge_postgres::PostgresStore;
///
/// # async fn example() -> Result<(), selvedge_core::Error> {
/// let store = PostgresStore::builder("postgres://app@pgbouncer:6432/shop")
///     .listener("postgres://app@db:5432/shop")
///     .connections(8)
///     .open()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    url: String,
    listener: Option<String>,
    schema: String,
    connections: usize,
    poll: Duration,
    listen: bool,
    notify: bool,
    history: Option<u32>,
    create: bool,
    clock: Option<Arc<dyn Clock>>,
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            listener: None,
            schema: Schema::DEFAULT.into(),
            connections: 16,
            poll: Duration::from_millis(250),
            listen: true,
            notify: true,
            history: None,
            create: true,
            clock: None,
        }
    }

    /// Sets the schema the tables are in; it is created if it is not there. Default: `selvedge`.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets the most connections of the pool. One more listens. Default: 16.
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most.max(1);
        self
    }

    /// Sets another URL for the connection that listens: a direct one, when the other leads through PgBouncer, which cannot
    /// pass LISTEN on in transaction mode.
    pub fn listener(mut self, url: impl Into<String>) -> Self {
        self.listener = Some(url.into());
        self
    }

    /// Does without LISTEN: watchers look by themselves, every [`poll`](Self::poll).
    pub fn without_listener(mut self) -> Self {
        self.listen = false;
        self
    }

    /// Does not tell other processes of commits: they look by themselves, within a second.
    pub fn without_notify(mut self) -> Self {
        self.notify = false;
        self
    }

    /// Opens only a Store that is there: a schema that is missing is `NotFound`, and not created.
    pub fn existing(mut self) -> Self {
        self.create = false;
        self
    }

    /// Sets how often watchers look by themselves while nobody listens. Default: 250 ms.
    pub fn poll(mut self, interval: Duration) -> Self {
        self.poll = interval.max(Duration::from_millis(1));
        self
    }

    /// Keeps completed jobs for this many days in the table `job_history`, which has a partition for each day. Otherwise they are
    /// gone. Housekeeping ([`maintain`](selvedge_core::Store::maintain)) makes the partitions and drops them.
    pub fn history(mut self, days: u32) -> Self {
        self.history = Some(days);
        self
    }

    /// Sets the clock, for tests. The server's own goes otherwise, so that all processes agree.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Connects, and creates or migrates the schema. Call it within a tokio runtime: the Store's work runs there.
    ///
    /// TLS is used when the URL says so (`sslmode=require`) or the server offers it; the server's certificate must then be
    /// one that this system trusts.
    ///
    /// # Errors
    /// `InvalidInput` for a URL or a schema's name that cannot be used, `Unavailable` when the server does not answer,
    /// `PermissionDenied`, `NotFound` for a database that is not there, `Unsupported` for a server older than 13,
    /// `NewerVersion` for a schema that a newer Selvedge wrote: it is left as it is.
    pub async fn open(self) -> Result<PostgresStore> {
        let config = parse(&self.url)?;
        let location = location(&config, &self.schema);
        self.connect(config, &location).await.map_err(|error| error.with("at", &location))
    }

    async fn connect(&self, config: Config, location: &str) -> Result<PostgresStore> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::InvalidInput, OPERATION, "there is no tokio runtime")
                .advise("open the Store within one: its work runs there")
                .caused_by(error)
        })?;
        check_schema(&self.schema)?;
        let tls = tls(&config)?;
        let manager = Manager::from_config(
            config.clone(),
            tls.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let timeouts = Timeouts {
            wait: Some(Duration::from_secs(30)),
            create: Some(Duration::from_secs(10)),
            recycle: Some(Duration::from_secs(5)),
        };
        let pool = Pool::builder(manager)
            .max_size(self.connections)
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the pool cannot be built").caused_by(error))?;
        let (clock, history) = (self.clock.clone(), self.history);
        let mut connections =
            Connections { pool, schema: Schema::new(&self.schema), clock, runtime, history, plain: false };
        let version = migrate(&connections, self.create).await?;
        connections.learn().await?;
        connections.turn_history().await?;

        let hub = Arc::new(Hub::default());
        let listening = Arc::new(AtomicBool::new(false));
        let mark = wake::mark();
        let mut tasks = vec![Task::start(wake::poll(hub.clone(), listening.clone(), self.poll))];
        let mut bell = Bell { hub, hints: Arc::default(), posts: None };
        if self.notify {
            let (posts, received) = tokio::sync::mpsc::unbounded_channel();
            tasks.push(Task::start(wake::notify(connections.clone(), mark.clone(), received)));
            bell.posts = Some(posts);
        }
        if self.listen {
            let direct = self.listener.as_deref().map_or(Ok(config), parse)?;
            let connections = connections.clone();
            tasks.push(Task::start(wake::listen(direct, tls, connections, mark, bell.clone(), listening.clone())));
        }
        Ok(PostgresStore::start(connections, bell, self.listen, listening, tasks, location.into(), version))
    }
}

fn parse(url: &str) -> Result<Config> {
    let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        // The URL may hold a password, so it is not repeated.
        Error::new(ErrorKind::InvalidInput, OPERATION, "the URL of the database cannot be read")
            .advise("write postgres://user@host:5432/database")
            .caused_by(error)
    })?;
    if config.get_application_name().is_none() {
        config.application_name("selvedge");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_secs(10));
    }
    // A server that vanished without a word is noticed within a minute.
    config.keepalives_idle(Duration::from_secs(20)).keepalives_interval(Duration::from_secs(10)).keepalives_retries(3);
    Ok(config)
}

/// Where the Store is, without secrets.
fn location(config: &Config, schema: &str) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".into(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
    format!("{host}:{port}/{database}, schema {schema}")
}

fn check_schema(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > 63 || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(plain)
    {
        return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "the schema's name cannot be used")
            .with("schema", name)
            .advise("use 1 to 63 of a-z, 0-9 and _, not a digit first"));
    }
    Ok(())
}

fn tls(config: &Config) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    if config.get_ssl_mode() != SslMode::Disable {
        // A system may hold certificates that cannot be read; the others count.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "TLS cannot be set up").caused_by(error))?;
    Ok(MakeRustlsConnect::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Brings the schema up to date; the server's version, in words.
async fn migrate(connections: &Connections, create: bool) -> Result<String> {
    let conn = connections.get(OPERATION).await?;
    let db = connections.db(&conn, OPERATION);
    let read = |row: &tokio_postgres::Row| Ok((get::<String>(row, 0)?, get::<String>(row, 1)?));
    let sql = "SELECT current_setting('server_version_num'), current_setting('server_version')";
    let (number, version) = db.one(sql, &[], read).await?.unwrap_or_default();
    if number.parse::<i32>().is_ok_and(|number| number < OLDEST) {
        return Err(Error::new(ErrorKind::Unsupported, OPERATION, "this PostgreSQL is too old")
            .with("version", version)
            .advise("use PostgreSQL 13 or newer"));
    }
    if !create && schema_version(&db).await? == 0 {
        return Err(Error::new(ErrorKind::NotFound, OPERATION, "there is no Store in this schema")
            .with("schema", db.schema.name())
            .advise("check the URL and the schema's name; a program that works with the Store creates it"));
    }
    // Others may be migrating the same schema. Waiting for a lock would hold a snapshot open and be in the way of what they
    // do; asking again does not.
    while schema_version(&db).await? < VERSION {
        let failed = |error| from_sql(OPERATION, error);
        conn.batch_execute("BEGIN").await.map_err(failed)?;
        let migrated = try_migrate(&db).await;
        conn.batch_execute(if migrated.is_ok() { "COMMIT" } else { "ROLLBACK" }).await.map_err(failed)?;
        if !migrated? {
            tokio::time::sleep(Duration::from_millis(20 + fastrand::u64(..30))).await;
        }
    }
    Ok(version.split(' ').next().unwrap_or_default().into())
}

/// The schema's version: 0 when there is none.
async fn schema_version(db: &Db<'_>) -> Result<u32> {
    // Not by `to_regclass`, which reads the session's cache of the catalogue and not by the statement's snapshot: of processes
    // that opened a new schema at once, now and then one created the tables again.
    let known = "SELECT 1 FROM pg_class WHERE relname = 'meta' AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)";
    if db.one(known, params![db.schema.name()], |_| Ok(())).await?.is_none() {
        return Ok(0);
    }
    let sql = "SELECT value FROM selvedge.meta WHERE name = 'schema'";
    let version = db.one(sql, &[], |row| get::<i64>(row, 0)).await?.unwrap_or(0);
    let version = u32::try_from(version).unwrap_or(u32::MAX);
    if version > VERSION {
        return Err(Error::new(ErrorKind::NewerVersion, OPERATION, "a newer Selvedge wrote this schema")
            .with("version", version)
            .with("known", VERSION)
            .advise("upgrade this program; the schema was left as it is"));
    }
    Ok(version)
}

/// Migrates within the open transaction, unless somebody else is doing it.
async fn try_migrate(db: &Db<'_>) -> Result<bool> {
    let sql = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))";
    let lock = format!("{}\u{1}schema", db.schema.name());
    if db.one(sql, params![lock], |row| get::<bool>(row, 0)).await? != Some(true) {
        return Ok(false);
    }
    let version = schema_version(db).await?;
    let failed = |error| from_sql(OPERATION, error);
    if version == 0 {
        // Asked first: whoever may use the schema may not be allowed to create one.
        let sql = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
        if db.one(sql, params![db.schema.name()], |_| Ok(())).await?.is_none() {
            let sql = format!("CREATE SCHEMA \"{}\"", db.schema.name());
            db.client.batch_execute(&sql).await.map_err(failed)?;
        }
    }
    for migration in &MIGRATIONS[version as usize..] {
        db.client.batch_execute(&db.schema.text(migration)).await.map_err(failed)?;
    }
    let sql =
        "INSERT INTO selvedge.meta (name, value) VALUES ('schema', $1) ON CONFLICT (name) DO UPDATE SET value = $1";
    db.run(sql, params![i64::from(VERSION)]).await?;
    Ok(true)
}
