//! The tables, versioned. A migration is never edited once it was released: the next version is added to the list.

/// Written into the file's header, so that another program's database is never taken for ours: `slvg`.
pub(crate) const APPLICATION_ID: i32 = 0x736c_7667;

/// The version this build reads and writes.
pub(crate) const VERSION: u32 = MIGRATIONS.len() as u32;

/// Entry `n` leads from version `n` to `n + 1`.
pub(crate) const MIGRATIONS: &[&str] = &[V1, V2, V3, V4];

// Times are microseconds since the epoch. Ids are AUTOINCREMENT because a plain rowid is used again after its row is gone.
//
// job.state: 0 ready, 1 running, 2 dead, 3 cancelled; from version 2 on, 0 is a job that has not ended.
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

";

// A lease does not touch the job's row, which holds what the job is: it takes an entry out of `ready`, and the job is in a span
// of `lease` until the lease ends. A job that has not ended is in exactly one of the two.
//
// `ready` is the order of the queues; within one priority, what is due is a prefix of it, so a backlog of scheduled jobs is
// never scanned. `ready_tenant` lets a tenant at its limit be skipped instead of scanned.
//
// A row of `lease` is a span: the jobs from `id` to `last`. It has no index by time: `queue.rescue_at` is a moment before
// which none of the queue's leases runs out, and only after it are they looked at. In queues that have limits each job has
// a span of its own with its tenant, and `lease_limited` counts them.
//
// job.attempt counts the attempts that are over.
const V2: &str = "
CREATE TABLE ready (
  queue TEXT NOT NULL,
  priority INTEGER NOT NULL,
  run_at INTEGER NOT NULL,
  id INTEGER NOT NULL,
  tenant TEXT,
  PRIMARY KEY (queue, priority, run_at, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX ready_tenant ON ready (queue, tenant, priority, run_at, id) WHERE tenant IS NOT NULL;
INSERT INTO ready (queue, priority, run_at, id, tenant)
  SELECT queue, priority, run_at, id, tenant FROM job WHERE state = 0 ORDER BY 1, 2, 3, 4;

CREATE TABLE lease (
  id INTEGER PRIMARY KEY,
  last INTEGER NOT NULL,
  token INTEGER NOT NULL,
  leased_at INTEGER NOT NULL,
  leased_until INTEGER NOT NULL,
  queue TEXT NOT NULL,
  tenant TEXT,
  owner TEXT NOT NULL,
  limited INTEGER NOT NULL,
  cancel INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX lease_limited ON lease (queue, tenant) WHERE limited = 1;
INSERT INTO lease (id, last, token, leased_at, leased_until, queue, tenant, owner, limited, cancel)
  SELECT id, id, token, leased_at, leased_until, queue, tenant, coalesce(owner, ''), 1, cancel FROM job WHERE state = 1;

ALTER TABLE queue ADD COLUMN rescue_at INTEGER;
INSERT INTO queue (name, rescue_at) SELECT queue, min(leased_until) FROM lease WHERE true GROUP BY queue
  ON CONFLICT DO UPDATE SET rescue_at = excluded.rescue_at;

DROP INDEX job_ready;
DROP INDEX job_tenant;
DROP INDEX job_running;
UPDATE job SET state = 0, attempt = attempt - 1 WHERE state = 1;
ALTER TABLE job DROP COLUMN token;
ALTER TABLE job DROP COLUMN leased_at;
ALTER TABLE job DROP COLUMN leased_until;
ALTER TABLE job DROP COLUMN owner;
ALTER TABLE job DROP COLUMN cancel;

CREATE TABLE load (
  at INTEGER PRIMARY KEY,
  enqueued INTEGER NOT NULL
) STRICT;
";

// Which tenant was served last in each priority of a queue with a limit for each tenant. Jobs without one have the empty name.
const V3: &str = "
CREATE TABLE turn (
  queue TEXT NOT NULL,
  priority INTEGER NOT NULL,
  tenant TEXT NOT NULL,
  PRIMARY KEY (queue, priority)
) STRICT, WITHOUT ROWID;
";

// A row of `ready` is a span too: jobs that were enqueued together and stand next to each other.
const V4: &str = "
ALTER TABLE ready RENAME TO ready_each;
DROP INDEX ready_tenant;
CREATE TABLE ready (
  queue TEXT NOT NULL,
  priority INTEGER NOT NULL,
  run_at INTEGER NOT NULL,
  id INTEGER NOT NULL,
  last INTEGER NOT NULL,
  tenant TEXT,
  PRIMARY KEY (queue, priority, run_at, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX ready_tenant ON ready (queue, tenant, priority, run_at, id) WHERE tenant IS NOT NULL;
INSERT INTO ready (queue, priority, run_at, id, last, tenant)
  SELECT queue, priority, run_at, id, id, tenant FROM ready_each ORDER BY 1, 2, 3, 4;
DROP TABLE ready_each;
";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rusqlite::Connection;
    use selvedge_core::{
        Commit, Context, Store,
        store::{JobId, JobState, Lease, LeaseRequest, LeaseTarget, StoreExt},
    };

    use super::{APPLICATION_ID, V1};
    use crate::SqliteStore;

    /// A file of version 1: a job that waits, one that runs, one whose lease ran out, and a dead one.
    const JOBS: &str = "
INSERT INTO queue (name, queue_limit) VALUES ('q', 3);
INSERT INTO job (id, queue, state, priority, run_at, attempt, max_attempts, backoff_base, backoff_cap, enqueued_at, payload,
                 token, leased_at, leased_until, owner, ended_at)
VALUES (1, 'q', 0, 0, 0, 0, 5, 1, 1, 0, x'31', NULL, NULL, NULL, NULL, NULL),
       (2, 'q', 1, 0, 0, 2, 5, 1, 1, 0, x'32', -9223372036854775807, 0, 9000000000000000, 'me', NULL),
       (3, 'q', 1, 0, 0, 5, 5, 1, 1, 0, x'33', 7, 0, 1, 'me', NULL),
       (4, 'q', 2, 0, 0, 5, 5, 1, 1, 0, x'34', NULL, NULL, NULL, NULL, 1);
";

    #[tokio::test]
    async fn a_file_of_version_1_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(&format!("{V1} {JOBS}")).unwrap();
        conn.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        conn.pragma_update(None, "user_version", 1).unwrap();
        conn.close().unwrap();

        let (store, cx) = (SqliteStore::open(&path).unwrap(), Context::new());
        let mut before = Vec::new();
        for id in 1..=4 {
            let job = store.job(&cx, JobId(id)).await.unwrap().unwrap();
            before.push((job.state, job.attempt, job.owner));
        }
        let me = || Some("me".to_owned());
        let expected = [
            (JobState::Ready, 0, None),
            (JobState::Running, 2, me()),
            (JobState::Running, 5, me()),
            (JobState::Dead, 5, None),
        ];
        assert_eq!(before, expected);
        let leased = store.lease(&cx, LeaseRequest::new("q", 9)).await.unwrap();
        assert_eq!(leased.iter().map(|job| (job.id.0, job.attempt)).collect::<Vec<_>>(), [(1, 1)]);
        let ran_out = store.job(&cx, JobId(3)).await.unwrap().unwrap();
        assert_eq!((ran_out.state, ran_out.attempt), (JobState::Dead, 5), "it was its last attempt");
        let old = Lease { target: LeaseTarget::Job, id: 2, token: -9_223_372_036_854_775_807 };
        store.commit(&cx, Commit::new().complete(old)).await.unwrap();
        assert!(store.job(&cx, JobId(2)).await.unwrap().is_none());
    }
}
