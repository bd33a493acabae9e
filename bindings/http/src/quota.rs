//! How quotas stand, as OpenAI's headers say it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use selvedge_core::allowance::{Left, Standing};

const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Says what is limited and how much is left of it.
pub(crate) fn tell(standing: &Standing, headers: &mut HeaderMap) {
    for (names, left) in [(REQUESTS, standing.requests), (TOKENS, standing.tokens)] {
        let Some(Left { limit, remaining, reset }) = left else { continue };
        let reset = HeaderValue::try_from(duration(reset)).ok();
        for (name, value) in names.into_iter().zip([Some(limit.into()), Some(remaining.into()), reset]) {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

/// As OpenAI writes times: `20ms`, `1.5s`, `6m0s`.
fn duration(time: Duration) -> String {
    // A time that has not passed is not over: up.
    let millis = time.as_nanos().div_ceil(1_000_000);
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = || {
        let fraction = format!("{:03}", rest % 1_000);
        match fraction.trim_end_matches('0') {
            "" => format!("{}s", rest / 1_000),
            fraction => format!("{}.{fraction}s", rest / 1_000),
        }
    };
    match (minutes, rest) {
        (0, 0) => "0s".into(),
        (0, 1..1_000) => format!("{rest}ms"),
        (0, _) => seconds(),
        (minutes @ 1..60, _) => format!("{minutes}m{}", seconds()),
        (minutes, _) => format!("{}h{}m{}", minutes / 60, minutes % 60, seconds()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_openai_writes_them() {
        for (micros, text) in [
            (0, "0s"),
            (1, "1ms"),
            (20_000, "20ms"),
            (1_000_000, "1s"),
            (1_500_000, "1.5s"),
            (59_999_001, "1m0s"),
            (360_000_000, "6m0s"),
            (61_007_000, "1m1.007s"),
            (3_600_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
        assert!(duration(Duration::MAX).ends_with('s'));
    }
}
