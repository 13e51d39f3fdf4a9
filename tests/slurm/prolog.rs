//! Task prologs and epilogs stay on the host; such steps are entered by
//! `singularity exec`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use test_support::Form;

use crate::ground::{debian, run, small, small_file, Ground};
use crate::Case;

pub const CASES: &[Case] = &[
    ("a_users_task_prolog_and_epilog_run_on_the_host", users_own),
    ("a_sites_task_prolog_runs_on_the_host", sites_own),
    ("the_site_can_choose_the_prefix", by_choice),
];

fn script(ground: &Ground, name: &str, text: &str) -> String {
    let file = ground.user.file(name, format!("#!/bin/sh\n{text}"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
        .expect("a new file can be changed");
    file.display().to_string()
}

const PROLOG: &str =
    "echo print prolog in $(readlink /proc/self/ns/mnt)\necho export FROM_PROLOG=yes\n";

fn users_own(ground: &Ground) {
    let log = ground.user.work().join("epilog-log");
    let prolog = script(ground, "prolog", PROLOG);
    let epilog = script(
        ground,
        "epilog",
        &format!("readlink /proc/self/ns/mnt >{}\n", log.display()),
    );
    let prolog = format!("--task-prolog={prolog}");
    let epilog = format!("--task-epilog={epilog}");
    // Each node has a mount namespace of its own.
    let node = ground.on_first_node();
    let words = [
        node.as_str(),
        prolog.as_str(),
        &epilog,
        "sh",
        "-c",
        "echo $FROM_PROLOG; readlink /proc/self/ns/mnt",
    ];
    let host = ground.srun(&words);
    let on_host = fs::read_to_string(&log).expect("the epilog has written it");
    for image in [small(), small_file(Form::SquashfsLz4)] {
        fs::remove_file(&log).expect("the epilog has written it");
        let inside = ground.srun_in(&image, &words);
        inside.succeeded().quietly();
        let (host, inside) = (host.stdout(), inside.stdout());
        let (host, inside): (Vec<_>, Vec<_>) = (host.lines().collect(), inside.lines().collect());
        assert_eq!(host[..2], inside[..2]);
        assert_ne!(host[2], inside[2], "the program is in an image");
        assert_eq!(
            fs::read_to_string(&log).expect("the epilog has written it"),
            on_host
        );
    }
    // Without a prolog, the epilog alone changes nothing about how one enters.
    let output = ground.srun_in(
        &small(),
        &[&epilog, "sh", "-c", "readlink /proc/self/ns/user"],
    );
    assert_eq!(
        output.stdout(),
        ground.srun(&["readlink", "/proc/self/ns/user"]).stdout()
    );
    assert_eq!(
        fs::read_to_string(&log).expect("the epilog has written it"),
        on_host
    );
    let programs = ground.user.file("programs", "0 echo 0\n");
    let words = [
        prolog.as_str(),
        "--multi-prog",
        programs.to_str().expect("a printable path"),
    ];
    let output = ground.srun_in(&small(), &words);
    output.exited_with(255);
    assert!(output.stderr().contains("it needs Slurm 23.11"), "{output}");
}

fn sites_own(ground: &Ground) {
    let prolog = script(ground, "prolog", PROLOG);
    let file = ground.cluster.configuration_file();
    let before = fs::read_to_string(&file).expect("the cluster has it");
    let set = |text: &str| {
        fs::write(&file, text).expect("the cluster has it");
        run(ground
            .cluster
            .root(ground.cluster.login(), "scontrol")
            .arg("reconfigure"))
        .succeeded();
        std::thread::sleep(std::time::Duration::from_secs(1));
    };
    set(&format!("{before}TaskProlog={prolog}\n"));
    let output = ground.srun_in(&small(), &["sh", "-c", "echo $FROM_PROLOG"]);
    set(&before);
    output.succeeded().quietly();
    assert!(
        output.stdout().starts_with("prolog in mnt:") && output.stdout().ends_with("yes\n"),
        "{output}"
    );
}

fn by_choice(ground: &Ground) {
    ground.configure("enter=prefix");
    let script = "readlink /proc/self/ns/mnt; readlink /proc/self/ns/user; sleep 1; ls /proc/self/fd | wc -l";
    let output = ground.srun_in(&debian(), &["-n2", "sh", "-c", script]);
    output.succeeded().quietly();
    let mut lines: Vec<_> = output.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    assert!(
        lines[0] == lines[1] && lines[2] == lines[3] && lines[4] == lines[5],
        "shared: {output}"
    );
    assert_eq!(lines[0], "4", "no descriptor is left open: {output}");
    let words = [
        "--singularity-bind=/etc/slurm:/mnt/c d",
        "--singularity-pwd=/mnt",
        "--singularity-env=A=a b,B='",
        "--singularity-contain",
        "sh",
        "-c",
        "pwd; ls; echo \"$A$B$1\"",
        "0",
        "x 'y",
    ];
    let output = ground.srun_in(&small(), &words);
    output.succeeded().quietly().wrote("/mnt\nc d\na b'x 'y\n");
    ground.configure("enter=prefix command=/none");
    let output = ground.srun_in(&small(), &["true"]);
    output.exited_with(255);
    assert!(
        output
            .stderr()
            .contains("find the command /none: it is not on this node"),
        "{output}"
    );
}
