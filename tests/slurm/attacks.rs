//! What an attacker would try against the plugin: a user with jobs, whose images,
//! paths and variables reach slurmstepd while it is root's. The cases of
//! `tests/security`, where they apply.

use std::fs;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use test_support::attack::{
    armed, damaged, image_with, library, links, pipe_and_socket, secret, variables, Racer, SECRET,
};
use test_support::{capture, Form, Image, Output};

use crate::ground::{image_option, run, small, small_file, Ground};
use crate::Case;

pub const CASES: &[Case] = &[
    (
        "attack_set_id_programs_capabilities_and_devices_of_an_image_do_nothing",
        armed_image,
    ),
    (
        "attack_account_and_environment_files_are_only_the_images",
        hostile_files,
    ),
    (
        "attack_links_at_every_mount_point_lead_nowhere_outside",
        hostile_links,
    ),
    (
        "attack_an_image_that_is_exchanged_is_entered_only_where_its_user_may",
        exchanged_image,
    ),
    (
        "attack_a_directory_image_that_is_exchanged_never_shows_roots",
        exchanged_directory,
    ),
    (
        "attack_a_bind_source_that_is_exchanged_never_shows_roots",
        exchanged_source,
    ),
    (
        "attack_a_mount_point_that_is_exchanged_stays_in_the_image",
        exchanged_target,
    ),
    (
        "attack_a_home_or_working_directory_that_is_exchanged_never_shows_roots",
        exchanged_home_and_directory,
    ),
    (
        "attack_no_link_of_another_users_process_is_followed",
        links_of_processes,
    ),
    (
        "attack_what_is_no_file_or_directory_is_refused_at_once",
        no_image,
    ),
    (
        "attack_damaged_superblocks_are_refused_and_slurmd_lives",
        damaged_superblocks,
    ),
    (
        "attack_an_image_that_changes_while_it_is_mounted_ends_only_its_user",
        changing_image,
    ),
    (
        "attack_no_variable_gets_code_into_slurmstepd",
        hostile_variables,
    ),
    ("attack_megabytes_of_variables_are_taken_or_told", megabytes),
    (
        "attack_mounts_over_what_the_system_trusts_stay_inside",
        mounts_over,
    ),
    ("attack_the_steps_of_another_user_are_closed", another_user),
];

/// How long each race goes on.
const RACE: Duration = Duration::from_millis(1500);

/// Runs a shell's text in an image.
fn inside(ground: &Ground, image: &Path, options: &[&str], text: &str) -> Output {
    let words = [options, &["sh", "-c", text]].concat();
    ground.srun_in(image, &words)
}

/// What root reads on every node.
fn on_nodes(ground: &Ground, file: &str) -> Vec<String> {
    let read = |node| {
        let mut cat = ground.cluster.root(node, "cat");
        run(cat.arg(file)).succeeded().stdout()
    };
    ground.cluster.nodes().iter().map(read).collect()
}

/// Nothing but the user is what this program got out.
#[track_caller]
fn assert_no_secret(output: &Output) {
    assert!(!output.stdout().contains(SECRET.trim()), "{output}");
    assert!(!output.stderr().contains(SECRET.trim()), "{output}");
}

/// One line of ours, and nothing from the program.
#[track_caller]
fn assert_one_line(output: &Output, words: &str) {
    output.wrote("");
    let text = output.stderr();
    assert!(text.contains(words), "{words}: {output}");
    assert_eq!(text.matches("error: singularity: ").count(), 1, "{output}");
}

/// Both nodes are there, and a sound step runs on them.
#[track_caller]
fn assert_nodes_work(ground: &Ground) {
    let uid = ground.user.uid();
    let words = ["-N2", "-n2", "id", "-u"];
    let output = ground.srun_in(&small_file(Form::SquashfsLz4), &words);
    output.succeeded().quietly();
    output.wrote(&format!("{uid}\n{uid}\n"));
    ground.cluster.wait_until_idle();
}

fn armed_image(ground: &Ground) {
    let image = armed(&ground.user);
    // In an image the kernel mounts, and in a directory of root's making.
    let tree = ground.user.work().join("armed-directory");
    let mut unpack = Command::new("unsquashfs");
    capture(unpack.args(["-q", "-n", "-d"]).args([&tree, &image])).succeeded();
    let user_namespace = ground.srun(&["readlink", "/proc/self/ns/user"]).stdout();
    let text = "readlink /proc/self/ns/user; s/id -u; \
                grep -E '^(Uid|Gid|Cap[^B]|NoNew)' /proc/self/status; \
                c/grep -E '^(CapPrm|CapEff|NoNew)' /proc/self/status; \
                for n in mem loop kmsg; do head -c 1 /nodes/$n 2>/dev/null || echo no $n; done";
    let (uid, gid) = (ground.user.uid(), ground.user.gid());
    let nothing = "0000000000000000";
    let expected = format!(
        "{user_namespace}{uid}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\n\
         CapInh:\t{nothing}\nCapPrm:\t{nothing}\nCapEff:\t{nothing}\nCapAmb:\t{nothing}\nNoNewPrivs:\t1\n\
         CapPrm:\t{nothing}\nCapEff:\t{nothing}\nNoNewPrivs:\t1\nno mem\nno loop\nno kmsg\n"
    );
    for image in [&image, &tree] {
        inside(ground, image, &["--singularity-pwd=/"], text)
            .succeeded()
            .wrote(&expected);
        // Nor by a batch script that runs in it.
        ground.configure("batch-script=image");
        let options = ["--singularity-pwd=/", &image_option(image)];
        let (batch, output) = ground.batch(&options, "true\n");
        output.succeeded();
        assert!(!batch.contains("root"), "{batch}");
        ground.configure("");
    }
    fs::remove_dir_all(&tree).expect("root may");
}

fn hostile_files(ground: &Ground) {
    let long = "x".repeat(1 << 20);
    let huge = format!("export A={}\n", "y".repeat(10 << 20));
    for (passwd, group, environment) in [
        ("root::0:0::/:/bin/sh\n", "root::0:\n", "export A=1\n"),
        ("\0\0\0\n::::::\n+@all\n-\n", ":::\n\n:::::::\n", "\0"),
        (&*long, &*long, &*huge),
        (
            "%s%n%x:x:1:1:::\n",
            "a:b:4294967295:c\n",
            "rm -rf \"$HOME\"/x; id -u >\"$HOME\"/who\n",
        ),
    ] {
        let image = image_with(&ground.user, "accounts", &["etc", ".singularity.d/env"]);
        ground.user.file(image.join("etc/passwd"), passwd);
        ground.user.file(image.join("etc/group"), group);
        let script = image.join(".singularity.d/env/10-evil.sh");
        ground.user.file(&script, environment);
        let output = inside(ground, &image, &[], "id -u");
        match output.status.code() {
            Some(0) => drop(output.wrote(&format!("{}\n", ground.user.uid()))),
            _ => drop(output.wrote("")),
        }
        fs::remove_dir_all(&image).expect("it can be removed");
    }
    // If the image's text ran, it was as its user.
    if let Ok(who) = fs::metadata(ground.user.work().join("who")) {
        assert_eq!(who.uid(), ground.user.uid());
    }
    assert_nodes_work(ground);
}

fn hostile_links(ground: &Ground) {
    let vault = secret(ground.user.work());
    let vault = vault.parent().expect("it is in a directory");
    let before = on_nodes(ground, "/proc/self/mountinfo");
    for target in [
        Path::new("/"),
        Path::new("../../../../../../../../etc"),
        Path::new("/proc/1/root"),
        Path::new("/proc/self/cwd"),
        vault,
    ] {
        let link = |place: &str| format!("{place} -> {}", target.display());
        let entries = [
            "data", "etc", "tmp", "home", "dev", "proc", "sys", "var", "root", "mnt",
        ]
        .map(link);
        let entries = entries.each_ref().map(String::as_str);
        let image = image_with(&ground.user, "linked", &entries);
        let options = ["--singularity-bind=/usr/share:/mnt/x,/usr/bin:/data"];
        let text = "cat /secret /root/secret /mnt/secret 2>/dev/null; true";
        assert_no_secret(&inside(ground, &image, &options, text));
        fs::remove_dir_all(&image).expect("it can be removed");
    }
    assert_eq!(before, on_nodes(ground, "/proc/self/mountinfo"));
    for node in ground.cluster.nodes() {
        assert!(!node.path("/usr/share/x").exists());
        assert!(!node.path("/mnt/x").exists());
    }
}

/// Starts steps while two paths are exchanged, and looks at each one's output; how
/// many have run their program, and how many were refused.
fn race(ground: &Ground, paths: (&Path, &Path), step: impl Fn() -> Output) -> (u32, u32) {
    // The nodes alone are to judge: they do it as root.
    let racer = Racer::exchange(paths.0, paths.1);
    let begun = Instant::now();
    let (mut started, mut refused) = (0, 0);
    while begun.elapsed() < RACE || (started == 0 || refused == 0) && begun.elapsed() < 4 * RACE {
        let output = step();
        assert_no_secret(&output);
        match output.status.code() {
            Some(0) => started += 1,
            Some(255) => refused += 1,
            _ => panic!("{output}"),
        }
    }
    drop(racer);
    ground.cluster.wait_until_idle();
    (started, refused)
}

/// A squashfs of root's that tells [`SECRET`] to whoever enters it.
fn telling_image(ground: &Ground, mode: u32) -> PathBuf {
    let image = ground.user.work().join("roots.sqfs");
    let text = "set -e; cp -a \"$1\" \"$2\"; printf %s \"$3\" >\"$2/secret\"; \
                mksquashfs \"$2\" \"$4\" -noappend -no-progress -quiet; rm -rf \"$2\"";
    let mut root = Command::new("sh");
    root.args(["-c", text, "sh"]).arg(small());
    root.arg(ground.user.work().join("roots-tree")).arg(SECRET);
    capture(root.arg(&image)).succeeded();
    fs::set_permissions(&image, fs::Permissions::from_mode(mode)).expect("root may");
    image
}

fn exchanged_image(ground: &Ground) {
    let own = Image::Busybox.file_for(&ground.user, Form::SquashfsLz4);
    let step = |image: &Path| {
        let image = image.to_owned();
        move || inside(ground, &image, &[], "cat /secret 2>/dev/null; true")
    };
    // One that the user cannot read; by a link, and the name itself.
    let roots = telling_image(ground, 0o600);
    ground.configure("check-image=node");
    let (a, b) = links(&ground.user, &own, &roots);
    let (started, refused) = race(ground, (&a, &b), step(&a));
    assert!(started > 0 && refused > 0, "{started} and {refused}");
    let (started, refused) = race(ground, (&own, &roots), step(&own));
    assert!(started > 0 && refused > 0, "{started} and {refused}");
    // One that everybody may read, where the site allows only the user's own.
    let (own, roots) = match fs::metadata(&own).expect("it is there").uid() {
        0 => (roots, own),
        _ => (own, roots),
    };
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o644)).expect("root may");
    ground.configure("check-image=node allow-owner=self");
    let (a, b) = links(&ground.user, &own, &roots);
    let (started, refused) = race(ground, (&a, &b), step(&a));
    assert!(started > 0 && refused > 0, "{started} and {refused}");
    for file in [own, roots] {
        fs::remove_file(file).expect("it can be removed");
    }
}

fn exchanged_directory(ground: &Ground) {
    let own = image_with(&ground.user, "own-image", &["etc", "root"]);
    let roots = image_with(&ground.user, "roots-image", &["etc", "root"]);
    fs::write(roots.join("secret"), SECRET).expect("a file can be written");
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o700)).expect("root may");
    nix::unistd::chown(&roots, Some(0.into()), Some(0.into())).expect("root may");
    ground.configure("check-image=node");
    let (started, _) = race(ground, (&own, &roots), || {
        inside(ground, &own, &[], "cat /secret 2>/dev/null; true")
    });
    assert!(started > 0, "nothing was started in time");
    for directory in [own, roots] {
        fs::remove_dir_all(directory).expect("root may");
    }
}

fn exchanged_source(ground: &Ground) {
    let own = ground.user.directory("own-source");
    ground.user.file(own.join("secret"), "mine\n");
    let vault = secret(ground.user.work());
    let vault = vault.parent().expect("it is in a directory");
    let (a, b) = links(&ground.user, &own, vault);
    // The directory, and a file by way of it.
    for (source, text) in [
        (a.clone(), "cat /mnt/secret 2>/dev/null; true"),
        (a.join("secret"), "cat /mnt 2>/dev/null; true"),
    ] {
        let option = format!("--singularity-bind={}:/mnt", source.display());
        let (started, _) = race(ground, (&a, &b), || {
            inside(ground, &small_file(Form::SquashfsLz4), &[&option], text)
        });
        assert!(started > 0, "nothing was started in time");
    }
}

fn exchanged_target(ground: &Ground) {
    let image = image_with(&ground.user, "target", &["etc", "mnt"]);
    // What lies there is a directory now and a way out of the image then.
    let out = image.join("mnt.out");
    symlink("../../../../../../../etc", &out).expect("a link can be made");
    let data = ground.user.directory("data");
    let option = format!("--singularity-bind={}:/mnt", data.display());
    let before = on_nodes(ground, "/proc/self/mountinfo");
    race(ground, (&image.join("mnt"), &out), || {
        inside(ground, &image, &[&option], "true")
    });
    assert_eq!(before, on_nodes(ground, "/proc/self/mountinfo"));
    fs::remove_dir_all(image).expect("root may");
}

fn exchanged_home_and_directory(ground: &Ground) {
    let own = ground.user.directory("own-stand");
    ground.user.file(own.join("secret"), "mine\n");
    let vault = secret(ground.user.work());
    let vault = vault.parent().expect("it is in a directory").to_owned();
    let (a, b) = links(&ground.user, &own, &vault);
    let image = small_file(Form::SquashfsLz4);
    let node = ground.on_first_node();
    let home = format!("--singularity-home={}:/home/me", a.display());
    let start = format!("--chdir={}", a.display());
    let inside_start = format!("--singularity-pwd={}", a.display());
    for option in [&home, &start, &inside_start] {
        let text = "cat secret ./secret /home/me/secret \"$HOME/secret\" 2>/dev/null; true";
        let (started, _) = race(ground, (&a, &b), || {
            inside(ground, &image, &[&node, option], text)
        });
        assert!(started > 0, "{option}: nothing was started in time");
    }
    // The directory itself, which Slurm goes to by its name.
    let start = format!("--chdir={}", own.display());
    let (started, _) = race(ground, (&own, &vault), || {
        inside(
            ground,
            &image,
            &[&node, &start],
            "cat secret 2>/dev/null; true",
        )
    });
    assert!(started > 0, "nothing was started in time");
    for directory in [own, vault] {
        fs::remove_dir_all(directory).expect("root may");
    }
}

fn links_of_processes(ground: &Ground) {
    let victim = test_support::User::ordinary();
    let private = victim.directory("private");
    let place = private.join("sub");
    fs::create_dir(&place).expect("a directory can be made");
    fs::copy(small_file(Form::SquashfsLz4), place.join("i.sqfs")).expect("it can be copied");
    fs::write(place.join("secret"), SECRET).expect("a file can be written");
    for (path, mode) in [
        (place.join("i.sqfs"), 0o644),
        (place.join("secret"), 0o644),
        (place, 0o777),
        (private, 0o700),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may");
    }
    // By the number that it has on its node.
    let text = "cd private/sub; exec 7<i.sqfs; echo $$ >pid.new; mv pid.new pid; exec sleep 60";
    let first = &ground.cluster.nodes()[0];
    let mut shell = first.command(&victim, "/bin/sh");
    let running = test_support::Running::start(shell.args(["-c", text]));
    let told = victim.work().join("private/sub/pid");
    let end = Instant::now() + crate::ground::LIMIT;
    while !told.exists() {
        assert!(Instant::now() < end, "the victim does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = fs::read_to_string(told).expect("it is there");
    let process = format!("/proc/{}", pid.trim());
    let node = ground.on_first_node();
    ground.configure("check-image=node");
    for image in ["cwd/i.sqfs", "fd/7", "cwd"] {
        let output = ground.srun_in(&Path::new(&process).join(image), &[&node, "true"]);
        output.exited_with(255);
        assert_one_line(&output, "cannot be reached: no search permission");
    }
    for source in ["cwd", "cwd/secret", "cwd/not-there"] {
        let option = format!("--singularity-bind={process}/{source}:/mnt");
        let output = inside(ground, &small(), &[&node, &option], "cat /mnt /mnt/secret");
        output.exited_with(255);
        assert_one_line(&output, "permission denied");
    }
    victim.kill_all();
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.wait(crate::ground::LIMIT);
}

fn no_image(ground: &Ground) {
    pipe_and_socket(&ground.user);
    for check in ["submit", "node"] {
        ground.configure(&format!("check-image={check}"));
        for (name, kind) in [
            ("pipe", "a named pipe"),
            ("socket", "a socket"),
            ("/dev/null", "a character device"),
            ("/dev/loop0", "permission denied"),
        ] {
            let begun = Instant::now();
            let output = ground.srun_in(&ground.user.work().join(name), &["true"]);
            output.exited_with(if check == "node" { 255 } else { 1 });
            assert_one_line(&output, kind);
            assert!(begun.elapsed() < Duration::from_secs(60), "{output}");
        }
    }
}

fn damaged_superblocks(ground: &Ground) {
    let directory = ground.user.directory("damaged-images");
    let mut count = 0;
    for form in [Form::SquashfsLz4, Form::ErofsLz4hc] {
        // Not all of them, each of which is a step.
        for (number, bytes) in damaged(form).enumerate() {
            if number % 6 == 0 {
                ground.user.file(directory.join(format!("{count}")), bytes);
                count += 1;
            }
        }
    }
    ground.configure("check-image=node");
    let script = format!(
        "cd {}; for i in *; do srun --quiet --overlap --singularity-image=$PWD/$i id -u 2>&1 & \
         [ $((i % 4)) != 3 ] || wait; done; wait; echo end\n",
        directory.display()
    );
    let (text, output) = ground.batch(&["-N2", "-n2", "--overcommit"], &script);
    output.succeeded();
    assert!(text.ends_with("end\n"), "{text}");
    assert!(text.contains("error: singularity: "), "{text}");
    let uid = ground.user.uid().to_string();
    let ours = |line: &str| {
        line == uid || line == "end" || line.contains("error: ") || line.starts_with("hint:")
    };
    for line in text.lines() {
        assert!(ours(line), "{line} in\n{text}");
    }
    fs::remove_dir_all(directory).expect("root may");
    ground.configure("");
    assert_nodes_work(ground);
}

fn changing_image(ground: &Ground) {
    let image = Image::Busybox.file_for(&ground.user, Form::SquashfsLz4);
    let script = format!(
        "srun --quiet {} sh -c 'sleep 0.7; cat /bin/* >/dev/null 2>&1; echo done' 2>/dev/null & sleep 0.3\n\
         dd if=/dev/urandom of={} bs=4096 seek=1 count=400 conv=notrunc 2>/dev/null; wait; echo end\n",
        image_option(&image),
        image.display()
    );
    let (text, output) = ground.batch(&["-N1", "-n1"], &script);
    output.succeeded();
    assert!(text == "done\nend\n" || text == "end\n", "{text}");
    assert_nodes_work(ground);
    fs::remove_file(image).expect("it can be removed");
}

fn hostile_variables(ground: &Ground) {
    let mark = library(&ground.user);
    let all = variables(&ground.user);
    let image = image_option(&small_file(Form::SquashfsLz4));
    let uid = format!("{}\n", ground.user.uid());
    for arguments in ["", "enter=prefix"] {
        ground.configure(arguments);
        // Slurm's own commands may not like them; then the program has not run.
        for (name, value) in &all {
            // By env: what goes to the host as root must not have them.
            let variable = format!("{name}={value}");
            let words = [&variable, "/usr/bin/srun", "--quiet", &image, "id", "-u"];
            let output = ground.command("env", &words);
            assert!(
                output.stdout() == uid || !output.status.success(),
                "{name}: {output}"
            );
            assert!(!mark.exists(), "{name} got code into a process of root's");
        }
    }
    for made in ["ld-debug", "trace"] {
        let made = ground.user.work().join(made);
        assert!(fs::metadata(&made).map_or(true, |data| data.uid() != 0));
    }
    assert_nodes_work(ground);
}

fn megabytes(ground: &Ground) {
    // The kernel takes six at most.
    let script = format!(
        "ulimit -s unlimited; big=$(head -c 120000 /dev/zero | tr '\\0' x)\n\
         for i in $(seq 40); do export V$i=$big; done\n\
         exec srun --quiet {} sh -c 'echo ${{#V40}}'\n",
        image_option(&small_file(Form::SquashfsLz4))
    );
    let (text, output) = ground.batch(&["-N1", "-n1"], &script);
    output.succeeded();
    assert!(text == "120000\n" || text.contains("error: "), "{text}");
    assert_nodes_work(ground);
}

fn mounts_over(ground: &Ground) {
    ground.user.file("passwd", "evil::0:0::/:/bin/sh\n");
    ground.user.file("conf", "allow privileged formats = ext\n");
    let own = ground.user.directory("own-mount");
    let before = on_nodes(ground, "/proc/self/mountinfo");
    let work = ground.user.work().display();
    for bind in [
        "passwd:/etc/passwd",
        "conf:/etc/singularity/singularity.conf",
        "own-mount:/proc",
        "own-mount:/sys",
        "own-mount:/dev",
        "own-mount:/etc",
        "own-mount:/",
    ] {
        let option = format!("--singularity-bind={work}/{bind}");
        let output = inside(ground, &small(), &[&option], "id -u");
        match output.status.code() {
            Some(0) => drop(output.wrote(&format!("{}\n", ground.user.uid()))),
            _ => drop(output.wrote("")),
        }
        assert_eq!(before, on_nodes(ground, "/proc/self/mountinfo"), "{bind}");
    }
    assert!(own.exists());
    for accounts in on_nodes(ground, "/etc/passwd") {
        assert!(!accounts.contains("evil:"), "{accounts}");
    }
    assert_nodes_work(ground);
}

fn another_user(ground: &Ground) {
    let other = test_support::User::ordinary();
    let ready = ground.cluster.shared().join("ready");
    let data = ground.user.directory("private");
    ground.user.file(data.join("secret"), SECRET);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("root may");
    let mut srun = ground.cluster.command(&ground.user, "srun");
    srun.args(["--quiet", &ground.on_first_node(), "--job-name=victim"]);
    srun.arg(image_option(&small_file(Form::SquashfsLz4)));
    srun.arg(format!(
        "--singularity-bind={}:/mnt,{}:/media",
        data.display(),
        ground.cluster.shared().display()
    ));
    srun.args(["sh", "-c", "touch /media/ready; exec sleep 60"]);
    let running = test_support::Running::start(&mut srun);
    let end = Instant::now() + crate::ground::LIMIT;
    while !ready.exists() {
        assert!(Instant::now() < end, "the step does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    // On the same node, from the host and out of the same image.
    let text = format!(
        "n=0; for d in /proc/[0-9]*; do [ \"$(stat -c %u $d)\" = {} ] || continue; p=${{d#/proc/}}; n=1; \
         nsenter -t $p -m cat /mnt/secret; cat $d/root/mnt/secret $d/cwd/private/secret $d/environ; \
         readlink $d/fd/0 $d/exe; done 2>/dev/null; cat /mnt/secret 2>/dev/null; echo seen $n by $(id -u)",
        ground.user.uid()
    );
    let attempt = |options: &[&str]| {
        let mut srun = ground.cluster.command(&other, "srun");
        srun.args(["--quiet", &ground.on_first_node()]);
        run(srun.args(options).args(["sh", "-c", &text]))
    };
    let image = image_option(&small_file(Form::SquashfsLz4));
    let outputs = [attempt(&[]), attempt(&[&image])];
    ground.command("scancel", &["--name=victim"]).succeeded();
    running.wait(crate::ground::LIMIT);
    for output in outputs {
        output
            .succeeded()
            .wrote(&format!("seen 1 by {}\n", other.uid()));
    }
    let _ = fs::remove_file(ready);
}
