//! Idempotency keys: one effect for one intent, however often it arrives.
//!
//! The rules follow the IETF draft *The Idempotency-Key HTTP Header Field*: a missing key is 400, a key in flight is 409, a
//! key with another payload is 422, and a completed one is replayed. A key names an **intent**, not a payload: two honest,
//! equal purchases are two intents, and a retry after midnight is still the same one. The payload's [`Fingerprint`] is only
//! compared.
//!
//! A claim expires, so a crash cannot block a key for ever, and it carries a fencing token, so whoever lost it cannot settle.

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, ErrorKind, Result};

/// A key within the scope it is valid in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// Whose key and for what: `tenant/operation`. Never trust a client to name it, or one could read another's answers.
    pub scope: String,
    /// The client's key.
    pub key: String,
}

impl IdempotencyKey {
    /// The most bytes a key or scope may have.
    pub const MAX: usize = 255;

    /// A key within a scope.
    ///
    /// # Errors
    /// `InvalidInput` when either is empty, longer than [`IdempotencyKey::MAX`] bytes, or not printable ASCII.
    pub fn new(scope: impl Into<String>, key: impl Into<String>) -> Result<Self> {
        let (scope, key) = (scope.into(), key.into());
        for (field, value) in [("scope", &scope), ("key", &key)] {
            if value.is_empty() || value.len() > Self::MAX || !value.bytes().all(|b| (0x20..0x7f).contains(&b)) {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    "idempotency.key",
                    "the idempotency key cannot be used",
                )
                .with("field", field)
                .with("bytes", value.len())
                .advise(format!("use 1 to {} printable ASCII characters", Self::MAX)));
            }
        }
        Ok(Self { scope, key })
    }

    /// A key for another system that takes part in this one's effect: the same in every try, and another for each `step`.
    /// It tells nothing of this key and is never the client's own, which the other system may know from somebody else.
    ///
    /// ```
    /// use selvedge_core::idempotency::IdempotencyKey;
    ///
    /// let key = IdempotencyKey::new("acme/payouts", "invoice-9")?;
    /// assert_eq!(key.derived("charge"), key.derived("charge"));
    /// assert_ne!(key.derived("charge"), key.derived("mail"));
    /// # Ok::<(), selvedge_core::Error>(())
    /// ```
    pub fn derived(&self, step: &str) -> String {
        let mut digest = Sha256::new();
        digest.update(b"selvedge-1-derived\0");
        for part in [&*self.scope, &*self.key, step] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Fingerprint(digest.finalize().into()).to_string()
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scope, self.key)
    }
}

/// A digest of what a request says, to notice one key with two payloads.
///
/// JSON is brought into canonical form first (RFC 8785), so that the order of members and white space do not matter.
///
/// ```
/// use selvedge_core::idempotency::Fingerprint;
///
/// let one = Fingerprint::of("orders.create", br#"{"cents": 500, "item": "tea"}"#);
/// let same = Fingerprint::of("orders.create", br#"{"item":"tea","cents":5e2}"#);
/// let other = Fingerprint::of("orders.create", br#"{"item":"tea","cents":501}"#);
/// assert_eq!(one, same);
/// assert_ne!(one, other);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a payload sent for an operation (or to a method and path).
    pub fn of(operation: &str, payload: &[u8]) -> Self {
        let canonical = serde_json::from_slice::<serde_json::Value>(payload)
            .ok()
            .and_then(|value| serde_json_canonicalizer::to_vec(&value).ok());
        // The version and the form are part of the digest, so that a later rule can never look like a mismatch by chance.
        let mut digest = Sha256::new();
        digest.update(if canonical.is_some() { b"selvedge-1-json\0".as_slice() } else { b"selvedge-1-raw\0" });
        digest.update((operation.len() as u64).to_be_bytes());
        digest.update(operation.as_bytes());
        digest.update(canonical.as_deref().unwrap_or(payload));
        Self(digest.finalize().into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Asks for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The key.
    pub key: IdempotencyKey,
    /// What the request says.
    pub fingerprint: Fingerprint,
    /// How long the claim holds without being settled; after that another request may take it over.
    pub hold: Duration,
    /// How long the answer is kept. Longer than any phone may be offline, or its retry is a second effect.
    pub retention: Duration,
}

impl ClaimRequest {
    /// 30 seconds to do the work, 7 days to remember it.
    pub fn new(key: IdempotencyKey, fingerprint: Fingerprint) -> Self {
        Self { key, fingerprint, hold: Duration::from_secs(30), retention: Duration::from_secs(7 * 86_400) }
    }

    /// Sets how long the claim holds.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Sets how long the answer is kept.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }
}

/// What a Store found.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// Yours: do the work and settle the ticket.
    Fresh(Ticket),
    /// Another request has it.
    InFlight {
        /// When its claim runs out at the latest.
        retry_after: Duration,
    },
    /// It was done; this is the answer.
    Done(Answer),
    /// The key was used for another payload.
    Mismatch,
}

/// The right to settle one key: a fencing token.
#[derive(Clone, Debug, PartialEq)]
pub struct Ticket {
    /// The key.
    pub key: IdempotencyKey,
    /// The fencing token, random and new at each claim.
    pub token: i64,
    /// Which attempt this is, counted from 1: more than 1 after a crash or an abandoned try.
    pub attempt: u32,
    /// How far an earlier attempt came.
    pub point: Option<RecoveryPoint>,
}

impl Ticket {
    /// The error of a settlement with a claim that is no longer held.
    pub fn lost(&self) -> Error {
        Error::new(ErrorKind::LeaseLost, "store.commit", "the claim on this idempotency key is no longer held")
            .with("key", &self.key)
            .advise("drop the result: another request took the key over after the claim ran out")
    }
}

/// How far a handler of several steps came, to go on from there after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// The name of the step that is done.
    pub name: String,
    /// What the next step needs.
    pub data: Bytes,
}

/// The response that is replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers worth repeating, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// A JSON answer.
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: vec![("content-type".into(), "application/json".into())], body: body.into() }
    }

    /// Whether the answer is final: successes and refusals that a retry would not change. Others are not kept, so that a
    /// retry is a new try: 408, 425, 429 and all 5xx.
    pub fn is_definitive(&self) -> bool {
        is_definitive(self.status)
    }
}

/// Whether a response with this HTTP status is final for its key.
pub fn is_definitive(status: u16) -> bool {
    matches!(status, 200..=499) && !matches!(status, 408 | 409 | 425 | 429)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn white_space_and_member_order_never_change_a_fingerprint(a in any::<i32>(), b in "\\PC{0,20}") {
            let b = serde_json::Value::String(b).to_string();
            let one = format!("{{\"a\":{a},\"b\":{b}}}");
            let two = format!("{{ \"b\" : {b} ,\n \"a\" : {a} }}");
            prop_assert_eq!(Fingerprint::of("op", one.as_bytes()), Fingerprint::of("op", two.as_bytes()));
        }

        #[test]
        fn different_payloads_and_operations_differ(a in proptest::collection::vec(any::<u8>(), 0..50), b in proptest::collection::vec(any::<u8>(), 0..50)) {
            prop_assume!(serde_json::from_slice::<serde_json::Value>(&a).is_err() && a != b);
            prop_assert_ne!(Fingerprint::of("op", &a), Fingerprint::of("op", &b));
            prop_assert_ne!(Fingerprint::of("op", &a), Fingerprint::of("po", &a));
        }
    }

    proptest! {
        #[test]
        fn a_derived_key_is_usable_and_no_others(
            one in ("[ -~]{1,9}", "[ -~]{1,9}", "\\PC{0,9}"), other in ("[ -~]{1,9}", "[ -~]{1,9}", "\\PC{0,9}"),
        ) {
            let derived = |(scope, key, step): &(String, String, String)| {
                IdempotencyKey::new(scope, key).map(|key| key.derived(step))
            };
            let (first, second) = (derived(&one).unwrap(), derived(&other).unwrap());
            prop_assert_eq!(first == second, one == other);
            prop_assert!(IdempotencyKey::new("provider", first).is_ok());
        }
    }

    #[test]
    fn a_body_hash_would_make_two_purchases_one_and_a_key_does_not() {
        // The article's key is a hash of the body: equal for two honest, equal purchases. Ours names the intent.
        let body = br#"{"item":"tea","cents":500}"#;
        assert_eq!(Fingerprint::of("orders.create", body), Fingerprint::of("orders.create", body));
        let one = crate::Intent::new("orders.create", body.as_slice());
        let two = crate::Intent::new("orders.create", body.as_slice());
        assert_ne!(one.key(), two.key());
    }

    #[test]
    fn transient_answers_are_not_final() {
        assert!([200, 201, 202, 400, 404, 422].into_iter().all(is_definitive));
        assert!(![408, 409, 425, 429, 500, 502, 503, 504].into_iter().any(is_definitive));
    }
}
