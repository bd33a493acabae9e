//! `/metrics`: counts and times, as OpenMetrics text.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{Method, StatusCode, header};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};
use selvedge_core::{
    Context, Scheduler,
    allowance::Limit,
    inference::Usage,
    layers::CallStats,
    scheduler::{Class, ClassLoad, Load},
    store::{Load as QueueLoad, QueueStats, StoreExt, Wakeups},
};

use super::AppState;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: String,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    model: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    limit: &'static str,
    tenant: String,
}

/// What the server itself counts.
#[derive(Clone, Debug)]
pub(crate) struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
    tokens: Family<TokenLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let buckets =
            || Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0]);
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(buckets),
            tokens: Family::default(),
            refusals: Family::default(),
        }
    }
}

impl HttpMetrics {
    /// Counts a request. Routes and not paths are labels, so a scanner cannot fill the memory with label values; methods
    /// that are not the usual ones are one.
    pub(crate) fn request(&self, method: &Method, route: String, status: StatusCode, took: Duration) {
        let method = match method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known.to_owned(),
            _ => "other".to_owned(),
        };
        let labels = RouteLabels { method: method.clone(), route: route.clone() };
        self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
        self.requests.get_or_create(&RequestLabels { method, route, status: status.as_u16() }).inc();
    }

    pub(crate) fn tokens(&self, model: &str, usage: &Usage) {
        for (kind, count) in [("prompt", usage.prompt_tokens), ("completion", usage.completion_tokens)] {
            self.tokens.get_or_create(&TokenLabels { model: model.to_owned(), kind }).inc_by(count as u64);
        }
    }
}

impl HttpMetrics {
    /// Counts a model request that a quota refused. Tenants are those of the configuration.
    pub(crate) fn refused(&self, limit: Limit, tenant: Option<&str>) {
        let labels = RefusalLabels { limit: limit.as_str(), tenant: tenant.unwrap_or_default().to_owned() };
        self.refusals.get_or_create(&labels).inc();
    }
}

pub(super) async fn scrape(State(state): State<AppState>, Extension(cx): Extension<Context>) -> Response {
    let queues = match state.engine.store() {
        Ok(store) => store.queues(&cx).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "queues are missing from this scrape");
            Vec::new()
        }),
        Err(_) => Vec::new(),
    };
    let (line, wakeups) = match state.engine.store() {
        // What a Store does not have is missing from the scrape.
        Ok(store) => (store.load(&cx).await.ok(), store.info(&cx).await.ok()),
        Err(_) => (None, None),
    };
    let line = line.map(|history| state.options.ceiling.measure(&history));
    let wakeups = wakeups.map(|info| info.wakeups);
    let calls = state.options.metrics.as_ref().map(|metrics| metrics.snapshot()).unwrap_or_default();
    let load = state.engine.scheduler().ok().map(Scheduler::load);
    let HttpMetrics { requests, seconds, tokens, refusals } = state.metrics.clone();
    let mut registry = Registry::with_prefix("selvedge");
    registry.register("http_requests", "Requests answered", requests);
    registry.register_with_unit("http_request_duration", "Time to the start of an answer", Unit::Seconds, seconds);
    registry.register("model_tokens", "Tokens read and generated", tokens);
    registry.register("quota_refusals", "Model requests that a quota refused", refusals);
    registry.register_collector(Box::new(Scrape(Arc::new(Snapshot { queues, line, wakeups, calls, load }))));
    let mut text = String::new();
    if let Err(error) = encode(&mut text, &registry) {
        let _ = write!(text, "# {error}\n# EOF\n");
    }
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

/// What others count, at the moment of a scrape.
#[derive(Debug)]
struct Scrape(Arc<Snapshot>);

#[derive(Debug)]
struct Snapshot {
    queues: Vec<QueueStats>,
    line: Option<QueueLoad>,
    wakeups: Option<Wakeups>,
    calls: std::collections::BTreeMap<&'static str, CallStats>,
    load: Option<Load>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Snapshot { queues, line, wakeups, calls, load } = &*self.0;
        let mut jobs = encoder.encode_descriptor("queue_jobs", "Jobs by state", None, MetricType::Gauge)?;
        for queue in queues {
            let states = [
                ("ready", queue.ready),
                ("scheduled", queue.scheduled),
                ("running", queue.running),
                ("dead", queue.dead),
            ];
            for (state, count) in states {
                let tenant = queue.tenant.as_deref().unwrap_or_default();
                let labels = [("queue", queue.queue.as_str()), ("tenant", tenant), ("state", state)];
                ConstGauge::new(count as i64).encode(jobs.encode_family(&labels)?)?;
            }
        }
        let mut ages = encoder.encode_descriptor(
            "queue_oldest",
            "How long the oldest ready job waits",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for queue in queues {
            let labels = [("queue", queue.queue.as_str()), ("tenant", queue.tenant.as_deref().unwrap_or_default())];
            ConstGauge::new(queue.oldest.as_secs_f64()).encode(ages.encode_family(&labels)?)?;
        }
        if let Some(line) = line {
            encode_line(&mut encoder, line)?;
        }
        if let Some(wakeups) = wakeups {
            let help = "How waiters learn of other processes' commits: 1 for the way that goes now";
            let mut modes = encoder.encode_descriptor("store_wakeups", help, None, MetricType::Gauge)?;
            for mode in Wakeups::ALL {
                let labels = [("mode", mode.as_str())];
                ConstGauge::new(i64::from(mode == *wakeups)).encode(modes.encode_family(&labels)?)?;
            }
        }
        if let Some(load) = load {
            encode_scheduler(&mut encoder, load)?;
        }
        let mut times =
            encoder.encode_descriptor("call_duration", "Plugin calls", Some(&Unit::Seconds), MetricType::Histogram)?;
        for (operation, stats) in calls {
            let bounds = CallStats::BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(stats.buckets).collect();
            let labels = [("operation", *operation)];
            times.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                stats.time.as_secs_f64(),
                stats.calls,
                &buckets,
                None,
            )?;
        }
        let mut errors =
            encoder.encode_descriptor("call_errors", "Plugin calls that failed", None, MetricType::Counter)?;
        for (operation, stats) in calls {
            for (kind, count) in &stats.errors {
                ConstCounter::new(*count)
                    .encode(errors.encode_family(&[("operation", *operation), ("kind", *kind)])?)?;
            }
        }
        Ok(())
    }
}

/// How far the queue is from its ceiling. A rate that is not known is left out, rather than shown as none.
fn encode_line(encoder: &mut DescriptorEncoder<'_>, line: &QueueLoad) -> Result<(), std::fmt::Error> {
    let over = line.over_for.as_secs_f64();
    for (name, help, unit, value) in [
        ("queue_rate", "Jobs enqueued a second, over the last minute", None, line.rate),
        ("queue_ceiling", "Jobs a second that the Store is meant to take at most", None, Some(line.ceiling)),
        (
            "queue_over_ceiling",
            "How long the rate has been near the ceiling or above",
            Some(&Unit::Seconds),
            line.rate.map(|_| over),
        ),
    ] {
        if let Some(value) = value {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)?;
        }
    }
    Ok(())
}

/// What runs and waits of each class.
fn encode_scheduler(encoder: &mut DescriptorEncoder<'_>, load: &Load) -> Result<(), std::fmt::Error> {
    for (name, help, value) in [
        ("scheduler_running", "Model requests that run", (|class| class.running as i64) as fn(ClassLoad) -> i64),
        ("scheduler_waiting", "Model requests that wait", |class| class.waiting as i64),
    ] {
        let mut gauges = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for class in Class::ALL {
            let labels = [("class", class.to_string())];
            ConstGauge::new(value(load.of(class))).encode(gauges.encode_family(&labels)?)?;
        }
    }
    let help = "Model requests turned away";
    let mut refused = encoder.encode_descriptor("scheduler_refused", help, None, MetricType::Counter)?;
    for class in Class::ALL {
        let labels = [("class", class.to_string())];
        ConstCounter::new(load.of(class).refused).encode(refused.encode_family(&labels)?)?;
    }
    Ok(())
}
