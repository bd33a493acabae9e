//! No room on the disk: `StorageFull`, nothing acknowledged is lost, and the Store goes on once there is room.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

mod support;

use selvedge_core::{
    Context, ErrorKind,
    store::{NewJob, StoreExt},
};
use selvedge_sqlite::SqliteStore;
use support::{assert_same, drain, enqueue, payloads};

/// Fills the Store until it refuses, works all off, and fills it again. Returns how often it refused.
async fn fill_and_drain(store: &SqliteStore, rounds: usize, make_room: impl Fn()) -> usize {
    let mut refused = 0;
    for round in 0..rounds {
        let mut acknowledged = Vec::new();
        for number in 0.. {
            let payload = format!("{round}/{number}/{}", "x".repeat(4000));
            match enqueue(store, "q", payload.clone()).await {
                Ok(()) => acknowledged.push(payload),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                    assert!(error.advice().is_some(), "{error}");
                    refused += 1;
                    break;
                }
            }
            assert!(number < 100_000, "the disk never became full");
        }
        assert!(acknowledged.len() > 10, "there was hardly any room: {}", acknowledged.len());
        assert_same(&payloads(store, "q").await, &acknowledged);
        make_room();
        let done = drain(store, "q").await;
        assert_eq!(done, acknowledged.len());
    }
    refused
}

#[tokio::test]
async fn a_size_limit_refuses_what_does_not_fit_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = SqliteStore::builder(&path).max_bytes(1 << 20).open().unwrap();
    // A full Store can be worked off without any help.
    assert_eq!(fill_and_drain(&store, 3, || ()).await, 3);
    assert!(std::fs::metadata(&path).unwrap().len() <= 1 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_too_large_for_the_disk_harms_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::builder(folder.path().join("app.db")).max_bytes(2 << 20).open().unwrap();
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let store = store.clone();
            let size = if number % 4 == 0 { 1 << 20 } else { 100 };
            tokio::spawn(async move {
                let job = NewJob::new("q", format!("{number:04}{}", "x".repeat(size)));
                (number, store.enqueue(&Context::new(), job).await)
            })
        })
        .collect();
    let mut large = 0;
    for task in tasks {
        match task.await.unwrap() {
            (number, Ok(_)) => large += usize::from(number % 4 == 0),
            (number, Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                assert_eq!(number % 4, 0, "job {number} is small and was refused: {error}");
            }
        }
    }
    assert!(large < 10, "the large ones all fitted, so nothing was tested");
    assert_eq!(payloads(&store, "q").await.len(), 30 + large);
}

/// A real file system that is really full.
#[cfg(target_os = "linux")]
mod disk {
    use std::{path::PathBuf, process::Command};

    use super::*;
    use crate::support::{Other, may_mount, path_of_parent};

    #[tokio::test]
    #[ignore = "run in a mount namespace by the test below"]
    async fn in_a_small_file_system() {
        let path: PathBuf = path_of_parent();
        let store = SqliteStore::open(&path).unwrap();
        // Somebody deletes a file, and the Store goes on by itself. It needs room for its log first, which
        // grows to about 4 MB before SQLite moves it into the file.
        let other = path.with_file_name("film.mp4");
        std::fs::write(&other, vec![0; 6 << 20]).unwrap();
        let refused = fill_and_drain(&store, 1, || std::fs::remove_file(&other).unwrap()).await;
        store.close().await;
        drop(store);
        let store = SqliteStore::open(&path).unwrap();
        assert!(payloads(&store, "q").await.is_empty());
        enqueue(&store, "q", "last".into()).await.unwrap();
        println!("refused {refused}");
    }

    #[test]
    fn a_full_disk_loses_nothing() {
        if !may_mount() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs -o size=20m tmpfs \"$1\" && shift && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(folder.path());
        command.arg(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", "disk::in_a_small_file_system"]);
        let mut other = Other::spawn(&mut command, &folder.path().join("app.db"));
        let refused = other.line("refused ");
        assert!(other.wait().success());
        assert_eq!(refused.as_deref(), Some("1"), "the disk was full");
    }
}
