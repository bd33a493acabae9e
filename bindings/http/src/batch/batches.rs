//! Batches: made, looked at, cancelled.

use std::{collections::BTreeMap, time::Duration};

use futures_util::TryStreamExt;
use selvedge_core::{
    Commit, Context, Error, ErrorKind, Result, Store, Timestamp,
    batch::{self, End, Endpoint, Flaw, InputReader, Request, Rules, Status},
    store::{NewJob, StoreExt},
};
use serde::{Deserialize, Serialize};

use super::{
    BatchNote, BatchObject, BatchOptions, Batches, Counts, EndNote, Ended, Errors, PAGE, batch_name, decode, encode,
    no_batch, seconds, topic, work::Item,
};

/// How often the job of a request may be started: each kill of a process costs one. What fails by itself is counted apart.
const STARTS: u32 = 10_000;
/// OpenAI's limits on metadata.
const METADATA: (usize, usize, usize) = (16, 64, 512);

/// A batch to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBatch {
    /// The file of its requests.
    pub input_file_id: String,
    /// What they ask for.
    pub endpoint: Endpoint,
    /// How long it may take: see [`batch::window`].
    pub completion_window: String,
    /// What the caller keeps with it: 16 pairs at most.
    pub metadata: Option<BTreeMap<String, String>>,
}

impl NewBatch {
    /// A batch of the requests of a file, to be done within a day.
    pub fn new(input_file_id: impl Into<String>, endpoint: Endpoint) -> Self {
        Self { input_file_id: input_file_id.into(), endpoint, completion_window: "24h".into(), metadata: None }
    }
}

/// What is kept of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    tenant: Option<String>,
    endpoint: Endpoint,
    input_file_id: String,
    completion_window: String,
    seconds: u64,
    metadata: Option<BTreeMap<String, String>>,
    total: u64,
    flaws: Vec<Flaw>,
}

/// A batch, without what became of its requests.
pub(super) struct Known {
    record: Record,
    pub(super) at: Timestamp,
    cancelled: Option<Timestamp>,
}

impl Known {
    pub(super) fn until(&self) -> Timestamp {
        self.at + Duration::from_secs(self.record.seconds)
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancelled.is_some()
    }
}

impl Batches {
    /// Makes a batch of the requests in a file: all of them, or, if anything is wrong with the file, none; then its status is
    /// `failed` and its errors say what and where.
    ///
    /// # Errors
    /// `NotFound` when there is no such file, `InvalidInput` for another field, and those of the Store.
    pub async fn create(&self, cx: &Context, new: NewBatch) -> Result<BatchObject> {
        let window = self.check(&new)?;
        // One after the other: an input file is in memory while its jobs are made.
        let _turn = cx.bound(&**self.engine.clock(), "batch.create", self.creating.acquire()).await?;
        let models: Vec<_> = self.engine.models().map(|(name, _)| name.to_owned()).collect();
        let mut reader = InputReader::new(Rules {
            endpoint: new.endpoint,
            requests: self.options.requests,
            line: self.options.request_limit,
            models: (!models.is_empty()).then_some(models),
        });
        let mut content = self.content(cx, &new.input_file_id).await?;
        while let Some(piece) = content.try_next().await? {
            reader.push(&piece);
        }
        let (requests, flaws) = match reader.finish() {
            Ok(requests) => (requests, Vec::new()),
            Err(flaws) => (Vec::new(), flaws),
        };
        let name = super::new_name();
        let record = Record {
            tenant: cx.tenant().map(Into::into),
            endpoint: new.endpoint,
            input_file_id: new.input_file_id,
            completion_window: new.completion_window,
            seconds: window.as_secs(),
            metadata: new.metadata,
            total: requests.len() as u64,
            flaws,
        };
        let jobs = requests.into_iter().map(|request| job(cx, &name, record.endpoint, request));
        let jobs = jobs.collect::<Result<Vec<_>>>()?;
        let commit = Commit::new()
            .publish(topic::batch(&name), encode(&BatchNote::Made(record))?)
            .publish(topic::index("batches", cx.tenant()), format!("batch_{name}"))
            .enqueue(jobs);
        self.store()?.commit(cx, commit).await?;
        self.batch(cx, &format!("batch_{name}")).await
    }

    fn check(&self, new: &NewBatch) -> Result<Duration> {
        let window = batch::window(&new.completion_window)?;
        if window.saturating_mul(2) > self.options.retention {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "batch.create",
                "the Store would forget the batch too soon",
            )
            .with("completion_window", &new.completion_window)
            .with("kept_days", self.options.retention.as_secs() / 86_400)
            .advise("ask for a shorter window, or raise store.keep_messages_days to twice the window"));
        }
        let (pairs, key, value) = METADATA;
        let metadata = new.metadata.iter().flatten();
        if new.metadata.as_ref().is_some_and(|all| all.len() > pairs)
            || metadata.into_iter().any(|(k, v)| k.chars().count() > key || v.chars().count() > value)
        {
            return Err(Error::new(ErrorKind::InvalidInput, "batch.create", "the metadata is too large")
                .advise(format!("send {pairs} pairs at most, keys of {key} and values of {value} characters")));
        }
        Ok(window)
    }

    /// A batch.
    ///
    /// # Errors
    /// `NotFound`, and those of the Store.
    pub async fn batch(&self, cx: &Context, id: &str) -> Result<BatchObject> {
        let name = batch_name(id).ok_or_else(|| no_batch(id))?;
        let known = self.known(cx, name).await?.ok_or_else(|| no_batch(id))?;
        let (ended, last) = self.ended(cx, name).await?;
        let now = self.store()?.info(cx).await?.now;
        Ok(object(name, known, ended, last, now))
    }

    /// The batches of the tenant after that of the id `after`, the latest first, `limit` of them at most; and whether there
    /// are more.
    ///
    /// # Errors
    /// Those of the Store.
    pub async fn batches(&self, cx: &Context, after: Option<&str>, limit: usize) -> Result<(Vec<BatchObject>, bool)> {
        let ids = self.index(cx, "batches").await?;
        let from = after.map_or(0, |after| ids.iter().position(|id| id == after).map_or(ids.len(), |at| at + 1));
        let mut batches = Vec::new();
        for id in ids.iter().skip(from).take(limit) {
            match self.batch(cx, id).await {
                Ok(batch) => batches.push(batch),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok((batches, ids.len() > from.saturating_add(limit)))
    }

    /// Ends a batch: what waits is not begun, what runs is stopped within a few seconds, what was answered stays.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when it is over already, and those of the Store.
    pub async fn cancel(&self, cx: &Context, id: &str) -> Result<BatchObject> {
        let batch = self.batch(cx, id).await?;
        let name = batch_name(id).ok_or_else(|| no_batch(id))?;
        if batch.status.is_final() {
            return Err(Error::new(ErrorKind::Conflict, "batch.cancel", "this batch is over")
                .with("batch", id)
                .with("status", batch.status));
        }
        if batch.cancelling_at.is_none() {
            self.store()?.publish(cx, &topic::batch(name), encode(&BatchNote::Cancelled)?).await?;
        }
        self.batch(cx, id).await
    }

    /// A batch of the tenant by its name, without what became of its requests.
    pub(super) async fn known(&self, cx: &Context, name: &str) -> Result<Option<Known>> {
        let (mut made, mut cancelled) = (None, None);
        self.each(cx, &topic::batch(name), PAGE, |message| {
            match decode(&message)? {
                BatchNote::Made(record) => made = Some((record, message.published_at)),
                BatchNote::Cancelled => cancelled = cancelled.or(Some(message.published_at)),
            }
            Ok(())
        })
        .await?;
        let made = made.filter(|(record, _)| record.tenant.as_deref() == cx.tenant());
        Ok(made.map(|(record, at)| Known { record, at, cancelled }))
    }

    /// What became of its requests, and when the last of them ended.
    pub(super) async fn ended(&self, cx: &Context, name: &str) -> Result<(Ended, Option<Timestamp>)> {
        let (mut all, mut last) = (Ended::default(), None);
        self.each(cx, &topic::ends(name), PAGE, |message| {
            let note: EndNote = decode(&message)?;
            all.tally.add(note.end);
            match note.end {
                End::Completed => all.output_bytes += note.bytes,
                End::Failed | End::Expired | End::Cancelled => all.error_bytes += note.bytes,
            }
            all.usage.input_tokens += note.prompt_tokens;
            all.usage.input_tokens_details.cached_tokens += note.cached_tokens;
            all.usage.output_tokens += note.completion_tokens;
            all.usage.total_tokens += note.prompt_tokens + note.completion_tokens;
            all.resumed.requests += u64::from(note.resumed_tokens > 0);
            all.resumed.tokens += note.resumed_tokens;
            last = Some(message.published_at);
            Ok(())
        })
        .await?;
        Ok((all, last))
    }
}

fn job(cx: &Context, name: &str, endpoint: Endpoint, request: Request) -> Result<NewJob> {
    let Request { line, custom_id, body } = request;
    // Chosen once, so that every run of this request draws alike.
    let item = Item { batch: name.into(), line, custom_id, endpoint, seed: fastrand::u32(..), body };
    let mut job = NewJob::new(BatchOptions::QUEUE, encode(&item)?)
        .unique(format!("{name}:{line}"))
        .max_attempts(STARTS)
        .trace(cx.trace());
    job.tenant = cx.tenant().map(Into::into);
    Ok(job)
}

fn object(name: &str, known: Known, ended: Ended, last: Option<Timestamp>, now: Timestamp) -> BatchObject {
    let until = known.until();
    let Known { record, at, cancelled } = known;
    let failed = !record.flaws.is_empty();
    let status =
        if failed { Status::Failed } else { Status::of(record.total, &ended.tally, cancelled.is_some(), until, now) };
    let over = status.is_final().then_some(last.unwrap_or(at)).map(seconds);
    let when = |wanted: Status| over.filter(|_| status == wanted);
    let file = |bytes: u64, end: &str| (status.is_final() && bytes > 0).then(|| format!("file-{name}-{end}"));
    BatchObject {
        id: format!("batch_{name}"),
        object: "batch",
        endpoint: record.endpoint,
        errors: failed.then_some(Errors { object: "list", data: record.flaws }),
        input_file_id: record.input_file_id,
        completion_window: record.completion_window,
        status,
        output_file_id: file(ended.output_bytes, "output"),
        error_file_id: file(ended.error_bytes, "errors"),
        created_at: seconds(at),
        in_progress_at: (!failed).then_some(seconds(at)),
        expires_at: seconds(until),
        finalizing_at: over.filter(|_| !failed),
        completed_at: when(Status::Completed),
        failed_at: when(Status::Failed),
        expired_at: when(Status::Expired),
        cancelling_at: cancelled.map(seconds),
        cancelled_at: when(Status::Cancelled),
        request_counts: Counts {
            total: record.total,
            completed: ended.tally.completed,
            failed: ended.tally.failed + ended.tally.expired,
        },
        usage: ended.usage,
        resumed: ended.resumed,
        metadata: record.metadata,
    }
}
