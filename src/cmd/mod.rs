//! The verbs, one file each.

pub mod builder;
pub mod config;
pub mod enter;
pub mod exec;
pub mod generate;
pub mod mpi;
pub mod run;
pub mod shell;
pub mod test;
