//! Opening a file: what is not ours, newer or damaged is left as it is.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, config::DbConfig};
use selvedge_core::store::hub::{Hub, Signals};
use selvedge_core::{Clock, Error, ErrorKind, Result, SystemClock};

use crate::{
    clock::StoreClock,
    error::from_sql,
    maintain,
    room::Room,
    schema::{APPLICATION_ID, MIGRATIONS, VERSION},
    store::SqliteStore,
    tx::Tx,
    writer::WriterConfig,
};

const OPERATION: &str = "sqlite.open";
/// Connections that read.
const READERS: usize = 2;
/// The log is kept near this size.
const LOG_LIMIT: u64 = 16 << 20;
/// Files up to this size are checked whole when they are opened; larger ones by their header.
const CHECK_WHOLE: u64 = 32 << 20;

/// What a power cut may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum Durability {
    /// Every acknowledged commit is on the disk (`synchronous = FULL`). The default: an order that was written down stays.
    #[default]
    Durable,
    /// A power cut may cost the last commits; the end of the process never does (`synchronous = NORMAL`). Faster where a
    /// flush is slow.
    Fast,
}

impl Durability {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Durable => "durable: a power cut costs nothing that was acknowledged",
            Self::Fast => "fast: a power cut may cost the last commits, the end of the process costs nothing",
        }
    }
}

/// How a Store is opened.
#[derive(Clone, Debug)]
#[must_use = "call `open`"]
pub struct Builder {
    path: PathBuf,
    durability: Durability,
    busy_timeout: Duration,
    max_bytes: Option<u64>,
    poll: Duration,
    clock: Arc<dyn Clock>,
}

impl Builder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            durability: Durability::default(),
            busy_timeout: Duration::from_secs(5),
            max_bytes: None,
            poll: Duration::from_millis(5),
            clock: Arc::new(SystemClock),
        }
    }

    /// Sets what a power cut may cost. Default: [`Durability::Durable`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how long a write waits for another process that holds the write lock. Default: 5 s.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Sets the most bytes the file may have; a write beyond is `StorageFull`. An eighth of it is kept for working off what
    /// is there, so new work is refused first. Default: no limit.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Sets how often other processes' commits are looked for while somebody watches. Default: 5 ms.
    pub fn poll(mut self, interval: Duration) -> Self {
        self.poll = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets the wall clock. Only its `now` is used.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the file, creating it if it is not there, and brings its schema up to date.
    ///
    /// # Errors
    /// `Damaged` for a file that is not a whole SQLite database, `Conflict` for another program's, `NewerVersion` for one
    /// written by a newer Selvedge: these files are left as they are. `PermissionDenied`, `Busy`, `StorageFull`.
    pub fn open(self) -> Result<SqliteStore> {
        self.open_file().map_err(|error| error.with("path", self.path.display()))
    }

    fn open_file(&self) -> Result<SqliteStore> {
        inspect(&self.path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let failed = |error| from_sql(OPERATION, error);
        let conn = self.connect(flags)?;
        check_whole(&conn, &self.path)?;
        migrate(&conn)?;
        self.switch_to_log(&conn)?;
        conn.pragma_update(None, "journal_size_limit", LOG_LIMIT as i64).map_err(failed)?;
        let synchronous = match self.durability {
            Durability::Durable => "FULL",
            Durability::Fast => "NORMAL",
        };
        conn.pragma_update(None, "synchronous", synchronous).map_err(failed)?;
        let mut room = None;
        if let Some(bytes) = self.max_bytes {
            let page: u64 = conn.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(failed)?;
            let pages = (bytes / page).max(1);
            conn.pragma_update(None, "max_page_count", pages as i64).map_err(failed)?;
            room = Some(Room::of(pages));
        }

        let clock = Arc::new(StoreClock::new(self.clock.clone()));
        settle_clock(&conn, &clock)?;
        let reader = || self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX);
        let readers = (0..READERS).map(|_| reader()).collect::<Result<_>>()?;
        let here = reader()?;
        here.busy_timeout(Duration::ZERO).map_err(failed)?;
        let hub = Arc::new(Hub::default());
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let config = WriterConfig {
            clock,
            hub,
            poll: self.poll,
            log: log.into(),
            log_limit: LOG_LIMIT,
            busy_timeout: self.busy_timeout,
        };
        SqliteStore::start(self.path.clone(), self.durability, conn, room, readers, here, config)
    }

    fn connect(&self, flags: OpenFlags) -> Result<Connection> {
        let open = || -> rusqlite::Result<Connection> {
            let conn = Connection::open_with_flags(&self.path, flags)?;
            conn.busy_timeout(self.busy_timeout)?;
            // Otherwise SQLite parses and plans a statement anew whenever a bound range changes, which costs more than
            // running it.
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
            conn.set_prepared_statement_cache_capacity(256);
            Ok(conn)
        };
        open().map_err(|error| from_sql(OPERATION, error))
    }

    /// SQLite does not wait for the lock by itself when it changes the journal mode.
    fn switch_to_log(&self, conn: &Connection) -> Result<()> {
        let until = std::time::Instant::now() + self.busy_timeout;
        loop {
            match conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
                Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(()),
                Ok(mode) => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        OPERATION,
                        "this file system does not support SQLite's write-ahead log",
                    )
                    .with("journal_mode", mode)
                    .advise("keep the database on a local disk"));
                }
                Err(error) => {
                    let error = from_sql(OPERATION, error);
                    if error.kind() != ErrorKind::Busy || std::time::Instant::now() >= until {
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

/// Looks at a file's first bytes before SQLite does, so that what is not ours is not even locked.
fn inspect(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, OPERATION, "the database's folder does not exist")
            .with("folder", folder.display())
            .advise("create the folder, or correct the path"));
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Error::new(ErrorKind::PermissionDenied, OPERATION, "the database file cannot be read")
                .caused_by(error)
                .advise("let this user read and write the file"));
        }
    };
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let mut header = Vec::new();
    let read = file.take(100).read_to_end(&mut header);
    if path.is_dir() || read.is_err() {
        return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "the path is not a file").advise("name a file"));
    }
    // A rollback journal beside the file means that its creation was cut short: SQLite undoes it first.
    let mut journal = path.to_path_buf().into_os_string();
    journal.push("-journal");
    if header.is_empty() || Path::new(&journal).exists() {
        return Ok(());
    }
    let damaged = |what: &str| {
        Error::new(ErrorKind::Damaged, OPERATION, format!("the file is not a whole SQLite database: {what}"))
            .with("bytes", size)
            .advise("the file was left as it is: keep a copy and restore a backup, or use another path")
    };
    if header.len() < 100 || !header.starts_with(b"SQLite format 3\0") {
        return Err(damaged("its header is missing"));
    }
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let page = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65_536,
        page => page,
    };
    if !page.is_power_of_two() || page < 512 {
        return Err(damaged("its page size makes no sense"));
    }
    // The count of pages is only valid when the file was last written by a SQLite that keeps it.
    if number(24) == number(92) && size < u64::from(number(28)) * page {
        return Err(damaged("it is shorter than its header says"));
    }
    check_owner(number(68) as i32, number(60))
}

fn check_owner(application: i32, version: u32) -> Result<()> {
    if application != APPLICATION_ID {
        return Err(Error::new(ErrorKind::Conflict, OPERATION, "the database belongs to another program")
            .with("application_id", format!("{application:#010x}"))
            .advise("the file was left as it is: use another path"));
    }
    if version > VERSION {
        return Err(Error::new(ErrorKind::NewerVersion, OPERATION, "the database was written by a newer Selvedge")
            .with("schema", version)
            .with("known", VERSION)
            .advise("the file was left as it is: update this program"));
    }
    Ok(())
}

/// Finds damage that the header does not show, before anything is written.
fn check_whole(conn: &Connection, path: &Path) -> Result<()> {
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if size == 0 || size > CHECK_WHOLE {
        return Ok(());
    }
    let said: String =
        conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|error| from_sql(OPERATION, error))?;
    if said == "ok" {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Damaged, OPERATION, "the database file is damaged")
        .with("found", said)
        .advise("the file was left as it is: keep a copy and restore a backup, or try SQLite's `.recover` on the copy"))
}

/// Brings the schema up to date in one transaction. The file is not in log mode yet when it is new, so that its header
/// says whose it is from the first commit on.
fn migrate(conn: &Connection) -> Result<()> {
    let failed = |error| from_sql(OPERATION, error);
    let pragma = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).map_err(failed);
    if pragma("user_version")? == i64::from(VERSION) {
        return check_owner(pragma("application_id")? as i32, VERSION);
    }
    let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate).map_err(failed)?;
    // Another process may have done it while this one waited for the lock.
    let version = pragma("user_version")?;
    let empty: bool =
        tx.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0)).map_err(failed)?;
    if !empty {
        check_owner(pragma("application_id")? as i32, u32::try_from(version).unwrap_or(u32::MAX))?;
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
        tx.execute_batch(migration).map_err(failed)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    tx.pragma_update(None, "user_version", VERSION).map_err(failed)?;
    tx.commit().map_err(failed)
}

/// Moves what is stored if the wall clock has stepped back since the file was last used.
fn settle_clock(conn: &Connection, clock: &StoreClock) -> Result<()> {
    let failed = |error| from_sql(OPERATION, error);
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate).map_err(failed)?;
    let mut signals = Signals::muted();
    let mut tx = Tx { conn: &transaction, now: clock.now(), signals: &mut signals };
    let ahead = maintain::high_water(&tx)?;
    if ahead > tx.now + maintain::STEP {
        maintain::shift_back(&mut tx, ahead)?;
    }
    transaction.commit().map_err(failed)
}
