//! The environment the program gets.
//!
//! Owns: what of the host's comes along, what is set, what wins. Never: prints a
//! value; environments hold secrets.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use pmi_shim::seat::{Seat, Unset};
use pmi_shim::{Change, Program};

use crate::error::shown;
use crate::host::Host;
use crate::plan::Plan;
use crate::request::Request;
use crate::site::Pattern;

/// Where programs are looked for in an image; the host's `PATH` means the host's
/// directories.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The prefix of variables that are set inside without it, and win.
const INSIDE: &[u8] = b"SINGULARITYENV_";

/// What survives `--cleanenv` besides what the launcher needs.
const KEPT_CLEAN: [&str; 16] = [
    "SINGULARITY_APPNAME",
    "TERM",
    "LANG",
    "USER",
    "LOGNAME",
    "HOSTNAME",
    "DISPLAY",
    "XAUTHORITY",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// The environment inside, in two layers: what is there before the image's own
/// scripts run, and what is set after them because the user said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Before the image's scripts.
    pub base: Vec<(OsString, OsString)>,
    /// After them.
    pub overrides: Vec<(OsString, OsString)>,
    /// What the user puts before and after the search path, whatever the scripts make
    /// of that. `base` has it too.
    pub around_path: [Option<OsString>; 2],
}

impl Environment {
    /// Both layers in one, for an image without scripts.
    pub fn into_merged(self) -> Vec<(OsString, OsString)> {
        let mut all = self.base;
        for (name, value) in self.overrides {
            set(&mut all, &name, value);
        }
        all
    }

    /// The value a program finds, as far as the image's scripts do not change it.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        let is_it = |pair: &&(OsString, OsString)| pair.0 == name;
        let found = self.overrides.iter().rev().find(is_it);
        let found = found.or_else(|| self.base.iter().find(is_it));
        found.map(|(_, value)| value.as_os_str())
    }

    /// Puts around the search path what the user wants there, where a script has taken
    /// it away.
    pub fn surround_path(&mut self) {
        let Some((_, path)) = self.base.iter_mut().find(|(name, _)| name == "PATH") else {
            return;
        };
        let [before, after] = &self.around_path;
        let ends = |byte: Option<&u8>| byte.is_none_or(|byte| *byte == b':');
        if let Some(before) = before {
            let rest = path.as_bytes().strip_prefix(before.as_bytes());
            if !rest.is_some_and(|rest| ends(rest.first())) {
                *path = joined(before, path);
            }
        }
        if let Some(after) = after {
            let rest = path.as_bytes().strip_suffix(after.as_bytes());
            if !rest.is_some_and(|rest| ends(rest.last())) {
                *path = joined(path, after);
            }
        }
    }

    /// Carries out changes; what the user set by name stays.
    pub fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Drop { name, why } => {
                    tracing::debug!("variable {} is dropped: {why}", shown(name.as_ref()));
                    self.base.retain(|(n, _)| *n != name);
                }
                Change::Set { name, value, why } => {
                    tracing::debug!("variable {} is set: {why}", shown(name.as_ref()));
                    set(&mut self.base, &name, value);
                }
            }
        }
    }

    /// Does what a seat at the bridge asks for.
    pub(crate) fn take_seat(&mut self, seat: &Seat) {
        let goes = |name: &OsStr| {
            seat.unset.iter().any(|unset| match unset {
                Unset::Name(other) => name == other.as_str(),
                Unset::Prefix(prefix) => name.as_bytes().starts_with(prefix.as_bytes()),
            }) && !OF_TRANSPORTS
                .iter()
                .any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()))
        };
        self.base.retain(|(name, _)| !goes(name));
        for (name, value) in &seat.set {
            tracing::debug!("variable {name} is set: the bridge's");
            set(&mut self.base, OsStr::new(name), value.into());
        }
    }

    /// Makes a variable the very first, or sees to it that it is not there.
    pub(crate) fn mark(&mut self, name: &str, value: Option<String>) {
        self.base.retain(|(other, _)| other != name);
        if let Some(value) = value {
            self.base.insert(0, (name.into(), value.into()));
        }
    }
}

fn set(environment: &mut Vec<(OsString, OsString)>, name: &OsStr, value: OsString) {
    match environment.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => *old = value,
        None => environment.push((name.to_owned(), value)),
    }
}

/// What launching drops and sets because of the MPI on both sides.
///
/// `own_namespace`: this rank shares its user namespace with no other, so shared
/// memory between ranks has to go another way.
pub fn hygiene(
    request: &Request,
    host: &Host,
    program: &Program,
    own_namespace: bool,
) -> Vec<Change> {
    let environment = pmi_shim::Environment::of(&host.environment);
    if !request.mpi.hygiene || request.mpi.choice == pmi_shim::Choice::Off {
        // The host's library path is wrong in every image, with or without MPI.
        return pmi_shim::Host::nobody().hygiene(&environment, program);
    }
    let mut changes = request.launcher.hygiene(&environment, program);
    if own_namespace && request.launcher.is_rank() {
        changes.extend(pmi_shim::without_shared_namespace(&environment));
    }
    changes.extend(yields(request, &environment, program));
    changes
}

/// More ranks than processors have to give way to one another while they wait. mpirun of
/// Open MPI 4 tells its ranks, other launchers do not.
fn yields(
    request: &Request,
    environment: &pmi_shim::Environment<'_>,
    program: &Program,
) -> Option<Change> {
    const NAME: &str = "OMPI_MCA_mpi_yield_when_idle";
    let launcher = &request.launcher;
    let needed = launcher.is_rank()
        && launcher.launcher != pmi_shim::Launcher::OpenMpi4
        && launcher.local_size.is_some_and(|ranks| ranks > 1)
        && launcher.local_size > processors()
        && program.may_use(|mpi| mpi.family == pmi_shim::Family::OpenMpi)
        && !environment.has(NAME);
    needed.then(|| Change::Set {
        name: NAME.into(),
        value: "1".into(),
        why: "there are more ranks on this node than processors, and Open MPI is not told",
    })
}

/// How many processors this node has on; not how many this rank was given.
fn processors() -> Option<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    text.trim()
        .split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            last.checked_sub(first)?.checked_add(1)
        })
        .sum()
}

/// What the user says of Open MPI's transports, for the program behind a bridge too: all
/// else that begins like it is the launcher's.
const OF_TRANSPORTS: [&str; 11] = [
    "OMPI_MCA_btl",
    "OMPI_MCA_pml",
    "OMPI_MCA_mtl",
    "OMPI_MCA_coll",
    "OMPI_MCA_osc",
    "OMPI_MCA_io",
    "OMPI_MCA_smsc",
    "OMPI_MCA_mpi_",
    "OMPI_MCA_opal_",
    "OMPI_MCA_accelerator",
    "OMPI_MCA_reachable",
];

/// Composes the environment, but for [`hygiene`], which takes knowing the program,
/// which is looked for in this environment: see [`Environment::apply`].
pub fn compose(request: &Request, plan: &Plan, host: &Host) -> Environment {
    let choice = &request.environment;
    let mut base = Vec::with_capacity(host.environment.len() + 8);
    let mut overrides = Vec::new();
    let mut path = OsString::from(PATH);
    let mut around_path = [None, None];
    for (name, value) in &host.environment {
        if let Some(inside) = name.as_bytes().strip_prefix(INSIDE) {
            match inside {
                b"" => {}
                b"PREPEND_PATH" => around_path[0] = Some(value.clone()),
                b"APPEND_PATH" => around_path[1] = Some(value.clone()),
                b"PATH" => {
                    path.clone_from(value);
                    overrides.push(("PATH".into(), value.clone()));
                }
                _ => overrides.push((OsString::from_vec(inside.to_vec()), value.clone())),
            }
        } else if gets_in(request, name) {
            base.push((name.clone(), value.clone()));
        }
    }
    if overrides.iter().any(|(name, _)| name == "PATH") {
        around_path = [None, None];
    }
    let [before, after] = &around_path;
    if let Some(before) = before {
        path = joined(before, &path);
    }
    if let Some(after) = after {
        path = joined(&path, after);
    }
    set(&mut base, OsStr::new("PATH"), path);
    if choice.clean && !base.iter().any(|(name, _)| name == "LANG") {
        set(&mut base, OsStr::new("LANG"), "C".into());
    }
    if let Some(home) = &plan.home {
        set(
            &mut base,
            OsStr::new("HOME"),
            home.as_path().as_os_str().to_owned(),
        );
    }
    let image = std::path::absolute(request.image.path())
        .unwrap_or_else(|_| request.image.path().to_owned());
    set(
        &mut base,
        OsStr::new("SINGULARITY_CONTAINER"),
        image.into_os_string(),
    );
    set(
        &mut base,
        OsStr::new("SINGULARITY_NAME"),
        request.image.name(),
    );
    overrides.extend(choice.set.iter().cloned());
    Environment {
        base,
        overrides,
        around_path,
    }
}

/// Whether a variable of the host is one inside too.
fn gets_in(request: &Request, name: &OsStr) -> bool {
    let site = &request.site;
    let named = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
    let wanted = !request.environment.clean
        || is_kept_clean(name)
        || request.launcher.keeps(name)
        || named(&site.keep);
    wanted && !named(&site.drop)
}

fn is_kept_clean(name: &OsStr) -> bool {
    KEPT_CLEAN.iter().any(|kept| name == *kept) || name.as_bytes().starts_with(b"LC_")
}

fn joined(first: &OsStr, second: &OsStr) -> OsString {
    let mut path = first.to_owned();
    path.push(":");
    path.push(second);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_around_the_search_path_goes_there_once() {
        let mut environment = Environment {
            base: vec![("PATH".into(), "/own".into())],
            overrides: Vec::new(),
            around_path: [Some("/a:/b".into()), Some("/z".into())],
        };
        for _ in 0..2 {
            environment.surround_path();
            assert_eq!(environment.base[0].1, "/a:/b:/own:/z");
        }
    }

    #[test]
    fn the_last_word_wins_in_place() {
        let environment = Environment {
            base: vec![("A".into(), "1".into()), ("B".into(), "2".into())],
            overrides: vec![("A".into(), "3".into()), ("A".into(), "4".into())],
            around_path: [None, None],
        };
        let merged = environment.into_merged();
        assert_eq!(merged, [("A".into(), "4".into()), ("B".into(), "2".into())]);
    }
}
