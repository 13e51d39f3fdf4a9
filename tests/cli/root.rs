//! The command run by root: no user namespace, mounts by the kernel, nothing of
//! it on the host.

use std::fs;

use test_support::{capture, Form, Image, Running, LIMIT};

use crate::ground::{as_root, busybox, text_of, Ground};

#[test]
fn root_is_root_inside_and_sees_its_own_home() {
    let ground = Ground::new();
    let output = capture(&mut as_root(&[
        "exec",
        text_of(busybox()),
        "sh",
        "-c",
        "id -u; echo $HOME; head -n1 /etc/passwd | cut -d: -f1; readlink /proc/self/ns/user",
    ]));
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    output
        .succeeded()
        .quietly()
        .wrote(&format!("0\n/root\nroot\n{}\n", own.display()));
    drop(ground);
}

#[test]
fn mounts_made_for_root_do_not_show_on_the_host_and_devices_are_freed() {
    let ground = Ground::new();
    ground.user().file("data/file", "content\n");
    let data = ground.user().work().join("data");
    let bind = format!("{}:/mnt/data", data.display());
    for form in [Form::SquashfsLz4, Form::Ext4, Form::Erofs] {
        let image = Image::Busybox.file(form);
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut running = Running::start(&mut as_root(&[
            "exec",
            "-B",
            &bind,
            text_of(&image),
            "sh",
            "-c",
            "cat /mnt/data/file; read x",
        ]));
        running.until("content\n");
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
            let known = table.contains(line) || !line.contains("/mnt/data");
            assert!(known, "{line}");
        }
        running.write(b"\n");
        running.wait(LIMIT).succeeded().quietly().wrote("content\n");
    }
}

#[test]
fn root_may_use_every_option() {
    let ground = Ground::new();
    let work = ground.user().directory("work");
    let image = Image::Busybox.file(Form::SquashfsLz4);
    for options in [
        &["-p"][..],
        &["-n", "-i", "--hostname", "x"],
        &["-C"],
        &["-c", "-W", text_of(&work), "-S", "/scratch"],
        &["--writable-tmpfs"],
        &["-o", text_of(&work)],
        &["--no-home", "-e"],
    ] {
        let mut words = vec!["exec"];
        words.extend(options);
        words.extend([text_of(&image), "sh", "-c", "echo in; exit 3"]);
        let output = capture(&mut as_root(&words));
        output.exited_with(3).quietly().wrote("in\n");
    }
}

#[test]
fn an_image_that_only_root_can_read_is_mounted_for_root() {
    let ground = Ground::new();
    let image = Image::Busybox.file_for(ground.user(), Form::SquashfsLz4);
    crate::ground::chmod(&image, 0o000);
    let output = capture(&mut as_root(&["exec", text_of(&image), "true"]));
    output.succeeded().quietly();
}

#[test]
fn a_damaged_image_is_told_by_the_kernel_in_one_line() {
    let ground = Ground::new();
    for form in [Form::SquashfsGzip, Form::Erofs, Form::Ext4] {
        let image = Image::Busybox.file_for(ground.user(), form);
        let mut bytes = fs::read(&image).unwrap();
        let begin = 8192.min(bytes.len() / 8);
        let end = bytes.len();
        bytes[begin..end].fill(0xa5);
        fs::write(&image, bytes).unwrap();
        let output = capture(&mut as_root(&["exec", text_of(&image), "true"]));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code().expect("an exit status");
        assert!([255, 127, 126].contains(&code), "{output}");
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines.len() == 2
                && lines[0].starts_with("singularity: ")
                && lines[1].starts_with("hint: "),
            "{output}"
        );
    }
}
