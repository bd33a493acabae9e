//! What a document names: the code spans in its text, and the command lines of its console blocks.

/// Something a document names, with the line where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) line: usize,
    pub(super) text: String,
}

/// The `code spans` outside of fenced blocks.
pub(super) fn spans(text: &str) -> Vec<Named> {
    let prose = lines(text).filter(|(_, fence, _)| fence.is_none());
    prose
        .flat_map(|(line, _, text)| {
            let spans = text.split('`').skip(1).step_by(2).map(str::to_owned);
            spans.map(move |text| Named { line, text }).collect::<Vec<_>>()
        })
        .collect()
}

/// The lines of fenced `console` and `sh` blocks, continued ones joined.
pub(super) fn console(text: &str) -> Vec<Named> {
    let mut found: Vec<Named> = Vec::new();
    let mut goes_on = false;
    for (line, fence, text) in lines(text) {
        if !matches!(fence, Some("console" | "sh" | "bash")) {
            goes_on = false;
            continue;
        }
        let (part, more) = text.strip_suffix('\\').map_or((text, false), |part| (part, true));
        match found.last_mut().filter(|_| goes_on) {
            Some(last) => last.text.push_str(part),
            None => found.push(Named { line, text: part.trim_start_matches("$ ").to_owned() }),
        }
        goes_on = more;
    }
    found
}

/// Each line with its number and the language of the block that it is in; the fences themselves are left out.
fn lines(text: &str) -> impl Iterator<Item = (usize, Option<&str>, &str)> {
    let mut fence = None;
    text.lines().zip(1..).filter_map(move |(line, number)| match line.trim_start().strip_prefix("```") {
        Some(language) => {
            fence = if fence.is_none() { Some(language.trim()) } else { None };
            None
        }
        None => Some((number, fence, line)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(line: usize, text: &str) -> Named {
        Named { line, text: text.into() }
    }

    #[test]
    fn spans_are_of_the_prose_and_lines_of_console_blocks() {
        let text = "See `a/b` and `c d`.\n\n```console\n$ one --two \\\n  three\nfour\n```\n```rust\nlet x = `no`;\n```\n`e`\n";
        assert_eq!(spans(text), [named(1, "a/b"), named(1, "c d"), named(11, "e")]);
        assert_eq!(console(text), [named(4, "one --two   three"), named(6, "four")]);
    }
}
