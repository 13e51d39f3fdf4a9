//! Signals at every moment, tracing, /proc, and core dumps.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_support::{capture, Form, Image, Running, LIMIT};

use crate::ground::{busybox, text_of};
use crate::starter::ground;

/// Moments spread evenly over a start, one for each attempt.
fn moments(whole: Duration, attempts: u32) -> impl Iterator<Item = Duration> {
    (0..attempts).map(move |n| whole * n * 5 / (attempts * 4))
}

#[test]
fn a_signal_at_any_moment_ends_it_and_leaves_nothing() {
    let ground = ground();
    let image = Image::Busybox.file_for(ground.user(), Form::SquashfsLz4);
    let begun = Instant::now();
    ground.inside_of(&image, &["--setuid"], "true").succeeded();
    let whole = begun.elapsed();
    for signal in [
        Signal::SIGKILL,
        Signal::SIGTERM,
        Signal::SIGSEGV,
        Signal::SIGABRT,
        Signal::SIGQUIT,
        Signal::SIGXFSZ,
        Signal::SIGPIPE,
        Signal::SIGALRM,
    ] {
        for delay in moments(whole, 25) {
            let words = ["exec", "--setuid", text_of(&image), "sleep", "60"];
            let mut command = ground.singularity(words);
            let running = Running::start(&mut command);
            std::thread::sleep(delay);
            running.signal(signal);
            running.wait(LIMIT).was_killed_by(signal).wrote("");
        }
    }
    // What a core would be.
    for entry in fs::read_dir(ground.user().work())
        .expect("it can be listed")
        .flatten()
    {
        let name = entry.file_name();
        assert!(
            !name.to_string_lossy().starts_with("core"),
            "{name:?} was left"
        );
    }
    ground.inside_of(&image, &["--setuid"], "true").succeeded();
}

#[test]
fn a_stopped_starter_shows_its_user_nothing() {
    let ground = ground();
    let user = ground.user();
    let image = Image::Busybox.file_for(user, Form::SquashfsLz4);
    // The user stops it at a moment, looks at it, and lets it go on.
    let script = "\
        singularity exec --setuid \"$1\" sleep 0.3 & p=$!; sleep \"$2\"; kill -STOP $p; \
        e=$(sed -n 's/^Uid:[^0-9]*[0-9]*[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$p/status); \
        if [ \"$e\" = 0 ]; then echo root; \
          for f in mem environ maps stack syscall auxv; do head -c 1 /proc/$p/$f >/dev/null 2>&1 && echo open $f; done; \
          ls /proc/$p/fd >/dev/null 2>&1 && echo open fd; \
          ls /proc/$p/root/ >/dev/null 2>&1 && echo open root; \
          echo x 2>/dev/null >/proc/$p/mem && echo wrote mem; \
          nsenter -t $p -m true 2>/dev/null && echo entered; \
          timeout 1 strace -p $p >/dev/null 2>&1; [ $? = 1 ] || echo traced; \
        fi; kill -CONT $p; wait $p";
    let mut seen = 0;
    for delay in moments(Duration::from_millis(12), 40) {
        let seconds = format!("{:.4}", delay.as_secs_f64());
        let mut shell = user.command("/bin/sh");
        shell.args(["-c", script, "sh", text_of(&image), &seconds]);
        let output = capture(&mut shell);
        let text = output.succeeded().stdout();
        seen += usize::from(text.starts_with("root\n"));
        assert!(text.is_empty() || text == "root\n", "{output}");
    }
    assert!(seen > 0, "no moment was hit at which the starter was root");
}

#[test]
fn a_traced_starter_is_not_privileged() {
    let ground = ground();
    let mut strace = ground.user().command("strace");
    strace.args(["-f", "-o", "trace", text_of(test_support::command())]);
    strace.args(["exec", "--setuid", text_of(busybox()), "id", "-u"]);
    let output = capture(&mut strace);
    output.exited_with(255).wrote("").complained(
        "singularity: --setuid: this process is traced\n\
         hint: --userns goes without the set-id starter\n",
    );
    let mut strace = ground.user().command("strace");
    strace.args(["-f", "-o", "trace", text_of(&crate::starter::path()), "9"]);
    capture(&mut strace).exited_with(255).wrote("").complained(
        "singularity: start: the starter is not installed set-user-ID of root\n\
         hint: the administrator can install it so: make install SETUID=1\n",
    );
}

#[test]
fn others_can_neither_signal_nor_enter_what_a_user_started() {
    let ground = ground();
    let other = test_support::User::ordinary();
    let mut command = ground.command(&["--setuid"], "echo here; sleep 60");
    let mut running = Running::start(&mut command);
    let pid = running.pid().to_string();
    running.until("here\n");
    for words in [
        &["nsenter", "-t", &pid, "-m", "true"][..],
        &["nsenter", "-t", &pid, "-U", "-m", "true"],
        &["kill", "-TERM", &pid],
        &["ls", &format!("/proc/{pid}/root/")],
        &["cat", &format!("/proc/{pid}/environ")],
    ] {
        let mut attempt = other.command(words[0]);
        attempt.args(&words[1..]);
        let output = capture(&mut attempt);
        assert!(!output.status.success(), "{output}");
    }
    // The user's own processes have no way in by nsenter either: that is root's.
    let mut attempt = ground.user().command("nsenter");
    attempt.args(["-t", &pid, "-m", "true"]);
    assert!(!capture(&mut attempt).status.success());
    assert!(running.is_running());
    running.signal(Signal::SIGKILL);
    running.wait(LIMIT);
}

/// The machine's fs.suid_dumpable, until it is dropped.
struct Dumpable(String);

impl Dumpable {
    const FILE: &str = "/proc/sys/fs/suid_dumpable";

    fn set(to: &str) -> Dumpable {
        let before = fs::read_to_string(Dumpable::FILE).expect("it can be read");
        fs::write(Dumpable::FILE, to).expect("root may");
        Dumpable(before)
    }
}

impl Drop for Dumpable {
    fn drop(&mut self) {
        let _ = fs::write(Dumpable::FILE, &self.0);
    }
}

#[test]
fn no_core_is_written_of_a_starter_whatever_the_limit() {
    let ground = ground();
    let work = ground.user().work();
    // Where the kernel is told to leave cores of set-id programs, too.
    let _allowed = Dumpable::set("1");
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let text = format!(
        "ulimit -c unlimited; singularity exec --setuid {} sleep 5 & sleep \"$1\"; kill -SEGV $!; \
         wait $! 2>/dev/null; true",
        text_of(&image)
    );
    let has = |bytes: &[u8], words: &[u8]| bytes.windows(words.len()).any(|part| part == words);
    for delay in moments(Duration::from_millis(12), 40) {
        let mut bash = ground.user().command("/bin/bash");
        let seconds = format!("{:.4}", delay.as_secs_f64());
        capture(bash.args(["-c", &text, "bash", &seconds])).succeeded();
        for entry in fs::read_dir(work).expect("it can be listed").flatten() {
            let path = entry.path();
            if !entry.file_name().to_string_lossy().starts_with("core") {
                assert_ne!(entry.metadata().expect("it is there").uid(), 0);
                continue;
            }
            // The command and the program are the user's, and may leave theirs: the
            // words of whose it is are near the beginning (core(5), NT_PRPSINFO). The
            // kernel alone decides until the starter runs, and has read nothing.
            let core = fs::read(&path).expect("root may");
            let is_starters = has(&core[..core.len().min(16 << 10)], b"singularity starter");
            let told = has(&core, text_of(&image).as_bytes());
            assert!(
                !(is_starters && told),
                "{}, after {delay:?}",
                path.display()
            );
            fs::remove_file(path).expect("root may");
        }
    }
}
