//! Group commit: many callers share a flush, and none sees another's failure.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, path::Path, time::Duration};

use rusqlite::Connection;
use selvedge_core::{
    Commit, Context, Error, ErrorKind, Store,
    store::{JobId, JobState, LeaseRequest, Limits, NewJob, Op, Outcome, Query, Retry, Rows, StoreExt},
};
use selvedge_sqlite::SqliteStore;
use support::{assert_same, enqueue, payloads};

/// Counts the transactions in a write-ahead log: a frame that ends one names the size of the database.
fn transactions(database: &Path) -> usize {
    let log = std::fs::read(database.with_extension("db-wal")).unwrap();
    if log.is_empty() {
        return 0;
    }
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let frame = 24 + number(8) as usize;
    (32..log.len()).step_by(frame).filter(|at| at + frame <= log.len() && number(at + 4) != 0).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_at_once_share_transactions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = SqliteStore::open(&path).unwrap();
    let before = transactions(&path);
    let tasks: Vec<_> = (0..400)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { enqueue(&store, "q", number.to_string()).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let shared = transactions(&path) - before;
    assert!(shared < 200, "400 commits took {shared} transactions");
    assert_same(&payloads(&store, "q").await, &(0..400).map(|number| number.to_string()).collect::<Vec<_>>());
}

/// A third of the callers end jobs that are not theirs, after having enqueued something: all of that has to go again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_that_fails_halfway_leaves_nothing_and_its_neighbours_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
    let cx = Context::new();
    for number in 0..300 {
        enqueue(&store, "work", number.to_string()).await.unwrap();
    }
    let jobs = store.lease(&cx, LeaseRequest::new("work", 300)).await.unwrap();
    let tasks: Vec<_> = jobs
        .into_iter()
        .enumerate()
        .map(|(number, mut job)| {
            let store = store.clone();
            let stolen = number % 3 == 0;
            if stolen {
                job.lease.token ^= 1;
            }
            let commit = Commit::new().enqueue([NewJob::new("next", number.to_string())]).complete(job.lease);
            tokio::spawn(async move { (number, stolen, store.commit(&Context::new(), commit).await) })
        })
        .collect();
    let mut expected = Vec::new();
    for task in tasks {
        let (number, stolen, result) = task.await.unwrap();
        match result {
            Ok(_) => {
                assert!(!stolen, "a lease with a wrong token was accepted");
                expected.push(number.to_string());
            }
            Err(error) => assert!(stolen && error.kind() == ErrorKind::LeaseLost, "{number}: {error}"),
        }
    }
    assert_eq!(expected.len(), 200);
    assert_same(&payloads(&store, "next").await, &expected);
    assert_eq!(payloads(&store, "work").await.len(), 100, "the jobs with a wrong token are still there");
}

/// Commits that only end jobs share statements: each still learns of its own leases, whatever its neighbours hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_that_complete_at_once_learn_of_their_own_leases() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
    let cx = Context::new();
    store.commit(&cx, Commit::new().enqueue((0..400).map(|n| NewJob::new("q", n.to_string())))).await.unwrap();
    let jobs = store.lease(&cx, LeaseRequest::new("q", 400)).await.unwrap();
    let tasks: Vec<_> = jobs
        .chunks(4)
        .enumerate()
        .map(|(caller, own)| {
            let mut leases: Vec<_> = own.iter().map(|job| job.lease).collect();
            // In any order; every fifth caller has a wrong token, every seventh names a lease twice.
            leases.rotate_left(caller % 4);
            let (wrong, twice) = (caller % 5 == 0, caller % 7 == 0);
            if wrong {
                leases[1].token ^= 1;
            }
            let mut lost = if wrong { vec![leases[1]] } else { Vec::new() };
            if twice {
                leases.push(leases[0]);
                lost.push(leases[0]);
            }
            let store = store.clone();
            tokio::spawn(async move {
                let cx = Context::new();
                if caller % 2 == 0 {
                    let receipt = store.commit(&cx, Commit::new().complete_many(leases)).await.unwrap();
                    assert_eq!(receipt.lost().collect::<Vec<_>>(), lost, "caller {caller}");
                } else {
                    for lease in leases {
                        let result = store.commit(&cx, Commit::new().complete(lease)).await;
                        let expected = if lost.contains(&lease) { result.is_err() || twice } else { result.is_ok() };
                        assert!(expected, "caller {caller}: {result:?}");
                    }
                }
                usize::from(wrong)
            })
        })
        .collect();
    let mut left = 0;
    for task in tasks {
        left += task.await.unwrap();
    }
    assert_eq!(left, 20);
    let still: Vec<_> = payloads(&store, "q").await;
    assert_eq!(still.len(), left, "only those with a wrong token are still there");
    assert_eq!(store.queues(&cx).await.unwrap()[0].running, left as u64, "and they still run");
}

/// Jobs of one call are kept as one span: what happens to one in the middle must leave the others as they were.
#[tokio::test]
async fn what_happens_to_one_job_of_a_batch_leaves_the_others_leased() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
    let cx = Context::new();
    store.commit(&cx, Commit::new().enqueue((0..12).map(|n| NewJob::new("q", n.to_string())))).await.unwrap();
    let jobs = store.lease(&cx, LeaseRequest::new("q", 12)).await.unwrap();
    let lease = |n: usize| jobs[n].lease;
    let state = async |n: usize| store.job(&cx, jobs[n].id).await.unwrap().map(|job| (job.state, job.attempt));
    let minute = Duration::from_secs(60);
    store.commit(&cx, Commit::new().complete(lease(5))).await.unwrap();
    store.commit(&cx, Commit::new().fail(lease(0), "no", Retry::After(minute))).await.unwrap();
    store.commit(&cx, Commit::new().release(lease(11), minute)).await.unwrap();
    let extended = store.commit(&cx, Commit::new().extend(lease(8), minute * 5)).await.unwrap();
    assert!(matches!(extended.outcomes[..], [Outcome::Extended { cancelled: false, .. }]));
    store.commit(&cx, Commit::new().cancel(jobs[2].id)).await.unwrap();
    let limits = Limits { queue: Some(9), tenant: None };
    store.commit(&cx, Commit::new().op(Op::Limit { queue: "q".into(), limits })).await.unwrap();
    for n in 0..12 {
        let expected = match n {
            0 => Some((JobState::Ready, 1)),
            5 => None,
            11 => Some((JobState::Ready, 0)),
            _ => Some((JobState::Running, 1)),
        };
        assert_eq!(state(n).await, expected, "job {n}");
    }
    store.enqueue(&cx, NewJob::new("q", "more")).await.unwrap();
    assert!(store.lease(&cx, LeaseRequest::new("q", 1)).await.unwrap().is_empty(), "nine run, and nine may");
    store.commit(&cx, Commit::new().fail(lease(2), "cancelled", Retry::Backoff)).await.unwrap();
    assert_eq!(state(2).await, Some((JobState::Cancelled, 1)));
    let receipt = store.commit(&cx, Commit::new().complete_many(jobs.iter().map(|job| job.lease))).await.unwrap();
    let lost: Vec<_> = receipt.lost().collect();
    assert_eq!(lost, [lease(0), lease(2), lease(5), lease(11)]);
    assert_eq!(store.lease(&cx, LeaseRequest::new("q", 9)).await.unwrap().len(), 1, "there is room again");
}

#[tokio::test]
async fn jobs_that_wait_and_run_out_are_found_whoever_leases_and_extends() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
    let cx = Context::new();
    let soon = Duration::from_millis(60);
    for queue in ["a", "b"] {
        store.commit(&cx, Commit::new().enqueue((0..3).map(|n| NewJob::new(queue, n.to_string())))).await.unwrap();
    }
    let hour = |queue: &str, limit| LeaseRequest::new(queue, limit).hold(Duration::from_secs(3600));
    let long = store.lease(&cx, hour("a", 2)).await.unwrap();
    assert_eq!(store.lease(&cx, hour("b", 3)).await.unwrap().len(), 3);
    assert_eq!(store.lease(&cx, LeaseRequest::new("a", 1).hold(soon)).await.unwrap().len(), 1);
    // A lease can also be made shorter.
    store.commit(&cx, Commit::new().extend(long[1].lease, soon)).await.unwrap();
    assert!(store.lease(&cx, hour("a", 9)).await.unwrap().is_empty(), "all of them run");
    tokio::time::sleep(soon * 2).await;
    assert!(store.lease(&cx, hour("b", 9)).await.unwrap().is_empty(), "those of the other queue still run");
    let again = store.lease(&cx, hour("a", 9)).await.unwrap();
    assert_eq!(again.iter().map(|job| (job.id, job.attempt)).collect::<Vec<_>>(), [(long[1].id, 2), (again[1].id, 2)]);
    let lost = store.commit(&cx, Commit::new().complete_many(long.iter().map(|job| job.lease))).await.unwrap();
    assert_eq!(lost.lost().collect::<Vec<_>>(), [long[1].lease]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_that_lease_at_once_get_different_jobs_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
    let cx = Context::new();
    store.commit(&cx, Commit::new().enqueue((0..500).map(|n| NewJob::new("q", n.to_string())))).await.unwrap();
    let tasks: Vec<_> = (0..100)
        .map(|caller| {
            let store = store.clone();
            let owner = format!("owner {}", caller % 3);
            let request = LeaseRequest::new("q", 1 + caller % 4).owner(owner.clone());
            // Some give up before they are served.
            let cx = Context::new();
            if caller % 10 == 0 {
                cx.cancel().cancel();
            }
            tokio::spawn(async move { (caller, owner, request.limit, store.lease(&cx, request).await) })
        })
        .collect();
    let (mut all, mut cancelled) = (Vec::new(), 0);
    for task in tasks {
        let (caller, owner, limit, leased) = task.await.unwrap();
        match leased {
            Ok(jobs) => {
                assert_eq!(jobs.len(), limit, "there were jobs for all");
                let view = store.job(&cx, jobs[0].id).await.unwrap().unwrap();
                assert_eq!(view.owner, Some(owner), "the job is its caller's");
                assert!(jobs.is_sorted_by_key(|job| job.id), "one call's jobs are in order");
                all.extend(jobs.into_iter().map(|job| job.id));
            }
            Err(error) => {
                assert!(caller % 10 == 0 && error.kind() == ErrorKind::Cancelled, "{error}");
                cancelled += 1;
            }
        }
    }
    assert_eq!(cancelled, 10);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "two callers got the same job");
    let left = store.lease(&cx, LeaseRequest::new("q", 1000)).await.unwrap();
    assert_eq!(left.len() + all.len(), 500, "jobs were leased for nobody");
    let last = all.iter().max().unwrap();
    assert!(left.iter().all(|job| job.id > *last), "an earlier job was passed over");
}

#[tokio::test]
async fn an_effect_in_own_tables_and_the_commit_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = SqliteStore::open(&path).unwrap();
    let cx = Context::new();
    let commit = || Commit::new().enqueue([NewJob::new("q", "x")]);
    let create = |tx: &rusqlite::Transaction<'_>| Ok(tx.execute_batch("CREATE TABLE cart (item TEXT NOT NULL)")?);
    store.commit_with(&cx, commit(), create).await.unwrap();

    let refused = store
        .commit_with(&cx, commit(), |tx| {
            tx.execute_batch("CREATE TABLE other (x); INSERT INTO cart VALUES ('tea')")?;
            tx.execute("INSERT INTO cart VALUES (NULL)", [])?;
            Ok(())
        })
        .await;
    assert!(refused.is_err());
    let error = store.commit_with(&cx, commit(), |_| -> Result<(), _> { Err("no".into()) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let own = Error::new(ErrorKind::Conflict, "cart.add", "sold out");
    let mut own = Some(own);
    let error = store.commit_with(&cx, commit(), move |_| -> Result<(), _> { Err(own.take().unwrap().into()) });
    assert_eq!(error.await.unwrap_err().kind(), ErrorKind::Conflict);
    let panicked = store.commit_with(&cx, commit(), |_| -> Result<(), _> { panic!("in an effect, on purpose") }).await;
    assert_eq!(panicked.unwrap_err().kind(), ErrorKind::Internal);
    let ended = store
        .commit_with(&cx, commit(), |tx| {
            tx.execute_batch("INSERT INTO cart VALUES ('stray'); ROLLBACK")?;
            Ok(())
        })
        .await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Internal);

    let lost = store.commit(&cx, commit()).await.unwrap();
    assert_eq!(lost.jobs().count(), 1, "the writer goes on");
    assert_eq!(payloads(&store, "q").await.len(), 2, "only what was accepted is there");
    let conn = Connection::open(&path).unwrap();
    let rows: i64 = conn.query_row("SELECT count(*) FROM cart", [], |row| row.get(0)).unwrap();
    let tables: i64 =
        conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'other'", [], |row| row.get(0)).unwrap();
    assert_eq!((rows, tables), (0, 0));
}

#[tokio::test]
async fn a_caller_whose_time_has_run_out_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
    let late = Context::new().with_timeout(Duration::ZERO);
    let error = store.enqueue(&late, NewJob::new("q", "late")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    // It waits behind a slow one, and its time runs out meanwhile.
    let cx = Context::new();
    let slow = store.commit_with(&cx, Commit::new(), |_| {
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    });
    let soon = Context::new().with_timeout(Duration::from_millis(30));
    let (slow, late) = tokio::join!(slow, store.enqueue(&soon, NewJob::new("q", "late")));
    slow.unwrap();
    assert_eq!(late.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert!(payloads(&store, "q").await.is_empty());
}

#[tokio::test]
async fn a_closed_store_answers_that_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
    let before = enqueue(&store, "q", "before".into());
    store.close().await;
    // Reads by a key have a connection of their own.
    let read = store.read(&Context::new(), Query::Job(JobId(1))).await.map(drop);
    for error in [before.await.unwrap_err(), read.unwrap_err()] {
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Closed, false), "{error}");
        assert!(error.advice().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_that_read_by_a_key_at_once_see_what_was_committed_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
    // One of them at a time is served where it asks; the others by the readers.
    let callers = (0..16).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            let cx = Context::new();
            for number in 0..50u8 {
                let job = store.enqueue(&cx, NewJob::new("q", vec![caller, number])).await.unwrap();
                let Rows::Jobs(found) = store.read(&cx, Query::Job(job.id)).await.unwrap() else { panic!("not jobs") };
                assert_eq!(found.items.len(), 1, "{caller} {number}");
                assert_eq!(found.items[0].payload[..], [caller, number]);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}
