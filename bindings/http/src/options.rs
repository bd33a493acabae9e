//! How a server behaves.

use std::{collections::BTreeMap, time::Duration};

use selvedge_core::{allowance::Allowance, layers::Metrics, store::Ceiling};
use selvedge_experiments::Experiments;

use crate::{ApiKey, BatchOptions, ServedConfig};

/// How the server of [`router`](crate::router) behaves. Every field has a default.
///
/// ```
/// use selvedge_http::{ApiKey, ServerOptions};
///
/// let options = ServerOptions { keys: vec![ApiKey::secret("s3cret").tenant("acme")], ..ServerOptions::default() };
/// assert_eq!(options.body_limit, 4 << 20);
/// ```
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Who may ask. Empty: only this machine may. Default: empty.
    pub keys: Vec<ApiKey>,
    /// What all keys of a tenant together may use of the models, beside what each may. Default: empty.
    pub tenants: BTreeMap<String, Allowance>,
    /// The largest request body, in bytes. Default: 4 MiB.
    pub body_limit: usize,
    /// How long a request may take until its answer begins; a streamed answer may go on after that. Default: 120 seconds.
    pub timeout: Duration,
    /// The queue of each operation that `/v1/intents` takes; others are refused. Empty: all operations are taken, into the
    /// queue [`ServerOptions::INTENTS_QUEUE`]. Default: empty.
    pub intents: BTreeMap<String, String>,
    /// How often the job of an intent may be started. Default: 25.
    pub intent_attempts: u32,
    /// How long the claim of an intent holds while it is put into its queue. Default: 30 seconds.
    pub hold: Duration,
    /// How long a duplicate intent waits for the first. Default: 2 seconds.
    pub wait: Duration,
    /// How long answers to intents are kept. Default: 7 days.
    pub retention: Duration,
    /// The most tokens of an answer when the request does not say. Default: 1,024.
    pub max_tokens: usize,
    /// What `/metrics` measures the queue's rate against. Default: [`Ceiling::default`].
    pub ceiling: Ceiling,
    /// How batches are taken and worked off. Default: [`BatchOptions::default`].
    pub batch: BatchOptions,
    /// The configuration of experiments that `GET /v1/config` hands out. Default: none.
    pub config: Option<ServedConfig>,
    /// The engine's experiments, so that `GET /v1/placements` can say how their configuration is doing. Default: none.
    pub experiments: Option<Experiments>,
    /// What the engine's [`Metrics`] layer counted, for `/metrics`. Default: none.
    pub metrics: Option<Metrics>,
}

impl ServerOptions {
    /// Where intents wait when no operation has a queue of its own.
    pub const INTENTS_QUEUE: &'static str = "intents";
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            tenants: BTreeMap::new(),
            body_limit: 4 << 20,
            timeout: Duration::from_secs(120),
            intents: BTreeMap::new(),
            intent_attempts: 25,
            hold: Duration::from_secs(30),
            wait: Duration::from_secs(2),
            retention: Duration::from_secs(7 * 86_400),
            max_tokens: 1_024,
            ceiling: Ceiling::default(),
            batch: BatchOptions::default(),
            config: None,
            experiments: None,
            metrics: None,
        }
    }
}
