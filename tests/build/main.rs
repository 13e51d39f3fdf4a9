//! The verbs that make, change and look at images, as root and as an ordinary user
//! meet them, on real package archives and with real tools.
//!
//! Each test has a user of its own and fails if anything of that user's is left
//! behind; see [`ground::Ground`], which `tests/cli` has too.

#[allow(dead_code)]
#[path = "../cli/ground.rs"]
mod ground;

mod agents_apt;
mod agents_rpm;
mod definitions;
mod examples;
mod formats_round;
mod oci_faults;
mod oci_pull;
mod oci_server;
mod sif_peer;
mod space_ends;
mod space_users;
mod usage;
mod web;
mod writable_images;
