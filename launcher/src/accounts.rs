//! passwd(5) and group(5) as the image has them, with the user added.
//!
//! Owns: the text of both files. Never: changes what the image says of others.

use std::os::unix::ffi::OsStrExt;

use crate::host::{self, Account, Host};
use crate::request::ImagePath;

/// The image's passwd(5) in which the user's id has the user's name and the home
/// directory of this run.
pub fn passwd(image: &[u8], host: &Host, home: Option<&ImagePath>) -> Vec<u8> {
    let mut account = host.account().unwrap_or_else(|| Account {
        name: host
            .variable("USER")
            .map_or(b"user".to_vec(), |name| name.as_bytes().to_vec()),
        uid: host.uid,
        gid: host.gid,
        gecos: Vec::new(),
        home: "/".into(),
        shell: "/bin/sh".into(),
    });
    if let Some(home) = home {
        account.home = home.as_path().to_owned();
    }
    let mut text = Vec::with_capacity(image.len() + 128);
    // The user's line comes first: look-ups by id or name take the first that fits.
    let (uid, gid) = (account.uid.to_string(), account.gid.to_string());
    let fields: [&[u8]; 7] = [
        &account.name,
        b"x",
        uid.as_bytes(),
        gid.as_bytes(),
        &account.gecos,
        account.home.as_os_str().as_bytes(),
        account.shell.as_os_str().as_bytes(),
    ];
    text.extend(fields.map(one_field).join(&b':'));
    text.push(b'\n');
    text.extend(lines_without(image, |line| {
        host::parse_account(line).is_some_and(|other| other.uid == account.uid)
    }));
    text
}

/// The image's group(5) with the user's group and the groups of this process
/// that it lacks.
pub fn group(image: Vec<u8>, host: &Host) -> Vec<u8> {
    let local = std::fs::read("/etc/group").unwrap_or_default();
    let mut text = image;
    if text.last().is_some_and(|&last| last != b'\n') {
        text.push(b'\n');
    }
    for gid in host::group_ids(host.gid) {
        // The overflow id stands for groups that an outer namespace does not map.
        if gid == 65534 || host::has_group(gid, &text) {
            continue;
        }
        if let Some(name) = host.group_name(gid, &local) {
            text.extend(one_field(&name));
            text.extend(format!(":x:{gid}:\n").into_bytes());
        }
    }
    text
}

/// A field that cannot end early or begin another line.
fn one_field(field: &[u8]) -> Vec<u8> {
    field
        .iter()
        .map(|&b| if b == b':' || b == b'\n' { b'_' } else { b })
        .collect()
}

fn lines_without(text: &[u8], unwanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut kept = Vec::with_capacity(text.len());
    for line in text
        .split(|&b| b == b'\n')
        .filter(|line| !line.is_empty() && !unwanted(line))
    {
        kept.extend(line);
        kept.push(b'\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    fn host(uid: u32) -> Host {
        Host {
            uid,
            gid: uid,
            home: None,
            cwd: None,
            environment: vec![("USER".into(), "eve".into())],
            accounts: None,
            mounts_as_root: false,
        }
    }

    #[test]
    fn the_user_replaces_whoever_has_the_id_in_the_image() {
        let image = b"root:x:0:0::/root:/bin/sh\nother:x:3999:3999::/o:/bin/sh\n";
        let text = String::from_utf8(passwd(image, &host(3999), None)).unwrap();
        assert!(text.starts_with("eve:x:3999:3999:"), "{text}");
        assert!(text.contains("root:x:0:0"));
        assert!(!text.contains("other"));
    }

    #[test]
    fn a_hostile_home_adds_no_line() {
        let home = ImagePath::new("/home/a:b\nroot::0:0::/:/bin/sh");
        let text = String::from_utf8(passwd(b"", &host(3999), home.as_ref())).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
