//! Which directories may be the lower layer of an overlay.
//!
//! Owns: telling those apart that the kernel would show differently through an overlay.
//! Never: mounts.
//!
//! An overlay opens files of its layers with the rights of whoever mounted it, and
//! leaves out what is mounted below a layer (Documentation/filesystems/overlayfs.rst).
//! In a user namespace the kernel sees to it that neither shows anybody more than they
//! may see; where root mounts for a user, this does.

use std::fmt::Write as _;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::statfs::fstatfs;

use crate::mount;

/// Why a directory is no layer for an overlay that root mounts for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// The kernel's own: some of its files show more to whom root's mount opens them
    /// for (file_ns_capable() in the kernel).
    OfTheKernel,
    /// Something is mounted there, and the overlay would show what lies below it. The
    /// mount point as /proc/self/mountinfo has it.
    MountedOn(String),
    /// What it is cannot be told.
    Unknown,
}

/// File systems of linux/magic.h through which the kernel speaks, and automounters.
const OF_THE_KERNEL: [i64; 26] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinux
    0x4341_5d53, // smack
    0x5a3c_69f0, // apparmor
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x0765_5821, // resctrl
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
    0x4249_4e4d, // binfmt_misc
    0x0000_1cd1, // devpts
    0x6e73_6673, // namespaces
    0x5049_4446, // pidfds
    0x6573_5543, // fusectl
    0x6759_6969, // rpc_pipefs
    0x6e66_7364, // nfsd
    0xabba_1974, // xenfs
    0x0000_9fa1, // openprom
    0x1980_0202, // mqueue
    0x0000_0187, // autofs
];

/// Why `directory`, which is at the place `at` of this process's mount namespace, may
/// not be a layer; `None` if it may.
pub fn why_unfit(directory: BorrowedFd<'_>, at: &Path) -> Option<Unfit> {
    let Ok(fs) = fstatfs(directory) else {
        return Some(Unfit::Unknown);
    };
    // The bits count, not the sign that the C library's type gives them.
    let magic = i64::from(fs.filesystem_type().0 as u32);
    if OF_THE_KERNEL.contains(&magic) {
        return Some(Unfit::OfTheKernel);
    }
    // Names of mounts are bytes; only those are looked at that are text either way.
    let table = std::fs::read("/proc/self/mountinfo");
    let (Some(number), Ok(table)) = (mount::number(directory), table) else {
        return Some(Unfit::Unknown);
    };
    mounted_below(&table, &number, at).map(Unfit::MountedOn)
}

/// The first mount of a table (proc_pid_mountinfo(5)) that lies on the mount `number`
/// below `at`.
fn mounted_below(table: &[u8], number: &str, at: &Path) -> Option<String> {
    let mut above = escaped(at.as_os_str().as_bytes());
    if !above.ends_with(b"/") {
        above.push(b'/');
    }
    let found = table.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.split(|&b| b == b' ').skip(1);
        let is_on = fields.next() == Some(number.as_bytes());
        let place = fields.nth(2).filter(|_| is_on)?;
        (place.starts_with(&above) && place.len() > above.len()).then_some(place)
    })?;
    Some(String::from_utf8_lossy(found).into_owned())
}

/// As the kernel writes paths there (seq_path_root() in fs/proc_namespace.c).
fn escaped(path: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(path.len() + 1);
    for &b in path {
        match b {
            b' ' | b'\t' | b'\n' | b'\\' => {
                let mut octal = String::new();
                let _ = write!(octal, "\\{b:03o}");
                text.extend(octal.into_bytes());
            }
            b => text.push(b),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    const TABLE: &[u8] = b"\
        20 1 0:5 / / rw - ext4 /dev/a rw\n\
        31 20 0:6 / /data rw - tmpfs t rw\n\
        40 20 0:6 / / rw - tmpfs t rw\n\
        41 40 0:7 / /a\\040b/c rw - tmpfs t rw\n\
        42 41 0:7 / /a\\040b/c/d rw - tmpfs t rw\n";

    #[test]
    fn a_mount_on_the_same_mount_below_the_place_is_found_and_no_other() {
        for (number, at, expected) in [
            ("40", "/", Some("/a\\040b/c")),
            ("40", "/a b", Some("/a\\040b/c")),
            ("40", "/a b/c", None),
            ("40", "/a", None),
            ("41", "/a b/c", Some("/a\\040b/c/d")),
            ("42", "/", None),
            ("20", "/data", None),
        ] {
            let found = mounted_below(TABLE, number, Path::new(at));
            assert_eq!(found.as_deref(), expected, "{number} {at}");
        }
    }

    #[test]
    fn what_the_kernel_speaks_through_is_no_layer_and_plain_files_are() {
        for (place, expected) in [
            ("/proc", Some(Unfit::OfTheKernel)),
            ("/sys/kernel", Some(Unfit::OfTheKernel)),
            ("/usr/bin", None),
        ] {
            let directory = std::fs::File::open(place).unwrap();
            assert_eq!(why_unfit(directory.as_fd(), Path::new(place)), expected);
        }
        let root = std::fs::File::open("/").unwrap();
        let unfit = why_unfit(root.as_fd(), Path::new("/"));
        assert!(matches!(unfit, Some(Unfit::MountedOn(_))), "{unfit:?}");
    }
}
