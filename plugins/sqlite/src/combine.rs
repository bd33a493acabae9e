//! Many callers that lease at once are served by one statement, and its jobs are dealt out: flat combining (Hendler, Incze,
//! Shavit and Tzafrir, SPAA 2010).
//!
//! They all wait already, so each gets the jobs it would have got had they been served in the order they came.

use futures_channel::oneshot;
use rusqlite::Transaction;
use selvedge_core::{
    Context, Result,
    store::{LeaseRequest, LeasedJob},
};

use crate::{
    lease,
    tx::Tx,
    writer::{Group, Work},
};

/// A caller that wants jobs.
pub(crate) struct LeaseWork {
    pub(crate) cx: Context,
    pub(crate) request: LeaseRequest,
    pub(crate) jobs: Vec<LeasedJob>,
    pub(crate) reply: oneshot::Sender<Result<Vec<LeasedJob>>>,
}

impl LeaseWork {
    fn wants_the_same(&self, request: &LeaseRequest) -> bool {
        let own = &self.request;
        (&own.queues, own.hold, &own.owner) == (&request.queues, request.hold, &request.owner)
    }
}

impl Work for LeaseWork {
    fn run(&mut self, tx: &mut Tx<'_>, _: &Transaction<'_>) -> Result<()> {
        self.cx.check("store.lease")?;
        self.jobs = lease::lease(tx, &self.request)?;
        Ok(())
    }

    /// A leased row is longer than a ready one: where there is room for a few only, a few can be worked off.
    fn reduce(&mut self) -> bool {
        self.request.limit /= 2;
        self.request.limit > 0
    }

    fn finish(self: Box<Self>, result: Result<()>) {
        // A send fails when nobody listens any more: the leases then run out.
        let Self { jobs, reply, .. } = *self;
        drop(reply.send(result.map(|()| jobs)));
    }
}

/// Serves all who wait, and moves them to the group. After an error the rest are left.
pub(crate) fn lease(tx: &mut Tx<'_>, waiting: &mut Vec<LeaseWork>, group: &mut Group) -> Result<()> {
    while let Some(mut request) = waiting.first().map(|work| work.request.clone()) {
        let alike = waiting.extract_if(.., |work| work.wants_the_same(&request));
        // The caller may have gone, or its time may have run out, while it waited in line.
        let alike: Vec<_> = alike.map(|work| (work.cx.check("store.lease"), work)).collect();
        let limits = alike.iter().filter(|(checked, _)| checked.is_ok()).map(|(_, work)| work.request.limit);
        request.limit = limits.fold(0, usize::saturating_add);
        let leased = lease::lease(tx, &request);
        let (mut jobs, failed) = match leased {
            Ok(jobs) => (jobs.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        for (checked, mut work) in alike {
            if checked.is_ok() {
                work.jobs = jobs.by_ref().take(work.request.limit).collect();
            }
            group.push((Box::new(work), checked));
        }
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(())
}
