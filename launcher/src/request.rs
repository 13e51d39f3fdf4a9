//! What is asked for: the image, the command, and every choice a user can make.
//!
//! Owns: the vocabulary shared by the command, the setuid starter and the SPANK
//! plugin. Never: parses command lines, or looks at the system.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use image::Image;
use pmi_shim::Host as Launcher;

use crate::site::Site;
use crate::stage::Stage;

/// A path on the host. Not a path in the image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPath(PathBuf);

/// An absolute path in the image. Not a path on the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImagePath(PathBuf);

impl HostPath {
    /// Takes a path as one of the host's.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path itself.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl ImagePath {
    /// Takes an absolute path as one of the image's; `None` if it is relative.
    pub fn new(path: impl Into<PathBuf>) -> Option<Self> {
        let path = path.into();
        path.is_absolute().then_some(Self(path))
    }

    /// The place in the image that has the same path as `path` on the host.
    pub fn same_as(path: &HostPath) -> Option<Self> {
        Self::new(path.as_path())
    }

    /// The path itself.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// A host file or directory that the user wants at a place in the image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bind {
    /// What to show.
    pub source: HostPath,
    /// Where to show it.
    pub destination: ImagePath,
    /// Whether writing through it is refused.
    pub read_only: bool,
}

/// What the user's home directory is inside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Home {
    /// The host's, at its own path.
    #[default]
    Own,
    /// None is mounted.
    None,
    /// This directory of the host, at that path.
    Instead {
        /// The directory on the host.
        source: HostPath,
        /// Its path in the image, which becomes `HOME`.
        destination: ImagePath,
    },
}

/// What the image's own tree allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Access {
    /// No change, for root neither.
    #[default]
    ReadOnly,
    /// Changes go into the image, in place.
    Writable,
    /// Changes go to memory and are gone at the end.
    WritableTmpfs,
    /// Changes go to a directory of the host and are kept there.
    Overlay(HostPath),
}

/// The namespaces a user can ask for; mount and user namespaces are not a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Unshared {
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Process ids.
    pub pid: bool,
    /// Network devices, addresses, ports and abstract sockets.
    pub net: bool,
    /// Host name.
    pub uts: bool,
}

/// Whether this process shares its namespaces with others of its job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Share {
    /// Ranks of one job on a node share; other processes do not.
    #[default]
    Auto,
    /// Never.
    Off,
    /// With all processes of the user that give the same name.
    Name(OsString),
}

/// What is started in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A command and its arguments.
    Exec(Vec<OsString>),
    /// The image's runscript, with arguments.
    Run(Vec<OsString>),
    /// The image's test, with arguments.
    Test(Vec<OsString>),
    /// A shell, with arguments.
    Shell {
        /// The shell's path in the image; else bash where there is one, else sh.
        program: Option<OsString>,
        /// Its arguments.
        arguments: Vec<OsString>,
    },
}

/// Mounts that are made without being asked for, by the name `--no-mount` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standard {
    /// /dev
    Dev,
    /// /proc
    Proc,
    /// /sys
    Sys,
    /// /tmp and /var/tmp
    Tmp,
    /// The home directory.
    Home,
    /// The current directory.
    Cwd,
    /// /etc/hosts
    Hosts,
    /// /etc/resolv.conf
    ResolvConf,
    /// /etc/localtime
    Localtime,
    /// /etc/passwd
    Passwd,
    /// /etc/group
    Group,
}

impl Standard {
    /// All of them with their names.
    pub const NAMES: [(&'static str, Self); 11] = [
        ("dev", Self::Dev),
        ("proc", Self::Proc),
        ("sys", Self::Sys),
        ("tmp", Self::Tmp),
        ("home", Self::Home),
        ("cwd", Self::Cwd),
        ("hosts", Self::Hosts),
        ("resolv.conf", Self::ResolvConf),
        ("localtime", Self::Localtime),
        ("passwd", Self::Passwd),
        ("group", Self::Group),
    ];
}

/// What the user wants of the environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EnvironmentChoice {
    /// Drop the host's variables, but for those a launcher needs.
    pub clean: bool,
    /// Do not run the environment scripts of the image.
    pub ignore_image: bool,
    /// Variables to set inside, in order; they win over everything.
    pub set: Vec<(OsString, OsString)>,
}

/// What is wanted of the meeting between the host's launcher and the image's MPI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MpiChoice {
    /// How they meet.
    pub choice: pmi_shim::Choice,
    /// Whether the environment is made right for the two.
    pub hygiene: bool,
    /// The directory that the bridge's helper is installed in; `None` if nobody knows.
    pub libexec: Option<PathBuf>,
}

impl Default for MpiChoice {
    fn default() -> Self {
        Self {
            choice: pmi_shim::Choice::Auto,
            hygiene: true,
            libexec: None,
        }
    }
}

/// Everything the launcher needs to know to put a command into an image.
#[derive(Debug)]
pub struct Request {
    /// The opened image.
    pub image: Image,
    /// What to start.
    pub entry: Entry,
    /// The user's binds, in order.
    pub binds: Vec<Bind>,
    /// The home directory.
    pub home: Home,
    /// Where contained and scratch directories live, instead of in memory.
    pub workdir: Option<HostPath>,
    /// Empty writable directories to put in the image.
    pub scratch: Vec<ImagePath>,
    /// Directories that are made in the image where it has none.
    pub places: Vec<ImagePath>,
    /// Where to start, instead of the current directory.
    pub working_directory: Option<ImagePath>,
    /// Private /tmp, /var/tmp, home and a minimal /dev.
    pub contain: bool,
    /// Additional namespaces.
    pub unshared: Unshared,
    /// The host name inside; needs `unshared.uts`.
    pub hostname: Option<OsString>,
    /// What the image's tree allows.
    pub access: Access,
    /// Standard mounts to leave out.
    pub without: Vec<Standard>,
    /// The environment.
    pub environment: EnvironmentChoice,
    /// Sharing with other ranks.
    pub share: Share,
    /// The job launcher of the host that started this process, as detected.
    pub launcher: Launcher,
    /// What the site says.
    pub site: Site,
    /// The meeting of launcher and MPI.
    pub mpi: MpiChoice,
    /// Whether the image file is copied to the node first.
    pub stage: Option<Stage>,
    /// Print one line of phases with their durations at the end of set-up.
    pub timing: bool,
}

impl Request {
    /// A request with every choice at its default.
    pub fn new(image: Image, entry: Entry, launcher: Launcher) -> Self {
        Self {
            image,
            entry,
            binds: Vec::new(),
            home: Home::default(),
            workdir: None,
            scratch: Vec::new(),
            places: Vec::new(),
            working_directory: None,
            contain: false,
            unshared: Unshared::default(),
            hostname: None,
            access: Access::default(),
            without: Vec::new(),
            environment: EnvironmentChoice::default(),
            share: Share::default(),
            launcher,
            site: Site::default(),
            mpi: MpiChoice::default(),
            stage: None,
            timing: false,
        }
    }
}
