//! Files that are not ours, not whole, or not writable: a typed error that says what to do, and not a byte changed.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::{fs, path::Path, process::Command};

use rusqlite::Connection;
use selvedge_core::{Context, ErrorKind, Store, store::StoreExt};
use selvedge_sqlite::SqliteStore;
use support::{Other, enqueue, path_of_parent, payloads};

/// The names and contents of all files in a folder.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    all.sort();
    all
}

/// Opening fails as told, with advice and the path, and leaves the folder as it was.
fn refused(path: &Path, expected: ErrorKind) {
    let before = contents(path.parent().unwrap());
    let error = SqliteStore::open(path).map(drop).expect_err("it is refused");
    assert_eq!(error.kind(), expected, "{error}");
    assert!(error.advice().is_some(), "{error} advises nothing");
    assert!(error.to_string().contains(&path.display().to_string()), "{error} does not name the file");
    assert!(!error.retryable(), "{error}");
    assert!(contents(path.parent().unwrap()) == before, "{expected:?}: the folder is not as it was");
}

/// A Store's file with some jobs in it, closed.
async fn written(path: &Path) {
    let store = SqliteStore::open(path).unwrap();
    for number in 0..500 {
        enqueue(&store, "q", format!("{number}: {}", "x".repeat(200))).await.unwrap();
    }
    store.close().await;
    drop(store);
    assert_eq!(contents(path.parent().unwrap()).len(), 1, "a closed Store is one file");
}

#[tokio::test]
async fn a_file_that_is_cut_off_or_overwritten_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    written(&path).await;
    let whole = fs::read(&path).unwrap();
    for length in [1, 15, 16, 99, 100, 512, 4095, 4096, 5000, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        refused(&path, ErrorKind::Damaged);
    }
    let mut seen = 0;
    for page in (0..whole.len()).step_by(4096) {
        let mut broken = whole.clone();
        broken[page..page + 4096].fill(0xa5);
        fs::write(&path, &broken).unwrap();
        refused(&path, ErrorKind::Damaged);
        seen += 1;
    }
    assert!(seen > 20, "the file has only {seen} pages");
    fs::write(&path, b"it was a dark and stormy night, and nothing in this text is a database".repeat(9)).unwrap();
    refused(&path, ErrorKind::Damaged);

    fs::write(&path, &whole).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(payloads(&store, "q").await.len(), 500, "the whole file has everything");
}

#[tokio::test]
async fn a_newer_file_and_another_programs_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    written(&path).await;
    let conn = Connection::open(&path).unwrap();
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    conn.pragma_update(None, "user_version", version + 1).unwrap();
    conn.close().unwrap();
    refused(&path, ErrorKind::NewerVersion);

    fs::remove_file(&path).unwrap();
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('mine')").unwrap();
    conn.close().unwrap();
    refused(&path, ErrorKind::Conflict);
}

#[tokio::test]
async fn paths_that_lead_to_no_file_are_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    refused(&folder.path().join("sub"), ErrorKind::InvalidInput);
    let missing = folder.path().join("no/such/folder/app.db");
    let error = SqliteStore::open(&missing).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(!folder.path().join("no").exists(), "nothing was created");
}

#[tokio::test]
async fn an_empty_file_becomes_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    fs::write(&path, b"").unwrap();
    let store = SqliteStore::open(&path).unwrap();
    enqueue(&store, "q", "job".into()).await.unwrap();
    assert_eq!(payloads(&store, "q").await, ["job"]);
}

/// Opens the Store of the parent and says what kind of error came.
#[test]
#[ignore = "run in another process by the test below"]
fn opened_by_another() {
    let said = match SqliteStore::open(path_of_parent()) {
        Ok(_) => "opened".to_owned(),
        Err(error) => format!("{:?} {}", error.kind(), error.advice().is_some()),
    };
    println!("said {said}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_folder_that_may_not_be_written_is_a_typed_error() {
    if !support::may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    written(&path).await;
    let before = contents(folder.path());
    // Permissions do not bind the superuser, a read-only mount does. A mount needs a namespace of its own.
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(folder.path());
    command.arg(std::env::current_exe().unwrap()).args(["--ignored", "--exact", "--nocapture", "opened_by_another"]);
    let mut other = Other::spawn(&mut command, &path);
    let said = other.line("said ");
    other.wait();
    assert_eq!(said.as_deref(), Some("PermissionDenied true"));
    let fresh = folder.path().join("fresh.db");
    let mut other = Other::spawn(&mut command, &fresh);
    assert_eq!(other.line("said ").as_deref(), Some("PermissionDenied true"));
    other.wait();
    assert!(contents(folder.path()) == before, "the folder is not as it was");
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(payloads(&store, "q").await.len(), 500);
}

#[tokio::test]
async fn the_store_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = SqliteStore::open(&path).unwrap();
    let info = store.info(&Context::new()).await.unwrap();
    assert_eq!((info.plugin, info.location), ("sqlite", path.display().to_string()));
    assert!(info.backend.starts_with("SQLite 3."), "{}", info.backend);
    assert!(info.bytes.unwrap() > 0);
    assert!(store.capabilities().durable);
}
