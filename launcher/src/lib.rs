//! From a [`Request`] to the process that has become the program in the image.
//!
//! The walk, in order: [`policy::judge`] the request, [`plan::build`] the steps,
//! [`join`] the other ranks of the job or be the first, make the namespaces,
//! mount the image, assemble its root and pivot into it, drop every privilege,
//! compose the environment, and exec.
//!
//! Owns: everything between a request and execve(2). Never: parses command
//! lines, prints, or knows a workload manager. The command, the setuid starter
//! and the SPANK plugin all enter images through here.

#![deny(unsafe_code)]

mod accounts;
mod audit;
pub mod bind;
mod bridge;
pub mod check;
mod dev;
pub mod env;
mod error;
mod exec;
pub mod fds;
mod fuse;
pub mod hold;
pub mod host;
mod join;
pub mod kernel;
mod layer;
pub mod lock;
pub mod log;
pub mod look;
pub mod meeting;
mod mount;
mod namespace;
mod pid;
pub mod plan;
pub mod policy;
mod privilege;
pub mod request;
mod root;
mod scripts;
mod sealed;
pub mod site;
pub mod stage;
pub mod starter;
#[allow(unsafe_code)]
mod sys;
mod timing;
mod tree;

pub use audit::digest;
pub use error::{Error, Kind};
pub use exec::why_not;
pub use hold::HeldNamespace;
pub use host::Host;
pub use namespace::why_no_user_namespace;
pub use plan::Plan;
pub use privilege::User;
pub use request::Request;
pub use scripts::{environment_scripts, is_shell_name, quoted, sourcing};
pub use sys::process::inherited;

use crate::request::Share;
use crate::timing::Timing;

/// Puts the process into the image and becomes the program.
///
/// Returns `Ok` only for `singularity test` of an image without a test. `limits`
/// are those from before the image was opened; `report` is handed the lines of
/// `--timing`.
///
/// # Errors
/// Why the program did not start; nothing is left behind.
pub fn launch(
    request: &Request,
    host: &Host,
    limits: &fds::Limits,
    report: impl FnOnce(&[String]),
) -> Result<(), Error> {
    let mut timing = Timing::start(request.timing);
    policy::judge(request, host)?;
    let plan = plan::build(request, host);
    tracing::info!(
        "image {}: {}",
        error::shown(request.image.path()),
        request.image.format()
    );
    for step in &plan.steps {
        tracing::debug!("{step}");
    }
    timing.phase("plan");
    // The image has none.
    let helper = needs_bridge(request)
        .then(|| {
            let alone = request
                .launcher
                .interfaces
                .contains(&pmi_shim::Interface::SlurmPmi1);
            bridge::Helper::open(request.mpi.libexec.as_deref(), alone)
        })
        .flatten();
    let mut entered = enter(request, &plan, host, &mut timing)?;
    // What root did for the user is done; all else the user does.
    let early = if host.acts_for_user() {
        Some(privilege::become_user_for_good(&User::of(host)?)?)
    } else {
        None
    };
    start_in(&plan, request)?;
    let Some(words) = exec::words(request)? else {
        tracing::warn!("{} has no test", error::shown(request.image.path()));
        return Ok(());
    };
    let own_namespace = plan.has_user_namespace() && entered.shared.is_none();
    let mut environment = env::compose(request, &plan, host);
    let scripts = match request.environment.ignore_image {
        true => Vec::new(),
        false => scripts::environment_scripts(),
    };
    let pair = meeting::Pair {
        request,
        host,
        words: &words,
        scripts: &scripts,
        helper: helper.as_ref(),
        own_namespace,
        heard: entered.met.as_ref().map(|met| met.record.as_str()),
    };
    let (shared, met) = (entered.shared, entered.met.as_ref());
    let namespace = met.and_then(|met| met.namespace);
    let mut membership = None;
    pair.meet(&mut environment, &mut timing, |record| {
        membership = shared.map(|name| join::Membership::here(name, namespace, record).text());
        if let (Some(lock), Some(text)) = (entered.lock.take(), &membership) {
            lock.let_in(text);
        }
    })?;
    environment.mark(join::VARIABLE, membership);
    let command = exec::resolve(request, words, &scripts, environment)?;
    let proof = match early {
        Some(proof) => proof,
        None => privilege::drop_for_good(host.is_root())?,
    };
    limits.restore();
    timing.phase("hand-over");
    report(&timing.report());
    if let Some(inside) = entered.inside {
        inside.start()?;
    }
    Err(command.execute(proof))
}

/// Whether the program may have to be seated at the bridge.
fn needs_bridge(request: &Request) -> bool {
    let choice = request.mpi.choice;
    request.launcher.is_rank() && choice.decides()
}

struct Entered {
    /// What the namespace is called, if others may be in it.
    shared: Option<u128>,
    /// The rank that was joined.
    met: Option<join::Met>,
    /// Others wait for this rank, until they are let in.
    lock: Option<join::Lock>,
    /// What is left to do in a new PID namespace.
    inside: Option<pid::Inside>,
}

fn enter(
    request: &Request,
    plan: &Plan,
    host: &Host,
    timing: &mut Timing,
) -> Result<Entered, Error> {
    let namespace = join::mount_namespace("/proc/self");
    let shared = fingerprint(request, plan, host, namespace);
    let outcome = match shared {
        Some(fingerprint) => {
            let elect = || join::elect(plan, host, &request.share, fingerprint, namespace);
            match host.acts_for_user() {
                // The first rank is root's until it becomes its program.
                true => privilege::with_roots_view(elect)??,
                false => elect()?,
            }
        }
        None => join::Outcome::Alone,
    };
    timing.phase("join");
    let (shared, lock) = match outcome {
        join::Outcome::Joined(met) => {
            return Ok(Entered {
                shared,
                met: Some(met),
                lock: None,
                inside: None,
            })
        }
        join::Outcome::First(lock) => (shared, Some(lock)),
        join::Outcome::Alone => (None, None),
    };
    if plan.unshared().pid && request.launcher.is_rank() {
        tracing::warn!(
            "with --pid every rank has a PID namespace of its own, in which Open MPI 4 does not survive"
        );
    }
    let user = plan.has_user_namespace();
    namespace::make(host, user, plan.unshared())?;
    timing.phase("namespaces");
    let staged = stage::stage(request, host)?;
    if staged.is_some() {
        timing.phase("stage");
    }
    let image = staged.as_ref().unwrap_or(&request.image);
    let image_tree = root::mount_image(plan, image, host, request.mpi.libexec.as_deref())?;
    if user && image_tree.is_some() {
        // The image's server stays behind in the namespace it was started in.
        namespace::make(host, false, request::Unshared::default())?;
    }
    let inside = if plan.unshared().pid {
        Some(pid::enter(host)?)
    } else {
        None
    };
    namespace::configure(plan)?;
    root::assemble(plan, image, image_tree, host, shared, timing)?;
    // What a user could get hold of is not root's: they find out by looking.
    let lock = lock.filter(|_| !host.acts_for_user());
    Ok(Entered {
        shared,
        met: None,
        lock,
        inside,
    })
}

/// What the namespace is called among processes that may share it; `None` if
/// this one does not share.
fn fingerprint(
    request: &Request,
    plan: &Plan,
    host: &Host,
    host_namespace: Option<u64>,
) -> Option<u128> {
    let group = match &request.share {
        Share::Off => return None,
        Share::Auto => {
            let job = request
                .launcher
                .job
                .as_ref()
                .filter(|_| request.launcher.is_rank())?;
            meeting::job_name(job).into()
        }
        Share::Name(name) => name.clone(),
    };
    // The first one's init would end everybody with it.
    if plan.unshared().pid {
        return None;
    }
    let automatic = request.share == Share::Auto;
    let namespace = host_namespace.unwrap_or(0);
    let who = plan::digest(2, (host.uid, namespace, automatic, &group));
    Some(plan.fingerprint() ^ who)
}

/// Goes to the first working directory that exists.
fn start_in(plan: &Plan, request: &Request) -> Result<(), Error> {
    if plan.current == plan::Current::Removed {
        tracing::warn!(
            "the current directory was removed; starting in {}",
            error::shown(first_of(&plan.working_directory))
        );
    }
    for (index, directory) in plan.working_directory.iter().enumerate() {
        match nix::unistd::chdir(directory.as_path()) {
            Ok(()) => return Ok(()),
            Err(errno) if index == 0 && plan.working_directory_required => {
                let step = format!("start in {}", error::shown(directory.as_path()));
                return Err(Error::call(step, errno)
                    .hint("--pwd names a directory of the image, or one that is bound into it"));
            }
            Err(_) if index == 0 && plan.current == plan::Current::Wanted && !request.contain => {
                tracing::warn!(
                    "the current directory {} is not in the image; starting in {} (bind it with -B, or choose with --pwd)",
                    error::shown(directory.as_path()),
                    error::shown(first_of(&plan.working_directory[1..])),
                );
            }
            Err(_) => {}
        }
    }
    Ok(())
}

fn first_of(directories: &[request::ImagePath]) -> &std::path::Path {
    directories
        .iter()
        .map(request::ImagePath::as_path)
        .find(|path| path.is_dir())
        .unwrap_or("/".as_ref())
}

/// Whether `descriptor` is an open socket of this process, as a PMI descriptor
/// that a launcher passed is.
pub fn is_socket(descriptor: pmi_shim::Descriptor) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{descriptor}")).is_ok_and(|target| {
        target
            .as_os_str()
            .as_encoded_bytes()
            .starts_with(b"socket:")
    })
}
