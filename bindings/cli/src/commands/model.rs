//! `selvedge model`.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use selvedge::{
    Result,
    llama::{self, Prepared},
};

use crate::{
    arguments::{Format, Model, ModelCommand},
    output,
};

pub(crate) fn run(options: Model) -> Result<()> {
    let ModelCommand::Prepare { file, output, format } = options.command;
    let to = output.unwrap_or_else(|| beside(&file, format));
    let started = Instant::now();
    let wanted = match format {
        Format::Q4_0 => llama::Format::Q4_0,
        Format::Q8_0 => llama::Format::Q8_0,
    };
    let prepared = llama::prepare(&file, &to, wanted)?;
    if options.json { output::json(&prepared) } else { output::print(&told(&prepared, started)) }
}

fn told(prepared: &Prepared, started: Instant) -> String {
    let Prepared { path, sha256, bytes, from, to, .. } = prepared;
    format!(
        "{}: {from} is now {to}, {:.1} MB, in {:.1} s\nsha256 {sha256}\n",
        path.display(),
        *bytes as f64 / 1e6,
        started.elapsed().as_secs_f64()
    )
}

/// `tea.Q4_1.gguf` becomes `tea.Q4_0.gguf`.
fn beside(file: &Path, format: Format) -> PathBuf {
    let name = match format {
        Format::Q4_0 => "Q4_0",
        Format::Q8_0 => "Q8_0",
    };
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    // What comes after the last dot is nearly always the format it had.
    let base = stem.rsplit_once('.').filter(|(_, format)| format.starts_with(['Q', 'F', 'I', 'B', 'q', 'f']));
    file.with_file_name(format!("{}.{name}.gguf", base.map_or(&*stem, |(base, _)| base)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_file_lies_beside_the_old_one_and_says_its_format() {
        for (file, expected) in [
            ("/m/tea-135M.Q4_1.gguf", "/m/tea-135M.Q4_0.gguf"),
            ("tea.gguf", "tea.Q4_0.gguf"),
            ("tea-1.7b.gguf", "tea-1.7b.Q4_0.gguf"),
            ("tea.f16.gguf", "tea.Q4_0.gguf"),
        ] {
            assert_eq!(beside(Path::new(file), Format::Q4_0), Path::new(expected));
        }
    }
}
