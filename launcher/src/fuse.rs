//! Image files served by a FUSE server of the user, for those without privilege.
//!
//! Owns: finding, starting and awaiting our image-server, or squashfuse_ll, erofsfuse
//! and fuse2fs.
//! Never: speaks the file system itself, or leaves a server behind: each one
//! lives in a mount namespace without its own mount, so the kernel ends it when
//! the last process of the image is gone, however that process ended.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image::{FileSystem, Image, Partition, Superblock};
use nix::errno::Errno;
use nix::fcntl::{fcntl, open, FcntlArg, FdFlag, OFlag};
use nix::mount::{umount2, MntFlags};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::signal::{sigprocmask, SigSet, SigmaskHow};
use nix::sys::stat::{fstat, Mode};
use nix::sys::statfs::{statfs, FUSE_SUPER_MAGIC};

use crate::error::{shown, Error, Step};
use crate::host::Host;
use crate::mount::attributes;
use crate::sys::mount::{self as sys, Attributes, FileSystemContext};
use crate::sys::process::{self, Side};

/// How long a server may take until its file system answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// Our own server, in `libexec/singularity`.
pub const OWN_SERVER: &str = "image-server";

/// Threads of our server share one heap, which keeps what was freed: a heap of its own
/// for each, and a mapping for each block of an image, cost more faults than the blocks.
const MEMORY: &CStr = c"GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=67108864:glibc.malloc.top_pad=524288";

/// The program that serves a file system, as users install it.
fn server_name(kind: FileSystem) -> &'static str {
    match kind {
        FileSystem::Squashfs => "squashfuse_ll",
        FileSystem::Erofs => "erofsfuse",
        FileSystem::Ext => "fuse2fs",
    }
}

fn package(kind: FileSystem) -> &'static str {
    match kind {
        FileSystem::Squashfs => "squashfuse",
        FileSystem::Erofs => "erofsfuse, or erofs-utils built with --enable-fuse",
        FileSystem::Ext => "fuse2fs",
    }
}

/// Serves the root file system of an opened image file and returns it mounted,
/// detached, nosuid, nodev, and read-only unless `writable`.
///
/// The caller stands in a fresh user and mount namespace and moves on to another
/// mount namespace before it attaches the result: the server stays in this one.
///
/// # Errors
/// A missing server with its package's name, no access to /dev/fuse, and what
/// the server says of a damaged image.
pub fn serve(
    host: &Host,
    libexec: Option<&Path>,
    image: &Image,
    root: &Partition,
    writable: bool,
) -> Result<OwnedFd, Error> {
    let file = image.fd();
    let own = libexec.and_then(|libexec| own_server(libexec, image));
    let is_own = own.is_some();
    let server = Server {
        image: image.path(),
        kind: root.filesystem,
        name: if is_own {
            OWN_SERVER
        } else {
            server_name(root.filesystem)
        },
        program: match own {
            Some(program) => program,
            None => find(host, root.filesystem)?,
        },
        errors: memfd_create(c"singularity-fuse", MFdFlags::MFD_CLOEXEC)
            .step(|| "make a file in memory".into())?,
    };
    let device = open_device()?;
    // Ours takes a descriptor that is mounted already, and so does libfuse 3.
    if is_own || root.filesystem == FileSystem::Squashfs {
        return server.mount_then_start(host, device, file, root);
    }
    // fuse2fs and erofsfuse may be linked with libfuse 2, which mounts itself.
    drop(device);
    server.start_then_take(host, file, root, writable)
}

fn open_device() -> Result<OwnedFd, Error> {
    open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| {
        let error = Error::call("open /dev/fuse", errno);
        match errno {
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => {
                error.hint("load the kernel module: modprobe fuse; or unpack the image to a directory")
            }
            Errno::EACCES | Errno::EPERM => error.hint(
                "ask the administrator for mode 0666, as udev gives it; or unpack the image to a directory",
            ),
            _ => error,
        }
    })
}

/// The server that is installed with the command, for the file systems it reads.
fn own_server(libexec: &Path, image: &Image) -> Option<PathBuf> {
    let reads = match image.superblock()? {
        Superblock::Squashfs(_) => true,
        Superblock::Erofs(facts) => facts.layout_is_known() && facts.can_be_unpacked(),
        Superblock::Ext(_) => false,
    };
    if !reads {
        return None;
    }
    let program = libexec.join(OWN_SERVER);
    nix::unistd::access(&program, nix::unistd::AccessFlags::X_OK).ok()?;
    Some(program)
}

/// Searches `PATH` and the usual places; some users' `PATH` lacks /usr/sbin.
fn find(host: &Host, kind: FileSystem) -> Result<PathBuf, Error> {
    let name = server_name(kind);
    let path = host.variable("PATH").unwrap_or_default().to_owned();
    let usual = OsStr::new("/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin");
    std::env::split_paths(&path)
        .chain(std::env::split_paths(usual))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|candidate| nix::unistd::access(candidate, nix::unistd::AccessFlags::X_OK).is_ok())
        .ok_or_else(|| {
            Error::new(
                format!("serve the image's {kind}"),
                format!("{name} is not installed"),
            )
            .hint(format!(
                "install it (package {}), run as root, or unpack the image to a directory",
                package(kind)
            ))
        })
}

struct Server<'a> {
    image: &'a Path,
    kind: FileSystem,
    program: PathBuf,
    /// Of the program.
    name: &'static str,
    /// What the server prints; a memory file never makes it wait or fail.
    errors: OwnedFd,
}

impl Server<'_> {
    fn mount_then_start(
        &self,
        host: &Host,
        device: OwnedFd,
        file: BorrowedFd<'_>,
        root: &Partition,
    ) -> Result<OwnedFd, Error> {
        let step = || format!("mount image {}", shown(self.image));
        let mount = || {
            let number = |n: u64| CString::new(n.to_string()).unwrap_or_default();
            let context = FileSystemContext::open(c"fuse")?;
            context.set(c"source", c"singularity")?;
            context.set(
                c"subtype",
                match self.kind {
                    FileSystem::Squashfs => c"squashfs",
                    FileSystem::Erofs => c"erofs",
                    FileSystem::Ext => c"ext",
                },
            )?;
            context.set(c"fd", &number(device.as_raw_fd() as u64))?;
            context.set(c"rootmode", c"40000")?;
            context.set(c"user_id", &number(host.uid.into()))?;
            context.set(c"group_id", &number(host.gid.into()))?;
            context.flag(c"default_permissions")?;
            // Processes of other groups of this user, within this namespace only.
            context.flag(c"allow_other")?;
            context.flag(c"ro")?;
            context.mount(attributes(false, true))
        };
        let tree = mount().map_err(|errno: Errno| match errno {
            Errno::ENODEV => Error::new(step(), "this kernel has no FUSE")
                .hint("load the kernel module: modprobe fuse"),
            errno => Error::call(step(), errno),
        })?;
        let arguments = if self.name == OWN_SERVER {
            vec![
                file.as_raw_fd().to_string().into(),
                device.as_raw_fd().to_string().into(),
            ]
        } else {
            vec![
                "-f".into(),
                "-o".into(),
                format!("offset={}", root.offset).into(),
                format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
                format!("/dev/fd/{}", device.as_raw_fd()).into(),
            ]
        };
        self.start(arguments, &[file, device.as_fd()], None)?;
        drop(device);
        // The first request is answered when the server is up, or fails when it is gone.
        fstat(&tree).map_err(|_| self.failed())?;
        Ok(tree)
    }

    fn start_then_take(
        &self,
        host: &Host,
        file: BorrowedFd<'_>,
        root: &Partition,
        writable: bool,
    ) -> Result<OwnedFd, Error> {
        let step = || format!("mount image {}", shown(self.image));
        let place = ["/mnt", "/media", "/srv", "/opt", "/tmp"]
            .into_iter()
            .find(|place| Path::new(place).is_dir())
            .ok_or_else(|| Error::new(step(), "the host has none of /mnt, /srv, /opt, /tmp"))?;
        let image = format!("/proc/self/fd/{}", file.as_raw_fd());
        // Most of an image is root's, whom the user namespace does not know: the
        // kernel would refuse every change. Who may write to the image file may
        // change anything in it, so then all of it shows as the user's.
        let access = if writable {
            format!("rw,fakeroot,uid={},gid={}", host.uid, host.gid)
        } else {
            "ro".to_owned()
        };
        let arguments: Vec<OsString> = match self.kind {
            FileSystem::Ext => {
                let options = format!(
                    "{access},allow_other,default_permissions,offset={}",
                    root.offset
                );
                vec![
                    "-f".into(),
                    "-o".into(),
                    options.into(),
                    image.into(),
                    place.into(),
                ]
            }
            _ => vec![
                "-f".into(),
                "-o".into(),
                "allow_other,default_permissions".into(),
                format!("--offset={}", root.offset).into(),
                image.into(),
                place.into(),
            ],
        };
        // An empty directory, which libfuse 2 insists on.
        let empty =
            crate::mount::memory(c"singularity", 0o755, attributes(false, false)).step(step)?;
        let directory = crate::mount::open_directory(Path::new(place))?;
        crate::mount::attach(empty.as_fd(), directory.as_fd(), step)?;
        let (watched, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC).step(step)?;
        let (life, held) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).step(step)?;
        self.start(
            arguments,
            &[file, held.as_fd()],
            Some(Guard { watched: &watched }),
        )?;
        drop((held, watched));
        self.await_mount(place, life)?;
        let directory = crate::mount::open_directory(Path::new(place))?;
        let tree = sys::clone_tree(directory.as_fd(), false).step(step)?;
        let change = Attributes {
            set: attributes(false, !writable),
            ..Attributes::default()
        };
        sys::set_attributes(tree.as_fd(), false, change).step(step)?;
        drop(directory);
        for _ in ["the image", "the empty directory"] {
            umount2(place, MntFlags::MNT_DETACH).step(step)?;
        }
        nix::unistd::write(&ours, &[1]).step(step)?;
        Ok(tree)
    }

    /// Waits until the server's file system is at `place`. The server holds the
    /// other end of `life`.
    fn await_mount(&self, place: &str, life: OwnedFd) -> Result<(), Error> {
        let begun = Instant::now();
        let mut life = std::fs::File::from(life);
        loop {
            if statfs(place).is_ok_and(|stat| stat.filesystem_type() == FUSE_SUPER_MAGIC) {
                return Ok(());
            }
            // End of file: the server is gone. Nothing to read: it lives.
            if matches!(life.read(&mut [0]), Ok(0)) || begun.elapsed() > PATIENCE {
                return Err(self.failed());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// What went wrong, in the server's own last words.
    fn failed(&self) -> Error {
        let name = self.name;
        let error = |cause: String| {
            Error::new(format!("mount image {}", shown(self.image)), cause)
                .hint("the image may be damaged or truncated: copy or build it again")
        };
        // The server may be writing still.
        for _ in 0..20 {
            let mut text = Vec::new();
            let path = format!("/proc/self/fd/{}", self.errors.as_raw_fd());
            if let Ok(mut file) = std::fs::File::open(path) {
                let _ = file.read_to_end(&mut text);
            }
            if let Some(line) = text
                .split(|&b| b == b'\n')
                .rev()
                .find(|line| !line.trim_ascii().is_empty())
            {
                let line = OsStr::from_bytes(line.trim_ascii());
                return error(format!("{name} failed: {}", shown(line.as_ref())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        error(format!("{name} ended without a word"))
    }

    /// Starts the server as nobody's child, with only the descriptors `kept`.
    /// Forked twice, so that the program in the image never finds a child that
    /// it did not make.
    ///
    /// A server that mounts itself gets a `guard` for as long as its mount is in
    /// its own namespace: would this process be killed meanwhile, the two would
    /// keep each other for ever.
    fn start(
        &self,
        arguments: Vec<OsString>,
        kept: &[BorrowedFd<'_>],
        guard: Option<Guard<'_>>,
    ) -> Result<(), Error> {
        let step = || format!("start {}", shown(&self.program));
        let program = crate::mount::c_path(&self.program)?;
        let arguments: Vec<CString> = std::iter::once(self.program.clone().into_os_string())
            .chain(arguments)
            .filter_map(|argument| CString::new(argument.into_encoded_bytes()).ok())
            .collect();
        let refused = |errno| match errno {
            Errno::EAGAIN => Error::new(step(), "the limit of processes is reached")
                .hint("end some of your processes, or raise the limit (ulimit -u)"),
            errno => Error::call(step(), errno),
        };
        match process::clone(None).map_err(refused)? {
            Side::Parent(child) => match process::wait_for(child) {
                // ECHILD: the caller's SIGCHLD was ignored, so the child is reaped already.
                Ok(0) | Err(Errno::ECHILD) => Ok(()),
                _ => Err(refused(Errno::EAGAIN)),
            },
            Side::Child => match process::clone(None) {
                Ok(Side::Parent(_)) => process::exit_now(0),
                Ok(Side::Child) => match &guard {
                    None => self.become_server(&program, &arguments, kept, false),
                    Some(guard) => match process::clone(None) {
                        Ok(Side::Parent(server)) => guard.stand(server),
                        Ok(Side::Child) => self.become_server(&program, &arguments, kept, true),
                        Err(_) => process::exit_now(1),
                    },
                },
                Err(_) => process::exit_now(1),
            },
        }
    }

    fn become_server(
        &self,
        program: &CStr,
        arguments: &[CString],
        kept: &[BorrowedFd<'_>],
        may_mount: bool,
    ) -> ! {
        let prepare = || -> Result<(), Errno> {
            // A session of its own: Ctrl-C and hang-ups are for the program.
            nix::unistd::setsid()?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            for signal in 1..=64 {
                process::reset_signal(signal);
            }
            let null = open("/dev/null", OFlag::O_RDWR, Mode::empty())?;
            nix::unistd::dup2_stdin(&null)?;
            nix::unistd::dup2_stdout(&null)?;
            nix::unistd::dup2_stderr(&self.errors)?;
            process::close_on_exec_from(3)?;
            for fd in kept {
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            nix::unistd::chdir("/")?;
            if may_mount {
                process::keep_mounting_across_exec()?;
            }
            process::set_no_new_privileges()
        };
        let errno = match prepare() {
            Ok(()) => {
                let mut environment = vec![c"PATH=/usr/bin:/bin".into()];
                environment.extend((self.name == OWN_SERVER).then(|| MEMORY.into()));
                process::execve(program, arguments, &environment)
            }
            Err(errno) => errno,
        };
        let _ = nix::unistd::write(&self.errors, errno.desc().as_bytes());
        process::exit_now(1)
    }
}

/// A short-lived process that ends the server unless it is told not to.
struct Guard<'a> {
    /// Readable when the mount has been taken, at its end when the taker is dead.
    watched: &'a OwnedFd,
}

impl Guard<'_> {
    fn stand(&self, server: nix::unistd::Pid) -> ! {
        let _ = nix::unistd::setsid();
        // The taker's end of the pipe too, of which only the taker may have a copy.
        let _ = process::close_all_but(self.watched.as_raw_fd());
        let told = loop {
            match nix::unistd::read(self.watched, &mut [0]) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        if told != Ok(1) {
            let _ = nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL);
        }
        process::exit_now(0)
    }
}
