//! Resource limits, umask, priority, control group, and what set-up does where
//! they are tight.

use std::fs;

use nix::sys::resource::{getrlimit, setrlimit, Resource};
use test_support::{capture, Form, Image};

use crate::ground::{before_exec, busybox, field, text_of, Ground};

#[test]
fn all_resource_limits_pass_through() {
    let ground = Ground::new();
    let inherit = || {
        for (resource, soft, hard) in [
            (Resource::RLIMIT_NOFILE, 300, 2000),
            (Resource::RLIMIT_FSIZE, 1 << 20, 1 << 30),
            (Resource::RLIMIT_CORE, 0, 4096),
            (Resource::RLIMIT_STACK, 1 << 22, 1 << 24),
            (Resource::RLIMIT_CPU, 1000, 2000),
            (Resource::RLIMIT_MEMLOCK, 4096, 65536),
            (Resource::RLIMIT_DATA, 1 << 33, 1 << 34),
            (Resource::RLIMIT_AS, 1 << 35, 1 << 36),
            (Resource::RLIMIT_MSGQUEUE, 1000, 2000),
            (Resource::RLIMIT_SIGPENDING, 100, 200),
        ] {
            setrlimit(resource, soft, hard)?;
        }
        getrlimit(Resource::RLIMIT_NPROC).map(drop)
    };
    let mut own = ground.user().command(busybox().join("bin/busybox"));
    own.args(["cat", "/proc/self/limits"]);
    before_exec(&mut own, inherit);
    let expected = capture(&mut own).succeeded().stdout();
    for image in [busybox(), &Image::Busybox.file(Form::SquashfsLz4)] {
        for options in [&[][..], &["-p"], &["-C"]] {
            let mut command = ground.singularity(["exec"]);
            command.args(options);
            command.args([text_of(image), "cat", "/proc/self/limits"]);
            before_exec(&mut command, inherit);
            capture(&mut command).succeeded().quietly().wrote(&expected);
        }
    }
}

#[test]
fn umask_priority_and_control_group_pass_through() {
    let ground = Ground::new();
    let text = "umask; cat /proc/self/cgroup; cut -d' ' -f 6,19 /proc/self/stat; \
                grep -E 'Cpus_allowed_list|Mems_allowed_list|Umask' /proc/self/status; cat /proc/self/oom_score_adj";
    for umask in ["0000", "0022", "0077", "0777"] {
        let wrap = |command: &str| {
            format!("umask {umask}; echo 500 >/proc/self/oom_score_adj; exec nice -n 7 taskset -c 0 {command}")
        };
        let expected = capture(
            &mut ground
                .user()
                .shell(&wrap(&format!("busybox sh -c \"{text}\""))),
        );
        for image in [busybox(), &Image::Busybox.file(Form::SquashfsLz4)] {
            let inside = capture(&mut ground.user().shell(&wrap(&format!(
                "singularity exec {} sh -c \"{text}\"",
                image.display()
            ))));
            inside
                .succeeded()
                .quietly()
                .wrote(&expected.succeeded().stdout());
        }
    }
}

#[test]
fn what_set_up_makes_does_not_depend_on_the_umask() {
    let ground = Ground::new();
    let image = ground.image_with("image", &[]);
    for options in ["", "-c", "--writable-tmpfs", "-c -S /scratch -W work"] {
        let text = format!(
            "umask 0777; singularity exec {options} {} sh -c 'cat /etc/passwd >/dev/null && ls / /etc /home >/dev/null && touch ~/x /tmp/$USER && cat /etc/group >/dev/null && echo in'; umask 022; rm -rf work",
            image.display()
        );
        let output = capture(&mut ground.user().shell(&text));
        output.succeeded().quietly().wrote("in\n");
        capture(&mut ground.user().shell("rm -f x /tmp/$USER")).succeeded();
    }
}

#[test]
fn no_file_size_at_all_stops_no_program() {
    let ground = Ground::new();
    for image in [
        busybox(),
        &Image::Busybox.file(Form::SquashfsLz4),
        &Image::Busybox.file(Form::Ext3),
    ] {
        for limit in ["-S -f 0", "-f 0"] {
            let text = format!(
                "ulimit {limit}; exec singularity exec {} sh -c 'ulimit -f; echo in'",
                image.display()
            );
            let mut shell = ground.user().command("bash");
            let output = capture(shell.args(["-c", &text]));
            output.succeeded().wrote("0\nin\n");
            // Only a soft limit leaves room for a file of ours.
            if limit.contains("-S") {
                output.quietly();
            } else {
                let line = "singularity: warning: the limit of file size (ulimit -f) leaves you out of /etc/";
                output.complained(&format!("{line}passwd\n{line}group\n"));
            }
        }
    }
}

#[test]
fn few_descriptors_are_enough() {
    let ground = Ground::new();
    for image in [busybox(), &Image::Busybox.file(Form::SquashfsLz4)] {
        let text = format!(
            "ulimit -S -n 4; exec singularity exec {} sh -c 'ulimit -n; echo in'",
            image.display()
        );
        let output = capture(ground.user().command("bash").args(["-c", &text]));
        output.succeeded().quietly().wrote("4\nin\n");
        // With a hard limit it either works or says why it does not.
        for limit in [3, 4, 6, 8, 12, 16, 20, 24, 28, 32, 64] {
            let text = format!(
                "ulimit -n {limit}; exec singularity exec {} true",
                image.display()
            );
            let output = capture(ground.user().command("bash").args(["-c", &text]));
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.code() == Some(0) {
                output.quietly();
            } else {
                output.exited_with(255);
                assert!(
                    complaint.contains("too many ") && complaint.lines().count() == 2,
                    "{limit}: {output}"
                );
                assert!(limit < 64, "{output}");
            }
        }
    }
}

#[test]
fn the_limit_of_processes_is_told_in_one_line_where_a_server_is_needed() {
    let ground = Ground::new();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let text = format!(
        "ulimit -p 1; exec singularity exec --userns {} true",
        image.display()
    );
    let output = capture(&mut ground.user().shell(&text));
    let text = output.exited_with(255).wrote("").stderr();
    let (start, rest) = text.split_once(": the limit").expect("the limit is told");
    assert!(
        start.starts_with("singularity: start /") && start.ends_with("/image-server"),
        "{text}"
    );
    assert_eq!(
        rest,
        " of processes is reached\nhint: end some of your processes, or raise the limit (ulimit -u)\n"
    );
    let text = format!(
        "ulimit -p 1; exec singularity exec {} true",
        busybox().display()
    );
    capture(&mut ground.user().shell(&text))
        .succeeded()
        .quietly();
}

#[test]
fn little_memory_is_told_or_enough() {
    let ground = Ground::new();
    for kilobytes in [4000, 8000, 16000, 32000] {
        let text = format!(
            "ulimit -v {kilobytes}; exec singularity exec {} true",
            busybox().display()
        );
        let output = capture(&mut ground.user().shell(&text));
        assert_eq!(output.status.code(), Some(0), "{kilobytes}: {output}");
    }
}

#[test]
fn nothing_is_pending_and_no_thread_is_left() {
    let ground = Ground::new();
    for form in [None, Some(Form::SquashfsLz4), Some(Form::Ext4)] {
        let image = form.map_or_else(|| busybox().to_owned(), |form| Image::Busybox.file(form));
        let output = ground.run(&["exec", text_of(&image), "cat", "/proc/self/status"]);
        let status = output.succeeded().quietly().stdout();
        assert_eq!(field(&status, "SigPnd"), "0000000000000000");
        assert_eq!(field(&status, "ShdPnd"), "0000000000000000");
        assert_eq!(field(&status, "Threads"), "1");
        assert_eq!(field(&status, "TracerPid"), "0");
        assert_eq!(field(&status, "Seccomp"), "0");
    }
    assert!(fs::metadata(busybox()).is_ok());
}
