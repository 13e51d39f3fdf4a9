//! squashfs, by mksquashfs(1) of squashfs-tools.
//!
//! Blocks of 32 KiB and lz4: an MPI program reads a little of a hundred files when it
//! starts, whole blocks are unpacked for that, and anew at each start.
//! docs/decisions/0018-lz4-for-squashfs.md has the figures.

use std::os::fd::AsRawFd;
use std::path::Path;

use image::Shown;
use launcher::Error;

use super::survey::Survey;
use super::tools::Tool;
use super::{Compression, Output, Packing};

const COMPRESSORS: [&str; 7] = ["zstd", "lz4", "lz4hc", "gzip", "xz", "lzo", "none"];

/// Whether mksquashfs can compress so.
///
/// # Errors
/// An unknown compressor, or a level that it does not have.
pub(super) fn check(compression: Option<&Compression>) -> Result<(), Error> {
    let Some(Compression { name, level }) = compression else {
        return Ok(());
    };
    let step = || format!("compression {}", Shown::new(name));
    if !COMPRESSORS.contains(&name.as_str()) {
        return Err(
            Error::new(step(), "squashfs has no compressor of this name").hint(format!(
                "one of {}; some take a level, as in zstd:19",
                COMPRESSORS.join(", ")
            )),
        );
    }
    let levels = match name.as_str() {
        "zstd" => 1..=22,
        "gzip" | "lzo" => 1..=9,
        _ if level.is_some() => {
            return Err(Error::new(step(), format!("{name} has no levels"))
                .hint(format!("write {name} alone")))
        }
        _ => return Ok(()),
    };
    match level {
        Some(level) if !levels.contains(level) => Err(Error::new(
            step(),
            format!(
                "its levels are {} to {}, not {level}",
                levels.start(),
                levels.end()
            ),
        )),
        _ => Ok(()),
    }
}

fn options(compression: Option<&Compression>) -> Vec<String> {
    let lz4 = Compression {
        name: "lz4".to_owned(),
        level: None,
    };
    let Compression { name, level } = compression.unwrap_or(&lz4);
    let mut words = match name.as_str() {
        "none" => vec!["-noI", "-noId", "-noD", "-noF", "-noX"],
        "lz4hc" => vec!["-comp", "lz4", "-Xhc"],
        name => vec!["-comp", name],
    };
    // xz is chosen for size, and takes long per block however small that is.
    words.extend(["-b", if name == "xz" { "128K" } else { "32K" }]);
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    if let Some(level) = level {
        words.extend(["-Xcompression-level".to_owned(), level.to_string()]);
    }
    words
}

/// Writes the tree into the output, from byte `offset` on.
pub(super) fn write(
    tree: &Path,
    packing: &Packing,
    output: &Output,
    offset: u64,
) -> Result<(), Error> {
    let mut tool = Tool::new("mksquashfs", "squashfs-tools");
    // Without -exit-on-error a file that cannot be read becomes an empty one.
    tool.arg(tree)
        .arg(output.path_for_tools())
        .args(["-noappend", "-no-progress", "-quiet", "-exit-on-error"])
        .args(options(packing.compression.as_ref()));
    if offset > 0 {
        tool.args(["-offset", &offset.to_string()]);
    }
    // mksquashfs refuses times by option beside the variable.
    tool.env_remove("SOURCE_DATE_EPOCH");
    if let Some(epoch) = packing.epoch {
        tool.args(["-reproducible", "-mkfs-time", &epoch.to_string()]);
        if Survey::of(tree)?.newest > i64::try_from(epoch).unwrap_or(i64::MAX) {
            tool.args(["-all-time", &epoch.to_string()]);
        }
    }
    let step = || format!("pack image {}", Shown::new(output.place()));
    let changes = owner_changes(tree, packing)
        .map(|text| in_memory(&text))
        .transpose()
        .map_err(|error| Error::io(step(), &error))?;
    if let Some(changes) = &changes {
        // Open without O_CLOEXEC, so the tool finds it under the same number.
        tool.arg("-pf")
            .arg(format!("/proc/self/fd/{}", changes.as_raw_fd()));
    }
    let text = tool.succeed(step)?;
    let lost = text.matches("Unrecognised xattr prefix").count();
    if lost > 0 {
        tracing::warn!(
            "{lost} extended attributes are left out: squashfs has no place for access \
             control lists"
        );
    }
    Ok(())
}

/// The owners that the tree could not have, as mksquashfs's pseudo definitions.
fn owner_changes(tree: &Path, packing: &Packing) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let mut text = Vec::new();
    for (path, owner) in packing.owners.iter().flatten() {
        let name = path.as_os_str().as_bytes();
        let Ok(stat) = tree.join(path).symlink_metadata() else {
            continue;
        };
        if name.contains(&b'\n') {
            tracing::warn!(
                "{} belongs to root in the image: its name is too strange",
                Shown::new(path)
            );
            continue;
        }
        text.extend(b"\"/");
        for byte in name {
            if matches!(byte, b'"' | b'\\') {
                text.push(b'\\');
            }
            text.push(*byte);
        }
        let rest = format!(
            "\" m {:o} {} {}\n",
            stat.mode() & 0o7777,
            owner.uid,
            owner.gid
        );
        text.extend(rest.as_bytes());
    }
    (!text.is_empty()).then_some(text)
}

fn in_memory(text: &[u8]) -> std::io::Result<std::fs::File> {
    use std::io::{Seek, Write};
    let fd = rustix::fs::memfd_create(c"singularity-owners", rustix::fs::MemfdFlags::empty())?;
    let mut file = std::fs::File::from(fd);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressors_and_their_levels_are_checked_before_anything_is_done() {
        let table: [(&str, Option<u32>, Option<&str>); 8] = [
            ("zstd", None, None),
            ("zstd", Some(22), None),
            (
                "zstd",
                Some(23),
                Some("compression zstd: its levels are 1 to 22, not 23"),
            ),
            (
                "gzip",
                Some(0),
                Some("compression gzip: its levels are 1 to 9, not 0"),
            ),
            ("lz4", Some(1), Some("compression lz4: lz4 has no levels")),
            ("none", None, None),
            ("lz4hc", None, None),
            (
                "bzip2",
                None,
                Some("compression bzip2: squashfs has no compressor of this name"),
            ),
        ];
        for (name, level, expected) in table {
            let compression = Compression {
                name: name.to_owned(),
                level,
            };
            let complaint = check(Some(&compression)).err().map(|e| e.to_string());
            assert_eq!(complaint.as_deref(), expected, "{name} {level:?}");
        }
    }
}
