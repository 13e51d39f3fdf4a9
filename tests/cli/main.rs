//! The `singularity` command as an ordinary user meets it: its options, what is
//! inside an image, what passes through unchanged, every format, every error.
//!
//! Each test has a user of its own and fails if anything of that user's is left
//! behind; see [`ground::Ground`].

mod binds;
mod changes;
mod contain;
mod damage;
mod descriptors;
mod endings;
mod environment;
mod errors;
mod formats;
mod generated;
mod ground;
mod home;
mod inside;
mod installed;
mod kills;
mod limits;
mod messages;
mod namespaces;
mod odd_images;
mod pid;
mod root;
mod served;
mod signals;
mod site;
mod stage;
mod terminal;
mod verbs;
mod x11;
