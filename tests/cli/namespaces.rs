//! `--ipc`, `--net`, `--uts`, `--hostname`; `--pid` has a module of its own.

use std::fs;

use test_support::{capture, is_privileged};

use crate::ground::{busybox, text_of, Ground};

const KINDS: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// The kinds of namespace that a program started with these options does not
/// share with the test.
fn new_kinds(ground: &Ground, options: &[&str], variable: Option<&str>) -> Vec<&'static str> {
    let list = KINDS.map(|kind| format!("/proc/self/ns/{kind}")).join(" ");
    let mut command = ground.command(options, &format!("for n in {list}; do readlink $n; done"));
    if let Some(variable) = variable {
        command.env(variable, "1");
    }
    let output = capture(&mut command);
    let text = output.succeeded().quietly().stdout();
    let mut found = Vec::new();
    for (kind, theirs) in KINDS.into_iter().zip(text.lines()) {
        let own = fs::read_link(format!("/proc/self/ns/{kind}")).expect("/proc shows namespaces");
        if text_of(&own) != theirs {
            found.push(kind);
        }
    }
    found
}

#[test]
fn each_namespace_is_new_only_when_asked_for() {
    let ground = Ground::new();
    for (options, variable, expected) in [
        (&[][..], None, &["mnt", "user"][..]),
        (&["-i"], Some("SINGULARITY_IPC"), &["ipc", "mnt", "user"]),
        (&["-n"], Some("SINGULARITY_NET"), &["mnt", "net", "user"]),
        (&["-p"], Some("SINGULARITY_PID"), &["mnt", "pid", "user"]),
        (&["--uts"], Some("SINGULARITY_UTS"), &["mnt", "user", "uts"]),
        (&["--hostname", "x"], None, &["mnt", "user", "uts"]),
        (
            &["-C"],
            Some("SINGULARITY_CONTAINALL"),
            &["ipc", "mnt", "pid", "user"],
        ),
        (&["-c"], Some("SINGULARITY_CONTAIN"), &["mnt", "user"]),
        (
            &["-i", "-n", "-p", "--uts"],
            None,
            &["ipc", "mnt", "net", "pid", "user", "uts"],
        ),
    ] {
        // The starter needs no user namespace.
        let kinds = expected
            .iter()
            .filter(|kind| !(is_privileged() && **kind == "user"));
        let expected: Vec<_> = kinds.copied().collect();
        assert_eq!(new_kinds(&ground, options, None), expected, "{options:?}");
        if variable.is_some() {
            assert_eq!(new_kinds(&ground, &[], variable), expected, "{variable:?}");
        }
    }
}

#[test]
fn a_new_network_has_only_a_loopback_device_which_is_up() {
    let ground = Ground::new();
    ground.says(
        &["-n"],
        "ls /sys/class/net; ip -o -4 addr | wc -l; echo hello | nc -l -p 7777 & \
         until nc 127.0.0.1 7777 </dev/null 2>/dev/null; do usleep 5000; done",
        "lo\n1\nhello\n",
    );
}

#[test]
fn a_host_name_inside_is_not_the_hosts() {
    let ground = Ground::new();
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    ground.says(
        &["--hostname", "inside"],
        "hostname; cat /proc/sys/kernel/hostname",
        "inside\ninside\n",
    );
    ground.says(&["--uts"], "hostname", &own);
    ground.says(&[], "hostname", &own);
    let mut command = ground.command(&[], "hostname");
    command.env("SINGULARITY_HOSTNAME", "inside");
    capture(&mut command)
        .succeeded()
        .quietly()
        .wrote("inside\n");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        own
    );
}

#[test]
fn a_host_name_that_is_too_long_is_an_error() {
    let ground = Ground::new();
    let name = "x".repeat(65);
    ground.fails(
        &["exec", "--hostname", &name, text_of(busybox()), "true"],
        255,
        &format!(
            "singularity: set the host name {name}: it is longer than 64 bytes\n\
                  hint: give a shorter one\n"
        ),
    );
}

#[test]
fn message_queues_and_shared_memory_are_private_with_ipc() {
    let ground = Ground::new();
    ground.says(&["-i"], "wc -l </proc/sysvipc/shm", "1\n");
    for _ in 0..2 {
        ground.says(
            &["-i", "-c"],
            "ls /dev/mqueue; touch /dev/mqueue/mine; ls /dev/mqueue",
            "mine\n",
        );
    }
}
