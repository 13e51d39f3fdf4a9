//! What the command says of how it was built.
//!
//! Manual pages and completions are not made here: the built command writes them
//! (`singularity generate`), so that they are of the very definition it parses by.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let set = |name: &str| env::var(name).unwrap_or_default();
    assert!(
        set("CARGO_CFG_TARGET_OS") == "linux",
        "Singularity enters images by Linux namespaces and builds for Linux only, not for {}",
        set("TARGET")
    );
    println!("cargo:rustc-env=SINGULARITY_TARGET={}", set("TARGET"));
}
