//! What `make install` puts into its places, and `make uninstall` takes away.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::{capture, top};

use crate::ground::{before_exec, text_of, Ground};

/// What `make build` has left.
fn built() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| top().join("target")).join("dist")
}

fn site(what: &str, destination: &Path) {
    capture(&mut site_with(what, destination, "")).succeeded();
}

/// packages/site, where `SETUID` says this.
fn site_with(what: &str, destination: &Path, setuid: &str) -> Command {
    let mut command = Command::new(top().join("packages/site"));
    command
        .arg(what)
        .current_dir(top())
        .env("DIST", built())
        .env("PREFIX", "/opt/here")
        .env("DESTDIR", destination)
        .env("SETUID", setuid)
        .env("SINGULARITY_CONF", "/etc/singularity/singularity.conf");
    command
}

/// All files and links below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory that can be listed") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("its type").is_dir() {
            all.extend(files(&entry.path()));
        } else {
            all.push(entry.path());
        }
    }
    all
}

#[test]
fn what_is_installed_is_complete_and_can_be_taken_away() {
    let ground = Ground::new();
    let destination = ground.user().directory("package");
    site("install", &destination);
    let prefix = destination.join("opt/here");
    let singularity = prefix.join("bin/singularity");
    let mut command = ground.user().command(&singularity);
    capture(command.args(["config", "show"]))
        .succeeded()
        .quietly();
    let manual = fs::read(prefix.join("share/man/man1/singularity.1")).unwrap();
    assert!(!manual.is_empty());
    // Each link in a document leads to something that is there.
    let mut checked = 0;
    for page in files(&prefix.join("share/doc")) {
        if page.extension().is_none_or(|ending| ending != "md") {
            continue;
        }
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#', ' ']).next().unwrap();
            if link.is_empty() || link.contains("://") {
                continue;
            }
            let target = page.parent().unwrap().join(link);
            assert!(target.exists(), "{}: {link}", page.display());
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked} links");
    // What others have there stays, and nothing else.
    let other = prefix.join("libexec/other");
    fs::write(&other, "").unwrap();
    site("uninstall", &destination);
    assert_eq!(files(&destination), [other]);
    for directory in ["libexec/singularity", "share/singularity", "lib/slurm"] {
        let directory = prefix.join(directory);
        assert!(!directory.exists(), "{}", text_of(&directory));
    }
}

#[test]
fn the_starter_is_set_id_only_where_setuid_is_one() {
    let ground = Ground::new();
    let destination = ground.user().directory("package");
    let starter = destination.join("opt/here/libexec/singularity/starter");
    let configuration = destination.join("etc/singularity/singularity.conf");
    let mode = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.uid(), metadata.mode() & 0o7777)
    };
    // What is no yes and no no installs nothing.
    for word in ["yes", "no", "2"] {
        let output = capture(&mut site_with("install", &destination, word));
        output.exited_with(1).wrote("").complained(&format!(
            "packages/site: SETUID={word}: write 1 to install the starter set-user-ID of root, or leave it out\n"
        ));
    }
    assert_eq!(files(&destination), [] as [PathBuf; 0]);
    capture(&mut site_with("install", &destination, "0")).succeeded();
    assert_eq!(mode(&starter), (0, 0o755));
    assert!(!configuration.exists());
    // Whatever the umask of who installs.
    let mut command = site_with("install", &destination, "1");
    before_exec(&mut command, || {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        Ok(())
    });
    capture(&mut command).succeeded();
    assert_eq!(mode(&starter), (0, 0o4755));
    assert_eq!(mode(&configuration), (0, 0o644));
    for above in starter
        .ancestors()
        .skip(1)
        .take(3)
        .chain(configuration.parent())
    {
        assert_eq!(mode(above), (0, 0o755), "{}", above.display());
    }
    // Another link to it, as a user may make one where the kernel lets them, is no
    // longer set-id once it is replaced or gone; the administrator's file stays.
    fs::write(&configuration, "audit log = no\n").unwrap();
    for again in ["1", ""] {
        let kept = destination.join("kept");
        fs::hard_link(&starter, &kept).unwrap();
        capture(&mut site_with("install", &destination, again)).succeeded();
        assert_eq!(mode(&kept), (0, 0o755));
        fs::remove_file(kept).unwrap();
    }
    assert_eq!(mode(&starter), (0, 0o755));
    site("uninstall", &destination);
    let kept = std::slice::from_ref(&configuration);
    assert_eq!(files(&destination), kept);
    assert_eq!(
        fs::read_to_string(configuration).unwrap(),
        "audit log = no\n"
    );
}
