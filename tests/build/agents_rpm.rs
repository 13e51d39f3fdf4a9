//! RPM distributions, from repositories that are made here: packages with an owner,
//! a user, capabilities and set-id bits, as real ones have.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use test_support::{capture, capture_within};

use crate::ground::text_of;
use crate::space_users::{Builder, Who, LIMIT};
use crate::web::Web;

/// A system of a busybox, and a package on top of it that needs root.
const SPECIFICATION: &str = r#"
Name: tiny-system
Version: 1
Release: 1
Summary: A busybox
License: BSD-3-Clause
%description
A system of one program.

%package -n tiny-service
Summary: What needs root to be installed
Requires: tiny-system
Requires(pre): tiny-system
%description -n tiny-service
It has a user, capabilities and a set-id program.

%install
mkdir -p %{buildroot}/bin %{buildroot}/etc %{buildroot}/opt/tiny %{buildroot}/var/lib/tiny
cp /bin/busybox %{buildroot}/bin/busybox
for name in cat chown echo getcap grep id ls sh stat test touch; do
    ln -s busybox %{buildroot}/bin/$name
done
echo 'root:x:0:0:root:/root:/bin/sh' >%{buildroot}/etc/passwd
echo 'root:x:0:' >%{buildroot}/etc/group
echo x >%{buildroot}/opt/tiny/setuid
echo x >%{buildroot}/opt/tiny/capable

%files
/bin/*
%config(noreplace) /etc/passwd
%config(noreplace) /etc/group

%pre -n tiny-service
grep -q '^tiny:' /etc/passwd || echo 'tiny:x:77:77::/:/bin/sh' >>/etc/passwd
grep -q '^tiny:' /etc/group || echo 'tiny:x:77:' >>/etc/group

%files -n tiny-service
%attr(4755,root,root) /opt/tiny/setuid
%caps(cap_net_raw=ep) /opt/tiny/capable
%attr(0750,tiny,tiny) /var/lib/tiny

%post -n tiny-service
set -e
touch /opt/tiny/posted
chown tiny:tiny /opt/tiny/posted
test -c /dev/null
test -r /proc/self/status
"#;

/// A repository of both packages, signed, and the key.
/// Each test has its own: what is static is not dropped, and would stay.
struct Repository {
    directory: PathBuf,
    key: PathBuf,
    _made: tempfile::TempDir,
}

fn repository() -> Repository {
    let made = tempfile::Builder::new()
        .prefix("singularity-test-")
        .tempdir_in("/var/tmp")
        .expect("/var/tmp can be written to");
    let top = made.path();
    crate::ground::chmod(top, 0o755);
    fs::write(top.join("tiny.spec"), SPECIFICATION).expect("written");
    let script = r#"
            set -e
            umask 022
            export GNUPGHOME=$PWD/keys HOME=$PWD
            rpmbuild -bb --define "_topdir $PWD" --define 'debug_package %{nil}' tiny.spec
            mkdir 9 && cp RPMS/*/*.rpm 9
            mkdir -m 700 keys
            gpg --batch --passphrase '' --quick-gen-key 'Tiny <tiny@example.org>' rsa2048 sign never
            gpg --export --armor >key.asc
            rpmsign --addsign --define '_gpg_name Tiny' --define '__gpg /usr/bin/gpg' 9/*.rpm
            gpgconf --kill all
            createrepo_c 9
        "#;
    let mut make = Command::new("sh");
    make.args(["-c", script]).current_dir(top);
    capture(&mut make).succeeded();
    Repository {
        directory: top.to_owned(),
        key: top.join("key.asc"),
        _made: made,
    }
}

fn is_as_packaged(builder: &Builder, image: &str) {
    let owner = if builder.who.has_owners() {
        "77/77"
    } else {
        "0/0"
    };
    for (file, expected) in [
        ("/var/lib/tiny", format!("drwxr-x--- {owner}")),
        ("/opt/tiny/posted", format!("-rw-r--r-- {owner}")),
        ("/opt/tiny/setuid", "-rwsr-xr-x 0/0".to_owned()),
    ] {
        assert_eq!(builder.owner(image, file), expected, "{file}");
    }
    // Unpacked by root, the capability is what the package has.
    let out = builder.ground.user().directory("unpacked");
    let mut unpack = Command::new("unsquashfs");
    unpack
        .args(["-quiet", "-no-progress", "-force", "-dest", text_of(&out)])
        .args([text_of(&builder.path(image)), "opt/tiny/capable"]);
    capture(&mut unpack).succeeded();
    let capabilities = capture(Command::new("getcap").arg(out.join("opt/tiny/capable")));
    assert!(
        capabilities
            .succeeded()
            .stdout()
            .ends_with("cap_net_raw=ep\n"),
        "{capabilities}"
    );
}

#[test]
fn packages_come_from_a_directory_whoever_builds() {
    let repository = repository();
    let mirror = repository.directory.display();
    for who in Who::ALL {
        let builder = Builder::new(who);
        let text = format!(
            "Bootstrap: dnf\nOSVersion: 9\nMirrorURL: file://{mirror}/%{{OSVERSION}}\n\
             Include: tiny-service\n\n%post\n    grep -q ^tiny: /etc/passwd\n    test -x /bin/sh\n"
        );
        builder.build("tiny.sqfs", &text).succeeded().wrote("");
        is_as_packaged(&builder, "tiny.sqfs");
        assert_eq!(
            builder.says(
                "tiny.sqfs",
                "test -e /var/lib/rpm/rpmdb.sqlite && echo there"
            ),
            "there"
        );
    }
}

#[test]
fn the_same_packages_give_the_same_bytes() {
    let repository = repository();
    let mirror = repository.directory.display();
    let builder = Builder::new(Who::WithoutIds);
    let text = format!(
        "Bootstrap: dnf\nMirrorURL: file://{mirror}/9\nInclude: tiny-service\n\n%post\n    echo 1 >/srv\n"
    );
    let bytes = ["first.sqfs", "second.sqfs"].map(|name| {
        let mut build = builder.prepare(&[], name, &text);
        build.env("SOURCE_DATE_EPOCH", "1700000000");
        capture_within(LIMIT, &mut build, b"").succeeded();
        fs::read(builder.path(name)).expect("it is there")
    });
    assert!(bytes[0] == bytes[1], "the images differ");
}

#[test]
fn signed_packages_come_over_http_and_unsigned_ones_do_not() {
    let repository = repository();
    let web = Web::serve(&repository.directory);
    let builder = Builder::new(Who::WithoutIds);
    let header = format!(
        "Bootstrap: yum\nOSVersion: 9\nMirrorURL: {}/%{{OSVERSION}}\nInclude: tiny-system\n",
        web.address()
    );
    let key = text_of(&repository.key);
    let told = builder.build("signed.sqfs", &format!("{header}Keyring: {key}\n"));
    assert!(!told.succeeded().stderr().contains("warning"), "{told}");
    let unchecked = builder.build("unchecked.sqfs", &header);
    assert!(
        unchecked
            .succeeded()
            .stderr()
            .contains("are not checked: Keyring"),
        "{unchecked}"
    );
    let other = builder.ground.user().file("other.asc", OTHER_KEY);
    let output = builder.build(
        "refused.sqfs",
        &format!("{header}Keyring: {}\n", text_of(&other)),
    );
    output.exited_with(255);
    assert!(!builder.path("refused.sqfs").exists());
}

/// No key at all.
const OTHER_KEY: &str =
    "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n";

#[test]
fn what_goes_wrong_with_a_repository_is_told_in_one_line() {
    let builder = Builder::new(Who::WithoutIds);
    let repository = repository();
    let mirror = repository.directory.join("9");
    let output = builder.build(
        "image.sqfs",
        &format!(
            "Bootstrap: dnf\nMirrorURL: file://{}\nInclude: nosuch\n",
            mirror.display()
        ),
    );
    builder.failed(
        &output,
        "image.sqfs",
        "install the base system with dnf: ended with status 1: No match for argument: nosuch",
        "check the names of the packages, and which Components they are in; \
         what was printed is in LOG",
    );
    let output = builder.build("image.sqfs", "Bootstrap: dnf\nInclude: tiny-system\n");
    builder.failed(
        &output,
        "image.sqfs",
        "install the base system: the definition does not say where packages come from",
        "add MirrorURL, the address of a repository: the directory that holds repodata",
    );
    let output = builder.build(
        "image.sqfs",
        "Bootstrap: dnf\nMirrorURL: http://127.0.0.1:1/\nInclude: tiny-system\n",
    );
    output.exited_with(255);
    let stderr = output.stderr();
    assert!(
        stderr.contains("singularity: fetch the lists of packages: ended with status 1: ")
            && stderr.contains("127.0.0.1")
            && stderr.contains("\nhint: check MirrorURL, and that this machine reaches it"),
        "{output}"
    );
    assert!(builder.log_of(&output).contains("repomd.xml"));
}

#[test]
fn a_busybox_comes_from_the_host_a_file_or_an_address() {
    let builder = Builder::new(Who::WithoutIds);
    let busybox = crate::ground::busybox().join("bin");
    let web = Web::serve(&busybox);
    for (name, mirror) in [
        ("host.sqfs", String::new()),
        (
            "file.sqfs",
            format!("MirrorURL: {}\n", busybox.join("busybox").display()),
        ),
        (
            "web.sqfs",
            format!("MirrorURL: {}/busybox\n", web.address()),
        ),
    ] {
        builder
            .build(name, &format!("Bootstrap: busybox\n{mirror}"))
            .succeeded();
        assert_eq!(
            builder.says(name, "ls -d /proc /sys /dev /tmp /root; readlink /bin/ls"),
            "/dev\n/proc\n/root\n/sys\n/tmp\n/bin/busybox"
        );
    }
    let output = builder.build("not.sqfs", "Bootstrap: busybox\nMirrorURL: /bin/ls\n");
    output.exited_with(255);
    assert!(
        output.stderr().contains(
            "singularity: ask busybox what it can do: execute /bin/busybox: no such file or \
             directory\nhint: the file has to be a busybox for this machine that needs no libraries"
        ),
        "{output}"
    );
    let gone = builder.build(
        "gone.sqfs",
        &format!("Bootstrap: busybox\nMirrorURL: {}/nosuch\n", web.address()),
    );
    gone.exited_with(255);
    assert!(gone.stderr().contains("404"), "{gone}");
}
