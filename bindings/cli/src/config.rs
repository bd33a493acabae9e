//! The configuration: one TOML file, then the environment, then flags.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use selvedge::{Error, ErrorKind, Result, allowance::Allowance, priority::Priority, scheduler::Class, store::Ceiling};
use serde::{Deserialize, Serialize};

/// The default file, every key documented.
pub(crate) const DEFAULT: &str = include_str!("default.toml");
/// Where the file is, if the command line does not say.
const FILE: &str = "selvedge.toml";
const PREFIX: &str = "SELVEDGE_";
const DAY: u64 = 86_400;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) store: Store,
    pub(crate) quotas: Quotas,
    pub(crate) intents: Intents,
    pub(crate) batch: Batch,
    pub(crate) experiments: Experiments,
    pub(crate) scheduler: Scheduler,
    pub(crate) log: Log,
    pub(crate) tenants: BTreeMap<String, Tenant>,
    pub(crate) models: Vec<Model>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) body_limit_bytes: NonZeroUsize,
    pub(crate) timeout_seconds: Seconds,
    pub(crate) drain_seconds: Seconds,
    pub(crate) max_tokens: NonZeroUsize,
    pub(crate) keys: Vec<Key>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    pub(crate) key: Option<String>,
    pub(crate) sha256: Option<String>,
    pub(crate) tenant: Option<String>,
    #[serde(default)]
    pub(crate) max_class: Class,
    pub(crate) requests_per_minute: Option<NonZeroU64>,
    pub(crate) tokens_per_minute: Option<NonZeroU64>,
    pub(crate) concurrent: Option<NonZeroU32>,
}

/// Where placements come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Experiments {
    pub(crate) config: PathBuf,
    pub(crate) trusted_keys: BTreeMap<String, String>,
}

/// What all keys of a tenant together may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tenant {
    pub(crate) requests_per_minute: Option<NonZeroU64>,
    pub(crate) tokens_per_minute: Option<NonZeroU64>,
    pub(crate) concurrent: Option<NonZeroU32>,
    /// What the requests of its batches may use, counted apart.
    pub(crate) batch: Limits,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    pub(crate) requests_per_minute: Option<NonZeroU64>,
    pub(crate) tokens_per_minute: Option<NonZeroU64>,
    pub(crate) concurrent: Option<NonZeroU32>,
}

impl Tenant {
    pub(crate) fn allowance(&self, quotas: &Quotas) -> Allowance {
        let Self { requests_per_minute, tokens_per_minute, concurrent, .. } = *self;
        Limits { requests_per_minute, tokens_per_minute, concurrent }.allowance(quotas)
    }
}

impl Limits {
    pub(crate) fn allowance(&self, quotas: &Quotas) -> Allowance {
        Allowance {
            requests_per_minute: self.requests_per_minute.map(NonZeroU64::get),
            tokens_per_minute: self.tokens_per_minute.map(NonZeroU64::get),
            concurrent: self.concurrent.map(NonZeroU32::get),
            hold: quotas.concurrent_seconds.get(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Quotas {
    pub(crate) store: String,
    pub(crate) timeout_seconds: Seconds,
    pub(crate) concurrent_seconds: Seconds,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) url: String,
    pub(crate) path: PathBuf,
    pub(crate) listener_url: String,
    pub(crate) listen: bool,
    pub(crate) schema: String,
    pub(crate) connections: NonZeroUsize,
    pub(crate) ceiling_jobs_per_second: NonZeroU32,
    pub(crate) ceiling_minutes: u32,
    pub(crate) maintain_seconds: Seconds,
    pub(crate) keep_dead_days: u32,
    pub(crate) keep_messages_days: u32,
    pub(crate) keep_intents_days: u32,
}

impl Store {
    /// Puts the Store that a flag names in place of the configured one.
    pub(crate) fn replace(&mut self, flag: Option<String>) {
        if let Some(url) = flag.filter(|url| *url != self.url) {
            // It leads to the server of the other URL.
            self.listener_url.clear();
            self.url = url;
        }
    }

    pub(crate) fn ceiling(&self) -> Ceiling {
        Ceiling::new(self.ceiling_jobs_per_second.get().into())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Intents {
    pub(crate) hold_seconds: Seconds,
    pub(crate) wait_seconds: Seconds,
    pub(crate) keep_days: u32,
    pub(crate) attempts: NonZeroU32,
    pub(crate) queues: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Batch {
    pub(crate) enabled: bool,
    pub(crate) concurrency: NonZeroUsize,
    pub(crate) checkpoint_tokens: NonZeroUsize,
    pub(crate) checkpoint_seconds: Seconds,
    pub(crate) hold_seconds: Seconds,
    pub(crate) attempts: NonZeroU32,
    pub(crate) file_limit_bytes: NonZeroUsize,
    pub(crate) requests: NonZeroUsize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Scheduler {
    pub(crate) concurrency: NonZeroUsize,
    pub(crate) queue: usize,
    pub(crate) reserve: BTreeMap<Class, f64>,
    pub(crate) queues: BTreeMap<Class, usize>,
    pub(crate) timeout_seconds: BTreeMap<Class, Seconds>,
    pub(crate) promote_seconds: BTreeMap<Class, Seconds>,
    pub(crate) most_urgent: BTreeMap<String, Class>,
    pub(crate) step_bound_seconds: Seconds,
}

impl Scheduler {
    /// The Scheduler that these settings mean.
    ///
    /// # Errors
    /// `InvalidInput`, naming the setting.
    pub(crate) fn build(&self) -> Result<Priority> {
        let mut builder =
            Priority::builder(self.concurrency.get(), self.queue).step_bound(self.step_bound_seconds.get());
        for (class, share) in &self.reserve {
            builder = builder.reserve(*class, *share);
        }
        for (class, bound) in &self.queues {
            builder = builder.queue(*class, *bound);
        }
        for (class, longest) in &self.timeout_seconds {
            builder = builder.timeout(*class, longest.get());
        }
        for (class, wait) in &self.promote_seconds {
            builder = builder.promote_after(*class, wait.get());
        }
        for (tenant, class) in &self.most_urgent {
            builder = builder.most_urgent(tenant.as_str(), *class);
        }
        builder.build()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    pub(crate) path: PathBuf,
    pub(crate) name: Option<String>,
    pub(crate) sha256: Option<String>,
    pub(crate) threads: Option<NonZeroUsize>,
    #[serde(default)]
    pub(crate) cores: Vec<usize>,
    pub(crate) sequences: Option<NonZeroUsize>,
    pub(crate) context_length: Option<NonZeroUsize>,
}

impl Model {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, name: None, sha256: None, threads: None, cores: Vec::new(), sequences: None, context_length: None }
    }
}

/// Seconds, whole or not, at most a year.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub(crate) struct Seconds(Duration);

impl Seconds {
    const fn new(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub(crate) fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<f64> for Seconds {
    type Error = String;
    fn try_from(seconds: f64) -> Result<Self, String> {
        let most = (365 * DAY) as f64;
        if (0.0..=most).contains(&seconds) {
            Ok(Self(Duration::from_secs_f64(seconds)))
        } else {
            Err(format!("{seconds} is not a number of seconds from 0 to {most}"))
        }
    }
}

impl From<Seconds> for f64 {
    fn from(seconds: Seconds) -> f64 {
        seconds.0.as_secs_f64()
    }
}

pub(crate) fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * DAY)
}

const fn nonzero(value: usize) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(value - 1)
}

impl Default for Server {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            body_limit_bytes: nonzero(4 << 20),
            timeout_seconds: Seconds::new(120),
            drain_seconds: Seconds::new(10),
            max_tokens: nonzero(1024),
            keys: Vec::new(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: String::new(),
            path: "selvedge.db".into(),
            listener_url: String::new(),
            listen: true,
            schema: "selvedge".into(),
            connections: nonzero(16),
            ceiling_jobs_per_second: NonZeroU32::MIN.saturating_add(999),
            ceiling_minutes: 10,
            maintain_seconds: Seconds::new(1),
            keep_dead_days: 30,
            keep_messages_days: 7,
            keep_intents_days: 7,
        }
    }
}

impl Default for Quotas {
    fn default() -> Self {
        let hold = Seconds(Allowance::HOLD);
        Self { store: String::new(), timeout_seconds: Seconds::new(1), concurrent_seconds: hold }
    }
}

impl Default for Intents {
    fn default() -> Self {
        Self {
            hold_seconds: Seconds::new(30),
            wait_seconds: Seconds::new(2),
            keep_days: 7,
            attempts: NonZeroU32::MIN.saturating_add(24),
            queues: BTreeMap::new(),
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            enabled: true,
            concurrency: nonzero(4),
            checkpoint_tokens: nonzero(32),
            checkpoint_seconds: Seconds::new(5),
            hold_seconds: Seconds::new(30),
            attempts: NonZeroU32::MIN.saturating_add(4),
            file_limit_bytes: nonzero(100 << 20),
            requests: nonzero(50_000),
        }
    }
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            concurrency: nonzero(4),
            queue: 64,
            reserve: BTreeMap::from([(Class::P0, 0.3)]),
            queues: BTreeMap::new(),
            timeout_seconds: BTreeMap::new(),
            promote_seconds: BTreeMap::from([(Class::P1, Seconds::new(30)), (Class::P2, Seconds::new(120))]),
            most_urgent: BTreeMap::new(),
            step_bound_seconds: Seconds(Duration::from_millis(100)),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// Reads the configuration; also tells where it came from.
///
/// # Errors
/// `NotFound` for a file that was named and is not there, `InvalidInput` naming file, line and key, or the variable.
pub(crate) fn load(flag: Option<&Path>) -> Result<(Config, Option<PathBuf>)> {
    let named = flag.map(Path::to_owned).or_else(|| std::env::var_os("SELVEDGE_CONFIG").map(PathBuf::from));
    let path = named.or_else(|| Path::new(FILE).exists().then(|| FILE.into()));
    let config = match &path {
        Some(path) => parse(path, &read(path)?)?,
        None => Config::default(),
    };
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok((overridden(config, variables)?, path))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::InvalidInput,
        };
        Error::new(kind, "config.read", "the configuration cannot be read")
            .with("file", path.display())
            .caused_by(error)
            .advise("check the path, or make one with `selvedge config > selvedge.toml`")
    })
}

pub(crate) fn parse(path: &Path, text: &str) -> Result<Config> {
    toml::from_str(text).map_err(|error| {
        let mut failed =
            Error::new(ErrorKind::InvalidInput, "config.read", error.message()).with("file", path.display());
        if let Some(span) = error.span() {
            let before = text.get(..span.start).unwrap_or_default();
            failed = failed.with("line", before.matches('\n').count() + 1);
            if let Some(key) = key_at(text, before) {
                failed = failed.with("key", key);
            }
        }
        failed.advise("`selvedge config` prints every key with its default")
    })
}

/// The key of the line where an error starts, with its section.
fn key_at(text: &str, before: &str) -> Option<String> {
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = text.get(start..)?.lines().next()?.trim();
    let key = line.split_once('=').map(|(key, _)| key.trim());
    let section = text.get(..start)?.lines().rev().map(str::trim).find(|line| line.starts_with('['));
    let section = section.map(|line| line.split('#').next().unwrap_or_default().trim().trim_matches(['[', ']']));
    match (section, key) {
        (Some(section), Some(key)) => Some(format!("{section}.{key}")),
        (None, Some(key)) => Some(key.to_owned()),
        (_, None) => line.starts_with('[').then(|| line.trim_matches(['[', ']']).to_owned()),
    }
}

/// Lays `SELVEDGE_<SECTION>_<KEY>` over a configuration. Variables of no section are somebody else's.
fn overridden(config: Config, variables: impl Iterator<Item = (String, String)>) -> Result<Config> {
    let internal = |error: toml::ser::Error| {
        Error::new(ErrorKind::Internal, "config.environment", "the configuration cannot be written").caused_by(error)
    };
    let mut config = config;
    let mut variables: Vec<_> = variables.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    for (name, value) in variables {
        let Some((section, key)) = name[PREFIX.len()..].split_once('_') else { continue };
        let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
        let mut table = toml::Table::try_from(&config).map_err(internal)?;
        let Some(toml::Value::Table(values)) = table.get_mut(&section) else { continue };
        let given = match values.get(&key) {
            Some(toml::Value::String(_)) => toml::Value::String(value),
            // Anything else is written as in the file: a number, a list, a table.
            _ => format!("value = {value}")
                .parse::<toml::Table>()
                .ok()
                .and_then(|mut table| table.remove("value"))
                .unwrap_or(toml::Value::String(value)),
        };
        values.insert(key.clone(), given);
        config = Config::deserialize(table).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "config.environment", error.message())
                .with("variable", &name)
                .with("key", format!("{section}.{key}"))
                .advise("`selvedge config` prints every key with its default")
        })?;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(text: &str) -> String {
        parse(Path::new("shop.toml"), text).expect_err(text).to_string()
    }

    #[test]
    fn the_documented_defaults_are_the_defaults_and_none_is_missing() {
        assert_eq!(parse(Path::new("default.toml"), DEFAULT).expect("the default file"), Config::default());
        let documented: toml::Table = DEFAULT.parse().expect("TOML");
        let all = toml::Table::try_from(Config::default()).expect("a table");
        for (section, values) in all.iter().filter(|(section, _)| *section != "models") {
            for key in values.as_table().expect("a section").keys() {
                assert!(documented[section].get(key).is_some(), "{section}.{key} is not documented");
            }
        }
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, parts) in [
            ("[server]\n\nhost = \"x\"", &["unknown field `host`", "line: 3", "key: server.host"][..]),
            ("[server]\naddress = \"here\"", &["line: 2", "key: server.address", "socket address"]),
            ("# one\n[scheduler] # two\nqueue = 1\nconcurrency = 0", &["line: 4", "key: scheduler.concurrency"]),
            ("[store]\nkeep_dead_days = -1", &["line: 2", "key: store.keep_dead_days"]),
            ("[server]\ntimeout_seconds = -1", &["line: 2", "key: server.timeout_seconds", "0 to"]),
            ("[shop]\npath = \"x\"", &["unknown field `shop`", "line: 1"]),
            ("[log]\nformat = \"xml\"", &["line: 2", "key: log.format", "`text` or `json`"]),
            ("[server\naddress = 1", &["line: 1"]),
            ("[tenants.acme]\ntokens_per_minute = 0", &["line: 2", "key: tenants.acme.tokens_per_minute"]),
            ("[tenants.acme]\ntokens = 5", &["unknown field `tokens`", "line: 2"]),
            ("[[models]]\nname = \"a\"", &["missing field `path`", "line: 1", "key: models"]),
        ] {
            let message = fails(text);
            for part in parts.iter().chain(&["shop.toml"]) {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
        }
    }

    #[test]
    fn the_limits_of_the_documentation_are_read() {
        let limits =
            DEFAULT.lines().filter_map(|line| line.strip_prefix("#   ")).skip_while(|line| *line != "[tenants.acme]");
        let limits: Vec<_> = limits.take_while(|line| *line != "[[models]]").collect();
        let config = parse(Path::new("default.toml"), &limits.join("\n")).expect("the documented limits");
        let acme = config.tenants["acme"].allowance(&config.quotas);
        assert_eq!((acme.requests_per_minute, acme.concurrent, acme.hold), (Some(600), Some(8), Allowance::HOLD));
        let key = "[[server.keys]]\nkey = 'k'\nrequests_per_minute = 60\ntokens_per_minute = 5\nconcurrent = 2";
        let key = &parse(Path::new("shop.toml"), key).expect("a key").server.keys[0];
        assert_eq!(
            (key.requests_per_minute.map(NonZeroU64::get), key.concurrent.map(NonZeroU32::get)),
            (Some(60), Some(2))
        );
    }

    #[test]
    fn the_environment_overrides_and_its_mistakes_are_named() {
        let set =
            |name: &str, value: &str| overridden(Config::default(), [(name.to_owned(), value.to_owned())].into_iter());
        assert_eq!(set("SELVEDGE_SERVER_ADDRESS", "0.0.0.0:1").expect("set").server.address.port(), 1);
        assert_eq!(set("SELVEDGE_SCHEDULER_CONCURRENCY", "3").expect("set").scheduler.concurrency.get(), 3);
        assert_eq!(set("SELVEDGE_STORE_PATH", "42").expect("set").store.path, Path::new("42"));
        assert_eq!(set("SELVEDGE_SERVER_KEYS", "[{ key = 'k' }]").expect("set").server.keys.len(), 1);
        assert_eq!(
            set("SELVEDGE_INTENTS_WAIT_SECONDS", "0.5").expect("set").intents.wait_seconds.get().as_millis(),
            500
        );
        for other in ["SELVEDGE_MODEL", "SELVEDGE_CACHE", "SELVEDGE_LOG", "SELVEDGE_CONFIG", "HOME"] {
            assert_eq!(set(other, "/x").expect("not ours"), Config::default());
        }
        for (name, value) in [("SELVEDGE_SERVER_HOST", "x"), ("SELVEDGE_SCHEDULER_CONCURRENCY", "many")] {
            let message = set(name, value).expect_err(name).to_string();
            assert!(message.contains(name), "{message}");
        }
    }

    /// The block of a manifest that stands under a key.
    fn block(manifest: &str, key: &str) -> String {
        let (_, rest) = manifest.split_once(&format!("{key}: |\n")).expect(key);
        rest.lines().map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n").collect()
    }

    #[test]
    fn the_manifests_for_kubernetes_are_a_configuration() {
        let file = block(include_str!("../../../examples/kubernetes/config.yaml"), "selvedge.toml");
        let config = parse(Path::new("config.yaml"), &file).expect("a configuration");
        assert_eq!(config.server.address, SocketAddr::from(([0, 0, 0, 0], 8080)));
        assert_eq!(config.models[0].path, Path::new("/models/model.gguf"));
        let keys = block(include_str!("../../../examples/kubernetes/secret.yaml"), "SELVEDGE_SERVER_KEYS");
        let config = overridden(config, [("SELVEDGE_SERVER_KEYS".to_owned(), keys)].into_iter()).expect("keys");
        assert_eq!(config.server.keys.len(), 3);
        // What has to be replaced must not work as it stands.
        for key in config.server.keys {
            assert!(selvedge_http::ApiKey::sha256(&key.sha256.expect("a digest")).is_err());
        }
    }
}
