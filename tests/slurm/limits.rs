//! Limits at nothing, as a user can have Slurm set them in a step: by a low soft limit
//! where the step is submitted, and by a client that lies about its own. The limits
//! hold from just before the program is executed (`src/slurmd/slurmstepd/task.c`), so
//! all that root does comes before.

use std::time::{Duration, Instant};

use test_support::{capture, Form, Image, Output};

use crate::ground::{debian, image_option, run, small_file, Ground};
use crate::like_host::essence;
use crate::Case;

pub const CASES: &[Case] = &[
    (
        "attack_limits_at_nothing_end_a_step_as_they_do_on_the_host",
        steps,
    ),
    ("attack_limits_at_nothing_do_not_hang_the_command", prefixed),
    (
        "attack_limits_at_nothing_end_a_batch_script_as_they_do_on_the_host",
        scripts,
    ),
    (
        "attack_low_limits_of_the_submitting_shell_are_those_of_the_program",
        from_the_shell,
    ),
];

/// No step takes as long, whatever it has to do without.
const SOON: Duration = Duration::from_secs(60);

/// Names as `--propagate` has them, and soft limits: files, bytes, processes.
const LIMITS: [(&str, u64); 10] = [
    ("NOFILE", 0),
    ("NOFILE", 3),
    ("FSIZE", 0),
    ("NPROC", 0),
    ("CORE", 0),
    ("STACK", 0),
    ("STACK", 65536),
    ("DATA", 0),
    ("AS", 0),
    ("MEMLOCK", 0),
];

/// A Slurm client could not start with these limits; one that only tells of them can.
const LIAR: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
static int which = -1;
static unsigned long told;
static const struct { const char *name; int number; } known[] = {
    {"NOFILE", RLIMIT_NOFILE}, {"FSIZE", RLIMIT_FSIZE}, {"NPROC", RLIMIT_NPROC},
    {"CORE", RLIMIT_CORE}, {"STACK", RLIMIT_STACK}, {"DATA", RLIMIT_DATA},
    {"AS", RLIMIT_AS}, {"MEMLOCK", RLIMIT_MEMLOCK},
};
__attribute__((constructor)) static void begin(void) {
    char name[16] = "";
    sscanf(getenv("LIE"), "%15[A-Z] %lu", name, &told);
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) which = known[i].number;
    unsetenv("LD_PRELOAD");
    unsetenv("LIE");
}
int getrlimit(__rlimit_resource_t resource, struct rlimit *limit) {
    int result = prlimit(0, resource, 0, limit);
    if (!result && (int)resource == which) limit->rlim_cur = told;
    return result;
}
int getrlimit64(__rlimit_resource_t resource, struct rlimit64 *limit) {
    int result = prlimit64(0, resource, 0, limit);
    if (!result && (int)resource == which) limit->rlim_cur = told;
    return result;
}
"#;

/// Says that it runs, with which limits and rights, and then takes a process and a
/// file. Only what the shell does itself: it may have no process to start others.
const PROGRAM: &str = "echo in; ulimit -Sn; ulimit -Sf; ulimit -Sc; ulimit -Ss; ulimit -Hn; ulimit -Hc; \
     while read -r key rest; do case $key in Uid:|Gid:|CapPrm:|CapEff:) echo $key $rest;; esac; done \
     </proc/self/status; (echo forked); exit 7";

/// A client of Slurm's that says it has this limit.
fn liar(ground: &Ground) -> impl Fn(&str, (&str, u64), &[&str]) -> Output + Sync + '_ {
    ground.user.file("liar.c", LIAR);
    let compile = "cc -shared -fPIC -o liar.so liar.c";
    capture(&mut ground.user.shell(compile)).succeeded();
    let preload = format!("LD_PRELOAD={}/liar.so", ground.user.work().display());
    move |client, (name, value), words| {
        // By env: what goes to the host as root must not have them.
        let lie = format!("LIE={name} {value}");
        let propagate = format!("--propagate={name}");
        let client = format!("/usr/bin/{client}");
        let mut command = ground.cluster.command(&ground.user, "env");
        command.args([&preload, &lie, &client, "--time=1", &propagate]);
        test_support::capture_within(SOON, command.args(words), b"")
    }
}

/// The program has run to its end, or what it wrote is nothing and somebody says why.
#[track_caller]
fn assert_ran_or_not(what: (&str, u64), output: &Output) {
    match output.status.code() {
        Some(7) => drop(output.wrote("in\n")),
        Some(0) => panic!("{what:?}: {output}"),
        _ => {
            output.wrote("");
            assert!(!output.stderr().is_empty(), "{what:?}: {output}");
        }
    }
}

fn steps(ground: &Ground) {
    let srun = liar(ground);
    let whole = image_option(&debian());
    let small = image_option(&small_file(Form::SquashfsLz4));
    for limit in LIMITS {
        let step = |words: &[&str]| srun("srun", limit, &[&["--quiet"], words].concat());
        let [host, inside, file] = std::thread::scope(|scope| {
            let program = ["sh", "-c", PROGRAM];
            let plain = ["sh", "-c", "echo in; exit 7"];
            [
                scope.spawn(move || step(&program)),
                scope.spawn({
                    let words = [&[whole.as_str()], &program[..]].concat();
                    move || step(&words)
                }),
                scope.spawn({
                    let words = [&[small.as_str()], &plain[..]].concat();
                    move || step(&words)
                }),
            ]
            .map(|step| step.join().expect("it does not hang"))
        });
        assert_eq!(
            essence(&host),
            essence(&inside),
            "{limit:?}\n{host}\n{inside}"
        );
        assert_ran_or_not(limit, &file);
        // It is really so.
        match limit.0 {
            "FSIZE" => assert_eq!(inside.stdout().lines().nth(2), Some("0"), "{inside}"),
            "NPROC" => assert!(inside.stderr().contains("Cannot fork"), "{inside}"),
            "NOFILE" => assert!(!inside.status.success(), "{inside}"),
            _ => {}
        }
    }
}

/// By the command, which sets itself up with these limits, as the user.
fn prefixed(ground: &Ground) {
    ground.configure("enter=prefix");
    let srun = liar(ground);
    let image = image_option(&small_file(Form::SquashfsLz4));
    for limits in LIMITS.chunks(3) {
        std::thread::scope(|scope| {
            for limit in limits {
                let (srun, image) = (&srun, &image);
                scope.spawn(move || {
                    let words = ["--quiet", image, "sh", "-c", "echo in; exit 7"];
                    assert_ran_or_not(*limit, &srun("srun", *limit, &words));
                });
            }
        });
    }
}

/// What the script of a batch job wrote, and how Slurm says that it ended.
fn ended(ground: &Ground, submitted: &Output, out: &std::path::Path) -> (String, String) {
    let job = submitted.succeeded().stdout().trim().to_owned();
    assert!(job.parse::<u32>().is_ok(), "{submitted}");
    let end = Instant::now() + SOON;
    loop {
        let queue = ground.command("squeue", &["--noheader", "--jobs", &job]);
        if queue.stdout().is_empty() {
            break;
        }
        if Instant::now() > end {
            ground.command("scancel", &["--signal=KILL", "--full", &job]);
            ground.command("scancel", &[&job]);
            panic!("the job does not end: {queue}\n{}", ground.cluster.logs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = std::fs::read_to_string(out).unwrap_or_default();
    let state = ground.command("scontrol", &["show", "job", &job]).stdout();
    let how = state
        .split_whitespace()
        .filter(|word| word.starts_with("JobState=") || word.starts_with("ExitCode="))
        .collect::<Vec<_>>()
        .join(" ");
    (text, how)
}

fn scripts(ground: &Ground) {
    let sbatch = liar(ground);
    ground.configure("batch-script=image");
    let image = image_option(&debian());
    let file = ground
        .user
        .file("job.sh", format!("#!/bin/dash\n{PROGRAM}\n"));
    let file = file.to_str().expect("a printable path");
    // dash, as bash tries for 15 seconds to get a process, on the host too. All at once:
    // each is there for a second.
    let submitted = LIMITS.map(|limit| {
        ["host", "image"].map(|place| {
            let name = format!("{}-{}-{place}.out", limit.0, limit.1);
            let out = ground.user.work().join(name);
            let output = format!("--output={}", out.display());
            let mut words = vec!["--parsable", &output];
            words.extend((place == "image").then_some(image.as_str()));
            words.push(file);
            (sbatch("sbatch", limit, &words), out)
        })
    });
    for (limit, jobs) in LIMITS.into_iter().zip(submitted) {
        let [host, inside] = jobs.map(|(submitted, out)| ended(ground, &submitted, &out));
        // Slurm's own lines have a time and a node in them, the script's name a job.
        let own = |(text, how): (String, String)| {
            let lines = text.lines().filter(|line| !line.contains("error: "));
            let lines = lines.map(|line| match line.find("slurm_script") {
                Some(at) => line[at..].to_owned(),
                None => line.to_owned(),
            });
            (lines.collect::<Vec<_>>(), how)
        };
        assert_eq!(own(host), own(inside), "{limit:?}");
    }
}

fn from_the_shell(ground: &Ground) {
    let text = "ulimit -Sn; ulimit -Sf; ulimit -Sc; ulimit -Su";
    let image = Image::Busybox.directory();
    for (propagate, expected) in [
        ("", "64\n0\n0\n40\n"),
        ("--propagate=ALL", "64\n0\n0\n40\n"),
    ] {
        let script = format!(
            "ulimit -S -n 64; ulimit -S -f 0; ulimit -S -c 0; ulimit -S -u 40; \
             exec srun --quiet {propagate} {} sh -c '{text}'",
            image_option(&image)
        );
        let mut bash = ground.cluster.command(&ground.user, "bash");
        let output = run(bash.args(["-c", &script]));
        output.succeeded().quietly().wrote(expected);
    }
}
