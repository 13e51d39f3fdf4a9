//! Archives as tools write them, and as nobody should, become files.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use ::tar::{Builder, EntryType, Header};
use bootstrap::tree::extract::Lost;
use bootstrap::unpack::{decompress, tar};
use tar::Options;
use tempfile::TempDir;

/// An archive put together member by member.
struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// A member whose name and link are taken as they are.
    fn raw(mut self, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.raw(EntryType::Regular, name.as_bytes(), b"", content.as_bytes())
    }

    fn directory(self, name: &str) -> Self {
        self.raw(EntryType::Directory, name.as_bytes(), b"", b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"")
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Link, name.as_bytes(), target.as_bytes(), b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A directory that layers are unpacked into, with one beside it that no layer may reach.
struct Ground {
    directory: TempDir,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("tree")).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/file"), "mine").unwrap();
        Self { directory }
    }

    fn tree(&self) -> std::path::PathBuf {
        self.directory.path().join("tree")
    }

    fn layer(&self, archive: Archive) -> Lost {
        self.try_layer(&archive.bytes()).unwrap()
    }

    fn try_layer(&self, bytes: &[u8]) -> Result<Lost, String> {
        let options = Options {
            whiteouts: true,
            ..Options::named("layer")
        };
        let lost = tar::tar(bytes, &self.tree(), &options).map_err(|error| error.to_string());
        assert_eq!(fs::read_dir(self.directory.path()).unwrap().count(), 2);
        let outside = self.directory.path().join("outside");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "mine");
        lost
    }

    /// Everything in the tree: names with what is in files and where links lead.
    fn all(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        collect(&self.tree(), "", &mut all);
        all
    }

    #[track_caller]
    fn holds(&self, expected: &[(&str, &str)]) {
        let all = self.all();
        let all: Vec<_> = all.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(all, expected);
    }
}

fn collect(directory: &Path, prefix: &str, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            all.insert(format!("{name}/"), String::new());
            collect(&entry.path(), &format!("{name}/"), all);
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            all.insert(name, format!("-> {}", target.display()));
        } else {
            all.insert(name, fs::read_to_string(entry.path()).unwrap());
        }
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
fn names_that_lead_out_are_refused() {
    for (name, part) in [
        (
            "../evil",
            "unpack ../evil from layer: refused: its name leads out of the archive by ..",
        ),
        ("a/../../evil", "its name leads out of the archive by .."),
        ("a/..", "its name leads out"),
    ] {
        let error = Ground::new().try_layer(&Archive::new().file(name, "x").bytes());
        let error = error.unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let ground = Ground::new();
    for target in [
        "../outside/file",
        "/../outside/file",
        "a/../../outside/file",
    ] {
        let error = ground.try_layer(&Archive::new().hard_link("mine", target).bytes());
        assert!(error
            .unwrap_err()
            .contains("a hard link that leads out of the archive"));
    }
    for name in [".wh..", ".wh...", ".wh.", "a/.wh..."] {
        let error = ground.try_layer(&Archive::new().file(name, "").bytes());
        let error = error.unwrap_err();
        assert!(
            error.contains("a whiteout of no entry of the directory"),
            "{error}"
        );
    }
    let error = ground.try_layer(&Archive::new().file("./", "x").link(".", "/").bytes());
    assert!(error
        .unwrap_err()
        .contains("it would replace the top directory"));
    ground.holds(&[]);
}

#[test]
fn links_of_the_archive_stay_inside_the_tree() {
    let ground = Ground::new();
    let up = "../".repeat(20);
    let outside = ground.directory.path().join("outside");
    ground.layer(
        Archive::new()
            .link("up", &up)
            .file("up/one", "1")
            .link("absolute", outside.to_str().unwrap())
            .file("absolute/file", "2")
            .link("root", "/")
            .file("root/three", "3")
            .link("proc", "/proc/self/root")
            .file("proc/four", "4")
            .file("/five", "5"),
    );
    let all = ground.all();
    for (name, content) in [("one", "1"), ("three", "3"), ("five", "5")] {
        assert_eq!(all[name], content, "{all:?}");
    }
    // The link to a directory that the tree does not have gave way to one.
    assert_eq!(all["absolute/file"], "2");
    // A whiteout through a link takes away what is in the tree, never outside.
    ground.layer(
        Archive::new()
            .link("out", "../outside")
            .file("out/.wh.file", ""),
    );
    ground.layer(
        Archive::new()
            .link("out", "../outside")
            .file("out/.wh..wh..opq", ""),
    );
    // A file through a link to itself.
    ground.layer(Archive::new().link("loop", "loop").file("loop/file", "6"));
    assert_eq!(ground.all()["loop/file"], "6");
    // A file is not written through a link that has its name.
    ground.layer(
        Archive::new()
            .link("victim", "../outside/file")
            .file("victim", "7"),
    );
    assert_eq!(ground.all()["victim"], "7");
}

#[test]
fn whiteouts_take_away_what_layers_below_have_and_nothing_else() {
    let ground = Ground::new();
    let lower = || {
        Archive::new()
            .directory("d")
            .file("d/old", "old")
            .directory("d/sub")
            .file("d/sub/old", "old")
            .file("other", "other")
    };
    ground.layer(lower());
    ground.layer(
        Archive::new()
            .file("d/.wh.sub", "")
            .file(".wh.other", "")
            .file(".wh.absent", ""),
    );
    ground.holds(&[("d/", ""), ("d/old", "old")]);

    // Before or after what the same layer puts there.
    for opaque_first in [true, false] {
        let ground = Ground::new();
        ground.layer(lower());
        let upper = Archive::new().directory("d");
        let upper = match opaque_first {
            true => upper.file("d/.wh..wh..opq", "").file("d/sub/new", "new"),
            false => upper.file("d/sub/new", "new").file("d/.wh..wh..opq", ""),
        };
        ground.layer(upper);
        let expected = [
            ("d/", ""),
            ("d/sub/", ""),
            ("d/sub/new", "new"),
            ("other", "other"),
        ];
        ground.holds(&expected);
    }
    for whiteout_first in [true, false] {
        let ground = Ground::new();
        ground.layer(lower());
        let upper = Archive::new();
        let upper = match whiteout_first {
            true => upper.file(".wh.d", "").directory("d").file("d/new", "new"),
            false => upper.directory("d").file("d/new", "new").file(".wh.d", ""),
        };
        ground.layer(upper);
        ground.holds(&[("d/", ""), ("d/new", "new"), ("other", "other")]);
    }

    // Names of the union file system's own, and whiteouts where they are files.
    ground.layer(
        Archive::new()
            .file(".wh..wh.plnk", "")
            .file(".wh..wh.aufs", ""),
    );
    let plain = Archive::new().file(".wh.name", "kept").bytes();
    tar::tar(&plain[..], &ground.tree(), &Options::named("plain")).unwrap();
    ground.holds(&[(".wh.name", "kept"), ("d/", ""), ("d/old", "old")]);
}

#[test]
fn files_links_and_directories_replace_one_another() {
    let ground = Ground::new();
    ground.layer(
        Archive::new()
            .directory("a")
            .directory("a/deep")
            .file("a/deep/file", "1")
            .file("b", "2")
            .link("c", "a")
            .file("e", "3")
            .hard_link("f", "e"),
    );
    ground.layer(
        Archive::new()
            .file("a", "file")
            .directory("b")
            .file("b/in", "4")
            .directory("c")
            .file("c/in", "5")
            // Not by writing into what `f` is another name of.
            .file("e", "changed"),
    );
    ground.holds(&[
        ("a", "file"),
        ("b/", ""),
        ("b/in", "4"),
        ("c/", ""),
        ("c/in", "5"),
        ("e", "changed"),
        ("f", "3"),
    ]);
    // A file without its directory, where a file is in the way; links of links.
    ground.layer(
        Archive::new()
            .file("a/under/it", "6")
            .hard_link("g", "f")
            .hard_link("g", "f")
            .link("h", "nowhere")
            .hard_link("i", "h"),
    );
    let all = ground.all();
    assert_eq!((&all["a/under/it"][..], &all["i"][..]), ("6", "-> nowhere"));
    let inode = |name: &str| fs::metadata(ground.tree().join(name)).unwrap().ino();
    assert_eq!(inode("g"), inode("f"));
    let error = ground.try_layer(&Archive::new().hard_link("j", "absent").bytes());
    assert_eq!(
        error.unwrap_err(),
        "unpack j from layer: it is a hard link to absent, which is not there"
    );
}

#[test]
fn a_link_to_a_directory_is_kept_where_that_is_asked_for() {
    let ground = Ground::new();
    let archive = || Archive::new().directory("lib").file("lib/new", "new");
    ground.layer(
        Archive::new()
            .directory("usr")
            .directory("usr/lib")
            .link("lib", "usr/lib"),
    );
    let options = Options {
        keep_directory_links: true,
        ..Options::named("archive")
    };
    tar::tar(&archive().bytes()[..], &ground.tree(), &options).unwrap();
    ground.holds(&[
        ("lib", "-> usr/lib"),
        ("usr/", ""),
        ("usr/lib/", ""),
        ("usr/lib/new", "new"),
    ]);
}

#[test]
fn everything_gnu_tar_keeps_arrives() {
    let from = tempfile::tempdir().unwrap();
    let at = |name: &str| from.path().join(name);
    let long = "n".repeat(250);
    let deep = format!("{}/{}", "d".repeat(200), "e".repeat(200));
    fs::create_dir_all(at(&deep)).unwrap();
    fs::write(at(&deep).join(&long), "deep").unwrap();
    fs::write(at("line\nbreak \u{e4}\\"), "odd").unwrap();
    fs::write(at("suid"), "s").unwrap();
    fs::write(at("capable"), "c").unwrap();
    fs::create_dir(at("closed")).unwrap();
    fs::write(at("closed/in"), "in").unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    for place in [0, 7 << 20, 11 << 20, (20 << 20) - 5] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"piece", place).unwrap();
    }
    let script = r#"
        chown 12:34 suid; chmod 6755 suid
        setcap cap_dac_override,cap_fowner,cap_net_raw+ep capable
        mkfifo pipe; mknod null c 1 3; mknod disk b 7 300
        ln -s "$(printf 'x%.0s' $(seq 300))" link; chown -h 5:6 link
        ln suid hard
        touch -h -d '1969-12-31 23:59:58.25 UTC' link
        touch -d '2001-09-09 01:46:40.123456789 UTC' closed/in closed suid
        chmod 555 closed; touch -d @77 .
    "#;
    run(Command::new("sh")
        .args(["-ec", script])
        .current_dir(from.path()));
    // A value with a line break, which ends a record for careless readers.
    let attribute = c"user.lines";
    rustix::fs::setxattr(
        at("suid"),
        attribute,
        b"a\nb=c\n\0d",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();

    for format in ["pax", "gnu", "--sparse-version=0.0", "--sparse-version=0.1"] {
        let ground = Ground::new();
        let mut command = Command::new("tar");
        match format.strip_prefix("--") {
            Some(_) => command.args(["--format=pax", format]),
            None => command.arg(format!("--format={format}")),
        };
        if format != "gnu" {
            command.args(["--xattrs", "--xattrs-include=*"]);
        }
        let archive = ground.directory.path().join("outside/../archive");
        command
            .args(["--sparse", "--numeric-owner", "-cf"])
            .arg(&archive);
        run(command.arg("-C").arg(from.path()).arg("."));
        let bytes = fs::read(&archive).unwrap();
        fs::remove_file(&archive).unwrap();
        assert!(bytes.len() < 10 << 20, "{format}: it is not sparse");
        let lost = ground.try_layer(&bytes).unwrap();
        assert_eq!(
            format!("{lost:?}"),
            format!("{:?}", Lost::default()),
            "{format}"
        );

        let facts = |top: &Path| {
            let text = "find . -printf '%P|%y|%m|%U:%G|%n|%l|%T@|%s|' -exec stat -c %t:%T {} + \\
                -o -printf '' | sort -z; find . -type f -print0 | sort -z | xargs -0 sha256sum; \\
                getcap capable";
            let text = match format {
                "gnu" => text.replace("%T@", "").replace("getcap capable", ""),
                _ => text.to_owned(),
            };
            let output = Command::new("sh")
                .args(["-c", &text])
                .current_dir(top)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            let mut lines: Vec<_> = String::from_utf8_lossy(&output.stdout)
                .lines()
                .map(str::to_owned)
                .collect();
            lines.sort();
            lines.join("\n")
        };
        assert_eq!(facts(&ground.tree()), facts(from.path()), "{format}");
        let sparse = fs::metadata(ground.tree().join("sparse")).unwrap();
        assert!(
            sparse.blocks() * 512 < 1 << 20,
            "{format}: holes are written out"
        );
        if format != "gnu" {
            let mut value = [0; 32];
            let length =
                rustix::fs::getxattr(ground.tree().join("suid"), attribute, &mut value[..])
                    .unwrap();
            assert_eq!(&value[..length], b"a\nb=c\n\0d");
        }
        let null = fs::metadata(ground.tree().join("null")).unwrap();
        assert!(null.file_type().is_char_device());
        let closed = fs::metadata(ground.tree().join("closed")).unwrap();
        assert_eq!(closed.permissions().mode() & 0o7777, 0o555);
    }
}

#[test]
fn times_of_directories_outlive_what_is_put_into_them() {
    let ground = Ground::new();
    ground.layer(
        Archive::new()
            .directory("d")
            .file("d/one", "1")
            .file("implied/file", "2"),
    );
    ground.layer(Archive::new().file("d/two", "3").file("d/.wh.one", ""));
    for name in ["d", "implied"] {
        let data = fs::metadata(ground.tree().join(name)).unwrap();
        assert_eq!(
            (data.mtime(), data.mode() & 0o7777),
            (1_000_000_000, 0o755),
            "{name}"
        );
    }
}

#[test]
fn damaged_archives_are_refused_in_words() {
    let whole = Archive::new()
        .file("one", &"1".repeat(2000))
        .file("two", "2")
        .bytes();
    let expect = |bytes: &[u8], part: &str| {
        let error = Ground::new().try_layer(bytes).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    expect(
        &whole[..1000],
        "read layer behind one: it ends in the middle",
    );
    expect(
        &whole[..2700],
        "read layer behind one: it ends in the middle",
    );
    expect(b"", "read layer: it is empty");
    expect(
        &b"not an archive".repeat(100),
        "read layer: it is not a tar archive",
    );
    expect(b"short", "read layer: it is not a tar archive");
    let mut wrong = whole.clone();
    wrong[2560 + 20] ^= 1;
    expect(
        &wrong,
        "read layer behind one: a header's checksum is wrong",
    );
    // An empty archive is one: layers of some builders are empty.
    Ground::new().try_layer(&[0; 1024]).unwrap();
}

/// In a mount namespace of its own, where a small file system is mounted.
#[test]
fn a_full_file_system_is_one_clear_line() {
    if let Some(place) = std::env::var_os("SMALL_PLACE") {
        return a_full_file_system_is_told(place.as_ref());
    }
    let script = r#"
        mount -t tmpfs -o size=1m tmpfs "$SMALL_PLACE"
        exec "$1" --exact a_full_file_system_is_one_clear_line --nocapture
    "#;
    let place = tempfile::tempdir().unwrap();
    run(Command::new("unshare")
        .args(["-m", "sh", "-ec", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .env("SMALL_PLACE", place.path()));
}

fn a_full_file_system_is_told(place: &Path) {
    let archive = Archive::new().file("bomb", &"x".repeat(2 << 20)).bytes();
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packed.write_all(&archive).unwrap();
    let packed = packed.finish().unwrap();
    let plain = decompress(&packed[..], "layer").unwrap();
    let error = tar::tar(plain, place, &Options::named("layer")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unpack bomb from layer: no space left on device"
    );
    let hint = error.remedy().unwrap();
    assert!(hint.contains("is full, or your quota"), "{hint}");
}
