//! Facts about the host and the user, gathered once, so that planning is pure.
//!
//! Owns: who the user is and where they stand. Never: changes anything.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid, getgid, getuid};

use crate::request::HostPath;

/// The facts a plan is made from.
#[derive(Debug, Clone)]
pub struct Host {
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
    /// The home directory, where the user has one.
    pub home: Option<HostPath>,
    /// The current directory as the kernel names it; `None` if it was removed.
    pub cwd: Option<PathBuf>,
    /// The environment, in order.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether set-up has root's right to mount, so that the kernel mounts the
    /// image and no user namespace is needed.
    pub mounts_as_root: bool,
    /// The user's account and the names of the groups, where they were looked up
    /// before; `None`: they are when they are needed.
    pub accounts: Option<KnownAccounts>,
}

/// What name services say of a user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownAccounts {
    /// The account, whose ids are not looked at.
    pub account: Option<Account>,
    /// The numbers and names of groups.
    pub groups: Vec<(u32, Vec<u8>)>,
}

impl Host {
    /// Asks the system; `environment` is that of the process.
    pub fn gather(environment: Vec<(OsString, OsString)>) -> Self {
        let find = |name: &str| {
            environment
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.as_os_str())
        };
        let uid = getuid().as_raw();
        let home = find("HOME")
            .filter(|home| home.as_bytes().first() == Some(&b'/'))
            .map(PathBuf::from)
            .or_else(|| account(uid).map(|account| account.home))
            .map(HostPath::new);
        Self {
            uid,
            gid: getgid().as_raw(),
            home,
            cwd: std::env::current_dir().ok(),
            environment,
            mounts_as_root: uid == 0,
            accounts: None,
        }
    }

    /// Whether set-up is root's, on behalf of somebody who is not.
    pub fn acts_for_user(&self) -> bool {
        self.mounts_as_root && !self.is_root()
    }

    /// The user's account: as it was looked up before, else looked up now.
    pub fn account(&self) -> Option<Account> {
        match &self.accounts {
            Some(known) => known.account.clone().map(|account| Account {
                uid: self.uid,
                gid: self.gid,
                ..account
            }),
            None => account(self.uid),
        }
    }

    /// The name of one of the user's groups; `local` is the text of /etc/group.
    pub fn group_name(&self, gid: u32, local: &[u8]) -> Option<Vec<u8>> {
        match &self.accounts {
            Some(known) => {
                let named = known.groups.iter().find(|(number, _)| *number == gid);
                named.map(|(_, name)| name.clone())
            }
            None => group_name(gid, local),
        }
    }

    /// Looks up the user's account and groups, for a process that must not call
    /// name services.
    pub fn look_up_accounts(&self) -> KnownAccounts {
        let local = std::fs::read("/etc/group").unwrap_or_default();
        let names = group_ids(self.gid)
            .into_iter()
            .filter_map(|gid| Some((gid, group_name(gid, &local)?)));
        KnownAccounts {
            account: account(self.uid),
            groups: names.collect(),
        }
    }

    /// Whether the user is root on the host.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether real and effective ids agree; they do unless somebody installed
    /// the command set-id, which it is not made for.
    pub fn ids_agree() -> bool {
        getuid() == geteuid() && getgid() == getegid()
    }

    /// The value of an environment variable.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        variable(&self.environment, name)
    }
}

/// The value of a variable in an environment.
pub fn variable<'a>(environment: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    environment
        .iter()
        .find(|(other, _)| other == name)
        .map(|(_, value)| value.as_os_str())
}

/// `first` and the supplementary groups of this process, each once.
pub fn group_ids(first: u32) -> Vec<u32> {
    let mut gids = vec![first];
    let others = nix::unistd::getgroups().unwrap_or_default();
    gids.extend(others.iter().map(|gid| gid.as_raw()));
    gids.dedup();
    gids
}

/// Size and free space of the file system at `path`, in bytes. See statvfs(3).
pub fn space_at(path: &Path) -> Option<(u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let unit = stat.fragment_size();
    Some((
        unit.saturating_mul(stat.blocks()),
        unit.saturating_mul(stat.blocks_available()),
    ))
}

/// A line of passwd(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: Vec<u8>,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Full name and the like.
    pub gecos: Vec<u8>,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// Reads one passwd(5) line; `None` if it is not one.
pub fn parse_account(line: &[u8]) -> Option<Account> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b':').collect();
    let [name, _password, uid, gid, gecos, home, shell] = fields.as_slice() else {
        return None;
    };
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let path = |field: &[u8]| Path::new(OsStr::from_bytes(field)).to_owned();
    Some(Account {
        name: name.to_vec(),
        uid: number(uid)?,
        gid: number(gid)?,
        gecos: gecos.to_vec(),
        home: path(home),
        shell: path(shell),
    })
}

/// The account of `uid`: from /etc/passwd, else from the name service by
/// getent(1). The command is linked statically, so it cannot load the modules
/// of nsswitch.conf(5) itself, and a cluster's users often live in LDAP.
pub fn account(uid: u32) -> Option<Account> {
    let local = std::fs::read("/etc/passwd").unwrap_or_default();
    let find = |table: &[u8]| {
        table
            .split(|&b| b == b'\n')
            .filter_map(parse_account)
            .find(|account| account.uid == uid)
    };
    find(&local).or_else(|| find(&getent("passwd", uid)?))
}

/// The name and number of a group(5) line.
fn parse_group(line: &[u8]) -> Option<(&[u8], u32)> {
    let mut fields = line.split(|&b| b == b':');
    let name = fields.next()?;
    Some((
        name,
        std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?,
    ))
}

/// The number of the user that /etc/passwd has under `name`.
pub fn local_user(name: &[u8]) -> Option<u32> {
    let table = std::fs::read("/etc/passwd").ok()?;
    table
        .split(|&b| b == b'\n')
        .filter_map(parse_account)
        .find(|account| account.name == name)
        .map(|account| account.uid)
}

/// The number of the group that /etc/group has under `name`.
pub fn local_group(name: &[u8]) -> Option<u32> {
    let table = std::fs::read("/etc/group").ok()?;
    let mut groups = table.split(|&b| b == b'\n').filter_map(parse_group);
    groups.find(|(other, _)| *other == name).map(|(_, gid)| gid)
}

fn find_group(table: &[u8], gid: u32) -> Option<&[u8]> {
    let groups = table.split(|&b| b == b'\n').filter_map(parse_group);
    groups
        .filter(|(_, number)| *number == gid)
        .map(|(name, _)| name)
        .next()
}

/// Whether the group(5) text `table` knows `gid`.
pub fn has_group(gid: u32, table: &[u8]) -> bool {
    find_group(table, gid).is_some()
}

/// The name of the group `gid`, from the group(5) text `local`, else looked up
/// like [`account`].
pub fn group_name(gid: u32, local: &[u8]) -> Option<Vec<u8>> {
    find_group(local, gid)
        .map(<[u8]>::to_vec)
        .or_else(|| find_group(&getent("group", gid)?, gid).map(<[u8]>::to_vec))
}

fn getent(database: &str, id: u32) -> Option<Vec<u8>> {
    let output = std::process::Command::new("/usr/bin/getent")
        .args([database, &id.to_string()])
        .env_clear()
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .output()
        .ok()?;
    output.status.success().then_some(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passwd_line_is_read() {
        let account = parse_account(b"ada:x:1000:100:Ada L.:/home/ada:/bin/zsh").unwrap();
        assert_eq!(account.name, b"ada");
        assert_eq!((account.uid, account.gid), (1000, 100));
        assert_eq!(account.home, Path::new("/home/ada"));
    }

    #[test]
    fn a_line_that_is_no_account_is_passed_over() {
        for line in [
            &b"# comment"[..],
            b"",
            b"+::::::",
            b"a:b:c",
            b"x:x:-1:0::/:/bin/sh",
        ] {
            assert_eq!(parse_account(line), None, "{line:?}");
        }
    }
}
