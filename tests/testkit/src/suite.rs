//! Cases, how one is run, and what is said about those that were skipped.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
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

/// Asks again and again until the answer is yes, but not for long.
pub(crate) async fn until(what: &str, mut yes: impl FnMut() -> bool) -> Checked {
    let ends = tokio::time::Instant::now() + WAIT;
    while !yes() {
        anyhow::ensure!(tokio::time::Instant::now() < ends, "{what}: waited in vain for {WAIT:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

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

/// The cases of a conformance suite; the default has none yet. [`Suite::run`] makes a test program of it; [`Suite::report`] tells a program.
#[derive(Default)]
#[must_use = "a suite checks nothing until it is run"]
pub struct Suite {
    checks: Vec<Check>,
}

/// A case with everything it needs.
struct Check {
    name: String,
    rule: &'static str,
    run: Box<dyn FnOnce() -> Checked + Send>,
}

impl Suite {
    pub(crate) fn new<F, N, M>(cases: Vec<Case<F>>, fixture: N) -> Self
    where
        F: Send + Sync + 'static,
        N: Fn() -> M + Clone + Send + 'static,
        M: Future<Output = anyhow::Result<F>> + Send,
    {
        let check = |case: Case<F>| {
            let fixture = fixture.clone();
            let run = move || in_runtime(async { (case.run)(Arc::new(fixture().await?)).await });
            Check { name: case.name, rule: case.rule, run: Box::new(run) }
        };
        Self { checks: cases.into_iter().map(check).collect() }
    }

    /// Adds another suite's cases.
    pub fn and(mut self, other: Self) -> Self {
        self.checks.extend(other.checks);
        self
    }

    /// Puts `prefix` before each name: `chaos` makes `chaos::store::…`.
    pub fn named(mut self, prefix: &str) -> Self {
        self.checks.iter_mut().for_each(|check| check.name = format!("{prefix}::{}", check.name));
        self
    }

    /// Keeps the cases whose name contains `part`.
    pub fn only(mut self, part: &str) -> Self {
        self.checks.retain(|check| check.name.contains(part));
        self
    }

    /// Leaves out the cases whose name contains `part`.
    pub fn without(mut self, part: &str) -> Self {
        self.checks.retain(|check| !check.name.contains(part));
        self
    }

    /// Runs the cases as the arguments of this process say (a filter, `--list`, `--test-threads`), prints which were
    /// skipped and why, and returns the exit code of the test program.
    pub fn run(self) -> ExitCode {
        let skips = Arc::new(Mutex::new(Vec::new()));
        let trial = |check: Check| {
            let (name, skips) = (check.name.clone(), skips.clone());
            Trial::ignorable_test(name.clone(), move || match check.end() {
                Ended::Passed => Ok(Completion::Completed),
                Ended::Skipped(reason) => {
                    skips.lock().unwrap_or_else(PoisonError::into_inner).push((name, reason.clone()));
                    Ok(Completion::ignored_with(reason))
                }
                Ended::Failed(why) => Err(Failed::from(why)),
            })
        };
        let conclusion = libtest_mimic::run(&Arguments::from_args(), self.checks.into_iter().map(trial).collect());
        let skips = std::mem::take(&mut *skips.lock().unwrap_or_else(PoisonError::into_inner));
        skips.iter().for_each(|(name, reason)| println!("skipped {name}: {reason}"));
        conclusion.exit_code()
    }

    /// Runs all cases here, one after the other, and tells what each came to.
    pub fn report(self) -> Report {
        let mut report = Report::default();
        for check in self.checks {
            let (name, rule) = (check.name.clone(), check.rule);
            match check.end() {
                Ended::Passed => report.passed.push(name),
                Ended::Skipped(why) => report.skipped.push(Finding { name, rule, why }),
                Ended::Failed(why) => report.failed.push(Finding { name, rule, why }),
            }
        }
        report
    }
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.checks.iter().map(|check| &check.name)).finish()
    }
}

enum Ended {
    Passed,
    Skipped(String),
    Failed(String),
}

impl Check {
    fn end(self) -> Ended {
        // A plugin that panics breaks the rule under test, and no other case.
        match catch_unwind(AssertUnwindSafe(self.run)) {
            Ok(Ok(())) => Ended::Passed,
            Ok(Err(error)) => match error.downcast_ref::<Skip>() {
                Some(Skip(reason)) => Ended::Skipped(reason.clone()),
                None => Ended::Failed(format!("rule: {}\nbroken: {error:#}", self.rule)),
            },
            Err(panic) => {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
                Ended::Failed(format!("rule: {}\nbroken: a panic: {said}", self.rule))
            }
        }
    }
}

/// What a suite found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Names of the cases that passed.
    pub passed: Vec<String>,
    /// Cases whose rule is broken.
    pub failed: Vec<Finding>,
    /// Cases that could not be run, mostly for want of a capability.
    pub skipped: Vec<Finding>,
}

/// A case that failed or was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name: `store::lease::a_second_worker_gets_none_of_them`.
    pub name: String,
    /// The rule it checks.
    pub rule: &'static str,
    /// What was found, or why it was skipped.
    pub why: String,
}

/// Runs a future on a runtime of its own: the plugin under test needs none.
pub(crate) fn in_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        tokio::time::timeout(CASE, work).await.map_err(|_| anyhow::anyhow!("the case did not end within {CASE:?}"))?
    })
}
