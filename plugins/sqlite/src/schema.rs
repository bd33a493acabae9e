//! The tables, versioned. A migration is never edited once it was released: the next version is added to the list.

/// Written into the file's header, so that another program's database is never taken for ours: `slvg`.
pub(crate) const APPLICATION_ID: i32 = 0x736c_7667;

/// The version this build reads and writes.
pub(crate) const VERSION: u32 = MIGRATIONS.len() as u32;

/// Entry `n` leads from version `n` to `n + 1`.
pub(crate) const MIGRATIONS: &[&str] = &[V1];

// Times are microseconds since the epoch. Ids are AUTOINCREMENT because a plain rowid is used again after its row is gone.
//
// job.state: 0 ready, 1 running, 2 dead, 3 cancelled. Indexes are partial, so that a claim touches two small ones and dead
// jobs cost nothing. `job_ready` holds the order of a queue; within one priority, what is due is a prefix of it, so a
// backlog of scheduled jobs is never scanned. `job_tenant` lets a tenant at its limit be skipped instead of scanned.
//
// outbox.state: 0 behind an older event of its aggregate, 1 ready, 2 leased, 3 dead.
const V1: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE job (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  queue TEXT NOT NULL,
  state INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  run_at INTEGER NOT NULL,
  tenant TEXT,
  unique_key TEXT,
  attempt INTEGER NOT NULL DEFAULT 0,
  max_attempts INTEGER NOT NULL,
  backoff_base INTEGER NOT NULL,
  backoff_cap INTEGER NOT NULL,
  enqueued_at INTEGER NOT NULL,
  token INTEGER,
  leased_at INTEGER,
  leased_until INTEGER,
  owner TEXT,
  cancel INTEGER NOT NULL DEFAULT 0,
  ended_at INTEGER,
  last_error TEXT,
  trace TEXT,
  checkpoint BLOB,
  payload BLOB NOT NULL
) STRICT;
CREATE INDEX job_ready ON job (queue, priority, run_at) WHERE state = 0;
CREATE INDEX job_tenant ON job (queue, tenant, priority, run_at) WHERE state = 0 AND tenant IS NOT NULL;
CREATE INDEX job_running ON job (queue, leased_until) WHERE state = 1;
CREATE INDEX job_ended ON job (ended_at) WHERE ended_at IS NOT NULL;
CREATE UNIQUE INDEX job_unique ON job (queue, unique_key) WHERE unique_key IS NOT NULL AND state < 2;

CREATE TABLE queue (
  name TEXT PRIMARY KEY,
  paused INTEGER NOT NULL DEFAULT 0,
  queue_limit INTEGER,
  tenant_limit INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE schedule (
  name TEXT PRIMARY KEY,
  cron TEXT NOT NULL,
  next_at INTEGER NOT NULL
) STRICT;
CREATE INDEX schedule_next ON schedule (next_at);

CREATE TABLE outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id BLOB NOT NULL UNIQUE,
  aggregate TEXT NOT NULL,
  topic TEXT NOT NULL,
  state INTEGER NOT NULL,
  run_at INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  backoff_base INTEGER NOT NULL,
  backoff_cap INTEGER NOT NULL,
  emitted_at INTEGER NOT NULL,
  token INTEGER,
  leased_at INTEGER,
  leased_until INTEGER,
  last_error TEXT,
  trace TEXT,
  payload BLOB NOT NULL
) STRICT;
CREATE INDEX outbox_aggregate ON outbox (aggregate);
CREATE INDEX outbox_ready ON outbox (topic, run_at) WHERE state = 1;
CREATE INDEX outbox_leased ON outbox (leased_until) WHERE state = 2;
CREATE INDEX outbox_dead ON outbox (id) WHERE state = 3;

CREATE TABLE intent (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  intent_id BLOB NOT NULL UNIQUE,
  fingerprint BLOB NOT NULL,
  operation TEXT NOT NULL,
  business_key TEXT,
  aggregate TEXT,
  backoff_base INTEGER NOT NULL,
  backoff_cap INTEGER NOT NULL,
  trace TEXT,
  attempts INTEGER NOT NULL DEFAULT 0,
  last_error TEXT,
  submitted_at INTEGER NOT NULL,
  answered_at INTEGER,
  status INTEGER,
  headers TEXT,
  body BLOB,
  payload BLOB NOT NULL
) STRICT;
CREATE INDEX intent_pending ON intent (id) WHERE answered_at IS NULL;
CREATE INDEX intent_answered ON intent (answered_at) WHERE answered_at IS NOT NULL;

CREATE TABLE topic (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  last INTEGER NOT NULL
) STRICT;
CREATE TABLE message (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  topic INTEGER NOT NULL,
  cursor INTEGER NOT NULL,
  published_at INTEGER NOT NULL,
  payload BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX message_cursor ON message (topic, cursor);
CREATE INDEX message_age ON message (published_at);

CREATE TABLE idempotency (
  id INTEGER PRIMARY KEY,
  scope TEXT NOT NULL,
  key TEXT NOT NULL,
  fingerprint BLOB NOT NULL,
  attempt INTEGER NOT NULL,
  token INTEGER,
  claimed_at INTEGER,
  claimed_until INTEGER,
  retention INTEGER NOT NULL,
  keep_until INTEGER NOT NULL,
  point_name TEXT,
  point_data BLOB,
  status INTEGER,
  headers TEXT,
  body BLOB
) STRICT;
CREATE UNIQUE INDEX idempotency_key ON idempotency (scope, key);
CREATE INDEX idempotency_age ON idempotency (keep_until);

CREATE TABLE quota (
  name TEXT PRIMARY KEY,
  micro_tokens BLOB NOT NULL,
  refilled_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE assignment (
  subject TEXT NOT NULL,
  experiment TEXT NOT NULL,
  variation TEXT NOT NULL,
  version INTEGER NOT NULL,
  PRIMARY KEY (subject, experiment)
) STRICT, WITHOUT ROWID;

CREATE TABLE fact (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  fact_id BLOB NOT NULL UNIQUE,
  name TEXT NOT NULL,
  subject TEXT NOT NULL,
  recorded_at INTEGER NOT NULL,
  properties BLOB NOT NULL
) STRICT;
CREATE INDEX fact_name ON fact (name);

CREATE TABLE load (
  at INTEGER PRIMARY KEY,
  enqueued INTEGER NOT NULL
) STRICT;
";
