//! `selvedge generate`.

use std::{io::Read, num::NonZeroUsize};

use selvedge::{
    Context, Error, ErrorKind, Inference, Result,
    inference::{Chunk, Generate, Generated, Message, Prompt, Sampling},
    priority::Priority,
};
use serde_json::json;

use super::{block_on, open_model};
use crate::{arguments, config::Model, output};

pub(crate) fn run(options: arguments::Generate) -> Result<()> {
    let scheduler = Priority::new(1, 1);
    let model = open_model(
        &Model {
            sha256: options.sha256.clone(),
            threads: positive("threads", options.threads)?,
            context_length: positive("context-length", options.context_length)?,
            ..Model::at(options.model.clone())
        },
        Some(selvedge::AnyScheduler::new(scheduler.clone())),
    )?;
    let name = model.model().name;
    let engine = selvedge::builder().scheduler(scheduler).model(model).build();
    let (raw, as_json) = (options.raw, options.json);
    let request = request(options)?;
    let generated = block_on(async {
        let cx = Context::new();
        let cancel = cx.cancel().clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                cancel.cancel();
            }
        });
        let mut running = engine.chat(&cx, None, request).await?;
        let mut all = Generated::default();
        while let Some(chunk) = running.next().await {
            match chunk? {
                Chunk::Tokens { symbols, text } => {
                    if !as_json {
                        output::print(&text)?;
                    }
                    all.symbols.extend(symbols);
                    all.text.push_str(&text);
                }
                Chunk::End { reason, usage } => {
                    all.reason = Some(reason);
                    all.usage = usage;
                }
            }
        }
        Ok(all)
    })?;
    let usage = &generated.usage;
    let (prefill, decode) = (usage.prefill.as_secs_f64() * 1e3, usage.decode.as_secs_f64() * 1e3);
    if as_json {
        return output::json(&json!({
            "model": name,
            "raw": raw,
            "tokens": generated.symbols,
            "text": generated.text,
            "stop_reason": generated.reason,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "prefill_ms": prefill,
            "decode_ms": decode,
            "tokens_per_second": usage.tokens_per_second(),
        }));
    }
    if output::stdout_is_terminal() || !generated.text.ends_with('\n') {
        output::print("\n")?;
    }
    output::note(&format!(
        "{} prompt tokens in {prefill:.0} ms · {} tokens in {decode:.0} ms · {:.1} tokens/s",
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.tokens_per_second(),
    ));
    Ok(())
}

fn request(options: arguments::Generate) -> Result<Generate> {
    let text = match options.prompt.as_str() {
        "-" => stdin()?,
        _ => options.prompt,
    };
    let prompt = if options.raw {
        Prompt::Text(text)
    } else {
        Prompt::Chat(options.system.map(Message::system).into_iter().chain([Message::user(text)]).collect())
    };
    let sampling =
        Sampling { temperature: options.temperature, top_p: options.top_p, seed: options.seed, ..Sampling::GREEDY };
    let request = Generate { stop: options.stop, ..Generate::new(prompt) };
    Ok(request.max_tokens(options.max_tokens).sampling(sampling))
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).map_err(|error| {
        Error::new(ErrorKind::InvalidInput, "cli.generate", "the prompt cannot be read from stdin").caused_by(error)
    })?;
    Ok(text)
}

fn positive(flag: &'static str, value: Option<usize>) -> Result<Option<NonZeroUsize>> {
    value
        .map(|value| {
            NonZeroUsize::new(value).ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, "cli.generate", "a flag must be 1 or more").with("flag", flag)
            })
        })
        .transpose()
}
