//! Signals at every moment, tracing, /proc, and core dumps.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_support::{capture, capture_within, Form, Image, Running, LIMIT};

use crate::ground::{busybox, text_of};
use crate::starter::{ground, handed_over, path, request};

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

/// Calls after which the kernel goes by fs.suid_dumpable again (commit_creds() in
/// kernel/cred.c).
const CHANGES: [&str; 10] = [
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setfsuid",
    "setfsgid",
    "setgroups",
    "capset",
];

/// Calls that only look at what has become of the rights.
const LOOKS: [&str; 8] = [
    "capget",
    "getresuid",
    "getresgid",
    "getgroups",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
];

/// fs.suid_dumpable may tell the kernel to leave cores of set-id programs. That is the
/// machine's, so it is not changed here: what counts is that the starter forbids cores
/// before it does anything else, at its start and after each change of its rights.
#[test]
fn no_core_can_be_written_of_a_starter_whatever_the_system_allows() {
    let ground = ground();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let bytes = request(ground.user(), &["exec", text_of(&image), "true"]);
    // Root may trace a set-id program, which stays one.
    let by_user = handed_over(ground.user(), "sealed");
    let trace = ground.user().work().join("trace");
    let mut strace = std::process::Command::new("strace");
    strace.args(["-u", ground.user().name(), "-qq", "-o", text_of(&trace)]);
    strace.arg(by_user.get_program()).args(by_user.get_args());
    for (name, value) in by_user.get_envs() {
        strace.env(name, value.unwrap_or_default());
    }
    capture_within(LIMIT, strace.current_dir(ground.user().work()), &bytes).succeeded();
    let text = fs::read_to_string(&trace).expect("it was traced");
    fs::remove_file(&trace).expect("root may");
    let begin = format!("execve(\"{}\"", text_of(&path()));
    let (_, text) = text.split_once(&begin).expect("the starter was started");
    assert_forbids_cores(text);
}

/// Of a trace from the starter's beginning to the program: at the start and after a
/// change nothing but changes, looks and the ban on cores.
fn assert_forbids_cores(trace: &str) {
    let mut may_dump = true;
    let mut has_begun = false;
    let mut bans = 0;
    for call in trace.lines().skip(1) {
        let name = call.split('(').next().unwrap_or_default();
        if call.starts_with("prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE) = 0") {
            (may_dump, has_begun, bans) = (false, true, bans + 1);
        } else if CHANGES.contains(&name) {
            // setfsuid(-1) only tells; what failed has changed nothing.
            may_dump |= !call.contains("(-1) ") && !call.contains(" = -1 ");
        } else if name == "execve" {
            break;
        } else if has_begun {
            assert!(!may_dump || LOOKS.contains(&name), "{call}\n{trace}");
        } else {
            // What the C library does before main.
            let reads = ["read", "openat", "open", "pread64"].contains(&name);
            assert!(!reads, "{call}\n{trace}");
        }
    }
    assert!(bans > 3 && !may_dump, "{trace}");
}
