//! `selvedge batch`.

use std::{io::Read, path::Path, process::ExitCode, time::Duration};

use futures_util::TryStreamExt;
use selvedge::{
    Context, Error, ErrorKind, Result,
    batch::{Endpoint, Status},
};
use selvedge_http::{BatchObject, Batches, NewBatch};

use super::{block_on, serve::batch_options, store};
use crate::{
    arguments::{Batch, BatchCommand},
    config::Config,
    output,
};

/// How often it looks while it waits.
const LOOK: Duration = Duration::from_millis(500);

/// Exits with 1 when a batch that was submitted or waited for did not complete.
pub(crate) fn run(mut config: Config, options: Batch) -> Result<ExitCode> {
    config.store.replace(options.store);
    block_on(async {
        let store = match options.command {
            BatchCommand::Submit { .. } => store::open(&config.store).await?,
            _ => store::open_existing(&config.store).await?,
        };
        let batches = Batches::new(selvedge::builder().store(store).build(), batch_options(&config));
        let cx = match options.tenant {
            Some(tenant) => Context::new().with_tenant(tenant),
            None => Context::new(),
        };
        command(&batches, &cx, options.command, options.json).await
    })
}

async fn command(batches: &Batches, cx: &Context, command: BatchCommand, as_json: bool) -> Result<ExitCode> {
    let batch = match command {
        BatchCommand::Submit { file, endpoint, window, wait } => {
            let endpoint = endpoint.parse::<Endpoint>()?;
            let id = upload(batches, cx, &file).await?;
            let new = NewBatch { completion_window: window, ..NewBatch::new(id, endpoint) };
            let batch = batches.create(cx, new).await?;
            if wait { over(batches, cx, batch).await? } else { batch }
        }
        BatchCommand::Status { id, wait } => {
            let batch = batches.batch(cx, &id).await?;
            if wait { over(batches, cx, batch).await? } else { batch }
        }
        BatchCommand::Output { id, errors } => {
            print(batches, cx, &id, errors).await?;
            return Ok(ExitCode::SUCCESS);
        }
        BatchCommand::Cancel { id } => batches.cancel(cx, &id).await?,
        BatchCommand::List { limit } => {
            list(&batches.batches(cx, None, limit).await?.0, as_json)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    show(&batch, as_json)?;
    Ok(if matches!(batch.status, Status::Failed | Status::Expired) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn upload(batches: &Batches, cx: &Context, file: &Path) -> Result<String> {
    let failed = |error: std::io::Error| {
        let kind =
            if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::InvalidInput };
        Error::new(kind, "cli.batch", "the file cannot be read").with("file", file.display()).caused_by(error)
    };
    let (name, mut input): (_, Box<dyn Read + Send>) = if file == Path::new("-") {
        ("stdin.jsonl".into(), Box::new(std::io::stdin()))
    } else {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (name, Box::new(std::fs::File::open(file).map_err(failed)?))
    };
    let mut upload = batches.upload();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match input.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => upload.push(cx, &buffer[..read]).await?,
        }
    }
    Ok(upload.finish(cx, &name, "batch").await?.id)
}

async fn over(batches: &Batches, cx: &Context, mut batch: BatchObject) -> Result<BatchObject> {
    let mut told = None;
    while !batch.status.is_final() {
        let counts = batch.request_counts;
        if told != Some(counts) {
            output::note(&format!(
                "{}: {} of {} answered, {} failed",
                batch.id, counts.completed, counts.total, counts.failed
            ));
            told = Some(counts);
        }
        tokio::time::sleep(LOOK).await;
        batch = batches.batch(cx, &batch.id).await?;
    }
    Ok(batch)
}

async fn print(batches: &Batches, cx: &Context, id: &str, errors: bool) -> Result<()> {
    // A batch that has none yet is no error, but one that is not there is.
    batches.batch(cx, id).await?;
    let file = format!("file-{}-{}", id.trim_start_matches("batch_"), if errors { "errors" } else { "output" });
    let mut content = match batches.content(cx, &file).await {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    while let Some(lines) = content.try_next().await? {
        output::print(&String::from_utf8_lossy(&lines))?;
    }
    Ok(())
}

fn show(batch: &BatchObject, as_json: bool) -> Result<()> {
    if as_json {
        return output::json(batch);
    }
    let optional = |id: &Option<String>| id.clone().unwrap_or_else(|| "-".into());
    let counts = batch.request_counts;
    let rows = [
        ("batch", batch.id.clone()),
        ("status", batch.status.to_string()),
        ("endpoint", batch.endpoint.to_string()),
        ("requests", format!("{} of {} answered, {} failed", counts.completed, counts.total, counts.failed)),
        ("tokens", format!("{} read, {} written", batch.usage.input_tokens, batch.usage.output_tokens)),
        ("resumed", format!("{} answers, {} tokens", batch.resumed.requests, batch.resumed.tokens)),
        ("output", optional(&batch.output_file_id)),
        ("errors", optional(&batch.error_file_id)),
    ];
    let mut text: String = rows.iter().map(|(name, value)| format!("{name:13} {value}\n")).collect();
    for flaw in batch.errors.iter().flat_map(|errors| &errors.data) {
        let place = flaw.line.map_or_else(|| "file".into(), |line| format!("line {line}"));
        text.push_str(&format!("{place:13} {} ({})\n", flaw.message, flaw.code));
    }
    output::print(&text)
}

fn list(batches: &[BatchObject], as_json: bool) -> Result<()> {
    if as_json {
        return batches.iter().try_for_each(output::json);
    }
    let rows: Vec<_> = batches
        .iter()
        .map(|batch| {
            let counts = batch.request_counts;
            [
                batch.id.clone(),
                batch.status.to_string(),
                batch.endpoint.to_string(),
                format!("{}/{}", counts.completed, counts.total),
                counts.failed.to_string(),
            ]
        })
        .collect();
    output::table(["id", "status", "endpoint", "answered", "failed"], &rows)
}
