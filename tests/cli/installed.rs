//! What `make install` puts into its places, and `make uninstall` takes away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::{capture, top};

use crate::ground::{text_of, Ground};

/// What `make build` has left.
fn built() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| top().join("target")).join("dist")
}

fn site(what: &str, destination: &Path) {
    let mut command = Command::new(top().join("packages/site"));
    command
        .arg(what)
        .current_dir(top())
        .env("DIST", built())
        .env("PREFIX", "/opt/here")
        .env("DESTDIR", destination)
        .env("SETUID", "")
        .env("SINGULARITY_CONF", "/etc/singularity/singularity.conf");
    capture(&mut command).succeeded();
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
