//! Where a subject falls between 0 and 1, and which variation that is.
//!
//! The method is that of the [GrowthBook SDK specification](https://docs.growthbook.io/lib/build-your-own), so every SDK that
//! follows it puts a subject in the same place.

use std::fmt;

/// Which hash a rule asks for; 1 is the oldest, and puts parallel experiments a little in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A thousand places, from one pass of FNV-1a.
    V1,
    /// Ten thousand places, from two passes of FNV-1a.
    V2,
}

impl Version {
    /// The version of that number; `None` for one that is not known, and nobody is then included.
    pub fn of(number: i64) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

/// A 32-bit FNV-1a hash over UTF-16 code units (Fowler, Noll, Vo; draft-eastlake-fnv), as JavaScript sees strings: over the
/// bytes of UTF-8 a name that is not ASCII would fall elsewhere.
#[derive(Clone, Copy)]
struct Fnv(u32);

impl Fnv {
    fn new() -> Self {
        Self(0x811c_9dc5)
    }

    fn unit(self, unit: u32) -> Self {
        Self((self.0 ^ unit).wrapping_mul(0x0100_0193))
    }

    fn text(self, text: &str) -> Self {
        if text.is_ascii() {
            text.bytes().fold(self, |hash, byte| hash.unit(byte.into()))
        } else {
            text.encode_utf16().fold(self, |hash, unit| hash.unit(unit.into()))
        }
    }
}

/// Where a subject falls: a number from 0 up to, but never, 1.
///
/// ```
/// use selvedge_core::experiment::hash::{Version, bucket};
///
/// assert_eq!(bucket("seed", "a", Version::V2), 0.0505);
/// assert_eq!(bucket("", "用户123", Version::V2), 0.3071);
/// ```
pub fn bucket(seed: &str, subject: &str, version: Version) -> f64 {
    match version {
        Version::V1 => f64::from(Fnv::new().text(subject).text(seed).0 % 1000) / 1000.0,
        Version::V2 => {
            let first = Fnv::new().text(seed).text(subject).0;
            // The longest 32-bit number has ten digits.
            let (mut digits, mut from, mut rest) = ([0; 10], 10, first);
            while rest > 0 || from == 10 {
                from -= 1;
                digits[from] = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            let second = digits[from..].iter().fold(Fnv::new(), |hash, &digit| hash.unit(digit.into()));
            f64::from(second.0 % 10_000) / 10_000.0
        }
    }
}

/// A half-open range of places: from `start` up to, but without, `end`.
#[derive(Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(from = "(f64, f64)", into = "(f64, f64)")]
pub struct Range {
    /// The first place within.
    pub start: f64,
    /// The first place after.
    pub end: f64,
}

impl Range {
    /// Whether a place is within.
    pub fn contains(&self, place: f64) -> bool {
        place >= self.start && place < self.end
    }
}

impl From<(f64, f64)> for Range {
    fn from((start, end): (f64, f64)) -> Self {
        Self { start, end }
    }
}

impl From<Range> for (f64, f64) {
    fn from(Range { start, end }: Range) -> Self {
        (start, end)
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// The same weight for each of so many variations.
pub fn equal_weights(variations: usize) -> Vec<f64> {
    vec![1.0 / variations as f64; variations]
}

/// The range of each variation. `coverage` is the share of subjects that takes part, from 0 to 1, cut off the end of each
/// range so that widening it moves nobody. Weights that are not one a variation, or do not add up to about 1, count as equal.
///
/// ```
/// use selvedge_core::experiment::hash::{Range, ranges};
///
/// let half: Vec<Range> = ranges(2, 0.5, None).collect();
/// assert_eq!(half, [Range { start: 0.0, end: 0.25 }, Range { start: 0.5, end: 0.75 }]);
/// ```
pub fn ranges(variations: usize, coverage: f64, weights: Option<&[f64]>) -> impl Iterator<Item = Range> {
    let coverage = coverage.clamp(0.0, 1.0);
    let weights = weights.filter(|weights| {
        let sum: f64 = weights.iter().sum();
        weights.len() == variations && (0.99..=1.01).contains(&sum)
    });
    let mut next = 0.0;
    (0..variations).map(move |variation| {
        let weight = weights.map_or(1.0 / variations as f64, |weights| weights[variation]);
        let start = next;
        next += weight;
        Range { start, end: start + coverage * weight }
    })
}

/// The variation whose range a place is within; `None` when it is within none.
pub fn choose(place: f64, ranges: impl IntoIterator<Item = Range>) -> Option<usize> {
    ranges.into_iter().position(|range| range.contains(place))
}

/// A part of all subjects that experiments share out among each other, so that nobody is in two of them.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(from = "(String, f64, f64)", into = "(String, f64, f64)")]
pub struct Namespace {
    /// The name with its prefix, as it is hashed.
    seed: String,
    /// The experiment's part.
    pub range: Range,
}

impl Namespace {
    const PREFIX: &str = "__";

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.seed[Self::PREFIX.len()..]
    }

    /// Whether the subject is in the experiment's part.
    pub fn contains(&self, subject: &str) -> bool {
        self.range.contains(bucket(&self.seed, subject, Version::V1))
    }
}

impl From<(String, f64, f64)> for Namespace {
    fn from((name, start, end): (String, f64, f64)) -> Self {
        Self { seed: format!("{}{name}", Self::PREFIX), range: Range { start, end } }
    }
}

impl From<Namespace> for (String, f64, f64) {
    fn from(namespace: Namespace) -> Self {
        (namespace.name().to_owned(), namespace.range.start, namespace.range.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The hash as its definition reads, with every string made first.
    fn naive(seed: &str, subject: &str, version: Version) -> f64 {
        let fnv = |text: String| {
            let mut hash: u64 = 2_166_136_261;
            for unit in text.encode_utf16().collect::<Vec<u16>>() {
                hash = ((hash ^ u64::from(unit)) * 16_777_619) % (1 << 32);
            }
            hash
        };
        match version {
            Version::V1 => (fnv(format!("{subject}{seed}")) % 1000) as f64 / 1000.0,
            Version::V2 => (fnv(fnv(format!("{seed}{subject}")).to_string()) % 10_000) as f64 / 10_000.0,
        }
    }

    proptest! {
        #[test]
        fn the_hash_is_its_definition(seed in any::<String>(), subject in any::<String>()) {
            for version in [Version::V1, Version::V2] {
                prop_assert_eq!(bucket(&seed, &subject, version), naive(&seed, &subject, version));
            }
        }

        #[test]
        fn whole_coverage_leaves_no_place_out(weights in prop::collection::vec(1u32..1000, 1..12), place in 0u32..10_000) {
            let sum = f64::from(weights.iter().sum::<u32>());
            let weights: Vec<f64> = weights.iter().map(|weight| f64::from(*weight) / sum).collect();
            let ranges: Vec<Range> = ranges(weights.len(), 1.0, Some(&weights)).collect();
            for (one, next) in ranges.iter().zip(&ranges[1..]) {
                prop_assert_eq!(one.end, next.start);
            }
            let place = f64::from(place) / 10_000.0;
            prop_assert_eq!(ranges.iter().filter(|range| range.contains(place)).count(), 1);
        }

        #[test]
        fn wider_coverage_moves_nobody(place in 0u32..10_000, narrow in 0.0..1.0f64, wide in 0.0..1.0f64, variations in 1usize..9) {
            let place = f64::from(place) / 10_000.0;
            let (narrow, wide) = (narrow.min(wide), narrow.max(wide));
            let [narrow, wide] = [narrow, wide].map(|coverage| choose(place, ranges(variations, coverage, None)));
            prop_assert!(narrow.is_none() || narrow == wide);
        }
    }

    #[test]
    fn numbers_that_are_none_leave_nobody_misplaced() {
        assert!(ranges(2, 1.0, Some(&[f64::NAN, 0.5])).eq(ranges(2, 1.0, None)));
        assert_eq!(choose(0.5, ranges(2, f64::NAN, None)), None);
        assert_eq!(choose(f64::NAN, ranges(2, 1.0, None)), None);
    }
}
