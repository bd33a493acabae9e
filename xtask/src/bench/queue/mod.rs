//! The queue on PostgreSQL beside the queues people use today, and beside the plainest SQL.

mod cluster;
mod contest;
mod held;
mod peers;
mod raw;
mod rows;
mod target;

use anyhow::Result;

use self::contest::Contest;
use super::{Entry, Plan, Report};

pub(super) const ENTRY: Entry = Entry {
    name: "queue",
    title: "The queue on PostgreSQL",
    method: "One private PostgreSQL with its own defaults (`fsync` and `synchronous_commit` on) serves all contestants, each in \
             a database made for that turn. Ours is an `Engine` with one worker of 500 jobs at once and as many leased \
             ahead, and handlers that do nothing; \
             a peer is driven as its authors drive it in their own benchmark.\n\n\
             - *burn-down*: empty jobs, all enqueued before, until none is left (procrastinate: fewer jobs). \
             - *continuous load*: a producer keeps 75,000 jobs waiting (procrastinate: 1,000), as River's benchmark does; \
             completed jobs count, of ours no more than were enqueued meanwhile.\n\
             - *raw SQL, batch N*: claims of N rows by `FOR UPDATE SKIP LOCKED` and their DELETE, two transactions, in pgbench, on \
             a table with three columns and one index besides its key; ours with N jobs at once and N ahead. Under load each client also inserts N.\n\
             - *enqueue to start*: 16 producers enqueue one job a commit, evenly spaced, from connections of their own; from \
             before that call to the start of the handler. The rate is a tenth of our continuous load. A peer that cannot \
             take it has a tenth of its own, and is compared with ours at its rate and at ours. Three turns of 10 s a round, of which the \
             median counts: one slow flush of the disk spoils a turn.\n\
             - *enqueue, 32 clients*: one job a commit, with wake-ups of others on and off, while another Store watches; \
             and raw SQL with and without a NOTIFY in the same transaction.\n\
             - *held snapshot*: a REPEATABLE READ transaction idles while jobs come and go one at a time, so that nothing can be \
             vacuumed; the buffers each claim touches, by auto_explain, without what \
             planning reads from the catalogues.\n\
             - *replay*: round trips of `Store::claim` for a request that is done, counted by a proxy.",
    measure,
};

fn measure(plan: &Plan) -> Result<Report> {
    let mut contest = Contest::prepare(plan)?;
    contest.rounds()?;
    contest.report()
}
