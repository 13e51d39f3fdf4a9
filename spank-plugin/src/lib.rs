//! The Slurm plugin: `srun --singularity-image=IMAGE ./app`.
//!
//! Slurm calls the hooks ([`hooks`]); they come to one of three places:
//! [`client`] in srun, sbatch and salloc, where options are checked and made
//! absolute; [`step`] in slurmstepd, where the image is prepared once for the
//! node; [`task`] in each task, which enters it. The launcher crate does the work.
//!
//! Owns: options, the site's configuration, the life cycle of a step. Never:
//! ends a daemon, starts a thread, writes to standard output, lets a panic out.

#![deny(unsafe_code)]

pub mod client;
pub mod config;
pub mod environment;
#[allow(unsafe_code)]
pub mod ffi;
#[allow(unsafe_code)]
pub mod hooks;
pub mod options;
pub mod prefix;
pub mod scripts;
pub mod settings;
pub mod slurm_conf;
pub mod step;
pub mod task;

use launcher::Error;

/// A failure as one line.
pub fn line(error: &Error) -> String {
    match error.remedy() {
        Some(hint) => format!("singularity: {error} (hint: {})", in_our_words(hint)),
        None => format!("singularity: {error}"),
    }
}

/// A hint of the launcher's with the options as srun has them: `--pwd` is
/// `--singularity-pwd`.
fn in_our_words(hint: &str) -> String {
    let mut hint = hint.to_owned();
    for known in &options::TABLE {
        let name = known.name.to_string_lossy();
        if let Some(short) = name.strip_prefix("singularity-") {
            hint = hint.replace(&format!("--{short}"), &format!("--{name}"));
        }
    }
    hint
}
