//! Files.

use std::{fmt, pin::Pin, task};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use selvedge_core::{
    Commit, Context, Error, ErrorKind, Result, Store, Timestamp,
    store::{Message, StoreExt},
};

use super::{Batches, FileNote, FileObject, FileRecord, Kind, PAGE, decode, encode, kind_of, no_file, seconds, topic};

/// The length of the messages in which a file is kept.
const PIECE: usize = 1 << 20;
/// How many messages of a file are in memory at once, for each reader.
const PIECES: usize = 4;
/// How many lines of an output file are read at once.
const LINES: usize = 64;

/// A file on its way in. It is there once [`Upload::finish`] has returned; dropped before, it is not, and what was kept of it
/// goes with its retention.
#[derive(Debug)]
pub struct Upload {
    batches: Batches,
    id: String,
    rest: Vec<u8>,
    bytes: usize,
    pieces: u64,
}

impl Upload {
    /// Adds to it.
    ///
    /// # Errors
    /// `TooLarge` beyond [`BatchOptions::file_limit`](super::BatchOptions::file_limit), and those of the Store.
    pub async fn push(&mut self, cx: &Context, mut bytes: &[u8]) -> Result<()> {
        let limit = self.batches.options.file_limit;
        self.bytes += bytes.len();
        if self.bytes > limit {
            return Err(Error::new(ErrorKind::TooLarge, "batch.upload", "the file is too large")
                .with("limit_bytes", limit)
                .advise("send it in several files, or ask the operator for a larger limit"));
        }
        while self.rest.len() + bytes.len() >= PIECE {
            let (head, tail) = bytes.split_at(PIECE - self.rest.len());
            self.rest.extend_from_slice(head);
            bytes = tail;
            self.keep(cx).await?;
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    async fn keep(&mut self, cx: &Context) -> Result<()> {
        let piece = std::mem::take(&mut self.rest);
        self.batches.store()?.publish(cx, &topic::content(&self.id), piece).await?;
        self.pieces += 1;
        Ok(())
    }

    /// Makes it a file.
    ///
    /// # Errors
    /// `InvalidInput` for a purpose other than `batch`, and those of the Store.
    pub async fn finish(mut self, cx: &Context, filename: &str, purpose: &str) -> Result<FileObject> {
        if purpose != "batch" {
            return Err(Error::new(ErrorKind::InvalidInput, "batch.upload", "files are taken for batches only")
                .with("purpose", purpose.chars().take(40).collect::<String>())
                .advise("send the purpose batch"));
        }
        if !self.rest.is_empty() {
            self.keep(cx).await?;
        }
        let record = FileRecord {
            tenant: cx.tenant().map(Into::into),
            filename: filename.chars().take(255).collect(),
            purpose: purpose.into(),
            bytes: self.bytes as u64,
            pieces: self.pieces,
        };
        let note = encode(&FileNote::Made(record))?;
        let store = self.batches.store()?;
        let commit = Commit::new()
            .publish(topic::file(&self.id), note)
            .publish(topic::index("files", cx.tenant()), self.id.clone());
        store.commit(cx, commit).await?;
        self.batches.file(cx, &self.id).await
    }
}

/// What a file holds, piece by piece.
pub struct Content(Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>);

impl Stream for Content {
    type Item = Result<Bytes>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content")
    }
}

impl Batches {
    /// A new file, to be filled.
    pub fn upload(&self) -> Upload {
        let id = format!("file-{}", super::new_name());
        Upload { batches: self.clone(), id, rest: Vec::new(), bytes: 0, pieces: 0 }
    }

    /// A file.
    ///
    /// # Errors
    /// `NotFound`, and those of the Store.
    pub async fn file(&self, cx: &Context, id: &str) -> Result<FileObject> {
        self.find(cx, id).await.map(|(file, _)| file)
    }

    /// The files of the tenant that were uploaded, the latest first.
    ///
    /// # Errors
    /// Those of the Store.
    pub async fn files(&self, cx: &Context) -> Result<Vec<FileObject>> {
        let mut files = Vec::new();
        for id in self.index(cx, "files").await? {
            match self.file(cx, &id).await {
                Ok(file) => files.push(file),
                // It was deleted.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    /// The ids of the tenant's files or batches, the latest first.
    pub(super) async fn index(&self, cx: &Context, kind: &str) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        let topic = topic::index(kind, cx.tenant());
        self.each(cx, &topic, PAGE, |message| {
            ids.push(String::from_utf8_lossy(&message.payload).into_owned());
            Ok(())
        })
        .await?;
        ids.reverse();
        Ok(ids)
    }

    /// What a file holds. Of the files of a batch that is not over, what is there so far.
    ///
    /// # Errors
    /// `NotFound`, and those of the Store, also within the stream.
    pub async fn content(&self, cx: &Context, id: &str) -> Result<Content> {
        let (file, pieces) = self.find(cx, id).await?;
        let (topic, page) = match kind_of(id) {
            Some(Kind::Uploaded) => (topic::content(id), PIECES),
            Some(Kind::Output { batch }) => (topic::output(batch), LINES),
            Some(Kind::Errors { batch }) => (topic::errors(batch), LINES),
            None => return Err(no_file(id)),
        };
        let (batches, cx) = (self.clone(), cx.clone());
        let pages = stream::try_unfold(Some((0, 0)), move |place| {
            let (batches, cx, topic, id) = (batches.clone(), cx.clone(), topic.clone(), file.id.clone());
            async move {
                let Some((after, seen)) = place else { return Ok(None) };
                let page = batches.store()?.messages(&cx, &topic, after, page).await?;
                let seen = seen + page.items.len() as u64;
                // Housekeeping drops the oldest first.
                if page.items.first().is_some_and(|first| after == 0 && first.cursor != 1)
                    || page.next.is_none() && pieces.is_some_and(|pieces| seen != pieces)
                {
                    return Err(no_file(&id));
                }
                let payloads = page.items.into_iter().map(|message: Message| Ok(message.payload));
                Ok(Some((stream::iter(payloads), page.next.map(|next| (next, seen)))))
            }
        });
        Ok(Content(Box::pin(pages.try_flatten())))
    }

    /// Makes a file unknown. What it holds goes with its retention.
    ///
    /// # Errors
    /// `NotFound`, and those of the Store.
    pub async fn delete(&self, cx: &Context, id: &str) -> Result<()> {
        self.file(cx, id).await?;
        self.store()?.publish(cx, &topic::file(id), encode(&FileNote::Deleted)?).await.map(drop)
    }

    /// A file, and in how many messages it is kept, if that is known.
    async fn find(&self, cx: &Context, id: &str) -> Result<(FileObject, Option<u64>)> {
        let kind = kind_of(id).ok_or_else(|| no_file(id))?;
        let (mut made, mut deleted) = (None, false);
        self.each(cx, &topic::file(id), PAGE, |message| {
            match decode(&message)? {
                FileNote::Made(record) => made = Some((record, message.published_at)),
                FileNote::Deleted => deleted = true,
            }
            Ok(())
        })
        .await?;
        if deleted {
            return Err(no_file(id));
        }
        let object = |bytes, at: Timestamp, filename: String, purpose: &str| FileObject {
            id: id.into(),
            object: "file",
            bytes,
            created_at: seconds(at),
            expires_at: seconds(at + self.options.retention),
            filename,
            purpose: purpose.into(),
            status: "processed",
        };
        let (batch, errors) = match kind {
            Kind::Uploaded => {
                let Some((record, at)) = made.filter(|(record, _)| record.tenant.as_deref() == cx.tenant()) else {
                    return Err(no_file(id));
                };
                let FileRecord { filename, purpose, bytes, pieces, .. } = record;
                return Ok((object(bytes, at, filename, &purpose), Some(pieces)));
            }
            Kind::Output { batch } => (batch, false),
            Kind::Errors { batch } => (batch, true),
        };
        let known = self.known(cx, batch).await?.ok_or_else(|| no_file(id))?;
        let ended = self.ended(cx, batch).await?;
        let (bytes, end) = if errors { (ended.0.error_bytes, "errors") } else { (ended.0.output_bytes, "output") };
        if bytes == 0 {
            return Err(no_file(id));
        }
        Ok((object(bytes, known.at, format!("batch_{batch}_{end}.jsonl"), "batch_output"), None))
    }
}
