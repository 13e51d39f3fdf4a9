//! What the tools that fill file systems leave out, put right in place.
//!
//! Owns: owners, times and modes of files in an ext or EROFS image that was just
//! written. Never: content, or anything that would move.

pub(crate) mod erofs;
pub(crate) mod ext;
