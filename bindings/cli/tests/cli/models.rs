//! `selvedge model` on the real model.

use crate::support::{model, with};

#[test]
fn a_prepared_model_generates_and_the_doctor_has_nothing_to_say_of_its_format() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("smol.gguf");
    let said = with(["model", "prepare", model().to_str().unwrap(), "--output", to.to_str().unwrap(), "--json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let prepared = said.json();
    assert_eq!((&prepared["from"], &prepared["to"]), (&"llama 135M Q4_1".into(), &"llama 135M Q4_0".into()));
    let sha256 = prepared["sha256"].as_str().unwrap();
    let start =
        ["generate", "--model", to.to_str().unwrap(), "--sha256", sha256, "--max-tokens", "20", "--threads", "1"];
    let said = with(start.iter().chain(&["--prompt", "What is the capital of France?"]));
    assert!(said.out.contains("Paris"), "{said:?}");
}

#[test]
fn a_model_that_cannot_be_prepared_is_named_with_what_to_do() {
    let model = model();
    let path = model.to_str().unwrap();
    for (arguments, part) in [
        (["model", "prepare", "gone.gguf", "--output", "new.gguf"], "gone.gguf"),
        (["model", "prepare", path, "--output", path], "name another file"),
        (["model", "prepare", path, "--output", "no/folder.gguf"], "no/folder.gguf"),
    ] {
        let said = with(arguments);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains(part), "{said:?}");
    }
}
