//! By way of another user's processes: root may follow the links of /proc/PID, and
//! does not do it for a user who may not.

use std::fs;

use test_support::attack::SECRET;
use test_support::{capture_within, Form, Image, Running, User, LIMIT};

use crate::ground::{busybox, chmod, text_of};
use crate::starter::{ground, handed_over, request};

/// The request with another path of the image, which is its first field.
fn with_image(bytes: &[u8], path: &str) -> Vec<u8> {
    let (magic, fields) = bytes.split_at(8);
    assert_eq!(fields[0], 1, "the image is the first field");
    let length = u32::from_le_bytes(fields[1..5].try_into().expect("four bytes")) as usize;
    let mut changed = [magic, &[1]].concat();
    changed.extend((path.len() as u32).to_le_bytes());
    changed.extend(path.as_bytes());
    changed.extend(&fields[5 + length..]);
    changed
}

#[test]
fn no_link_of_another_users_process_is_followed() {
    let ground = ground();
    let victim = User::ordinary();
    // In a directory that nobody else can enter, an image and a file that anybody could
    // read who got there.
    let private = victim.directory("private");
    fs::create_dir(private.join("sub")).expect("a directory can be made");
    chmod(&private.join("sub"), 0o777);
    fs::copy(
        Image::Busybox.file(Form::SquashfsLz4),
        private.join("sub/i.sqfs"),
    )
    .expect("an image can be copied");
    chmod(&private.join("sub/i.sqfs"), 0o644);
    victim.file(private.join("sub/secret"), SECRET);
    chmod(&private.join("sub/secret"), 0o644);
    chmod(&private, 0o700);
    let text = "cd private/sub; exec 7<i.sqfs 8<secret; echo ready; exec sleep 60";
    let mut running = Running::start(&mut victim.shell(text));
    running.until("ready\n");
    assert!(running.is_running());
    let process = format!("/proc/{}", running.pid());
    let bytes = request(ground.user(), &["exec", text_of(busybox()), "id", "-u"]);
    for image in ["cwd/i.sqfs", "fd/7", "cwd", "root", "task/../cwd/i.sqfs"] {
        let path = format!("{process}/{image}");
        let mut starter = handed_over(ground.user(), "sealed");
        let output = capture_within(LIMIT, &mut starter, &with_image(&bytes, &path));
        output.exited_with(255).wrote("");
        let line = format!("singularity: {path}: cannot be reached: no search permission");
        assert!(output.stderr().starts_with(&line), "{output}");
    }
    for source in ["cwd", "cwd/secret", "fd/8", "root/etc", "cwd/not-there"] {
        let bind = format!("{process}/{source}:/mnt");
        let output = ground.inside(&["--setuid", "-B", &bind], "cat /mnt /mnt/secret");
        output.exited_with(255).wrote("");
        // Not even whether it is there.
        assert!(
            output.stderr().contains(": permission denied\n"),
            "{source}: {output}"
        );
    }
    let workdir = format!("{process}/cwd/work");
    let output = ground.inside(&["--setuid", "-c", "-W", &workdir], "true");
    output.exited_with(255).wrote("");
    assert!(!private.join("sub/work").exists(), "a directory was made");
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.wait(LIMIT);
}
