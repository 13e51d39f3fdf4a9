//! Slurm's side: its functions, its handle, its log, and what it looks for in us.
//!
//! Owns: every `unsafe` of the plugin. Never: decides anything.
//!
//! Every function of Slurm's is looked up when it is used. A direct reference to
//! one that the running Slurm lacks would make the whole plugin unloadable
//! (Rust links with `-z now`), and the tests and the manual page link without any.

pub mod symbols;
mod version;

use std::ffi::{c_char, c_int, CStr, CString, OsString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::OnceLock;

#[allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    dead_code
)]
pub mod bindings {
    //! As bindgen makes them of spank.h, with its layout checks.
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

use bindings::{spank_item, spank_option, spank_t};
use symbols::Symbols;

/// Where the plugin is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// srun.
    Local,
    /// sbatch or salloc.
    Allocator,
    /// slurmstepd.
    Remote,
    /// slurmd, a prolog, an epilog, or what a later Slurm has.
    Other,
}

/// Where this process stands; see spank(8).
pub fn context() -> Context {
    let Some(ask) = Symbols::get().context else {
        return Context::Other;
    };
    // SAFETY: spank_context takes no argument and only reads Slurm's own state.
    match unsafe { ask() } {
        bindings::spank_context_S_CTX_LOCAL => Context::Local,
        bindings::spank_context_S_CTX_ALLOCATOR => Context::Allocator,
        bindings::spank_context_S_CTX_REMOTE => Context::Remote,
        _ => Context::Other,
    }
}

/// Writes one line to Slurm's log; in srun, sbatch, salloc and a task that is
/// standard error.
pub fn log_error(text: &str) {
    log(Symbols::get().error, text);
}

/// The same, for who debugs.
pub fn log_debug(text: &str) {
    log(Symbols::get().debug, text);
}

fn log(function: Option<symbols::Log>, text: &str) {
    let line = CString::new(text.replace(['\n', '\0'], " ")).unwrap_or_default();
    if let Some(function) = function {
        // SAFETY: both are live NUL-terminated strings, and the format takes exactly one.
        unsafe { function(c"%s".as_ptr(), line.as_ptr()) };
    }
}

/// Slurm's handle for one call of one hook.
#[derive(Debug, Clone, Copy)]
pub struct Spank(spank_t);

impl Spank {
    /// Takes the handle a hook was called with.
    pub fn new(handle: spank_t) -> Self {
        Self(handle)
    }

    /// Registers an option; `option` and its strings live for ever, as statics do.
    pub fn register(self, option: &'static mut spank_option) -> bool {
        Symbols::get().option_register.is_some_and(|register| {
            // SAFETY: the handle is the one Slurm called the hook with, during that call; Slurm
            // copies what the option holds.
            unsafe { register(self.0, option) == 0 }
        })
    }

    fn number<T: Default>(self, item: spank_item) -> Option<T> {
        let get = Symbols::get().get_item?;
        let mut value = T::default();
        // SAFETY: the handle is live during the hook, and spank.h has this item write one number
        // of T's size, which the callers below choose.
        (unsafe { get(self.0, item, &raw mut value) } == 0).then_some(value)
    }

    /// The user's id.
    pub fn uid(self) -> Option<u32> {
        self.number(bindings::spank_item_S_JOB_UID)
    }

    /// The user's primary group.
    pub fn gid(self) -> Option<u32> {
        self.number(bindings::spank_item_S_JOB_GID)
    }

    /// The number of the job.
    pub fn job(self) -> Option<u32> {
        self.number(bindings::spank_item_S_JOB_ID)
    }

    /// The number of the step.
    pub fn step(self) -> Option<u32> {
        self.number(bindings::spank_item_S_JOB_STEPID)
    }

    /// How many tasks the step has on all nodes.
    pub fn tasks(self) -> Option<u32> {
        self.number(bindings::spank_item_S_JOB_TOTAL_TASK_COUNT)
    }

    /// The rank of this task.
    pub fn rank(self) -> Option<u32> {
        self.number(bindings::spank_item_S_TASK_GLOBAL_ID)
    }

    /// Which of the step's tasks on this node this is, from 0 on.
    pub fn local_number(self) -> Option<u32> {
        self.number(bindings::spank_item_S_TASK_ID)
    }

    /// The user's supplementary groups.
    pub fn groups(self) -> Option<Vec<u32>> {
        let get = Symbols::get().get_item?;
        let mut groups: *mut libc::gid_t = std::ptr::null_mut();
        let mut count: c_int = 0;
        let item = bindings::spank_item_S_JOB_SUPPLEMENTARY_GIDS;
        // SAFETY: the handle is live during the hook, and spank.h has this item write a pointer
        // to an array and its length.
        let result = unsafe { get(self.0, item, &raw mut groups, &raw mut count) };
        if result != 0 {
            return None;
        }
        let count = usize::try_from(count).ok()?;
        if groups.is_null() || count == 0 {
            return Some(Vec::new());
        }
        // SAFETY: Slurm has just said that `count` groups are there, and keeps them for the step.
        Some(unsafe { std::slice::from_raw_parts(groups, count) }.to_vec())
    }

    /// The words of the command.
    pub fn arguments(self) -> Vec<OsString> {
        let Some((words, count)) = self.argument_array() else {
            return Vec::new();
        };
        (0..count)
            .map(|index| element(words, index))
            .take_while(|word| !word.is_null())
            .map(|word| copied(word))
            .collect()
    }

    fn argument_array(self) -> Option<(*mut *mut c_char, usize)> {
        let get = Symbols::get().get_item?;
        let mut words: *mut *mut c_char = std::ptr::null_mut();
        let mut count: c_int = 0;
        let item = bindings::spank_item_S_JOB_ARGV;
        // SAFETY: the handle is live during the hook, and spank.h has this item write the length
        // of the array and a pointer to it.
        let result = unsafe { get(self.0, item, &raw mut count, &raw mut words) };
        (result == 0 && !words.is_null()).then_some((words, usize::try_from(count).ok()?))
    }

    /// Puts another program in the place of the task's first word; the others stay.
    /// Only in a task, whose copy of the array nobody else reads.
    pub fn replace_program(self, program: &CStr) -> bool {
        let Some((words, 1..)) = self.argument_array() else {
            return false;
        };
        // The old word is left to Slurm, the new one is used up by execve(2).
        // SAFETY: strdup(3) reads a live NUL-terminated string.
        let copy = unsafe { libc::strdup(program.as_ptr()) };
        if copy.is_null() {
            return false;
        }
        // SAFETY: the array has at least one word, and this forked task alone uses it.
        unsafe { *words = copy };
        true
    }

    /// Puts words before the task's own, where Slurm (23.11) can.
    pub fn prepend(self, words: &[CString]) -> bool {
        let Some(prepend) = Symbols::get().prepend_task_argv else {
            return false;
        };
        let Ok(count) = c_int::try_from(words.len()) else {
            return false;
        };
        let pointers: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
        // SAFETY: the array has `count` live NUL-terminated strings, which Slurm copies.
        unsafe { prepend(self.0, count, pointers.as_ptr()) == 0 }
    }

    /// Whether [`Self::prepend`] is there to be used.
    pub fn can_prepend() -> bool {
        Symbols::get().prepend_task_argv.is_some()
    }

    /// The variables of the job, or in a task those of the task.
    pub fn environment(self) -> Vec<(OsString, OsString)> {
        let Some(get) = Symbols::get().get_item else {
            return Vec::new();
        };
        let mut variables: *mut *mut c_char = std::ptr::null_mut();
        let item = bindings::spank_item_S_JOB_ENV;
        // SAFETY: the handle is live during the hook, and spank.h has this item write a pointer
        // to a null-ended array.
        let result = unsafe { get(self.0, item, &raw mut variables) };
        if result != 0 || variables.is_null() {
            return Vec::new();
        }
        (0..)
            .map(|index| element(variables, index))
            .take_while(|variable| !variable.is_null())
            .filter_map(|variable| split_variable(&copied(variable)))
            .collect()
    }

    /// Sets a variable of the job or task; `false` for one that cannot be.
    pub fn set_variable(self, name: &std::ffi::OsStr, value: &std::ffi::OsStr) -> bool {
        let (Ok(name), Ok(value)) = (
            CString::new(name.as_bytes()),
            CString::new(value.as_bytes()),
        ) else {
            return false;
        };
        Symbols::get().setenv.is_some_and(|set| {
            // SAFETY: the handle is live during the hook; both strings are live, NUL-terminated
            // and copied.
            unsafe { set(self.0, name.as_ptr(), value.as_ptr(), 1) == 0 }
        })
    }

    /// Removes a variable of the job or task.
    pub fn remove_variable(self, name: &std::ffi::OsStr) -> bool {
        let Ok(name) = CString::new(name.as_bytes()) else {
            return false;
        };
        Symbols::get().unsetenv.is_some_and(|unset| {
            // SAFETY: the handle is live during the hook; the string is live and NUL-terminated.
            unsafe { unset(self.0, name.as_ptr()) == 0 }
        })
    }
}

fn split_variable(text: &std::ffi::OsStr) -> Option<(OsString, OsString)> {
    let bytes = text.as_bytes();
    let equals = bytes.iter().position(|&b| b == b'=')?;
    Some((
        OsString::from_vec(bytes[..equals].to_vec()),
        OsString::from_vec(bytes[equals + 1..].to_vec()),
    ))
}

/// One string of an array of Slurm's. The callers stay below its length, or stop at
/// the null pointer that ends it.
fn element(array: *const *mut c_char, index: usize) -> *mut c_char {
    // SAFETY: see above: the place is in the array.
    let place = unsafe { array.add(index) };
    // SAFETY: likewise, and Slurm keeps the array during the hook.
    unsafe { *place }
}

/// A copy of one of Slurm's strings.
fn copied(text: *const c_char) -> OsString {
    // SAFETY: the callers have checked that it is not null; Slurm's strings are NUL-terminated.
    OsString::from_vec(unsafe { CStr::from_ptr(text) }.to_bytes().to_vec())
}

/// The argument a hook or option callback was given; `None` if there is none.
pub(crate) fn text(argument: *const c_char) -> Option<OsString> {
    (!argument.is_null()).then(|| copied(argument))
}

/// The words behind the plugin's name in plugstack.conf, as a hook gets them.
pub(crate) fn words(count: c_int, words: *const *mut c_char) -> Vec<OsString> {
    let count = usize::try_from(count).unwrap_or(0);
    if words.is_null() {
        return Vec::new();
    }
    (0..count)
        .map(|index| element(words, index))
        .filter(|word| !word.is_null())
        .map(|word| copied(word))
        .collect()
}

/// Ends the process at once; for the client commands and for a task that must not
/// go on, never for a daemon.
pub fn end_process(status: i32) -> ! {
    // SAFETY: _exit(2) takes no pointer and does not return.
    unsafe { libc::_exit(status) }
}

/// Makes `number` mean `file` too, across execve(2), instead of what it meant.
pub fn duplicate_onto(file: &std::fs::File, number: c_int) -> bool {
    // SAFETY: dup2(2) takes no pointer; nothing of ours owns `number`, which the caller has
    // found to be one that this process does not use again.
    unsafe { libc::dup2(file.as_raw_fd(), number) == number }
}

/// Makes a panic say nothing by itself: what it says goes into the one line of
/// the error. Returns where that line is found.
pub fn keep_panics_quiet() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| std::panic::set_hook(Box::new(|_| {})));
}

/// Sets a variable of the process itself, which is one of Slurm's commands:
/// single-threaded while plugins load, and about to pass its variables on.
pub fn set_own_variable(name: &str, value: Option<&std::ffi::OsStr>) {
    match value {
        // SAFETY: hooks of srun, sbatch and salloc run on their only thread.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(name) },
    }
}
