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

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use image::Image;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};

use crate::error::{Error, Step};
use crate::host::{Account, Host, KnownAccounts};
use crate::request::{
    Access, Bind, Entry, EnvironmentChoice, Home, HostPath, ImagePath, Request, Share, Standard,
    Unshared,
};
use crate::site::Site;

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
    timing: bool,
    /// How much is said: 0 for errors only, to 4 for everything.
    pub verbosity: u8,
    /// The soft limits of open files and of file size, and the umask, as the
    /// caller inherited them.
    pub limits: (u64, u64, u32),
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
    VERBOSITY = 14, LIMITS = 15, USER_HOME = 16, VARIABLES = 17, ACCOUNT = 18, GROUPS = 19,
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
    pub fn of(request: &Request, host: &Host, limits: (u64, u64, u32), verbosity: u8) -> Self {
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
            timing: request.timing,
            verbosity,
            limits,
            user_home: host.home.clone(),
            variables: host.environment.clone(),
            accounts: host.look_up_accounts(),
        }
    }

    /// The path of the image.
    pub fn image(&self) -> &std::path::Path {
        &self.image
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
            timing: self.timing,
            ..Request::new(image, self.entry, launcher)
        };
        (request, host)
    }

    /// The request in a memory file that cannot be changed any more.
    ///
    /// # Errors
    /// As memfd_create(2) and write(2); a request that is too large.
    pub fn seal(self) -> Result<OwnedFd, Error> {
        let step = || "hand the request to the starter".to_owned();
        let bytes = self.to_bytes();
        if bytes.len() as u64 > MOST_BYTES {
            return Err(Error::new(step(), "arguments and environment are too long")
                .hint("drop some: --cleanenv"));
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
        let sealed = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS);
        let sealed = sealed.map(SealFlag::from_bits_truncate);
        if !sealed.is_ok_and(|sealed| sealed.contains(seals())) {
            return Err(Malformed("it is not in a sealed memory file").error());
        }
        let file = File::from(file);
        let length = file
            .metadata()
            .map_err(|error| Error::io("read the request", &error))?
            .len();
        if length > MOST_BYTES {
            return Err(Malformed("it is too large").error());
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|error| Error::io("read the request", &error))?;
        Self::from_bytes(&bytes).map_err(Malformed::error)
    }

    fn to_bytes(mut self) -> Vec<u8> {
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
        put(VERBOSITY, &[self.verbosity]);
        let (files, size, umask) = self.limits;
        put(
            LIMITS,
            &[
                &files.to_le_bytes()[..],
                &size.to_le_bytes(),
                &umask.to_le_bytes(),
            ]
            .concat(),
        );
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
        let [verbosity] = field(VERBOSITY)? else {
            return Err(Malformed("its verbosity is not a byte"));
        };
        let [switches] = field(SWITCHES)? else {
            return Err(Malformed("its switches are not a byte"));
        };
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
            timing: false,
            verbosity: *verbosity,
            limits: limits(field(LIMITS)?)?,
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

/// Leaves a descriptor open across the next execve(2).
///
/// # Errors
/// As fcntl(2).
pub fn keep_across_exec(file: &OwnedFd) -> Result<i32, Errno> {
    fcntl(file, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    Ok(file.as_raw_fd())
}

// --- writing ------------------------------------------------------------------

fn list(items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        bytes.extend((item.len() as u32).to_le_bytes());
        bytes.extend(item);
    }
    bytes
}

fn path_bytes(path: &std::path::Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn host_path(path: &Option<HostPath>) -> Option<Vec<u8>> {
    path.as_ref().map(|path| path_bytes(path.as_path()))
}

fn pairs(pairs: &[(OsString, OsString)]) -> Vec<u8> {
    list(
        pairs
            .iter()
            .flat_map(|(name, value)| [name.as_bytes().to_vec(), value.as_bytes().to_vec()]),
    )
}

fn entry_bytes(entry: &Entry) -> Vec<u8> {
    let (kind, words, program) = match entry {
        Entry::Exec(words) => (0, words, None),
        Entry::Run(words) => (1, words, None),
        Entry::Test(words) => (2, words, None),
        Entry::Shell {
            program: None,
            arguments,
        } => (3, arguments, None),
        Entry::Shell {
            program: Some(program),
            arguments,
        } => (4, arguments, Some(program)),
    };
    let words = program.into_iter().chain(words);
    list(std::iter::once(vec![kind]).chain(words.map(|word| word.as_bytes().to_vec())))
}

// --- reading ------------------------------------------------------------------

/// The item at the beginning, and what follows it.
fn item(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let cut = Malformed("it is cut short");
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(cut)?;
    let length = u32::from_le_bytes(*length) as usize;
    rest.split_at_checked(length).ok_or(cut)
}

fn items(mut bytes: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (value, rest) = item(bytes)?;
        found.push(value);
        bytes = rest;
    }
    Ok(found)
}

/// What was a C string, or a path or a part of one: it holds no NUL.
fn words(bytes: &[u8]) -> Result<OsString, Malformed> {
    if bytes.contains(&0) {
        return Err(Malformed("it has a NUL in a string"));
    }
    Ok(OsStr::from_bytes(bytes).to_owned())
}

fn at_most_one(bytes: &[u8]) -> Result<Option<OsString>, Malformed> {
    match items(bytes)?.as_slice() {
        [] => Ok(None),
        [one] => words(one).map(Some),
        _ => Err(Malformed("it has several of what there is one of")),
    }
}

fn image_path(bytes: &[u8]) -> Result<ImagePath, Malformed> {
    ImagePath::new(words(bytes)?).ok_or(Malformed("a path in the image is not absolute"))
}

fn binds(bytes: &[u8]) -> Result<Vec<Bind>, Malformed> {
    let found = items(bytes)?;
    let triples = found.chunks_exact(3);
    if !triples.remainder().is_empty() {
        return Err(Malformed("a bind of it is not whole"));
    }
    triples
        .map(|bind| {
            Ok(Bind {
                source: HostPath::new(words(bind[0])?),
                destination: image_path(bind[1])?,
                read_only: match bind[2] {
                    [0] => false,
                    [1] => true,
                    _ => return Err(Malformed("a bind of it is neither ro nor rw")),
                },
            })
        })
        .collect()
}

fn home(bytes: &[u8]) -> Result<Home, Malformed> {
    Ok(match items(bytes)?.as_slice() {
        [[0]] => Home::Own,
        [[1]] => Home::None,
        [[2], source, destination] => Home::Instead {
            source: HostPath::new(words(source)?),
            destination: image_path(destination)?,
        },
        _ => return Err(Malformed("its home is of no known kind")),
    })
}

fn access(bytes: &[u8]) -> Result<Access, Malformed> {
    Ok(match items(bytes)?.as_slice() {
        [[0]] => Access::ReadOnly,
        [[1]] => Access::Writable,
        [[2]] => Access::WritableTmpfs,
        [[3], path] => Access::Overlay(HostPath::new(words(path)?)),
        _ => return Err(Malformed("its access is of no known kind")),
    })
}

fn share(bytes: &[u8]) -> Result<Share, Malformed> {
    Ok(match items(bytes)?.as_slice() {
        [[0]] => Share::Auto,
        [[1]] => Share::Off,
        [[2], name] => Share::Name(words(name)?),
        _ => return Err(Malformed("its sharing is of no known kind")),
    })
}

fn entry(bytes: &[u8]) -> Result<Entry, Malformed> {
    let found = items(bytes)?;
    let unknown = Malformed("what it starts is of no known kind");
    let (&[kind], rest) = found
        .split_first()
        .ok_or(unknown)
        .and_then(|(kind, rest)| {
            let kind: &[u8; 1] = (*kind).try_into().map_err(|_| unknown)?;
            Ok((kind, rest))
        })?;
    let mut rest: Vec<OsString> = rest.iter().map(|b| words(b)).collect::<Result<_, _>>()?;
    Ok(match kind {
        0 if !rest.is_empty() => Entry::Exec(rest),
        1 => Entry::Run(rest),
        2 => Entry::Test(rest),
        3 => Entry::Shell {
            program: None,
            arguments: rest,
        },
        4 if !rest.is_empty() => Entry::Shell {
            program: Some(rest.remove(0)),
            arguments: rest,
        },
        _ => return Err(unknown),
    })
}

fn without(bytes: &[u8]) -> Result<Vec<Standard>, Malformed> {
    items(bytes)?
        .into_iter()
        .map(|name| {
            let mut known = Standard::NAMES.iter();
            let known = known.find(|(known, _)| known.as_bytes() == name);
            known
                .map(|(_, standard)| *standard)
                .ok_or(Malformed("it leaves out a mount of no known name"))
        })
        .collect()
}

fn read_pairs(bytes: &[u8]) -> Result<Vec<(OsString, OsString)>, Malformed> {
    let found = items(bytes)?;
    let pairs = found.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(Malformed("a variable of it is not whole"));
    }
    pairs
        .map(|pair| Ok((words(pair[0])?, words(pair[1])?)))
        .collect()
}

fn limits(bytes: &[u8]) -> Result<(u64, u64, u32), Malformed> {
    let wrong = Malformed("its limits are not three numbers");
    let (files, rest) = bytes.split_first_chunk::<8>().ok_or(wrong)?;
    let (size, rest) = rest.split_first_chunk::<8>().ok_or(wrong)?;
    let umask: &[u8; 4] = rest.try_into().map_err(|_| wrong)?;
    Ok((
        u64::from_le_bytes(*files),
        u64::from_le_bytes(*size),
        u32::from_le_bytes(*umask) & 0o777,
    ))
}

/// The ids are not told: they are the calling process's.
fn account(bytes: &[u8]) -> Result<Option<Account>, Malformed> {
    Ok(match items(bytes)?.as_slice() {
        [] => None,
        [name, gecos, home, shell] => Some(Account {
            name: words(name)?.into_vec(),
            uid: u32::MAX,
            gid: u32::MAX,
            gecos: words(gecos)?.into_vec(),
            home: words(home)?.into(),
            shell: words(shell)?.into(),
        }),
        _ => return Err(Malformed("its account is not whole")),
    })
}

fn groups(bytes: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, Malformed> {
    let found = items(bytes)?;
    let pairs = found.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(Malformed("a group of it is not whole"));
    }
    pairs
        .map(|pair| {
            let gid: &[u8; 4] = pair[0]
                .try_into()
                .map_err(|_| Malformed("a group of it has no number"))?;
            Ok((u32::from_le_bytes(*gid), words(pair[1])?.into_vec()))
        })
        .collect()
}
