//! What Slurm calls, and what it remembers between calls.
//!
//! Owns: the exported functions, each of which is one guarded call, and the state.
//! Never: does the work.
//!
//! In slurmstepd a hook that fails drains the node under sbatch (`init`,
//! `init_post_opt`, `user_init`) or ends a step with status 0 under srun
//! (`user_init`). So no hook there ever fails: what went wrong is remembered, and
//! told by the task that cannot start because of it.

use std::any::Any;
use std::ffi::{c_char, c_int};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};

use launcher::Error;

use crate::config::{Config, Mistake};
use crate::ffi::bindings::{spank_option, spank_t};
use crate::ffi::{self, Context, Spank};
use crate::options::{self, Typed};
use crate::step::{Recipe, Step};
use crate::{client, line, step, task};

/// What is remembered from one hook to the next.
#[derive(Debug, Default)]
pub struct Plugin {
    /// The site's configuration.
    pub config: Config,
    /// What is wrong with it.
    pub mistake: Option<Mistake>,
    /// The options.
    pub typed: Typed,
    /// How the step's tasks start.
    pub step: Step,
    /// Where the site has tasks share no namespace: how each makes its own.
    pub apart: Option<Box<Recipe>>,
    /// Whether the step is to run in an image.
    pub asked: bool,
    /// Why its tasks cannot.
    pub failure: Option<Error>,
}

static PLUGIN: Mutex<Option<Plugin>> = Mutex::new(None);

/// Does a hook's work; a panic becomes an error like others.
fn attempt(
    hook: &str,
    work: impl FnOnce(&mut Plugin) -> Result<(), Error>,
) -> Result<(), (Error, bool)> {
    ffi::keep_panics_quiet();
    let mut guard = PLUGIN.lock().unwrap_or_else(PoisonError::into_inner);
    let plugin = guard.get_or_insert_with(Plugin::default);
    let result = catch_unwind(AssertUnwindSafe(|| {
        if plugin.config.test_panic.as_deref() == Some(hook) {
            panic!("as test-panic={hook} asks");
        }
        work(plugin)
    }));
    let error = match result {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(payload) => {
            let words = words_of(payload.as_ref());
            Error::new(format!("internal error in {hook}"), words)
                .hint("please report it; the step was not started in its image")
        }
    };
    plugin.failure.get_or_insert_with(|| error.clone());
    Err((error, plugin.asked))
}

fn words_of(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| {
            payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
        })
        .unwrap_or_else(|| "unknown".to_owned())
}

/// A hook that may stop srun, sbatch or salloc, and nothing else.
fn in_client(hook: &str, work: impl FnOnce(&mut Plugin) -> Result<(), Error>) -> c_int {
    match attempt(hook, work) {
        Ok(()) => 0,
        Err((error, _)) if matches!(ffi::context(), Context::Local | Context::Allocator) => {
            client::refuse(&error)
        }
        Err(_) => 0,
    }
}

/// A hook whose failure is told later, by the task.
fn in_step(hook: &str, work: impl FnOnce(&mut Plugin) -> Result<(), Error>) -> c_int {
    if ffi::context() == Context::Remote {
        if let Err((error, _)) = attempt(hook, work) {
            ffi::log_debug(&line(&error));
        }
    }
    0
}

/// Registers the options and reads the configuration. Everywhere; in slurmd it
/// does nothing.
#[no_mangle]
pub extern "C" fn slurm_spank_init(
    handle: spank_t,
    count: c_int,
    words: *const *mut c_char,
) -> c_int {
    if ffi::context() == Context::Other {
        return 0;
    }
    in_client("init", |plugin| {
        (plugin.config, plugin.mistake) = Config::read(&ffi::words(count, words));
        if plugin.config.test_panic.as_deref() == Some("init") {
            panic!("as test-panic=init asks");
        }
        if ffi::context() != Context::Remote {
            client::forget_slurms_own_way();
        }
        register(Spank::new(handle))
    })
}

fn register(spank: Spank) -> Result<(), Error> {
    for (number, known) in options::TABLE.iter().enumerate() {
        let text = |text: &'static std::ffi::CStr| text.as_ptr().cast_mut();
        // Slurm keeps a copy; this one is small and made once a process.
        let option = Box::leak(Box::new(spank_option {
            name: text(known.name),
            arginfo: known.argument.map_or(std::ptr::null_mut(), text),
            usage: text(known.usage),
            has_arg: c_int::from(known.argument.is_some()),
            val: c_int::try_from(number).unwrap_or(-1),
            cb: Some(take_option),
        }));
        if !spank.register(option) {
            let name = known.name.to_string_lossy();
            return Err(Error::new(format!("register --{name}"), "Slurm refuses it")
                .hint("another plugin may have the same option"));
        }
    }
    Ok(())
}

/// Remembers one use of an option. Meaning is given to it when all are known.
extern "C" fn take_option(number: c_int, argument: *const c_char, _remote: c_int) -> c_int {
    in_client("option", |plugin| {
        if let Some(known) = options::numbered(number) {
            plugin.typed.add(known.id, ffi::text(argument));
        }
        Ok(())
    })
}

/// In srun, sbatch and salloc: checks the options, before anything is allocated.
#[no_mangle]
pub extern "C" fn slurm_spank_init_post_opt(
    _handle: spank_t,
    _count: c_int,
    _words: *const *mut c_char,
) -> c_int {
    match ffi::context() {
        Context::Local | Context::Allocator => in_client("init_post_opt", client::check),
        _ => 0,
    }
}

/// In slurmstepd, as the user: prepares the namespace, once for all tasks.
#[no_mangle]
pub extern "C" fn slurm_spank_user_init(
    handle: spank_t,
    _count: c_int,
    _words: *const *mut c_char,
) -> c_int {
    in_step("user_init", |plugin| {
        step::prepare(plugin, Spank::new(handle))
    })
}

/// In each task, as root: enters the namespace.
#[no_mangle]
pub extern "C" fn slurm_spank_task_init_privileged(
    handle: spank_t,
    _count: c_int,
    _words: *const *mut c_char,
) -> c_int {
    in_step("task_init_privileged", |plugin| {
        task::enter(plugin, Spank::new(handle))
    })
}

/// In each task, as the user: composes the environment; or tells why the task
/// cannot run in its image, and ends it.
#[no_mangle]
pub extern "C" fn slurm_spank_task_init(
    handle: spank_t,
    _count: c_int,
    _words: *const *mut c_char,
) -> c_int {
    let spank = Spank::new(handle);
    in_step("task_init", |plugin| task::start(plugin, spank));
    let failed = attempt("task_failure", |plugin| match plugin.failure.take() {
        Some(error) if plugin.asked || step::asks(plugin, spank) => Err(error),
        _ => Ok(()),
    });
    match failed {
        Ok(()) => 0,
        // This process is the task, not the daemon. Returning an error would not
        // be enough: Slurm goes on where plugstack.conf says `optional`, and the
        // program would run on the host.
        Err((error, _)) => {
            ffi::log_error(&line(&error));
            ffi::end_process(error.exit_status().into())
        }
    }
}
