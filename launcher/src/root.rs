//! The root of the image: assembled from the plan, then made this process's root.
//!
//! Owns: carrying out the plan's mounts in order. Never: decides what they are.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use image::Image;
use nix::errno::Errno;
use nix::fcntl::{openat, OFlag};
use nix::mount::{umount2, MntFlags};
use nix::sys::resource::{getrlimit, Resource};
use nix::sys::stat::{mkdirat, Mode};

use crate::accounts;
use crate::check;
use crate::dev;
use crate::error::{shown, Error, Step as _};
use crate::fuse;
use crate::host::Host;
use crate::kernel;
use crate::layer::{self, Unfit};
use crate::lock;
use crate::mount::{self, attributes};
use crate::plan::{ImageMount, Mount, Plan, Source, Step};
use crate::privilege::with_roots_files;
use crate::request::ImagePath;
use crate::site::MountPoints;
use crate::sys::mount as sys;
use crate::timing::Timing;
use crate::tree::{Place, Tree, Wanted};

/// The name under which mounts of a shared namespace show in
/// /proc/PID/mountinfo, by which ranks recognise it.
pub fn marker(fingerprint: u128) -> String {
    format!("singularity:{fingerprint:032x}")
}

/// Mounts the image, detached. Stands in the new user namespace; a FUSE server
/// stays in the mount namespace this is called in; ours is in `libexec`.
///
/// # Errors
/// As [`fuse::serve`] and [`kernel::mount`].
pub fn mount_image(
    plan: &Plan,
    image: &Image,
    host: &Host,
    libexec: Option<&Path>,
) -> Result<Option<OwnedFd>, Error> {
    let Some((how, writable)) = plan.steps.iter().find_map(|step| match step {
        Step::Image {
            mount, writable, ..
        } => Some((*mount, *writable)),
        _ => None,
    }) else {
        return Ok(None);
    };
    if image
        .root()
        .is_some_and(|root| root.filesystem == image::FileSystem::Ext)
    {
        lock::take(image, writable)?;
        let search = host.variable("PATH").unwrap_or_default();
        check::put_in_order(image, writable, search, host.acts_for_user())?;
    }
    match (how, image.root()) {
        (ImageMount::Kernel(_), Some(root)) => {
            kernel::mount(image, root, writable, plan.max_loop_devices).map(Some)
        }
        (ImageMount::Fuse(_), Some(root)) => {
            fuse::serve(host, libexec, image, root, writable).map(Some)
        }
        // A directory is bound later: the source must be of the final namespace.
        _ => Ok(None),
    }
}

/// Puts the whole tree together and makes it the root. Stands in the final
/// mount namespace. `image_tree` is what [`mount_image`] returned; `shared` is
/// the fingerprint to mark the namespace with, if others may join it.
///
/// # Errors
/// The first step that fails, with its source and destination.
pub fn assemble(
    plan: &Plan,
    image: &Image,
    image_tree: Option<OwnedFd>,
    host: &Host,
    shared: Option<u128>,
    timing: &mut Timing,
) -> Result<(), Error> {
    let name = CString::new(shared.map_or("singularity".into(), marker)).unwrap_or_default();
    let user = plan.has_user_namespace();
    let host_root = mount::open_directory(Path::new("/"))?;
    if !user {
        // Nothing mounted here may reach the host; what the host mounts may come in.
        let change = sys::Attributes {
            propagation: nix::libc::MS_SLAVE,
            ..Default::default()
        };
        sys::set_attributes(host_root.as_fd(), true, change)
            .step(|| "keep mounts to this namespace".into())?;
    }
    let sources = open_sources(plan, &host_root)?;
    let image_tree = match image_tree {
        None if mount::is_same_file(image.fd(), host_root.as_fd()) => {
            let step = || format!("mount image {}", shown(image.path()));
            Some(mount::bind(host_root.as_fd(), of_image(plan)).step(step)?)
        }
        other => other,
    };

    let step = || "make the session directory in memory".to_owned();
    let session_mount = mount::memory(&name, 0o755, attributes(false, false)).step(step)?;
    mount::attach(session_mount.as_fd(), host_root.as_fd(), step)?;
    let session = Session {
        root: reopen(session_mount.as_fd()).step(step)?,
    };

    let tree = bind_image(plan, image, image_tree, &host_root)?;
    let mut assembly = Assembly {
        tree,
        session,
        user,
        writable: false,
        home: plan.home.clone(),
        points: plan.mount_points,
    };
    timing.phase("image");
    assembly.overlay(plan, host, &host_root)?;
    assembly.mount_points(&sources)?;
    timing.phase("mount points");
    let mut marker = shared.map(|_| session_mount);
    for (mount, source) in &sources {
        assembly.mount(mount, source.as_ref(), host, &mut marker)?;
    }
    timing.phase("mounts");
    if marker.is_some() {
        tracing::debug!("nothing is mounted in the image, so no other rank can join it");
    }
    pivot(assembly.tree.root(), assembly.tree.layers())?;
    timing.phase("pivot");
    Ok(())
}

/// A descriptor that reads and writes the directory an `O_PATH` one names.
fn reopen(directory: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(directory, ".", flags, Mode::empty())
}

/// The source of a mount.
enum Opened {
    /// To be copied.
    Place(OwnedFd),
    /// A copy already. The host's root is copied before session and image are mounted
    /// on it, or the copy would have them on top of it as well.
    Tree(OwnedFd),
}

impl AsFd for Opened {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Place(descriptor) | Self::Tree(descriptor) => descriptor.as_fd(),
        }
    }
}

/// Opens every source that is on the host, before anything covers it. Leaves out
/// mounts whose optional source is not there.
fn open_sources<'a>(
    plan: &'a Plan,
    host_root: &OwnedFd,
) -> Result<Vec<(&'a Mount, Option<Opened>)>, Error> {
    let mut opened = Vec::new();
    for step in &plan.steps {
        let Step::Mount(mount) = step else { continue };
        let path = match &mount.source {
            Source::Host(path) => path.as_path(),
            Source::Workdir(path, mode) => {
                make_directory(path.as_path(), *mode, "work")?;
                path.as_path()
            }
            _ => {
                opened.push((mount, None));
                continue;
            }
        };
        match mount::open_source(path) {
            Ok(source) => {
                let covered = mount::is_same_file(source.as_fd(), host_root.as_fd());
                let source = match covered {
                    true => mount::copy(source.as_fd())
                        .map(Opened::Tree)
                        .step(|| format!("bind {}", shown(path)))?,
                    false => Opened::Place(source),
                };
                opened.push((mount, Some(source)));
            }
            Err(errno) if mount.required => {
                let error = Error::call(format!("bind {}", shown(path)), errno);
                return Err(match errno {
                    Errno::ENOENT => error.hint("the source of a bind must exist on the host"),
                    Errno::EACCES => {
                        error.hint("you need search permission on every directory above it")
                    }
                    _ => error,
                });
            }
            Err(errno) => {
                tracing::debug!("{} is left out: {errno}", shown(path));
            }
        }
    }
    Ok(opened)
}

/// Makes a directory in the `work` or the `overlay` directory, unless it is there.
fn make_directory(path: &Path, mode: u32, place: &str) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let step = || format!("make directory {} in the {place} directory", shown(path));
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
        .step(step)
        .map_err(|error| error.hint("name a directory that you may write to"))
}

/// Attaches the image's tree over the host's root, out of sight of this process,
/// whose root is below it.
fn bind_image(
    plan: &Plan,
    image: &Image,
    image_tree: Option<OwnedFd>,
    host_root: &OwnedFd,
) -> Result<Tree, Error> {
    let step = || format!("mount image {}", shown(image.path()));
    let tree = match image_tree {
        Some(tree) => tree,
        None => {
            // The descriptor was opened in another mount namespace; the same
            // directory has to be found in this one.
            let here = mount::open_directory(image.path())?;
            if !mount::is_same_file(here.as_fd(), image.fd()) {
                return Err(Error::new(
                    step(),
                    "it was replaced while it was being opened",
                ));
            }
            mount::bind(here.as_fd(), of_image(plan)).step(step)?
        }
    };
    mount::attach(tree.as_fd(), host_root.as_fd(), step)?;
    // The session lies below it.
    Ok(Tree::new(tree, 2))
}

/// The attributes of the image's own mount.
fn of_image(plan: &Plan) -> u64 {
    let writes = |step: &Step| matches!(step, Step::Image { writable: true, .. });
    attributes(false, !plan.steps.iter().any(writes))
}

/// A writable directory in memory, seen by nobody else, for what set-up makes.
struct Session {
    root: OwnedFd,
}

impl Session {
    fn directory(&self, name: &str, mode: u32) -> Result<OwnedFd, Errno> {
        mkdirat(&self.root, name, Mode::from_bits_truncate(mode))?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(&self.root, name, flags, Mode::empty())
    }

    fn file(&self, name: &str, content: &[u8]) -> std::io::Result<OwnedFd> {
        // Writing more than the limit would end this process (SIGXFSZ).
        let limit = getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft);
        if limit < content.len() as u64 {
            return Err(Errno::EFBIG.into());
        }
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(
            &self.root,
            name,
            flags,
            Mode::from_bits_truncate(0o644),
        )?);
        file.write_all(content)?;
        Ok(file.into())
    }
}

struct Assembly {
    tree: Tree,
    session: Session,
    user: bool,
    /// Whether missing mount points can be made in the tree itself.
    writable: bool,
    /// `HOME` inside.
    home: Option<ImagePath>,
    /// How missing mount points appear.
    points: MountPoints,
}

impl Assembly {
    fn overlay(&mut self, plan: &Plan, host: &Host, host_root: &OwnedFd) -> Result<(), Error> {
        for step in &plan.steps {
            let Step::Overlay(directory) = step else {
                self.writable |= matches!(step, Step::Image { writable: true, .. });
                continue;
            };
            let (upper, work, place) = match directory {
                None => {
                    let step = || "make the overlay in memory".to_owned();
                    let upper = self.session.directory("upper", 0o755).step(step)?;
                    let work = self.session.directory("work", 0o700).step(step)?;
                    (upper, work, "memory".to_owned())
                }
                Some(directory) => {
                    let make = |name: &str, mode| {
                        let path = directory.as_path().join(name);
                        make_directory(&path, mode, "overlay")
                            .and_then(|()| mount::open_directory(&path))
                    };
                    let place = shown(directory.as_path()).to_string();
                    (make("upper", 0o755)?, make("work", 0o700)?, place)
                }
            };
            let layers = (upper.as_fd(), work.as_fd());
            let lower = [self.tree.root()];
            let step = || format!("overlay the image in {place}");
            let unfit = || layer::why_unfit(lower[0], Path::new("/"));
            if host.acts_for_user() {
                if let Some(unfit) = unfit() {
                    return Err(no_layer(&unfit, step()));
                }
            }
            let mount =
                || mount::overlay(&lower, Some(layers), self.user, attributes(false, false));
            // The kernel copies files up with the rights of who mounted it. Who serves
            // them by FUSE would take the user's looking for root's.
            let mounted = match mount::is_by_fuse(lower[0]) {
                true => mount(),
                false => with_roots_files(mount)?,
            };
            let tree = mounted
                    .map_err(|errno| {
                        if let (true, Errno::EINVAL, Some(unfit)) = (self.user, errno, unfit()) {
                            return no_layer(&unfit, step());
                        }
                        let error = Error::call(step(), errno);
                        match errno {
                            Errno::EINVAL | Errno::EPERM | Errno::ENODEV | Errno::EOPNOTSUPP => error.hint(
                                "Linux 5.11 or newer with overlayfs, and an upper directory on a local file system, are needed",
                            ),
                            Errno::EBUSY => error.hint("another process uses this overlay directory"),
                            _ => error,
                        }
                    })?;
            mount::attach(tree.as_fd(), host_root.as_fd(), || {
                "attach the overlay".into()
            })?;
            self.tree = Tree::new(tree, self.tree.layers() + 1);
            self.writable = true;
        }
        Ok(())
    }

    /// Sees to it that every destination in the image itself exists. Those below
    /// another mount are looked at when that one is there.
    fn mount_points(&mut self, sources: &[(&Mount, Option<Opened>)]) -> Result<(), Error> {
        let mut wanted = Vec::new();
        for (index, (mount, source)) in sources.iter().enumerate() {
            let path = mount.destination.as_path();
            let below_another = sources[..index].iter().any(|(other, _)| {
                let other = other.destination.as_path();
                path != other && path.starts_with(other)
            });
            if below_another {
                continue;
            }
            let is_directory = match (&mount.source, source) {
                (Source::Passwd | Source::Group, _) => false,
                (_, Some(source)) => mount::is_directory(source.as_fd())
                    .step(|| format!("inspect {}", mount.source))?,
                (_, None) => true,
            };
            // Where the user may not change the image's directory, it is covered as
            // in a read-only image: nothing could be written there anyway.
            if !self.writable || self.tree.make(path, is_directory).is_err() {
                wanted.push(Wanted {
                    path: path.to_owned(),
                    is_directory,
                    required: mount.required,
                });
            }
        }
        let session = self
            .session
            .directory("points", 0o755)
            .step(|| "make the session directory in memory".into())?;
        self.tree
            .add_mount_points(session.as_fd(), self.user, self.points, &wanted)
    }

    fn mount(
        &mut self,
        mount: &Mount,
        source: Option<&Opened>,
        host: &Host,
        marker: &mut Option<OwnedFd>,
    ) -> Result<(), Error> {
        let destination = mount.destination.as_path();
        let step = || format!("mount {} on {}", mount.source, shown(destination));
        let wanted = attributes(mount.devices, mount.read_only);
        let content = match &mount.source {
            Source::Passwd => Some(accounts::passwd(
                &self.read("/etc/passwd"),
                host,
                self.home.as_ref(),
            )),
            Source::Group => Some(accounts::group(self.read("/etc/group"), host)),
            _ => None,
        };
        let is_directory = content.is_none()
            && source.is_none_or(|s| mount::is_directory(s.as_fd()).unwrap_or(true));
        let target = self.target(destination, is_directory).and_then(|target| {
            self.fits(target.as_fd(), is_directory)
                .map_err(|(cause, hint)| Error::new(step(), cause).hint(hint))?;
            Ok(target)
        });
        let target = match target {
            Ok(target) => target,
            Err(error) if !mount.required => {
                tracing::debug!("{} is left out: {error}", mount.source);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if mount.source == Source::Nothing {
            return Ok(());
        }
        let tree = match (&mount.source, source) {
            (_, Some(Opened::Place(source))) => mount::bind(source.as_fd(), wanted).step(step)?,
            (_, Some(Opened::Tree(tree))) => {
                mount::give(tree.as_fd(), wanted).step(step)?;
                tree.try_clone().map_err(|error| Error::io(step(), &error))?
            }
            (Source::Memory(mode), _) => mount::memory(c"singularity", *mode, wanted).step(step)?,
            (Source::NewProc, _) => mount::pseudo(c"proc", wanted | sys::NOEXEC).map_err(|errno| {
                Error::call(step(), errno)
                    .hint("a PID namespace needs a /proc that nothing is mounted over; leave out --pid")
            })?,
            (Source::NewMqueue, _) => mount::pseudo(c"mqueue", wanted | sys::NOEXEC).step(step)?,
            (Source::NewSys, _) => mount::pseudo(c"sysfs", wanted | sys::NOEXEC).step(step)?,
            (Source::MinimalDev, _) => mount::memory(c"singularity", 0o755, wanted).step(step)?,
            (Source::Passwd | Source::Group, _) => {
                let name = if mount.source == Source::Passwd { "passwd" } else { "group" };
                match self.session.file(name, &content.unwrap_or_default()) {
                    Ok(file) => mount::bind(file.as_fd(), wanted).step(step)?,
                    Err(error) if error.raw_os_error() == Some(Errno::EFBIG as i32) => {
                        tracing::warn!("the limit of file size (ulimit -f) leaves you out of {}", shown(destination));
                        return Ok(());
                    }
                    Err(error) => return Err(error).step(step),
                }
            }
            (Source::Host(_) | Source::Workdir(..) | Source::Nothing, None) => return Ok(()),
        };
        if is_directory {
            if let Some(marker) = marker.take() {
                // Below the mount proper, so that nothing of it is in anybody's way.
                let flag = sys::clone_tree(marker.as_fd(), false).step(step)?;
                mount::attach(flag.as_fd(), target.as_fd(), step)?;
            }
        }
        mount::attach(tree.as_fd(), target.as_fd(), step)?;
        if mount.source == Source::MinimalDev {
            dev::populate(tree.as_fd())?;
        }
        Ok(())
    }

    /// Whether a directory, or a file, can be mounted there; if not, why not, and
    /// what to do.
    fn fits(
        &self,
        target: BorrowedFd<'_>,
        is_directory: bool,
    ) -> Result<(), (&'static str, &'static str)> {
        if mount::is_same(target, self.tree.root()) {
            return Err(("the image is there", "name a place below /"));
        }
        if mount::is_directory(target).is_ok_and(|there| there != is_directory) {
            return Err((
                "one is a directory, the other is not",
                "bind a directory on a directory, and a file on a file",
            ));
        }
        Ok(())
    }

    /// The mount point; made if it is missing below a mount that is ours.
    fn target(&self, destination: &Path, is_directory: bool) -> Result<OwnedFd, Error> {
        let step = || format!("find mount point {} in the image", shown(destination));
        match self
            .tree
            .locate(destination)
            .step(step)
            .map_err(Error::in_the_way)?
        {
            Place::Found(fd) => Ok(fd),
            Place::Missing { ancestor, .. } => {
                self.tree.make(destination, is_directory).map_err(|error| {
                    error.hint(format!(
                        "{} is another mount; make the mount point in its source",
                        shown(&ancestor)
                    ))
                })
            }
        }
    }

    /// A file of the image; empty where it cannot be read.
    fn read(&self, path: &str) -> Vec<u8> {
        // A hostile image has a FIFO here, or a file without end.
        const MOST: u64 = 4 << 20;
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let mut content = Vec::new();
        if let Ok(fd) = self.tree.open(Path::new(path), flags) {
            let file = File::from(fd);
            if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                let _ = file.take(MOST).read_to_end(&mut content);
            }
        }
        content
    }
}

/// Why nothing can be laid over the image's directory.
fn no_layer(unfit: &Unfit, step: String) -> Error {
    match unfit {
        Unfit::MountedOn(place) => Error::new(
            step,
            format!("{place} in it is another mount, which an overlay would leave out"),
        )
        .hint("leave out the overlay, or name a directory in which nothing is mounted"),
        Unfit::OfTheKernel => {
            Error::new(step, "the kernel makes its files").hint("name a directory of files")
        }
        Unfit::Unknown => {
            Error::new(step, "what is mounted in it cannot be told").hint("/proc has to be mounted")
        }
    }
}

/// Makes `root` this process's root and lets go of the host's.
///
/// The new root lies on top of the old one, so where pivot_root(2) cannot move
/// the old root away (an initramfs, on nodes without disks), chroot(2) to the
/// top is all that is left to do, and all that setns(2) will find later.
///
/// `layers` are the mounts on the host's root, the new root being the uppermost.
fn pivot(root: BorrowedFd<'_>, layers: usize) -> Result<(), Error> {
    let step = || "make the image the root".to_owned();
    nix::unistd::fchdir(root).step(step)?;
    match nix::unistd::pivot_root(".", ".") {
        // The old root now lies on the new one, and on it the other layers, of
        // which each call takes the uppermost.
        Ok(()) => {
            for _ in 0..layers {
                umount2(".", MntFlags::MNT_DETACH).step(step)?;
            }
        }
        Err(Errno::EINVAL) => nix::unistd::chroot(".").step(step)?,
        Err(errno) => return Err(Error::call(step(), errno)),
    }
    nix::unistd::chdir("/").step(step)
}
