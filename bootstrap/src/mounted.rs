//! An ext image mounted so that it can be changed, while a verb works on it.
//!
//! Owns: the mount, by the kernel for root and by fuse2fs(1) for everybody else,
//! and that all is written before the verb ends. Stands in the [`crate::space`],
//! whose mount namespace nobody else sees.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image::{Image, Shown};
use launcher::Error;
use nix::mount::{umount2, MntFlags};
use rustix::fs::{open, statfs, syncfs, Mode, OFlags};
use rustix::mount::{move_mount, MoveMountFlags};

use crate::failure::call;
use crate::space::Kind;
use crate::tool;

/// How long a server may take until its file system answers, and until it has
/// written what is left.
const PATIENCE: Duration = Duration::from_secs(120);
/// `FUSE_SUPER_MAGIC`, statfs(2).
const FUSE: i64 = 0x6573_5546;

/// A mounted image; it is unmounted when this is dropped, or better by
/// [`Mounted::close`], which tells what fails.
#[derive(Debug)]
pub struct Mounted {
    place: PathBuf,
    shown: String,
    server: Option<Child>,
    open: bool,
}

impl Mounted {
    /// Mounts an image, opened for writing and locked, at the empty directory
    /// `place`.
    ///
    /// # Errors
    /// What the kernel or fuse2fs says.
    pub fn new(image: &Image, place: &Path, kind: Kind) -> Result<Self, Error> {
        let mut mounted = Self {
            place: place.to_owned(),
            shown: Shown::new(image.path()).to_string(),
            server: None,
            open: false,
        };
        let Some(root) = image.root() else {
            return Err(Error::new(mounted.step(), "it is a directory"));
        };
        if kind == Kind::Root {
            let tree = {
                let most = launcher::site::load()?.max_loop_devices;
                launcher::kernel::mount(image, root, true, most)?
            };
            mounted.attach(&tree)?;
            return Ok(mounted);
        }
        let program =
            tool::find("fuse2fs").ok_or_else(|| tool::missing("fuse2fs", Some("fuse2fs")))?;
        // The server finds the file, with its lock, by its number.
        let file = rustix::io::dup(image.fd()).map_err(|errno| call(mounted.step(), errno))?;
        let mut words = tempfile(&mounted.shown)?;
        let errors = words
            .try_clone()
            .map_err(|error| Error::io(mounted.step(), &error))?;
        let child = Command::new(program)
            .args(["-f", "-o"])
            .arg(format!(
                "rw,allow_other,default_permissions,offset={}",
                root.offset
            ))
            .arg(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .arg(place)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(|error| Error::io("start fuse2fs", &error))?;
        mounted.server = Some(child);
        drop(file);
        let begun = Instant::now();
        loop {
            if statfs(place).is_ok_and(|stat| stat.f_type == FUSE) {
                mounted.open = true;
                return Ok(mounted);
            }
            let ended = match &mut mounted.server {
                Some(child) => child.try_wait().ok().flatten().is_some(),
                None => true,
            };
            if ended || begun.elapsed() > PATIENCE {
                let said = last_line(&mut words);
                return Err(
                    Error::new(mounted.step(), format!("fuse2fs failed: {said}"))
                        .hint("/dev/fuse has to be there and open to you; root needs neither"),
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn step(&self) -> String {
        format!("mount image {}", self.shown)
    }

    fn attach(&mut self, tree: &OwnedFd) -> Result<(), Error> {
        let target = open(
            &self.place,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| call(self.step(), errno))?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(tree, c"", &target, c"", flags).map_err(|errno| call(self.step(), errno))?;
        self.open = true;
        Ok(())
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.place
    }

    /// Unmounts it, with all that was written.
    ///
    /// # Errors
    /// The disk is full or has failed: the image then lacks some of it.
    pub fn close(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        let step = format!("write image {}", self.shown);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let synced = open(&self.place, flags, Mode::empty()).and_then(|top| syncfs(&top));
        umount2(&self.place, MntFlags::empty())
            .or_else(|_| umount2(&self.place, MntFlags::MNT_DETACH))
            .map_err(|errno| Error::call(step.clone(), errno))?;
        if let Some(mut server) = self.server.take() {
            let begun = Instant::now();
            loop {
                match server.try_wait() {
                    Ok(Some(status)) if status.success() => break,
                    Ok(Some(status)) => {
                        return Err(Error::new(step, format!("fuse2fs ended with {status}"))
                            .hint("e2fsck -f puts the image in order"));
                    }
                    Ok(None) if begun.elapsed() < PATIENCE => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    _ => {
                        let _ = server.kill();
                        return Err(Error::new(step, "fuse2fs does not end"));
                    }
                }
            }
        }
        synced.map_err(|errno| call(step, errno))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("{error}");
        }
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn tempfile(shown: &str) -> Result<std::fs::File, Error> {
    rustix::fs::memfd_create(c"singularity-fuse2fs", rustix::fs::MemfdFlags::CLOEXEC)
        .map(Into::into)
        .map_err(|errno| call(format!("mount image {shown}"), errno))
}

fn last_line(words: &mut std::fs::File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    let _ = words.rewind();
    let _ = words.read_to_string(&mut text);
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it ended without a word")
        .trim()
        .to_owned()
}
