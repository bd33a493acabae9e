//! What a figure was measured on.

use std::{fs, thread};

use super::first_line;

/// The machine's processor, cores, memory and kernel, and the compiler.
pub(super) fn facts() -> Vec<(String, String)> {
    let cores = thread::available_parallelism().map_or_else(|_| "unknown".into(), |cores| cores.to_string());
    vec![
        ("processor".into(), field("/proc/cpuinfo", "model name").unwrap_or_else(|| first_line("uname", &["-m"]))),
        ("cores".into(), cores),
        ("memory".into(), field("/proc/meminfo", "MemTotal").map_or_else(|| "unknown".into(), |kib| gibibytes(&kib))),
        ("kernel".into(), first_line("uname", &["-sr"])),
        ("compiler".into(), first_line("rustc", &["--version"])),
        ("date".into(), first_line("date", &["-u", "+%Y-%m-%d"])),
    ]
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn gibibytes(kib: &str) -> String {
    let number = kib.trim_end_matches(" kB").parse::<f64>().ok();
    number.map_or_else(|| kib.to_owned(), |kib| format!("{:.0} GiB", kib / f64::from(1 << 20)))
}
