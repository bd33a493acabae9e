//! Cases, how one is run, and what is said about those that were skipped.

use std::{
    future::Future,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use selvedge_core::BoxFuture;

/// The longest any single wait in a case may take.
pub(crate) const WAIT: Duration = Duration::from_secs(5);
/// The longest a whole case may take: many waits, on a machine that does other things.
const CASE: Duration = Duration::from_secs(120);

/// What a case came to.
pub(crate) type Checked = anyhow::Result<()>;

/// One rule and the code that checks it on a fixture `F`.
pub(crate) struct Case<F> {
    pub(crate) name: String,
    pub(crate) rule: &'static str,
    pub(crate) run: fn(Arc<F>) -> BoxFuture<'static, Checked>,
}

/// A table of cases: the name of each function, what it needs, and the rule it checks.
macro_rules! cases {
    ($($name:ident: $rule:literal,)*) => {
        /// The cases of this module.
        pub(crate) fn cases() -> Vec<crate::suite::Case<super::Bed>> {
            // The name leaves out the crate, so that it reads as `store::lease::…`.
            let module = module_path!().trim_start_matches("selvedge_testkit::");
            vec![$(crate::suite::Case {
                name: format!("{module}::{}", stringify!($name)),
                rule: $rule,
                run: |bed| Box::pin(async move { $name(&bed).await }),
            }),*]
        }
    };
}
pub(crate) use cases;

/// Fails the case unless both sides are equal, and shows both.
macro_rules! same {
    ($left:expr, $right:expr) => { crate::suite::same!($left, $right, "the two differ") };
    ($left:expr, $right:expr, $($what:tt)+) => {{
        // A `match` keeps temporaries of both expressions alive, which a `let` would not.
        match (&$left, &$right) {
            (left, right) => anyhow::ensure!(
                left == right,
                "{}\n    found:    {left:?}\n    expected: {right:?}",
                format!($($what)+)
            ),
        }
    }};
}
pub(crate) use same;

/// Fails the case unless the value matches the pattern, and shows the value.
macro_rules! fits {
    ($value:expr, $pattern:pat $(if $guard:expr)?) => {{
        let value = &$value;
        anyhow::ensure!(
            std::matches!(value, $pattern $(if $guard)?),
            "found {value:?}\n    expected {}", stringify!($pattern $(if $guard)?)
        );
    }};
}
pub(crate) use fits;

/// Fails the case unless the result is an error of this kind.
macro_rules! refused {
    ($result:expr, $kind:ident) => {{
        let kind = $result.map_err(|error| error.kind());
        anyhow::ensure!(
            std::matches!(kind, Err(selvedge_core::ErrorKind::$kind)),
            "found {kind:?}\n    expected an error of kind {}",
            stringify!($kind)
        );
    }};
}
pub(crate) use refused;

/// Waits for something, but not for long.
pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(WAIT, wait).await.map_err(|_| anyhow::anyhow!("{what} did not come within {WAIT:?}"))
}

/// Runs `count` tasks that all begin at one moment, and returns what each came to.
pub(crate) async fn race<T, F>(count: usize, task: impl Fn(usize) -> F) -> anyhow::Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let barrier = Arc::new(tokio::sync::Barrier::new(count));
    let tasks = (0..count).map(|number| {
        let (barrier, task) = (barrier.clone(), task(number));
        tokio::spawn(async move {
            barrier.wait().await;
            task.await
        })
    });
    let mut all = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        all.push(task.await??);
    }
    Ok(all)
}

/// The reason a case cannot be run on this plugin.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Skip {}

/// Skips the case unless the plugin has what it needs.
pub(crate) fn needs(has: bool, what: &str) -> Checked {
    if has { Ok(()) } else { Err(Skip(format!("needs {what}")).into()) }
}

/// The trials of a conformance suite. Give it to [`Suite::run`], or take the trials and run them your own way.
#[must_use = "a suite checks nothing until it is run"]
pub struct Suite {
    /// One for each case.
    pub trials: Vec<Trial>,
    skips: Vec<Skips>,
}

type Skips = Arc<Mutex<Vec<(String, String)>>>;

impl Suite {
    pub(crate) fn new<F, N, M>(cases: Vec<Case<F>>, fixture: N) -> Self
    where
        F: Send + Sync + 'static,
        N: Fn() -> M + Clone + Send + 'static,
        M: Future<Output = anyhow::Result<F>> + Send,
    {
        let skips = Skips::default();
        let trial = |case: Case<F>| {
            let (fixture, skips) = (fixture.clone(), skips.clone());
            Trial::ignorable_test(case.name.clone(), move || {
                let ended = in_runtime(async { (case.run)(Arc::new(fixture().await?)).await });
                match ended {
                    Ok(()) => Ok(Completion::Completed),
                    Err(error) => match error.downcast_ref::<Skip>() {
                        Some(Skip(reason)) => {
                            let entry = (case.name.clone(), reason.clone());
                            skips.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
                            Ok(Completion::ignored_with(reason))
                        }
                        None => Err(Failed::from(format!("rule: {}\nbroken: {error:?}", case.rule))),
                    },
                }
            })
        };
        let trials = cases.into_iter().map(trial).collect();
        Self { trials, skips: vec![skips] }
    }

    /// Adds another suite's trials.
    pub fn and(mut self, other: Self) -> Self {
        self.trials.extend(other.trials);
        self.skips.extend(other.skips);
        self
    }

    /// Puts `prefix` before each name: `chaos` makes `chaos::store::…`.
    pub fn named(mut self, prefix: &str) -> Self {
        self.trials = self.trials.into_iter().map(|trial| trial.with_kind(prefix)).collect();
        self
    }

    /// Runs the trials as the arguments of this process say (a filter, `--list`, `--test-threads`), prints which were
    /// skipped and why, and returns the exit code of the test program.
    pub fn run(self) -> ExitCode {
        let conclusion = libtest_mimic::run(&Arguments::from_args(), self.trials);
        let skips = self.skips.iter().flat_map(|skips| skips.lock().unwrap_or_else(PoisonError::into_inner).clone());
        skips.for_each(|(name, reason)| println!("skipped {name}: {reason}"));
        conclusion.exit_code()
    }
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suite").field("trials", &self.trials).finish_non_exhaustive()
    }
}

/// Runs a future on a runtime of its own: the plugin under test needs none.
pub(crate) fn in_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    runtime.block_on(async {
        tokio::time::timeout(CASE, work).await.map_err(|_| anyhow::anyhow!("the case did not end within {CASE:?}"))?
    })
}
