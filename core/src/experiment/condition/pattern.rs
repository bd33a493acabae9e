//! Patterns: regular expressions, and the many that are none but look like one.

use regex_lite::{Regex, RegexBuilder};

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    /// Text without an operator, maybe tied to the start or end: most patterns are, and comparing is many times quicker.
    Text {
        text: Box<str>,
        at_start: bool,
        at_end: bool,
    },
    Regex(Box<Regex>),
}

impl Pattern {
    /// `None` for what is no regular expression, or one with look-around or back-references.
    pub(super) fn new(pattern: &str, ignore_case: bool) -> Option<Self> {
        if !ignore_case && let Some(text) = Self::text(pattern) {
            return Some(text);
        }
        let regex = RegexBuilder::new(pattern).case_insensitive(ignore_case).build().ok()?;
        Some(Self::Regex(Box::new(regex)))
    }

    fn text(pattern: &str) -> Option<Self> {
        let (pattern, at_start) = pattern.strip_prefix('^').map_or((pattern, false), |rest| (rest, true));
        let (mut text, mut at_end, mut chars) = (String::new(), false, pattern.chars());
        while let Some(char) = chars.next() {
            match char {
                '$' if chars.as_str().is_empty() => at_end = true,
                '\\' => text.push(chars.next().filter(char::is_ascii_punctuation)?),
                '.' | '^' | '$' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' => return None,
                char => text.push(char),
            }
        }
        Some(Self::Text { text: text.into(), at_start, at_end })
    }

    pub(super) fn is_match(&self, value: &str) -> bool {
        match self {
            Self::Text { text, at_start: true, at_end: true } => **text == *value,
            Self::Text { text, at_start: true, at_end: false } => value.starts_with(&**text),
            Self::Text { text, at_start: false, at_end: true } => value.ends_with(&**text),
            Self::Text { text, at_start: false, at_end: false } => value.contains(&**text),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_text_and_what_is_not() {
        for (pattern, text) in [
            ("Mobile", true),
            ("^iPad", true),
            (r"@example\.com$", true),
            (r"^a\/b$", true),
            ("", true),
            ("^$", true),
            ("a.c", false),
            (r"\d", false),
            ("a|b", false),
            ("a$b", false),
            (r"a\", false),
        ] {
            assert_eq!(Pattern::text(pattern).is_some(), text, "{pattern}");
        }
        assert!(Pattern::new("[", false).is_none());
    }

    proptest! {
        #[test]
        fn text_matches_as_the_regular_expression_does(
            start in any::<bool>(), text in "[ab.$^]{0,4}", end in any::<bool>(), value in "[ab.$^]{0,6}",
        ) {
            let escaped = regex_lite::escape(&text);
            let pattern = format!("{}{escaped}{}", if start { "^" } else { "" }, if end { "$" } else { "" });
            let found = Pattern::text(&pattern).unwrap().is_match(&value);
            prop_assert_eq!(found, Regex::new(&pattern).unwrap().is_match(&value), "{} on {}", pattern, value);
        }
    }
}
