//! From every format to every other, and out as an archive, with nothing lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use test_support::{capture, capture_within, Image};

use crate::ground::{as_root, text_of, Ground};
use crate::space_users::{Builder, Who, LIMIT};

const FILES: [&str; 5] = ["squashfs", "erofs", "ext4", "ext3", "sif"];

/// A little of everything that a tree can hold. Times are whole seconds, which is
/// what squashfs keeps.
const TREE: &str = r#"
umask 022; mkdir -p t/bin t/empty t/locked t/tmp t/usr/lib; cd t
cp /bin/true bin/true; cp /bin/true bin/suid; cp /bin/true bin/cap
ln -s bin/true link; ln -s /etc/passwd absolute; ln -s usr/lib lib
echo one >one; ln one two; ln one usr/third
printf 'x' >"$(printf 'not\377utf8')"; echo nl >"$(printf 'new\nline')"; echo q >'quo"te \ back'
echo long >"$(printf 'n%.0s' $(seq 250))"
d=.; for i in $(seq 40); do d=$d/deep; done; mkdir -p $d; echo deep >$d/file
head -c 300000 /dev/urandom >random; yes text | head -c 400000 >text
: >nothing; echo none >none; mkfifo pipe
setfattr -n user.test -v value one; setfattr -n user.dir -v "$(head -c 200 /dev/zero | tr '\0' v)" usr
chown 1234567:70000 random; chown 1000:2000 text; chown -h 5:6 link; chown 12:34 empty
chmod 4755 bin/suid; chmod 1777 tmp; chmod 0 none locked; setcap cap_net_raw+ep bin/cap
find . -exec touch -h -d @1000000000 {} +; touch -d @1200000000 text; chmod 751 .
"#;

fn make(ground: &Ground, more: &str) -> PathBuf {
    let work = ground.user().work();
    let text = format!("set -e; {TREE} {more}");
    let mut sh = Command::new("sh");
    sh.args(["-c", &text]).current_dir(work);
    capture(&mut sh).succeeded();
    work.join("t")
}

fn convert(from: &Path, format: &str, to: &Path) {
    let words = [
        "convert",
        "-F",
        "--format",
        format,
        text_of(from),
        text_of(to),
    ];
    capture_within(LIMIT, &mut as_root(&words), b"").succeeded();
}

fn exported(image: &Path) -> Vec<u8> {
    let output = capture(&mut as_root(&["export", text_of(image)]));
    output.succeeded().quietly();
    output.stdout.clone()
}

#[test]
fn every_format_becomes_every_other_with_nothing_lost() {
    let ground = Ground::new();
    let tree = make(
        &ground,
        "mknod null c 1 3; mknod disk b 259 70000; touch -d @1000000000 null disk .",
    );
    let original = exported(&tree);
    let work = ground.user().work();
    for from in FILES {
        let image = work.join(from);
        convert(&tree, from, &image);
        assert!(exported(&image) == original, "{from} lost something");
        for to in FILES.into_iter().chain(["dir"]) {
            let other = work.join(format!("{from}-{to}"));
            convert(&image, to, &other);
            assert!(
                exported(&other) == original,
                "{from} to {to} lost something"
            );
            let _ = fs::remove_file(&other).or_else(|_| fs::remove_dir_all(&other));
        }
    }
}

#[test]
fn an_archive_holds_what_gnu_tar_finds_in_the_tree() {
    let ground = Ground::new();
    let tree = make(
        &ground,
        "truncate -s 8M holes; echo end >>holes; touch -d @1000000000 holes .",
    );
    let work = ground.user().work();
    let image = work.join("image");
    convert(&tree, "squashfs", &image);
    fs::write(work.join("tar"), exported(&image)).unwrap();
    let list = "find . -printf '%P %y %m %U %G %s %n %l %T@ %D\\n' | sed 's/ [0-9]*$//; s/^\\(.* d [0-9]* [0-9]* [0-9]*\\) [0-9]* [0-9]*/\\1/' | sort; \
                find . -type f | LC_ALL=C sort | tr '\\n' '\\0' | xargs -0 md5sum 2>/dev/null; getfattr -R -h -d -m - . | sort; du -k holes";
    let facts = |directory: &Path| {
        let mut sh = Command::new("sh");
        sh.args(["-c", list]).current_dir(directory);
        capture(&mut sh).stdout()
    };
    let text = "mkdir x && tar --xattrs --xattrs-include='*' -xpf tar -C x";
    let mut sh = Command::new("sh");
    sh.args(["-c", text]).current_dir(work);
    capture(&mut sh).succeeded();
    assert_eq!(facts(&work.join("x")), facts(&tree));
}

#[test]
fn users_convert_and_export_with_the_owners_that_the_image_has() {
    for who in [Who::WithIds, Who::WithoutIds] {
        let builder = Builder::new(who);
        let tree = make(&builder.ground, "");
        let original = exported(&tree);
        let image = builder.path("image");
        convert(&tree, "squashfs", &image);
        capture(Command::new("chmod").arg("644").arg(&image)).succeeded();
        for to in FILES {
            let words = ["convert", "--format", to, "image", "other"];
            capture_within(LIMIT, &mut builder.command(&words), b"").succeeded();
            let mut export = builder.command(&["export", "other"]);
            let output = capture(&mut export);
            output.succeeded().quietly();
            // The name with a line end is root's where there are no ids; see IMAGES.md.
            assert_eq!(output.stdout.len(), original.len(), "{who:?} {to}");
            assert!(output.stdout == original, "{who:?}: {to} lost something");
            fs::remove_file(builder.path("other")).unwrap();
        }
        capture(Command::new("rm").arg("-rf").arg(&tree)).succeeded();
    }
}

#[test]
fn a_killed_or_failing_conversion_leaves_the_old_image_and_nothing_else() {
    let ground = Ground::new();
    let work = ground.user().directory("place");
    let image = work.join("image");
    fs::write(&image, "old").unwrap();
    let source = Image::OpenMpiBookworm.directory();
    for pause in [30, 90, 200, 500] {
        let words = ["convert", "-F", text_of(&source), text_of(&image)];
        let running = test_support::Running::start(&mut as_root(&words));
        std::thread::sleep(std::time::Duration::from_millis(pause));
        running.signal(nix::sys::signal::Signal::SIGKILL);
        drop(running);
        let names = || fs::read_dir(&work).unwrap().collect::<Vec<_>>();
        let end = Instant::now() + LIMIT;
        while names().len() > 1 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(names().len(), 1, "{:?}", names());
        assert_eq!(fs::read(&image).unwrap(), b"old");
    }
    for format in FILES {
        let text = format!(
            "mount -t tmpfs -o size=2m none {place} && echo old >{place}/image && \
             {command} convert -F --format {format} {source} {place}/image; \
             echo $?; cat {place}/image; ls -A {place}",
            place = text_of(&work),
            command = test_support::command().display(),
            source = text_of(&source),
        );
        let mut unshare = Command::new("unshare");
        unshare.args(["-m", "sh", "-c", &text]);
        let output = capture_within(LIMIT, &mut unshare, b"");
        assert_eq!(output.stdout(), "255\nold\nimage\n", "{format}: {output}");
        assert!(
            output.stderr().contains("no space left on device"),
            "{output}"
        );
        assert_eq!(output.stderr().lines().count(), 2, "{output}");
    }
}

#[test]
fn an_archive_is_not_written_to_a_terminal_and_a_reader_that_goes_is_no_error() {
    let ground = Ground::new();
    let image = Image::Busybox.directory();
    let text = format!(
        "singularity export {image} | head -c 10 >/dev/null; \
         script -qec 'singularity export {image}' /dev/null",
        image = text_of(&image)
    );
    let mut sh = ground
        .user()
        .shell(&text.replace("singularity", text_of(test_support::command())));
    let output = capture(&mut sh);
    let said = output.stdout();
    assert!(
        said.contains("standard output is a terminal, which cannot show an archive"),
        "{output}"
    );
    assert_eq!(output.stderr(), "");
}
