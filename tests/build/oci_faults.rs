//! Registries, networks and layers as they should not be.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_support::{capture, Running};

use crate::ground::Ground;
use crate::oci_server::{shell, Door, Layer, Layout, Mood, Proxy, Registry};

/// Two megabytes that no compressor makes smaller, on a busybox.
fn large() -> (Layout, [Layer; 2]) {
    let mut layout = Layout::new();
    let layers = [
        layout.base("gzip -n"),
        layout.layer("gzip -n1", "head -c 2M /dev/urandom >big; tar -cf $1 big"),
    ];
    layout.image("1", r#"{"Cmd":["sha256sum","/big"]}"#, &layers);
    (layout, layers)
}

#[test]
fn interrupted_downloads_go_on_where_they_were() {
    let ground = Ground::new();
    let registry = Registry::start(&Door::Open);
    let (layout, layers) = large();
    registry.push(&layout, "1", "large:1");
    let proxy = Proxy::before(&registry, Mood::Cuts(600_000));
    let uri = format!("docker://{}/large:1", proxy.host());
    let output = ground.run(&["-v", "pull", "image.sqfs", &uri]);
    let text = output.succeeded().stderr();
    assert!(text.contains(": the connection broke"), "{text}");
    assert!(text.contains("going on at byte"), "{text}");
    ground.run(&["run", "image.sqfs"]).succeeded();
    let asked = proxy.requests();
    let ranges = asked
        .iter()
        .filter(|head| head.contains(&layers[1].digest) && head.contains("range: bytes="));
    assert!(ranges.count() >= 3, "{asked:?}");
    assert_eq!(left_over(&ground), "");
}

fn left_over(ground: &Ground) -> String {
    shell(&format!(
        "find {}/.cache/singularity/partial -type f",
        ground.user().work().display()
    ))
}

#[test]
fn a_killed_pull_leaves_what_the_next_one_goes_on_with() {
    let ground = Ground::new();
    let registry = Registry::start(&Door::Open);
    let (layout, layers) = large();
    registry.push(&layout, "1", "large:1");
    let stalling = Proxy::before(&registry, Mood::Stalls(900_000));
    let uri = |host: &str| format!("docker://{host}/large:1");
    let mut pull = Running::start(&mut ground.singularity([
        "-q",
        "pull",
        "image.sqfs",
        &uri(&stalling.host()),
    ]));
    let hex = layers[1].digest.trim_start_matches("sha256:");
    let partial = ground
        .user()
        .work()
        .join(format!(".cache/singularity/partial/sha256-{hex}"));
    let end = Instant::now() + Duration::from_secs(20);
    while fs::metadata(&partial).map_or(0, |data| data.len()) < 500_000 {
        assert!(Instant::now() < end && pull.is_running());
        std::thread::sleep(Duration::from_millis(20));
    }
    pull.signal(Signal::SIGKILL);
    pull.wait(Duration::from_secs(10));
    let listed = ground.run(&["cache", "list"]).stdout();
    assert!(listed.contains("unfinished downloads"), "{listed}");
    // The beginning may be damaged too: then everything is fetched again.
    for damage in [false, true] {
        if damage {
            fs::remove_dir_all(ground.user().work().join(".cache/singularity/blobs/sha256"))
                .expect("it is there");
            ground.user().file(&partial, "x".repeat(500_000));
        }
        let output = ground.run(&["-v", "pull", "-F", "image.sqfs", &uri(&registry.host())]);
        let text = output.succeeded().stderr();
        assert!(text.contains("going on at byte"), "{text}");
        assert_eq!(text.contains("fetching it again"), damage, "{text}");
        ground.run(&["run", "image.sqfs"]).succeeded();
    }
    assert_eq!(left_over(&ground), "");
}

#[test]
fn a_silent_registry_is_given_up_in_time() {
    let ground = Ground::new();
    let registry = Registry::start(&Door::Open);
    let (layout, _) = large();
    registry.push(&layout, "1", "large:1");
    let stalling = Proxy::before(&registry, Mood::Stalls(300));
    let uri = format!("docker://{}/large:1", stalling.host());
    let mut command = ground.singularity(["-q", "pull", "image.sqfs", &uri]);
    let output = capture(command.env("SINGULARITY_REGISTRY_TIMEOUT", "1"));
    let text = output.exited_with(255).stderr();
    assert!(
        text.contains("nothing comes any more") || text.contains("does not answer in time"),
        "{text}"
    );
    assert!(!ground.user().work().join("image.sqfs").exists());
}

#[test]
fn bytes_that_are_not_what_their_digest_says_are_refused() {
    let ground = Ground::new();
    let registry = Registry::start(&Door::Open);
    let (layout, layers) = large();
    registry.push(&layout, "1", "large:1");
    let uri = format!("docker://{}/large:1", registry.host());
    let blob = registry.blob(&layers[1].digest);
    let whole = fs::read(&blob).expect("the registry has it");
    let mut changed = whole.clone();
    changed[1_000_000] ^= 1;
    fs::write(&blob, &changed).expect("it can be written");
    let output = ground.run(&["-q", "pull", "image.sqfs", &uri]);
    let text = output.exited_with(255).stderr();
    let short = &layers[1].digest["sha256:".len()..][..12];
    assert!(
        text.starts_with(&format!(
            "singularity: fetch part {short} of {uri}: its digest is sha256:"
        )),
        "{text}"
    );
    assert!(!ground.user().work().join("image.sqfs").exists());
    assert_eq!(left_over(&ground), "");
    fs::write(&blob, &whole).expect("it can be written");
    ground
        .run(&["-q", "pull", "image.sqfs", &uri])
        .succeeded()
        .quietly();

    // In the cache: noticed, and fetched again.
    let hex = layers[1].digest.trim_start_matches("sha256:");
    let kept = ground
        .user()
        .work()
        .join(".cache/singularity/blobs/sha256")
        .join(hex);
    fs::write(&kept, &changed).expect("root can write it");
    let output = ground.run(&["pull", "-F", "image.sqfs", &uri]);
    let text = output.succeeded().stderr();
    assert!(
        text.contains(" in the cache is damaged; it is fetched again"),
        "{text}"
    );
    assert_eq!(fs::read(&kept).expect("it is there"), whole);

    // In a layout, where nothing checks it before it is unpacked.
    let stored = layout.blob(&layers[1].digest);
    fs::write(&stored, &changed).expect("it can be written");
    let source = format!("oci:{}:1", layout.path().display());
    let output = ground.run(&["-q", "pull", "-F", "other.sqfs", &source]);
    let text = output.exited_with(255).stderr();
    let noticed = text.contains("its digest is sha256:") || text.contains("corrupt gzip stream");
    assert!(noticed, "{text}");
    assert!(!ground.user().work().join("other.sqfs").exists());
}

#[test]
fn several_pulls_of_the_same_image_fetch_each_layer_once() {
    let ground = Ground::new();
    let registry = Registry::start(&Door::Open);
    let (layout, layers) = large();
    registry.push(&layout, "1", "large:1");
    let proxy = Proxy::before(&registry, Mood::Honest);
    let uri = format!("docker://{}/large:1", proxy.host());
    let pulls: Vec<_> = (0..4)
        .map(|number| {
            let name = format!("image{number}.sqfs");
            Running::start(&mut ground.singularity(["-q", "pull", &name, &uri]))
        })
        .collect();
    for pull in pulls {
        pull.wait(Duration::from_secs(60)).succeeded().quietly();
    }
    for layer in &layers {
        let asked = proxy.requests();
        let times = asked
            .iter()
            .filter(|head| head.contains(&layer.digest))
            .count();
        assert_eq!(times, 1, "{asked:?}");
    }
    let sums = shell(&format!(
        "cd {}; for i in 0 1 2 3; do unsquashfs -cat image$i.sqfs big | sha256sum; done | sort -u | wc -l",
        ground.user().work().display()
    ));
    assert_eq!(sums, "1");
    assert_eq!(left_over(&ground), "");
}

#[test]
fn hostile_layers_reach_nothing_outside_of_the_image() {
    let ground = Ground::new();
    let canary = ground.user().file("canary", "alive");
    let mut layout = Layout::new();
    let base = layout.base("gzip -n");
    let home = ground.user().work().display().to_string();
    let hostile = [
        ("up", "echo evil >x; tar -cPf $1 --transform 's,^x,../../../../../../../..HOME/canary,' x".to_owned(), Some("its name leads out of the archive by ..")),
        ("white", "echo >x; tar -cPf $1 --transform 's,^x,etc/.wh...,' x".to_owned(), Some("a whiteout of no entry of the directory")),
        ("hard", "echo >x; ln x y; tar -cPf $1 --transform 'flags=rh;s,^x,../../../..HOME/canary,' x y".to_owned(), Some("leads out of the archive")),
        ("link", "ln -s HOME out; mkdir d; echo evil >d/canary; : >d/.wh.canary; tar -cPf $1 --transform 's,^d,out,' out d/canary d/.wh.canary".to_owned(), None),
        ("absolute", "echo evil >x; tar -cPf $1 --transform 's,^x,HOME/canary,' x".to_owned(), None),
    ];
    for (tag, text, complaint) in hostile {
        let layer = layout.layer("gzip -n", &text.replace("HOME", &home));
        layout.image(tag, "{}", &[base.clone(), layer]);
        let source = format!("oci:{}:{tag}", layout.path().display());
        let output = ground.run(&["-q", "pull", "-F", "image.sqfs", &source]);
        match complaint {
            Some(complaint) => {
                let text = output.exited_with(255).stderr();
                assert!(text.contains(complaint), "{tag}: {text}");
            }
            None => drop(output.succeeded()),
        }
        assert_eq!(
            fs::read_to_string(&canary).expect("it is there"),
            "alive",
            "{tag}"
        );
    }
}

#[test]
fn a_full_disk_is_one_line_and_leaves_nothing() {
    let ground = Ground::new();
    let mut layout = Layout::new();
    let layers = [
        layout.base("gzip -n"),
        // A thousand times larger when it is unpacked.
        layout.layer("gzip -n", "truncate -s 300M bomb; tar -cf $1 bomb"),
    ];
    layout.image("1", "{}", &layers);
    let place = ground.user().directory("small");
    let scene = format!(
        "mount -t tmpfs -o size=16m,mode=1777 tmpfs {}",
        place.display()
    );
    let source = format!("oci:{}:1", layout.path().display());
    let words = ["-q", "pull", "--tmpdir", "small", "image.sqfs", &source];
    let output = capture(&mut ground.on_stage(&scene, words));
    let text = output.exited_with(255).stderr();
    assert!(text.contains("unpack bomb from layer 2 of "), "{text}");
    assert!(
        text.contains("no space left on device\nhint: the file system of "),
        "{text}"
    );
    assert!(!ground.user().work().join("image.sqfs").exists());
}
