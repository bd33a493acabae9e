//! Payloads that come encrypted.

use aes::Aes128;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cbc::cipher::{BlockModeDecrypt, KeyIvInit, block_padding::Pkcs7};
use selvedge_core::{Error, ErrorKind, Result};

/// Decrypts a payload, or a part of one: AES-128 in CBC mode with PKCS #7 padding (NIST SP 800-38A, RFC 5652), written as
/// `iv.ciphertext` in base64, as the [GrowthBook SDK specification](https://docs.growthbook.io/lib/build-your-own) has it.
///
/// The mode does not authenticate: a wrong key is found by chance alone, so what comes out still has to be checked.
///
/// ```
/// use selvedge_experiments::decrypt::decrypt;
///
/// let text = "m5ylFM6ndyOJA2OPadubkw==.Uu7ViqgKEt/dWvCyhI46q088PkAEJbnXKf3KPZjf9IEQQ+A8fojNoxw4wIbPX3aj";
/// assert_eq!(decrypt(text, "Zvwv/+uhpFDznZ6SX28Yjg==")?, r#"{"feature":{"defaultValue":true}}"#);
/// # Ok::<(), selvedge_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidInput` for a text or key that is not written this way, and for a key that does not fit the text.
pub fn decrypt(text: &str, key: &str) -> Result<String> {
    let invalid = |message: &str| Error::new(ErrorKind::InvalidInput, "experiments.decrypt", message);
    let (iv, ciphertext) = text.split_once('.').ok_or_else(|| {
        invalid("the text has no dot between its initialisation vector and the rest")
            .advise("check that it is encrypted")
    })?;
    let decode = |part: &str, name: &str| {
        STANDARD.decode(part).map_err(|error| invalid(&format!("the {name} is not base64")).caused_by(error))
    };
    let mut bytes = decode(ciphertext, "text")?;
    let cipher = cbc::Decryptor::<Aes128>::new_from_slices(&decode(key, "key")?, &decode(iv, "initialisation vector")?)
        .map_err(|_| invalid("key and initialisation vector have to be of 16 bytes each"))?;
    let fits = |message: &str| invalid(message).advise("check that the key belongs to this payload");
    let length = match cipher.decrypt_padded::<Pkcs7>(&mut bytes) {
        Ok(plain) => plain.len(),
        Err(_) => return Err(fits("the key does not fit the text, or the text was cut off")),
    };
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|_| fits("the key does not fit the text"))
}
