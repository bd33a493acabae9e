//! `selvedge generate` on the real model.

use std::{io::Write, os::unix::ffi::OsStrExt, process::Stdio};

use serde_json::Value;

use crate::support::{Said, model, run, selvedge, with};

fn generate(arguments: &[&str]) -> Said {
    let model = model();
    let start = ["generate", "--model", model.to_str().unwrap(), "--max-tokens", "8", "--threads", "1"];
    with(start.iter().chain(arguments))
}

fn answer(arguments: &[&str]) -> Value {
    let said = generate(&[arguments, &["--json"]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    said.json()
}

#[test]
fn json_has_the_ids_the_text_the_timings_and_why_it_stopped() {
    let answer = answer(&["--prompt", "Once upon a time", "--raw"]);
    assert_eq!(answer["model"], "SmolLM2-135M-Instruct.Q4_1");
    assert_eq!(answer["raw"], true);
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 8);
    assert!(answer["tokens"].as_array().unwrap().iter().all(Value::is_u64), "{answer}");
    assert!(!answer["text"].as_str().unwrap().is_empty());
    assert_eq!(answer["stop_reason"], "max_tokens");
    assert_eq!((&answer["prompt_tokens"], &answer["completion_tokens"]), (&4.into(), &8.into()));
    for time in ["prefill_ms", "decode_ms", "tokens_per_second"] {
        assert!(answer[time].as_f64().unwrap() > 0.0, "{time}: {answer}");
    }
}

#[test]
fn the_chat_template_makes_a_longer_prompt_and_raw_leaves_it_out() {
    let [chat, raw] = [&[][..], &["--raw"]].map(|flags| answer(&[&["--prompt", "Name one tea."], flags].concat()));
    assert!(chat["prompt_tokens"].as_u64() > raw["prompt_tokens"].as_u64(), "{chat} {raw}");
    assert_ne!(chat["tokens"], raw["tokens"]);
    let told = answer(&["--prompt", "Name one tea.", "--system", "You are a pirate with much to say."]);
    assert_ne!(told["prompt_tokens"], chat["prompt_tokens"]);
}

#[test]
fn greedy_is_the_same_each_time_whatever_the_seed() {
    let ids = |seed: &str| {
        answer(&["--prompt", "The sea is", "--raw", "--temperature", "0", "--seed", seed])["tokens"].clone()
    };
    assert_eq!(ids("1"), ids("2"));
}

#[test]
fn a_seed_repeats_an_answer_and_seeds_differ() {
    let ids = |seed: &str| {
        answer(&["--prompt", "The sea is", "--raw", "--temperature", "1.2", "--seed", seed])["tokens"].clone()
    };
    let first = ids("7");
    assert_eq!(first, ids("7"));
    assert!(["8", "9", "10"].into_iter().any(|seed| ids(seed) != first), "no seed makes a difference");
}

#[test]
fn text_goes_to_stdout_and_the_account_to_stderr() {
    let said = generate(&["--prompt", "Once upon a time", "--raw"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.out.trim_end_matches('\n'), answer(&["--prompt", "Once upon a time", "--raw"])["text"]);
    assert!(said.err.contains("4 prompt tokens") && said.err.contains("tokens/s"), "{said:?}");
    assert!(!said.err.contains('\x1b') && !said.out.contains('\x1b'), "no colour off a terminal: {said:?}");
}

#[test]
fn a_stop_text_ends_the_answer_and_is_not_part_of_it() {
    let whole = answer(&["--prompt", "Once upon a time", "--raw"])["text"].as_str().unwrap().to_owned();
    let stop = whole.split_whitespace().nth(2).unwrap();
    let cut = answer(&["--prompt", "Once upon a time", "--raw", "--stop", stop]);
    assert_eq!(cut["stop_reason"], "stop_text");
    assert_eq!(cut["text"], whole[..whole.find(stop).unwrap()], "{whole}");
}

#[test]
fn the_prompt_may_come_from_stdin() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = selvedge(folder.path());
    command.args(["generate", "--prompt", "-", "--raw", "--json", "--max-tokens", "4", "--model"]).arg(model());
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(b"Once upon a time").unwrap();
    let output = process.wait_with_output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["prompt_tokens"], 4);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_lengths() {
    let said = generate(&["--prompt", &"word ".repeat(200), "--context-length", "64"]);
    said.failed(1, &["context", "64", "try: "]);
    assert_eq!(said.out, "");
}

#[test]
fn files_that_are_no_model_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tea.gguf");
    let path = file.to_str().unwrap();
    let ask = || with(["generate", "--prompt", "a", "--model", path]);
    ask().failed(1, &["tea.gguf", "try: "]);
    std::fs::write(&file, b"").unwrap();
    ask().failed(1, &["tea.gguf", "try: "]);
    std::fs::write(&file, b"this is no model at all, whatever its name says").unwrap();
    ask().failed(1, &["tea.gguf", "try: "]);
    let whole = std::fs::read(model()).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    ask().failed(1, &["tea.gguf", "try: "]);
    with(["generate", "--prompt", "a", "--model", folder.path().to_str().unwrap()]).failed(1, &["try: "]);
}

#[test]
fn a_digest_that_does_not_fit_is_refused() {
    generate(&["--prompt", "a", "--sha256", &"0".repeat(64)]).failed(1, &["expected: 0000", "digest"]);
    generate(&["--prompt", "a", "--sha256", "short"]).failed(1, &["short", "digest"]);
}

#[test]
fn arguments_out_of_range_are_refused() {
    for arguments in [
        &["--prompt", "a", "--temperature", "-1"][..],
        &["--prompt", "a", "--temperature", "NaN"],
        &["--prompt", "a", "--top-p", "2"],
        &["--prompt", "a", "--context-length", "0"],
        &["--prompt", ""],
    ] {
        let said = generate(&[arguments, if arguments == ["--prompt", ""] { &["--raw"] } else { &[] }].concat());
        said.failed(1, &["error: "]);
    }
    let path = model();
    let idle = with(["generate", "--prompt", "a", "--threads", "0", "--model", path.to_str().unwrap()]);
    idle.failed(1, &["threads"]);
    // What cannot be read at all is the command line's fault.
    generate(&["--prompt", "a", "--seed", "x"]).failed(2, &["--seed"]);
    generate(&[]).failed(2, &["--prompt"]);
}

#[test]
fn an_argument_that_is_not_utf8_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = selvedge(folder.path());
    command.args(["generate", "--model"]).arg(model());
    let said = run(command.arg("--prompt").arg(std::ffi::OsStr::from_bytes(b"tea\xff")));
    said.failed(2, &["UTF-8"]);
}
