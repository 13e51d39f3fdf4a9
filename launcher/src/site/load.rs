//! Reading `singularity.conf` from where only root can have put it.
//!
//! Owns: the trust in the file: who owns it, who may write it, and that it was
//! reached through directories of which the same holds. Never: falls back to
//! defaults when there is a file that cannot be trusted or read.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{openat, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use super::parse::MOST_BYTES;
use super::Site;
use crate::error::{shown, Error, Step};

/// Where the file is. Fixed when the programs are built (`SYSCONFDIR` of `make`):
/// what a privileged program obeys is no user's choice.
pub const PATH: &str = match option_env!("SINGULARITY_CONF") {
    Some(path) => path,
    None => "/etc/singularity/singularity.conf",
};

/// The site's configuration; without a file, the defaults.
///
/// # Errors
/// A file that is not root's alone, or that holds a mistake.
pub fn load() -> Result<Site, Error> {
    Ok(load_from(Path::new(PATH), 0)?.unwrap_or_default())
}

/// The configuration in the file at `path`, which `owner` and nobody else may have
/// written; `None` if there is no file.
///
/// # Errors
/// As [`load`].
pub fn load_from(path: &Path, owner: u32) -> Result<Option<Site>, Error> {
    let Some(directory) = open_directory_above(path, owner)? else {
        return Ok(None);
    };
    let name = Path::new(path.file_name().unwrap_or_default());
    let Some(file) = open(path, openat(&directory, name, FLAGS, Mode::empty()))? else {
        return Ok(None);
    };
    let step = || format!("trust {}", shown(path));
    let metadata = file.metadata().map_err(|error| Error::io(step(), &error))?;
    if !metadata.is_file() {
        return Err(Error::new(step(), "it is not a regular file")
            .hint("the administrator has to put a file there"));
    }
    refuse(path, &metadata, owner)?;
    parse(path, file).map(Some)
}

impl Site {
    /// The configuration in a file that somebody looks at, whoever wrote it; `None`
    /// if there is no file.
    ///
    /// # Errors
    /// A file that cannot be read, or that holds a mistake.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let opened = open(path, nix::fcntl::open(path, FLAGS, Mode::empty()))?;
        opened.map(|file| parse(path, file)).transpose()
    }
}

const FLAGS: OFlag = OFlag::O_NOFOLLOW
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

fn open(path: &Path, opened: Result<OwnedFd, Errno>) -> Result<Option<File>, Error> {
    let step = || format!("read {}", shown(path));
    match opened {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::ENOENT) => Ok(None),
        Err(Errno::ELOOP) => {
            Err(Error::new(step(), "it is a symbolic link").hint("put the file itself there"))
        }
        Err(errno) => Err(Error::call(step(), errno)
            .hint("everybody has to be able to read it: chmod 644, and 755 above it")),
    }
}

/// Opens the directory of the file, by way of each above it; `None` if it is not there.
/// If it is, none may be a link, or one that others write to: who could, might have taken
/// the file away.
fn open_directory_above(path: &Path, owner: u32) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let above = path.parent().unwrap_or(path);
    let mut reached = PathBuf::from(if path.is_absolute() { "/" } else { "." });
    let mut directory = nix::fcntl::open(&reached, flags, Mode::empty())
        .step(|| format!("read {}", shown(path)))?;
    let mut names = above
        .components()
        .filter(|part| matches!(part, Component::Normal(_)));
    let mut trusted = Ok(());
    loop {
        let file = File::from(directory);
        let metadata = file
            .metadata()
            .map_err(|error| Error::io(format!("trust {}", shown(&reached)), &error))?;
        trusted = trusted.and_then(|()| refuse(&reached, &metadata, owner));
        directory = file.into();
        let Some(name) = names.next() else {
            return trusted.map(|()| Some(directory));
        };
        reached.push(name);
        directory = match openat(&directory, name.as_os_str(), flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                return Err(Error::new(
                    format!("trust {}", shown(&reached)),
                    "it is a symbolic link, or no directory",
                )
                .hint("put the directory itself there"))
            }
            Err(errno) => return Err(Error::call(format!("trust {}", shown(&reached)), errno)),
        };
    }
}

fn parse(path: &Path, file: File) -> Result<Site, Error> {
    let step = || format!("read {}", shown(path));
    let mut text = Vec::new();
    file.take(MOST_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|error| Error::io(step(), &error))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(Error::new(step(), "it is larger than 1 MiB").hint("name the right file"));
    }
    Site::parse(&text).map_err(|mistake| {
        let place = format!("{}:{}:{}", shown(path), mistake.line, mistake.column);
        Error::new(place, mistake.cause).hint(mistake.hint)
    })
}

fn refuse(path: &Path, metadata: &std::fs::Metadata, owner: u32) -> Result<(), Error> {
    let step = || format!("trust {}", shown(path));
    // Root may own what is above the file of another in any case.
    if metadata.uid() != owner && metadata.uid() != 0 && !is_hidden_root(metadata.uid()) {
        return Err(
            Error::new(step(), format!("it belongs to user {}", metadata.uid()))
                .hint(format!("chown root {}", shown(path))),
        );
    }
    let sticky = metadata.is_dir() && metadata.mode() & libc::S_ISVTX != 0;
    if metadata.mode() & 0o022 != 0 && !metadata.file_type().is_symlink() && !(sticky && owner != 0)
    {
        return Err(Error::new(step(), "others than its owner may write to it")
            .hint(format!("chmod go-w {}", shown(path))));
    }
    Ok(())
}

/// Whether this id may stand for root's: in a user namespace that does not map it,
/// where nobody is privileged, and what the file forbids binds only who wants it.
fn is_hidden_root(uid: u32) -> bool {
    let number = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let overflow = || number("/proc/sys/kernel/overflowuid").trim().parse() == Ok(uid);
    let maps_root = |map: String| {
        map.lines()
            .any(|line| line.split_whitespace().nth(1) == Some("0"))
    };
    !geteuid().is_root() && overflow() && !maps_root(number("/proc/self/uid_map"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{symlink, PermissionsExt};
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("site-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            Self(path)
        }

        fn file(&self, text: &str, mode: u32) -> PathBuf {
            let path = self.0.join("conf");
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn own() -> u32 {
        nix::unistd::getuid().as_raw()
    }

    // A sticky /tmp above is for tests only: real files are root's.
    fn load_test(path: &Path) -> Result<Option<Site>, Error> {
        load_from(path, if own() == 0 { 1 } else { own() })
    }

    #[test]
    fn a_file_that_is_not_there_is_none() {
        let scratch = Scratch::new("none");
        assert_eq!(load_test(&scratch.0.join("conf")).unwrap(), None);
    }

    #[test]
    fn a_good_file_is_read_and_a_mistake_is_placed() {
        let scratch = Scratch::new("good");
        let path = scratch.file("allow setuid = no\n", 0o644);
        assert!(!load_test(&path).unwrap().unwrap().allow_setuid);
        let path = scratch.file("\nallow setuid = never\n", 0o644);
        let error = load_test(&path).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{}:2:16: 'allow setuid': write yes or no", path.display())
        );
    }

    #[test]
    fn a_file_or_directory_that_others_write_is_refused() {
        let scratch = Scratch::new("others");
        for mode in [0o664, 0o646] {
            let path = scratch.file("", mode);
            let error = load_test(&path).unwrap_err();
            assert!(error
                .to_string()
                .ends_with("others than its owner may write to it"));
        }
        let path = scratch.file("", 0o644);
        let writable = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&scratch.0, writable).unwrap();
        assert!(load_test(&path).is_err());
    }

    #[test]
    fn a_link_above_the_file_is_refused_and_so_is_a_directory_that_others_emptied() {
        let scratch = Scratch::new("above");
        let real = scratch.0.join("real");
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("conf"), "").unwrap();
        symlink("real", scratch.0.join("link")).unwrap();
        assert!(load_test(&real.join("conf")).unwrap().is_some());
        let error = load_test(&scratch.0.join("link/conf")).unwrap_err();
        let link = scratch.0.join("link");
        assert_eq!(
            error.to_string(),
            format!(
                "trust {}: it is a symbolic link, or no directory",
                link.display()
            )
        );
        std::fs::remove_file(real.join("conf")).unwrap();
        assert_eq!(load_test(&real.join("conf")).unwrap(), None);
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(load_test(&real.join("conf")).is_err());
    }

    #[test]
    fn a_link_a_pipe_and_a_directory_are_refused() {
        let scratch = Scratch::new("odd");
        let link = scratch.0.join("link");
        symlink(scratch.file("", 0o644), &link).unwrap();
        assert!(load_test(&link)
            .unwrap_err()
            .to_string()
            .ends_with("it is a symbolic link"));
        let pipe = scratch.0.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
        assert!(load_test(&pipe)
            .unwrap_err()
            .to_string()
            .ends_with("not a regular file"));
        assert!(load_test(&scratch.0).is_err());
    }
}
