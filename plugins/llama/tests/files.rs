//! Files that are no model, or are cut off, and settings that cannot be used are errors.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use selvedge_core::{ErrorKind, Inference};
use selvedge_llama::{Llama, Manifest};

fn kind(path: &Path) -> Option<ErrorKind> {
    let opened = Llama::builder(path).threads(1).context_length(32).open();
    opened.inspect_err(|error| assert!(error.advice().is_some(), "{error}")).err().map(|error| error.kind())
}

#[test]
fn what_is_no_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    assert_eq!(kind(&file), Some(ErrorKind::NotFound));
    assert_eq!(kind(folder.path()), Some(ErrorKind::InvalidInput));
    for (content, expected) in [
        (&b""[..], ErrorKind::Damaged),
        (b"GG", ErrorKind::Damaged),
        (b"GGUF", ErrorKind::Damaged),
        (b"PK\x03\x04 and so on, and so on", ErrorKind::Damaged),
        (b"GGUF\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", ErrorKind::Unsupported),
        (b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", ErrorKind::Damaged),
        (b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0", ErrorKind::Damaged),
    ] {
        fs::write(&file, content).unwrap();
        assert_eq!(kind(&file), Some(expected), "{content:?}");
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_damaged() {
    let whole = fs::read(support::model()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    let early = (0..200).map(|part| part * 9_973);
    let late = (1..20).map(|part| whole.len() / 20 * part);
    fs::write(&path, &whole).unwrap();
    let mut lengths: Vec<_> = early.chain(late).chain([whole.len() - 1]).collect();
    lengths.sort_unstable();
    for length in lengths.into_iter().rev() {
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
        assert_eq!(kind(&path), Some(ErrorKind::Damaged), "cut at {length}");
    }
}

#[test]
fn an_unknown_architecture_is_unsupported() {
    let mut model = fs::read(support::model()).unwrap();
    let key = b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama";
    let at = model.windows(key.len()).position(|bytes| bytes == key).expect("the model names its architecture");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.gguf");
    // gemma is known, and needs other numbers than this file has.
    for name in [b"lamma", b"bert\0", b"gemma", b"mamba", b"falco"] {
        model[at + key.len() - 5..at + key.len()].copy_from_slice(name);
        fs::write(&path, &model).unwrap();
        assert!(matches!(kind(&path), Some(ErrorKind::Unsupported | ErrorKind::Damaged)), "{name:?}");
    }
}

#[test]
fn a_digest_or_a_manifest_decides_which_file_is_opened() {
    let path = support::model();
    let wrong = "0".repeat(64);
    let error = Llama::builder(&path).sha256(&wrong).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let found = error.context().iter().find(|(name, _)| *name == "found").expect("the error names it").1.clone();
    assert!(error.to_string().contains(&wrong), "{error}");
    let llama = Llama::builder(&path).sha256(found.to_uppercase()).open().expect("it is the right file");
    assert_eq!(llama.model().sha256, found);

    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("model.json");
    let write = |manifest_of: Manifest| fs::write(&manifest, serde_json::to_vec(&manifest_of).unwrap()).unwrap();
    write(Manifest { file: path.clone(), sha256: found });
    let named = Llama::builder(&path).manifest(&manifest).name("tea").open().expect("the manifest fits");
    assert_eq!((named.model().name.as_str(), named.model().description.as_str()), ("tea", "llama 135M Q4_1"));
    write(Manifest { file: path.clone(), sha256: wrong });
    assert_eq!(Llama::builder(&path).manifest(&manifest).open().unwrap_err().kind(), ErrorKind::Damaged);
    write(Manifest { file: "model.json".into(), sha256: "0".repeat(64) });
    assert_eq!(Llama::builder(&path).manifest(&manifest).open().unwrap_err().kind(), ErrorKind::InvalidInput);
    fs::write(&manifest, "{").unwrap();
    assert_eq!(Llama::builder(&path).manifest(&manifest).open().unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    let builder = || Llama::builder(support::model());
    for wrong in [
        builder().threads(0),
        builder().threads(513),
        builder().batch(0),
        builder().context_length(0),
        builder().context_length(1 << 20),
        builder().sha256("abc"),
    ] {
        let error = wrong.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}
