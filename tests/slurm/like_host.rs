//! What Slurm does for a task, it does for one in an image: each case runs the
//! same step with and without, and compares.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use test_support::{Output, Running};

use crate::ground::{debian, image_option, run, Ground, LIMIT};
use crate::Case;

pub const CASES: &[Case] = &[
    ("streams_labels_and_input_are_the_same", streams),
    ("exit_codes_and_signals_are_the_same", exits),
    (
        "environment_directory_limits_and_umask_are_the_same",
        surroundings,
    ),
    ("programs_are_found_as_on_the_host", path_search),
    ("multi_prog_is_the_same", multi_prog),
    ("a_terminal_is_the_same", terminal),
    ("scancel_and_time_limits_are_the_same", cancelling),
];

/// What can be compared of two runs: numbers of jobs, processes and times cannot.
pub fn essence(output: &Output) -> (Option<i32>, Option<i32>, String, String) {
    let plain = |text: String| {
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| {
                !line.contains("queued and waiting") && !line.contains("has been allocated")
            })
            // c1 or c2, whichever was free, and "STEP 12.0 ON c1 CANCELLED AT …".
            .map(|line| line.replace("c2", "c1"))
            // srun says so unless the tasks' end is known by then.
            .map(|line| match line.find(": Waiting up to ") {
                Some(end) => line[..end].to_owned(),
                None => line,
            })
            // Which of the two depends on whether the controller or the node is heard first.
            .map(|line| match line.starts_with("srun: Force Terminated") {
                true => "srun: Job step aborted".to_owned(),
                false => line,
            })
            .map(|line| match (line.find("STEP "), line.find("CANCELLED")) {
                (Some(from), Some(to)) => format!("{}{}", &line[..from], &line[to..to + 9]),
                _ => match line.find("StepId=") {
                    Some(from) => line[..from].to_owned(),
                    None => line,
                },
            })
            .collect();
        lines.sort();
        lines.join("\n")
    };
    (
        output.status.code(),
        output.status.signal(),
        plain(output.stdout()),
        plain(output.stderr()),
    )
}

/// The same words with and without an image.
fn same(ground: &Ground, words: &[&str]) {
    let host = ground.srun(words);
    let inside = ground.srun_in(&debian(), words);
    assert_eq!(essence(&host), essence(&inside), "\n{host}\n{inside}");
}

fn streams(ground: &Ground) {
    let both = "echo out $SLURM_PROCID; echo err $SLURM_PROCID >&2";
    same(ground, &["-n2", "--label", "sh", "-c", both]);
    same(ground, &["-n2", "--output=none", "sh", "-c", both]);
    let input = ground.user.file("input", "one\ntwo\n");
    let option = format!("--input={}", input.display());
    same(ground, &["-n2", "--label", &option, "cat"]);
    same(ground, &["-n2", "--input=1", "--label", "cat"]);
    let out = ground.user.work().join("out-%t");
    let option = format!("--output={}", out.display());
    for image in [None, Some(image_option(&debian()))] {
        let mut words = vec!["-n2", option.as_str()];
        words.extend(image.as_deref());
        words.extend(["sh", "-c", both]);
        ground.srun(&words).succeeded();
        let first = std::fs::read_to_string(ground.user.work().join("out-1"));
        assert_eq!(first.expect("Slurm has written it"), "out 1\nerr 1\n");
    }
    for image in [None, Some(image_option(&debian()))] {
        let mut srun = ground.cluster.command(&ground.user, "srun");
        srun.args(image).arg("cat");
        let mut cat = Running::start(&mut srun);
        cat.write(b"typed\n");
        cat.wait(LIMIT).succeeded().quietly().wrote("typed\n");
    }
}

fn exits(ground: &Ground) {
    same(ground, &["sh", "-c", "exit 7"]);
    same(ground, &["sh", "-c", "kill -SEGV $$"]);
    let one = "test $SLURM_PROCID = 0 && exit 3; exec sleep 20";
    same(ground, &["-n2", "--kill-on-bad-exit=1", "sh", "-c", one]);
    same(ground, &["-n2", "sh", "-c", "exit $SLURM_PROCID"]);
    same(ground, &["/no/such/program"]);
    same(ground, &["no-such-program"]);
    same(ground, &["/etc"]);
}

fn surroundings(ground: &Ground) {
    let variables = "env | cut -d= -f1 | grep -vE '^(SINGULARITY_(CONTAINER|NAME)|_|PATH|SLURM_(JOB|STEP).*|TMPDIR)$' | grep -v PMIX_MCA | sort";
    same(ground, &["sh", "-c", variables]);
    same(ground, &["--export=A=1,B=2", "/bin/sh", "-c", "echo $A$B"]);
    same(ground, &["--export=NONE", "/bin/sh", "-c", "echo $A$B"]);
    same(
        ground,
        &[
            "sh",
            "-c",
            "pwd; umask; id; ulimit -n; ulimit -s; ulimit -c",
        ],
    );
    same(ground, &["--chdir=/tmp", "pwd"]);
    same(ground, &["--propagate=NOFILE", "sh", "-c", "ulimit -n"]);
    same(
        ground,
        &[
            "sh",
            "-c",
            "grep -E '^(Sig(Ign|Blk|Cgt)|Cap)' /proc/self/status",
        ],
    );
    same(
        ground,
        &[
            "-n2",
            "sh",
            "-c",
            "ls /proc/self/fd | wc -l; hostname | cut -c1",
        ],
    );
    same(ground, &["--cpu-bind=none", "nproc"]);
}

fn path_search(ground: &Ground) {
    let output = ground.srun_in(&debian(), &["ring", "--help"]);
    assert!(
        !output.stderr().contains("execve"),
        "only the image has it: {output}"
    );
    let own = ground.user.program("own", "#!/bin/sh\necho mine\n");
    same(ground, &["./own"]);
    same(ground, &[own.to_str().expect("a printable path")]);
}

fn multi_prog(ground: &Ground) {
    let text = "0 sh -c 'echo %t of zero'\n1-2 echo %o:%t\n";
    let file = ground.user.file("programs", text);
    let file = file.to_str().expect("a printable path");
    same(ground, &["-n3", "--label", "--multi-prog", file]);
}

fn terminal(ground: &Ground) {
    let mut outputs = Vec::new();
    for image in [None, Some(debian())] {
        let option = image.as_deref().map(image_option).unwrap_or_default();
        let line =
            format!("srun {option} --pty sh -c 'test -t 0 && tty | cut -c1-8; stty size; exit 5'");
        let mut script = ground.cluster.command(&ground.user, "script");
        let output = run(script.args(["-qec", &line, "/dev/null"]));
        // The last words of srun and of the task come in either order.
        // A NUL that `script` sends at its own end may be echoed between them.
        let text = output.stdout().replace("^@", "");
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        outputs.push((output.status.code(), lines.join("\n")));
    }
    assert_eq!(outputs[0], outputs[1]);
    assert_eq!(outputs[0].0, Some(5), "{outputs:?}");
    assert!(outputs[0].1.contains("/dev/pts"), "{outputs:?}");
}

fn cancelling(ground: &Ground) {
    // One process, where a signal ends the task: of two, either may hear of it first.
    for (how, script) in [
        (
            &["--signal=TERM"][..],
            "trap 'echo got TERM; exit 4' TERM; echo ready; while :; do sleep 0.1; done",
        ),
        (&["--signal=KILL"], "echo ready; exec sleep 60"),
        (&[], "echo ready; exec sleep 60"),
    ] {
        let mut seen = Vec::new();
        for image in [None, Some(image_option(&debian()))] {
            let name = format!("--job-name=cancel{}", seen.len());
            let mut srun = ground.cluster.command(&ground.user, "srun");
            srun.arg(&name).args(image).args(["sh", "-c", script]);
            let running = Running::start(&mut srun);
            wait_for_step(ground, &name);
            // A signal goes to the step; without one the job is cancelled.
            let mut words = how.to_vec();
            let chosen = name.replace("job-name", "name");
            words.push(&chosen);
            ground.command("scancel", &words).succeeded();
            seen.push(essence(&running.wait(LIMIT)));
        }
        assert_eq!(seen[0], seen[1], "{how:?}");
    }
    // Slurm looks at time limits every half minute or so: both at once.
    let runs = [None, Some(image_option(&debian()))].map(|image| {
        let mut srun = ground.cluster.command(&ground.user, "srun");
        srun.args(["--time=0:01", "--signal=USR1@60"]).args(image);
        Running::start(srun.args([
            "sh",
            "-c",
            "trap 'echo warned' USR1; for i in $(seq 600); do sleep 0.2; done",
        ]))
    });
    let [host, inside] = runs.map(|running| essence(&running.wait(Duration::from_secs(180))));
    assert_eq!(host, inside);
}

/// Waits until a task of the job says that it is ready: it runs for a while then.
fn wait_for_step(ground: &Ground, name: &str) {
    let option = name.replace("--job-name", "--name");
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        let output = ground.command("squeue", &["--noheader", "--steps", &option]);
        if output.stdout().contains(".0") {
            // The step is known before its tasks have set their traps.
            std::thread::sleep(Duration::from_millis(700));
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the step {name} does not start");
}
