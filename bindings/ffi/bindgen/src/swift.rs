//! Generates Swift. `cargo xtask bindings` calls it.

fn main() {
    uniffi::uniffi_bindgen_swift();
}
