//! From symbols to text: characters that are cut in two, and stop texts.

/// Turns the bytes of symbols into text that may be shown.
///
/// Two things are held back: the first bytes of a character that is not complete, and the end of a text that may turn out
/// to be the start of a stop text. What comes out does not depend on how the bytes were cut.
#[derive(Debug, Default)]
pub(crate) struct TextStream {
    stops: Vec<String>,
    bytes: Vec<u8>,
    held: String,
}

/// What a symbol completed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Text to show.
    pub(crate) text: String,
    /// A stop text appeared: nothing after it counts.
    pub(crate) stopped: bool,
}

impl TextStream {
    /// A stream that ends at any of these texts, none of which is empty.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, bytes: Vec::new(), held: String::new() }
    }

    /// Adds the bytes of a symbol.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Piece {
        self.bytes.extend_from_slice(bytes);
        self.decode();
        if let Some(end) = self.stop() {
            self.held.truncate(end);
            return Piece { text: std::mem::take(&mut self.held), stopped: true };
        }
        let rest = self.held.split_off(self.held.len() - self.possible_start());
        Piece { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// What was held back, once nothing follows. A character that was never completed becomes U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        if !self.bytes.is_empty() {
            self.held.push(char::REPLACEMENT_CHARACTER);
            self.bytes.clear();
        }
        std::mem::take(&mut self.held)
    }

    /// Moves complete characters from the bytes to the text.
    fn decode(&mut self) {
        loop {
            let (valid, invalid) = match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    self.held.push_str(text);
                    return self.bytes.clear();
                }
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            self.held.push_str(&String::from_utf8_lossy(&self.bytes[..valid]));
            let Some(invalid) = invalid else {
                self.bytes.drain(..valid);
                return;
            };
            self.held.push(char::REPLACEMENT_CHARACTER);
            self.bytes.drain(..valid + invalid);
        }
    }

    /// Where the stop text begins that is complete first.
    fn stop(&self) -> Option<usize> {
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at)));
        found.min().map(|(_, at)| at)
    }

    /// The length of the longest end of the text with which a stop text begins.
    fn possible_start(&self) -> usize {
        let starts = self.stops.iter().flat_map(|stop| stop.char_indices().skip(1).map(move |(at, _)| &stop[..at]));
        starts.filter(|start| self.held.ends_with(start)).map(str::len).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[String], pieces: &[&[u8]]) -> (String, bool) {
        let mut stream = TextStream::new(stops.to_vec());
        let mut all = String::new();
        for bytes in pieces {
            let piece = stream.push(bytes);
            all.push_str(&piece.text);
            if piece.stopped {
                return (all, true);
            }
        }
        all.push_str(&stream.finish());
        (all, false)
    }

    #[test]
    fn a_character_in_two_symbols_comes_out_whole() {
        let mut stream = TextStream::new(Vec::new());
        let tea = "🍵".as_bytes();
        assert_eq!(stream.push(&tea[..2]), Piece { text: String::new(), stopped: false });
        assert_eq!(stream.push(&tea[2..]), Piece { text: "🍵".into(), stopped: false });
        assert_eq!(stream.push(&tea[..3]).text, "");
        assert_eq!(stream.finish(), "\u{FFFD}");
    }

    #[test]
    fn a_possible_stop_text_is_held_back_until_it_is_not_one() {
        let mut stream = TextStream::new(vec!["END".into()]);
        assert_eq!(stream.push(b"the EN").text, "the ");
        assert_eq!(stream.push(b"trance").text, "ENtrance");
        assert_eq!(stream.push(b" E").text, " ");
        assert_eq!(stream.push(b"ND more"), Piece { text: String::new(), stopped: true });
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_changes_nothing(
            text in "[ab🍵é]{0,20}", noise in proptest::collection::vec(any::<u8>(), 0..4),
            stops in proptest::collection::vec("[ab🍵é]{1,4}", 0..3), cuts in proptest::collection::vec(0usize..90, 0..12),
        ) {
            let mut bytes = text.into_bytes();
            bytes.extend(noise);
            let whole = run(&stops, &[&bytes]);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut from = 0;
            let pieces: Vec<_> = cuts.iter().map(|to| { let piece = &bytes[from..*to]; from = *to; piece }).collect();
            prop_assert_eq!(run(&stops, &pieces), whole.clone());
            for stop in &stops {
                prop_assert!(!whole.0.contains(stop.as_str()));
            }
        }
    }
}
