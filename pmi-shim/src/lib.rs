//! Which process-management interface the host launcher speaks to this process,
//! and what that means for a container around it.
//!
//! An MPI library starts with nothing but what its launcher left in the
//! environment and the descriptor table: the address of a server, a connected
//! socket, a rank. A container that loses one of those, or that carries in one
//! thing too many, turns a job of N ranks into N jobs of one, or a hang. This
//! crate answers, from the environment and the descriptors alone:
//!
//! - [`detect()`]: who started us, over which interfaces, which rank we are, and
//!   what names the job ([`Host`]);
//! - [`Host::keeps`]: the variables that have to survive `--cleanenv`;
//! - [`Host::directories`]: the host directories that have to be visible at the
//!   same path, `--contain` or not;
//! - [`Host::hygiene`]: the variables that must not enter the image, or must
//!   enter it with another value;
//! - [`meet()`]: whether the launcher and the MPI in the image meet directly, over the
//!   bridge, or not at all;
//! - [`without_shared_namespace`]: what to set when the ranks of a node cannot
//!   have one user namespace.
//!
//! # How it is used
//! ```
//! use pmi_shim::Environment;
//! use std::ffi::OsString;
//!
//! let pairs: Vec<(OsString, OsString)> = std::env::vars_os().collect();
//! let environment = Environment::of(&pairs);
//! let host = pmi_shim::detect(&environment, |_descriptor| false);
//! for change in host.hygiene(&environment, &pmi_shim::Program::UNKNOWN) {
//!     println!("{}: {}", change.name().to_string_lossy(), change.why());
//! }
//! ```
//! The order for whoever composes the environment of the image: take the
//! caller's variables (with `--cleanenv`, those that [`Host::keeps`] names),
//! apply [`Host::hygiene`], and only then what the user asked for by name
//! (`--env`, `SINGULARITYENV_…`), which therefore always wins.
//!
//! # What it never does
//! It reads no file, opens no descriptor, calls nothing of the system, execs
//! nothing and mounts nothing: the launcher does, with what is answered here.
//! That also makes every answer a function of its arguments, and the recorded
//! environments under `tests/data` its tests.

mod alone;
mod detect;
mod directories;
#[cfg(test)]
mod document;
mod environment;
mod facts;
mod host;
mod hygiene;
mod identity;
mod meet;

pub mod client;
pub mod core;
pub mod munge;
pub mod names;
pub mod net;
pub mod seat;
pub mod server;
pub mod wire1;
pub mod wire2;

pub use alone::instead_of_worlds_of_one;
pub use detect::detect;
pub use directories::Why;
pub use environment::Environment;
pub use facts::{Choice, Client, Facts, Family, Mpi, Program};
pub use host::{Descriptor, Host, Interface, Launcher, Wire1};
pub use hygiene::{without_shared_namespace, Change};
pub use identity::{JobIdentity, Lacks};
pub use meet::{meet, to_meet_directly, Bridge, Meeting};
