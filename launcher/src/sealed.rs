//! The request on its way from the command to the set-id starter: bytes in a
//! sealed memory file, which nobody can change once it is handed over.
//!
//! Owns: the form of it, and reading it as hostile: every length is checked
//! against what is there, a field that is unknown, missing or given twice is
//! refused, nothing is allocated by a claimed number, and nothing panics. Never:
//! decides; what the user may do is judged when it has been read.
//!
//! A field is its number (u8), the length of its value (u32) and the value; a list
//! in a value is items of a length (u32) and bytes. Numbers are little-endian.

mod parts;

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::PathBuf;

use image::Image;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::resource::{getrlimit, Resource};
use nix::unistd::pipe2;
use pmi_shim::Choice;

use self::parts::{
    access, account, at_most_one, binds, entry, entry_bytes, groups, home, host_path, image_path,
    item, items, limits, list, mpi, pairs, path_bytes, read_pairs, share, stage, without, words,
};
use crate::error::{Error, Step};
use crate::fds::{self, Inherited};
use crate::host::{Host, KnownAccounts};
use crate::request::{
    Access, Bind, Entry, EnvironmentChoice, Home, HostPath, ImagePath, MpiChoice, Request, Share,
    Standard, Unshared,
};
use crate::site::Site;
use crate::stage::Stage;

/// The first bytes; the last of them is the version of the form.
const MAGIC: &[u8; 8] = b"sgreq\0\0\x01";

/// The most a request may be. execve(2) takes arguments and variables of 6 MiB at
/// most (three quarters of 8 MiB of stack), and they are nearly all of it.
pub const MOST_BYTES: u64 = 16 << 20;

const NAME: &CStr = c"singularity-request";

/// A request as it was handed over, with what the caller knows of its user.
#[derive(Debug, PartialEq, Eq)]
pub struct Sealed {
    image: PathBuf,
    entry: Entry,
    binds: Vec<Bind>,
    home: Home,
    workdir: Option<HostPath>,
    scratch: Vec<ImagePath>,
    working_directory: Option<ImagePath>,
    contain: bool,
    unshared: Unshared,
    hostname: Option<OsString>,
    access: Access,
    without: Vec<Standard>,
    environment: EnvironmentChoice,
    share: Share,
    mpi: (Choice, bool),
    stage: Option<Stage>,
    timing: bool,
    /// How much is said: 0 for errors only, to 4 for everything.
    pub verbosity: u8,
    /// As the caller inherited them.
    pub limits: Inherited,
    /// Standard descriptors that the program is to find closed, a bit each.
    pub closed: u8,
    user_home: Option<HostPath>,
    variables: Vec<(OsString, OsString)>,
    accounts: KnownAccounts,
}

/// What is wrong with bytes that should be a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl Malformed {
    /// The same in words for a user.
    pub fn error(self) -> Error {
        Error::new("read the request", self.0)
            .hint("the starter is for the singularity command of the same installation")
    }
}

/// One field of the form.
macro_rules! fields {
    ($($name:ident = $number:literal),* $(,)?) => {
        $(const $name: u8 = $number;)*
        /// Every field, each of which is there once.
        const ALL: &[u8] = &[$($name),*];
    };
}

fields! {
    IMAGE = 1, ENTRY = 2, BINDS = 3, HOME = 4, WORKDIR = 5, SCRATCH = 6, PWD = 7,
    SWITCHES = 8, HOSTNAME = 9, ACCESS = 10, WITHOUT = 11, SET = 12, SHARE = 13,
    VERBOSITY = 14, LIMITS = 15, CLOSED = 20, USER_HOME = 16, VARIABLES = 17, ACCOUNT = 18, GROUPS = 19,
    MPI = 21, STAGE = 22,
}

/// The bits of the field SWITCHES.
const SWITCHES_OF: [fn(&mut Sealed) -> &mut bool; 8] = [
    |sealed| &mut sealed.contain,
    |sealed| &mut sealed.unshared.ipc,
    |sealed| &mut sealed.unshared.pid,
    |sealed| &mut sealed.unshared.net,
    |sealed| &mut sealed.unshared.uts,
    |sealed| &mut sealed.environment.clean,
    |sealed| &mut sealed.environment.ignore_image,
    |sealed| &mut sealed.timing,
];

impl Sealed {
    /// Takes what the starter needs to know of a request. The image is named by
    /// its path: the starter opens it again, with the user's rights.
    pub fn of(request: &Request, host: &Host, limits: Inherited, verbosity: u8) -> Self {
        Self {
            image: request.image.path().to_owned(),
            entry: request.entry.clone(),
            binds: request.binds.clone(),
            home: request.home.clone(),
            workdir: request.workdir.clone(),
            scratch: request.scratch.clone(),
            working_directory: request.working_directory.clone(),
            contain: request.contain,
            unshared: request.unshared,
            hostname: request.hostname.clone(),
            access: request.access.clone(),
            without: request.without.clone(),
            environment: request.environment.clone(),
            share: request.share.clone(),
            mpi: (request.mpi.choice, request.mpi.hygiene),
            stage: request.stage.clone(),
            timing: request.timing,
            verbosity,
            limits,
            closed: fds::held_standard_descriptors(),
            user_home: host.home.clone(),
            variables: host.environment.clone(),
            accounts: host.look_up_accounts(),
        }
    }

    /// The path of the image.
    pub fn image(&self) -> &std::path::Path {
        &self.image
    }

    /// A digest of what shapes the namespace, but for the image.
    pub fn digest(&self) -> u128 {
        crate::audit::digest(&(
            (&self.binds, &self.home, &self.workdir, &self.scratch),
            (&self.working_directory, self.contain, self.unshared),
            (&self.hostname, &self.access, &self.without),
            (&self.share, self.mpi, &self.stage),
        ))
    }

    /// The request, for the opened image; and the user's surroundings, for the ids
    /// that the kernel tells of the calling process.
    pub fn open(self, image: Image, site: Site, uid: u32, gid: u32) -> (Request, Host) {
        let host = Host {
            uid,
            gid,
            home: self.user_home,
            cwd: std::env::current_dir().ok(),
            environment: self.variables,
            mounts_as_root: true,
            accounts: Some(self.accounts),
        };
        let launcher = pmi_shim::detect(
            &pmi_shim::Environment::of(&host.environment),
            crate::is_socket,
        );
        let request = Request {
            binds: self.binds,
            home: self.home,
            workdir: self.workdir,
            scratch: self.scratch,
            working_directory: self.working_directory,
            contain: self.contain,
            unshared: self.unshared,
            hostname: self.hostname,
            access: self.access,
            without: self.without,
            environment: self.environment,
            share: if site.share { self.share } else { Share::Off },
            site,
            mpi: MpiChoice {
                choice: self.mpi.0,
                hygiene: self.mpi.1,
                // Beside the starter, whatever the caller's environment says.
                libexec: std::env::current_exe()
                    .ok()
                    .and_then(|own| own.parent().map(PathBuf::from)),
            },
            stage: self.stage,
            timing: self.timing,
            ..Request::new(image, self.entry, launcher)
        };
        (request, host)
    }

    /// The request in a memory file that cannot be changed any more; in a pipe, which
    /// is read only once, where the limit of file size (`ulimit -f`) allows no file.
    ///
    /// # Errors
    /// As memfd_create(2), pipe(2) and write(2); a request that is too large.
    pub fn seal(self) -> Result<OwnedFd, Error> {
        let step = || "hand the request to the starter".to_owned();
        let bytes = self.into_bytes();
        if bytes.len() as u64 > MOST_BYTES {
            return Err(Error::new(step(), "arguments and environment are too long")
                .hint("drop some: --cleanenv"));
        }
        let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE).step(step)?;
        if limit < bytes.len() as u64 {
            return in_a_pipe(&bytes).step(step).map_err(|error| {
                error
                    .hint("raise the limit of file size (ulimit -f), or drop variables: --cleanenv")
            });
        }
        let mut file = File::from(memfd_create(NAME, MFdFlags::MFD_ALLOW_SEALING).step(step)?);
        file.write_all(&bytes).step(step)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals())).step(step)?;
        Ok(file.into())
    }

    /// Reads a request from the memory file that the command sealed.
    ///
    /// # Errors
    /// A descriptor that is something else, or bytes that are no request.
    pub fn unseal(file: OwnedFd) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::io("read the request", &error);
        let sealed = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS);
        let sealed = sealed.map(SealFlag::from_bits_truncate);
        let file = File::from(file);
        let metadata = file.metadata().map_err(failed)?;
        if metadata.file_type().is_fifo() {
            return Self::from_bytes(&from_a_pipe(file)?).map_err(Malformed::error);
        }
        if !sealed.is_ok_and(|sealed| sealed.contains(seals())) {
            return Err(Malformed("it is not in a sealed memory file").error());
        }
        let length = metadata.len();
        if length > MOST_BYTES {
            return Err(Malformed("it is too large").error());
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        Self::from_bytes(&bytes).map_err(Malformed::error)
    }

    /// Whether bytes are a whole request.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(bytes: &[u8]) -> Result<(), Malformed> {
        Self::from_bytes(bytes).map(drop)
    }

    fn into_bytes(mut self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let mut put = |number: u8, value: &[u8]| {
            bytes.push(number);
            bytes.extend((value.len() as u32).to_le_bytes());
            bytes.extend(value);
        };
        put(IMAGE, self.image.as_os_str().as_bytes());
        put(ENTRY, &entry_bytes(&self.entry));
        let binds = self.binds.iter().flat_map(|bind| {
            [
                path_bytes(bind.source.as_path()),
                path_bytes(bind.destination.as_path()),
                vec![u8::from(bind.read_only)],
            ]
        });
        put(BINDS, &list(binds));
        let home = match &self.home {
            Home::Own => vec![vec![0]],
            Home::None => vec![vec![1]],
            Home::Instead {
                source,
                destination,
            } => vec![
                vec![2],
                path_bytes(source.as_path()),
                path_bytes(destination.as_path()),
            ],
        };
        put(HOME, &list(home));
        put(WORKDIR, &list(host_path(&self.workdir)));
        put(
            SCRATCH,
            &list(self.scratch.iter().map(|path| path_bytes(path.as_path()))),
        );
        let pwd = self.working_directory.iter();
        put(PWD, &list(pwd.map(|path| path_bytes(path.as_path()))));
        let mut switches = 0;
        for (bit, switch) in SWITCHES_OF.iter().enumerate() {
            switches |= u8::from(*switch(&mut self)) << bit;
        }
        put(SWITCHES, &[switches]);
        let hostname = self.hostname.iter();
        put(
            HOSTNAME,
            &list(hostname.map(|name| name.as_bytes().to_vec())),
        );
        let access = match &self.access {
            Access::ReadOnly => vec![vec![0]],
            Access::Writable => vec![vec![1]],
            Access::WritableTmpfs => vec![vec![2]],
            Access::Overlay(path) => vec![vec![3], path_bytes(path.as_path())],
        };
        put(ACCESS, &list(access));
        let without = self.without.iter().filter_map(|standard| {
            let known = Standard::NAMES.iter().find(|(_, known)| known == standard);
            Some(known?.0.as_bytes().to_vec())
        });
        put(WITHOUT, &list(without));
        put(SET, &pairs(&self.environment.set));
        let share = match &self.share {
            Share::Auto => vec![vec![0]],
            Share::Off => vec![vec![1]],
            Share::Name(name) => vec![vec![2], name.as_bytes().to_vec()],
        };
        put(SHARE, &list(share));
        let (choice, hygiene) = self.mpi;
        put(
            MPI,
            &list([choice.name().as_bytes().to_vec(), vec![u8::from(hygiene)]]),
        );
        let stage = self
            .stage
            .iter()
            .map(|stage| stage.words().into_encoded_bytes());
        put(STAGE, &list(stage));
        put(VERBOSITY, &[self.verbosity]);
        put(CLOSED, &[self.closed]);
        let Inherited {
            files,
            file_size,
            stack,
            umask,
        } = self.limits;
        let numbers = [files, file_size, stack, umask.into()];
        put(LIMITS, &numbers.map(u64::to_le_bytes).concat());
        put(USER_HOME, &list(host_path(&self.user_home)));
        put(VARIABLES, &pairs(&self.variables));
        let account = self.accounts.account.iter().flat_map(|account| {
            [
                account.name.clone(),
                account.gecos.clone(),
                path_bytes(&account.home),
                path_bytes(&account.shell),
            ]
        });
        put(ACCOUNT, &list(account));
        let groups = self.accounts.groups.iter();
        let groups = groups.flat_map(|(gid, name)| [gid.to_le_bytes().to_vec(), name.clone()]);
        put(GROUPS, &list(groups));
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes
            .strip_prefix(MAGIC)
            .ok_or(Malformed("it is none, or of another version"))?;
        let mut values: [Option<&[u8]>; 256] = [None; 256];
        while let Some((&number, after)) = rest.split_first() {
            if !ALL.contains(&number) {
                return Err(Malformed("it has an unknown field"));
            }
            let (value, after) = item(after)?;
            if values[usize::from(number)].replace(value).is_some() {
                return Err(Malformed("it has a field twice"));
            }
            rest = after;
        }
        let field =
            |number: u8| values[usize::from(number)].ok_or(Malformed("a field of it is missing"));
        let byte = |number: u8| match field(number)? {
            [byte] => Ok(*byte),
            _ => Err(Malformed("a field of one byte has another length")),
        };
        let switches = byte(SWITCHES)?;
        let mut sealed = Self {
            image: words(field(IMAGE)?)?.into(),
            entry: entry(field(ENTRY)?)?,
            binds: binds(field(BINDS)?)?,
            home: home(field(HOME)?)?,
            workdir: at_most_one(field(WORKDIR)?)?.map(HostPath::new),
            scratch: items(field(SCRATCH)?)?
                .into_iter()
                .map(image_path)
                .collect::<Result<_, _>>()?,
            working_directory: match items(field(PWD)?)?.as_slice() {
                [] => None,
                [one] => Some(image_path(one)?),
                _ => return Err(Malformed("it has several working directories")),
            },
            contain: false,
            unshared: Unshared::default(),
            hostname: at_most_one(field(HOSTNAME)?)?,
            access: access(field(ACCESS)?)?,
            without: without(field(WITHOUT)?)?,
            environment: EnvironmentChoice {
                set: read_pairs(field(SET)?)?,
                ..EnvironmentChoice::default()
            },
            share: share(field(SHARE)?)?,
            mpi: mpi(field(MPI)?)?,
            stage: stage(field(STAGE)?)?,
            timing: false,
            verbosity: byte(VERBOSITY)?,
            limits: limits(field(LIMITS)?)?,
            closed: byte(CLOSED)?,
            user_home: at_most_one(field(USER_HOME)?)?.map(HostPath::new),
            variables: read_pairs(field(VARIABLES)?)?,
            accounts: KnownAccounts {
                account: account(field(ACCOUNT)?)?,
                groups: groups(field(GROUPS)?)?,
            },
        };
        for (bit, switch) in SWITCHES_OF.iter().enumerate() {
            *switch(&mut sealed) = switches >> bit & 1 == 1;
        }
        Ok(sealed)
    }
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

fn in_a_pipe(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let room = i32::try_from(bytes.len()).map_err(|_| Errno::EFBIG)?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(room))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = nix::unistd::write(&writer, rest)?;
        rest = &rest[written..];
    }
    Ok(reader)
}

/// All that is in a pipe that nobody can write to any more.
fn from_a_pipe(mut pipe: File) -> Result<Vec<u8>, Error> {
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(|errno| Error::call("read the request", errno))?;
    let mut bytes = Vec::new();
    let read = (&mut pipe).take(MOST_BYTES + 1).read_to_end(&mut bytes);
    match read {
        Ok(_) if bytes.len() as u64 > MOST_BYTES => Err(Malformed("it is too large").error()),
        Ok(_) => Ok(bytes),
        // Somebody still holds the other end.
        Err(_) => Err(Malformed("it is not all there").error()),
    }
}

/// Leaves a descriptor open across the next execve(2).
///
/// # Errors
/// As fcntl(2).
pub fn keep_across_exec(file: &OwnedFd) -> Result<i32, Errno> {
    fcntl(file, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    Ok(file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Account;

    #[test]
    fn the_fuzzers_seeds_are_whole_requests() {
        for seed in [
            &include_bytes!("../../fuzz/corpus/request/full")[..],
            include_bytes!("../../fuzz/corpus/request/least"),
        ] {
            assert_eq!(Sealed::check(seed), Ok(()));
        }
    }

    fn example() -> Sealed {
        Sealed {
            image: "/i".into(),
            entry: Entry::Shell {
                program: Some("/bin/dash".into()),
                arguments: vec!["-c".into(), "".into()],
            },
            binds: vec![Bind {
                source: HostPath::new("/a"),
                destination: ImagePath::new("/b").unwrap(),
                read_only: true,
            }],
            home: Home::Instead {
                source: HostPath::new("/h"),
                destination: ImagePath::new("/home/me").unwrap(),
            },
            workdir: Some(HostPath::new("/w")),
            scratch: vec![ImagePath::new("/s").unwrap()],
            working_directory: ImagePath::new("/p"),
            contain: true,
            unshared: Unshared {
                net: true,
                ..Unshared::default()
            },
            hostname: Some("n".into()),
            access: Access::Overlay(HostPath::new("/o")),
            without: vec![Standard::ResolvConf, Standard::Tmp],
            environment: EnvironmentChoice {
                clean: true,
                ignore_image: false,
                set: vec![("A".into(), "=1".into())],
            },
            share: Share::Name("j".into()),
            mpi: (Choice::Bridge, false),
            stage: Some(Stage {
                place: crate::stage::Place::Directory(HostPath::new("/d")),
                or_original: true,
            }),
            timing: true,
            verbosity: 3,
            limits: Inherited {
                files: 7,
                file_size: u64::MAX,
                stack: 1,
                umask: 0o27,
            },
            closed: 5,
            user_home: Some(HostPath::new("/home/me")),
            variables: vec![("".into(), "x".into()), ("B".into(), "".into())],
            accounts: KnownAccounts {
                account: Some(Account {
                    name: b"me".to_vec(),
                    uid: u32::MAX,
                    gid: u32::MAX,
                    gecos: Vec::new(),
                    home: "/home/me".into(),
                    shell: "/bin/sh".into(),
                }),
                groups: vec![(5, b"tty".to_vec())],
            },
        }
    }

    #[test]
    fn a_request_arrives_as_it_was_sent() {
        let arrived = Sealed::unseal(example().seal().unwrap()).unwrap();
        assert_eq!(arrived, example());
    }

    #[test]
    fn a_request_arrives_by_a_pipe_once_nobody_can_write_to_it() {
        let bytes = example().into_bytes();
        let arrived = Sealed::unseal(in_a_pipe(&bytes).unwrap()).unwrap();
        assert_eq!(arrived, example());
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        nix::unistd::write(&writer, &bytes).unwrap();
        assert!(Sealed::unseal(reader).is_err());
    }

    #[test]
    fn a_request_that_is_cut_anywhere_is_refused() {
        let bytes = example().into_bytes();
        for length in 0..bytes.len() {
            assert!(Sealed::from_bytes(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn any_byte_may_be_another_without_a_panic() {
        let bytes = example().into_bytes();
        for index in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[index] = value;
                let _ = Sealed::from_bytes(&changed);
            }
        }
    }

    #[test]
    fn a_field_that_is_unknown_or_there_twice_is_refused() {
        let mut unknown = example().into_bytes();
        unknown.extend([200, 0, 0, 0, 0]);
        let refused = Sealed::from_bytes(&unknown).unwrap_err();
        assert_eq!(refused, Malformed("it has an unknown field"));
        let mut twice = example().into_bytes();
        twice.extend([VERBOSITY, 1, 0, 0, 0, 0]);
        let refused = Sealed::from_bytes(&twice).unwrap_err();
        assert_eq!(refused, Malformed("it has a field twice"));
    }

    #[test]
    fn a_file_that_can_still_be_changed_is_refused() {
        let file = File::from(memfd_create(NAME, MFdFlags::MFD_ALLOW_SEALING).unwrap());
        (&file).write_all(&example().into_bytes()).unwrap();
        assert!(Sealed::unseal(file.into()).is_err());
        let (pipe, _) = nix::unistd::pipe().unwrap();
        assert!(Sealed::unseal(pipe).is_err());
    }
}
