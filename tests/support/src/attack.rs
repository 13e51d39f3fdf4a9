//! What an attacker brings along, for whichever privileged code is attacked: the
//! starter or the Slurm plugin.

use crate::{capture, Form, Image, User};
use nix::fcntl::{renameat2, RenameFlags, AT_FDCWD};
use nix::unistd::chown;
use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

/// What is in root's files that the attacker wants.
pub const SECRET: &str = "for root only\n";

/// A library that tells of itself if it gets into a process with root's id.
const LIBRARY: &str = r#"
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) {
    if (geteuid() == 0) close(open(MARK, O_CREAT | O_WRONLY, 0644));
}
unsigned int la_version(unsigned int v) { loaded(); return v; }
void gconv_init(void) { loaded(); }
"#;

/// A directory of root's that nobody else may enter, with a file in it that holds
/// [`SECRET`]; the file. Both go with what they are in.
pub fn secret(directory: &Path) -> PathBuf {
    let vault = directory.join("vault");
    fs::create_dir_all(&vault).expect("a directory can be made");
    let file = vault.join("secret");
    fs::write(&file, SECRET).expect("a file can be written");
    for (path, mode) in [(&file, 0o600), (&vault, 0o700)] {
        chown(path, Some(0.into()), Some(0.into())).expect("root may");
        change_mode(path, mode);
    }
    file
}

/// Exchanges two paths as fast as it can, until it is dropped.
#[derive(Debug)]
pub struct Racer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Racer {
    /// Begins. Each path then is now the one thing and now the other, and at no
    /// moment missing: renameat2(2) with `RENAME_EXCHANGE`.
    pub fn exchange(a: &Path, b: &Path) -> Racer {
        let stop = Arc::new(AtomicBool::new(false));
        let (a, b, ends) = (a.to_owned(), b.to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let flags = RenameFlags::RENAME_EXCHANGE;
                let _ = renameat2(AT_FDCWD, &a, AT_FDCWD, &b, flags);
            }
        });
        Racer {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A directory image of the user's with a directory of root's in it, `/many`, with these
/// permissions and more entries than are bound one by one; in `/many/below` is
/// [`SECRET`]. The image and that directory.
pub fn image_with_many(user: &User, mode: u32) -> (PathBuf, PathBuf) {
    let image = Image::Busybox.directory_for(user);
    let many = image.join("many");
    let below = many.join("below");
    fs::create_dir_all(&below).expect("root may");
    for number in 0..40 {
        fs::write(many.join(format!("entry{number}")), "known\n").expect("root may");
    }
    fs::write(below.join("secret"), SECRET).expect("root may");
    change_mode(&many, mode);
    (image, below)
}

/// Two links, `a` and `b`, in the user's work directory: one to a place of the
/// user's own and one to root's. Those there were before are replaced.
pub fn links(user: &User, own: &Path, roots: &Path) -> (PathBuf, PathBuf) {
    let (a, b) = (user.work().join("a"), user.work().join("b"));
    for (link, target) in [(&a, own), (&b, roots)] {
        let _ = fs::remove_file(link);
        symlink(target, link).expect("a link can be made");
    }
    (a, b)
}

/// A squashfs as only root can make one, given to the user: busybox set-user-ID of
/// root as `/s/id`, with every file capability as `/c/grep`, and device files in
/// `/nodes`.
pub fn armed(user: &User) -> PathBuf {
    let tree = user.work().join("armed-tree");
    let script = "set -e; cp -a \"$1\" \"$2\"; cd \"$2\"; mkdir s c nodes; \
         cp bin/busybox s/id; chown root:root s/id; chmod 6755 s/id; \
         cp bin/busybox c/grep; setcap all=ep c/grep; mknod nodes/mem c 1 1; \
         mknod nodes/loop b 7 0; mknod nodes/kmsg c 1 11; chmod 666 nodes/*; \
         mksquashfs . ../armed.sqfs -no-progress -quiet; cd ..; rm -rf \"$2\"";
    let mut root = Command::new("sh");
    root.args(["-c", script, "sh"]);
    capture(root.arg(Image::Busybox.directory()).arg(&tree)).succeeded();
    let image = user.work().join("armed.sqfs");
    user.give(&image);
    change_mode(&image, 0o644);
    image
}

/// A library of the user's in the work directory, `evil.so`, and as a character
/// set's in `gconv`; the file that is there as soon as a process of root's has
/// loaded it.
pub fn library(user: &User) -> PathBuf {
    user.file("evil.c", LIBRARY);
    let mark = user.work().join("got-in");
    let text = format!(
        "cc -shared -fPIC -DMARK='\"{}\"' -o evil.so evil.c && mkdir -p gconv && cp evil.so gconv/ && \
         echo 'module UTF-8// EVIL// evil 1' >gconv/gconv-modules",
        mark.display()
    );
    capture(&mut user.shell(&text)).succeeded();
    mark
}

/// Variables by which other programs of root's were once taken over. What they
/// lead to is in the user's work directory; see [`library`].
pub fn variables(user: &User) -> Vec<(&'static str, String)> {
    let work = user.work().display();
    vec![
        ("LD_PRELOAD", format!("{work}/evil.so")),
        ("LD_AUDIT", format!("{work}/evil.so")),
        ("LD_LIBRARY_PATH", work.to_string()),
        ("LD_DEBUG_OUTPUT", format!("{work}/ld-debug")),
        ("LD_PROFILE_OUTPUT", work.to_string()),
        ("GCONV_PATH", format!("{work}/gconv")),
        ("LOCPATH", work.to_string()),
        ("TMPDIR", work.to_string()),
        ("PATH", format!("{work}:/usr/bin:/bin")),
        ("NLSPATH", format!("{work}/%N")),
        ("RESOLV_HOST_CONF", "/etc/shadow".to_owned()),
        ("HOSTALIASES", "/etc/shadow".to_owned()),
        ("MALLOC_TRACE", format!("{work}/trace")),
        ("RUST_BACKTRACE", "full".to_owned()),
        ("RUST_LOG", "trace".to_owned()),
        (
            "GLIBC_TUNABLES",
            format!(
                "glibc.malloc.mxfast=glibc.malloc.mxfast={}",
                "A".repeat(4000)
            ),
        ),
        ("LANG", "../../../../../../etc/shadow".to_owned()),
    ]
}

/// A named pipe and a socket, `pipe` and `socket`, in the user's work directory.
pub fn pipe_and_socket(user: &User) {
    let text =
        "mkfifo pipe; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'";
    capture(&mut user.shell(text)).succeeded();
}

/// Images of this form, each with two bytes of its superblock changed, all over
/// it.
pub fn damaged(form: Form) -> impl Iterator<Item = Vec<u8>> {
    let sound = fs::read(Image::Busybox.file(form)).expect("an image can be read");
    let first = match form {
        Form::Erofs | Form::ErofsLz4 | Form::ErofsLz4hc | Form::Ext3 | Form::Ext4 => 1024,
        _ => 0,
    };
    let places = (0..128).step_by(4);
    places
        .flat_map(|offset| [0x00, 0xff, 0x7f].map(|value| (offset, value)))
        .map(move |(offset, value)| {
            let mut bytes = sound.clone();
            bytes[first + offset] = value;
            bytes[first + offset + 1] ^= value;
            bytes
        })
}

/// A directory image of the user's own with a busybox in `/bin` and nothing else
/// but these directories; a name with `->` in it is a link, one with `=` a file
/// with content.
pub fn image_with(user: &User, name: &str, entries: &[&str]) -> PathBuf {
    let image = user.directory(name);
    let programs = user.directory(image.join("bin"));
    let busybox = Image::Busybox.directory().join("bin/busybox");
    fs::copy(busybox, programs.join("busybox")).expect("busybox can be copied");
    for applet in [
        "sh", "cat", "ls", "echo", "true", "id", "stat", "touch", "pwd",
    ] {
        symlink("busybox", programs.join(applet)).expect("a link can be made");
    }
    for entry in entries {
        if let Some((link, target)) = entry.split_once(" -> ") {
            symlink(target, image.join(link)).expect("a link can be made");
        } else if let Some((file, content)) = entry.split_once('=') {
            user.file(image.join(file), content);
        } else {
            user.directory(image.join(entry));
        }
    }
    image
}

fn change_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|e| panic!("chmod {}: {e}", path.display()));
}
