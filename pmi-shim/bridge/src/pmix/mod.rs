//! PMIx on either side of the bridge: [`host`] makes a rank of the host's job out of
//! this process, [`app`] serves the programs in the image.
//!
//! Both only translate between libpmix and the neutral core. libpmix has threads and
//! calls that wait, the bridge has one loop that never does: [`mailbox`] lies between.

pub mod app;
mod blobs;
pub mod delegate;
mod describe;
pub mod host;
pub mod leavings;
mod mailbox;
mod neighbours;
pub mod together;

use std::os::fd::IntoRawFd;

/// Leaves of the settings that libpmix reads from its environment only those that
/// every server and client of ours needs, and takes away what would lead it
/// elsewhere. Before any thread is there.
///
/// `gds=hash`: job data come over the connection, and need no files of the host's;
/// `psec=native`: no munge, which the image may not reach.
fn settle_environment() {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PMIX_MCA_") {
            std::env::remove_var(name);
        }
    }
    for (name, value) in SETTINGS {
        std::env::set_var(name, value);
    }
    // What libpmix says of its own accord is for its developers: a client of PMIx 4.2
    // makes it complain of a message that ends early. Every status is looked at here.
    if let Ok(nowhere) = std::fs::File::options().write(true).open("/dev/null") {
        std::env::set_var("PMIX_OUTPUT_STDERR_FD", nowhere.into_raw_fd().to_string());
    }
}

/// The same for the programs, whose libpmix is another.
const SETTINGS: [(&str, &str); 2] = [("PMIX_MCA_gds", "hash"), ("PMIX_MCA_psec", "native")];
