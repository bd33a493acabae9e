//! Phones, without a phone's toolchain: what a target needs, and where it comes from.

pub(crate) mod source;

/// The targets that the packages are for. What they share: core, SQLite and the FFI crate.
pub(crate) const TARGETS: [&str; 6] = [
    "aarch64-linux-android",
    "armv7-linux-androideabi",
    "x86_64-linux-android",
    "aarch64-apple-ios",
    "aarch64-apple-ios-sim",
    "aarch64-apple-darwin",
];
