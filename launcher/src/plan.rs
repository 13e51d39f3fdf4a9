//! From a request and the facts of the host to an ordered list of steps.
//!
//! Owns: what is mounted where, in which namespaces, in which order. Never:
//! touches the system; the same request on the same facts gives the same plan,
//! which is what lets ranks recognise each other ([`Plan::fingerprint`]).

use std::ffi::OsString;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use image::{FileSystem, Identity};

use crate::error::shown;
use crate::host::Host;
use crate::request::{Access, Home, HostPath, ImagePath, Request, Standard, Unshared};
use crate::site::{Dev, MountPoints};
use crate::stage::Stage;

/// How the image's file system gets mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageMount {
    /// The directory itself is bound.
    Bind,
    /// The kernel reads the file, by a loop device or directly.
    Kernel(FileSystem),
    /// A FUSE server of the user reads the file.
    Fuse(FileSystem),
}

/// Where the content of a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A file or directory of the host, with all that is mounted below it.
    Host(HostPath),
    /// A new directory in memory, with these permission bits.
    Memory(u32),
    /// A subdirectory of the work directory, made if it is missing, with these
    /// permission bits.
    Workdir(HostPath, u32),
    /// A new instance of the proc file system, for a new PID namespace.
    NewProc,
    /// A new message-queue file system, for a new IPC namespace.
    NewMqueue,
    /// A new sysfs, for a new network namespace.
    NewSys,
    /// A small /dev: the harmless devices, terminals, what a fabric needs.
    MinimalDev,
    /// Nothing: the directory need only be there.
    Nothing,
    /// The image's passwd(5) with the user's line.
    Passwd,
    /// The image's group(5) with the user's groups.
    Group,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mount {
    /// What is shown.
    pub source: Source,
    /// Where in the image.
    pub destination: ImagePath,
    /// Whether writing through it is refused.
    pub read_only: bool,
    /// Whether device files work on it.
    pub devices: bool,
    /// Whether a missing source is an error, or leaves the mount out.
    pub required: bool,
}

/// One step on the way into the image. Steps that shape the namespace come
/// first; a rank that joins another's namespace leaves them out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Make new namespaces; with `user`, ids are mapped to themselves.
    Unshare {
        /// A user namespace too.
        user: bool,
        /// What the user asked for in addition.
        extra: Unshared,
    },
    /// Name the host.
    Hostname(OsString),
    /// Bring up the loopback device of a new network namespace.
    Loopback,
    /// Copy the image file to the node; the copy is what is mounted.
    Stage(Stage),
    /// Mount the image as the root to be.
    Image {
        /// Its path, for messages.
        path: PathBuf,
        /// Which very file it is.
        identity: Identity,
        /// How it is mounted.
        mount: ImageMount,
        /// Whether changes go into the image.
        writable: bool,
    },
    /// Put a writable layer over the image; `None`: in memory.
    Overlay(Option<HostPath>),
    /// Mount something in the image.
    Mount(Mount),
    /// Make the image the root and let go of the host's.
    Pivot,
}

/// What becomes of the current directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Current {
    /// The program is to start in it: it is the first of the plan's.
    Wanted,
    /// The program starts elsewhere, as was asked for.
    Unwanted,
    /// It is nowhere any more.
    Removed,
}

/// Everything that will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The steps that shape the namespace, in order.
    pub steps: Vec<Step>,
    /// Where to start, the first that exists. The last one is `/`.
    pub working_directory: Vec<ImagePath>,
    /// Whether it is an error if the first of these does not exist.
    pub working_directory_required: bool,
    /// What becomes of the current directory.
    pub current: Current,
    /// `HOME` inside.
    pub home: Option<ImagePath>,
    /// How missing mount points appear.
    pub mount_points: MountPoints,
    /// The number up to which loop devices are taken.
    pub max_loop_devices: u32,
}

/// 128 bits of something: others for each `salt`, of which two in succession are taken.
pub(crate) fn digest(salt: u8, of: impl Hash) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &of).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(salt) << 64 | half(salt + 1)
}

impl Plan {
    /// 128 bits that are the same for processes whose namespaces would be the
    /// same, made by the same build of this program.
    pub fn fingerprint(&self) -> u128 {
        digest(0, (env!("CARGO_PKG_VERSION"), &self.steps))
    }

    /// The namespaces of the plan beyond mount and user.
    pub fn unshared(&self) -> Unshared {
        self.steps
            .iter()
            .find_map(|step| match step {
                Step::Unshare { extra, .. } => Some(*extra),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// Whether the plan makes a user namespace.
    pub fn has_user_namespace(&self) -> bool {
        self.steps
            .iter()
            .any(|step| matches!(step, Step::Unshare { user: true, .. }))
    }
}

/// Directories of the host that a current directory must not bring along: what
/// is in the image at these places is what the image is for.
const SYSTEM_TREES: [&str; 10] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr",
];
/// The same, but a directory below them may well be the user's.
const SYSTEM_DIRECTORIES: [&str; 8] = [
    "/", "/home", "/media", "/mnt", "/opt", "/run", "/srv", "/var",
];

/// Makes the plan for `request` on `host`. The request has passed
/// [`crate::policy::judge`].
pub fn build(request: &Request, host: &Host) -> Plan {
    let mut planner = Planner {
        request,
        mounts: Vec::new(),
    };
    planner.system();
    let home = planner.home(host);
    planner.temporary();
    planner.x11(host);
    planner.launcher();
    planner.accounts();
    planner.binds();
    let (working_directory, current) = planner.working_directory(host, home.as_ref());
    planner.scratch();
    planner.places();

    let user = !host.mounts_as_root;
    let mut steps = vec![Step::Unshare {
        user,
        extra: request.unshared,
    }];
    if let Some(name) = &request.hostname {
        steps.push(Step::Hostname(name.clone()));
    }
    if request.unshared.net {
        steps.push(Step::Loopback);
    }
    steps.extend(request.stage.clone().map(Step::Stage));
    steps.push(Step::Image {
        path: request.image.path().to_owned(),
        identity: request.image.identity(),
        mount: image_mount(request, host),
        writable: request.access == Access::Writable,
    });
    match &request.access {
        Access::WritableTmpfs => steps.push(Step::Overlay(None)),
        Access::Overlay(directory) => steps.push(Step::Overlay(Some(directory.clone()))),
        Access::ReadOnly | Access::Writable => {}
    }
    steps.extend(planner.mounts.into_iter().map(Step::Mount));
    steps.push(Step::Pivot);
    Plan {
        steps,
        working_directory,
        working_directory_required: request.working_directory.is_some(),
        current,
        home,
        mount_points: request.site.mount_points,
        max_loop_devices: request.site.max_loop_devices,
    }
}

fn image_mount(request: &Request, host: &Host) -> ImageMount {
    match request.image.root() {
        None => ImageMount::Bind,
        Some(root) if host.mounts_as_root => ImageMount::Kernel(root.filesystem),
        Some(root) => ImageMount::Fuse(root.filesystem),
    }
}

struct Planner<'a> {
    request: &'a Request,
    mounts: Vec<Mount>,
}

impl Planner<'_> {
    fn wants(&self, standard: Standard) -> bool {
        !self.request.without.contains(&standard) && !self.request.site.without.contains(&standard)
    }

    fn add(&mut self, source: Source, destination: &str) -> &mut Mount {
        self.push(Mount {
            source,
            destination: ImagePath::new(destination).unwrap_or_else(root_path),
            read_only: false,
            devices: false,
            required: false,
        })
    }

    fn push(&mut self, mount: Mount) -> &mut Mount {
        let last = self.mounts.len();
        self.mounts.push(mount);
        &mut self.mounts[last]
    }

    fn add_host(&mut self, path: &str) -> &mut Mount {
        self.add(Source::Host(HostPath::new(path)), path)
    }

    /// Whether the host's `path` is visible at the same path already.
    fn covers(&self, path: &Path) -> bool {
        self.mounts
            .iter()
            .rev()
            .find(|mount| path.starts_with(mount.destination.as_path()))
            .is_some_and(|mount| match &mount.source {
                Source::Host(source) => source.as_path() == mount.destination.as_path(),
                _ => false,
            })
    }

    fn system(&mut self) {
        if self.wants(Standard::Proc) {
            if self.request.unshared.pid {
                self.add(Source::NewProc, "/proc");
            } else {
                self.add_host("/proc");
            }
        }
        if self.wants(Standard::Sys) {
            if self.request.unshared.net {
                self.add(Source::NewSys, "/sys");
            } else {
                self.add_host("/sys");
            }
        }
        if self.wants(Standard::Dev) && self.request.site.dev != Dev::None {
            if self.request.contain || self.request.site.dev == Dev::Minimal {
                self.add(Source::MinimalDev, "/dev").devices = true;
                // Ranks of one job meet in /dev/shm.
                if self.request.launcher.is_rank() {
                    self.add_host("/dev/shm");
                }
            } else {
                self.add_host("/dev").devices = true;
            }
            if self.request.unshared.ipc {
                self.add(Source::NewMqueue, "/dev/mqueue");
            }
        }
        for (standard, file) in [
            (Standard::Hosts, "/etc/hosts"),
            (Standard::ResolvConf, "/etc/resolv.conf"),
            (Standard::Localtime, "/etc/localtime"),
        ] {
            if self.wants(standard) {
                self.add_host(file).read_only = true;
            }
        }
    }

    fn home(&mut self, host: &Host) -> Option<ImagePath> {
        let own = || host.home.as_ref().and_then(ImagePath::same_as);
        match &self.request.home {
            Home::None => own(),
            Home::Own if !self.wants(Standard::Home) => own(),
            Home::Own => {
                let (Some(source), Some(destination)) = (host.home.clone(), own()) else {
                    return None;
                };
                let source = if self.request.contain {
                    self.private("home", 0o700)
                } else {
                    Source::Host(source)
                };
                // A home that is the root directory (daemons have such) is no home.
                if destination.as_path() != Path::new("/") {
                    self.push(Mount {
                        source,
                        destination: destination.clone(),
                        read_only: false,
                        devices: false,
                        required: false,
                    });
                }
                Some(destination)
            }
            Home::Instead {
                source,
                destination,
            } => {
                self.push(Mount {
                    source: Source::Host(source.clone()),
                    destination: destination.clone(),
                    read_only: false,
                    devices: false,
                    required: true,
                });
                Some(destination.clone())
            }
        }
    }

    fn private(&self, name: &str, mode: u32) -> Source {
        match &self.request.workdir {
            Some(workdir) => Source::Workdir(HostPath::new(workdir.as_path().join(name)), mode),
            None => Source::Memory(mode),
        }
    }

    fn temporary(&mut self) {
        if !self.wants(Standard::Tmp) {
            return;
        }
        for (path, name) in [("/tmp", "tmp"), ("/var/tmp", "var_tmp")] {
            if self.request.contain || self.request.workdir.is_some() {
                let source = self.private(name, 0o1777);
                self.add(source, path);
            } else {
                self.add_host(path);
            }
        }
    }

    fn scratch(&mut self) {
        for destination in &self.request.scratch {
            let relative = destination
                .as_path()
                .strip_prefix("/")
                .unwrap_or(Path::new(""));
            let source = match &self.request.workdir {
                Some(workdir) => Source::Workdir(
                    HostPath::new(workdir.as_path().join("scratch").join(relative)),
                    0o755,
                ),
                None => Source::Memory(0o755),
            };
            self.mounts.push(Mount {
                source,
                destination: destination.clone(),
                read_only: false,
                devices: false,
                required: true,
            });
        }
    }

    /// Directories that need only be there.
    fn places(&mut self) {
        for place in &self.request.places {
            let path = place.as_path();
            let around = self
                .mounts
                .iter()
                .rev()
                .find(|mount| path.starts_with(mount.destination.as_path()));
            // Nothing is made in a directory of the host's.
            if around.is_some_and(|mount| !matches!(mount.source, Source::Memory(_))) {
                continue;
            }
            self.mounts.push(Mount {
                source: Source::Nothing,
                destination: place.clone(),
                read_only: false,
                devices: false,
                required: false,
            });
        }
    }

    /// The display's socket and authority, where they are not visible already.
    fn x11(&mut self, host: &Host) {
        if host.variable("DISPLAY").is_none() || self.request.unshared.net {
            return;
        }
        let authority = host
            .variable("XAUTHORITY")
            .map(PathBuf::from)
            .or_else(|| Some(host.home.as_ref()?.as_path().join(".Xauthority")));
        for path in authority
            .into_iter()
            .chain([PathBuf::from("/tmp/.X11-unix")])
        {
            self.show_where_hidden(&path, false);
        }
    }

    /// What the launcher's server must find, or be found by.
    fn launcher(&mut self) {
        for (directory, _why) in self.request.launcher.directories() {
            self.show_where_hidden(&directory, false);
        }
    }

    fn show_where_hidden(&mut self, path: &Path, required: bool) {
        let source = HostPath::new(path);
        let Some(destination) = ImagePath::same_as(&source) else {
            return;
        };
        if !self.covers(path) {
            self.push(Mount {
                source: Source::Host(source),
                destination,
                read_only: false,
                devices: false,
                required,
            });
        }
    }

    fn binds(&mut self) {
        let site = self.request.site.binds.iter().map(|bind| (bind, false));
        let own = self.request.binds.iter().map(|bind| (bind, true));
        for (bind, required) in site.chain(own) {
            self.mounts.push(Mount {
                source: Source::Host(bind.source.clone()),
                destination: bind.destination.clone(),
                read_only: bind.read_only,
                devices: bind.source.as_path().starts_with("/dev"),
                required,
            });
        }
    }

    fn working_directory(
        &mut self,
        host: &Host,
        home: Option<&ImagePath>,
    ) -> (Vec<ImagePath>, Current) {
        let mut candidates = Vec::new();
        let mut current = Current::Unwanted;
        if let Some(wanted) = &self.request.working_directory {
            candidates.push(wanted.clone());
        } else if let Some(cwd) = &host.cwd {
            let is_system = SYSTEM_TREES.iter().any(|tree| cwd.starts_with(tree))
                || SYSTEM_DIRECTORIES
                    .iter()
                    .any(|directory| cwd == Path::new(directory));
            let hidden = self.request.contain || !self.wants(Standard::Cwd);
            if !hidden && !is_system {
                self.show_where_hidden(cwd, false);
            }
            if !hidden || self.covers(cwd) {
                candidates.extend(ImagePath::new(cwd));
                current = Current::Wanted;
            }
        } else if self.wants(Standard::Cwd) && !self.request.contain {
            current = Current::Removed;
        }
        candidates.extend(home.cloned());
        candidates.push(root_path());
        (candidates, current)
    }

    fn accounts(&mut self) {
        for (standard, source, file) in [
            (Standard::Passwd, Source::Passwd, "/etc/passwd"),
            (Standard::Group, Source::Group, "/etc/group"),
        ] {
            if self.wants(standard) {
                self.add(source, file).read_only = true;
            }
        }
    }
}

fn root_path() -> ImagePath {
    ImagePath::new("/").unwrap_or_else(|| unreachable!("/ is absolute"))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(path) => write!(f, "{}", shown(path.as_path())),
            Self::Memory(mode) => write!(f, "an empty directory in memory (mode {mode:04o})"),
            Self::Workdir(path, mode) => {
                write!(
                    f,
                    "{} (made if missing, mode {mode:04o})",
                    shown(path.as_path())
                )
            }
            Self::NewProc => f.write_str("a new proc"),
            Self::NewMqueue => f.write_str("a new mqueue"),
            Self::NewSys => f.write_str("a new sysfs"),
            Self::MinimalDev => f.write_str("a minimal /dev"),
            Self::Nothing => f.write_str("nothing (an empty directory where there is none)"),
            Self::Passwd => f.write_str("the image's passwd with your account"),
            Self::Group => f.write_str("the image's group with your groups"),
        }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "mount {} on {}",
            self.source,
            shown(self.destination.as_path())
        )?;
        let mut options = vec!["nosuid"];
        if !self.devices {
            options.push("nodev");
        }
        options.push(if self.read_only {
            "read-only"
        } else {
            "read-write"
        });
        if !self.required {
            options.push("if there");
        }
        write!(f, " ({})", options.join(", "))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unshare { user, extra } => {
                let mut names = vec!["mount"];
                for (wanted, name) in [
                    (*user, "user (ids mapped to themselves)"),
                    (extra.ipc, "ipc"),
                    (extra.pid, "pid"),
                    (extra.net, "net"),
                    (extra.uts, "uts"),
                ] {
                    if wanted {
                        names.push(name);
                    }
                }
                write!(f, "new namespaces: {}", names.join(", "))
            }
            Self::Hostname(name) => write!(f, "host name {}", shown(Path::new(name))),
            Self::Stage(stage) => {
                let else_ = if stage.or_original {
                    ", if that can be done"
                } else {
                    ""
                };
                write!(
                    f,
                    "copy the image to {}, as a file without a name{else_}",
                    stage.place
                )
            }
            Self::Loopback => f.write_str("bring up the loopback device"),
            Self::Image {
                path,
                mount,
                writable,
                ..
            } => {
                let how = match mount {
                    ImageMount::Bind => "bound directory".to_owned(),
                    ImageMount::Kernel(kind) => format!("{kind}, by the kernel"),
                    ImageMount::Fuse(kind) => format!("{kind}, by FUSE"),
                };
                let access = if *writable { "read-write" } else { "read-only" };
                write!(f, "image {} ({how}, nosuid, nodev, {access})", shown(path))
            }
            Self::Overlay(None) => f.write_str("overlay: changes are kept in memory"),
            Self::Overlay(Some(path)) => {
                write!(f, "overlay: changes are kept in {}", shown(path.as_path()))
            }
            Self::Mount(mount) => mount.fmt(f),
            Self::Pivot => f.write_str("make the image the root, let go of the host's"),
        }
    }
}
