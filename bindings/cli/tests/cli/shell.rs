//! Completions, manual pages, help, colour and exit codes.

use std::{os::fd::OwnedFd, process::Stdio};

use crate::support::{run, selvedge, with};

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let said = with(["completions", shell]);
        assert_eq!(said.code, Some(0), "{said:?}");
        for word in
            ["serve", "generate", "jobs", "outbox", "model", "cost", "doctor", "max-tokens", "tokens-per-second"]
        {
            assert!(said.out.contains(word), "{shell} does not know {word}");
        }
    }
    with(["completions", "cobol"]).failed(2, &["cobol", "bash"]);
}

#[test]
fn bash_takes_its_completions() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("completions"), with(["completions", "bash"]).out).unwrap();
    let script = "set -eu; . ./completions; COMP_WORDS=(selvedge gen); COMP_CWORD=1; _selvedge selvedge gen selvedge; \
                  echo \"${COMPREPLY[@]}\"";
    let output = std::process::Command::new("bash").current_dir(folder.path()).args(["-c", script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "generate", "{output:?}");
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let said = with(["man"]);
    assert!(said.code == Some(0) && said.out.contains(".TH selvedge 1"), "{said:?}");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(with(["man", folder.path().to_str().unwrap()]).code, Some(0));
    let pages: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|page| page.unwrap().file_name()).collect();
    for page in [
        "selvedge.1",
        "selvedge-serve.1",
        "selvedge-generate.1",
        "selvedge-jobs.1",
        "selvedge-jobs-cancel.1",
        "selvedge-cost-inference.1",
    ] {
        assert!(pages.iter().any(|found| found == page), "{page} is not in {pages:?}");
    }
    with(["man", "/nowhere/at/all"]).failed(1, &["/nowhere/at/all", "try: "]);
}

#[test]
fn help_and_version_are_no_failures_and_a_wrong_command_is() {
    let version = with(["--version"]);
    assert_eq!((version.code, version.out.trim()), (Some(0), concat!("selvedge ", env!("CARGO_PKG_VERSION"))));
    let help = with(["--help"]);
    assert!(help.code == Some(0) && help.out.contains("Serves the engine"), "{help:?}");
    with(["sevre"]).failed(2, &["sevre"]);
    with([""; 0]).failed(2, &["Usage"]);
}

#[test]
fn colour_is_for_terminals_and_no_color_turns_it_off() {
    let on_terminal = |no_color: bool| {
        let (master, slave) = terminal();
        let folder = tempfile::tempdir().unwrap();
        let mut command = selvedge(folder.path());
        command.args(["jobs", "list"]).env("TERM", "xterm-256color").stderr(Stdio::from(slave));
        if no_color {
            command.env("NO_COLOR", "1");
        }
        assert_eq!(command.status().unwrap().code(), Some(1));
        // The command holds the other end, and its parent's copy has to go before the end can be read.
        drop(command);
        read(&master)
    };
    let coloured = on_terminal(false);
    assert!(coloured.contains("\x1b[") && coloured.contains("no Store"), "{coloured:?}");
    let plain = on_terminal(true);
    assert!(!plain.contains('\x1b') && plain.contains("no Store"), "{plain:?}");
    let folder = tempfile::tempdir().unwrap();
    let piped = run(selvedge(folder.path()).args(["jobs", "list"]).env("TERM", "xterm-256color"));
    assert!(!piped.err.contains('\x1b'), "{piped:?}");
}

/// Both ends of a terminal.
fn terminal() -> (OwnedFd, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    (master, slave.into())
}

fn read(master: &OwnedFd) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    // Linux ends a terminal with an error instead of nothing.
    while let Ok(count @ 1..) = rustix::io::read(master, &mut buffer) {
        all.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(all).unwrap()
}
