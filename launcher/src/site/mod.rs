//! The site's configuration, `singularity.conf`: what the sysadmin allows, forbids
//! and adds, for the command, the set-id starter and the Slurm plugin alike.
//!
//! Owns: the values ([`Site`]), reading the file ([`load()`]), the one table of keys
//! ([`table`]) and what a site's word does to a request ([`obey`]). Never: guesses;
//! a file that is wrong or that others could have written is refused whole.

pub mod load;
pub mod obey;
mod parse;
pub mod table;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use image::FileSystem;

use crate::request::{Bind, Standard};

pub use load::{load, load_from, PATH};
pub use parse::Mistake;

/// Whose images may be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This user's or group's.
    Id(u32),
    /// The own ones of whoever enters.
    Own,
}

/// What reads image files where both could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// The kernel where there is privilege, a FUSE server where there is none.
    #[default]
    Auto,
    /// Only the kernel: users need the starter or the plugin for image files.
    Kernel,
    /// Only FUSE servers: privileged code mounts no image files of users.
    Fuse,
}

/// How missing mount points are made to appear in an image that is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MountPoints {
    /// By binding a directory's entries where they are few, else by an overlay.
    #[default]
    Auto,
    /// By an overlay, where the kernel can.
    Overlay,
    /// By binding entries only.
    Underlay,
}

/// What is in `/dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dev {
    /// The host's.
    #[default]
    Host,
    /// The harmless devices only.
    Minimal,
    /// Nothing is mounted.
    None,
}

/// Names of variables: `*` at the end stands for any rest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(pub(crate) String);

impl Pattern {
    /// Whether the name is one of them.
    pub fn matches(&self, name: &OsStr) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.as_bytes().starts_with(beginning.as_bytes()),
            None => name == self.0.as_str(),
        }
    }
}

/// Which images may be entered, by whose they are and where they lie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageLimits {
    /// Whose images; empty: anybody's.
    pub owners: Vec<Owner>,
    /// Of which groups; empty: of any.
    pub groups: Vec<Owner>,
    /// Where they lie, links resolved; empty: anywhere.
    pub directories: Vec<PathBuf>,
}

/// What the site has set. [`Site::default`] is what holds without a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The starter may be used.
    pub allow_setuid: bool,
    /// Images may be entered by user namespaces.
    pub allow_user_namespaces: bool,
    /// `--pid` is allowed.
    pub allow_pid: bool,
    /// `--ipc` is allowed.
    pub allow_ipc: bool,
    /// `--net` is allowed.
    pub allow_net: bool,
    /// `--uts` is allowed.
    pub allow_uts: bool,
    /// Directories may be entered as images by privileged code.
    pub privileged_directories: bool,
    /// File systems that the kernel mounts from users' files.
    pub privileged_formats: Vec<FileSystem>,
    /// Which images may be entered.
    pub images: ImageLimits,
    /// Shown in every image.
    pub binds: Vec<Bind>,
    /// Whether users may bind what they like.
    pub user_binds: bool,
    /// Standard mounts that are left out.
    pub without: Vec<Standard>,
    /// What is in `/dev`.
    pub dev: Dev,
    /// How many loop devices there may be at once.
    pub max_loop_devices: u32,
    /// Whether writable layers over images are allowed.
    pub overlay: bool,
    /// How missing mount points appear.
    pub mount_points: MountPoints,
    /// Variables that get in also with `--cleanenv`.
    pub keep: Vec<Pattern>,
    /// Variables of the host that never get in.
    pub drop: Vec<Pattern>,
    /// Whether ranks of a job share their namespaces.
    pub share: bool,
    /// Where `--stage` copies images to, where the user names no place.
    pub stage_dir: Option<PathBuf>,
    /// What reads image files.
    pub driver: Driver,
    /// Whether privileged starts are written to the system log.
    pub audit: bool,
    /// How launcher and MPI meet where the user does not say.
    pub mpi: pmi_shim::Choice,
    /// Whether variables are changed for it.
    pub mpi_hygiene: bool,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            allow_setuid: true,
            allow_user_namespaces: true,
            allow_pid: true,
            allow_ipc: true,
            allow_net: true,
            allow_uts: true,
            privileged_directories: true,
            privileged_formats: vec![FileSystem::Squashfs, FileSystem::Erofs],
            images: ImageLimits::default(),
            binds: Vec::new(),
            user_binds: true,
            without: Vec::new(),
            dev: Dev::Host,
            max_loop_devices: 256,
            overlay: true,
            mount_points: MountPoints::Auto,
            keep: Vec::new(),
            drop: Vec::new(),
            share: true,
            stage_dir: None,
            driver: Driver::Auto,
            audit: true,
            mpi: pmi_shim::Choice::Auto,
            mpi_hygiene: true,
        }
    }
}
