//! Packing trees into every format, by the library.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on fails"
)]

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use bootstrap::pack::{pack, Compression, Format, Packing};

const FORMATS: [Format; 6] = [
    Format::Squashfs,
    Format::Erofs,
    Format::Ext4,
    Format::Ext3,
    Format::Sif,
    Format::Directory,
];

fn packing(format: Format) -> Packing {
    Packing {
        format,
        replace: false,
        compression: None,
        epoch: None,
        objects: Vec::new(),
        owners: None,
    }
}

/// A little of everything that does not need root.
fn tree(at: &Path) -> PathBuf {
    let tree = at.join("tree");
    for directory in ["bin", "etc", "empty", ".singularity.d", "deep/er/still"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::copy("/bin/true", tree.join("bin/true")).unwrap();
    fs::write(tree.join("etc/name"), "value\n").unwrap();
    fs::hard_link(tree.join("etc/name"), tree.join("etc/other")).unwrap();
    symlink("nowhere", tree.join("link")).unwrap();
    fs::write(tree.join(".singularity.d/labels.json"), "{\"a\":\"b\"}").unwrap();
    fs::write(
        tree.join(".singularity.d/Singularity"),
        "BootStrap: scratch\n",
    )
    .unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o751)).unwrap();
    tree
}

#[test]
fn every_format_is_packed_and_recognised() {
    let place = tempfile::tempdir().unwrap();
    let tree = tree(place.path());
    for format in FORMATS {
        let image = place.path().join(format.to_string());
        pack(&tree, &packing(format), &image).unwrap();
        let opened = image::Image::open(&image).unwrap();
        let said = opened.format().to_string();
        let expected = match format {
            Format::Squashfs => "squashfs (lz4)",
            Format::Sif => "SIF with squashfs",
            _ => &format.to_string(),
        };
        assert_eq!(said, expected);
    }
    let names: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
    assert_eq!(names.len(), 7, "nothing else is left: {names:?}");
}

#[test]
fn the_same_files_give_the_same_bytes_at_any_time() {
    let place = tempfile::tempdir().unwrap();
    let tree = tree(place.path());
    let copy = place.path().join("copy");
    let copied = Command::new("cp").arg("-a").arg(&tree).arg(&copy).status();
    assert!(copied.unwrap().success());
    for format in &FORMATS[..5] {
        let packing = Packing {
            epoch: Some(1_600_000_000),
            ..packing(*format)
        };
        let images = [&tree, &copy].map(|tree| {
            let image = place.path().join("image");
            let _ = fs::remove_file(&image);
            pack(tree, &packing, &image).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1100));
            fs::read(&image).unwrap()
        });
        assert!(images[0] == images[1], "{format} differs");
    }
}

#[test]
fn what_is_there_stays_unless_it_is_to_be_replaced() {
    let place = tempfile::tempdir().unwrap();
    let tree = tree(place.path());
    let image = place.path().join("image");
    fs::write(&image, "old").unwrap();
    for format in FORMATS {
        let error = pack(&tree, &packing(format), &image).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "make image {}: there is something of that name already",
                image.display()
            )
        );
        let compression = Some(Compression {
            name: "nonesuch".into(),
            level: None,
        });
        let bad = Packing {
            replace: true,
            compression,
            ..packing(format)
        };
        pack(&tree, &bad, &image).unwrap_err();
        assert_eq!(fs::read(&image).unwrap(), b"old");
    }
    for format in FORMATS {
        let packing = Packing {
            replace: true,
            ..packing(format)
        };
        if format == Format::Ext4 {
            let failed = pack(&place.path().join("nowhere"), &packing, &image);
            failed.unwrap_err();
        }
        pack(&tree, &packing, &image).unwrap();
        image::Image::open(&image).unwrap();
    }
    let error = pack(
        &tree,
        &Packing {
            replace: true,
            ..packing(Format::Sif)
        },
        &image,
    );
    assert!(error
        .unwrap_err()
        .to_string()
        .contains("a directory is there"));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
}
