//! X11: a display of the host's, with its authority, is reached from inside.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use test_support::{capture, Form, Image, Output, Running, LIMIT};

use crate::ground::{text_of, Ground};

/// An X server of the user's, which demands a cookie.
struct Display {
    server: Running,
    name: String,
    authority: PathBuf,
}

impl Display {
    fn start(ground: &Ground) -> Display {
        // Where the server would make it, it would stay behind as the user's.
        let sockets = std::path::Path::new("/tmp/.X11-unix");
        if std::fs::create_dir(sockets).is_ok() {
            crate::ground::chmod(sockets, 0o1777);
        }
        // No other user, whose tests may run beside these, has it.
        let name = format!(":{}", ground.user().uid());
        let authority = ground.user().work().join("authority");
        let cookie = "0123456789abcdef0123456789abcdef";
        let made = capture(ground.user().command("xauth").args([
            "-q",
            "-f",
            text_of(&authority),
            "add",
            &name,
            "MIT-MAGIC-COOKIE-1",
            cookie,
        ]));
        made.succeeded();
        let mut command = ground.user().command("Xvfb");
        command.args([
            &name,
            "-nolisten",
            "tcp",
            "-screen",
            "0",
            "640x480x24",
            "-auth",
        ]);
        let server = Running::start(command.arg(&authority));
        let display = Display {
            server,
            name,
            authority,
        };
        let end = Instant::now() + LIMIT;
        while !display
            .asked(ground.user().command("xdpyinfo"))
            .status
            .success()
        {
            assert!(Instant::now() < end, "Xvfb does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        display
    }

    fn asked(&self, mut command: Command) -> Output {
        capture(
            command
                .env("DISPLAY", &self.name)
                .env("XAUTHORITY", &self.authority),
        )
    }

    fn stop(self) {
        self.server.signal(nix::sys::signal::Signal::SIGTERM);
        self.server.wait(LIMIT);
    }
}

#[test]
fn a_display_with_its_authority_is_reached_from_inside() {
    let ground = Ground::new();
    let display = Display::start(&ground);
    // The host's xdpyinfo and its libraries are programs like any other.
    let libraries = "/usr,/lib,/lib64";
    let binds = "/usr:/usr,/usr/lib:/lib,/usr/lib64:/lib64";
    assert!(
        std::path::Path::new("/lib").is_symlink(),
        "{libraries} are merged"
    );
    for image in [
        Image::Busybox.directory(),
        Image::Busybox.file(Form::SquashfsLz4),
    ] {
        for options in [&[][..], &["-c"], &["-C"], &["-e"], &["--no-home"], &["-p"]] {
            let mut command = ground.singularity(["exec", "-B", binds]);
            command.args(options);
            command.args([text_of(&image), "/usr/bin/xdpyinfo"]);
            let output = display.asked(command);
            let text = output.succeeded().quietly().stdout();
            assert!(text.contains("dimensions:    640x480 pixels"), "{output}");
        }
    }
    // The default place of the authority.
    std::fs::copy(&display.authority, ground.user().home().join(".Xauthority")).unwrap();
    ground
        .user()
        .give(&ground.user().home().join(".Xauthority"));
    for options in [&[][..], &["-c"], &["--no-home"]] {
        let mut command = ground.singularity(["exec", "-B", binds]);
        command.args(options);
        command.args([text_of(&Image::Busybox.directory()), "/usr/bin/xdpyinfo"]);
        let output = capture(command.env("DISPLAY", &display.name));
        output.succeeded().quietly();
    }
    display.stop();
}

#[test]
fn a_display_that_is_not_there_stops_no_program() {
    let ground = Ground::new();
    for options in [&[][..], &["-c"], &["-n"]] {
        let mut command = ground.command(options, "echo $DISPLAY");
        command
            .env("DISPLAY", ":99")
            .env("XAUTHORITY", "/no/such/authority");
        capture(&mut command).succeeded().quietly().wrote(":99\n");
    }
}
