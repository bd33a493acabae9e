//! Pages, and the streams of topics and hints.

use std::{collections::BTreeMap, time::Duration};

use selvedge_core::{
    Error, Result, Timestamp,
    intent::{IntentState, IntentView},
    store::{
        EventView, JobState, LoadHistory, Message, Notice, Page, Query, QueueStats, Rows, Start, StoreInfo, Wakeups,
    },
};

use super::data::{Data, Submitted};

impl Data {
    pub(super) fn read(&self, query: Query, now: Timestamp) -> Result<Rows> {
        Ok(match query {
            Query::Jobs(filter) => {
                let after = filter.after.map_or(0, |id| id.0);
                let rows = self.jobs.range(after + 1..).map(|(id, job)| (*id, job.view())).filter(|(_, job)| {
                    filter.queue.as_ref().is_none_or(|queue| job.queue == *queue)
                        && filter.tenant.as_ref().is_none_or(|tenant| job.tenant.as_ref() == Some(tenant))
                        && filter.state.is_none_or(|state| job.state == state)
                });
                Rows::Jobs(page(rows, filter.limit))
            }
            Query::Job(id) => {
                let items = self.jobs.get(&id.0).map(super::data::Job::view).into_iter().collect();
                Rows::Jobs(Page { items, next: None })
            }
            Query::Queues => Rows::Queues(self.queues(now)),
            Query::Schedules => Rows::Schedules(self.schedules.values().cloned().collect()),
            Query::Outbox { dead, after, limit } => {
                let rows = self.outbox.range(after.unwrap_or(0) + 1..).filter(|(_, row)| row.dead || !dead);
                let rows = rows.map(|(number, row)| {
                    let view = EventView {
                        number: *number,
                        event: row.event.clone(),
                        attempts: row.attempts,
                        run_at: row.run_at,
                        emitted_at: row.emitted_at,
                        dead: row.dead,
                        last_error: row.last_error.clone(),
                    };
                    (*number, view)
                });
                Rows::Outbox(page(rows, limit))
            }
            Query::Intents(filter) => {
                let rows = self.intents.range(filter.after.unwrap_or(0) + 1..).map(|(id, row)| (*id, row.view()));
                let rows = rows.filter(|(_, view)| filter.state.is_none_or(|state| view.state == state));
                Rows::Intents(page(rows, filter.limit))
            }
            Query::Intent(id) => {
                let row = self.intents.values().find(|row| row.intent.id == id);
                Rows::Intents(Page { items: row.map(Submitted::view).into_iter().collect(), next: None })
            }
            Query::Messages { topic, after, limit } => {
                Rows::Messages(page(self.messages(&topic, after).map(|m| (m.cursor, m.clone())), limit))
            }
            Query::Assignments { subjects } => {
                let of = self.assignments.values().filter(|kept| subjects.contains(&kept.subject));
                Rows::Assignments(of.cloned().collect())
            }
            Query::Assignment { subject, experiment } => {
                Rows::Assignment(self.assignments.get(&(subject, experiment)).cloned())
            }
            Query::Facts { name, after, limit } => {
                let rows = self.facts.range(after + 1..).map(|(id, view)| (*id, view.clone()));
                let rows = rows.filter(|(_, view)| name.as_ref().is_none_or(|name| view.fact.name == *name));
                Rows::Facts(page(rows, limit))
            }
            Query::Load => Rows::Load(LoadHistory { now, samples: self.load.clone() }),
            Query::Info => Rows::Info(StoreInfo {
                plugin: "memory",
                backend: "none".into(),
                schema: 1,
                location: "this process".into(),
                bytes: None,
                durability: "nothing survives the process".into(),
                wakeups: Wakeups::Listen,
                now,
            }),
            _ => return Err(Error::unsupported("memory", "store.read")),
        })
    }

    fn queues(&self, now: Timestamp) -> Vec<QueueStats> {
        let mut all: BTreeMap<_, QueueStats> = BTreeMap::new();
        for job in self.jobs.values() {
            let (queue, tenant) = (job.new.queue.clone(), job.new.tenant.clone());
            let paused = self.queues.get(&queue).is_some_and(|settings| settings.paused);
            let stats = all.entry((queue.clone(), tenant.clone())).or_insert(QueueStats {
                queue,
                tenant,
                ready: 0,
                scheduled: 0,
                running: 0,
                dead: 0,
                oldest: Duration::ZERO,
                paused,
            });
            match job.state {
                JobState::Ready if job.run_at <= now => {
                    stats.ready += 1;
                    stats.oldest = stats.oldest.max(now.since(job.run_at));
                }
                JobState::Ready => stats.scheduled += 1,
                JobState::Running => stats.running += 1,
                JobState::Dead => stats.dead += 1,
                JobState::Cancelled => (),
            }
        }
        all.into_values().collect()
    }

    fn messages(&self, topic: &str, after: i64) -> impl Iterator<Item = &Message> {
        self.topics.get(topic).into_iter().flat_map(|topic| &topic.messages).filter(move |m| m.cursor > after)
    }

    pub(super) fn start(&self, topic: &str, from: Start) -> i64 {
        match from {
            Start::Now => self.topics.get(topic).map_or(0, |topic| topic.last),
            Start::Earliest => self.messages(topic, 0).next().map_or(0, |first| first.cursor - 1),
            Start::After(cursor) => cursor,
        }
    }

    /// What a subscriber that has seen everything up to `cursor` is told next, and its new cursor.
    pub(super) fn next_notice(&self, topic: &str, cursor: i64, buffer: Option<usize>) -> Option<(Notice, i64)> {
        let kept = self.messages(topic, cursor).count();
        let skipped = kept.saturating_sub(buffer.unwrap_or(usize::MAX));
        let next = self.messages(topic, cursor).nth(skipped)?;
        // Cursors count up by one, so the gap before the next message is what was skipped or is past its retention.
        let lagged = next.cursor - 1 - cursor;
        Some(match lagged {
            0 => (Notice::Message(next.clone()), next.cursor),
            _ => (Notice::Lagged(lagged.unsigned_abs()), next.cursor - 1),
        })
    }
}

impl Submitted {
    fn view(&self) -> IntentView {
        IntentView {
            intent: self.intent.clone(),
            state: IntentState::of(self.answer.as_ref()),
            answer: self.answer.clone(),
            attempts: self.attempts,
            last_error: self.last_error.clone(),
            submitted_at: self.submitted_at,
            answered_at: self.answered_at,
        }
    }
}

fn page<T>(rows: impl Iterator<Item = (i64, T)>, limit: usize) -> Page<T> {
    let mut rows = rows.peekable();
    let (mut items, mut last) = (Vec::new(), None);
    while items.len() < limit
        && let Some((place, row)) = rows.next()
    {
        items.push(row);
        last = Some(place);
    }
    Page { items, next: rows.peek().and(last) }
}
