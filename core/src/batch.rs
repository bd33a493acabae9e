//! Batches: many requests to a model, asked at once and answered whenever there is room, each exactly once.
//!
//! What is here is pure: how an input file is read, what became of a batch, and how far one answer had come when its worker
//! went away. Each request is a job, so a batch survives whatever a job survives.

use std::{collections::HashSet, fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Error, ErrorKind, Result, Timestamp,
    inference::{Chunk, ModelInfo, Symbol},
};

/// What the requests of a batch ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Endpoint {
    /// Answers to chats.
    #[serde(rename = "/v1/chat/completions")]
    ChatCompletions,
    /// Texts gone on with.
    #[serde(rename = "/v1/completions")]
    Completions,
    /// Vectors of texts.
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ChatCompletions, Self::Completions, Self::Embeddings];

    /// Its path: `/v1/chat/completions`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Endpoint {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.as_str() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "batch.endpoint", "no batch can be made for this endpoint")
                .with("endpoint", text.chars().take(100).collect::<String>())
                .advise(format!("use {}", Self::ALL.map(Self::as_str).join(", ")))
        })
    }
}

/// How long a batch may take: `24h`, or any number of hours (`h`) or days (`d`), of a year at most.
///
/// # Errors
/// `InvalidInput` for anything else.
pub fn window(text: &str) -> Result<Duration> {
    let number = |unit: char| text.strip_suffix(unit)?.parse::<u64>().ok();
    let hours = number('h').or_else(|| number('d')?.checked_mul(24));
    match hours {
        Some(hours @ 1..=8_760) => Ok(Duration::from_secs(hours * 3_600)),
        _ => Err(Error::new(ErrorKind::InvalidInput, "batch.window", "this is no completion window")
            .with("completion_window", text.chars().take(20).collect::<String>())
            .advise("write 24h, or another number of hours or days")),
    }
}

/// How long a request that a quota or the Scheduler turned away waits, before it is tried again: as long as the refusal says,
/// and the longer the longer it has waited already. `age` is the time since it was accepted, `jitter` from 0 to 1.
///
/// All requests of a large batch are told the same moment, and only a few of them get through then. So each comes back after up to a
/// quarter of its age, a quarter of an hour at the most: how often one is tried grows with the logarithm of its age, and they do
/// not all come at once.
///
/// ```
/// use std::time::Duration;
/// use selvedge_core::batch::retry_in;
///
/// let (refused, minute) = (Duration::from_secs(6), Duration::from_secs(60));
/// assert_eq!(retry_in(refused, Duration::ZERO, 1.0), refused);
/// assert_eq!(retry_in(refused, minute, 1.0), Duration::from_secs(15));
/// assert_eq!(retry_in(refused, minute * 1_000, 1.0), minute * 15);
/// ```
pub fn retry_in(refused: Duration, age: Duration, jitter: f64) -> Duration {
    const LONGEST: Duration = Duration::from_secs(15 * 60);
    let share = 0.25 * if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
    age.min(LONGEST * 4).mul_f64(share).max(refused)
}

/// What an input file may hold.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What its requests ask for.
    pub endpoint: Endpoint,
    /// The most requests.
    pub requests: usize,
    /// The most bytes of one line.
    pub line: usize,
    /// The models there are; `None` where that is not known yet.
    pub models: Option<Vec<String>>,
}

/// One request of a batch: a line of its input file.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of the line, counted from 1.
    pub line: u64,
    /// The name that the caller gave it.
    pub custom_id: String,
    /// What would be posted to the endpoint.
    pub body: Box<RawValue>,
}

/// Why an input file is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flaw {
    /// What it is, for programs: `duplicate_custom_id`.
    pub code: String,
    /// What it is, for people.
    pub message: String,
    /// The field, if it is one.
    pub param: Option<String>,
    /// The line, counted from 1; `None` when it is the whole file.
    pub line: Option<u64>,
}

/// Reads an input file piece by piece, wherever it is cut.
///
/// ```
/// use selvedge_core::batch::{Endpoint, InputReader, Rules};
///
/// let rules = Rules { endpoint: Endpoint::Completions, requests: 10, line: 1 << 20, models: None };
/// let mut reader = InputReader::new(rules);
/// reader.push(br#"{"custom_id":"a","method":"POST","url":"/v1/comple"#);
/// reader.push(br#"tions","body":{"prompt":"Once"}}"#);
/// assert_eq!(reader.finish().map(|requests| requests.len()), Ok(1));
/// ```
#[derive(Debug)]
pub struct InputReader {
    rules: Rules,
    rest: Vec<u8>,
    overlong: bool,
    line: u64,
    seen: HashSet<String>,
    requests: Vec<Request>,
    flaws: Vec<Flaw>,
    count: usize,
}

#[derive(Deserialize)]
struct Line {
    custom_id: Option<serde_json::Value>,
    method: Option<serde_json::Value>,
    url: Option<serde_json::Value>,
    body: Option<Box<RawValue>>,
}

/// Why a line is refused: code, field and message.
type Refusal = (&'static str, Option<&'static str>, String);

#[derive(Deserialize)]
struct Asked {
    model: Option<serde_json::Value>,
    stream: Option<serde_json::Value>,
}

impl InputReader {
    /// The most flaws that are told; the file is refused for one.
    pub const FLAWS: usize = 100;

    /// A reader by these rules.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            rest: Vec::new(),
            overlong: false,
            line: 1,
            seen: HashSet::new(),
            requests: Vec::new(),
            flaws: Vec::new(),
            count: 0,
        }
    }

    /// Reads the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        let mut lines = piece.split(|byte| *byte == b'\n');
        if let Some(first) = lines.next() {
            self.extend(first);
        }
        for next in lines {
            self.end_line();
            self.extend(next);
        }
    }

    /// All requests, in order; or all that is wrong with the file.
    ///
    /// # Errors
    /// What is wrong, [`InputReader::FLAWS`] of it at most.
    pub fn finish(mut self) -> Result<Vec<Request>, Vec<Flaw>> {
        self.end_line();
        if self.count == 0 && self.flaws.is_empty() {
            self.flaw(None, "empty_file", None, "the input file has no requests".into());
        }
        if self.flaws.is_empty() { Ok(self.requests) } else { Err(self.flaws) }
    }

    /// A line that is too long is not kept.
    fn extend(&mut self, bytes: &[u8]) {
        if self.overlong || self.rest.len() + bytes.len() > self.rules.line {
            self.overlong = true;
            self.rest.clear();
        } else {
            self.rest.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self) {
        let (bytes, overlong) = (std::mem::take(&mut self.rest), std::mem::take(&mut self.overlong));
        let line = self.line;
        self.line += 1;
        if overlong {
            let message = format!("this line is longer than {} bytes", self.rules.line);
            return self.flaw(Some(line), "line_too_long", None, message);
        }
        if bytes.trim_ascii().is_empty() {
            return;
        }
        self.count += 1;
        if self.count > self.rules.requests {
            if self.count == self.rules.requests + 1 {
                let message = format!("the input file has more than {} requests", self.rules.requests);
                self.flaw(None, "too_many_tasks", None, message);
            }
            return;
        }
        match self.read(&bytes) {
            Ok((custom_id, body)) => {
                if self.flaws.is_empty() {
                    self.requests.push(Request { line, custom_id, body });
                }
            }
            Err((code, param, message)) => self.flaw(Some(line), code, param, message),
        }
    }

    fn flaw(&mut self, line: Option<u64>, code: &str, param: Option<&str>, message: String) {
        // Nothing of the file is taken, so what was read of it need not be kept.
        self.requests = Vec::new();
        if self.flaws.len() < Self::FLAWS {
            self.flaws.push(Flaw { code: code.into(), message, param: param.map(Into::into), line });
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(String, Box<RawValue>), Refusal> {
        let Line { custom_id, method, url, body } = serde_json::from_slice(bytes)
            .map_err(|error| ("invalid_json_line", None, format!("this line is not a JSON object: {error}")))?;
        let missing = |name: &'static str| ("missing_required_parameter", Some(name), format!("{name} is missing"));
        let text = |value: Option<serde_json::Value>, name: &'static str| match value {
            Some(serde_json::Value::String(text)) if !text.is_empty() => Ok(text),
            None | Some(serde_json::Value::Null) => Err(missing(name)),
            Some(_) => Err(("invalid_type", Some(name), format!("{name} is not a text, or is empty"))),
        };
        let custom_id = text(custom_id, "custom_id")?;
        if text(method, "method")? != "POST" {
            return Err(("invalid_method", Some("method"), "method is not POST".into()));
        }
        let url = text(url, "url")?;
        if url != self.rules.endpoint.as_str() {
            let message = format!("url is not {}, the endpoint of the batch", self.rules.endpoint);
            return Err(("mismatched_endpoint", Some("url"), message));
        }
        let body = body.ok_or_else(|| missing("body"))?;
        let Asked { model, stream } = serde_json::from_str(body.get())
            .map_err(|error| ("invalid_type", Some("body"), format!("body is not a JSON object: {error}")))?;
        if stream.is_some_and(|stream| stream == true) {
            let message = "requests of a batch are not streamed; leave stream out";
            return Err(("unsupported_parameter", Some("body.stream"), message.into()));
        }
        match (model, &self.rules.models) {
            (None | Some(serde_json::Value::Null), _) => {}
            (Some(serde_json::Value::String(model)), Some(models)) if !models.contains(&model) => {
                let model: String = model.chars().take(100).collect();
                let message = format!("there is no model {model:?}; there are: {}", models.join(", "));
                return Err(("model_not_found", Some("body.model"), message));
            }
            (Some(serde_json::Value::String(_)), _) => {}
            (Some(_), _) => return Err(("invalid_type", Some("body.model"), "model is not a text".into())),
        }
        if !self.seen.insert(custom_id.clone()) {
            let message = "another line has this custom_id already".into();
            return Err(("duplicate_custom_id", Some("custom_id"), message));
        }
        Ok((custom_id, body))
    }
}

/// How one request of a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It was answered.
    Completed,
    /// It was refused, or failed too often.
    Failed,
    /// The batch's time was over before it was answered.
    Expired,
    /// The batch was cancelled before it was answered.
    Cancelled,
}

/// How many requests of a batch ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// [`End::Completed`].
    pub completed: u64,
    /// [`End::Failed`].
    pub failed: u64,
    /// [`End::Expired`].
    pub expired: u64,
    /// [`End::Cancelled`].
    pub cancelled: u64,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, end: End) {
        *match end {
            End::Completed => &mut self.completed,
            End::Failed => &mut self.failed,
            End::Expired => &mut self.expired,
            End::Cancelled => &mut self.cancelled,
        } += 1;
    }

    /// All that ended.
    pub fn ended(&self) -> u64 {
        self.completed + self.failed + self.expired + self.cancelled
    }
}

/// Where a batch is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its input file is being read. A Store that reads it before it answers never shows this.
    Validating,
    /// Its input file was refused.
    Failed,
    /// Its requests are answered.
    InProgress,
    /// Its time is over: what was not answered is being written to its error file.
    Finalizing,
    /// Every request was answered or refused.
    Completed,
    /// Its time was over before every request was answered.
    Expired,
    /// It is to end: what runs is being stopped.
    Cancelling,
    /// It was ended by its caller before every request was answered.
    Cancelled,
}

impl Status {
    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Failed | Self::Completed | Self::Expired | Self::Cancelled)
    }

    /// What a batch is that has `total` requests of which `tally` ended, whose time ends at `until`, and which was cancelled or
    /// not, when the Store's clock shows `now`. It follows from what ended: nobody has to write it down.
    pub fn of(total: u64, tally: &Tally, cancelled: bool, until: Timestamp, now: Timestamp) -> Self {
        match (tally.ended() >= total, cancelled) {
            (true, _) if tally.cancelled > 0 => Self::Cancelled,
            (true, _) if tally.expired > 0 => Self::Expired,
            (true, _) => Self::Completed,
            (false, true) => Self::Cancelling,
            (false, false) if now >= until => Self::Finalizing,
            (false, false) => Self::InProgress,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is kept of an answer that is not whole yet. A sampler whose choice is a function of the seed and the number of the
/// symbol has no other state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The model whose symbols these are: [`Checkpoint::model_of`].
    pub model: String,
    /// The seed they were drawn with.
    pub seed: u32,
    /// The symbols so far.
    pub symbols: Vec<Symbol>,
    /// What they say.
    pub text: String,
    /// How often this request has failed.
    pub failures: u32,
}

impl Checkpoint {
    /// What a model is told apart by: the digest of its file, or its name if it has none.
    pub fn model_of(info: &ModelInfo) -> &str {
        if info.sha256.is_empty() { &info.name } else { &info.sha256 }
    }

    /// What was kept, as far as it is of use: the symbols of another model or seed are not.
    pub fn read(kept: Option<&[u8]>, model: &str, seed: u32) -> Self {
        let kept: Self = kept.and_then(|kept| serde_json::from_slice(kept).ok()).unwrap_or_default();
        if kept.model == model && kept.seed == seed {
            return kept;
        }
        Self { model: model.into(), seed, failures: kept.failures, ..Self::default() }
    }

    /// The bytes to keep.
    pub fn to_json(&self) -> Bytes {
        // Serialising numbers and strings cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// An answer as it comes, and how much of it may be kept.
///
/// The last symbols that came may be those that end the answer, which shows only in what comes after them. So they are not
/// kept: going on after the end of an answer would add to it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    checkpoint: Checkpoint,
    last: (Vec<Symbol>, String),
    unkept: usize,
}

impl Progress {
    /// Goes on from a checkpoint.
    pub fn from(checkpoint: Checkpoint) -> Self {
        Self { checkpoint, ..Self::default() }
    }

    /// Takes the next chunk. The end adds nothing.
    pub fn take(&mut self, chunk: &Chunk) {
        if let Chunk::Tokens { symbols, text } = chunk {
            let last = std::mem::replace(&mut self.last, (symbols.clone(), text.clone()));
            self.unkept += last.0.len();
            self.checkpoint.symbols.extend(last.0);
            self.checkpoint.text.push_str(&last.1);
        }
    }

    /// Symbols that may be kept and are not, if what [`Progress::keep`] gave was.
    pub fn unkept(&self) -> usize {
        self.unkept
    }

    /// What to keep.
    pub fn keep(&mut self) -> &Checkpoint {
        self.unkept = 0;
        &self.checkpoint
    }

    /// The whole text.
    pub fn into_text(self) -> String {
        self.checkpoint.text + &self.last.1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> Rules {
        let models = Some(vec!["smol".into(), "large".into()]);
        Rules { endpoint: Endpoint::Completions, requests: 5, line: 300, models }
    }

    fn line(id: &str) -> String {
        format!(
            r#"{{"custom_id":"{id}","method":"POST","url":"/v1/completions","body":{{"model":"smol","prompt":"a"}}}}"#
        )
    }

    fn read(text: &str) -> Result<Vec<Request>, Vec<Flaw>> {
        let mut reader = InputReader::new(rules());
        reader.push(text.as_bytes());
        reader.finish()
    }

    #[test]
    fn every_flaw_is_told_with_its_line_and_nothing_is_taken() {
        let long = "x".repeat(300);
        for (bad, code, param) in [
            ("{", "invalid_json_line", None),
            ("[1]", "invalid_json_line", None),
            (r#"{"custom_id":"a"}{"b":1}"#, "invalid_json_line", None),
            (r#"{"method":"POST"}"#, "missing_required_parameter", Some("custom_id")),
            (r#"{"custom_id":7}"#, "invalid_type", Some("custom_id")),
            (&line("good"), "duplicate_custom_id", Some("custom_id")),
            (&line("b").replace("POST", "GET"), "invalid_method", Some("method")),
            (&line("b").replace("/v1/completions", "/v1/embeddings"), "mismatched_endpoint", Some("url")),
            (&line("b").replace("\"body\"", "\"text\""), "missing_required_parameter", Some("body")),
            (&line("b").replace(r#"{"model":"smol","prompt":"a"}"#, "[]"), "invalid_type", Some("body")),
            (&line("b").replace("smol", "tiny"), "model_not_found", Some("body.model")),
            (&line("b").replace("\"smol\"", "[]"), "invalid_type", Some("body.model")),
            (&line("b").replace("\"prompt\":\"a\"", "\"stream\":true"), "unsupported_parameter", Some("body.stream")),
            (&line(&long), "line_too_long", None),
        ] {
            let text = format!("{}\n\n{bad}\n{}\n", line("good"), line("last"));
            let flaws = read(&text).expect_err(bad);
            assert_eq!(flaws.len(), 1, "{bad}: {flaws:?}");
            assert_eq!(
                (flaws[0].code.as_str(), flaws[0].param.as_deref(), flaws[0].line),
                (code, param, Some(3)),
                "{bad}"
            );
        }
        assert_eq!(read("\n \n").expect_err("nothing")[0].code, "empty_file");
        let many: Vec<_> = (0..7).map(|at| line(&at.to_string())).collect();
        let flaws = read(&many.join("\n")).expect_err("too many");
        assert_eq!((flaws.len(), flaws[0].code.as_str(), flaws[0].line), (1, "too_many_tasks", None));
        let bad = "{\n".repeat(5);
        assert_eq!(read(&bad).expect_err("all of it").len(), 5);
    }

    #[test]
    fn windows_are_hours_and_days() {
        assert_eq!(window("24h").ok(), window("1d").ok());
        for bad in ["", "h", "0h", "24", "24m", "-1h", "99999999999999999999d", "9999999999999999999d", "366d"] {
            assert_eq!(window(bad).map_err(|error| error.kind()), Err(ErrorKind::InvalidInput), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn it_makes_no_difference_where_a_file_is_cut(
            cuts in proptest::collection::vec(0usize..700, 0..8), crlf in any::<bool>(), flawed in any::<bool>(),
        ) {
            let end = if crlf { "\r\n" } else { "\n" };
            let last = if flawed { "{".into() } else { line("é") };
            let text = format!("{}{end}{}{end}{last}", line("a"), line("b"));
            let whole = read(&text);
            let mut reader = InputReader::new(rules());
            let (mut from, mut cuts) = (0, cuts);
            cuts.sort_unstable();
            for cut in cuts.into_iter().map(|cut| cut.min(text.len())) {
                reader.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            reader.push(&text.as_bytes()[from..]);
            let ids = |read: Vec<Request>| read.into_iter().map(|one| (one.line, one.custom_id)).collect::<Vec<_>>();
            prop_assert_eq!(reader.finish().map(ids), whole.map(ids));
        }

        #[test]
        fn a_batch_ends_once_all_have_and_stays_ended(
            ends in proptest::collection::vec(0u8..4, 0..12), total in 1u64..12, cancelled in any::<bool>(),
            until in 0i64..100, now in 0i64..100, later in 0i64..100,
        ) {
            let mut tally = Tally::default();
            for end in ends.iter().take(total as usize) {
                tally.add([End::Completed, End::Failed, End::Expired, End::Cancelled][usize::from(*end)]);
            }
            let at = |now: i64| Status::of(total, &tally, cancelled, Timestamp(until), Timestamp(now));
            prop_assert_eq!(at(now).is_final(), tally.ended() >= total);
            if at(now).is_final() {
                prop_assert_eq!(at(now), at(later));
                prop_assert_eq!(at(now) == Status::Completed, tally.completed + tally.failed >= total);
            }
        }

        /// However an answer is cut into runs, what comes out is what one run gives, and no symbol is kept that may have been
        /// the last.
        #[test]
        fn an_answer_in_several_runs_is_the_answer_of_one(
            answer in proptest::collection::vec((any::<u32>(), "[a-c]{0,2}"), 1..20),
            stops in proptest::collection::vec(0usize..20, 0..5),
        ) {
            let whole: String = answer.iter().map(|(_, text)| text.as_str()).collect();
            let mut kept = Checkpoint::read(None, "m", 7);
            for stop in stops.into_iter().map(Some).chain([None]) {
                let from = kept.symbols.len();
                prop_assert!(from < answer.len());
                let mut progress = Progress::from(kept);
                for (symbol, text) in &answer[from..stop.map_or(answer.len(), |stop| (from + stop).min(answer.len()))] {
                    progress.take(&Chunk::Tokens { symbols: vec![*symbol], text: text.clone() });
                }
                if stop.is_none() {
                    prop_assert_eq!(progress.into_text(), whole);
                    break;
                }
                kept = Checkpoint::read(Some(&progress.keep().to_json()), "m", 7);
                prop_assert_eq!(progress.unkept(), 0);
            }
        }

        #[test]
        fn what_another_model_or_seed_began_is_not_gone_on_with(
            symbols in proptest::collection::vec(any::<u32>(), 1..9), same in any::<bool>(), seed in 0u32..2, failures in 0u32..9,
        ) {
            let kept = Checkpoint { model: "m".into(), seed: 0, symbols, text: "t".into(), failures };
            let read = Checkpoint::read(Some(&kept.to_json()), if same { "m" } else { "n" }, seed);
            prop_assert_eq!(read.failures, failures);
            if same && seed == 0 {
                prop_assert_eq!(read, kept);
            } else {
                prop_assert!(read.symbols.is_empty() && read.text.is_empty());
            }
        }
    }
}
