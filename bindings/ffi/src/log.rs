use std::sync::{Arc, mpsc};

use tracing::{Dispatch, Event, Level, Subscriber, field::Visit, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
};

use crate::hosts::{Hosts, LogLevel, LogRecord, LogSink};

/// Lines that wait for the app.
const WAITING: usize = 1024;

/// Where the engine's log lines go: to the app, or nowhere.
pub(crate) fn dispatch(hosts: &Hosts) -> Dispatch {
    let Some(sink) = hosts.log.clone() else { return Dispatch::none() };
    let level = match hosts.log_level.unwrap_or(LogLevel::Info) {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let (lines, waiting) = mpsc::sync_channel(WAITING);
    let started = std::thread::Builder::new().name("selvedge-log".into()).spawn(move || deliver(sink, &waiting));
    if started.is_err() {
        return Dispatch::none();
    }
    Dispatch::new(tracing_subscriber::registry().with(Lines(lines).with_filter(level)))
}

/// Gives lines to the app until the engine is gone. What the app throws is its own business.
fn deliver(sink: Arc<dyn LogSink>, waiting: &mpsc::Receiver<LogRecord>) {
    for line in waiting {
        drop(sink.log(line));
    }
}

struct Lines(mpsc::SyncSender<LogRecord>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            Level::INFO => LogLevel::Info,
            Level::DEBUG => LogLevel::Debug,
            Level::TRACE => LogLevel::Trace,
        };
        let message = format!("{}{}", text.message, text.fields);
        // When the app is too slow the line is dropped: logging never holds up work.
        drop(self.0.try_send(LogRecord { level, target: event.metadata().target().into(), message }));
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.push_str(&format!(" {}={value:?}", field.name()));
        }
    }
}
