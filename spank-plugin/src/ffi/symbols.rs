//! Slurm's functions, as the running release has them.

use std::ffi::{c_char, c_int, c_long, CStr};
use std::sync::OnceLock;

use super::bindings::{self, spank_context_t, spank_err_t, spank_item_t, spank_option, spank_t};

/// `slurm_error` and its like.
pub type Log = unsafe extern "C" fn(*const c_char, ...);
type AskContext = unsafe extern "C" fn() -> spank_context_t;
type Register = unsafe extern "C" fn(spank_t, *mut spank_option) -> spank_err_t;
type GetItem = unsafe extern "C" fn(spank_t, spank_item_t, ...) -> spank_err_t;
type SetEnv = unsafe extern "C" fn(spank_t, *const c_char, *const c_char, c_int) -> spank_err_t;
type UnsetEnv = unsafe extern "C" fn(spank_t, *const c_char) -> spank_err_t;
type Prepend = unsafe extern "C" fn(spank_t, c_int, *const *const c_char) -> spank_err_t;
type ApiVersion = unsafe extern "C" fn() -> c_long;

// Our types are the header's: the compiler compares them here, and no reference
// to the functions themselves comes of it.
const _: AskContext = bindings::spank_context;
const _: Register = bindings::spank_option_register;
const _: GetItem = bindings::spank_get_item;
const _: SetEnv = bindings::spank_setenv;
const _: UnsetEnv = bindings::spank_unsetenv;
const _: Log = bindings::slurm_error;
const _: Log = bindings::slurm_debug;

/// What was found; `None` where the process has no such function.
#[derive(Debug)]
pub struct Symbols {
    /// spank_context
    pub context: Option<AskContext>,
    /// spank_option_register
    pub option_register: Option<Register>,
    /// spank_get_item
    pub get_item: Option<GetItem>,
    /// spank_setenv
    pub setenv: Option<SetEnv>,
    /// spank_unsetenv
    pub unsetenv: Option<UnsetEnv>,
    /// spank_prepend_task_argv, from Slurm 23.11
    pub prepend_task_argv: Option<Prepend>,
    /// slurm_error
    pub error: Option<Log>,
    /// slurm_debug
    pub debug: Option<Log>,
}

impl Symbols {
    /// All of them, looked up once.
    pub fn get() -> &'static Symbols {
        static SYMBOLS: OnceLock<Symbols> = OnceLock::new();
        SYMBOLS.get_or_init(|| Symbols {
            context: find(c"spank_context").map(as_function),
            option_register: find(c"spank_option_register").map(as_function),
            get_item: find(c"spank_get_item").map(as_function),
            setenv: find(c"spank_setenv").map(as_function),
            unsetenv: find(c"spank_unsetenv").map(as_function),
            prepend_task_argv: find(c"spank_prepend_task_argv").map(as_function),
            error: find(c"slurm_error").map(as_function),
            debug: find(c"slurm_debug").map(as_function),
        })
    }
}

/// The number of Slurm's programming interface, which grows by one a release.
pub fn api_version() -> Option<c_long> {
    let ask: ApiVersion = find(c"slurm_api_version").map(as_function)?;
    // SAFETY: slurm_api_version takes no argument and returns a constant.
    Some(unsafe { ask() })
}

fn find(name: &CStr) -> Option<*mut libc::c_void> {
    // SAFETY: `name` is a live NUL-terminated string, and RTLD_DEFAULT needs no open library.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// The function at an address, of one of the types above.
fn as_function<F: Copy>(address: *mut libc::c_void) -> F {
    const { assert!(size_of::<F>() == size_of::<*mut libc::c_void>()) };
    // SAFETY: dlsym(3) gave the address of the function of that name, whose type the compiler
    // has compared with the header's above; function pointers have the size of the address.
    unsafe { std::mem::transmute_copy(&address) }
}
