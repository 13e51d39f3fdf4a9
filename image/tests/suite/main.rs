//! The crate as its callers meet it, on images made by the real tools.
//!
//! A tool that is not installed fails the test that needs it.

mod damaged;
mod elf;
mod foreign;
mod make;
mod mpi;
mod opening;
mod real;
mod seeds;
mod sif;
