//! Paths that lead nowhere, or to something one may not or should not open.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use image::{oci_layout_hint, Format, Image, Kind};

use crate::make::{run, Workshop};

#[test]
fn a_directory_is_an_image() {
    let workshop = Workshop::new();
    for image in [
        Image::open(&workshop.path("root")).unwrap(),
        Image::open_writable(&workshop.path("root")).unwrap(),
        Image::from_file(Path::new("x"), File::open(workshop.path("root")).unwrap()).unwrap(),
    ] {
        assert_eq!(image.format(), &Format::Directory);
        assert!(image.is_directory());
        assert_eq!((image.root(), image.superblock()), (None, None));
    }
}

#[test]
fn the_identity_follows_the_file_and_its_changes() {
    let workshop = Workshop::new();
    let path = workshop.squashfs("a", &[]);
    let other = workshop.squashfs("b", &[]);
    symlink(&path, workshop.path("link")).unwrap();
    let first = Image::open(&path).unwrap().identity();
    assert_eq!(
        first,
        Image::open(&workshop.path("link")).unwrap().identity()
    );
    assert_ne!(first, Image::open(&other).unwrap().identity());
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(5, 7))
        .unwrap();
    let later = Image::open(&path).unwrap().identity();
    assert_ne!(first, later);
    assert_eq!(later.mtime_ns, 5_000_000_007);
    assert_eq!(later.size, path.metadata().unwrap().len());
}

#[test]
fn the_name_is_the_base_name() {
    let workshop = Workshop::new();
    let root = workshop.path("root");
    for (path, name) in [
        (workshop.squashfs("tools.sqfs", &[]), "tools.sqfs"),
        (root.clone(), "root"),
        (root.join(""), "root"),
        (root.join("."), "root"),
        (root.join("usr/.."), "root"),
        ("/".into(), "/"),
    ] {
        let image = Image::open(&path).unwrap();
        assert_eq!(image.name(), name, "{path:?}");
        assert_eq!(image.path().as_os_str(), path.as_os_str());
    }
}

#[test]
fn a_path_that_leads_nowhere_says_where_it_ends() {
    let workshop = Workshop::new();
    let top = workshop.path("");
    let top = top.to_str().unwrap().trim_end_matches('/');
    symlink("nowhere", workshop.path("dangling")).unwrap();
    symlink("circle", workshop.path("circle")).unwrap();
    workshop.write("file", b"x");
    let long = "n".repeat(300);
    let cases = [
        ("absent", "does not exist".to_owned()),
        ("absent/deeper/image", format!("does not exist: there is no directory {top}/absent")),
        ("dangling", "is a symbolic link to nowhere, which does not exist".to_owned()),
        ("dangling/image", format!("does not exist: {top}/dangling is a symbolic link to nowhere, which does not exist")),
        ("circle", "its symbolic links lead in a circle, or are too many".to_owned()),
        ("file/image", format!("does not exist: {top}/file is not a directory")),
        (long.as_str(), "the path, or a name in it, is longer than the system allows".to_owned()),
    ];
    for (name, cause) in cases {
        let path = workshop.path(name);
        let error = Image::open(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        assert_eq!(error.to_string(), format!("{}: {cause}", path.display()));
    }
    let error = Image::open(Path::new("")).unwrap_err();
    assert_eq!(error.cause(), "an empty string names no image");
    let error = Image::open(Path::new("not-here-either")).unwrap_err();
    assert_eq!(error.to_string(), "not-here-either: does not exist");
    let error = Image::open(Path::new("a\0b")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a\\x00b: cannot be opened: the path holds a NUL byte"
    );
}

#[test]
fn a_path_in_a_message_stays_on_its_line() {
    let name = OsStr::from_bytes(b"/not\nhere\x1b[2J\xff");
    let error = Image::open(Path::new(name)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/not\\nhere\\x1b[2J\\xff: does not exist"
    );
}

#[test]
fn what_is_neither_file_nor_directory_is_refused_without_waiting() {
    let workshop = Workshop::new();
    let fifo = workshop.path("fifo");
    run(Command::new("mkfifo").arg(&fifo));
    let socket = workshop.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (path, words) in [
        (fifo.as_path(), "a named pipe"),
        (&socket, "a socket"),
        (Path::new("/dev/null"), "a character device"),
    ] {
        for error in [
            Image::open(path).unwrap_err(),
            Image::open_writable(path).unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::NotAnImage, "{error}");
            assert_eq!(error.cause(), format!("is {words}, not an image"));
        }
    }
}

#[test]
fn only_a_writable_opening_can_write() {
    let workshop = Workshop::new();
    let path = workshop.ext("ext3", "4M", &["-t", "ext3"]);
    let write = |image: Image| {
        use std::io::Write;
        image.into_file().write_all(b"x")
    };
    assert!(write(Image::open(&path).unwrap()).is_err());
    assert!(write(Image::open_writable(&path).unwrap()).is_ok());
}

#[test]
fn an_oci_layout_is_pointed_out() {
    let workshop = Workshop::new();
    let layout = workshop.path("layout");
    fs::create_dir_all(layout.join("blobs")).unwrap();
    assert_eq!(oci_layout_hint(&layout), None);
    fs::write(layout.join("oci-layout"), b"{}").unwrap();
    fs::write(layout.join("index.json"), b"{}").unwrap();
    assert!(oci_layout_hint(&layout)
        .unwrap()
        .contains("unpack its layers"));
    assert_eq!(oci_layout_hint(&workshop.path("root")), None);
    fs::create_dir(layout.join("usr")).unwrap();
    assert_eq!(oci_layout_hint(&layout), None);
}

const AS_NOBODY: &str = "IMAGE_TEST_AS_NOBODY";

/// Root may open everything, so this runs itself again as somebody who may not.
#[test]
fn a_refused_permission_names_the_place_that_refuses() {
    if let Some(directory) = std::env::var_os(AS_NOBODY) {
        return permissions_as_nobody(Path::new(&directory));
    }
    let workshop = Workshop::new();
    let top = workshop.path("");
    let set = |name: &str, mode: u32| {
        fs::set_permissions(workshop.path(name), Permissions::from_mode(mode)).unwrap();
    };
    set("", 0o755);
    workshop.squashfs("secret", &[]);
    set("secret", 0o600);
    fs::create_dir_all(workshop.path("closed/inner")).unwrap();
    workshop.write("closed/inner/image", b"x");
    workshop.squashfs("readable", &[]);
    set("readable", 0o444);
    fs::create_dir(workshop.path("unlisted")).unwrap();
    fs::create_dir(workshop.path("unlistable")).unwrap();

    let root = Path::new("/proc/self").metadata().unwrap().uid() == 0;
    if root {
        set("closed", 0o700);
        set("unlisted", 0o711);
        set("unlistable", 0o700);
    } else {
        set("secret", 0o000);
        set("closed", 0o600);
        set("unlisted", 0o311);
        set("unlistable", 0o000);
    }
    // The build directory may be closed to others; the temporary one is not.
    let program = workshop.path("test-program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    set("test-program", 0o755);
    let mut command = Command::new(&program);
    command.args([
        "--exact",
        "opening::a_refused_permission_names_the_place_that_refuses",
        "--nocapture",
    ]);
    command.env(AS_NOBODY, &top).current_dir("/");
    if root {
        command.uid(65534).gid(65534);
    }
    run(&mut command);
    // So that the directory can be removed.
    for name in ["closed", "unlisted", "unlistable"] {
        set(name, 0o700);
    }
}

fn permissions_as_nobody(top: &Path) {
    let fails = |name: &str| {
        let error = Image::open(&top.join(name)).expect_err("is refused");
        assert_eq!(error.kind(), Kind::Permission, "{error}");
        error.cause().to_owned()
    };
    let cause = fails("secret");
    assert!(
        cause.starts_with("permission denied: its mode is 0"),
        "{cause}"
    );
    assert!(cause.contains("its owner is uid "), "{cause}");
    let closed = top.join("closed");
    assert_eq!(
        fails("closed/inner/image"),
        format!(
            "cannot be reached: no search permission (x) on the directory {}",
            closed.display()
        )
    );
    let error = Image::open_writable(&top.join("readable")).expect_err("is refused");
    assert_eq!(error.kind(), Kind::Permission, "{error}");
    assert!(Image::open(&top.join("readable")).is_ok());
    // A directory need not be listed to be a root; O_PATH suffices for that.
    assert!(Image::open(&top.join("unlisted"))
        .expect("opens")
        .is_directory());
}
