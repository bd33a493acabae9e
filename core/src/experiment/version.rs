//! How versions compare: numbers by value, a release after its pre-releases, build metadata not at all.

use std::cmp::Ordering;

/// How two versions are ordered, as the SDK specification has it: the texts with their numbers padded are compared.
pub(crate) fn order(a: &str, b: &str) -> Ordering {
    padded(a).cmp(padded(b))
}

/// The bytes of a version whose numeric parts are padded with spaces, and whose parts are joined by dashes. A release of
/// three parts gets one more that sorts after any pre-release.
fn padded(version: &str) -> impl Iterator<Item = u8> {
    const WIDTH: usize = 5;
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
    use super::*;

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
}
