use std::future::Future;

use super::Layer;
use crate::{
    AnyExperiment, AnyInference, AnyScheduler, AnyStore, Context, Experiment, Inference, Result, Scheduler, Store,
    experiment::{Assign, Assignment, ExperimentCapabilities},
    idempotency::{Claim, ClaimRequest},
    inference::{Candidate, Generate, Generation, InferenceCapabilities, ModelInfo, Predict, Prompt, Symbol},
    scheduler::{Load, Permit, Plan, SchedulerCapabilities, Step, Work},
    store::{
        Commit, Fact, LeaseRequest, LeasedEvent, LeasedJob, Maintain, Maintained, Query, Receipt, RelayRequest, Rows,
        StoreCapabilities, Subscription, Take, Taken, Watch,
    },
};

/// Which attempt a call is. A layer that calls once passes `Last`; the request is then moved, not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// There may be another.
    Again,
    /// There will be no other.
    Last,
}

/// What a layer does around one call, whichever plugin and method it is.
///
/// ```
/// use std::future::Future;
/// use selvedge_core::{Context, Result, layers::{Around, Attempt}};
///
/// /// Refuses what is cancelled before it starts.
/// #[derive(Clone, Debug)]
/// struct CheckFirst;
///
/// impl Around for CheckFirst {
///     async fn around<T, F>(&self, cx: &Context, operation: &'static str, mut call: impl FnMut(Attempt) -> F + Send) -> Result<T>
///     where
///         T: Send,
///         F: Future<Output = Result<T>> + Send,
///     {
///         cx.check(operation)?;
///         call(Attempt::Last).await
///     }
/// }
/// ```
pub trait Around: Clone + Send + Sync + std::fmt::Debug + 'static {
    /// Runs `call`, once or several times. After a call with [`Attempt::Last`] it must not be called again.
    fn around<T, F>(
        &self,
        cx: &Context,
        operation: &'static str,
        call: impl FnMut(Attempt) -> F + Send,
    ) -> impl Future<Output = Result<T>> + Send
    where
        T: Send,
        F: Future<Output = Result<T>> + Send;
}

impl<A: Around> Layer for A {
    fn store(&self, inner: AnyStore) -> AnyStore {
        AnyStore::new(Wrapped { around: self.clone(), inner })
    }
    fn scheduler(&self, inner: AnyScheduler) -> AnyScheduler {
        AnyScheduler::new(Wrapped { around: self.clone(), inner })
    }
    fn inference(&self, inner: AnyInference) -> AnyInference {
        AnyInference::new(Wrapped { around: self.clone(), inner })
    }
    fn experiment(&self, inner: AnyExperiment) -> AnyExperiment {
        AnyExperiment::new(Wrapped { around: self.clone(), inner })
    }
}

/// A plugin with something around each of its calls.
#[derive(Debug)]
struct Wrapped<A, P> {
    around: A,
    inner: P,
}

macro_rules! wrap {
    ($trait:ident for $any:ident ($kind:literal) {
        $( fn $sync:ident($($sync_arg:ident: $sync_ty:ty)?) -> $sync_ret:ty; )*
        $( async fn $async:ident($ty:ty) -> $ret:ty; )*
    }) => {
        impl<A: Around> $trait for Wrapped<A, $any> {
            $( fn $sync(&self $(, $sync_arg: $sync_ty)?) -> $sync_ret { self.inner.$sync($($sync_arg)?) } )*
            $(
                async fn $async(&self, cx: &Context, request: $ty) -> Result<$ret> {
                    let mut request = Some(request);
                    self.around
                        .around(cx, concat!($kind, ".", stringify!($async)), |attempt| {
                            let request = match attempt {
                                Attempt::Again => request.clone(),
                                Attempt::Last => request.take(),
                            };
                            match request {
                                Some(request) => self.inner.twin().$async(cx, request),
                                None => Box::pin(async { Err(called_after_the_last()) }),
                            }
                        })
                        .await
                }
            )*
        }
    };
}

fn called_after_the_last() -> crate::Error {
    crate::Error::new(crate::ErrorKind::Internal, "layer", "a layer called a plugin again after its last attempt")
}

wrap!(Store for AnyStore ("store") {
    fn capabilities() -> StoreCapabilities;
    async fn commit(Commit) -> Receipt;
    async fn lease(LeaseRequest) -> Vec<LeasedJob>;
    async fn relay(RelayRequest) -> Vec<LeasedEvent>;
    async fn claim(ClaimRequest) -> Claim;
    async fn take(Take) -> Taken;
    async fn read(Query) -> Rows;
    async fn watch(Watch) -> Subscription;
    async fn maintain(Maintain) -> Maintained;
});

wrap!(Scheduler for AnyScheduler ("scheduler") {
    fn capabilities() -> SchedulerCapabilities;
    fn load() -> Load;
    fn plan(step: &Step) -> Plan;
    async fn admit(Work) -> Permit;
});

wrap!(Inference for AnyInference ("inference") {
    fn capabilities() -> InferenceCapabilities;
    fn model() -> ModelInfo;
    async fn encode(Prompt) -> Vec<Symbol>;
    async fn predict(Predict) -> Vec<Candidate>;
    async fn generate(Generate) -> Generation;
    async fn embed(Vec<String>) -> Vec<Vec<f32>>;
});

wrap!(Experiment for AnyExperiment ("experiment") {
    fn capabilities() -> ExperimentCapabilities;
    async fn assign(Assign) -> Assignment;
    async fn track(Fact) -> ();
});
