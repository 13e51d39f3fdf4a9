//! `pmi-bridge`: stands between a job's launcher and the programs of a node (or
//! one program) whose MPI does not speak the launcher's interface.
//!
//! Started by the launching path of `singularity`, never by hand: see
//! `pmi_shim::seat` for when and how, and docs/ARCHITECTURE.md for the whole.
//!
//! ```text
//! pmi-bridge node LISTENER [--munge=DIRECTORY]
//! pmi-bridge rank CONNECTION
//! pmi-bridge delegate | visit
//! ```
//! LISTENER, CONNECTION and DIRECTORY are numbers of inherited descriptors: a
//! listening socket of [`pmi_shim::seat::name`], one end of a socket pair, and the
//! host's directory of munge's socket. A delegate is a child of a node's helper
//! ([`pmix::delegate`]). Standard error is the first rank's.

mod log;
mod member;
mod node;
mod nodes;
mod pipe;
mod pmi_app;
mod pmi_host;
mod pmix;
mod rank;
mod seating;
mod segments;
mod stepd;
mod sys;

use member::MakeApp;
use pmi_shim::core::App;
use pmi_shim::seat::AppInterface;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

/// Wrong words on the command line.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // A launcher that ends the group of its ranks must not end what cleans up after
    // them. It fails where this is a session of its own already.
    let _ = nix::unistd::setsid();
    let mut words = std::env::args().skip(1);
    let form = words.next();
    if form.as_deref() == Some(pmix::leavings::FORM) {
        return pmix::leavings::wait_and_clear(words);
    }
    if form.as_deref() == Some(pmix::delegate::FORM) {
        log::start("delegate");
        return match std::io::stdin().as_fd().try_clone_to_owned() {
            Ok(orders) => pmix::delegate::serve(orders),
            Err(_) => ExitCode::FAILURE,
        };
    }
    if form.as_deref() == Some(pmix::delegate::VISIT) {
        log::start("visit");
        return pmix::delegate::visit();
    }
    let descriptor = words.next().and_then(|number| inherited(&number));
    let munge = match words.next() {
        None => Ok(None),
        Some(word) => word
            .strip_prefix("--munge=")
            .and_then(inherited)
            .map(Some)
            .ok_or(word),
    };
    match (form.as_deref(), descriptor, munge, words.next()) {
        (Some("node"), Some(listener), Ok(munge), None) => {
            log::start("node");
            node::serve(listener, munge)
        }
        (Some("rank"), Some(connection), Ok(None), None) => {
            log::start("rank");
            rank::serve(connection)
        }
        _ => {
            eprintln!("pmi-bridge: started by hand; `singularity exec` starts it where needed");
            ExitCode::from(USAGE)
        }
    }
}

/// The adapter for programs that want this interface.
fn app_for(interface: AppInterface) -> MakeApp {
    Box::new(move |job| match interface {
        AppInterface::Pmix => Ok(Box::new(pmix::app::PmixApp::start(job)?) as Box<dyn App>),
        AppInterface::Pmi1 | AppInterface::Pmi2 => {
            Ok(Box::new(pmi_app::PmiApp::new(job.clone())) as Box<dyn App>)
        }
    })
}

/// The inherited descriptor of that number.
fn inherited(number: &str) -> Option<OwnedFd> {
    let number: i32 = number.parse().ok()?;
    (number > 2).then(|| sys::take(number)).flatten()
}
