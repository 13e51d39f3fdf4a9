//! The starter as an attacker meets it: by itself, without the command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::{command, is_privileged, User};

use crate::ground::{text_of, Ground};

/// Ground on which the starter is set-id; without, nothing here would be shown.
pub fn ground() -> Ground {
    assert!(
        is_privileged(),
        "the starter is not set-id: run this by tests/privileged, as root"
    );
    Ground::new()
}

/// The starter beside the command.
pub fn path() -> PathBuf {
    let prefix = command().parent().and_then(Path::parent);
    prefix
        .expect("the command is installed in a prefix")
        .join("libexec/singularity/starter")
}

/// The bytes of the request that the command would hand over for these words: what
/// it writes to a "starter" that only keeps them.
pub fn request(user: &User, words: &[&str]) -> Vec<u8> {
    let libexec = user.directory("recorder");
    let recorder = libexec.join("starter");
    let record = user.work().join("request");
    // The command looks whether it is root's and set-id; the kernel gives a script
    // no rights by that.
    let text = format!("#!/bin/sh\ncat /proc/self/fd/$1 >{}\n", text_of(&record));
    fs::write(&recorder, text).expect("a script can be written");
    crate::ground::chmod(&recorder, 0o4755);
    let mut command = user.singularity();
    command.env("SINGULARITY_LIBEXEC", &libexec).args(words);
    test_support::capture(&mut command).succeeded();
    let bytes = fs::read(&record).expect("the request was recorded");
    fs::remove_file(record).expect("the record can be removed");
    bytes
}

/// Python that hands `sys.stdin`'s bytes to the starter by a sealed memory file, or
/// another way that `how` names, and becomes it.
const HAND_OVER: &str = r#"
import fcntl, os, sys
starter, how = sys.argv[1:3]
data = sys.stdin.buffer.read()
if how == "pipe":
    end, write = os.pipe()
    os.set_inheritable(end, True)
    fcntl.fcntl(write, 1031, 1 << 20)
    os.write(write, data)
    os.close(write)
elif how == "open-pipe":
    end, write = os.pipe()
    os.set_inheritable(end, True)
    os.set_inheritable(write, True)
    os.write(write, data)
elif how == "file":
    end = os.open("request-file", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(end, data)
    os.set_inheritable(end, True)
elif how == "directory":
    end = os.open(".", os.O_RDONLY)
    os.set_inheritable(end, True)
else:
    end = os.memfd_create("request", os.MFD_ALLOW_SEALING)
    os.set_inheritable(end, True)
    os.write(end, data)
    seals = {"sealed": 15, "unsealed": 0, "half-sealed": 7}[how]
    if seals:
        fcntl.fcntl(end, 1033, seals)
os.execve(starter, ["starter", str(end)], {})
"#;

/// The starter, to be run as the user with this request on its standard input.
pub fn handed_over(user: &User, how: &str) -> Command {
    let mut python = user.command("/usr/bin/python3");
    python.args(["-c", HAND_OVER, text_of(&path()), how]);
    python
}
