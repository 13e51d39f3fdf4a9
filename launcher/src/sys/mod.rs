//! The system calls that neither std nor nix wraps safely.
//!
//! Owns: every `unsafe` of the launcher, one call per function, returning owned
//! descriptors and `Errno`. Never: decides anything, logs, or composes calls.

pub mod lifeline;
pub mod loopdev;
pub mod mount;
pub mod pass;
pub mod process;
