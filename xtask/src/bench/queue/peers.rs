//! The peers: exact versions from their registries, in the cache folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::super::measure::Peer;
use crate::{place, setup, shell};

const DRIVER: &str = "pg@8.23.1";
const GRAPHILE: &str = "0.18.0";
const PG_BOSS: &str = "12.38.0";
const RIVER_RUST: &str = "0.5.0";
/// As `xtask/peers/queue/river/go.mod` says.
const RIVER_GO: &str = "0.51.1";
const PROCRASTINATE: &str = "3.10.0";

/// Who is measured beside us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Graphile,
    PgBoss,
    RiverRust,
    RiverGo,
    Procrastinate,
}

impl Who {
    pub(super) const ALL: [Self; 5] =
        [Self::Graphile, Self::PgBoss, Self::RiverRust, Self::RiverGo, Self::Procrastinate];

    pub(super) fn peer(self) -> Peer {
        let (name, version) = match self {
            Self::Graphile => ("graphile-worker", GRAPHILE),
            Self::PgBoss => ("pg-boss", PG_BOSS),
            Self::RiverRust => ("River (Rust)", RIVER_RUST),
            Self::RiverGo => ("River (Go)", RIVER_GO),
            Self::Procrastinate => ("procrastinate", PROCRASTINATE),
        };
        Peer { name, version: version.into() }
    }
}

/// Where the peers are.
pub(super) struct Peers {
    node: PathBuf,
    modules: PathBuf,
    python: PathBuf,
    river_go: PathBuf,
    /// Its command line, with its own benchmark.
    pub(super) river: PathBuf,
    river_latency: PathBuf,
}

impl Peers {
    /// Installs what is not there yet.
    pub(super) fn install() -> Result<Self> {
        let cache = place::cache()?.join("queue-peers");
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let packages = [DRIVER, &format!("graphile-worker@{GRAPHILE}"), &format!("pg-boss@{PG_BOSS}")];
        let modules = setup::node::modules("queue", &packages)?;
        let python = [&format!("procrastinate=={PROCRASTINATE}"), "psycopg[binary,pool]==3.3.9"];
        let (river, river_latency) = river_rust(&cache)?;
        Ok(Self {
            node: modules.join(".bin/node"),
            modules,
            python: setup::python::environment("procrastinate", &python)?.join("python3"),
            river_go: river_go(&cache)?,
            river,
            river_latency,
        })
    }

    /// A peer's program of ours, which takes the same options for every peer. River's Rust crate has one for latency only.
    pub(super) fn program(&self, who: Who) -> Command {
        let script = |program: &Path, name: &str| {
            let mut command = Command::new(program);
            command.arg(scripts().join(name)).env("NODE_PATH", &self.modules);
            command
        };
        match who {
            Who::Graphile => script(&self.node, "graphile.cjs"),
            Who::PgBoss => script(&self.node, "pgboss.cjs"),
            Who::RiverRust => Command::new(&self.river_latency),
            Who::RiverGo => Command::new(&self.river_go),
            Who::Procrastinate => script(&self.python, "procrastinate_queue.py"),
        }
    }
}

fn scripts() -> PathBuf {
    place::root().join("xtask/peers/queue")
}

/// Go keeps what it built before, so this is asked each time.
fn river_go(cache: &Path) -> Result<PathBuf> {
    let program = cache.join("river-go");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(".").current_dir(scripts().join("river"));
    shell::quiet("build River's benchmark in Go", &mut build)?;
    Ok(program)
}

/// River's command line, and the program of ours on the same crate; both from the same dependencies.
fn river_rust(cache: &Path) -> Result<(PathBuf, PathBuf)> {
    let (root, built) = (cache.join(format!("riverqueue-cli-{RIVER_RUST}")), cache.join("riverqueue-cli-build"));
    let river = root.join("bin/riverqueue");
    if !river.is_file() {
        let mut install = place::cargo();
        install.env("CARGO_TARGET_DIR", &built);
        install.args(["install", "riverqueue-cli", "--locked", "--version", RIVER_RUST, "--root"]).arg(&root);
        let label = format!("install riverqueue-cli {RIVER_RUST} from crates.io (ten minutes on two cores)");
        shell::quiet(&label, &mut install)?;
    }
    let (folder, ours) = (cache.join("river-latency"), scripts().join("river-rust"));
    fs::create_dir_all(&folder)?;
    fs::copy(ours.join("manifest.toml"), folder.join("Cargo.toml"))?;
    fs::copy(ours.join("main.rs"), folder.join("main.rs"))?;
    if !folder.join("Cargo.lock").is_file()
        && let Some(lock) = lock_of_river()
    {
        fs::copy(lock, folder.join("Cargo.lock"))?;
    }
    let mut build = place::cargo();
    build.args(["build", "--release"]).current_dir(&folder).env("CARGO_TARGET_DIR", &built);
    shell::quiet("build the latency program on River's Rust crate", &mut build)?;
    let latency = built.join("release/river-latency");
    if !latency.is_file() {
        bail!("cargo left no {}", latency.display());
    }
    Ok((river, latency))
}

/// The lock file that riverqueue-cli was installed by, where cargo unpacked it. Without it cargo resolves anew, and compiles
/// the dependencies a second time.
fn lock_of_river() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?.flatten();
    let locks = registries.map(|one| one.path().join(format!("riverqueue-cli-{RIVER_RUST}/Cargo.lock")));
    locks.into_iter().find(|lock| lock.is_file())
}
