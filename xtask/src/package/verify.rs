//! `cargo xtask verify`: what was packed is what was meant, and an app can use it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::{GAPS, apple, copy_tree, folder, jvm, name, native, notices, unpack};
use crate::{
    language::{
        kotlin,
        swift::{Folders, Swift},
    },
    place, setup, shell,
};

/// A library without models, and with them.
const BUDGETS: [(&str, usize); 2] = [("without models", 4_000_000), ("with models", 12_000_000)];

/// What to verify.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Verify {
    /// The folder that `cargo xtask package` wrote
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Refuse gaps: what is released has every ABI and every slice
    #[arg(long)]
    release: bool,
}

/// Its name, and what it does with the folder.
type Check = (&'static str, fn(&Path) -> Result<()>);

/// Runs every check, whatever the others find.
pub(crate) fn run(options: &Verify) -> Result<()> {
    let out = folder(options.out.as_deref())?;
    let gaps = fs::read_to_string(out.join(GAPS))
        .with_context(|| format!("nothing is packed at {}: run `cargo xtask package`", out.display()))?;
    let checks: [Check; 6] = [
        ("jar: library, exports, size, licences", jar),
        ("AAR: files, pages, C library, rules", aar),
        ("XCFramework: platform of every object", xcframework),
        ("consumer of the jar", consumer_of_jar),
        ("consumer of the AAR", consumer_of_aar),
        ("consumer of the Swift package", consumer_of_swift),
    ];
    let mut failures = 0;
    for (name, check) in checks {
        let start = Instant::now();
        match check(&out) {
            Ok(()) => shell::done(name, start.elapsed()),
            Err(error) => {
                failures += 1;
                shell::failed(name, start.elapsed());
                eprintln!("    {}", format!("{error:#}").replace('\n', "\n    "));
            }
        }
    }
    let gaps: Vec<&str> = gaps.lines().collect();
    for gap in &gaps {
        println!("gap: {gap}");
    }
    println!("{} checks passed, {failures} failed, {} gaps", checks.len() - failures, gaps.len());
    ensure!(failures == 0, "{failures} of the checks failed");
    ensure!(!options.release || gaps.is_empty(), "a release has no gaps, and this has {}", gaps.len());
    Ok(())
}

fn packed(out: &Path, file: &str) -> PathBuf {
    out.join(file.replace('*', jvm::VERSION))
}

fn jar(out: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    unpack(&packed(out, "selvedge-jvm-*.jar"), scratch.path())?;
    let folder = scratch.path().join(jvm::platform()?);
    let library = fs::read_dir(&folder)
        .ok()
        .and_then(|mut entries| Some(entries.next()?.ok()?.path()))
        .with_context(|| format!("no library below {}", name(&folder)))?;
    let found = native::shared(&library)?;
    ensure!(found.strays.is_empty(), "the library exports names that are not UniFFI's: {:?}", found.strays);
    let models = fs::read(&library)?.windows(4).any(|bytes| bytes == b"ggml");
    let (kind, budget) = BUDGETS[usize::from(models)];
    println!("library {kind}: {:.2} MB of {:.0} MB", found.bytes as f64 / 1e6, budget as f64 / 1e6);
    ensure!(found.bytes <= budget, "the library {kind} has {} bytes, {budget} are allowed", found.bytes);
    for file in ["META-INF/LICENSE-APACHE", "META-INF/LICENSE-MIT", "dev/selvedge/Engine.class"] {
        ensure!(scratch.path().join(file).exists(), "the jar lacks {file}");
    }
    notices(&scratch.path().join("META-INF"))?;
    let sources = scratch.path().join("sources");
    unpack(&packed(out, "selvedge-jvm-*-sources.jar"), &sources)?;
    for file in ["dev/selvedge/Engine.kt", "dev/selvedge/ffi/selvedge_ffi.kt"] {
        ensure!(sources.join(file).exists(), "the sources lack {file}");
    }
    Ok(())
}

/// Licences of others travel with their code.
fn notices(folder: &Path) -> Result<()> {
    let text = fs::read_to_string(folder.join(notices::FILE)).with_context(|| format!("it lacks {}", notices::FILE))?;
    for part in ["rusqlite ", "tokio ", "uniffi_core ", "Permission is hereby granted"] {
        ensure!(text.contains(part), "{} does not mention {part:?}", notices::FILE);
    }
    Ok(())
}

fn aar(out: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    unpack(&packed(out, "selvedge-android-*.aar"), scratch.path())?;
    for file in ["AndroidManifest.xml", "classes.jar", "R.txt", "proguard.txt", "META-INF/LICENSE-MIT"] {
        ensure!(scratch.path().join(file).exists(), "the AAR lacks {file}");
    }
    notices(&scratch.path().join("META-INF"))?;
    let pom = fs::read_to_string(packed(out, "selvedge-android-*.pom"))?;
    ensure!(pom.contains("<packaging>aar</packaging>"), "the AAR's POM does not say that it is one");
    ensure!(!pom.contains("selvedge-jvm"), "the AAR's POM names selvedge-jvm, whose classes the AAR holds already");
    let manifest = fs::read_to_string(scratch.path().join("AndroidManifest.xml"))?;
    ensure!(manifest.contains("minSdkVersion=\"24\""), "the manifest does not name API 24");
    for abi in fs::read_dir(scratch.path().join("jni")).into_iter().flatten().flatten() {
        let library = abi.path().join("libselvedge_ffi.so");
        let found = native::shared(&library)?;
        let abi = abi.file_name();
        let abi = abi.to_string_lossy();
        ensure!(found.page >= 16384 || !abi.contains("64"), "{abi}: aligned to {} bytes, 16384 are needed", found.page);
        ensure!(
            !found.needs.iter().any(|need| need.contains(".so.")),
            "{abi} is not for Android: it needs {:?}",
            found.needs
        );
        ensure!(found.strays.is_empty(), "{abi} exports {:?}", found.strays);
        ensure!(found.bytes <= BUDGETS[1].1, "{abi} has {} bytes", found.bytes);
    }
    rules(scratch.path())
}

/// R8, as an app's release build runs it, keeps what JNA looks for by name.
fn rules(aar: &Path) -> Result<()> {
    let r8 = kotlin::artefact("com.android.tools:r8:8.5.35")?;
    let framework = kotlin::artefact(&format!("org.robolectric:android-all:{}", jvm::property("android.version")?))?;
    let mut command = Command::new("java");
    command.arg("-cp").arg(r8).args(["com.android.tools.r8.R8", "--release", "--classfile"]);
    let app = aar.join("app.txt");
    // What an app that only opens an engine keeps. Its other libraries are not here.
    fs::write(&app, "-keep class dev.selvedge.Engine$Companion { *; }\n-ignorewarnings\n-dontwarn **\n")?;
    command.arg("--lib").arg(framework).arg("--pg-conf").arg(aar.join("proguard.txt")).arg("--pg-conf").arg(app);
    let small = aar.join("small");
    fs::create_dir_all(&small)?;
    command.arg("--output").arg(&small).arg(aar.join("classes.jar"));
    shell::quiet("shrink with R8", &mut command)?;
    let kept = small.join("dev/selvedge/ffi/UniffiLib.class");
    ensure!(kept.exists(), "R8 dropped or renamed {}: the rules do not keep it", kept.display());
    Ok(())
}

fn xcframework(out: &Path) -> Result<()> {
    let framework = out.join(apple::FRAMEWORK);
    notices(&framework)?;
    for slice in apple::SLICES {
        let library = framework.join(slice.folder).join(apple::LIBRARY);
        if !library.exists() {
            // A gap, which is printed.
            continue;
        }
        let objects = native::platforms(&library)?;
        let wrong: Vec<_> = objects.iter().filter(|(_, platform)| *platform != Some(slice.number)).take(5).collect();
        ensure!(wrong.is_empty(), "{}: not for platform {}: {wrong:?}", slice.folder, slice.number);
        let wanted = "_uniffi_selvedge_ffi_fn_constructor_engine_open";
        ensure!(native::defines(&library, wanted)?, "{} does not define {wanted}", slice.folder);
        println!("{}: {} objects of platform {}", slice.folder, objects.len(), slice.number);
    }
    Ok(())
}

/// A consumer's project, outside the repository.
fn consumer(of: &str) -> Result<tempfile::TempDir> {
    let scratch = tempfile::tempdir()?;
    copy_tree(&place::root().join("tests/consumers").join(of), &scratch.path().join("consumer"))?;
    Ok(scratch)
}

fn consumer_of_jar(out: &Path) -> Result<()> {
    let scratch = consumer("jvm")?;
    let project = scratch.path().join("consumer");
    let jar = packed(out, "selvedge-jvm-*.jar");
    let mut command = Command::new("mvn");
    command.current_dir(&project).args(["--batch-mode", "--no-transfer-progress", "process-classes"]);
    shell::quiet("build a consumer of the jar", command.arg(format!("-Dpacked={}", jar.display())))?;
    let others = fs::read_to_string(project.join("target/class-path"))?;
    let mut command = Command::new("java");
    // No library path: it has to be found inside the jar.
    command.current_dir(&project).args(["-cp", &format!("target/classes:{}", others.trim()), "ConsumerKt"]);
    submitted(&shell::quiet("run it", &mut command)?)
}

fn consumer_of_aar(out: &Path) -> Result<()> {
    let scratch = consumer("android")?;
    let aar = scratch.path().join("aar");
    unpack(&packed(out, "selvedge-android-*.aar"), &aar)?;
    // Robolectric runs on this machine, so the library is the jar's.
    let jar = scratch.path().join("jar");
    unpack(&packed(out, "selvedge-jvm-*.jar"), &jar)?;
    let mut command = Command::new("mvn");
    command.current_dir(scratch.path().join("consumer")).args(["--batch-mode", "--no-transfer-progress", "test"]);
    command.arg(format!("-Dpacked={}", aar.join("classes.jar").display()));
    command.arg(format!("-Dlibrary={}", jar.join(jvm::platform()?).display()));
    let said = shell::quiet("build and run a consumer of the AAR", &mut command)?;
    ensure!(said.contains("Tests run: 1, Failures: 0, Errors: 0, Skipped: 0"), "its test did not run");
    Ok(())
}

fn consumer_of_swift(out: &Path) -> Result<()> {
    let scratch = consumer("swift")?;
    copy_tree(&out.join("Selvedge"), &scratch.path().join("Selvedge"))?;
    let jar = scratch.path().join("jar");
    unpack(&packed(out, "selvedge-jvm-*.jar"), &jar)?;
    let folders = Folders {
        source: scratch.path().to_path_buf(),
        library: jar.join(jvm::platform()?),
        build: scratch.path().join("build"),
    };
    let swift = Swift::find(&folders, &setup::tests(false)?)?;
    let said = shell::quiet("build and run a consumer of the Swift package", &mut swift.command("run", "consumer")?)?;
    submitted(&said)
}

fn submitted(said: &str) -> Result<()> {
    if said.lines().any(|line| line.starts_with("submitted orders.create:")) {
        return Ok(());
    }
    bail!("the consumer submitted nothing; it said: {said}")
}
