//! Files and batches as OpenAI's clients read them.

use std::collections::BTreeMap;

use selvedge_core::batch::{Endpoint, Flaw, Status, Tally};
use serde::Serialize;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileObject {
    /// Its id: `file-…`.
    pub id: String,
    /// `file`.
    pub object: &'static str,
    /// Its length.
    pub bytes: u64,
    /// When it was uploaded, in seconds since 1970.
    pub created_at: i64,
    /// When it will be gone.
    pub expires_at: i64,
    /// What it was called.
    pub filename: String,
    /// `batch`, or `batch_output`.
    pub purpose: String,
    /// `processed`.
    pub status: &'static str,
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BatchObject {
    /// Its id: `batch_…`.
    pub id: String,
    /// `batch`.
    pub object: &'static str,
    /// What its requests ask for.
    pub endpoint: Endpoint,
    /// Why its input file was refused.
    pub errors: Option<Errors>,
    /// Its input file.
    pub input_file_id: String,
    /// How long it may take, as it was asked for.
    pub completion_window: String,
    /// Where it is in its life.
    pub status: Status,
    /// The file of its answers, once it is over, if it has any.
    pub output_file_id: Option<String>,
    /// The file of what was not answered and why, once it is over, if there is any.
    pub error_file_id: Option<String>,
    /// When it was made, in seconds since 1970, as all moments here.
    pub created_at: i64,
    /// When its requests were put into the queue.
    pub in_progress_at: Option<i64>,
    /// When its time is over.
    pub expires_at: i64,
    /// When the last of its requests ended.
    pub finalizing_at: Option<i64>,
    /// When it was completed.
    pub completed_at: Option<i64>,
    /// When its input file was refused.
    pub failed_at: Option<i64>,
    /// When it ended without being completed, because its time was over.
    pub expired_at: Option<i64>,
    /// When it was asked to end.
    pub cancelling_at: Option<i64>,
    /// When it ended because of that.
    pub cancelled_at: Option<i64>,
    /// How many requests it has, and how many ended.
    pub request_counts: Counts,
    /// The tokens of its answers.
    pub usage: BatchUsage,
    /// What was taken over from answers that were cut short.
    pub resumed: Resumed,
    /// What the caller keeps with it.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Why an input file was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// `list`.
    pub object: &'static str,
    /// The reasons, by line.
    pub data: Vec<Flaw>,
}

/// How many requests a batch has, and how many ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All.
    pub total: u64,
    /// Answered.
    pub completed: u64,
    /// Refused, failed too often, or not answered in time.
    pub failed: u64,
}

/// The tokens of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BatchUsage {
    /// Tokens of prompts.
    pub input_tokens: u64,
    /// Some of them.
    pub input_tokens_details: CachedTokens,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Some of them.
    pub output_tokens_details: ReasoningTokens,
    /// Both.
    pub total_tokens: u64,
}

/// Tokens of prompts that were not read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CachedTokens {
    /// How many.
    pub cached_tokens: u64,
}

/// Tokens thought and not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReasoningTokens {
    /// How many: none.
    pub reasoning_tokens: u64,
}

/// What was taken over from answers that were cut short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resumed {
    /// Answers that another run had begun.
    pub requests: u64,
    /// Tokens that were not made again.
    pub tokens: u64,
}

/// What became of the requests of a batch so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    /// How many ended how.
    pub(super) tally: Tally,
    /// The length of the output file so far.
    pub(super) output_bytes: u64,
    /// The length of the error file so far.
    pub(super) error_bytes: u64,
    /// The tokens so far.
    pub(super) usage: BatchUsage,
    /// What was taken over so far.
    pub(super) resumed: Resumed,
}
