//! The site's configuration as the starter obeys it, who may write it, and the log.

use test_support::{capture, command, Form, Image, Mpi, Output};

use crate::ground::{busybox, text_of, Ground};
use crate::starter::ground;

pub const CONF: &str = "/etc/singularity/singularity.conf";

/// Runs `singularity` with these words where the configuration says this.
pub fn under(ground: &Ground, rules: &str, words: &[&str]) -> Output {
    let scene = format!("cat >{CONF} <<'EOF'\n{rules}\nEOF");
    staged(ground, &scene, words)
}

/// The same after a scene of its own, on a file that is there already.
fn staged(ground: &Ground, scene: &str, words: &[&str]) -> Output {
    let scene = format!("mount -t tmpfs -o mode=755 tmpfs /etc/singularity; : >{CONF}; {scene}");
    capture(&mut ground.on_stage(&scene, words))
}

/// The two ways in that the command has.
const WAYS: [&str; 2] = ["--setuid", "--userns"];

pub fn exec<'a>(options: &[&'a str], image: &'a str) -> Vec<&'a str> {
    exec_by("--setuid", options, image)
}

fn exec_by<'a>(way: &'a str, options: &[&'a str], image: &'a str) -> Vec<&'a str> {
    let mut words = vec!["exec", way];
    words.extend(options);
    words.extend([image, "echo", "in"]);
    words
}

#[test]
fn a_configuration_that_others_could_have_written_is_refused() {
    let ground = ground();
    let words = exec(&[], text_of(busybox()));
    for (scene, line) in [
        (
            "chmod 666 $f".to_owned(),
            format!("trust {CONF}: others than its owner may write to it\nhint: chmod go-w {CONF}"),
        ),
        (
            format!("chown {} $f", ground.user().uid()),
            format!(
                "trust {CONF}: it belongs to user {}\nhint: chown root {CONF}",
                ground.user().uid()
            ),
        ),
        (
            "chmod 777 /etc/singularity".to_owned(),
            "trust /etc/singularity: others than its owner may write to it\nhint: chmod go-w /etc/singularity".to_owned(),
        ),
        (
            "mv $f $f.real; ln -s singularity.conf.real $f".to_owned(),
            format!("read {CONF}: it is a symbolic link\nhint: put the file itself there"),
        ),
        (
            "rm $f; mkfifo $f".to_owned(),
            format!("trust {CONF}: it is not a regular file\nhint: the administrator has to put a file there"),
        ),
        (
            "head -c 2000000 /dev/zero | tr '\\0' '#' >$f".to_owned(),
            format!("read {CONF}: it is larger than 1 MiB\nhint: name the right file"),
        ),
        (
            "rm $f".to_owned(),
            format!("start: there is no {CONF}\nhint: the administrator has to write it; make install SETUID=1 puts one there"),
        ),
    ] {
        let output = staged(&ground, &scene.replace("$f", CONF), &words);
        output
            .exited_with(255)
            .wrote("")
            .complained(&format!("singularity: {line}\n"));
    }
}

#[test]
fn a_mistake_is_told_with_its_place_and_nothing_starts() {
    let ground = ground();
    let words = exec(&[], text_of(busybox()));
    for (rules, line) in [
        (
            "# fine\nallow setuids = yes",
            format!("{CONF}:2:1: unknown key 'allow setuids'\nhint: did you mean 'allow setuid'? singularity config show lists the keys"),
        ),
        (
            "allow setuid = perhaps",
            format!("{CONF}:1:16: 'allow setuid': write yes or no\nhint: the form is allow setuid = yes|no"),
        ),
    ] {
        under(&ground, rules, &words)
            .exited_with(255)
            .wrote("")
            .complained(&format!("singularity: {line}\n"));
    }
}

#[test]
fn what_the_site_forbids_is_refused_with_the_key() {
    let ground = ground();
    let directory = text_of(busybox());
    let file = Image::Busybox.file(Form::SquashfsLz4);
    let file = text_of(&file);
    let key = |key: &str| format!("\nhint: '{key}' in {CONF} is the reason\n");
    let not_allowed = ": this site does not allow it";
    let privileged = |image: &str, kind: &str| {
        format!("enter image {image}: privileged code enters no {kind} here\nhint: 'allow privileged formats' or 'image driver' in {CONF} is the reason\n")
    };
    for (rules, options, image, line) in [
        ("allow setuid = no", &[][..], directory, format!("--setuid: this site does not allow the set-id starter{}", key("allow setuid"))),
        ("allow pid namespaces = no", &["-p"], directory, format!("--pid{not_allowed}{}", key("allow pid namespaces"))),
        ("allow ipc namespaces = no", &["-i"], directory, format!("--ipc{not_allowed}{}", key("allow ipc namespaces"))),
        ("allow net namespaces = no", &["-n"], directory, format!("--net{not_allowed}{}", key("allow net namespaces"))),
        ("allow uts namespaces = no", &["--hostname", "x"], directory, format!("--uts{not_allowed}{}", key("allow uts namespaces"))),
        ("user bind control = no", &["-B", "/usr"], directory, format!("--bind, --home or --workdir{not_allowed}{}", key("user bind control"))),
        ("enable overlay = no", &["--writable-tmpfs"], directory, format!("--overlay or --writable-tmpfs{not_allowed}{}", key("enable overlay"))),
        ("allow privileged formats = erofs", &[], file, privileged(file, "squashfs file")),
        ("allow privileged formats = squashfs", &[], directory, privileged(directory, "directory")),
        ("image driver = fuse", &[], file, privileged(file, "squashfs file")),
        ("limit image directories = /opt/images", &[], directory, format!("use image {directory}: this site does not allow images there\nhint: images must be in /opt/images\n")),
        ("limit image owners = 12345", &[], directory, format!("use image {directory}: this site does not allow images owned by user 0\nhint: ask the site's administrators to install the image\n")),
        ("limit image groups = self", &[], directory, format!("use image {directory}: this site does not allow images of group 0\nhint: ask the site's administrators to install the image\n")),
        ("max loop devices = 0", &[], file, format!("attach image {file} to a loop device: all 0 loop devices that this site allows are taken\nhint: 'max loop devices' in {CONF} is the limit\n")),
    ] {
        for way in WAYS {
            let output = under(&ground, rules, &exec_by(way, options, image));
            // What only privileged code must not do is done without.
            let of_the_starter = ["setuid", "privileged", "image driver", "loop"];
            if way == "--userns" && of_the_starter.iter().any(|word| rules.contains(word)) {
                output.succeeded().quietly().wrote("in\n");
                continue;
            }
            output
                .exited_with(255)
                .wrote("")
                .complained(&format!("singularity: {line}"));
        }
    }
}

#[test]
fn the_starter_itself_refuses_whatever_the_command_would_have_let_through() {
    let ground = ground();
    // The request is written while the site allows it, and handed over when not.
    let words = ["exec", "-p", text_of(busybox()), "id", "-u"];
    let bytes = crate::starter::request(ground.user(), &words);
    std::fs::write(ground.user().work().join("bytes"), bytes).expect("it can be written");
    let script = "import fcntl, os, sys\n\
        end = os.memfd_create('r', os.MFD_ALLOW_SEALING); os.set_inheritable(end, True)\n\
        os.write(end, open('bytes', 'rb').read()); fcntl.fcntl(end, 1033, 15)\n\
        os.execve(sys.argv[1], ['starter', str(end)], {})\n";
    for (rules, line) in [
        (
            "allow setuid = no",
            "start: this site does not allow the set-id starter",
        ),
        (
            "allow pid namespaces = no",
            "--pid: this site does not allow it",
        ),
        (
            "limit image owners = self",
            "this site does not allow images owned by user 0",
        ),
        (
            "allow privileged formats = none",
            "privileged code enters no directory here",
        ),
    ] {
        let scene = format!(
            "mount -t tmpfs -o mode=755 tmpfs /etc/singularity; echo '{rules}' >{CONF}; \
             exec setpriv --reuid={} --regid={} --clear-groups -- /usr/bin/python3 -c \"{script}\" {}",
            ground.user().uid(),
            ground.user().gid(),
            text_of(&crate::starter::path()),
        );
        let none: [&str; 0] = [];
        let output = capture(&mut ground.on_stage(&scene, none));
        output.exited_with(255).wrote("");
        assert!(output.stderr().contains(line), "{rules}: {output}");
    }
}

#[test]
fn what_the_site_adds_and_leaves_out_holds() {
    WAYS.into_iter().for_each(adds_and_leaves_out);
}

fn adds_and_leaves_out(way: &str) {
    let ground = ground();
    let image = text_of(busybox());
    let inside = |rules: &str, text: &str| {
        let words = ["exec", way, image, "sh", "-c", text];
        under(&ground, rules, &words).succeeded().stdout()
    };
    assert_eq!(
        inside(
            "bind path = /usr/share:/mnt/s:ro\nbind path = /no/such/place",
            "test -d /mnt/s/doc && echo there"
        ),
        "there\n"
    );
    assert_eq!(
        inside(
            "mount home = no\nmount cwd = no",
            "ls -d \"$HOME\" 2>/dev/null || echo none"
        ),
        "none\n"
    );
    assert_eq!(inside("mount tmp = no", "ls -A /tmp"), "");
    assert_eq!(
        inside(
            "mount dev = minimal",
            "ls /dev/loop-control 2>/dev/null || echo none"
        ),
        "none\n"
    );
    assert_eq!(
        inside("mount passwd = no", "head -n 1 /etc/passwd | cut -d: -f1"),
        "root\n"
    );
    assert_eq!(
        inside(
            "drop environment = LOGNAME, SHEL*",
            "echo ${LOGNAME-none} ${SHELL-none}"
        ),
        "none none\n"
    );
    for points in ["overlay", "underlay", "auto"] {
        let rules = format!("mount points = {points}");
        assert_eq!(inside(&rules, "test -d \"$HOME\" && echo there"), "there\n");
    }
}

#[test]
fn each_mount_that_the_site_leaves_out_is_not_there() {
    let ground = ground();
    let image = text_of(busybox());
    let there = |way: &str, rules: &str, text: &str| {
        let words = ["exec", way, image, "sh", "-c", text];
        under(&ground, rules, &words).succeeded().stdout()
    };
    for (key, text) in [
        ("mount proc", "test -e /proc/self && echo there; true"),
        ("mount sys", "test -e /sys/kernel && echo there; true"),
        ("mount dev", "test -e /dev/null && echo there; true"),
        (
            "mount hosts",
            "grep -q ' /etc/hosts ' /proc/self/mountinfo && echo there; true",
        ),
        (
            "mount resolv.conf",
            "grep -q ' /etc/resolv.conf ' /proc/self/mountinfo && echo there; true",
        ),
        (
            "mount localtime",
            "grep -q ' /etc/localtime ' /proc/self/mountinfo && echo there; true",
        ),
        (
            "mount group",
            "grep -q \":$(id -g):\" /etc/group && echo there; true",
        ),
    ] {
        for way in WAYS {
            assert_eq!(there(way, "", text), "there\n", "{way}, {key} = yes");
            let no = format!("{key} = no");
            assert_eq!(there(way, &no, text), "", "{way}, {no}");
        }
    }
}

#[test]
fn the_ways_that_the_site_closes_are_closed_for_the_command_too() {
    let ground = ground();
    let file = Image::Busybox.file(Form::SquashfsLz4);
    let file = text_of(&file);
    let userns = ["exec", "--userns", file, "echo", "in"];
    for (rules, line) in [
        (
            "allow user namespaces = no",
            format!("this site does not allow user namespaces\nhint: 'allow user namespaces' in {CONF} is the reason; its set-id starter or Slurm plugin may do it"),
        ),
        (
            "image driver = kernel",
            format!("this site has image files read by the kernel only\nhint: 'image driver' in {CONF} is the reason; its set-id starter or Slurm plugin may do it, or unpack the image into a directory"),
        ),
    ] {
        under(&ground, rules, &userns)
            .exited_with(255)
            .wrote("")
            .complained(&format!("singularity: enter image {file}: {line}\n"));
        // By the starter, asked for or not.
        under(&ground, rules, &exec(&[], file)).succeeded().wrote("in\n");
        let words = ["exec", file, "echo", "in"];
        under(&ground, rules, &words).succeeded().quietly().wrote("in\n");
    }
    // Of a format that the starter does not mount by itself: by the kernel or not at all.
    let ext = Image::Busybox.file(Form::Ext4);
    let words = ["exec", text_of(&ext), "echo", "in"];
    let rules = "image driver = kernel";
    let output = under(&ground, rules, &words);
    output.exited_with(255).wrote("");
    assert!(output.stderr().contains("'image driver' in"), "{output}");
    let rules = "image driver = kernel\nallow user namespaces = no\nallow privileged formats = ext";
    let words = ["exec", text_of(&ext), "grep", " / ", "/proc/self/mountinfo"];
    let output = under(&ground, rules, &words);
    output.succeeded().quietly();
    assert!(output.stdout().contains(" - ext4 "), "{output}");
}

#[test]
fn variables_are_kept_and_ranks_kept_apart_as_the_site_says() {
    WAYS.into_iter().for_each(kept_and_kept_apart);
}

fn kept_and_kept_apart(way: &str) {
    let ground = ground();
    let image = text_of(busybox());
    let words = ["exec", way, "-e", image, "sh", "-c", "echo ${SHELL-none}"];
    under(&ground, "", &words).succeeded().wrote("none\n");
    let output = under(&ground, "keep environment = SHEL*", &words);
    assert_ne!(output.succeeded().stdout(), "none\n");
    // Two at once, by the same name.
    let pair = |rules: &str| {
        let user = ground.user();
        let scene = format!(
            "echo '{rules}' >{CONF}; rm -f first; \
             setpriv --reuid={0} --regid={1} --clear-groups -- env -i {2} /proc/self/fd/9 exec {way} --share=x \
             {image} sh -c 'readlink /proc/self/ns/mnt; sleep 30' </dev/null >first 2>/dev/null & \
             n=0; while [ ! -s first ] && [ $n -lt 200 ]; do sleep 0.1; n=$((n+1)); done",
            user.uid(),
            user.gid(),
            user.environment()
                .iter()
                .map(|(name, value)| format!("{name}='{value}'"))
                .collect::<Vec<_>>()
                .join(" ")
        );
        let words = [
            "exec",
            way,
            "--share=x",
            image,
            "readlink",
            "/proc/self/ns/mnt",
        ];
        let second = staged(&ground, &scene, &words).succeeded().stdout();
        user.kill_all();
        let first = std::fs::read_to_string(user.work().join("first"));
        (first.expect("the first has told its place"), second)
    };
    let (first, second) = pair("");
    assert_eq!(first, second);
    let (first, second) = pair("share between ranks = no");
    assert!(first.starts_with("mnt:["), "{first}");
    assert_ne!(first, second);
}

#[test]
fn copies_go_where_the_site_says_and_launcher_and_mpi_meet_as_it_says() {
    let ground = ground();
    let file = Image::Busybox.file(Form::SquashfsLz4);
    for way in WAYS {
        let words = exec_by(way, &["--stage=yes"], text_of(&file));
        for rules in ["", "stage dir = /dev/shm"] {
            under(&ground, rules, &words).succeeded().wrote("in\n");
        }
        let output = under(&ground, "stage dir = /no/such/place", &words);
        output.exited_with(255).wrote("");
        assert!(output.stderr().contains("/no/such/place"), "{output}");
        // What a rank finds, whose launcher speaks PMIx.
        let user = ground.user();
        for (rules, found) in [
            ("", "hash"),
            ("mpi = pass", "hash"),
            ("mpi hygiene = no", "none"),
            ("mpi = off", "none"),
        ] {
            let scene = format!(
                "echo '{rules}' >{CONF}; setpriv --reuid={} --regid={} --clear-groups -- \
                 env -i PMIX_NAMESPACE=j PMIX_RANK=0 PMIX_SERVER_URI2=j /proc/self/fd/9 exec {way} \
                 {} sh -c 'echo ${{PMIX_MCA_gds-none}}'; exit",
                user.uid(),
                user.gid(),
                text_of(busybox()),
            );
            let output = staged(&ground, &scene, &[]);
            output.succeeded().quietly().wrote(&format!("{found}\n"));
        }
    }
}

#[test]
fn ranks_meet_over_the_bridge_where_the_site_wants_it() {
    let ground = ground();
    let user = ground.user();
    let variables: Vec<String> = user
        .environment()
        .iter()
        .map(|(name, value)| format!("{name}='{value}'"))
        .collect();
    let image = Image::OpenMpiBookworm.directory();
    for way in WAYS {
        for (rules, said, how) in [
            ("", "", "directly"),
            ("mpi = bridge", "", "over the bridge"),
            ("mpi = bridge", "--mpi=auto", "directly"),
            ("mpi = pass", "--mpi=bridge", "over the bridge"),
        ] {
            let scene = format!(
                "echo '{rules}' >{CONF}; setpriv --reuid={} --regid={} --clear-groups -- \
                 env -i {} {} --oversubscribe -n 2 {} -v exec {way} {said} {} ring; exit",
                user.uid(),
                user.gid(),
                variables.join(" "),
                text_of(Mpi::openmpi().launcher()),
                text_of(command()),
                text_of(&image),
            );
            let output = staged(&ground, &scene, &[]);
            output.succeeded();
            let line = format!("Open MPI 4 mpirun and the program meet {how}");
            assert_eq!(output.stderr().matches(&line).count(), 2, "{output}");
            assert!(output.stdout().contains("ring of 2 ranks"), "{output}");
        }
    }
}

#[test]
fn an_owner_that_a_fuse_server_claims_is_not_believed() {
    let ground = ground();
    // An image of root's in an image that the user serves, where all can see it.
    let script = format!(
        "set -e; mkdir in; cp {} in/i.sqfs; chown -R root:root in; mksquashfs in outer.sqfs -quiet -no-progress; \
         rm -r in; chown {1}:{2} outer.sqfs",
        text_of(&Image::Busybox.file(Form::SquashfsLz4)),
        ground.user().uid(),
        ground.user().gid()
    );
    let mut root = std::process::Command::new("sh");
    root.args(["-c", &script]).current_dir(ground.user().work());
    capture(&mut root).succeeded();
    let served = ground.user().directory("served");
    let image = served.join("i.sqfs");
    let scene = format!(
        "echo 'limit image owners = root' >{CONF}; exec 8>&-; \
         setpriv --reuid={} --regid={} --clear-groups -- squashfuse outer.sqfs served",
        ground.user().uid(),
        ground.user().gid()
    );
    let output = staged(&ground, &scene, &exec(&[], text_of(&image)));
    output.exited_with(255).wrote("").complained(&format!(
        "singularity: use image {}: whose it is cannot be trusted: it lies on a FUSE file system\n\
         hint: this site allows images of certain owners only; copy it to another place\n",
        text_of(&image)
    ));
    ground.user().kill_all();
}

#[test]
fn no_copy_is_mounted_that_a_fuse_server_could_change() {
    let ground = ground();
    let user = ground.user();
    let script = "set -e; mkdir in; mksquashfs in outer.sqfs -quiet -no-progress; rmdir in";
    capture(&mut user.shell(script)).succeeded();
    let served = user.directory("served");
    let image = Image::Busybox.file(Form::SquashfsLz4);
    // Root may go there only where the machine lets users allow it.
    let scene = format!(
        "echo user_allow_other >fuse.conf; mount --bind fuse.conf /etc/fuse.conf; exec 8>&-; \
         setpriv --reuid={} --regid={} --clear-groups -- squashfuse -o allow_other outer.sqfs served",
        user.uid(),
        user.gid()
    );
    for (option, goes_on) in [("--stage=served", false), ("--stage=try:served", true)] {
        let output = staged(&ground, &scene, &exec(&[option], text_of(&image)));
        user.kill_all();
        let line = format!(
            "stage image {} to {}: whoever serves its file system (FUSE) could change the copy",
            text_of(&image),
            text_of(&served)
        );
        assert!(output.stderr().contains(&line), "{output}");
        match goes_on {
            true => output.succeeded().wrote("in\n"),
            false => output.exited_with(255).wrote(""),
        };
    }
}

#[test]
fn each_privileged_start_is_one_line_in_the_log() {
    let ground = ground();
    let listener = "import socket, os\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind('/dev/log'); os.chmod('/dev/log', 0o666)\n\
        open('ready', 'w').close(); s.settimeout(10)\n\
        f = open('log', 'wb')\n\
        f.write(s.recv(4096) + b'\\n'); f.flush()\n\
        open('logged', 'w').close()\n";
    ground.user().file("listener.py", listener);
    let run = |rules: &str, words: &[&str]| {
        for file in ["ready", "logged", "log"] {
            let _ = std::fs::remove_file(ground.user().work().join(file));
        }
        // A /dev of this namespace's own, so that the machine's log is left alone.
        let scene = format!(
            "mkdir -p dev; mount -t tmpfs tmpfs dev; cp -a /dev/null /dev/zero /dev/loop* dev/ 2>/dev/null; mount --move dev /dev; \
             echo '{rules}' >{CONF}; /usr/bin/python3 listener.py </dev/null >/dev/null 2>&1 & while [ ! -e ready ]; do sleep 0.01; done"
        );
        let output = staged(&ground, &scene, words);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !ground.user().work().join("logged").exists() && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let log = std::fs::read_to_string(ground.user().work().join("log")).unwrap_or_default();
        (output, log)
    };
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let image = text_of(&image);
    let uid = ground.user().uid();
    let words = ["exec", "--setuid", image, "echo", "a secret word"];
    let (output, log) = run("", &words);
    output.succeeded().wrote("a secret word\n");
    let start = format!("]: user={uid} image=\"{image}\" options=");
    assert!(
        log.starts_with("<85>singularity-starter[") && log.contains(&start),
        "{log}"
    );
    assert!(
        log.ends_with(" outcome=started\n") && !log.contains("secret"),
        "{log}"
    );
    // The command would refuse this itself, and the starter never see it: only what
    // it judges is logged.
    let (output, log) = run("max loop devices = 0", &words);
    output.exited_with(255);
    assert!(log.starts_with("<84>singularity-starter["), "{log}");
    assert!(
        log.contains(&start) && log.contains(" outcome=refused reason=\"attach image "),
        "{log}"
    );
    let (output, log) = run("audit log = no", &words);
    output.succeeded();
    assert_eq!(log, "");
    ground.user().kill_all();
}
