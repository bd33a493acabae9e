//! A corrupted model is a typed error and never ends the process.
//!
//! Corrupted files are opened, and asked for answers, in child processes, so that the end of one is seen and names what
//! was changed. `SELVEDGE_FLIPS` says how many random bit flips an architecture gets in the long run, `SELVEDGE_SEED`
//! where they begin.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;
#[path = "support/tiny.rs"]
mod tiny;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use selvedge_core::{
    Context, Error, ErrorKind, Inference,
    inference::{Generate, Message, Predict, Sampling},
};
use selvedge_llama::Llama;
use sha2::{Digest, Sha256};
use tiny::{ARCHITECTURES, Gguf, Random, Value};

/// A child that says nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(60);

/// Takes what was done to a file, and what makes its bytes.
type Each<'e> = &'e mut dyn FnMut(String, &dyn Fn() -> Vec<u8>);

/// The real model, whose header is longer than that of any tiny one.
const REAL: &str = "real";

/// Every systematic change of a model, then random bit flips.
fn corrupted(architecture: &str, flips: usize, seed: u64, each: Each<'_>) {
    if architecture == REAL {
        let bytes = fs::read(support::model()).unwrap();
        return flipped(REAL, &bytes, 2_000_000, flips, seed, each);
    }
    let whole = tiny::model(architecture);
    let mut add = |what: String, changed: &Gguf| each(format!("{architecture}: {what}"), &|| changed.write().0);
    for (index, (key, value)) in whole.values.iter().enumerate() {
        let mut changed = whole.clone();
        changed.values.remove(index);
        add(format!("{key} removed"), &changed);
        for other in others(value) {
            let mut changed = whole.clone();
            let shown = format!("{other:.60?}");
            changed.values[index].1 = other;
            add(format!("{key} = {}", shown.chars().take(80).collect::<String>()), &changed);
        }
    }
    for (key, value) in additions(architecture) {
        let mut changed = whole.clone();
        changed.values.retain(|(known, _)| *known != key);
        let shown = format!("{value:?} added as {key}");
        changed.values.push((key, value));
        add(shown, &changed);
    }
    for index in 0..whole.tensors.len() {
        let name = &whole.tensors[index].name;
        let mut change = |what: &str, by: &dyn Fn(&mut Gguf)| {
            let mut changed = whole.clone();
            by(&mut changed);
            add(format!("{name} {what}"), &changed);
        };
        change("removed", &|file| drop(file.tensors.remove(index)));
        change("twice", &|file| file.tensors.push(file.tensors[index].clone()));
        change("renamed", &|file| file.tensors[index].name.insert(0, 'x'));
        change("in a block beyond the last", &|file| file.tensors[index].name = "blk.7.attn_q.weight".into());
        change("turned", &|file| file.tensors[index].shape.reverse());
        change("with one more dimension", &|file| file.tensors[index].shape.insert(0, 1));
        change("without a dimension", &|file| file.tensors[index].shape.truncate(1));
        change("half as long", &|file| file.tensors[index].shape[0] /= 2);
        change("of no length", &|file| file.tensors[index].shape[0] = 0);
        change("longer than memory", &|file| file.tensors[index].shape[0] = 1 << 62);
        for kind in [1, 2, 8, 9, 12, 15, 24, 26, 27, 28, 30, 99] {
            change(&format!("of type {kind}"), &|file| {
                let tensor = &mut file.tensors[index];
                tensor.kind = kind;
                let bytes = tensor.shape.iter().product::<u64>() * 8;
                tensor.data.resize(bytes as usize, 0);
            });
        }
        change("of no number", &|file| file.tensors[index].data.fill(0xFF));
        change("of infinities", &|file| {
            let infinite = f32::INFINITY.to_le_bytes();
            file.tensors[index].data.chunks_mut(4).for_each(|bytes| bytes.copy_from_slice(&infinite));
        });
    }
    let (bytes, header) = whole.write();
    flipped(architecture, &bytes, header, flips, seed, each);
}

/// A file with one bit among the first `most` bytes flipped, again and again.
fn flipped(name: &str, bytes: &[u8], most: usize, flips: usize, seed: u64, each: Each<'_>) {
    let mut random = Random(seed);
    for _ in 0..flips {
        let (at, bit) = (random.below(most), random.below(8));
        each(format!("{name}: bit {bit} of byte {at} flipped"), &|| {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << bit;
            changed
        });
    }
}

/// Values to put in the place of one: of another type, empty, the least, the most.
fn others(value: &Value) -> Vec<Value> {
    let mut others = vec![
        Value::Text(b"oddly".to_vec()),
        Value::U64(1 << 40),
        Value::I32(-1),
        Value::F32s(Vec::new()),
        Value::I32s(vec![-1; 3]),
        Value::Texts(vec![Vec::new(); 2]),
    ];
    match value {
        Value::U32(value) => {
            others.extend([0, 1, 3, 5, value.wrapping_sub(1), value + 1, value * 2, 1 << 20, u32::MAX].map(Value::U32))
        }
        Value::F32(value) => others.extend([0.0, -value, 1e38, 1e-38, f32::NAN, f32::INFINITY].map(Value::F32)),
        Value::Bool(value) => others.push(Value::Bool(!value)),
        Value::Text(_) => {
            for text in [
                &b""[..],
                b"\xFF\xFE",
                b"a\0b",
                b"{{",
                b"llama",
                b"gpt2",
                b"bert",
                b"t5",
                b"rwkv",
                b"none",
                b"yarn",
                b"longrope",
                b"phi-3",
                b"llama-bpe",
                b"gemma4",
                b"default",
            ] {
                others.push(Value::Text(text.to_vec()));
            }
        }
        Value::Texts(texts) => {
            for length in [0, 1, texts.len() / 2, texts.len() - 1] {
                others.push(Value::Texts(texts[..length].to_vec()));
            }
            for text in [&b""[..], b"a", b"t", b"\xFF", b"a\0b", b" ", b"a b", b"[EMPTY_3]", b"<0x"] {
                for at in [0, 1, texts.len() - 1] {
                    let mut changed = texts.clone();
                    changed[at] = text.to_vec();
                    others.push(Value::Texts(changed));
                }
            }
            others.push(Value::Texts(vec![b"same".to_vec(); texts.len()]));
        }
        Value::I32s(values) => {
            for value in [-1, 0, 2, 3, 4, 5, 6, 7, i32::MAX] {
                others.push(Value::I32s(vec![value; values.len()]));
            }
            others.push(Value::I32s(values[1..].to_vec()));
        }
        Value::F32s(values) => {
            for value in [f32::NAN, f32::INFINITY, 0.0] {
                others.push(Value::F32s(vec![value; values.len()]));
            }
            others.push(Value::F32s(values[1..].to_vec()));
        }
        Value::U64(_) | Value::I32(_) => {}
    }
    others
}

/// Values that a model may have and these do not.
fn additions(architecture: &str) -> Vec<(String, Value)> {
    let of = |key: &str, value: Value| (format!("{architecture}.{key}"), value);
    let mut all = vec![
        ("general.alignment".to_owned(), Value::U32(0)),
        ("general.alignment".to_owned(), Value::U32(3)),
        ("general.alignment".to_owned(), Value::U64(32)),
        ("general.alignment".to_owned(), Value::U32(1 << 31)),
        ("general.quantization_version".to_owned(), Value::U32(9)),
        ("general.type".to_owned(), tiny::text("adapter")),
        ("split.count".to_owned(), Value::U32(3)),
        ("tokenizer.ggml.add_eos_token".to_owned(), Value::Bool(true)),
        ("tokenizer.ggml.add_sep_token".to_owned(), Value::Bool(true)),
        ("tokenizer.ggml.add_space_prefix".to_owned(), Value::Bool(true)),
        ("tokenizer.ggml.eot_token_id".to_owned(), Value::U32(1 << 30)),
        ("tokenizer.ggml.token_type_count".to_owned(), Value::U32(0)),
        ("tokenizer.ggml.suppress_tokens".to_owned(), Value::I32s(vec![-5, 1 << 30])),
        of("rope.scaling.original_context_length", Value::U32(0)),
        of("rope.scaling.attn_factor", Value::F32(f32::NAN)),
        of("attention.scale", Value::F32(0.0)),
        of("logit_scale", Value::F32(0.0)),
        of("attn_logit_softcapping", Value::F32(0.0)),
        of("final_logit_softcapping", Value::F32(f32::NAN)),
        of("attention.sliding_window_pattern", Value::I32s(vec![1; 900])),
        of("rope.freq_base_swa", Value::F32(0.0)),
        of("attention.max_alibi_bias", Value::F32(8.0)),
        of("attention.clamp_kqv", Value::F32(1.0)),
        of("rope.dimension_sections", Value::I32s(vec![1; 4])),
        of("attention.temperature_scale", Value::F32(0.1)),
        of("attention.causal", Value::Bool(false)),
        of("use_parallel_residual", Value::Bool(true)),
        of("embedding_length_out", Value::U32(1 << 30)),
        of("classifier.output_labels", Value::Texts(vec![b"a".to_vec()])),
    ];
    for key in [
        "expert_count",
        "expert_used_count",
        "expert_group_count",
        "nextn_predict_layers",
        "pooling_type",
        "attention.key_length_swa",
        "rope.dimension_count_swa",
        "attention.sliding_window_pattern",
        "expert_shared_feed_forward_length",
        "leading_dense_block_count",
        "embedding_length_out",
        "vocab_size",
        "attention.layer_norm_epsilon",
        "dense_2_feat_out",
    ] {
        all.extend([0, 1, 2, 8, u32::MAX].map(|value| of(key, Value::U32(value))));
    }
    all
}

/// Opens a file and asks for everything; how that went.
fn try_out(path: &Path) -> Result<(), Error> {
    let llama = Llama::builder(path).threads(1).context_length(32).batch(16).open()?;
    let cx = Context::new().with_timeout(Duration::from_secs(20));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let sampling = Sampling { temperature: 1.0, top_k: 5, top_p: 0.9, min_p: 0.01, seed: 1 };
        let text = Generate::text("tea é\n\u{1}").max_tokens(3);
        llama.generate(&cx, text.clone()).await?.collect().await?;
        llama.generate(&cx, text.sampling(sampling)).await?.collect().await?;
        if llama.capabilities().chat {
            // A template that cannot be applied is no fault of the rest.
            let chat = Generate::chat([Message::user("tea")]).max_tokens(1);
            match llama.generate(&cx, chat).await {
                Ok(answer) => drop(answer.collect().await?),
                Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::TooLarge) => {}
                Err(error) => return Err(error),
            }
        }
        llama.embed(&cx, vec!["tea".into()]).await?;
        Ok(())
    })
}

/// The child: opens one corrupted file after another and says which, before and after.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn child() {
    let Ok(job) = std::env::var("SELVEDGE_CORRUPTED") else { return };
    let job: Vec<&str> = job.split(' ').collect();
    let number = |index: usize| job[index].parse::<usize>().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let say = |line: String| {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).unwrap();
    };
    let (first, step, mut index) = (number(3), number(4), 0);
    corrupted(job[0], number(1), number(2) as u64, &mut |_, bytes| {
        if index >= first && (index - first).is_multiple_of(step) {
            say(format!("@begin {index}"));
            fs::write(&path, bytes()).unwrap();
            match try_out(&path) {
                Ok(()) => say("@fine".into()),
                Err(error) => say(format!("@error {:?} {} {error}", error.kind(), error.advice().is_some())),
            }
        }
        index += 1;
    });
    say("@end".into());
}

/// Runs all corrupted files of an architecture, every `step`th of them from `first`; what went wrong, and how many were
/// refused.
fn run(architecture: &str, flips: usize, seed: u64, first: usize, step: usize) -> (Vec<String>, usize) {
    let mut names = Vec::new();
    corrupted(architecture, flips, seed, &mut |name, _| names.push(name));
    let (mut faults, mut refused, mut next) = (Vec::new(), 0, first);
    while next < names.len() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads", "1"])
            .env("SELVEDGE_CORRUPTED", format!("{architecture} {flips} {seed} {next} {step}"))
            // When llama.cpp ends the process, no debugger shall look at it first.
            .env("GGML_NO_BACKTRACE", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the test program starts itself");
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let stderr = std::thread::spawn(move || stderr.lines().map_while(Result::ok).collect::<Vec<_>>());
        let (mut at, mut ended) = (next, false);
        loop {
            let line = match lines.recv_timeout(SILENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    faults.push(format!("{} hangs", names[at]));
                    child.kill().unwrap();
                    break;
                }
            };
            // The harness may write the test's name on the same line.
            let Some((_, line)) = line.split_once('@') else { continue };
            if let Some(index) = line.strip_prefix("begin ") {
                at = index.parse().unwrap();
            } else if let Some(error) = line.strip_prefix("error ") {
                refused += 1;
                let typed = ["Damaged true", "Unsupported true", "InvalidInput true"];
                if !typed.iter().any(|kind| error.starts_with(kind)) {
                    faults.push(format!("{}: {error}", names[at]));
                }
            } else if line == "end" {
                ended = true;
            }
        }
        let status = child.wait().unwrap();
        let said = stderr.join().unwrap();
        if ended && status.success() {
            break;
        }
        let last = said
            .iter()
            .rev()
            .find(|line| line.contains("GGML") || line.contains("what()") || line.contains("panicked"));
        faults.push(format!("{} ends the process: {status} {}", names[at], last.map_or("", String::as_str)));
        next = at + step;
    }
    (faults, refused)
}

/// Every `step`th corrupted file of every architecture, two at a time; an error with everything that went wrong.
fn run_all(flips: usize, step: usize) {
    let seed = std::env::var("SELVEDGE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    let names: Vec<&str> = ARCHITECTURES.into_iter().chain([REAL]).collect();
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((index, name)) = Some(next.fetch_add(1, Relaxed)).and_then(|at| Some((at, *names.get(at)?))) {
            // The real model takes long to open.
            let step = if name == REAL { step.min(flips / 5).max(1) } else { step };
            let (found, refused) = run(name, flips, seed, index % step, step);
            let mut faults = faults.lock().unwrap();
            faults.extend(found);
            if refused == 0 {
                faults.push(format!("nothing was wrong with any corrupted {name}"));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} of the corrupted models:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn whole_models_of_every_checked_architecture_open_and_answer() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in ARCHITECTURES {
        let path = folder.path().join(format!("{architecture}.gguf"));
        fs::write(&path, tiny::model(architecture).write().0).unwrap();
        try_out(&path).unwrap_or_else(|error| panic!("{architecture}: {error}"));
    }
}

#[test]
fn some_corrupted_models_end_no_process() {
    run_all(20, 53);
}

#[test]
#[ignore = "takes minutes: every change of every architecture"]
fn no_corrupted_model_ends_the_process() {
    let flips = std::env::var("SELVEDGE_FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(500);
    run_all(flips, 1);
}

#[test]
fn weights_that_are_no_numbers_are_an_error_of_every_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    let mut broken = tiny::model("llama");
    let norm = broken.tensors.iter_mut().find(|tensor| tensor.name == "blk.1.ffn_norm.weight").unwrap();
    norm.data[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, broken.write().0).unwrap();
    let llama = Llama::builder(&path).threads(1).open().expect("its header is whole");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let cx = Context::new();
    let sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };
    for sampling in [Sampling::GREEDY, sampling] {
        let request = Generate::text("tea").max_tokens(3).sampling(sampling);
        let answer = runtime.block_on(async { llama.generate(&cx, request).await?.collect().await });
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Damaged);
    }
    let prediction = runtime.block_on(llama.predict(&cx, Predict { context: vec![5, 6], top: 3 }));
    assert_eq!(prediction.unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(runtime.block_on(llama.embed(&cx, vec!["tea".into()])).unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn a_layout_that_is_not_checked_needs_the_digest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("unheard.gguf");
    let (mut unheard, _) = tiny::model("smollm3").write();
    // As long as the name it replaces, so that every length stays right.
    while let Some(at) = unheard.windows(7).position(|bytes| bytes == b"smollm3") {
        unheard[at..at + 7].copy_from_slice(b"unheard");
    }
    fs::write(&path, &unheard).unwrap();
    let error = Llama::builder(&path).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.advice().unwrap().contains("digest"), "{error}");
    // With its digest llama.cpp itself is asked, which does not know it either.
    let digest = Sha256::digest(&unheard).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let error = Llama::builder(&path).sha256(digest).open().unwrap_err();
    assert!(error.to_string().contains("llama.cpp cannot read this model"), "{error}");
}
