//! In each task: entering, and what has to be set before Slurm executes the
//! program.
//!
//! Owns: the order of these. Never: executes, or gives up privileges; Slurm does.

use launcher::{hold, Error, User};

use crate::ffi::Spank;
use crate::hooks::Plugin;
use crate::scripts::{self, Outcome};
use crate::step::{self, Step};
use crate::{environment, prefix};

/// Moves the task into the step's namespace, or into one of its own where the site
/// has tasks share none. As root.
///
/// # Errors
/// As setns(2), and as [`hold::prepare`].
pub fn enter(plugin: &mut Plugin, spank: Spank) -> Result<(), Error> {
    if plugin.failure.is_some() {
        return Ok(());
    }
    let Step::Held(held) = &mut plugin.step else {
        return Ok(());
    };
    if let Some(recipe) = &plugin.apart {
        // The first on this node has the step's.
        if spank.local_number() != Some(0) {
            **held = recipe.prepare(&plugin.config)?;
        }
    }
    held.enter()
}

/// Sets what the program finds: directory, environment, the words before it. As
/// the user.
///
/// # Errors
/// Why it cannot start in the image.
pub fn start(plugin: &mut Plugin, spank: Spank) -> Result<(), Error> {
    if plugin.failure.is_some() {
        return Ok(());
    }
    match &mut plugin.step {
        Step::OnHost => Ok(()),
        Step::Prefixed(words) => {
            environment::forget_ours(spank);
            prefix::put_before(spank, words)
        }
        Step::Held(held) => {
            let outside = spank.environment();
            let user = User {
                uid: nix::unistd::getuid().as_raw(),
                gid: nix::unistd::getgid().as_raw(),
                groups: Vec::new(),
            };
            let launcher =
                pmi_shim::detect(&pmi_shim::Environment::of(&outside), launcher::is_socket);
            held.start_in_working_directory()?;
            let host = step::host(&user, outside.clone(), None);
            let words = spank.arguments();
            let mut inside = held.environment(&host, launcher, &words, |inside| {
                environment::leave_out_ours(&mut inside.base);
            })?;
            let outcome = scripts::apply(&scripts::of_image(), &mut inside);
            let variables = inside.into_merged();
            if let Outcome::NeedsShell(text) = outcome {
                prefix::through_shell(spank, &text)?;
            }
            environment::change(spank, &outside, &variables);
            hold::forbid_gaining_privileges()
        }
    }
}
