//! How versions compare: numbers by value, a release after its pre-releases, build metadata not at all.

use std::cmp::Ordering;

/// A version to compare others with.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    text: Box<str>,
    plain: Option<[u32; 3]>,
}

impl Version {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), plain: plain(text) }
    }

    /// How another version is ordered to this one, as the SDK specification has it: the texts with their numbers padded are
    /// compared.
    pub(crate) fn order(&self, other: &str) -> Ordering {
        match (self.plain, plain(other)) {
            (Some(this), Some(other)) => other.cmp(&this),
            _ => padded(other).cmp(padded(&self.text)),
        }
    }
}

/// As many digits are padded.
const WIDTH: usize = 5;

/// The numbers of a release, whose order is that of its padded text: three, of up to five digits, none with a zero before it.
fn plain(version: &str) -> Option<[u32; 3]> {
    let (mut numbers, mut at, mut length) = ([0; 3], 0, 0);
    for byte in version.bytes() {
        match byte {
            b'.' if length > 0 && at < 2 => (at, length) = (at + 1, 0),
            b'0'..=b'9' if length < WIDTH && (length == 0 || numbers[at] > 0) => {
                numbers[at] = numbers[at] * 10 + u32::from(byte - b'0');
                length += 1;
            }
            _ => return None,
        }
    }
    (at == 2 && length > 0).then_some(numbers)
}

/// The bytes of a version whose numeric parts are padded with spaces, and whose parts are joined by dashes. A release of
/// three parts gets one more that sorts after any pre-release.
fn padded(version: &str) -> impl Iterator<Item = u8> {
    let version = version.strip_prefix('v').unwrap_or(version);
    let version = version.split('+').next().unwrap_or_default();
    let version = if version.is_empty() { "0" } else { version };
    let parts = || version.split(['.', '-']);
    let release = (parts().count() == 3).then_some("~");
    parts().chain(release).enumerate().flat_map(|(index, part)| {
        let numeric = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let spaces = if numeric { WIDTH.saturating_sub(part.len()) } else { 0 };
        let dash = (index > 0).then_some(b'-');
        dash.into_iter().chain(std::iter::repeat_n(b' ', spaces)).chain(part.bytes())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(a: &str, b: &str) -> Ordering {
        Version::new(b).order(a)
    }

    #[test]
    fn in_order() {
        let versions = [
            "",
            "0.0.1",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-rc.1",
            "v1.0.0",
            "1.0.1",
            "1.2.0",
            "10.0.0",
        ];
        for (index, one) in versions.iter().enumerate() {
            for (other_index, other) in versions.iter().enumerate() {
                assert_eq!(order(one, other), index.cmp(&other_index), "{one:?} and {other:?}");
            }
        }
        assert_eq!(order("1.2.3+build.5", "v1.2.3"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn numbers_are_ordered_as_their_padded_text(a in "[0-9]{1,6}(\\.[0-9]{1,6}){1,3}", b in "[0-9]{1,3}(\\.[0-9]{1,3}){2}") {
            prop_assert_eq!(order(&a, &b), padded(&a).cmp(padded(&b)));
            prop_assert_eq!(order(&b, &b), Ordering::Equal);
        }
    }
}
