//! What `image-server` shows of an image: all that is in it, and of a damaged one
//! nothing worse than failed calls.
//!
//! The server is started as the launcher starts it, and its file system mounted beside
//! the kernel's of the same image.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    symlink, FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sched::{unshare, CloneFlags};
use test_support::{capture, capture_within};

/// How long anything may take here, on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(60);

/// A served image, mounted.
struct Served {
    place: PathBuf,
    server: Child,
}

/// Gives this test mounts of its own: in the machine's, every namespace that somebody
/// makes meanwhile would have a copy, and the server would be needed as long as that.
fn mount_apart() {
    unshare(CloneFlags::CLONE_NEWNS).expect("root may");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("root may");
}

impl Served {
    fn start(image: &Path, place: &Path) -> Served {
        fs::create_dir_all(place).expect("a directory can be made");
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("/dev/fuse is there");
        let image = File::open(image).expect("the image is there");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("served"),
            place,
            Some("fuse"),
            flags,
            Some(options.as_str()),
        )
        .expect("root can mount");
        for file in [&image, &device] {
            fcntl(file, FcntlArg::F_SETFD(FdFlag::empty())).expect("it is open");
        }
        let server = Command::new(own_server())
            .args([image.as_raw_fd(), device.as_raw_fd()].map(|number| number.to_string()))
            .stderr(Stdio::null())
            .spawn()
            .expect("image-server is beside the command");
        Served {
            place: place.to_owned(),
            server,
        }
    }

    /// The most memory that the server had at a time, in KiB.
    fn most_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }

    /// Unmounts it, and waits for the server to end by itself.
    fn end(mut self) -> ExitStatus {
        umount2(&self.place, MntFlags::MNT_DETACH).expect("it is mounted");
        let begun = Instant::now();
        loop {
            if let Some(status) = self.server.try_wait().expect("it is our child") {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "the server did not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // What is left of a failed test: whoever waits for an answer goes on.
        let _ = umount2(&self.place, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn own_server() -> PathBuf {
    let prefix = test_support::command().parent().and_then(Path::parent);
    prefix
        .expect("it is installed")
        .join("libexec/singularity/image-server")
}

/// A tree with what a format has to tell apart: sizes around those of blocks, what packs
/// well and what does not, holes, names of many sorts, links, devices, attributes.
fn tree(place: &Path) -> io::Result<()> {
    let text: Vec<u8> = (0..400_000_u32)
        .flat_map(|number| {
            number.wrapping_mul(2_654_435_761).to_le_bytes()[..1 + number as usize % 4].to_vec()
        })
        .collect();
    let plain: Vec<u8> = (0..20_000)
        .flat_map(|line| format!("line {}\n", line % 777).into_bytes())
        .collect();
    fs::create_dir_all(place.join("deep/er/and/deeper"))?;
    for length in [
        0, 1, 100, 4095, 4096, 4097, 8192, 12_288, 65_536, 131_072, 131_073,
    ] {
        fs::write(place.join(format!("text-{length}")), &plain[..length])?;
        fs::write(
            place.join(format!("deep/er/noise-{length}")),
            &text[..length],
        )?;
    }
    fs::write(place.join("long"), [&plain[..], &text, &plain].concat())?;
    fs::write(place.join("again"), [&text[..77_777], &plain].concat())?;
    fs::write(place.join("zeroes"), vec![0; 1 << 20])?;
    let sparse = File::create(place.join("sparse"))?;
    sparse.set_len(5 << 20)?;
    sparse.write_all_at(b"in the middle", 3 << 20)?;
    for number in 0..300 {
        fs::write(place.join(format!("deep/entry {number}")), "")?;
    }
    symlink("../long", place.join("deep/link"))?;
    symlink("x".repeat(4000), place.join("deep/er/far"))?;
    fs::hard_link(place.join("long"), place.join("deep/er/hard"))?;
    fs::write(place.join("deep/\u{fc}\n'\"\\"), "odd")?;
    let mut make = Command::new("sh");
    make.current_dir(place).args([
        "-c",
        "mkfifo fifo; mknod null c 1 3; mknod block b 259 70000; chown 1234:70000 again; \
         chmod 6750 again; setfattr -n user.one -v first long; setfattr -n user.one -v first again; \
         setfattr -n user.two -v second again; setfattr -n security.thing -v 'third one' deep",
    ]);
    capture(&mut make).succeeded();
    Ok(())
}

/// The ways of packing that lay something out differently: a name, and the command
/// before the image's and the tree's names; mksquashfs wants them the other way round.
const WAYS: [(&str, &[&str]); 15] = [
    ("squashfs-gzip", &["mksquashfs", "-comp", "gzip"]),
    (
        "squashfs-lz4",
        &["mksquashfs", "-comp", "lz4", "-b", "32K", "-no-fragments"],
    ),
    (
        "squashfs-zstd",
        &[
            "mksquashfs",
            "-comp",
            "zstd",
            "-b",
            "16K",
            "-always-use-fragments",
        ],
    ),
    ("squashfs-xz", &["mksquashfs", "-comp", "xz", "-b", "1M"]),
    (
        "squashfs-plain",
        &["mksquashfs", "-noI", "-noD", "-noF", "-noX", "-noId"],
    ),
    ("erofs", &["mkfs.erofs"]),
    (
        "erofs-long-inodes",
        &["mkfs.erofs", "-Eforce-inode-extended,noinline_data"],
    ),
    ("erofs-chunks", &["mkfs.erofs", "--chunksize=4096"]),
    ("erofs-lz4", &["mkfs.erofs", "-zlz4"]),
    (
        "erofs-lz4-long-index",
        &["mkfs.erofs", "-zlz4", "-Elegacy-compress"],
    ),
    ("erofs-lz4hc-large", &["mkfs.erofs", "-zlz4hc", "-C65536"]),
    (
        "erofs-lz4hc-tails",
        &["mkfs.erofs", "-zlz4hc", "-Eztailpacking"],
    ),
    (
        "erofs-fragments",
        &["mkfs.erofs", "-zlz4", "-C16384", "-Efragments,ztailpacking"],
    ),
    (
        "erofs-all-fragments",
        &["mkfs.erofs", "-zlz4hc", "-Eall-fragments"],
    ),
    ("erofs-deduplicated", &["mkfs.erofs", "-zlz4hc", "-Ededupe"]),
];

fn pack(words: &[&str], tree: &Path, image: &Path) {
    let mut command = Command::new(words[0]);
    if words[0] == "mksquashfs" {
        command
            .arg(tree)
            .arg(image)
            .args(["-noappend", "-no-progress", "-quiet"]);
        command.args(&words[1..]);
    } else {
        command
            .arg("--quiet")
            .args(&words[1..])
            .arg(image)
            .arg(tree);
    }
    capture(&mut command).succeeded();
}

/// What is to be seen below a directory: a line for each file, and its content.
fn listing(top: &Path) -> Vec<(String, Vec<u8>)> {
    let mut lines = Vec::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let stat = path.symlink_metadata().expect("it can be looked at");
        let kind = stat.file_type();
        let mut content = Vec::new();
        if kind.is_dir() {
            for entry in fs::read_dir(&path).expect("it can be listed") {
                left.push(entry.expect("it can be listed").path());
            }
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).expect("it can be read");
            content = target.into_os_string().into_encoded_bytes();
        } else if kind.is_file() {
            content = fs::read(&path).expect("it can be read");
            assert_eq!(content.len() as u64, stat.size(), "{}", path.display());
        }
        let device = if kind.is_char_device() || kind.is_block_device() {
            stat.rdev()
        } else {
            0
        };
        let line = format!(
            "{:?} {:o} {} {} {} {} {}.{} {device:x}",
            path.strip_prefix(top).expect("it is below"),
            stat.mode(),
            stat.uid(),
            stat.gid(),
            if kind.is_dir() { 0 } else { stat.size() },
            stat.nlink(),
            stat.mtime(),
            stat.mtime_nsec(),
        );
        lines.push((line, content));
    }
    lines.sort();
    lines
}

fn attributes(top: &Path) -> String {
    let mut list = Command::new("sh");
    let text = "getfattr -R -h -d -m - . | sed 's/^# file: //'";
    list.current_dir(top).args(["-c", text]);
    let mut parts: Vec<_> = capture(&mut list)
        .succeeded()
        .stdout()
        .split("\n\n")
        .map(str::to_owned)
        .collect();
    parts.sort();
    parts.join("\n\n")
}

/// Files once more, the last part first, in parts that begin and end anywhere, past what
/// the kernel keeps.
fn reads_anywhere(served: &Path, source: &Path) {
    for name in ["long", "again", "sparse", "deep/er/noise-131073", "zeroes"] {
        let content = fs::read(source.join(name)).expect("it was written");
        let served = File::options()
            .read(true)
            .custom_flags(nix::libc::O_DIRECT)
            .open(served.join(name))
            .expect("it can be opened");
        let mut part = [0; 50_001];
        let mut end = content.len() + 10;
        while end > 0 {
            let at = end.saturating_sub(43_210);
            let count = served
                .read_at(&mut part, at as u64)
                .expect("it can be read");
            let expected = &content[at.min(content.len())..content.len().min(at + part.len())];
            assert!(part[..count] == *expected, "{name} at {at}");
            end = at;
        }
    }
}

#[test]
fn the_server_shows_what_the_kernel_shows() {
    mount_apart();
    let place = tempfile::tempdir().expect("a directory can be made");
    let source = place.path().join("tree");
    fs::create_dir(&source).unwrap();
    tree(&source).expect("files can be made");
    let contents = listing(&source);
    for (name, words) in WAYS {
        let image = place.path().join(name);
        pack(words, &source, &image);
        let served = Served::start(&image, &place.path().join("served"));
        let kernel = place.path().join("kernel");
        fs::create_dir_all(&kernel).unwrap();
        let kind = name.split('-').next().unwrap_or_default();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", kind, "-o", "loop,ro"])
            .arg(&image)
            .arg(&kernel);
        capture(&mut mount).succeeded();
        let pair = [served.place.as_path(), &kernel].map(listing);
        assert_eq!(pair[0].len(), contents.len(), "{name}");
        for (served, kernel) in pair[0].iter().zip(&pair[1]) {
            assert_eq!(served.0, kernel.0, "{name}");
            assert!(served.1 == kernel.1, "{name}: content of {}", served.0);
        }
        assert_eq!(attributes(&served.place), attributes(&kernel), "{name}");
        reads_anywhere(&served.place, &source);
        let size = nix::sys::statvfs::statvfs(&served.place).expect("it can be asked");
        let bytes = size.blocks() * size.fragment_size();
        let length = fs::metadata(&image).unwrap().len();
        assert!(
            bytes > 4096 && bytes <= length.next_multiple_of(4096),
            "{name}: {bytes} of {length}"
        );
        assert_eq!((size.blocks_free(), size.files_free()), (0, 0));
        assert!(size.files() > 300, "{name}: {} files", size.files());
        umount2(&kernel, MntFlags::empty()).expect("it is mounted");
        assert!(served.end().success(), "{name}");
        fs::remove_file(image).unwrap();
    }
}

/// The numbers of the errors that came up while a tree was walked as far as it went.
fn walk(top: &Path) -> Vec<i32> {
    let mut errors = Vec::new();
    let mut failed = |error: io::Error| errors.push(error.raw_os_error().unwrap_or(0));
    let mut left = vec![(top.to_owned(), 0)];
    let mut files = 0;
    while let Some((path, depth)) = left.pop() {
        files += 1;
        // Damage can make a tree of any size; some of it is enough.
        if files > 2000 || depth > 20 {
            continue;
        }
        let stat = match path.symlink_metadata() {
            Ok(stat) => stat,
            Err(error) => {
                failed(error);
                continue;
            }
        };
        if stat.is_dir() {
            match fs::read_dir(&path) {
                Err(error) => failed(error),
                Ok(entries) => {
                    for entry in entries.take(2000) {
                        match entry {
                            Ok(entry) => left.push((entry.path(), depth + 1)),
                            Err(error) => failed(error),
                        }
                    }
                }
            }
        } else if stat.is_symlink() {
            if let Err(error) = fs::read_link(&path) {
                failed(error);
            }
        } else if stat.is_file() {
            let read = || -> io::Result<()> {
                let mut file = File::open(&path)?;
                (&mut file).take(6 << 20).read_to_end(&mut Vec::new())?;
                for part in 1..4 {
                    file.read_at(&mut [0; 8192], stat.size() / 4 * part)?;
                }
                Ok(())
            };
            read().unwrap_or_else(&mut failed);
        }
    }
    // One that its server has refused cannot even be stood in.
    let mut list = Command::new("sh");
    let text = "cd \"$1\" && getfattr -d -m - long again deep";
    list.args(["-c", text, "sh"]).arg(top);
    capture_within(LIMIT, &mut list, b"");
    errors
}

#[test]
fn damage_anywhere_fails_calls_and_nothing_else() {
    mount_apart();
    let place = tempfile::tempdir().expect("a directory can be made");
    let source = place.path().join("tree");
    fs::create_dir_all(source.join("deep/er")).unwrap();
    tree(&source).expect("files can be made");
    let mut seed = 20_161_u64;
    let mut random = move |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap_or(0) % below.max(1)
    };
    let mut failures = 0;
    for (name, words) in WAYS {
        let image = place.path().join(name);
        pack(words, &source, &image);
        let mut pristine = fs::read(&image).unwrap();
        if name.starts_with("erofs") {
            // Has no checksum, so that the damage is not seen at once.
            pristine[1024 + 8] &= !1;
        }
        for round in 0..6 {
            let mut bytes = pristine.clone();
            // What describes files lies at the end in squashfs, and all over in EROFS; the
            // superblock, whose damage is told before, stays.
            let (from, to) = match (round % 3, name.starts_with("squashfs")) {
                (0, true) => (bytes.len().saturating_sub(20_000), bytes.len()),
                (0, false) => (1152, 60_000.min(bytes.len())),
                _ => (1152, bytes.len()),
            };
            for _ in 0..[3, 40, 400][round % 3] {
                let at = from + random(to - from);
                bytes[at] = if random(4) == 0 {
                    0xff
                } else {
                    random(256) as u8
                };
            }
            fs::write(&image, bytes).unwrap();
            let served = Served::start(&image, &place.path().join("served"));
            let top = served.place.clone();
            let (told, walked) = mpsc::channel();
            std::thread::spawn(move || told.send(walk(&top)));
            let what = format!("{name}, round {round}");
            let errors = walked
                .recv_timeout(LIMIT)
                .unwrap_or_else(|_| panic!("{what} hangs"));
            let known = [
                nix::libc::EIO,
                // A directory that is found inside itself, or in two places.
                nix::libc::ELOOP,
                nix::libc::ESTALE,
                nix::libc::ENOTCONN,
                nix::libc::ENOENT,
                nix::libc::ENAMETOOLONG,
                nix::libc::EINVAL,
            ];
            for error in &errors {
                assert!(known.contains(error), "{what}: {error}");
            }
            failures += usize::from(!errors.is_empty());
            let memory = served.most_memory();
            assert!(memory < 512 << 10, "{what}: {memory} KiB");
            let refused = errors.contains(&nix::libc::ENOTCONN);
            let status = served.end();
            assert!(
                status.success() || refused && status.code() == Some(1),
                "{what}: {status}"
            );
        }
        fs::remove_file(image).unwrap();
    }
    assert!(failures > 30, "{failures}");
}
