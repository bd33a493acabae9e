//! The worker: answers one request after another, and keeps how far it came.

use std::time::Duration;

use selvedge_core::{
    BoxFuture, CancelToken, Commit, Context, Error, ErrorKind, Result, Store,
    allowance::Allowances,
    batch::{self, Checkpoint, End, Endpoint, Progress},
    engine::{JobHandler, JobOutcome, WorkerOptions},
    inference::{Chunk, Prompt, Usage},
    scheduler::Class,
    store::{LeasedJob, Retry, StoreExt},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{BatchOptions, Batches, EndNote, encode, topic};
use crate::{
    Problem,
    openai::{
        chat, completions, embeddings, error,
        run::{Head, Prepared, Shape, prepare, too_long, whole},
    },
};

/// The payload of a request's job.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) batch: String,
    pub(super) line: u64,
    pub(super) custom_id: String,
    pub(super) endpoint: Endpoint,
    /// The seed, if the request gives none.
    pub(super) seed: u32,
    pub(super) body: Box<RawValue>,
}

/// How the work on a request ended, if nothing failed.
enum Stopped {
    /// It was answered.
    Answered(Answer),
    /// It has no answer, for this reason.
    Unanswered(End),
    /// The process is to end: it is given back, with this to keep.
    Draining(Option<Checkpoint>),
}

#[derive(Default)]
struct Answer {
    body: Value,
    usage: Usage,
    resumed: usize,
}

impl Batches {
    /// Works on the requests of all tenants' batches until `cx` is cancelled; then it keeps how far each had come and gives
    /// them back, without counting the attempt.
    ///
    /// # Errors
    /// Those of the Store that do not pass by themselves.
    pub async fn work(&self, cx: &Context) -> Result<()> {
        let options = WorkerOptions {
            hold: self.options.hold,
            drain: self.options.drain,
            ..WorkerOptions::new(BatchOptions::QUEUE, self.options.concurrency)
        };
        self.engine.work(cx, &options, &Worker { batches: self.clone(), draining: cx.cancel().clone() }).await
    }

    /// Under the limits of its tenant's batches.
    fn limited(&self, cx: Context) -> Context {
        let allowance = cx.tenant().and_then(|tenant| self.options.tenants.get_key_value(tenant));
        let Some((tenant, allowance)) = allowance else { return cx };
        let allowances = Allowances::new([(format!("batch/{tenant}"), *allowance)]);
        cx.with_allowances(allowances)
    }
}

struct Worker {
    batches: Batches,
    draining: CancelToken,
}

impl JobHandler for Worker {
    fn handle(&self, cx: Context, job: LeasedJob) -> BoxFuture<'_, Result<JobOutcome>> {
        Box::pin(async move {
            let item: Item = serde_json::from_slice(&job.payload).map_err(|error| {
                Error::new(ErrorKind::InvalidInput, "batch.work", "the job holds no request of a batch")
                    .caused_by(error)
            })?;
            let cx = self.batches.limited(cx.with_class(Class::P2));
            Run { batches: &self.batches, draining: &self.draining, cx, job, item }.run().await
        })
    }
}

/// One attempt at one request.
struct Run<'a> {
    batches: &'a Batches,
    draining: &'a CancelToken,
    cx: Context,
    job: LeasedJob,
    item: Item,
}

impl Run<'_> {
    async fn run(&self) -> Result<JobOutcome> {
        match self.answer().await {
            Ok(Stopped::Answered(answer)) => self.completed(answer),
            Ok(Stopped::Unanswered(end)) => self.unanswered(end),
            Ok(Stopped::Draining(kept)) => {
                let mut commit = Commit::new();
                if let Some(kept) = kept {
                    commit = commit.checkpoint(self.job.lease, kept.to_json());
                }
                self.commit(commit.release(self.job.lease, Duration::ZERO)).await?;
                Ok(JobOutcome::Committed)
            }
            Err(problem) => self.failed(problem).await,
        }
    }

    async fn answer(&self) -> Result<Stopped, Problem> {
        if let Some(end) = self.over().await? {
            return Ok(Stopped::Unanswered(end));
        }
        let body = self.item.body.get().as_bytes();
        match self.item.endpoint {
            Endpoint::ChatCompletions => {
                let (parameters, prompt) = chat::read(body)?;
                self.generate(chat::Shaped, parameters, prompt).await
            }
            Endpoint::Completions => {
                let (parameters, prompt) = completions::read(body)?;
                self.generate(completions::Shaped, parameters, prompt).await
            }
            Endpoint::Embeddings => {
                let answered = embeddings::answer(&self.batches.engine, &self.cx, body);
                let Some(body) = self.draining.until_cancelled(answered).await else {
                    return Ok(Stopped::Draining(None));
                };
                let body = body?;
                let prompt_tokens = body["usage"]["prompt_tokens"].as_u64().unwrap_or(0) as usize;
                let usage = Usage { prompt_tokens, ..Usage::default() };
                Ok(Stopped::Answered(Answer { body, usage, resumed: 0 }))
            }
        }
    }

    async fn generate<S: Shape>(
        &self,
        shape: S,
        mut parameters: crate::openai::Parameters,
        prompt: Prompt,
    ) -> Result<Stopped, Problem> {
        let (options, engine) = (&self.batches.options, &self.batches.engine);
        parameters.seeded(self.item.seed);
        let Prepared { request, info } =
            prepare(shape, engine, options.max_tokens, &self.cx, parameters, prompt).await?;
        let model = Checkpoint::model_of(&info);
        let kept = Checkpoint::read(self.job.checkpoint.as_deref(), model, request.sampling.seed);
        let resumed = kept.symbols.len();
        let request = request.begun(kept.symbols.clone());
        let mut progress = Progress::from(kept);
        let asked = engine.chat(&self.cx, Some(&info.name), request);
        let Some(generation) = self.draining.until_cancelled(asked).await else {
            return Ok(Stopped::Draining(None));
        };
        let mut generation = generation.map_err(too_long)?;
        let mut ticks = tokio::time::interval(options.checkpoint_every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.reset();
        let (reason, usage) = loop {
            tokio::select! {
                biased;
                () = self.draining.cancelled() => return Ok(Stopped::Draining(Some(progress.keep().clone()))),
                () = self.cx.cancel().cancelled() => return Ok(Stopped::Unanswered(End::Cancelled)),
                chunk = generation.next() => match chunk {
                    Some(Ok(Chunk::End { reason, usage })) => break (reason, usage),
                    Some(Ok(chunk)) => {
                        progress.take(&chunk);
                        if progress.unkept() >= options.checkpoint_tokens.max(1) {
                            self.keep(&mut progress).await?;
                        }
                    }
                    Some(Err(error)) => return Err(too_long(error)),
                    None => {
                        return Err(Error::new(ErrorKind::Internal, "batch.work", "an answer has no end").into());
                    }
                },
                _ = ticks.tick() => {
                    if let Some(end) = self.over().await? {
                        return Ok(Stopped::Unanswered(end));
                    }
                    if progress.unkept() > 0 {
                        self.keep(&mut progress).await?;
                    }
                }
            }
        };
        let head = Head::new::<S>(&format!("{}-{}", self.item.batch, self.item.line), self.job.enqueued_at, info);
        let body = whole(shape, &head, progress.into_text(), reason, &usage);
        Ok(Stopped::Answered(Answer { body, usage, resumed }))
    }

    async fn keep(&self, progress: &mut Progress) -> Result<()> {
        self.commit(Commit::new().checkpoint(self.job.lease, progress.keep().to_json())).await
    }

    async fn commit(&self, commit: Commit) -> Result<()> {
        // What became of a request is kept, even if nobody wants more of it.
        let cx = self.cx.clone().with_cancel(CancelToken::new());
        self.batches.store()?.commit(&cx, commit).await.map(drop)
    }

    /// How the request ends without an answer, because its batch does.
    async fn over(&self) -> Result<Option<End>> {
        let Some(known) = self.batches.known(&self.cx, &self.item.batch).await? else {
            return Ok(Some(End::Expired));
        };
        if known.cancelled() {
            return Ok(Some(End::Cancelled));
        }
        let now = self.batches.store()?.info(&self.cx).await?.now;
        Ok((now >= known.until()).then_some(End::Expired))
    }

    fn completed(&self, answer: Answer) -> Result<JobOutcome> {
        let Answer { body, usage, resumed } = answer;
        let note = EndNote {
            line: self.item.line,
            end: End::Completed,
            bytes: 0,
            prompt_tokens: usage.prompt_tokens as u64,
            cached_tokens: usage.cached_tokens as u64,
            completion_tokens: usage.completion_tokens as u64,
            resumed_tokens: resumed as u64,
        };
        self.end(note, self.response(200, &body), Value::Null)
    }

    fn unanswered(&self, end: End) -> Result<JobOutcome> {
        let (code, message) = match end {
            End::Cancelled => ("batch_cancelled", "the batch was cancelled before this request was answered"),
            _ => ("batch_expired", "the batch's time was over before this request was answered"),
        };
        self.end(self.note(end), Value::Null, json!({ "code": code, "message": message }))
    }

    /// What can pass by itself is tried again; what cannot goes to the error file.
    async fn failed(&self, problem: Problem) -> Result<JobOutcome> {
        let failed = problem.error();
        match failed.kind() {
            // Somebody else has it.
            ErrorKind::LeaseLost => return Ok(JobOutcome::Committed),
            ErrorKind::Cancelled if self.draining.is_cancelled() => return Ok(JobOutcome::Snooze(Duration::ZERO)),
            ErrorKind::Cancelled if self.cx.cancel().is_cancelled() => return self.unanswered(End::Cancelled),
            ErrorKind::Busy | ErrorKind::RateLimited => {
                let refused = failed.retry_after().unwrap_or(Duration::from_secs(1));
                return Ok(JobOutcome::Snooze(batch::retry_in(refused, self.age(), fastrand::f64())));
            }
            _ => {}
        }
        let mut kept: Checkpoint =
            self.job.checkpoint.as_deref().and_then(|kept| serde_json::from_slice(kept).ok()).unwrap_or_default();
        kept.failures += 1;
        if problem.status().is_server_error() && kept.failures < self.batches.options.attempts {
            let commit = Commit::new().checkpoint(self.job.lease, kept.to_json());
            self.commit(commit.fail(self.job.lease, failed.to_string(), Retry::Backoff)).await?;
            return Ok(JobOutcome::Committed);
        }
        let body = error::document(&problem);
        self.end(self.note(End::Failed), self.response(problem.status().as_u16(), &body), Value::Null)
    }

    /// How long ago it was accepted, by the Store's clock.
    fn age(&self) -> Duration {
        (self.job.leased_until - self.batches.options.hold).since(self.job.enqueued_at)
    }

    fn note(&self, end: End) -> EndNote {
        EndNote {
            line: self.item.line,
            end,
            bytes: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            completion_tokens: 0,
            resumed_tokens: 0,
        }
    }

    fn response(&self, status: u16, body: &Value) -> Value {
        json!({ "status_code": status, "request_id": format!("{}-{}", self.item.batch, self.item.line), "body": body })
    }

    /// The line of the file, the note of the end and the end of the job are one commit.
    fn end(&self, mut note: EndNote, response: Value, error: Value) -> Result<JobOutcome> {
        let Item { batch, line, custom_id, .. } = &self.item;
        let id = format!("batch_req_{batch}-{line}");
        let document = json!({ "id": id, "custom_id": custom_id, "response": response, "error": error });
        let mut text = encode(&document)?;
        text.push(b'\n');
        note.bytes = text.len() as u64;
        let file = if note.end == End::Completed { topic::output(batch) } else { topic::errors(batch) };
        Ok(JobOutcome::Done(Commit::new().publish(file, text).publish(topic::ends(batch), encode(&note)?)))
    }
}
