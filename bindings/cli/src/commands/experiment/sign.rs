//! A signed configuration.

use std::{fs, path::Path};

use selvedge::{
    Error, ErrorKind, Result, Timestamp,
    experiment::Payload,
    experiments::{public_key, sign},
};

use crate::arguments::experiment::Sign;
use crate::output;

const MAKE: &str = "a key is 64 hex digits: `openssl rand -hex 32` makes one";

pub(super) fn run(options: &Sign) -> Result<()> {
    let payload =
        fs::read(&options.payload).map_err(|error| file("the payload cannot be read", &options.payload, error))?;
    let read = Payload::parse(&payload).map_err(|error| error.with("file", options.payload.display()))?;
    if let Some(problem) = read.problems().first() {
        // Devices would leave it out; whoever signs can still mend it.
        return Err(Error::new(ErrorKind::InvalidInput, "cli.experiment", "a part of the payload cannot be read")
            .with(problem.kind, &problem.key)
            .with("why", problem.error.to_string()));
    }
    let secret = secret(&options.key)?;
    let signed = sign(&payload, &options.key_id, &secret, Timestamp::now())?;
    if options.output == Path::new("-") {
        output::print(&format!("{signed}\n"))?;
    } else {
        fs::write(&options.output, signed)
            .map_err(|error| file("the configuration cannot be written", &options.output, error))?;
    }
    output::note(&format!("devices trust the key {} = {}", options.key_id, hex(&public_key(&secret))));
    Ok(())
}

fn secret(path: &Path) -> Result<[u8; 32]> {
    let text = fs::read_to_string(path).map_err(|error| file("the key cannot be read", path, error).advise(MAKE))?;
    unhex(text.trim()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "cli.experiment", "this is no secret key")
            .with("file", path.display())
            .advise(MAKE)
    })
}

fn file(message: &'static str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::InvalidInput, "cli.experiment", message).with("file", path.display()).caused_by(error)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 32 bytes of 64 hex digits.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}
