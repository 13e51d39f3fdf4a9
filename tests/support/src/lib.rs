//! What the tests stand on: real users, real images, real launchers, real hosts
//! and a real Slurm cluster, made on the spot and taken away again.
//!
//! Nothing here is a stand-in for a thing that can be had. What is missing fails
//! the test in words that name it; no test skips itself.
//!
//! | to have | take |
//! |---|---|
//! | the command as it is installed | [`command()`] |
//! | somebody who is not root | [`User`] |
//! | what a program wrote, how it ended, within a time | [`capture`], [`Running`] |
//! | a directory or file image, with an MPI inside | [`Image`], [`Form`] |
//! | the host's mpirun, hydra, or an MPI from PyPI | [`Mpi`] |
//! | two hosts with a network between them | [`Hosts`] |
//! | munge, slurmctld and two slurmd | [`SlurmCluster`] |
//! | proof that nothing was left behind | [`Leftovers`] |
//! | what an attacker brings along | [`attack`] |
//!
//! Everything taken down is taken down by `Drop`, also when a test panics. A test
//! process that is killed leaves no processes or mounts either: they live in PID
//! namespaces that end with it. Its users are removed by the next run.

pub mod attack;
mod hosts;
mod images;
mod layout;
mod leftovers;
mod mpi;
mod node;
mod place;
mod proc;
mod run;
mod slurm;
mod user;

pub use hosts::Hosts;
pub use images::{Form, Image};
pub use layout::{assert_layout, layout_program};
pub use leftovers::{Leftovers, DISK};
pub use mpi::Mpi;
pub use node::{Network, Node};
pub use place::{command, is_privileged, search_path, store, top};
pub use run::{capture, capture_within, Output, Running, LIMIT};
pub use slurm::SlurmCluster;
pub use user::User;
