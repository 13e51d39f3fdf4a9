//! Bindings of Slurm's spank.h: made by bindgen where the header and libclang are
//! installed, otherwise those that are checked in.

use std::path::{Path, PathBuf};

const CHECKED_IN: &str = "src/bindings.rs";
const WRAPPER: &str = "../wrapper-headers/spank.h";

/// Directories beside the compiler's own that may have slurm/spank.h.
const PLACES: [&str; 3] = ["/opt/slurm/include", "/usr/local/include", "/usr/include"];

fn main() {
    println!("cargo::rerun-if-changed={WRAPPER}");
    println!("cargo::rerun-if-changed={CHECKED_IN}");
    println!("cargo::rerun-if-env-changed=SLURM_INCLUDE");
    let directory = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let out = PathBuf::from(directory).join("bindings.rs");
    let made = include_directory().and_then(|include| generate(&include));
    let text = made.unwrap_or_else(|| {
        std::fs::read_to_string(CHECKED_IN).expect("the bindings are in the source tree")
    });
    std::fs::write(&out, text).expect("OUT_DIR can be written to");
}

/// Where slurm/spank.h is: below `$SLURM_INCLUDE`, or where systems have it.
fn include_directory() -> Option<PathBuf> {
    let chosen = std::env::var_os("SLURM_INCLUDE").map(PathBuf::from);
    chosen
        .into_iter()
        .chain(PLACES.map(PathBuf::from))
        .find(|place| place.join("slurm/spank.h").is_file())
}

fn generate(include: &Path) -> Option<String> {
    println!(
        "cargo::rerun-if-changed={}",
        include.join("slurm/spank.h").display()
    );
    // bindgen panics where libclang cannot be loaded.
    std::panic::set_hook(Box::new(|_| {}));
    let made = std::panic::catch_unwind(|| {
        bindgen::Builder::default()
            .header(WRAPPER)
            .clang_arg(format!("-I{}", include.display()))
            .allowlist_type("spank_option")
            .allowlist_type("spank_item")
            .allowlist_type("spank_context")
            .allowlist_function("spank_(option_register|context|get_item|getenv|setenv|unsetenv)")
            .allowlist_function("slurm_(error|debug)")
            // Several hundred constants, of which 0 is the one that counts.
            .blocklist_type("slurm_err_t")
            .raw_line("pub type slurm_err_t = ::std::os::raw::c_uint;")
            .default_enum_style(bindgen::EnumVariation::Consts)
            .layout_tests(true)
            .generate_comments(false)
            .generate()
            .ok()
            .map(|bindings| bindings.to_string())
    });
    let _ = std::panic::take_hook();
    made.ok().flatten()
}
