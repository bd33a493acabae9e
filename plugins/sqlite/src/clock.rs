//! The Store's clock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use selvedge_core::{Clock, Timestamp};

/// A wall clock that never runs backwards while the process lives.
///
/// A wall clock that jumps forward is followed. One that steps back is not: time then goes on by the monotonic clock, until
/// the wall clock has caught up or housekeeping moves what is stored ([`crate::maintain`]).
#[derive(Debug)]
pub(crate) struct StoreClock {
    wall: Arc<dyn Clock>,
    last: Mutex<(Timestamp, Instant)>,
}

impl StoreClock {
    pub(crate) fn new(wall: Arc<dyn Clock>) -> Self {
        let last = Mutex::new((wall.now(), Instant::now()));
        Self { wall, last }
    }

    /// The Store's time.
    pub(crate) fn now(&self) -> Timestamp {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, instant) = (self.wall.now(), Instant::now());
        let now = if wall >= last.0 { wall } else { last.0 + instant.duration_since(last.1) };
        *last = (now, instant);
        now
    }

    /// What the wall clock shows, forwards or backwards.
    pub(crate) fn wall(&self) -> Timestamp {
        self.wall.now()
    }

    /// Goes by the wall clock from here on, although it is behind.
    pub(crate) fn rebase(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (self.wall.now(), Instant::now());
    }
}
