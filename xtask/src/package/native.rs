//! The library itself: small, stripped, and looked at object by object.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use object::{
    Object, ObjectSymbol,
    endian::Endianness,
    macho,
    read::{
        archive::ArchiveFile,
        elf::{FileHeader, ProgramHeader},
        macho::{LoadCommandVariant, MachHeader},
    },
};

use crate::{phone::source::Std, place, shell};

/// The profile of what is packed.
const PROFILE: &str = "mobile";

/// Parts of SQLite that the Store does without; nobody else uses the one inside the library. They are 290 kB.
const WITHOUT: [&str; 6] = ["FTS3", "FTS3_PARENTHESIS", "FTS5", "RTREE", "DBSTAT_VTAB", "STAT4"];

/// Cargo, about to build the library as one kind only: beside its other kinds cargo leaves out the optimisation over the
/// whole program. And only this crate: the generator's features would come in with the workspace.
fn build(kind: &str) -> Command {
    let mut command = place::cargo();
    command.args(["rustc", "--profile", PROFILE, "--lib", "-p", "selvedge-ffi", "--crate-type", kind]);
    command.env("LIBSQLITE3_FLAGS", WITHOUT.map(|part| format!("-USQLITE_ENABLE_{part}")).join(" "));
    command
}

/// Builds the library for this machine.
pub(super) fn host(models: bool) -> Result<PathBuf> {
    let mut command = build("cdylib");
    if models {
        command.args(["--features", "llama"]);
    }
    shell::quiet("build the library, small", &mut command)?;
    let name = format!("{}selvedge_ffi{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    Ok(place::target()?.join(PROFILE).join(name))
}

/// Builds the library for another target: `kind` is `cdylib` or `staticlib`, `set` adds the target's tools.
pub(super) fn cross(target: &str, kind: &str, set: impl FnOnce(&mut Command) -> Result<()>) -> Result<PathBuf> {
    let library = Std::of(target)?;
    let folder = place::target()?.join("phones");
    let mut command = build(kind);
    command.args(["--target", target, "--target-dir"]).arg(&folder);
    library.apply(&mut command);
    set(&mut command)?;
    shell::quiet(&format!("build the library for {target}"), &mut command)?;
    let extension = if kind == "staticlib" { "a" } else { "so" };
    Ok(folder.join(target).join(PROFILE).join(format!("libselvedge_ffi.{extension}")))
}

/// What a library for Linux or Android is like.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) bytes: usize,
    /// The least alignment of what is loaded.
    pub(super) page: u64,
    /// The libraries it needs.
    pub(super) needs: Vec<String>,
    /// What it exports besides UniFFI's names.
    pub(super) strays: Vec<String>,
}

pub(super) fn shared(path: &Path) -> Result<Shared> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = object::File::parse(&*data).with_context(|| format!("{} is no library", path.display()))?;
    let exports = file.exports()?.into_iter().map(|export| String::from_utf8_lossy(export.name()).into_owned());
    let ours = |name: &String| ["uniffi_", "ffi_selvedge", "UNIFFI_META"].iter().any(|start| name.starts_with(start));
    let strays = exports.filter(|name| !ours(name)).collect();
    let (page, needs) = match &file {
        object::File::Elf64(elf) => (page(elf), needs(elf)?),
        object::File::Elf32(elf) => (page(elf), needs(elf)?),
        _ => (0, Vec::new()),
    };
    Ok(Shared { bytes: data.len(), page, needs, strays })
}

fn page<E: FileHeader<Endian = Endianness>>(elf: &object::read::elf::ElfFile<'_, E>) -> u64 {
    let endian = elf.endian();
    let loaded = elf.elf_program_headers().iter().filter(|part| part.p_type(endian) == object::elf::PT_LOAD);
    loaded.map(|part| part.p_align(endian).into()).min().unwrap_or(0)
}

fn needs<E: FileHeader<Endian = Endianness>>(elf: &object::read::elf::ElfFile<'_, E>) -> Result<Vec<String>> {
    use object::read::elf::Dyn;
    let (endian, data) = (elf.endian(), elf.data());
    let sections = elf.elf_section_table();
    let Some((entries, strings)) = sections.dynamic(endian, data)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, data, strings)?;
    let mut needs = Vec::new();
    for entry in entries.iter().filter(|entry| entry.tag32(endian) == Some(object::elf::DT_NEEDED)) {
        needs.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
    }
    Ok(needs)
}

/// The platform that every object of a static library was compiled for, by Mach-O's numbers: 1 macOS, 2 iOS, 7 its simulator.
/// Apple's linker refuses a library whose objects disagree.
pub(super) fn platforms(path: &Path) -> Result<Vec<(String, Option<u32>)>> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let archive = ArchiveFile::parse(&*data).with_context(|| format!("{} is no static library", path.display()))?;
    let mut found = Vec::new();
    for member in archive.members() {
        let member = member?;
        let name = String::from_utf8_lossy(member.name()).into_owned();
        let bytes = member.data(&*data)?;
        // rustc's own metadata lies in the archive too.
        if name.ends_with(".rmeta") || bytes.is_empty() {
            continue;
        }
        found.push((name, platform(bytes)?));
    }
    if found.is_empty() {
        bail!("{} holds no object", path.display());
    }
    Ok(found)
}

fn platform(data: &[u8]) -> Result<Option<u32>> {
    let header = macho::MachHeader64::<Endianness>::parse(data, 0).context("an object is not 64-bit Mach-O")?;
    let endian = header.endian()?;
    let mut commands = header.load_commands(endian, data, 0)?;
    while let Some(command) = commands.next()? {
        if let LoadCommandVariant::BuildVersion(version) = command.variant()? {
            return Ok(Some(version.platform.get(endian)));
        }
    }
    Ok(None)
}

/// Whether a static library defines the names that the generated code calls.
pub(super) fn defines(path: &Path, wanted: &str) -> Result<bool> {
    let data = fs::read(path)?;
    let archive = ArchiveFile::parse(&*data)?;
    for member in archive.members() {
        let Ok(file) = object::File::parse(member?.data(&*data)?) else { continue };
        if file.symbols().any(|symbol| symbol.is_definition() && symbol.name() == Ok(wanted)) {
            return Ok(true);
        }
    }
    Ok(false)
}
