//! Signed configurations: a JSON Web Signature (RFC 7515) in compact form, with Ed25519 (RFC 8037).

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use selvedge_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

const OPERATION: &str = "experiments.config";
/// What is signed for another purpose with the same key is no configuration.
const TYPE: &str = "selvedge-config";

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
    issued_at: Timestamp,
}

/// Signs a payload: what a build step does once, before the file is put on a server.
///
/// The result is one line, `header.payload.signature`, each part in URL-safe base64. The header names the algorithm
/// (`EdDSA`), the key (`kid`) and the moment it was signed (`issued_at`, in microseconds): a device takes no configuration
/// that is older than the one it has.
///
/// ```
/// use selvedge_core::Timestamp;
/// use selvedge_experiments::sign;
///
/// let secret = [7; 32]; // from your secret store
/// let signed = sign(br#"{"features":{}}"#, "2027-a", &secret, Timestamp::now())?;
/// assert_eq!(signed.split('.').count(), 3);
/// # Ok::<(), selvedge_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidInput` for a key id that cannot be written as JSON.
pub fn sign(payload: &[u8], key_id: &str, secret: &[u8; 32], issued_at: Timestamp) -> Result<String> {
    let header = Header { alg: "EdDSA", typ: TYPE, kid: key_id, issued_at };
    let header = serde_json::to_vec(&header).map_err(|error| {
        Error::new(ErrorKind::InvalidInput, OPERATION, "the header cannot be written").caused_by(error)
    })?;
    let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(payload));
    let signature = SigningKey::from_bytes(secret).sign(signed.as_bytes());
    Ok(format!("{signed}.{}", BASE64.encode(signature.to_bytes())))
}

/// The public key that belongs to a secret one: what devices trust.
pub fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(secret).verifying_key().to_bytes()
}

/// The keys that may sign configurations, by id. Trust the next one before the last one stops signing.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedKeys(BTreeMap<String, VerifyingKey>);

/// What a signature vouches for.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) payload: Vec<u8>,
    pub(crate) issued_at: Timestamp,
}

impl TrustedKeys {
    pub(crate) fn add(&mut self, id: &str, key: &[u8; 32]) -> Result<()> {
        let key = VerifyingKey::from_bytes(key).ok().filter(|key| !key.is_weak()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, OPERATION, "this is no public key of Ed25519").with("key", id)
        })?;
        self.0.insert(id.to_owned(), key);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks a signed configuration. Nothing in it is believed before its signature is.
    pub(crate) fn verify(&self, text: &[u8]) -> Result<Signed> {
        let malformed = || {
            Error::new(ErrorKind::Damaged, OPERATION, "the configuration is no signed one, or was cut off")
                .with("bytes", text.len())
                .advise("serve what `sign` wrote, unchanged")
        };
        let text = std::str::from_utf8(text).map_err(|_| malformed())?.trim_end();
        let (signed, signature) = text.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
        let decode = |part: &str| BASE64.decode(part).map_err(|error| malformed().caused_by(error));
        let header = decode(header)?;
        let header: Header<'_> = serde_json::from_slice(&header).map_err(|error| malformed().caused_by(error))?;
        let refused = |why: &str| {
            let kid: String = header.kid.chars().take(100).collect();
            Error::new(ErrorKind::PermissionDenied, OPERATION, why).with("key", kid)
        };
        if header.alg != "EdDSA" || header.typ != TYPE {
            return Err(refused("the configuration is signed in another way, or for another purpose"));
        }
        let key = self.0.get(header.kid).ok_or_else(|| {
            refused("the configuration is signed with a key that is not trusted")
                .advise("trust the key in a release before it signs")
        })?;
        let signature = Signature::from_slice(&decode(signature)?).map_err(|_| malformed())?;
        key.verify_strict(signed.as_bytes(), &signature)
            .map_err(|_| refused("the configuration's signature does not fit it"))?;
        Ok(Signed { payload: decode(payload)?, issued_at: header.issued_at })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: [u8; 32] = [7; 32];
    const OTHER: [u8; 32] = [8; 32];

    fn trusted(ids: &[(&str, &[u8; 32])]) -> TrustedKeys {
        let mut keys = TrustedKeys::default();
        for (id, secret) in ids {
            keys.add(id, &public_key(secret)).unwrap();
        }
        keys
    }

    fn signed() -> String {
        sign(br#"{"features":{}}"#, "a", &SECRET, Timestamp(5)).unwrap()
    }

    fn refused(keys: &TrustedKeys, text: &str) -> ErrorKind {
        keys.verify(text.as_bytes()).unwrap_err().kind()
    }

    #[test]
    fn what_a_trusted_key_signed_is_read() {
        let read = trusted(&[("a", &SECRET)]).verify(signed().as_bytes()).unwrap();
        assert_eq!((&read.payload[..], read.issued_at), (&br#"{"features":{}}"#[..], Timestamp(5)));
    }

    #[test]
    fn keys_rotate() {
        let both = trusted(&[("a", &SECRET), ("b", &OTHER)]);
        let new = sign(b"{}", "b", &OTHER, Timestamp(6)).unwrap();
        assert!(both.verify(signed().as_bytes()).is_ok() && both.verify(new.as_bytes()).is_ok());
        assert_eq!(refused(&trusted(&[("b", &OTHER)]), &signed()), ErrorKind::PermissionDenied, "the old one is gone");
        assert_eq!(
            refused(&trusted(&[("a", &OTHER)]), &signed()),
            ErrorKind::PermissionDenied,
            "another key of its name"
        );
    }

    #[test]
    fn another_algorithm_or_purpose_is_refused() {
        let keys = trusted(&[("a", &SECRET)]);
        for (from, to) in [("EdDSA", "none"), ("EdDSA", "HS256"), (TYPE, "JWT")] {
            let header = String::from_utf8(BASE64.decode(signed().split('.').next().unwrap()).unwrap()).unwrap();
            let header = BASE64.encode(header.replace(from, to));
            let text = format!("{header}.{}", BASE64.encode("{}"));
            let signature = SigningKey::from_bytes(&SECRET).sign(text.as_bytes()).to_bytes();
            assert_eq!(
                refused(&keys, &format!("{text}.{}", BASE64.encode(signature))),
                ErrorKind::PermissionDenied,
                "{to}"
            );
        }
    }

    #[test]
    fn a_weak_key_is_none() {
        let mut keys = TrustedKeys::default();
        // The neutral element: with it some signatures fit everything.
        let mut weak = [0; 32];
        weak[0] = 1;
        assert_eq!(keys.add("weak", &weak).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(keys.is_empty());
    }

    proptest! {
        #[test]
        fn what_was_cut_off_or_changed_anywhere_is_refused(at in 0..1000usize, change in 1..=127u8) {
            let (keys, text) = (trusted(&[("a", &SECRET)]), signed());
            let at = at % text.len();
            prop_assert!(keys.verify(&text.as_bytes()[..at]).is_err());
            let mut changed = text.into_bytes();
            changed[at] ^= change;
            prop_assert!(keys.verify(&changed).is_err(), "byte {at}");
        }

        #[test]
        fn nothing_makes_it_panic(text in "\\PC{0,80}|[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){0,3}") {
            prop_assert!(trusted(&[("a", &SECRET)]).verify(text.as_bytes()).is_err());
        }
    }
}
