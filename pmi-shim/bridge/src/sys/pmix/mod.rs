//! libpmix, behind safe types.
//!
//! Every `unsafe` of the bridge is here, one call a block. It owns nothing but the
//! translation: [`client`] towards the host's server, [`server`] towards the programs
//! in the image, [`info`] for what both pass along. What to say is decided elsewhere.

pub mod client;
pub mod info;
pub mod server;

use std::ffi::{c_char, CStr, CString};
use std::fmt;

/// The number of a process in its job.
pub type Rank = u32;

/// What a call of libpmix answered: `pmix_status_t`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub i32);

impl Status {
    pub(crate) const SUCCESS: Status = Status(libpmix::PMIX_SUCCESS as i32);
    /// What was done is complete, and no callback follows.
    pub(crate) const DONE: Status = Status(libpmix::PMIX_OPERATION_SUCCEEDED);
    /// Something is wrong.
    pub const ERROR: Status = Status(libpmix::PMIX_ERROR);
    /// There is no such thing.
    pub const NOT_FOUND: Status = Status(libpmix::PMIX_ERR_NOT_FOUND);
    /// The other side does not do this.
    pub const NOT_SUPPORTED: Status = Status(libpmix::PMIX_ERR_NOT_SUPPORTED);

    /// The other side has gone.
    pub fn is_lost_connection(self) -> bool {
        matches!(
            self.0,
            libpmix::PMIX_ERR_LOST_CONNECTION
                | libpmix::PMIX_ERR_LOST_CONNECTION_TO_SERVER
                | libpmix::PMIX_ERR_UNREACH
        )
    }

    /// The status as a result.
    ///
    /// # Errors
    /// The status itself, where it is no success.
    pub(crate) fn check(code: i32) -> Result<(), Status> {
        match Status(code) {
            Status::SUCCESS | Status::DONE => Ok(()),
            failed => Err(failed),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: it looks the number up in a constant table, whose names live as
        // long as the program; unknown ones have a name too.
        let name = unsafe { libpmix::PMIx_Error_string(self.0) };
        match copied(name) {
            Some(name) => write!(formatter, "{}", name.to_string_lossy()),
            None => write!(formatter, "PMIx status {}", self.0),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The name of a process, as libpmix takes it.
pub(crate) fn process(nspace: &CStr, rank: Rank) -> libpmix::pmix_proc_t {
    let mut name = libpmix::pmix_proc_t {
        nspace: [0; 256],
        rank,
    };
    // The last byte stays NUL.
    for (place, byte) in name.nspace[..255].iter_mut().zip(nspace.to_bytes()) {
        *place = *byte as c_char;
    }
    name
}

/// The namespace in a name that libpmix filled in.
pub(crate) fn nspace_of(name: &libpmix::pmix_proc_t) -> CString {
    let bytes: Vec<u8> = name
        .nspace
        .iter()
        .map(|&byte| byte as u8)
        .take_while(|&byte| byte != 0)
        .collect();
    CString::new(bytes).unwrap_or_default()
}

/// A copy of a C string; `None` of no string.
pub(crate) fn copied(text: *const c_char) -> Option<CString> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and libpmix's strings end with NUL and are not written to
    // while the call that handed them out has not returned.
    Some(unsafe { CStr::from_ptr(text) }.to_owned())
}

/// A copy of what libpmix has at an address: a block of data, or an array of names.
pub(crate) fn copied_slice<T: Copy>(start: *const T, length: usize) -> Vec<T> {
    if start.is_null() || length == 0 {
        return Vec::new();
    }
    // SAFETY: not null, and libpmix says with the length how many there are; they
    // are not written to while the call that handed them out has not returned.
    unsafe { std::slice::from_raw_parts(start, length) }.to_vec()
}

/// Gives back what libpmix allocated with malloc(3).
pub(crate) fn free<T>(start: *mut T) {
    // SAFETY: the pointer comes from a function of libpmix that leaves it to the
    // caller to free, or is null; nothing of ours points there any more.
    unsafe { libc::free(start.cast()) }
}

/// Carries a callback of libpmix out: a panic must not unwind into C.
pub(crate) fn guarded<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(fallback)
}
