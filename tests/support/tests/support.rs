//! The tests' own ground, tested: users, outputs, images, launchers, hosts.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use test_support::*;

#[test]
fn a_user_is_not_root_and_goes_without_a_trace() {
    let user = User::with_groups(2);
    let output =
        capture(&mut user.shell("id -u; id -G; echo $HOME; pwd; umask; touch /tmp/$USER.x; cat"));
    let home = user.home().display();
    let groups: Vec<_> = user.groups().iter().map(u32::to_string).collect();
    output.succeeded().quietly().wrote(&format!(
        "{}\n{} {}\n{home}\n{home}\n0022\n",
        user.uid(),
        user.gid(),
        groups.join(" ")
    ));
    let (name, home) = (user.name().to_owned(), user.home().to_owned());
    drop(user);
    assert!(!home.exists());
    assert!(!std::path::Path::new(&format!("/tmp/{name}.x")).exists());
    for file in ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/subuid"] {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(!text.contains(&name), "{name} is still in {file}");
    }
}

#[test]
fn the_built_command_runs_as_the_user() {
    let user = User::ordinary();
    capture(user.singularity().arg("--version"))
        .succeeded()
        .quietly();
    capture(&mut user.shell("singularity --version"))
        .succeeded()
        .quietly();
}

#[test]
fn fuse_servers_are_on_the_path() {
    let user = User::ordinary();
    capture(
        &mut user.shell("command -v squashfuse_ll && command -v erofsfuse && command -v fuse2fs"),
    )
    .succeeded();
}

#[test]
#[should_panic(expected = "took longer than")]
fn what_takes_too_long_is_killed() {
    let user = User::ordinary();
    capture_within(
        Duration::from_millis(200),
        &mut user.shell("echo hello; sleep 60"),
        b"",
    );
}

#[test]
#[should_panic(expected = "is held open by")]
fn a_child_that_keeps_the_output_is_noticed() {
    let user = User::ordinary();
    capture(&mut user.shell("sleep 60 &"));
}

#[test]
fn leftovers_are_noticed_each_of_its_kind() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    before.assert_nothing_new();
    capture(&mut user.shell(
        "sleep 60 >/dev/null 2>&1 & \
         unshare --user --map-current-user --mount sleep 60 >/dev/null 2>&1 & \
         touch /dev/shm/$USER; ipcmk -M 4096 >/tmp/$USER; sleep 0.1",
    ))
    .succeeded();
    let left = before.left().join("\n");
    for part in [
        "sleep 60",
        "namespace mnt:",
        "namespace user:",
        "file /tmp/",
        "file /dev/shm/",
        "System V",
    ] {
        assert!(left.contains(part), "{part} is not in\n{left}");
    }
    user.kill_all();
    // By its number: other suites have segments of other users meanwhile.
    capture(
        &mut user
            .shell("ipcrm -m \"$(sed -n 's/.*: //p' /tmp/$USER)\" && rm /tmp/$USER /dev/shm/$USER"),
    )
    .succeeded();
    before.assert_nothing_new();
}

/// Suites run side by side, and the kernel's loop devices are everybody's.
#[test]
fn an_image_that_only_somebody_else_has_mounted_is_not_left_behind() {
    let (user, other) = (User::ordinary(), User::ordinary());
    let image = Image::Busybox.file_for(&user, Form::SquashfsLz4);
    let before = Leftovers::snapshot(&user);
    let of_both = Leftovers::snapshot_of(&[&user, &other]);
    let script = format!(
        "mount -o loop,ro {} /mnt && exec setpriv --reuid {} --regid {} --clear-groups \
         sh -c 'touch /var/tmp/$$; read x; rm /var/tmp/$$'",
        image.display(),
        other.uid(),
        other.gid(),
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let mut running = Running::start(&mut unshare);
    let ready = Path::new("/var/tmp").join(running.pid().to_string());
    let end = Instant::now() + LIMIT;
    while !ready.exists() {
        assert!(Instant::now() < end, "it is not mounted");
        std::thread::sleep(Duration::from_millis(5));
    }
    before.assert_nothing_new();
    let left = of_both.left().join("\n");
    assert!(left.contains("loop device"), "{left}");
    running.write(b"\n");
    running.wait(LIMIT).succeeded();
    of_both.assert_nothing_new();
}

#[test]
fn images_of_every_form_are_made_and_readable() {
    let user = User::ordinary();
    let directory = Image::Busybox.directory();
    capture(user.command("cat").arg(directory.join("etc/os-release"))).succeeded();
    for form in Form::ALL {
        for file in [Image::Busybox.file(form), Image::Busybox.executable(form)] {
            capture(user.command("head").args(["-c1"]).arg(file)).succeeded();
        }
    }
    let own = Image::Busybox.directory_for(&user);
    assert_eq!(own.join("etc").metadata().unwrap().uid(), user.uid());
}

#[test]
fn host_launchers_start_the_ring() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    for mpi in [
        Mpi::openmpi(),
        Mpi::mpich(),
        Mpi::openmpi5(),
        Mpi::openmpi4_of_pypi(),
    ] {
        let output = capture(mpi.command(&user, 4).arg(mpi.ring()));
        let text = output.succeeded().stdout();
        assert!(text.contains("ring of 4 ranks"), "{output}");
    }
    before.assert_nothing_new();
}

#[test]
fn images_hold_the_mpi_they_are_named_for() {
    let user = User::ordinary();
    for (image, library) in [
        (Image::OpenMpiBullseye, "openmpi-4.1.0"),
        (Image::OpenMpiBookworm, "openmpi-4.1.4"),
        (Image::OpenMpiTrixie, "openmpi-5.0"),
        (Image::MpichBookworm, "mpich-4.0"),
    ] {
        let tree = image.directory();
        for program in ["ring", "latency"] {
            let path = tree.join("usr/local/bin").join(program);
            capture(user.command("test").arg("-x").arg(path)).succeeded();
        }
        let list = std::fs::read_to_string(tree.join("var/lib/dpkg/status")).unwrap();
        let (package, version) = library.split_once('-').unwrap();
        let of_package = |block: &str| {
            block.contains(&format!("Source: {package}"))
                || block.contains(&format!("Package: {package}"))
        };
        assert!(
            list.split("\n\n")
                .any(|block| of_package(block) && block.contains(&format!("Version: {version}"))),
            "{library} is not in {}",
            tree.display()
        );
    }
}

#[test]
fn two_hosts_are_two_and_leave_nothing() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    let hosts = Hosts::two(&user);
    for node in hosts.nodes() {
        let text = "hostname; ls /tmp /dev/shm; touch /tmp/$(hostname); cat /proc/1/comm; ping -c1 one >/dev/null 2>&1; getent hosts two login";
        let output = capture(node.command(&user, "sh").args(["-c", text]));
        output.succeeded().quietly();
        assert!(
            output.stdout().starts_with(&format!("{}\n", node.name())),
            "{output}"
        );
    }
    let agent = hosts.agent().to_owned();
    capture(
        hosts.nodes()[0]
            .command(&user, agent)
            .args(["two", "hostname; echo out; echo err >&2; exit 7"]),
    )
    .exited_with(7)
    .wrote("two\nout\n")
    .complained("err\n");
    for mpi in [Mpi::openmpi(), Mpi::openmpi5()] {
        let output = capture(hosts.mpirun(&mpi, &user, 2).arg(mpi.ring()));
        let text = output.succeeded().stdout();
        assert!(
            text.contains("ring of 4 ranks") && text.contains("two"),
            "{output}"
        );
    }
    // Hydra reaches both hosts. No ring: over TCP, the UCX under Debian's MPICH
    // 4.0.2 never ends in MPI_Finalize, images or not.
    let output = capture(hosts.mpirun(&Mpi::mpich(), &user, 1).arg("hostname"));
    let mut names: Vec<_> = output
        .succeeded()
        .stdout()
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort();
    assert_eq!(names, ["one", "two"], "{output}");
    drop(hosts);
    before.assert_nothing_new();
}
