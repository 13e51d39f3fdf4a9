//! How the image is entered, and with whose rights.

use std::os::unix::fs::PermissionsExt;

use test_support::{Form, Image, Leftovers};

use crate::ground::{debian, image_option, run, small, small_file, Ground};
use crate::Case;

pub const CASES: &[Case] = &[
    (
        "tasks_of_a_node_share_one_namespace_and_no_user_namespace",
        tasks_share,
    ),
    ("each_kind_of_image_is_mounted_by_the_kernel", each_kind),
    ("files_are_opened_with_the_users_rights", users_rights),
    (
        "an_image_is_read_only_and_gives_no_privileges",
        no_privileges,
    ),
    (
        "environment_scripts_of_the_image_count",
        environment_scripts,
    ),
    ("root_may_use_images_too", root_too),
    ("steps_without_image_pay_nothing", nothing_for_others),
];

fn tasks_share(ground: &Ground) {
    let script = "readlink /proc/self/ns/mnt; sleep 1";
    let output = ground.srun_in(&small(), &["-N2", "-n4", "--label", "sh", "-c", script]);
    output.succeeded().quietly();
    let mut places: Vec<_> = output
        .stdout()
        .lines()
        .map(|line| line.split(": ").nth(1).map(str::to_owned))
        .collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), 2, "one a node: {output}");
    let users = [
        "sh",
        "-c",
        "readlink /proc/self/ns/user; echo $$; cat /proc/self/status | grep -c ^Cap",
    ];
    let host = ground.srun(&["readlink", "/proc/self/ns/user"]).stdout();
    let inside = ground.srun_in(&small(), &users);
    assert!(inside.stdout().starts_with(&host), "{inside}");
}

fn each_kind(ground: &Ground) {
    for (form, kind) in [
        (Form::Squashfs, "squashfs"),
        (Form::SquashfsLz4, "squashfs"),
        (Form::SquashfsXz, "squashfs"),
        (Form::ErofsLz4hc, "erofs"),
        // Root mounts no ext for users: by singularity exec and FUSE.
        (Form::Ext4, "fuse.ext4"),
    ] {
        let script = "awk '$5 == \"/\"' /proc/self/mountinfo";
        let output = ground.srun_in(&small_file(form), &["sh", "-c", script]);
        let text = output.succeeded().stdout();
        assert!(text.contains(&format!(" - {kind} ")), "{output}");
        assert!(text.contains(" ro,nosuid,nodev"), "{output}");
    }
    let header = Image::Busybox.executable(Form::SquashfsLz4);
    ground.srun_in(&header, &["true"]).succeeded().quietly();
    ground.configure("kernel-mounts=squashfs,erofs,ext");
    let script = "awk '$5 == \"/\"' /proc/self/mountinfo";
    let output = ground.srun_in(&small_file(Form::Ext4), &["sh", "-c", script]);
    assert!(output.succeeded().stdout().contains(" - ext4 "), "{output}");
}

fn users_rights(ground: &Ground) {
    let refused = |options: &[&str], words: &str| {
        let output = ground.srun(&[options, &["true"]].concat());
        output.exited_with(255);
        assert!(output.stderr().contains(words), "{output}");
        assert_eq!(
            output.stderr().matches("singularity:").count(),
            1,
            "{output}"
        );
    };
    // Only the nodes are asked: what the client knows is another case.
    ground.configure("check-image=node");
    let secret = ground.user.work().join("secret");
    std::fs::copy(small_file(Form::SquashfsLz4), &secret).expect("home can be written to");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("root may");
    refused(&[&image_option(&secret)], "permission denied");
    let closed = ground.cluster.shared().join("closed");
    std::fs::create_dir_all(closed.join("in")).expect("root may");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).expect("root may");
    let image = image_option(&small());
    let bind = format!("--singularity-bind={}:/mnt", closed.join("in").display());
    refused(&[&image, &bind], "permission denied");
    // A mount point is not made where the user could not make it.
    let words = [
        image.as_str(),
        "--singularity-bind=/usr/share:/mnt,/etc:/mnt/of-ours",
        "true",
    ];
    ground.srun(&words).exited_with(255);
    assert!(!std::path::Path::new("/usr/share/of-ours").exists());
    // What only the user may read is entered all the same.
    let own = small_for(ground);
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o700)).expect("root may");
    ground.srun_in(&own, &["true"]).succeeded().quietly();
    // A group that is not the user's first one opens the door as well.
    let group = ground.user.groups()[0];
    nix::unistd::chown(&secret, Some(0.into()), Some(group.into())).expect("root may");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o640)).expect("root may");
    ground.srun_in(&secret, &["true"]).succeeded().quietly();
    std::fs::remove_file(&secret).expect("it is ours");
}

fn small_for(ground: &Ground) -> std::path::PathBuf {
    Image::Busybox.directory_for(&ground.user)
}

fn no_privileges(ground: &Ground) {
    let script =
        "grep NoNewPrivs /proc/self/status; touch /new 2>/dev/null || echo read-only; id -G";
    let output = ground.srun_in(&small(), &["sh", "-c", script]);
    let host = ground.srun(&["id", "-G"]).stdout();
    assert_eq!(
        output.stdout(),
        format!("NoNewPrivs:\t1\nread-only\n{host}"),
        "{output}"
    );
    // A set-id program of the user's own image is worth nothing.
    let own = small_for(ground);
    let shell = own.join("bin/busybox");
    nix::unistd::chown(&shell, Some(0.into()), Some(0.into())).expect("root may");
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o6755)).expect("root may");
    let output = ground.srun_in(&own, &["/bin/busybox", "id", "-u"]);
    assert_eq!(
        output.stdout(),
        format!("{}\n", ground.user.uid()),
        "{output}"
    );
    // The host is out of reach.
    let output = ground.srun_in(
        &small(),
        &[
            "sh",
            "-c",
            "ls /proc/1/root 2>/dev/null; ls /usr/sbin/slurmd 2>/dev/null",
        ],
    );
    assert_eq!(output.stdout(), "", "{output}");
}

fn environment_scripts(ground: &Ground) {
    let own = small_for(ground);
    let directory = own.join(".singularity.d/env");
    std::fs::create_dir_all(&directory).expect("an own image can be changed");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.join(name), text).expect("an own image can be changed");
    };
    write(
        "10-simple.sh",
        "export A=1\nPATH=/opt/bin:$PATH\nB=\"$A b\"; export B\n",
    );
    let script = "echo $A-$B-$PATH";
    let check = || {
        let output = ground.srun_in(
            &own,
            &["--singularity-env=A=mine", "sh", "-c", script, "0", "a b"],
        );
        output.succeeded().quietly();
        assert!(
            output.stdout().starts_with("mine-1 b-/opt/bin:/"),
            "{output}"
        );
    };
    check();
    write("20-shell.sh", "if true; then export C=$(echo c); fi\n");
    check();
    let output = ground.srun_in(
        &own,
        &[
            "-n2",
            "sh",
            "-c",
            "echo $C \"$@\"; ls /proc/self/fd | wc -l",
            "0",
            "a  'b",
        ],
    );
    output.succeeded().quietly();
    // The lines of two tasks come in any order.
    let text = output.stdout();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["4", "4", "c a  'b", "c a  'b"], "{output}");
}

fn root_too(ground: &Ground) {
    let before = Leftovers::snapshot(&ground.user);
    for image in [
        small(),
        small_file(Form::SquashfsLz4),
        small_file(Form::Ext4),
    ] {
        let mut srun = ground.cluster.root(ground.cluster.login(), "srun");
        srun.arg(image_option(&image))
            .args(["sh", "-c", "id -u; touch /new || echo read-only"]);
        let output = run(&mut srun);
        assert_eq!(output.stdout(), "0\nread-only\n", "{output}");
    }
    before.assert_nothing_new();
}

/// Counts what slurmd and its children do for one step.
fn calls(ground: &Ground) -> usize {
    let node = &ground.cluster.nodes()[0];
    let log = ground.cluster.shared().join("strace");
    let mut find = ground.cluster.root(node, "pidof");
    let slurmd = run(find.arg("slurmd")).stdout().trim().to_owned();
    let mut strace = ground.cluster.root(node, "strace");
    strace
        .args(["-f", "-qq", "-p", &slurmd, "-o"])
        .arg(&log)
        .args([
            "-e",
            "trace=fork,vfork,clone,clone3,mount,unshare,setns,fsopen,open_tree,move_mount",
        ]);
    let strace = test_support::Running::start(&mut strace);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let name = node.name().to_owned();
    ground.srun(&["-w", &name, "/bin/true"]).succeeded();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let mut stop = ground.cluster.root(node, "pkill");
    run(stop.args(["-INT", "-x", "strace"])).succeeded();
    strace.wait(crate::ground::LIMIT);
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    // Threads are Slurm's own, and their number varies.
    let counted = text
        .lines()
        .filter(|line| !line.contains("CLONE_THREAD") && !line.contains("resumed"));
    counted.filter(|line| line.contains('(')).count()
}

fn nothing_for_others(ground: &Ground) {
    let _ = debian();
    let with = calls(ground);
    ground.cluster.set_plugstack("");
    let without = calls(ground);
    assert!(without > 0, "strace saw nothing");
    assert_eq!(with, without);
}
