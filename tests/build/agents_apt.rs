//! Debian, from the archive that this machine's own packages come from.

use std::process::Command;
use std::sync::OnceLock;

use test_support::{capture, capture_within, top};

use crate::space_users::{Builder, Who, LIMIT};

/// The archive that this machine's apt is set up with.
fn archive() -> &'static str {
    static ARCHIVE: OnceLock<String> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let output = capture(&mut Command::new(top().join("packages/debian-archive")));
        output.succeeded().stdout().trim().to_owned()
    })
}

fn definition(rest: &str) -> String {
    format!(
        "Bootstrap: mmdebstrap\nOSVersion: bookworm\nMirrorURL: {}\n{rest}",
        archive()
    )
}

/// Packages with a file that has capabilities, one that is set-group-id for a group
/// of the package's own, and a user that the package makes.
fn packages_that_need_root(who: Who) {
    let builder = Builder::new(who);
    let text = definition(
        "\
Variant: apt
Include: iputils-ping dbus-system-bus-common

%post
    set -e
    id -u messagebus >/ids
    install -d -o messagebus -g messagebus -m 2750 /var/lib/probe
    chown 65534:65534 /srv
    grep -q '^_apt:' /etc/passwd
    # apt checks whether it has become the user that it downloads as.
    apt-get update -qq
    apt-get install -qq --no-install-recommends openssh-client
    test -e /etc/ssh/ssh_config
    test \"$(stat -c %a /usr/bin/ssh-agent)\" = 2755
    useradd --create-home somebody
    getcap /bin/ping >>/ids
    apt-get clean
    rm -rf /var/lib/apt/lists/*
",
    );
    let output = builder.build("debian.sqfs", &text);
    output.succeeded().wrote("");
    let ids = builder.says("debian.sqfs", "cat /ids");
    let (id, capabilities) = ids.split_once('\n').expect("two lines");
    assert_eq!(capabilities, "/bin/ping cap_net_raw=ep", "{who:?}");
    let (ours, nobody, agent) = if who.has_owners() {
        let owner = builder.owner("debian.sqfs", "/usr/bin/ssh-agent");
        assert!(!owner.ends_with("/0"), "a group of its own: {owner}");
        let group = builder.says("debian.sqfs", "getent group messagebus | cut -d: -f3");
        (format!("{id}/{group}"), "65534/65534", owner)
    } else {
        ("0/0".to_owned(), "0/0", "-rwxr-sr-x 0/0".to_owned())
    };
    assert_eq!(
        builder.owner("debian.sqfs", "/var/lib/probe"),
        format!("drwxr-s--- {ours}")
    );
    assert_eq!(
        builder.owner("debian.sqfs", "/srv"),
        format!("drwxr-xr-x {nobody}")
    );
    assert_eq!(builder.owner("debian.sqfs", "/usr/bin/ssh-agent"), agent);
    assert_eq!(
        builder.owner("debian.sqfs", "/usr/bin/passwd"),
        "-rwsr-xr-x 0/0"
    );
    // It runs as what root has built does.
    assert_eq!(
        builder.says(
            "debian.sqfs",
            "id -u; dpkg --audit; dpkg-query -W -f '${db:Status-Status}' openssh-client"
        ),
        format!("{}\ninstalled", builder.ground.user().uid())
    );
}

#[test]
fn root_installs_packages_that_need_root() {
    packages_that_need_root(Who::Root);
}

#[test]
fn a_user_with_ids_installs_packages_that_need_root() {
    packages_that_need_root(Who::WithIds);
}

#[test]
fn a_user_without_ids_installs_packages_that_need_root() {
    packages_that_need_root(Who::WithoutIds);
}

#[test]
fn debootstrap_works_for_a_user_without_ids() {
    let builder = Builder::new(Who::WithoutIds);
    let text = format!(
        "Bootstrap: debootstrap\nOSVersion: bookworm\nMirrorURL: {}\n\n%post\n    test -d /proc/self\n",
        archive()
    );
    builder.build("debian.sqfs", &text).succeeded();
    assert_eq!(
        builder.says("debian.sqfs", ". /etc/os-release; echo $VERSION_CODENAME; test -L /proc || test -d /proc && echo a place for proc"),
        "bookworm\na place for proc"
    );
}

#[test]
fn what_goes_wrong_with_an_archive_is_told_in_one_line() {
    let builder = Builder::new(Who::WithoutIds);
    let cases = [
        (
            format!("Bootstrap: mmdebstrap\nOSVersion: nosuch\nMirrorURL: {}\n", archive()),
            "install nosuch with mmdebstrap: ended with status 25: E: The repository ",
            "check OSVersion: MirrorURL has no release of that name",
        ),
        (
            "Bootstrap: mmdebstrap\nOSVersion: bookworm\nMirrorURL: http://127.0.0.1:1/debian\n".to_owned(),
            "install bookworm with mmdebstrap: ended with status 25: Could not connect to 127.0.0.1:1",
            "check MirrorURL, and that this machine reaches it (http_proxy names a proxy)",
        ),
        (
            "Bootstrap: debootstrap\nOSVersion: bookworm\nMirrorURL: http://127.0.0.1:1/debian\n".to_owned(),
            "install bookworm with debootstrap: ended with status 1: E: Failed getting release file",
            "check MirrorURL, and that this machine reaches it (http_proxy names a proxy)",
        ),
        (
            format!("Bootstrap: debootstrap\nOSVersion: nosuch\nMirrorURL: {}\n", archive()),
            "install nosuch with debootstrap: ended with status 1: E: No such script",
            "check OSVersion: MirrorURL has no release of that name",
        ),
        (
            definition("Include: no-such-package\nVariant: essential\n"),
            "install bookworm with mmdebstrap: ended with status 25: E: Unable to locate package no-such-package",
            "check the names of the packages, and which Components they are in",
        ),
        (
            definition("Components: nosuch\nVariant: essential\n"),
            "install bookworm with mmdebstrap: ended with status 25: E: apt-get update did not find any indices",
            "check Components: MirrorURL has none of that name",
        ),
    ];
    for (text, complaint, hint) in cases {
        let output = builder.build("image.sqfs", &text);
        output.exited_with(255).wrote("");
        let stderr = output.stderr();
        let lines: Vec<_> = stderr.lines().collect();
        let [.., error, told] = lines.as_slice() else {
            panic!("{output}");
        };
        assert!(
            error.starts_with(&format!("singularity: {complaint}")),
            "{output}"
        );
        assert!(
            told.starts_with(&format!("hint: {hint}; what was printed is in ")),
            "{output}"
        );
        assert!(builder.log_of(&output).lines().count() > 1, "{output}");
        assert!(!builder.path("image.sqfs").exists());
    }
}

#[test]
fn a_missing_release_and_a_missing_tool_are_told() {
    let builder = Builder::new(Who::WithoutIds);
    let output = builder.build("image.sqfs", "Bootstrap: mmdebstrap\n");
    builder.failed(
        &output,
        "image.sqfs",
        "install the base system: the definition does not say which release",
        "add OSVersion, as in OSVersion: bookworm",
    );
    builder.prepare(&[], "image.sqfs", &definition(""));
    let mut stage = builder.ground.on_stage(
        "mount --bind /dev/null /usr/bin/mmdebstrap",
        ["build", "image.sqfs", "image.sqfs.def"],
    );
    let output = capture_within(LIMIT, &mut stage, b"");
    builder.failed(
        &output,
        "image.sqfs",
        "run mmdebstrap: it is not installed",
        "install it (Debian's package mmdebstrap), or ask the administrator",
    );
}
