//! The declarations of OpenPMIx 5, and the library itself, linked in.
//!
//! Nothing but what bindgen makes of `pmix.h` and `pmix_server.h`. The bridge's
//! `sys` module is the only user, and wraps every call.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case
)]
#![allow(clippy::all)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
