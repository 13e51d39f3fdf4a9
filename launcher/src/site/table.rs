//! The keys of `singularity.conf`: name, form, default, meaning, and what a value
//! sets. The annotated example, the manual page and the checks are made of it.
//!
//! Owns: this table. Never: reads files.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use image::FileSystem;

use super::{Dev, Driver, MountPoints, Owner, Pattern, Site};
use crate::bind;
use crate::host;
use crate::request::Standard;

/// One key.
pub struct Key {
    /// Its name, as it is written.
    pub name: &'static str,
    /// The form of its value.
    pub form: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// Whether it may be given more than once, each adding to the others.
    pub repeatable: bool,
    /// What it means.
    pub meaning: &'static str,
    /// Sets it; the error says what to write.
    pub(super) take: fn(&mut Site, &str) -> Result<(), String>,
    /// What is set, as it would be written; a line for each where it is repeatable.
    pub(super) show: fn(&Site) -> Vec<String>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)
    }
}

/// A key that is yes or no.
macro_rules! switch {
    ($name:literal, $default:literal, $field:ident, $meaning:literal) => {
        Key {
            name: $name,
            form: "yes|no",
            default: $default,
            repeatable: false,
            meaning: $meaning,
            take: |site, value| {
                site.$field = yes_or_no(value)?;
                Ok(())
            },
            show: |site| vec![word(site.$field)],
        }
    };
}

/// A key that says whether a standard mount is made.
macro_rules! mount {
    ($name:literal, $standard:ident, $meaning:literal) => {
        Key {
            name: $name,
            form: "yes|no",
            default: "yes",
            repeatable: false,
            meaning: $meaning,
            take: |site, value| {
                if !yes_or_no(value)? {
                    site.without.push(Standard::$standard);
                }
                Ok(())
            },
            show: |site| vec![word(!site.without.contains(&Standard::$standard))],
        }
    };
}

/// All keys, in the order in which they are shown.
pub static KEYS: [Key; 34] = [
    switch!("allow setuid", "yes", allow_setuid,
        "Whether the set-id starter may be used, where it is installed."),
    switch!("allow user namespaces", "yes", allow_user_namespaces,
        "Whether the command enters images by user namespaces. It is a rule for the command; to forbid user namespaces to every program, set user.max_user_namespaces (sysctl)."),
    switch!("allow pid namespaces", "yes", allow_pid, "Whether --pid may be asked for."),
    switch!("allow ipc namespaces", "yes", allow_ipc, "Whether --ipc may be asked for."),
    switch!("allow net namespaces", "yes", allow_net, "Whether --net may be asked for."),
    switch!("allow uts namespaces", "yes", allow_uts, "Whether --uts and --hostname may be asked for."),
    Key {
        name: "allow privileged formats",
        form: "FORMAT, ...",
        default: "directory, squashfs, erofs",
        repeatable: false,
        meaning: "What the starter and the Slurm plugin mount for users: directory, squashfs, erofs, ext, or none. Whoever can write to an image that the kernel has mounted could attack the kernel by it; the driver of ext was not made to withstand that. Other images are entered by user namespaces, where these are allowed.",
        take: privileged_formats,
        show: |site| vec![formats_shown(site)],
    },
    Key {
        name: "limit image owners",
        form: "USER|UID|self, ...",
        default: "",
        repeatable: true,
        meaning: "Only images that belong to one of these users may be entered; self is the user who enters. Nobody named: anybody's.",
        take: |site, value| {
            for name in items(value) {
                site.images.owners.push(user(name)?);
            }
            Ok(())
        },
        show: |site| site.images.owners.iter().map(owner_shown).collect(),
    },
    Key {
        name: "limit image groups",
        form: "GROUP|GID|self, ...",
        default: "",
        repeatable: true,
        meaning: "Only images whose group is one of these may be entered; self is the primary group of the user who enters. None named: any.",
        take: |site, value| {
            for name in items(value) {
                site.images.groups.push(group(name)?);
            }
            Ok(())
        },
        show: |site| site.images.groups.iter().map(owner_shown).collect(),
    },
    Key {
        name: "limit image directories",
        form: "DIRECTORY, ...",
        default: "",
        repeatable: true,
        meaning: "Only images that lie in one of these directories or below, links resolved, may be entered. None named: anywhere.",
        take: |site, value| {
            for path in items(value) {
                site.images.directories.push(absolute(path)?);
            }
            Ok(())
        },
        show: |site| site.images.directories.iter().map(|path| path.display().to_string()).collect(),
    },
    Key {
        name: "bind path",
        form: "SOURCE[:DEST[:ro|rw]], ...",
        default: "",
        repeatable: true,
        meaning: "Shown in every image, opened with the rights of the user who enters; left out on machines that lack it.",
        take: |site, value| {
            let list = close_up(value);
            let binds = bind::parse_list(OsStr::new(&list), Path::new("/"))
                .map_err(|error| format!("{error}"))?;
            site.binds.extend(binds);
            Ok(())
        },
        show: |site| site.binds.iter().map(bind_shown).collect(),
    },
    switch!("user bind control", "yes", user_binds,
        "Whether users may bind what they like (-B), choose another home (-H) and a work directory (-W)."),
    mount!("mount home", Home, "Whether the home directory is shown."),
    mount!("mount tmp", Tmp, "Whether /tmp and /var/tmp are the host's."),
    mount!("mount proc", Proc, "Whether /proc is mounted."),
    mount!("mount sys", Sys, "Whether /sys is mounted."),
    Key {
        name: "mount dev",
        form: "yes|minimal|no",
        default: "yes",
        repeatable: false,
        meaning: "Whether /dev is the host's, holds the harmless devices only, or is not mounted.",
        take: |site, value| {
            site.dev = match value {
                "minimal" => Dev::Minimal,
                _ if yes_or_no(value).map_err(|_| "write yes, minimal or no")? => Dev::Host,
                _ => Dev::None,
            };
            Ok(())
        },
        show: |site| vec![match site.dev {
            Dev::Host => "yes",
            Dev::Minimal => "minimal",
            Dev::None => "no",
        }.to_owned()],
    },
    mount!("mount hosts", Hosts, "Whether /etc/hosts is the host's."),
    mount!("mount resolv.conf", ResolvConf, "Whether /etc/resolv.conf is the host's."),
    mount!("mount localtime", Localtime, "Whether /etc/localtime is the host's."),
    mount!("mount passwd", Passwd, "Whether /etc/passwd is the image's with the user's line added."),
    mount!("mount group", Group, "Whether /etc/group is the image's with the user's groups added."),
    Key {
        name: "max loop devices",
        form: "NUMBER",
        default: "256",
        repeatable: false,
        meaning: "Loop devices are taken only up to this number, counted over the machine.",
        take: |site, value| {
            site.max_loop_devices = value.parse().ok().filter(|n| *n <= 1 << 20)
                .ok_or("write a number up to 1048576")?;
            Ok(())
        },
        show: |site| vec![site.max_loop_devices.to_string()],
    },
    switch!("enable overlay", "yes", overlay,
        "Whether writable layers over an image (--overlay, --writable-tmpfs) may be asked for."),
    Key {
        name: "mount points",
        form: "auto|overlay|underlay",
        default: "auto",
        repeatable: false,
        meaning: "How mount points that an image lacks are made to appear: by a read-only overlay, by binding what is beside them (underlay), or by what is cheaper.",
        take: |site, value| {
            site.mount_points = match value {
                "auto" => MountPoints::Auto,
                "overlay" => MountPoints::Overlay,
                "underlay" => MountPoints::Underlay,
                _ => return Err("write auto, overlay or underlay".to_owned()),
            };
            Ok(())
        },
        show: |site| vec![match site.mount_points {
            MountPoints::Auto => "auto",
            MountPoints::Overlay => "overlay",
            MountPoints::Underlay => "underlay",
        }.to_owned()],
    },
    Key {
        name: "keep environment",
        form: "NAME, ...",
        default: "",
        repeatable: true,
        meaning: "Variables of the host that get in also with --cleanenv. A * at the end of a name stands for any rest.",
        take: |site, value| patterns(&mut site.keep, value),
        show: |site| site.keep.iter().map(|pattern| pattern.0.clone()).collect(),
    },
    Key {
        name: "drop environment",
        form: "NAME, ...",
        default: "",
        repeatable: true,
        meaning: "Variables of the host that never get in, unless the user sets them for the image by name. A * at the end of a name stands for any rest.",
        take: |site, value| patterns(&mut site.drop, value),
        show: |site| site.drop.iter().map(|pattern| pattern.0.clone()).collect(),
    },
    switch!("share between ranks", "yes", share,
        "Whether the ranks of a job on a node share their namespaces and the mount of the image. Without, MPI between them is slower."),
    Key {
        name: "stage dir",
        form: "DIRECTORY",
        default: "",
        repeatable: false,
        meaning: "Where --stage copies image files to where the user names no place: a directory on each node's own disk, or /dev/shm for its memory, that users may write to (mode 1777). Unset: TMPDIR, else /tmp.",
        take: |site, value| {
            site.stage_dir = match value {
                "" => None,
                path => Some(absolute(path)?),
            };
            Ok(())
        },
        show: |site| site.stage_dir.iter().map(|path| path.display().to_string()).collect(),
    },
    Key {
        name: "image driver",
        form: "auto|kernel|fuse",
        default: "auto",
        repeatable: false,
        meaning: "What reads image files for users: the kernel where there is privilege and a FUSE server where there is none (auto); the kernel only, so that the starter or the Slurm plugin is needed; or FUSE servers only, so that the kernel mounts no file of a user's.",
        take: |site, value| {
            site.driver = match value {
                "auto" => Driver::Auto,
                "kernel" => Driver::Kernel,
                "fuse" => Driver::Fuse,
                _ => return Err("write auto, kernel or fuse".to_owned()),
            };
            Ok(())
        },
        show: |site| vec![match site.driver {
            Driver::Auto => "auto",
            Driver::Kernel => "kernel",
            Driver::Fuse => "fuse",
        }.to_owned()],
    },
    mount!("mount cwd", Cwd, "Whether the current directory is shown where it is not visible already."),
    switch!("audit log", "yes", audit,
        "Whether each privileged start is one line in the system log."),
    Key {
        name: "mpi",
        form: "auto|pass|bridge|openmpi|mpich|off",
        default: "auto",
        repeatable: false,
        meaning: "How a rank's launcher and its MPI meet where the user does not say: --mpi in singularity(1).",
        take: |site, value| {
            site.mpi = pmi_shim::Choice::named(OsStr::new(value))
                .ok_or("write auto, pass, bridge, openmpi, mpich or off")?;
            Ok(())
        },
        show: |site| vec![site.mpi.name().to_owned()],
    },
    switch!("mpi hygiene", "yes", mpi_hygiene,
        "Whether variables are dropped and set to make a rank's launcher and its MPI fit (docs/ENVIRONMENT.md). SINGULARITY_MPI_HYGIENE=off does the same for one run."),
];

fn word(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn yes_or_no(value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("write yes or no".to_owned()),
    }
}

/// The items of a comma list.
fn items(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    path.is_absolute()
        .then_some(path)
        .ok_or_else(|| "write an absolute path".to_owned())
}

fn privileged_formats(site: &mut Site, value: &str) -> Result<(), String> {
    site.privileged_directories = false;
    site.privileged_formats.clear();
    for name in items(value) {
        match name {
            "directory" => site.privileged_directories = true,
            "squashfs" => site.privileged_formats.push(FileSystem::Squashfs),
            "erofs" => site.privileged_formats.push(FileSystem::Erofs),
            "ext" => site.privileged_formats.push(FileSystem::Ext),
            "none" => {}
            _ => return Err("write a list of directory, squashfs, erofs, ext; or none".to_owned()),
        }
    }
    Ok(())
}

fn formats_shown(site: &Site) -> String {
    let directory = site.privileged_directories.then_some("directory");
    let files = site.privileged_formats.iter().map(|kind| match kind {
        FileSystem::Squashfs => "squashfs",
        FileSystem::Erofs => "erofs",
        FileSystem::Ext => "ext",
    });
    let names: Vec<_> = directory.into_iter().chain(files).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn user(name: &str) -> Result<Owner, String> {
    let unknown = "no such user in /etc/passwd; others can be given by number";
    match name {
        "self" => Ok(Owner::Own),
        _ => name
            .parse()
            .ok()
            .or_else(|| host::local_user(name.as_bytes()))
            .map(Owner::Id)
            .ok_or_else(|| unknown.to_owned()),
    }
}

fn group(name: &str) -> Result<Owner, String> {
    let unknown = "no such group in /etc/group; others can be given by number";
    match name {
        "self" => Ok(Owner::Own),
        _ => name
            .parse()
            .ok()
            .or_else(|| host::local_group(name.as_bytes()))
            .map(Owner::Id)
            .ok_or_else(|| unknown.to_owned()),
    }
}

fn owner_shown(owner: &Owner) -> String {
    match owner {
        Owner::Id(id) => id.to_string(),
        Owner::Own => "self".to_owned(),
    }
}

/// A list of binds without the spaces after its commas. A comma behind `\` is part of a
/// path, and so is a space that follows it.
fn close_up(list: &str) -> String {
    let mut closed = String::with_capacity(list.len());
    let (mut escaped, mut after_comma) = (false, false);
    for c in list.chars() {
        if after_comma && c == ' ' {
            continue;
        }
        after_comma = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        closed.push(c);
    }
    closed
}

fn bind_shown(bind: &crate::request::Bind) -> String {
    let escaped = |path: &Path| {
        let text = path.display().to_string();
        text.replace('\\', r"\\")
            .replace(':', r"\:")
            .replace(',', r"\,")
    };
    format!(
        "{}:{}:{}",
        escaped(bind.source.as_path()),
        escaped(bind.destination.as_path()),
        if bind.read_only { "ro" } else { "rw" }
    )
}

fn patterns(list: &mut Vec<Pattern>, value: &str) -> Result<(), String> {
    for name in items(value) {
        let stem = name.strip_suffix('*').unwrap_or(name);
        if stem.is_empty() || stem.contains(['*', '=']) {
            return Err("write names of variables, with a * at their end at most".to_owned());
        }
        list.push(Pattern(name.to_owned()));
    }
    Ok(())
}

/// The annotated file with every key at its default, each commented out.
pub fn example() -> String {
    let mut text = String::from(
        "# Configuration of Singularity for this machine: the command, the set-id starter\n\
         # and the Slurm plugin obey it. It must belong to root and be writable by nobody\n\
         # else. `singularity config check` says whether it is right, `singularity config\n\
         # show` what holds. Every key is here with its default.\n",
    );
    for key in &KEYS {
        text.push('\n');
        for line in wrapped(key.meaning, 78) {
            let _ = writeln!(text, "# {line}");
        }
        let again = if key.repeatable {
            "; may be repeated"
        } else {
            ""
        };
        let _ = writeln!(text, "# Form: {}{again}", key.form);
        let _ = writeln!(text, "#{} = {}", key.name, key.default);
    }
    text.lines()
        .fold(String::new(), |all, line| all + line.trim_end() + "\n")
}

/// Every key with what holds, in the form of the file.
pub fn shown(site: &Site) -> String {
    let mut text = String::new();
    for key in &KEYS {
        let values = (key.show)(site);
        if values.is_empty() {
            let _ = writeln!(text, "{} =", key.name);
        }
        for value in values {
            let _ = writeln!(text, "{} = {value}", key.name);
        }
    }
    text
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines
            .last_mut()
            .filter(|line| line.len() + word.len() < width);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}
