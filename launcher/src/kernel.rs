//! Image files mounted by the kernel, which only root may ask for.
//!
//! Owns: loop devices and the choice between them and mounting the file itself.
//! Never: used on behalf of somebody without privilege.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use image::{FileSystem, Image, Partition};
use nix::errno::Errno;
use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;

use crate::error::{shown, Error, Step};
use crate::mount::{attributes, descriptor_path};
use crate::privilege::with_roots_files;
use crate::site;
use crate::sys::loopdev;
use crate::sys::mount::FileSystemContext;

/// How often a loop device that somebody else took first is given up for another.
const MOST_ATTEMPTS: u32 = 128;

/// Mounts the root file system of an opened image file, detached, nosuid, nodev,
/// and read-only unless `writable`.
///
/// # Errors
/// Damage the kernel finds, a missing file-system driver, no loop device.
pub fn mount(
    image: &Image,
    root: &Partition,
    writable: bool,
    max_loop_devices: u32,
) -> Result<OwnedFd, Error> {
    let (path, file) = (image.path(), image.fd());
    // EROFS reads a regular file itself (Linux 6.12), which saves 8 ms of a loop device.
    if root.filesystem == FileSystem::Erofs && root.offset == 0 {
        if let Ok(tree) = mount_source(c"erofs", &descriptor_path(file), &[], false) {
            return Ok(tree);
        }
    }
    with_roots_files(|| mount_by_loop(path, file, root, writable, max_loop_devices))?
}

fn mount_by_loop(
    path: &Path,
    file: BorrowedFd<'_>,
    root: &Partition,
    writable: bool,
    max_loop_devices: u32,
) -> Result<OwnedFd, Error> {
    let step = || format!("mount image {}", shown(path));
    let (device, device_path) = attach_loop(file, root, writable, path, max_loop_devices)?;
    let kinds: &[(&CStr, &[&CStr])] = match root.filesystem {
        FileSystem::Squashfs => &[(c"squashfs", &[])],
        FileSystem::Erofs => &[(c"erofs", &[])],
        // Without `noload` a read-only mount would replay the journal, into the image.
        FileSystem::Ext if writable => &[(c"ext4", &[])],
        FileSystem::Ext => &[(c"ext4", &[c"noload"]), (c"ext4", &[])],
    };
    let mut last = Errno::EINVAL;
    for (kind, flags) in kinds {
        match mount_source(kind, &device_path, flags, writable) {
            Ok(tree) => return Ok(tree),
            Err(errno) => last = errno,
        }
    }
    drop(device);
    Err(match last {
        Errno::ENODEV => Error::new(step(), format!("this kernel has no {}", root.filesystem))
            .hint(format!("load the module: modprobe {}", root.filesystem)),
        Errno::EINVAL | Errno::EIO | Errno::EUCLEAN => Error::new(
            step(),
            format!("the kernel finds its {} damaged", root.filesystem),
        )
        .hint("dmesg says what is wrong; copy or build the image again"),
        errno => Error::call(step(), errno),
    })
}

fn mount_source(
    kind: &CStr,
    source: &CStr,
    flags: &[&CStr],
    writable: bool,
) -> Result<OwnedFd, Errno> {
    let context = FileSystemContext::open(kind)?;
    context.set(c"source", source)?;
    if !writable {
        context.flag(c"ro")?;
    }
    if kind == c"ext4" {
        // The image may ask for more: `tune2fs -e panic` halts the machine at the first
        // error in it.
        context.set(c"errors", c"remount-ro")?;
    }
    for flag in flags {
        context.flag(flag)?;
    }
    context.mount(attributes(false, !writable))
}

fn attach_loop(
    file: BorrowedFd<'_>,
    root: &Partition,
    writable: bool,
    path: &Path,
    max_loop_devices: u32,
) -> Result<(OwnedFd, CString), Error> {
    let step = || format!("attach image {} to a loop device", shown(path));
    let hint = "the kernel module loop gives them: modprobe loop";
    let flags = OFlag::O_CLOEXEC | OFlag::O_RDWR;
    let control = open("/dev/loop-control", flags, Mode::empty()).map_err(|errno| {
        Error::call(format!("{} (/dev/loop-control)", step()), errno).hint(hint)
    })?;
    for _ in 0..MOST_ATTEMPTS {
        let number = loopdev::free_device(control.as_fd()).step(step)?;
        if number >= max_loop_devices {
            return Err(Error::new(
                step(),
                format!("all {max_loop_devices} loop devices that this site allows are taken"),
            )
            .hint(format!("'max loop devices' in {} is the limit", site::PATH)));
        }
        let name = format!("/dev/loop{number}");
        let access = if writable {
            OFlag::O_RDWR
        } else {
            OFlag::O_RDONLY
        };
        let device = open(name.as_str(), access | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|errno| Error::call(format!("{} ({name})", step()), errno).hint(hint))?;
        let mode = loopdev::AUTOCLEAR | if writable { 0 } else { loopdev::READ_ONLY };
        match loopdev::configure(device.as_fd(), file, root.offset, root.size, mode) {
            Ok(()) => return Ok((device, CString::new(name).unwrap_or_default())),
            Err(Errno::EBUSY) => {}
            Err(errno) => return Err(Error::call(step(), errno)),
        }
    }
    Err(Error::new(step(), "every loop device is taken at once").hint("try again"))
}
