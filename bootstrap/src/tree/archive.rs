//! A tree becomes a tar archive.
