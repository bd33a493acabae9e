//! Batches: files of requests, worked off as jobs, answers in the order in which they come.
//!
//! All state is in the Store, through the verbs that every Store has: a file and what became of a batch are messages of
//! topics, each request is a job of the queue [`BatchOptions::QUEUE`], and an answer is published in the commit that ends its
//! job. So an answer is there exactly once, however often whoever works on it is killed.

mod batches;
mod files;
mod objects;
mod work;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use selvedge_core::{
    AnyStore, Context, Engine, Error, ErrorKind, Result, Timestamp,
    allowance::Allowance,
    batch::End,
    store::{Message, StoreExt},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

pub use batches::NewBatch;
pub use files::{Content, Upload};
use objects::Ended;
pub use objects::{BatchObject, BatchUsage, CachedTokens, Counts, Errors, FileObject, ReasoningTokens, Resumed};

/// How batches are taken and worked off. Every field has a default.
///
/// ```
/// use selvedge_http::BatchOptions;
///
/// let options = BatchOptions { concurrency: 16, ..BatchOptions::default() };
/// assert_eq!(options.requests, 50_000);
/// ```
#[derive(Clone, Debug)]
pub struct BatchOptions {
    /// Requests that one process puts to the models at once; the Scheduler decides how many of them run. Default: 4.
    pub concurrency: usize,
    /// An answer is kept after so many new tokens. Default: 32.
    pub checkpoint_tokens: usize,
    /// An answer is kept after this long, if it has new tokens; also how often it is asked whether the batch was cancelled.
    /// Default: 5 seconds.
    pub checkpoint_every: Duration,
    /// How long a request stays with a process that is gone. Default: 30 seconds.
    pub hold: Duration,
    /// How long a request may take to be kept and given back when the process is told to end. Default: 10 seconds.
    pub drain: Duration,
    /// How often a request may fail for reasons that are not its own, before it is written to the error file. Default: 5.
    pub attempts: u32,
    /// The most bytes of an input file. Default: 100 MiB.
    pub file_limit: usize,
    /// The most requests of a batch. Default: 50,000.
    pub requests: usize,
    /// The most bytes of one request. Default: 4 MiB.
    pub request_limit: usize,
    /// How long the Store keeps messages, and so files and batches: its `Retention::messages`. Default: 7 days.
    pub retention: Duration,
    /// The most tokens of an answer when the request does not say. Default: 1,024.
    pub max_tokens: usize,
    /// What the requests of a tenant's batches may use of the models, by tenant; who is not named may use what is idle. They are
    /// counted apart from what [`ServerOptions::tenants`](crate::ServerOptions::tenants) allows, so that a batch never takes
    /// from a person. Default: none.
    pub tenants: BTreeMap<String, Allowance>,
}

impl BatchOptions {
    /// The queue in which requests of batches wait.
    pub const QUEUE: &'static str = "batch";
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            concurrency: 4,
            checkpoint_tokens: 32,
            checkpoint_every: Duration::from_secs(5),
            hold: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            attempts: 5,
            file_limit: 100 << 20,
            requests: 50_000,
            request_limit: 4 << 20,
            retention: Duration::from_secs(7 * 86_400),
            max_tokens: 1_024,
            tenants: BTreeMap::new(),
        }
    }
}

/// Files and batches in the Store of an engine, and the worker that answers their requests. Cloning shares them.
///
/// Each call acts for the tenant of its [`Context`], and sees nothing of the others.
///
/// ```no_run
/// use selvedge_core::{Context, Engine, batch::Endpoint};
/// use selvedge_http::{BatchOptions, Batches, NewBatch};
///
/// # async fn run(engine: Engine, stopping: Context) -> selvedge_core::Result<()> {
/// let batches = Batches::new(engine, BatchOptions::default());
/// let cx = Context::new();
/// let mut upload = batches.upload();
/// upload.push(&cx, br#"{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"Tea"}}"#).await?;
/// let file = upload.finish(&cx, "requests.jsonl", "batch").await?;
/// let batch = batches.create(&cx, NewBatch::new(file.id, Endpoint::Completions)).await?;
/// batches.work(&stopping).await?;
/// println!("{}", batches.batch(&cx, &batch.id).await?.status);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Batches {
    engine: Engine,
    options: Arc<BatchOptions>,
    /// Input files are read one after the other: each is in memory while its jobs are made.
    creating: Arc<Semaphore>,
}

impl Batches {
    /// Batches in the Store of `engine`.
    pub fn new(engine: Engine, options: BatchOptions) -> Self {
        Self { engine, options: Arc::new(options), creating: Arc::new(Semaphore::new(1)) }
    }

    /// How they are taken and worked off.
    pub fn options(&self) -> &BatchOptions {
        &self.options
    }

    fn store(&self) -> Result<&AnyStore> {
        self.engine.store()
    }

    /// All messages of a topic, a page at a time.
    async fn each(
        &self,
        cx: &Context,
        topic: &str,
        limit: usize,
        mut take: impl FnMut(Message) -> Result<()> + Send,
    ) -> Result<()> {
        let mut after = 0;
        loop {
            let page = self.store()?.messages(cx, topic, after, limit).await?;
            page.items.into_iter().try_for_each(&mut take)?;
            match page.next {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }
}

/// The most small messages that are read at once.
const PAGE: usize = 1_000;

/// What is known of a file: the messages of its topic.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FileNote {
    Made(FileRecord),
    Deleted,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct FileRecord {
    tenant: Option<String>,
    filename: String,
    purpose: String,
    bytes: u64,
    /// Its content is so many messages.
    pieces: u64,
}

/// What is known of a batch: the messages of its topic.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BatchNote {
    Made(batches::Record),
    Cancelled,
}

/// How a request ended: a message of the batch's topic of ends, in the same commit as its line in a file and its job's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct EndNote {
    line: u64,
    end: End,
    /// The length of its line in the output file or error file.
    bytes: u64,
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    cached_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    /// Tokens that were taken over from checkpoints.
    #[serde(default)]
    resumed_tokens: u64,
}

/// The names of topics. What a client may name in them is made of letters, digits and hyphens.
mod topic {
    use super::{Digest, Sha256};

    /// The files, or the batches, of a tenant.
    pub(super) fn index(kind: &str, tenant: Option<&str>) -> String {
        match tenant {
            None => kind.to_owned(),
            // Of one length, whatever a tenant is called.
            Some(tenant) => {
                let digest = Sha256::digest(tenant.as_bytes());
                let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
                format!("{kind}/{hex}")
            }
        }
    }

    pub(super) fn file(id: &str) -> String {
        format!("file/{id}")
    }

    pub(super) fn content(id: &str) -> String {
        format!("file/{id}/content")
    }

    pub(super) fn batch(id: &str) -> String {
        format!("batch/{id}")
    }

    pub(super) fn ends(id: &str) -> String {
        format!("batch/{id}/ends")
    }

    pub(super) fn output(id: &str) -> String {
        format!("batch/{id}/output")
    }

    pub(super) fn errors(id: &str) -> String {
        format!("batch/{id}/errors")
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind<'a> {
    Uploaded,
    Output { batch: &'a str },
    Errors { batch: &'a str },
}

/// Tells what a file's id names; `None` if it is no id.
fn kind_of(id: &str) -> Option<Kind<'_>> {
    let name = id.strip_prefix("file-")?;
    let (name, kind) = match name.split_once('-') {
        None => (name, Kind::Uploaded),
        Some((batch, "output")) => (batch, Kind::Output { batch }),
        Some((batch, "errors")) => (batch, Kind::Errors { batch }),
        Some(_) => return None,
    };
    is_name(name).then_some(kind)
}

fn batch_name(id: &str) -> Option<&str> {
    id.strip_prefix("batch_").filter(|name| is_name(name))
}

fn is_name(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn new_name() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

fn seconds(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(1_000_000)
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorKind::Internal, "batch.write", "a record cannot be encoded").caused_by(error))
}

fn decode<T: DeserializeOwned>(message: &Message) -> Result<T> {
    serde_json::from_slice(&message.payload).map_err(|error| {
        Error::new(ErrorKind::Damaged, "batch.read", "a record cannot be read")
            .caused_by(error)
            .advise("another version of the server may have written it")
    })
}

fn no_file(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, "batch.file", "there is no such file")
        .with("file", id.chars().take(100).collect::<String>())
        .advise("it may be deleted, or past its retention; list the files to see which there are")
}

fn no_batch(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, "batch.find", "there is no such batch")
        .with("batch", id.chars().take(100).collect::<String>())
        .advise("it may be past its retention; list the batches to see which there are")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_one_thing_or_nothing() {
        let name = "0".repeat(32);
        assert_eq!(kind_of(&format!("file-{name}")), Some(Kind::Uploaded));
        assert_eq!(kind_of(&format!("file-{name}-output")), Some(Kind::Output { batch: &name }));
        assert_eq!(kind_of(&format!("file-{name}-errors")), Some(Kind::Errors { batch: &name }));
        for bad in
            ["", "file-", "file-x/content", &format!("file-{name}-content"), &format!("file-{name}/content"), &name]
        {
            assert_eq!(kind_of(bad), None, "{bad}");
        }
        assert_eq!(batch_name(&format!("batch_{name}")), Some(name.as_str()));
        assert_eq!(batch_name(&format!("batch_{name}/ends")), None);
    }

    #[test]
    fn tenants_have_topics_of_their_own_whatever_they_are_called() {
        let long = "x".repeat(255);
        let names =
            [None, Some("a"), Some("b"), Some("a/b"), Some(long.as_str())].map(|one| topic::index("files", one));
        for (at, name) in names.iter().enumerate() {
            assert!(name.len() < 64 && !names[..at].contains(name), "{name}");
        }
    }
}
