//! Cancellation that reaches work already running.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use event_listener::Event;
use futures_util::future::{Either, select};

/// Asks work to stop. Clones share the request; a child is cancelled with its parent, not the other way round.
///
/// ```
/// use selvedge_core::CancelToken;
///
/// let request = CancelToken::new();
/// let step = request.child();
/// request.cancel();
/// assert!(step.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<State>);

#[derive(Debug, Default)]
struct State {
    cancelled: AtomicBool,
    event: Event,
    parent: Option<CancelToken>,
}

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is cancelled when this one is, and can be cancelled alone.
    pub fn child(&self) -> Self {
        Self(Arc::new(State { parent: Some(self.clone()), ..State::default() }))
    }

    /// Asks the work to stop. Doing it twice changes nothing.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        self.0.event.notify(usize::MAX);
    }

    /// Whether the work should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire) || self.0.parent.as_ref().is_some_and(Self::is_cancelled)
    }

    /// Completes once the work should stop.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        let token = self.clone();
        async move {
            // Listeners of the whole line of ancestors are made before the flag is read, so that no cancel falls between.
            let mut listeners = Vec::new();
            let mut next = Some(&token);
            while let Some(current) = next {
                listeners.push(current.0.event.listen());
                next = current.0.parent.as_ref();
            }
            if !token.is_cancelled() {
                futures_util::future::select_all(listeners).await;
            }
        }
    }

    /// Runs `work` until it is done or this token is cancelled; `None` if it was cancelled first.
    ///
    /// # Cancellation safety
    /// `work` is dropped where it stands when the token is cancelled.
    pub async fn until_cancelled<F: Future>(&self, work: F) -> Option<F::Output> {
        if self.is_cancelled() {
            return None;
        }
        let work = std::pin::pin!(work);
        let cancelled = std::pin::pin!(self.cancelled());
        match select(work, cancelled).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiting_child_wakes_when_its_parent_is_cancelled() {
        let parent = CancelToken::new();
        let child = parent.child().child();
        let waiter = tokio::spawn(child.cancelled());
        tokio::task::yield_now().await;
        parent.cancel();
        waiter.await.expect("the waiter ends");
    }

    #[tokio::test]
    async fn cancelling_a_child_leaves_the_parent_alone() {
        let parent = CancelToken::new();
        parent.child().cancel();
        assert!(!parent.is_cancelled());
        assert_eq!(parent.until_cancelled(async { 7 }).await, Some(7));
        parent.cancel();
        assert_eq!(parent.until_cancelled(std::future::pending::<()>()).await, None);
    }
}
