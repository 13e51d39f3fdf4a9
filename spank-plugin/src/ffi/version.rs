//! The symbols by which Slurm knows a plugin, and the one of them that has to
//! tell the release of the running Slurm.
//!
//! Slurm refuses a plugin whose `plugin_version` is not of its own release
//! (`src/common/plugin.c`, `plugin_peek`). The symbol is data, and is read after
//! the library was loaded: so it is written while it is being loaded.

use std::ffi::{c_long, c_uint};
use std::sync::atomic::{AtomicU32, Ordering};

use super::symbols;

/// The plugin's name, by which Slurm groups its options.
#[no_mangle]
#[used]
pub static plugin_name: [u8; 12] = *b"singularity\0";

/// What it is.
#[no_mangle]
#[used]
pub static plugin_type: [u8; 6] = *b"spank\0";

/// The release it is for: the running one.
#[no_mangle]
#[used]
pub static plugin_version: AtomicU32 = AtomicU32::new(0);

/// The version of the plugin itself.
#[no_mangle]
#[used]
pub static spank_plugin_version: c_uint = 1;

#[used]
#[link_section = ".init_array"]
static SET_VERSION: extern "C" fn() = set_version;

extern "C" fn set_version() {
    if let Some(number) = symbols::api_version() {
        plugin_version.store(release(number), Ordering::Relaxed);
    }
}

/// Interface numbers below 41 (24.05) came with irregular releases.
const EARLY: [(c_long, u32, u32); 7] = [
    (34, 19, 5),
    (35, 20, 2),
    (36, 20, 11),
    (37, 21, 8),
    (38, 22, 5),
    (39, 23, 2),
    (40, 23, 11),
];

/// `SLURM_VERSION_NUM(major, minor, 0)` for what slurm_api_version(3) returns, of
/// which the upper part is the interface's number. From 24.05 on there are two
/// releases a year, in May and November.
fn release(api: c_long) -> u32 {
    let number = api >> 16;
    let (major, minor) = match EARLY.iter().find(|(early, ..)| *early == number) {
        Some((_, major, minor)) => (*major, *minor),
        None => {
            let since = u32::try_from(number - 41).unwrap_or(0);
            (24 + since / 2, if since % 2 == 0 { 5 } else { 11 })
        }
    };
    major << 16 | minor << 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_has_its_number() {
        for (api, major, minor) in [
            (37, 21, 8),
            (38, 22, 5),
            (39, 23, 2),
            (40, 23, 11),
            (41, 24, 5),
            (42, 24, 11),
            (43, 25, 5),
            (44, 25, 11),
            (45, 26, 5),
        ] {
            assert_eq!(release(api << 16), major << 16 | minor << 8, "{api}");
            assert_eq!(
                release(api << 16 | 0x0102),
                major << 16 | minor << 8,
                "{api}"
            );
        }
    }
}
