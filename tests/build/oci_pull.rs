//! Container images from a real registry, from layouts and from archives.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use test_support::{capture, capture_within, command, Output};

use crate::ground::Ground;
use crate::oci_server::{shell, this_architecture, Door, Layout, Registry};

/// How a container is described that shows all it was given.
const CONFIG: &str = r#"{"Entrypoint":["/bin/sh","-c","echo \"$@\" in $PWD with $FLAVOUR","show"],
    "Cmd":["a  b","it's"],"Env":["PATH=/opt/tool:/bin","FLAVOUR=b\"it'ter $HOME"],
    "WorkingDir":"/srv/work","User":"app","Labels":{"maker":"the tests"}}"#;

/// Three layers, each compressed in another way, of which the last takes away and
/// replaces what is in those below.
fn layered() -> Layout {
    let mut layout = Layout::new();
    let layers = [
        layout.base("gzip -n"),
        layout.layer(
            "zstd -q",
            "mkdir -p data/gone data/opaque opt/tool srv; echo low >data/file; ln data/file data/twin
             echo x >data/gone/x; echo x >data/opaque/x; ln -s ../data srv/link
             printf '#!/bin/sh\\necho tool\\n' >opt/tool/tool; chmod 755 opt/tool/tool
             tar --owner=12 --group=34 --numeric-owner -cf $1 data opt srv",
        ),
        layout.layer(
            "cat",
            "mkdir -p data/opaque; echo high >data/file; : >data/.wh.gone
             : >data/opaque/.wh..wh..opq; echo y >data/opaque/y
             tar -cf $1 --owner=0 --group=0 data",
        ),
    ];
    layout.image("1", CONFIG, &layers);
    layout
}

#[track_caller]
fn pulls(ground: &Ground, words: &[&str]) -> Output {
    let mut all = vec!["-q", "pull"];
    all.extend(words);
    let output = ground.run(&all);
    output.succeeded();
    output
}

fn as_root(directory: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(command());
    let output = capture(
        command
            .args(words)
            .current_dir(directory)
            .env("SINGULARITY_CACHEDIR", directory.join("cache")),
    );
    output.succeeded();
    output
}

/// What is in the image, as somebody sees who is in it.
const LOOK: &str =
    "cat data/file data/twin; ls data data/opaque; cat srv/link/file; tool; echo $FLAVOUR";
const SEEN: &str =
    "high\nlow\ndata:\nfile\nopaque\ntwin\n\ndata/opaque:\ny\nhigh\ntool\nb\"it'ter $HOME\n";

#[test]
fn an_image_of_a_registry_is_pulled_and_runs_as_its_maker_meant() {
    let ground = Ground::new();
    let registry = Registry::start(&Door::Open);
    registry.push(&layered(), "1", "lab/show:1");
    let uri = format!("docker://{}/lab/show:1", registry.host());
    pulls(&ground, &[&uri]).quietly();
    let image = ground.user().work().join("show_1.sqfs");
    let inside = |options: &[&str], text: &str| ground.inside_of(&image, options, text);
    inside(&["--pwd", "/"], LOOK)
        .succeeded()
        .quietly()
        .wrote(SEEN);
    let run = |words: &[&str]| {
        let mut all = vec!["run", "show_1.sqfs"];
        all.extend(words);
        ground.run(&all)
    };
    run(&[]).wrote("a  b it's in /srv/work with b\"it'ter $HOME\n");
    run(&["x", "$y"]).wrote("x $y in /srv/work with b\"it'ter $HOME\n");
    // What the user says is stronger than the image.
    let mut own = ground.singularity(["exec", "show_1.sqfs", "sh", "-c", "echo $FLAVOUR"]);
    capture(own.env("SINGULARITYENV_FLAVOUR", "mine")).wrote("mine\n");
    // By its digest, of which everything is in the cache, nobody is asked.
    drop(registry);
    let list = ground.run(&["cache", "list"]);
    let text = list.succeeded().quietly().stdout();
    assert!(text.contains(&format!("now             {uri}")), "{text}");
}

#[test]
fn root_keeps_every_owner_and_an_ordinary_user_the_same_files() {
    let ground = Ground::new();
    let layout = layered();
    let source = format!("oci:{}:1", layout.path().display());
    let place = tempfile::tempdir().expect("/tmp can be written to");
    as_root(place.path(), &["-q", "pull", "root.sqfs", &source]);
    pulls(&ground, &["user.sqfs", &source]);
    let list = |image: &Path| {
        shell(&format!(
            "unsquashfs -lln {} | tail -n +4 | sed 's/.*squashfs-root/&/' | sort; \
                        unsquashfs -lln {} | grep data/twin | tr -s ' ' | cut -d' ' -f1-3",
            image.display(),
            image.display()
        ))
    };
    let root = list(&place.path().join("root.sqfs"));
    assert!(root.contains("-rw-r--r-- 12/34"), "{root}");
    let user = list(&ground.user().work().join("user.sqfs"));
    let names = |text: &str| {
        text.lines()
            .filter(|line| line.contains("squashfs-root"))
            .count()
    };
    assert_eq!(names(&root), names(&user));
    let image = ground.user().work().join("user.sqfs");
    ground
        .inside_of(&image, &["--pwd", "/"], LOOK)
        .succeeded()
        .wrote(SEEN);
    // And as a directory, which the user can remove again.
    pulls(&ground, &["--format", "dir", "tree", &source]);
    let tree = ground.user().work().join("tree");
    ground
        .inside_of(&tree, &["--pwd", "/"], LOOK)
        .succeeded()
        .wrote(SEEN);
    capture(&mut ground.user().shell("rm -r tree")).succeeded();
}

#[test]
fn layouts_and_archives_of_both_kinds_hold_the_same_image() {
    let ground = Ground::new();
    let layout = layered();
    let work = ground.user().work().display();
    shell(&format!(
        "cd {work}; skopeo copy -q oci:{0}:1 docker-archive:docker.tar:show:1
         tar -C {0} -cf oci.tar .; gzip -k oci.tar; zstd -q docker.tar
         chmod 644 *.tar *.gz *.zst",
        layout.path().display()
    ));
    for source in [
        "docker-archive:docker.tar",
        "docker-archive:docker.tar.zst:show:1",
        "oci-archive:oci.tar",
        "oci-archive:oci.tar.gz:1",
    ] {
        pulls(&ground, &["-F", "image.sqfs", source]);
        let run = ground.run(&["run", "image.sqfs"]);
        run.succeeded()
            .wrote("a  b it's in /srv/work with b\"it'ter $HOME\n");
    }
    let output = ground.run(&["pull", "x.sqfs", "docker-archive:docker.tar:other:1"]);
    let text = output.exited_with(255).stderr();
    let begin = "singularity: read docker-archive:docker.tar:other:1: there is no other:1\nhint: there are ";
    // skopeo completes names that have no host.
    assert!(
        text.starts_with(begin) && text.ends_with("show:1\n"),
        "{text}"
    );
    ground.fails(
        &["pull", "x.sqfs", "docker-daemon:show:1"],
        255,
        "singularity: source docker-daemon:show:1: images inside of Docker or Podman are not read\n\
         hint: write it to a file first: docker save NAME -o FILE, then docker-archive:FILE\n",
    );
}

#[test]
fn this_machines_architecture_is_chosen_or_the_one_that_is_named() {
    let ground = Ground::new();
    let mut layout = Layout::new();
    let other = if this_architecture() == "amd64" {
        "arm64"
    } else {
        "amd64"
    };
    let images = [other, this_architecture()].map(|name| {
        let layers = [
            layout.base("gzip -n"),
            layout.layer("gzip -n", &format!("echo {name} >which; tar -cf $1 which")),
        ];
        (name, layout.manifest(name, "{}", &layers))
    });
    layout.index("all", &images);
    let registry = Registry::start(&Door::Open);
    registry.push(&layout, "all", "all");
    let uri = format!("docker://{}/all", registry.host());
    for (options, expected) in [(&[][..], this_architecture()), (&["--arch", other], other)] {
        let mut words = vec!["-F", "image.sqfs", &uri];
        words.extend(options);
        pulls(&ground, &words);
        let image = ground.user().work().join("image.sqfs");
        ground
            .inside_of(&image, &[], "cat /which")
            .wrote(&format!("{expected}\n"));
    }
    ground.fails(
        &["pull", "--arch", "s390x", "x.sqfs", &uri],
        255,
        &format!(
            "singularity: image docker://{}/all:latest: there is none for s390x\n\
             hint: there are {other}, {}; --arch takes one\n",
            registry.host(),
            this_architecture()
        ),
    );
}

/// A pull that fails in this way, and shows the password nowhere.
#[track_caller]
fn refused(ground: &Ground, uri: &str, variables: &[(&str, &str)], expected: &str) {
    let mut command = ground.singularity(["-d", "pull", "-F", "x.sqfs", uri]);
    let output = capture(command.envs(variables.iter().copied()));
    let text = output.exited_with(255).stderr();
    assert!(text.contains(expected), "{text}");
    assert!(
        !text.contains("wrongword") && !text.contains("d3Jvbmd3b3Jk"),
        "{text}"
    );
}

#[test]
fn a_login_is_taken_from_options_and_files_and_shown_nowhere() {
    for door in [Door::Login, Door::Token] {
        let ground = Ground::new();
        let registry = Registry::start(&door);
        registry.push(&layered(), "1", "lab/show:1");
        let host = registry.host();
        let uri = format!("docker://{host}/lab/show:1");
        let user = ("SINGULARITY_DOCKER_USERNAME", "reader");
        refused(
            &ground,
            &uri,
            &[],
            "the registry wants a login, or does not have it",
        );
        let wrong = ("SINGULARITY_DOCKER_PASSWORD", "wrongword");
        refused(
            &ground,
            &uri,
            &[user, wrong],
            "the registry refuses the login",
        );
        refused(
            &ground,
            &uri,
            &[user],
            "there is no password, and no terminal to ask for it",
        );
        let mut typed = ground.singularity([
            "-d",
            "pull",
            "typed.sqfs",
            &uri,
            "--docker-username",
            "reader",
        ]);
        let output = capture(typed.env("SINGULARITY_DOCKER_PASSWORD", "secret"));
        let text = output.succeeded().stderr();
        assert!(
            !text.contains("secret") && !text.contains("cmVhZGVyOnNlY3JldA"),
            "{text}"
        );

        // As docker login writes it; read from three places.
        let auth = format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"cmVhZGVyOnNlY3JldA==\"}}}}}}");
        let file = ground.user().file("elsewhere/config.json", &auth);
        let directory = file.parent().expect("it is in a directory");
        for (variable, value) in [("DOCKER_CONFIG", directory), ("REGISTRY_AUTH_FILE", &file)] {
            let mut command =
                ground.singularity(["-q", "pull", "--disable-cache", "-F", "file.sqfs", &uri]);
            capture(command.env(variable, value)).succeeded();
        }
        ground.user().file(".docker/config.json", &auth);
        pulls(&ground, &["-F", "file.sqfs", &uri]);
        ground
            .user()
            .file(".docker/config.json", "{\"auths\":{\"x\":secret");
        refused(&ground, &uri, &[], "config.json: it is damaged in line 1");
        // A helper program in PATH.
        let helper =
            "#!/bin/sh\ncat >asked\nprintf '{\"Username\":\"reader\",\"Secret\":\"secret\"}'\n";
        let helper = ground.user().file("bin/docker-credential-test", helper);
        shell(&format!("chmod 755 {}", helper.display()));
        ground.user().file(
            ".docker/config.json",
            format!("{{\"credHelpers\":{{\"{host}\":\"test\"}}}}"),
        );
        let mut command =
            ground.singularity(["-q", "pull", "--disable-cache", "-F", "file.sqfs", &uri]);
        let path = format!(
            "{}/bin:{}",
            ground.user().work().display(),
            test_support::search_path()
        );
        capture(command.env("PATH", path)).succeeded();
        let asked = fs::read_to_string(ground.user().work().join("asked")).expect("it was asked");
        assert_eq!(asked, format!("{host}\n"));
    }
}

#[test]
fn an_authority_of_the_sites_own_has_to_be_named() {
    let ground = Ground::new();
    let registry = Registry::start(&Door::Tls);
    registry.push(&layered(), "1", "show:1");
    let uri = format!("docker://{}/show:1", registry.host());
    let host = registry.host();
    ground.fails(
        &["pull", "x.sqfs", &uri],
        255,
        &format!(
            "singularity: fetch {uri}: the certificate of {host} is not trusted: nobody this \
             machine trusts has signed it\n\
             hint: SSL_CERT_FILE, or /etc/docker/certs.d/{host}/ca.crt, can name the certificate \
             of the site's own authority\n"
        ),
    );
    let mut trusting = ground.singularity(["-q", "pull", "x.sqfs", &uri]);
    capture(trusting.env("SSL_CERT_FILE", registry.authority()))
        .succeeded()
        .quietly();
    // For this user, and this host only.
    let place = format!(".config/containers/certs.d/{host}/ca.crt");
    ground.user().file(
        place,
        fs::read(registry.authority()).expect("it can be read"),
    );
    pulls(&ground, &["y.sqfs", &uri]).quietly();
}

#[test]
fn what_is_not_there_is_told_in_a_line_with_what_to_do() {
    let ground = Ground::new();
    let registry = Registry::start(&Door::Open);
    registry.push(&layered(), "1", "show:1");
    let host = registry.host();
    for (uri, cause, hint) in [
        (
            "docker://show:1".to_owned(),
            "reference docker://show:1: it does not say which registry".to_owned(),
            "write docker://HOST/show:1, or set SINGULARITY_DOCKER_REGISTRY to the host of your registry".to_owned(),
        ),
        (
            format!("docker://{host}/show:2"),
            format!("fetch docker://{host}/show:2: show has no 2 there"),
            "there are 1".to_owned(),
        ),
        (
            format!("docker://{host}/other"),
            format!("fetch docker://{host}/other:latest: {host} has no image other"),
            "check the name".to_owned(),
        ),
        (
            "docker://127.0.0.1:9/x".to_owned(),
            "fetch docker://127.0.0.1:9/x:latest: 127.0.0.1:9 refuses the connection".to_owned(),
            "no registry runs there; check the host and the port".to_owned(),
        ),
        (
            "docker://absent.invalid/x".to_owned(),
            "fetch docker://absent.invalid/x:latest: there is no host absent.invalid".to_owned(),
            "check the name; this machine's resolver does not know it".to_owned(),
        ),
    ] {
        let expected = format!("singularity: {cause}\nhint: {hint}\n");
        ground.fails(&["pull", "x.sqfs", &uri], 255, &expected);
    }
    let mut site = ground.singularity(["-q", "pull", "x.sqfs", "docker://show:1"]);
    capture(site.env("SINGULARITY_DOCKER_REGISTRY", &host)).succeeded();
    ground.fails(
        &["pull", "x.sqfs", &format!("docker://{host}/show:1")],
        255,
        "singularity: make image x.sqfs: there is something of that name already\n\
         hint: choose another name, or replace it with --force\n",
    );
}

#[test]
fn the_cache_is_listed_and_cleaned() {
    let ground = Ground::new();
    let registry = Registry::start(&Door::Open);
    let mut layout = layered();
    registry.push(&layout, "1", "show:1");
    let big = [
        layout.base("gzip -n"),
        layout.layer("gzip -n1", "head -c 3M /dev/urandom >big; tar -cf $1 big"),
    ];
    layout.image("big", "{}", &big);
    registry.push(&layout, "big", "show:big");
    let uri = |tag: &str| format!("docker://{}/show:{tag}", registry.host());
    pulls(&ground, &["--disable-cache", "none.sqfs", &uri("1")]);
    let cache = ground.user().work().join(".cache/singularity");
    assert!(!cache.exists());
    pulls(&ground, &["one.sqfs", &uri("1")]);
    pulls(&ground, &["big.sqfs", &uri("big")]);
    let list = ground.run(&["cache", "list"]);
    let text = list.succeeded().quietly().stdout();
    assert!(
        text.contains(&uri("1")) && text.contains(&uri("big")),
        "{text}"
    );
    assert!(text.contains("MiB  in all, in "), "{text}");
    // What is used stays, what is old goes.
    shell(&format!(
        "find {} -type f -exec touch -d '3 days ago' {{}} +",
        cache.display()
    ));
    pulls(&ground, &["-F", "big.sqfs", &uri("big")]);
    let dry = ground.run(&["cache", "clean", "--days", "2", "-n"]);
    let dry = dry.succeeded().stdout();
    let wet = ground.run(&["cache", "clean", "--days", "2"]);
    assert_eq!(
        dry.replace("would remove", "removed"),
        wet.succeeded().quietly().stdout()
    );
    let list = ground.run(&["cache", "list"]).stdout();
    assert!(
        !list.contains(&uri("1")) && list.contains(&uri("big")),
        "{list}"
    );
    // A blob that somebody reads is kept.
    let layer = cache
        .join("blobs/sha256")
        .join(big[1].digest.trim_start_matches("sha256:"));
    let mut holder = Command::new("flock")
        .args(["--shared", "--no-fork"])
        .arg(&layer)
        .args(["sleep", "60"])
        .spawn()
        .expect("flock is part of util-linux");
    std::thread::sleep(Duration::from_millis(300));
    let clean = ground.run(&["cache", "clean"]).stdout();
    assert!(clean.ends_with("kept 1 files that are in use\n"), "{clean}");
    assert!(layer.exists());
    holder.kill().expect("it runs");
    holder.wait().expect("it ends");
    ground.run(&["cache", "clean"]).succeeded();
    let files = shell(&format!("find {} -type f | wc -l", cache.display()));
    assert_eq!(files, "0");
    let empty = ground.run(&["cache", "list"]).stdout();
    assert!(empty.contains("       0 B  in all, in "), "{empty}");
}

#[test]
fn progress_is_lines_in_a_log_and_nothing_with_q() {
    let ground = Ground::new();
    let registry = Registry::start(&Door::Open);
    registry.push(&layered(), "1", "show:1");
    let uri = format!("docker://{}/show:1", registry.host());
    let limit = Duration::from_secs(60);
    let output = capture_within(
        limit,
        &mut ground.singularity(["pull", "x.sqfs", &uri]),
        b"",
    );
    let text = output.succeeded().stderr();
    let begins = [
        format!("fetch {uri} ("),
        format!("unpack {uri} ("),
        "pack x.sqfs".to_owned(),
    ];
    for begin in begins {
        assert!(text.contains(&format!("singularity: {begin}")), "{text}");
    }
    pulls(&ground, &["-F", "x.sqfs", &uri]).quietly();
}
