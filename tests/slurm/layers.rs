//! What is laid over an image for a step: who writes it, and that it shows no more than
//! the user could see before. With what else root does where only the user could tell.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use test_support::attack::{armed, image_with_many, SECRET};
use test_support::{Form, Image, Output, Running};

use crate::ground::{run, small, small_file, Ground, LIMIT};
use crate::rules::Rules;
use crate::Case;

pub const CASES: &[Case] = &[
    (
        "attack_what_a_step_writes_to_an_overlay_is_its_users",
        written,
    ),
    (
        "attack_a_layer_of_roots_shows_no_more_than_the_user_may_see",
        layers,
    ),
    (
        "attack_a_place_that_only_looks_like_the_sites_is_not_allowed",
        places,
    ),
    ("attack_no_core_of_slurmstepd_is_left", cores),
];

fn inside(ground: &Ground, image: &Path, options: &[&str], text: &str) -> Output {
    let node = ground.on_first_node();
    let words = [&[node.as_str()], options, &["sh", "-c", text]].concat();
    ground.srun_in(image, &words)
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<fs::Metadata> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("root may").flatten() {
        let metadata = entry.metadata().expect("it is there");
        if metadata.is_dir() {
            found.extend(files(&entry.path()));
        }
        found.push(metadata);
    }
    found
}

fn written(ground: &Ground) {
    let image = armed(&ground.user);
    let changes = ground.user.directory("layer-changes");
    let overlay = format!("--singularity-overlay={}", changes.display());
    // Whatever makes the kernel copy set-id programs, and set-id programs of their own.
    // busybox is what it is called.
    let text =
        "grep ^NoNew /proc/self/status; id -u; exec 2>/dev/null; (echo >>s/id); touch s/id; \
                chmod 6755 s/id; mv s/id /id; cp bin/busybox /busybox; chmod 6755 /busybox; \
                /busybox id -u; mknod /node c 1 1; head -c 1 /node; true";
    let uid = ground.user.uid();
    let output = inside(ground, &image, &[&overlay, "--singularity-pwd=/"], text);
    output.wrote(&format!("NoNewPrivs:\t1\n{uid}\n{uid}\n"));
    let all = files(&changes);
    assert!(all.len() > 2, "nothing was written: {output}");
    for file in all {
        let mode = file.mode();
        assert_eq!(file.uid(), uid, "{file:?}");
        assert!(
            mode & 0o170_000 != 0o020_000 || file.rdev() == 0,
            "{file:?}"
        );
    }
    // In memory, where root does it: nothing of it is left anywhere.
    let text = "exec 2>/dev/null; mv s/id s/moved; (echo in >/new) && cat /new; s/id -u; id -u";
    let output = inside(
        ground,
        &image,
        &["--singularity-writable-tmpfs", "--singularity-pwd=/"],
        text,
    );
    assert!(output.stdout().lines().all(|id| id != "0"), "{output}");
    assert!(output.stdout().ends_with(&format!("{uid}\n")), "{output}");
    // A directory of root's is none to write changes to.
    let output = inside(ground, &small(), &["--singularity-overlay=/etc"], "id -u");
    assert!(!output.status.success(), "{output}");
    output.wrote("");
    assert!(!Path::new("/etc/upper").exists());
    // Where there are no user namespaces, nobody does it.
    let rules = Rules::new(ground);
    let output = rules
        .say("allow user namespaces = no")
        .step(&image, &[&overlay, "true"]);
    assert!(!output.status.success(), "{output}");
    output.wrote("");
    assert!(
        output.stderr().contains("allow user namespaces"),
        "{output}"
    );
}

fn layers(ground: &Ground) {
    let (image, below) = image_with_many(&ground.user, 0o711);
    let added = format!("--singularity-bind={}:/many/added", small().display());
    let output = inside(ground, &image, &[&added], "ls /many; echo $(id -u)");
    assert!(!output.stdout().contains("entry1"), "{output}");
    let many = below.parent().expect("it is in one");
    fs::set_permissions(many, fs::Permissions::from_mode(0o755)).expect("root may");
    let rules = Rules::new(ground);
    rules.on_node(&format!("mount -t tmpfs hider {}", below.display()));
    let read = "cat /many/below/secret; cat /many/entry7";
    let covered = rules.step(&image, &[&added, "sh", "-c", read]);
    let writable = ["--singularity-writable-tmpfs", "sh", "-c", read];
    let overlaid = rules.step(&image, &writable);
    rules.on_node(&format!("umount {}", below.display()));
    covered.wrote("known\n");
    overlaid.wrote("");
    let line = "overlay the image in memory: /many/below in it is another mount";
    assert!(overlaid.stderr().contains(line), "{overlaid}");
    assert!(!overlaid.stdout().contains(SECRET.trim()), "{overlaid}");
    let output = rules.step(Path::new("/sys/kernel"), &writable);
    output.wrote("");
    assert!(
        output.stderr().contains(": the kernel makes its files"),
        "{output}"
    );
}

fn places(ground: &Ground) {
    let own = ground.user.directory("look-alike");
    fs::copy(small_file(Form::SquashfsLz4), own.join("i.sqfs")).expect("it can be copied");
    ground.user.give(&own.join("i.sqfs"));
    let ready = own.join("ready");
    let node = ground.on_first_node();
    let mut srun = ground.cluster.command(&ground.user, "srun");
    srun.args(["--quiet", "--overlap", &node, "--job-name=looks"]);
    srun.arg(crate::ground::image_option(&small()));
    srun.arg(format!("--singularity-bind={}:/site/images", own.display()));
    let text = "exec 7</site/images/i.sqfs; echo $$ >/site/images/new; \
                mv /site/images/new /site/images/ready; exec sleep 60";
    let running = Running::start(srun.args(["sh", "-c", text]));
    let end = Instant::now() + LIMIT;
    while !ready.exists() {
        assert!(Instant::now() < end, "the step does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = fs::read_to_string(&ready).expect("it is there");
    let process = format!("/proc/{}", pid.trim());
    let paths = ["fd/7", "root/site/images/i.sqfs"].map(|path| Path::new(&process).join(path));
    let rules = Rules::new(ground);
    let own_list = paths
        .iter()
        .map(|path| rules.step(path, &["id", "-u"]))
        .collect::<Vec<_>>();
    rules.say("limit image directories = /site/images");
    let by_site = paths.iter().map(|path| rules.step(path, &["id", "-u"]));
    let mut outputs: Vec<_> = by_site.collect();
    rules.say("");
    ground.configure("check-image=node allow-directory=/site/images");
    outputs.extend(paths.iter().map(|path| rules.step(path, &["id", "-u"])));
    ground.command("scancel", &["--name=looks"]).succeeded();
    running.wait(LIMIT);
    // By the descriptor it is the user's own, and no more than that.
    own_list[0].wrote(&format!("{}\n", ground.user.uid()));
    for output in outputs {
        output.wrote("");
        assert!(!output.status.success(), "{output}");
    }
}

fn cores(ground: &Ground) {
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let work = ground.user.work();
    let image = crate::ground::image_option(&image);
    // A program's own core is its user's, as on the host.
    let crash = format!(
        "ulimit -c unlimited; srun --quiet --chdir={0} {image} --singularity-bind={0} \
         sh -c 'ulimit -c; kill -SEGV $$'",
        work.display()
    );
    run(ground
        .cluster
        .command(&ground.user, "sh")
        .args(["-c", &crash]))
    .wrote("unlimited\n");
    for delay in (0..10).map(|n| Duration::from_millis(40 * n)) {
        let step = format!(
            "ulimit -c unlimited; exec srun --quiet --job-name=core --chdir={0} {image} \
             --singularity-bind={0} sleep 20",
            work.display()
        );
        let mut shell = ground.cluster.command(&ground.user, "sh");
        let running = Running::start(shell.args(["-c", &step]));
        std::thread::sleep(Duration::from_millis(100) + delay);
        let node = &ground.cluster.nodes()[0];
        // By the user, to whatever of the step the user may send it; then the step's end.
        let mut kill = node.command(&ground.user, "/bin/sh");
        run(kill.args(["-c", "kill -SEGV -1"]));
        ground.command("scancel", &["--name=core"]);
        running.wait(LIMIT);
    }
    for place in [work, Path::new("/")] {
        for entry in fs::read_dir(place).expect("it can be listed").flatten() {
            if !entry.file_name().to_string_lossy().starts_with("core") {
                continue;
            }
            let core = fs::read(entry.path()).unwrap_or_default();
            let whose = &core[..core.len().min(16 << 10)];
            let is_stepds = whose.windows(10).any(|part| part == b"slurmstepd");
            let is_old = place == Path::new("/");
            let uid = entry.metadata().expect("it is there").uid();
            assert!(!is_stepds, "{:?}", entry.path());
            assert!(is_old || uid == ground.user.uid(), "{:?}", entry.path());
            if !is_old {
                fs::remove_file(entry.path()).expect("root may");
            }
        }
    }
}
