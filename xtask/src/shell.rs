//! Running other programs so that a person, or a log, can see that something happens.

use std::{
    fmt::Display,
    io::{BufRead, BufReader, IsTerminal, Read},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize, Stream::Stderr};

/// A log gets a line at least this often, however quiet the program is.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How much of a failed program's output is worth showing.
const TAIL: usize = 40;

/// Where a line came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

/// A duration as a person writes it.
pub(crate) fn time(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        seconds @ 0..60 => format!("{}.{} s", seconds, elapsed.subsec_millis() / 100),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// A step that has been done.
pub(crate) fn done(label: impl Display, elapsed: Duration) {
    let mark = "✓".if_supports_color(Stderr, |text| text.green()).to_string();
    eprintln!("{mark} {label} ({})", time(elapsed));
}

/// A step that has found something wrong.
pub(crate) fn failed(label: impl Display, elapsed: Duration) {
    let mark = "✗".if_supports_color(Stderr, |text| text.red()).to_string();
    eprintln!("{mark} {label} ({})", time(elapsed));
}

/// A word of our own between the output of others.
pub(crate) fn say(line: impl Display) {
    eprintln!("{} {line}", "→".if_supports_color(Stderr, |text| text.cyan()));
}

/// Runs a program whose output only matters when it fails; returns what it wrote to stdout.
pub(crate) fn quiet(label: &str, command: &mut Command) -> Result<String> {
    let start = Instant::now();
    let spinner = spinner(label);
    let (mut stdout, mut tail) = (String::new(), Vec::new());
    let status = follow(command.stdout(Stdio::piped()).stderr(Stdio::piped()), |event| match event {
        Event::Line(source, line) => {
            if let Some(spinner) = &spinner {
                spinner.set_message(line.chars().take(60).collect::<String>());
            }
            if source == Source::Stdout {
                stdout.push_str(line);
                stdout.push('\n');
            }
            tail.push(line.to_owned());
            if tail.len() > 2 * TAIL {
                tail.drain(..TAIL);
            }
        }
        Event::Silence if spinner.is_none() => eprintln!("  … {label}: {} so far", time(start.elapsed())),
        Event::Silence => {}
    });
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let status = status?;
    if !status.success() {
        let shown = tail[tail.len().saturating_sub(TAIL)..].join("\n");
        bail!("{label} failed ({status}): {}\n{shown}", line_of(command));
    }
    done(label, start.elapsed());
    Ok(stdout)
}

/// Runs a program whose output is shown as it comes, each line passed to `each` first. On a terminal stderr stays the
/// program's own, so that cargo keeps its progress bar.
pub(crate) fn streamed(
    label: &str,
    command: &mut Command,
    mut each: impl FnMut(Source, &str),
) -> Result<(ExitStatus, Duration)> {
    let start = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    say(format_args!("{label}: {}", line_of(command)));
    command.stdout(Stdio::piped()).stderr(if terminal { Stdio::inherit() } else { Stdio::piped() });
    let status = follow(command, |event| match event {
        Event::Line(source, line) => {
            each(source, line);
            match source {
                Source::Stdout => println!("{line}"),
                Source::Stderr => eprintln!("{line}"),
            }
        }
        Event::Silence if !terminal => eprintln!("  … {label}: {} so far", time(start.elapsed())),
        Event::Silence => {}
    })?;
    Ok((status, start.elapsed()))
}

/// Whether a program can be run and says yes.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A command as it would be typed.
pub(crate) fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .map(|word| if word.contains(' ') { format!("'{word}'") } else { word.into_owned() })
        .collect::<Vec<_>>()
        .join(" ")
}

fn spinner(label: &str) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        say(label);
        return None;
    }
    let spinner = ProgressBar::new_spinner().with_prefix(label.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {prefix} {elapsed:.dim} {msg:.dim}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    Some(spinner)
}

enum Event<'a> {
    Line(Source, &'a str),
    /// Nothing was heard for a heartbeat.
    Silence,
}

/// Starts the program and reports its lines until both its pipes are closed.
fn follow(command: &mut Command, mut on: impl FnMut(Event<'_>)) -> Result<ExitStatus> {
    let mut child =
        command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {}", line_of(command)))?;
    let (sender, lines) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        forward(pipe, Source::Stdout, sender.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        forward(pipe, Source::Stderr, sender.clone());
    }
    drop(sender);
    loop {
        match lines.recv_timeout(HEARTBEAT) {
            Ok((source, line)) => on(Event::Line(source, &line)),
            Err(RecvTimeoutError::Timeout) => on(Event::Silence),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    child.wait().with_context(|| format!("lost sight of {}", line_of(command)))
}

fn forward(pipe: impl Read + Send + 'static, source: Source, sender: Sender<(Source, String)>) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while pipe.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&bytes);
            if sender.send((source, line.trim_end_matches(['\n', '\r']).to_owned())).is_err() {
                break;
            }
            bytes.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_an_error_that_shows_its_last_words() {
        let failure = quiet("trial", Command::new("sh").args(["-c", "echo why it failed >&2; exit 3"])).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("why it failed") && text.contains("trial failed"), "{text}");
    }

    #[test]
    fn both_pipes_of_a_streamed_program_are_read_to_their_end() {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "for i in 1 2 3; do echo out $i; echo err $i >&2; done; exit 4"]);
        let (status, _) = streamed("trial", &mut command, |_, line| lines.push(line.to_owned())).unwrap();
        assert_eq!(status.code(), Some(4));
        assert!(lines.contains(&"out 3".to_owned()), "{lines:?}");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(time(Duration::from_millis(1_540)), "1.5 s");
        assert_eq!(time(Duration::from_secs(125)), "2 min 05 s");
    }
}
