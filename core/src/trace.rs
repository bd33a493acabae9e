//! W3C trace context: the id that follows one intent from the phone to the row it writes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

/// A W3C `traceparent` (<https://www.w3.org/TR/trace-context/>, version 00).
///
/// ```
/// use selvedge_core::TraceContext;
///
/// let trace: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
/// assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert_eq!(trace.child().trace_id(), trace.trace_id());
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
}

impl TraceContext {
    /// A new trace, marked as sampled.
    pub fn start() -> Self {
        // W3C forbids all-zero ids; the low bit makes that impossible.
        Self { trace: uuid::Uuid::new_v4().as_u128() | 1, span: fastrand::u64(1..), flags: 1 }
    }

    /// The same trace with a new span id: what the next hop is given.
    pub fn child(self) -> Self {
        Self { span: fastrand::u64(1..), ..self }
    }

    /// The trace id: 32 lower-case hex digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The span id: 16 lower-case hex digits.
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span)
    }

    /// Whether the `sampled` flag is set.
    pub fn sampled(self) -> bool {
        self.flags & 1 == 1
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::new(ErrorKind::InvalidInput, "trace.parse", "not a W3C traceparent")
                .with("traceparent", text.chars().take(80).collect::<String>())
        };
        let hex = |part: &str, digits: usize| {
            let lower = part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            lower.then(|| u128::from_str_radix(part, 16).ok()).flatten()
        };
        let parts: Vec<&str> = text.split('-').collect();
        // A later version may carry more fields after the four; version 00 may not, and ff is forbidden.
        let [version, trace, span, flags, more @ ..] = parts.as_slice() else { return Err(invalid()) };
        let version = hex(version, 2).filter(|v| *v != 0xff).ok_or_else(invalid)?;
        if version == 0 && !more.is_empty() {
            return Err(invalid());
        }
        Ok(Self {
            trace: hex(trace, 32).filter(|id| *id != 0).ok_or_else(invalid)?,
            span: hex(span, 16).filter(|id| *id != 0).ok_or_else(invalid)? as u64,
            flags: hex(flags, 2).ok_or_else(invalid)? as u8,
        })
    }
}

impl TryFrom<String> for TraceContext {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<TraceContext> for String {
    fn from(trace: TraceContext) -> Self {
        trace.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_traceparent_is_refused() {
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<TraceContext>().is_err(), "{bad}");
        }
        assert!("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more".parse::<TraceContext>().is_ok());
    }

    #[test]
    fn it_reads_what_it_writes() {
        let trace = TraceContext::start();
        assert_eq!(trace.to_string().parse::<TraceContext>().expect("own output"), trace);
    }
}
