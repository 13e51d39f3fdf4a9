//! However a step ends, nothing is left, and no node is drained.

use std::time::{Duration, Instant};

use test_support::{Form, Leftovers, Running};

use crate::ground::{image_option, run, small, small_file, Ground, LIMIT};
use crate::Case;

pub const CASES: &[Case] = &[
    ("nothing_is_left_however_a_step_ends", endings),
    ("nothing_is_left_when_slurmstepd_is_killed", stepd_killed),
    (
        "nothing_is_left_when_slurmd_is_killed_and_restarted",
        slurmd_killed,
    ),
    ("nothing_is_left_after_a_requeue", requeue),
    ("two_hundred_steps_in_a_row", many_in_a_row),
    ("twenty_steps_at_once_on_two_nodes", many_at_once),
];

fn images() -> [std::path::PathBuf; 3] {
    [
        small(),
        small_file(Form::SquashfsLz4),
        small_file(Form::ErofsLz4hc),
    ]
}

fn start(ground: &Ground, image: &std::path::Path, script: &str) -> Running {
    let mut srun = ground.cluster.command(&ground.user, "srun");
    srun.args(["-N2", "-n4", "--job-name=fault"])
        .arg(image_option(image))
        .args(["sh", "-c", script]);
    let running = Running::start(&mut srun);
    wait_for_tasks(ground, 4);
    running
}

/// Waits until so many programs of the user's run on the nodes.
fn wait_for_tasks(ground: &Ground, count: usize) {
    let end = Instant::now() + LIMIT;
    loop {
        let mut pgrep = std::process::Command::new("pgrep");
        let uid = ground.user.uid().to_string();
        let output = run(pgrep.args(["-c", "-U", &uid, "-x", "sleep"]));
        if output.stdout().trim().parse() == Ok(count) {
            return;
        }
        assert!(Instant::now() < end, "the tasks do not start: {output}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn expect_nothing(ground: &Ground, before: &Leftovers, what: &str) {
    ground.cluster.wait_until_idle();
    let left = before.left();
    assert!(left.is_empty(), "{what}:\n{}", left.join("\n"));
    for node in ground.cluster.nodes() {
        assert_eq!(ground.cluster.state_of(node), "idle", "{what}");
    }
}

fn endings(ground: &Ground) {
    let before = Leftovers::snapshot(&ground.user);
    for image in images() {
        ground
            .srun_in(&image, &["-N2", "-n4", "true"])
            .succeeded()
            .quietly();
        expect_nothing(ground, &before, "a normal end");
        let one = "test $SLURM_PROCID = 1 && exit 9; sleep 60";
        let output = ground.srun_in(&image, &["-N2", "-n4", "-K1", "sh", "-c", one]);
        assert!(!output.status.success(), "{output}");
        expect_nothing(ground, &before, "failure of one rank");
    }
    for words in [&["--name=fault"][..], &["--name=fault", "--signal=KILL"]] {
        let running = start(ground, &small_file(Form::SquashfsLz4), "exec sleep 60");
        ground.command("scancel", words).succeeded();
        assert!(!running.wait(LIMIT).status.success());
        expect_nothing(ground, &before, "scancel");
    }
    let running = start(ground, &small_file(Form::ErofsLz4hc), "exec sleep 60");
    // Killed with its process group: Slurm keeps the allocation, image or not.
    drop(running);
    ground.command("scancel", &["--name=fault"]).succeeded();
    expect_nothing(ground, &before, "death of srun");
}

fn stepd_killed(ground: &Ground) {
    let before = Leftovers::snapshot(&ground.user);
    for image in images() {
        let running = start(ground, &image, "exec sleep 60");
        for node in ground.cluster.nodes() {
            let mut kill = ground.cluster.root(node, "pkill");
            run(kill.args(["-KILL", "-x", "slurmstepd"])).succeeded();
        }
        // Whose parent is dead nobody kills, and srun waits for half a minute: as
        // without the plugin.
        ground.user.kill_all();
        ground.command("scancel", &["--name=fault"]);
        drop(running);
        expect_nothing(ground, &before, "death of slurmstepd");
    }
}

fn slurmd_killed(ground: &Ground) {
    let before = Leftovers::snapshot(&ground.user);
    let running = start(ground, &small_file(Form::SquashfsLz4), "exec sleep 5");
    // Until slurmd has answered srun.
    std::thread::sleep(Duration::from_millis(1500));
    let node = &ground.cluster.nodes()[0];
    let mut kill = ground.cluster.root(node, "pkill");
    run(kill.args(["-KILL", "-x", "slurmd"])).succeeded();
    ground.cluster.start_slurmd(node);
    running.wait(LIMIT).succeeded();
    expect_nothing(ground, &before, "death of slurmd");
    ground
        .srun_in(&small(), &["-N2", "-n2", "true"])
        .succeeded();
}

fn requeue(ground: &Ground) {
    let before = Leftovers::snapshot(&ground.user);
    let script =
        "#!/bin/sh\n#SBATCH --requeue --job-name=again -N2 -n2\necho run $SLURM_RESTART_COUNT\n\
                  test -n \"$SLURM_RESTART_COUNT\" && exec srun true\nsrun sleep 60\n";
    let file = ground.user.file("again.sh", script);
    let out = format!(
        "--output={}",
        ground.user.work().join("again.out").display()
    );
    let image = image_option(&small_file(Form::SquashfsLz4));
    let words = [
        "--parsable",
        &image,
        &out,
        file.to_str().expect("a printable path"),
    ];
    let output = ground.command("sbatch", &words);
    let job = output.succeeded().stdout().trim().to_owned();
    wait_for_tasks(ground, 2);
    ground.command("scontrol", &["requeue", &job]).succeeded();
    // Slurm begins a requeued job anew after two minutes; nobody waits for it here.
    std::thread::sleep(Duration::from_secs(1));
    ground.cluster.wait_until_idle();
    ground.command("scancel", &[&job]).succeeded();
    expect_nothing(ground, &before, "a requeue");
}

fn many_in_a_row(ground: &Ground) {
    let image = image_option(&small_file(Form::SquashfsLz4));
    let script = format!(
        "for i in $(seq 200); do srun --quiet {image} true || echo failed $i; done; echo done\n"
    );
    let (text, output) = ground.batch(&["-N1", "-n1"], &script);
    output.succeeded();
    assert_eq!(text, "done\n");
}

fn many_at_once(ground: &Ground) {
    let image = image_option(&small_file(Form::SquashfsLz4));
    let script = format!(
        "for i in $(seq 20); do srun --quiet --overlap --oversubscribe -N2 -n2 {image} sh -c 'sleep 0.5; echo ok' & done; wait\n"
    );
    let (text, output) = ground.batch(&["-N2", "-n2"], &script);
    output.succeeded();
    assert_eq!(text, "ok\n".repeat(40));
}
