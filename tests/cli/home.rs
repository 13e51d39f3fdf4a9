//! The home directory, the current directory, and where the program starts.

use std::os::unix::fs::symlink;

use test_support::{capture, Form, Image};

use crate::ground::{busybox, chmod, text_of, Ground};

#[test]
fn the_home_directory_is_there_and_writable() {
    let ground = Ground::new();
    let home = text_of(ground.user().home()).to_owned();
    ground.user().file("notes", "mine\n");
    ground.says(
        &[],
        "cd; pwd; cat ~/notes; echo more >>~/notes; cat $HOME/notes",
        &format!("{home}\nmine\nmine\nmore\n"),
    );
}

#[test]
fn another_directory_is_home_at_its_own_path_or_at_another() {
    let ground = Ground::new();
    ground.user().file("other/notes", "other\n");
    let other = format!("{}/other", ground.user().work().display());
    ground.says(
        &["-H", "other"],
        "echo $HOME; cat ~/notes",
        &format!("{other}\nother\n"),
    );
    for at in ["/home/guest", "/root", "/new/home"] {
        let pair = format!("other:{at}");
        ground.says(
            &["--home", &pair],
            "echo $HOME; cat ~/notes; head -n1 /etc/passwd | grep -c :$HOME:; ls -d ~/other 2>&1 | wc -l",
            &format!("{at}\nother\n1\n1\n"),
        );
        let mut command = ground.command(&[], "echo $HOME; cat ~/notes");
        command.env("SINGULARITY_HOME", &pair);
        capture(&mut command)
            .succeeded()
            .quietly()
            .wrote(&format!("{at}\nother\n"));
    }
}

#[test]
fn a_home_that_is_not_there_or_wrongly_written_is_an_error() {
    let ground = Ground::new();
    let image = text_of(busybox());
    let work = text_of(ground.user().work());
    for (home, complaint) in [
        (
            "nowhere",
            format!(
                "home {work}/nowhere: no such file or directory\n\
                 hint: the home directory must exist on the host\n"
            ),
        ),
        (
            ".:/a:ro",
            "home .:/a:ro: it takes no options\nhint: write SOURCE[:DESTINATION]; a colon in a path is written \\:\n".into(),
        ),
        (
            ".:a",
            "home .:a: its destination is not an absolute path\nhint: write SOURCE[:DESTINATION]; a colon in a path is written \\:\n".into(),
        ),
    ] {
        ground.fails(
            &["exec", "-H", home, image, "true"],
            255,
            &format!("singularity: {complaint}"),
        );
    }
}

#[test]
fn the_home_can_be_left_out() {
    let ground = Ground::new();
    let home = text_of(ground.user().home()).to_owned();
    let text = format!("test -e {home} || echo none; echo $HOME");
    for options in [&["--no-home"][..], &["--no-mount", "home"]] {
        let mut options = options.to_vec();
        options.extend(["--no-mount", "cwd"]);
        ground.says(&options, &text, &format!("none\n{home}\n"));
    }
    for (name, value) in [("SINGULARITY_NO_HOME", "1"), ("SINGULARITY_NOHOME", "yes")] {
        let mut command = ground.command(&["--no-mount", "cwd"], &text);
        command.env(name, value);
        capture(&mut command)
            .succeeded()
            .quietly()
            .wrote(&format!("none\n{home}\n"));
    }
}

#[test]
fn without_home_the_current_directory_is_still_there() {
    let ground = Ground::new();
    let here = ground.user().directory("here");
    ground.user().file("here/file", "content\n");
    let mut command = ground.command(&["--no-home"], "pwd; cat file; ls ..");
    command.current_dir(&here);
    capture(&mut command)
        .succeeded()
        .quietly()
        .wrote(&format!("{}\ncontent\nhere\n", here.display()));
}

#[test]
fn the_program_starts_in_the_current_directory() {
    let ground = Ground::new();
    let file = Image::Busybox.file(Form::SquashfsLz4);
    let here = ground.user().directory("a/b c");
    for image in [busybox(), &file] {
        for (directory, expected) in [
            (text_of(&here), text_of(&here)),
            ("/tmp", "/tmp"),
            ("/dev/shm", "/dev/shm"),
            ("/", "/"),
        ] {
            let mut command = ground.command_in(image, &[], "pwd -P");
            command.current_dir(directory);
            capture(&mut command)
                .succeeded()
                .quietly()
                .wrote(&format!("{expected}\n"));
        }
    }
}

#[test]
fn a_current_directory_outside_home_and_tmp_is_shown() {
    let ground = Ground::new();
    let scene = "mkdir /opt/stage; mount -t tmpfs tmpfs /opt/stage; mkdir /opt/stage/data; \
                 echo content >/opt/stage/data/file; cd /opt/stage/data";
    let words = ["exec", text_of(busybox()), "sh", "-c", "pwd; cat file"];
    let output = capture(&mut ground.on_stage(scene, words));
    output
        .succeeded()
        .quietly()
        .wrote("/opt/stage/data\ncontent\n");
    std::fs::remove_dir("/opt/stage").unwrap();
}

#[test]
fn a_current_directory_that_is_not_in_the_image_is_told_in_one_line() {
    let ground = Ground::new();
    let home = ground.user().home().display().to_string();
    let mut command = ground.command(&[], "pwd");
    command.current_dir("/usr/share");
    capture(&mut command)
        .succeeded()
        .wrote(&format!("{home}\n"))
        .complained(&format!(
            "singularity: warning: the current directory /usr/share is not in the image; \
         starting in {home} (bind it with -B, or choose with --pwd)\n"
        ));
    let mut command = ground.command(&["--no-home"], "pwd");
    command.current_dir("/usr/share");
    capture(&mut command).succeeded().wrote("/\n").complained(
        "singularity: warning: the current directory /usr/share is not in the image; \
         starting in / (bind it with -B, or choose with --pwd)\n",
    );
}

#[test]
fn a_current_directory_that_was_removed_is_told_in_one_line() {
    let ground = Ground::new();
    let text = format!(
        "mkdir gone; cd gone; rmdir ../gone; exec singularity exec {} pwd",
        busybox().display()
    );
    let home = ground.user().home().display().to_string();
    capture(&mut ground.user().shell(&text))
        .succeeded()
        .wrote(&format!("{home}\n"))
        .complained(&format!(
            "singularity: warning: the current directory was removed; starting in {home}\n"
        ));
}

#[test]
fn pwd_chooses_where_to_start() {
    let ground = Ground::new();
    ground.says(&["--pwd", "/etc"], "pwd", "/etc\n");
    ground.says(&["--pwd", "/usr/../bin"], "pwd -P", "/bin\n");
    let mut command = ground.command(&[], "pwd");
    command.env("SINGULARITY_PWD", "/etc");
    capture(&mut command).succeeded().quietly().wrote("/etc\n");
    let image = text_of(busybox());
    ground.fails(
        &["exec", "--pwd", "/nowhere", image, "true"],
        255,
        "singularity: start in /nowhere: no such file or directory\n\
         hint: --pwd names a directory of the image, or one that is bound into it\n",
    );
    ground.fails(
        &["exec", "--pwd", "etc", image, "true"],
        255,
        "singularity: --pwd etc: not an absolute path\n\
         hint: give the path as it is in the image, from / on\n",
    );
}

#[test]
fn a_home_reached_through_a_link_is_the_same_home() {
    let ground = Ground::new();
    let real = ground.user().directory("real");
    ground.user().file("real/sub/notes", "mine\n");
    let link = ground.user().work().join("link");
    symlink(&real, &link).unwrap();
    let mut command = ground.command(&[], "echo $HOME; cat ~/sub/notes; pwd -P; cat notes");
    command.env("HOME", &link).current_dir(link.join("sub"));
    capture(&mut command).succeeded().quietly().wrote(&format!(
        "{}\nmine\n{}/sub\nmine\n",
        link.display(),
        real.display()
    ));
}

#[test]
fn an_unset_odd_missing_or_unwritable_home_stops_nothing() {
    let ground = Ground::new();
    let passwd_home = ground.user().home().display().to_string();
    for home in ["relative", ""] {
        let mut command = ground.command(&[], "echo $HOME");
        command.env("HOME", home);
        capture(&mut command)
            .succeeded()
            .quietly()
            .wrote(&format!("{passwd_home}\n"));
    }
    let mut command = ground.command(&[], "echo $HOME");
    command.env_remove("HOME");
    capture(&mut command)
        .succeeded()
        .quietly()
        .wrote(&format!("{passwd_home}\n"));
    for home in ["/no/such/home", "/", "/proc/1/root", "/dev/null"] {
        let mut command = ground.command(&[], "echo $HOME");
        command.env("HOME", home);
        capture(&mut command)
            .succeeded()
            .quietly()
            .wrote(&format!("{home}\n"));
    }
    let locked = ground.user().directory("locked");
    for mode in [0o500, 0o000] {
        chmod(&locked, mode);
        let mut command = ground.command(&[], "echo $HOME; touch ~/x 2>/dev/null || echo refused");
        command.env("HOME", &locked);
        capture(&mut command)
            .succeeded()
            .quietly()
            .wrote(&format!("{}\nrefused\n", locked.display()));
    }
    chmod(&locked, 0o700);
}

#[test]
fn a_home_with_odd_bytes_works_and_adds_no_line_to_passwd() {
    let ground = Ground::new();
    let home = ground.user().directory("a b\nroot::0:0::");
    let mut command = ground.command(
        &[],
        "touch ~/made; wc -l </etc/passwd; grep -c ^root: /etc/passwd",
    );
    command.env("HOME", &home);
    capture(&mut command).succeeded().quietly().wrote("2\n1\n");
    assert!(home.join("made").exists());
}
