//! Completions and manual pages.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use selvedge::{Error, ErrorKind, Result};

use crate::{arguments::Arguments, output};

pub(crate) fn completions(shell: Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "selvedge", &mut text);
    output::print(&String::from_utf8_lossy(&text))
}

pub(crate) fn man(folder: Option<&Path>) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::PermissionDenied, "cli.man", "the manual cannot be written")
            .with("folder", folder.unwrap_or(Path::new("-")).display())
            .caused_by(error)
            .advise("name a folder that is there and can be written")
    };
    match folder {
        Some(folder) => clap_mangen::generate_to(Arguments::command(), folder).map_err(failed),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut page).map_err(failed)?;
            output::print(&String::from_utf8_lossy(&page))
        }
    }
}
