//! `selvedge serve`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use selvedge::{
    AnyScheduler, AnyStore, CancelToken, Context, Engine, Error, ErrorKind, Result,
    allowance::Allowance,
    layers::{Metrics, Spans},
    store::{Maintain, Retention},
};
use selvedge_http::{ApiKey, BatchOptions, Batches, ServerOptions, router, serve};
use tokio::net::TcpListener;

use super::{
    block_on, open_model,
    placements::Placements,
    store::{self, Place},
};
use crate::{
    arguments,
    config::{Config, Key, Model, Quotas, days},
    output,
};

pub(crate) fn run(mut config: Config, path: Option<PathBuf>, flags: arguments::Serve) -> Result<()> {
    if let Some(address) = flags.address {
        config.server.address = address;
    }
    config.store.replace(flags.store);
    if !flags.model.is_empty() {
        config.models = flags.model.into_iter().map(Model::at).collect();
    }
    let metrics = Metrics::new();
    let mut options = options(&config, metrics.clone())?;
    if options.keys.is_empty() && !config.server.address.ip().is_loopback() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "cli.serve",
            "other machines can reach this address, and there are no API keys",
        )
        .with("server.address", config.server.address)
        .advise("add keys to [server] in the configuration, or listen on 127.0.0.1"));
    }
    if let Some(path) = path {
        tracing::info!(file = %path.display(), "configured");
    }
    block_on(async {
        let store = store::open(&config.store).await?;
        let placements = Placements::open(&config.experiments, store.clone())?;
        let engine = engine(&config, store, placements.as_ref(), metrics).await?;
        if let Some(placements) = placements {
            options.config = Some(placements.served.clone());
            options.experiments = Some(placements.experiments.clone());
            tokio::spawn(placements.follow());
        }
        listen(&config, engine, options).await
    })
}

async fn engine(config: &Config, store: AnyStore, placements: Option<&Placements>, metrics: Metrics) -> Result<Engine> {
    let scheduler = config.scheduler.build()?;
    let mut builder = selvedge::builder().store(store).scheduler(scheduler.clone());
    if let Some(placements) = placements {
        builder = builder.experiment(placements.experiments.clone());
    }
    if let Some(quotas) = store::quotas(&config.quotas).await? {
        builder = builder.quotas(quotas);
    }
    for (index, model) in config.models.iter().enumerate() {
        // What a pass takes is learnt, and differs from model to model: each has a planner of its own.
        let planner = if index == 0 { scheduler.clone() } else { config.scheduler.build()? };
        let sequences = model.sequences.unwrap_or(config.scheduler.concurrency);
        let model = Model { sequences: Some(sequences), ..model.clone() };
        builder = builder.model(open_model(&model, Some(AnyScheduler::new(planner)))?);
    }
    Ok(builder.layer(Spans).layer(metrics).build())
}

fn options(config: &Config, metrics: Metrics) -> Result<ServerOptions> {
    Ok(ServerOptions {
        keys: config.server.keys.iter().map(|key| api_key(key, &config.quotas)).collect::<Result<_>>()?,
        tenants: tenants(config),
        body_limit: config.server.body_limit_bytes.get(),
        timeout: config.server.timeout_seconds.get(),
        max_tokens: config.server.max_tokens.get(),
        intents: config.intents.queues.clone(),
        intent_attempts: config.intents.attempts.get(),
        hold: config.intents.hold_seconds.get(),
        wait: config.intents.wait_seconds.get(),
        retention: days(config.intents.keep_days),
        ceiling: config.store.ceiling(),
        batch: batch_options(config),
        config: None,
        experiments: None,
        metrics: Some(metrics),
    })
}

/// The limits of tenants. One that no key has is most likely a slip.
fn tenants(config: &Config) -> BTreeMap<String, Allowance> {
    let known = |tenant: &String| config.server.keys.iter().any(|key| key.tenant.as_ref() == Some(tenant));
    for tenant in config.tenants.keys().filter(|tenant| !known(tenant)) {
        tracing::warn!(tenant, "there are limits for a tenant to which no key belongs");
    }
    config.tenants.iter().map(|(name, tenant)| (name.clone(), tenant.allowance(&config.quotas))).collect()
}

pub(super) fn batch_options(config: &Config) -> BatchOptions {
    let batch = &config.batch;
    BatchOptions {
        concurrency: batch.concurrency.get(),
        checkpoint_tokens: batch.checkpoint_tokens.get(),
        checkpoint_every: batch.checkpoint_seconds.get(),
        hold: batch.hold_seconds.get(),
        drain: config.server.drain_seconds.get(),
        attempts: batch.attempts.get(),
        file_limit: batch.file_limit_bytes.get(),
        requests: batch.requests.get(),
        request_limit: config.server.body_limit_bytes.get(),
        retention: days(config.store.keep_messages_days),
        max_tokens: config.server.max_tokens.get(),
        tenants: config.tenants.iter().map(|(name, one)| (name.clone(), one.batch.allowance(&config.quotas))).collect(),
    }
}

fn api_key(key: &Key, quotas: &Quotas) -> Result<ApiKey> {
    let read = match (&key.key, &key.sha256) {
        (Some(secret), None) if !secret.is_empty() => ApiKey::secret(secret),
        (None, Some(digest)) => ApiKey::sha256(digest)?,
        _ => {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "cli.serve",
                "an API key is given by `key` or by `sha256`",
            )
            .with("key", "server.keys")
            .advise("give each entry exactly one of them"));
        }
    };
    let mut read = read.max_class(key.max_class).hold(quotas.concurrent_seconds.get());
    if let Some(most) = key.requests_per_minute {
        read = read.requests_per_minute(most.get());
    }
    if let Some(most) = key.tokens_per_minute {
        read = read.tokens_per_minute(most.get());
    }
    if let Some(most) = key.concurrent {
        read = read.concurrent(most.get());
    }
    Ok(match &key.tenant {
        Some(tenant) => read.tenant(tenant.as_str()),
        None => read,
    })
}

async fn listen(config: &Config, engine: Engine, options: ServerOptions) -> Result<()> {
    let listener = TcpListener::bind(config.server.address).await.map_err(|error| {
        Error::new(ErrorKind::Unavailable, "cli.serve", "the address cannot be listened on")
            .with("server.address", config.server.address)
            .caused_by(error)
            .advise("stop whoever listens there, or choose another with --address")
    })?;
    let address = listener.local_addr().unwrap_or(config.server.address);
    let housekeeping = tokio::spawn(maintain(config.clone(), engine.clone()));
    let store = Place::of(&config.store)?;
    let models: Vec<_> = engine.models().map(|(name, _)| name.to_owned()).collect();
    tracing::info!(%address, models = models.join(", "), %store, "serving");
    output::print(&format!("listening on http://{address}\n"))?;
    let stopping = CancelToken::new();
    let batches =
        config.batch.enabled.then(|| tokio::spawn(work(engine.clone(), options.batch.clone(), stopping.clone())));
    let told = {
        let stopping = stopping.clone();
        async move {
            stopped().await;
            stopping.cancel();
        }
    };
    let drained = serve(listener, router(engine, options), told, config.server.drain_seconds.get()).await?;
    stopping.cancel();
    if let Some(batches) = batches {
        // It gives back what it has within its own limit; a panic of it was told already.
        let _ = batches.await;
    }
    housekeeping.abort();
    if drained.unfinished > 0 {
        output::warn(&format!("requests cut off because they did not end in time: {}", drained.unfinished));
    }
    tracing::info!("stopped");
    Ok(())
}

/// Works on batches for as long as the server runs: an error of the Store that does not pass is told, and it is tried again.
async fn work(engine: Engine, options: BatchOptions, stopping: CancelToken) {
    let batches = Batches::new(engine, options);
    let cx = Context::new().with_cancel(stopping.clone());
    while let Err(error) = batches.work(&cx).await {
        tracing::error!(%error, "batches are not worked on for the moment");
        let pause = tokio::time::sleep(std::time::Duration::from_secs(5));
        if stopping.until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// One tick of housekeeping after another, for as long as the server runs.
async fn maintain(config: Config, engine: Engine) {
    let store = &config.store;
    let retention = Retention {
        dead: days(store.keep_dead_days),
        messages: days(store.keep_messages_days),
        intents: days(store.keep_intents_days),
    };
    loop {
        if let Err(error) = engine.maintain(&Context::new(), Maintain { retention, ..Maintain::default() }).await {
            tracing::warn!(%error, "a tick of housekeeping failed; there will be another");
        }
        tokio::time::sleep(pause(store.maintain_seconds.get(), fastrand::f64())).await;
    }
}

/// How long after one tick the next one comes, for `jitter` from 0 to 1: servers that were started together, or that waited for one
/// another at the database, do not all come to it at one moment.
fn pause(period: Duration, jitter: f64) -> Duration {
    // A tick a millisecond at the most, whatever the configuration says.
    period.mul_f64(0.9 + 0.2 * jitter).max(Duration::from_millis(1))
}

/// Completes on Ctrl-C or SIGTERM. A second Ctrl-C does not wait for the rest.
async fn stopped() {
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        };
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = interrupted => (),
        () = terminated => (),
    }
    tracing::info!("draining");
    tokio::spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_come_about_as_often_as_the_configuration_says_and_not_in_step() {
        let second = Duration::from_secs(1);
        assert_eq!([0.0, 0.5, 1.0].map(|jitter| pause(second, jitter).as_millis()), [900, 1000, 1100]);
        assert_eq!(pause(Duration::ZERO, 1.0), Duration::from_millis(1));
    }
}
