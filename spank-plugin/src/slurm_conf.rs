//! The few things only slurm.conf says, which SPANK does not hand to plugins.
//!
//! Owns: finding and reading that file, as far as two settings need it. Never:
//! fails; what cannot be found out is as if it were not set.

use std::path::{Path, PathBuf};

/// Where slurm.conf is looked for besides `$SLURM_CONF`: what configless nodes
/// cache, and what packages and Slurm's own make install use.
const PLACES: [&str; 5] = [
    "/run/slurm/conf/slurm.conf",
    "/run/slurmd/conf/slurm.conf",
    "/etc/slurm/slurm.conf",
    "/etc/slurm-llnl/slurm.conf",
    "/usr/local/etc/slurm.conf",
];

/// How deep files include files.
const MOST_LEVELS: usize = 4;

/// The slurm.conf of this node.
pub fn file() -> Option<PathBuf> {
    let chosen = std::env::var_os("SLURM_CONF").map(PathBuf::from);
    chosen
        .into_iter()
        .chain(PLACES.map(PathBuf::from))
        .find(|path| path.is_file())
}

/// The value of a setting; the last one counts.
pub fn setting(file: &Path, name: &str) -> Option<String> {
    find(file, name, MOST_LEVELS)
}

fn find(file: &Path, name: &str, levels: usize) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut value = None;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some((key, rest)) = line.split_once('=') {
            if key.trim().eq_ignore_ascii_case(name) {
                let word = rest.trim().trim_matches('"');
                value = (!word.is_empty()).then(|| word.to_owned());
            }
        } else if levels > 0 {
            if let Some(included) = included(line) {
                let base = file.parent().unwrap_or(Path::new("/"));
                value = find(&base.join(included), name, levels - 1).or(value);
            }
        }
    }
    value
}

fn included(line: &str) -> Option<&str> {
    let (word, rest) = line.split_once(char::is_whitespace)?;
    word.eq_ignore_ascii_case("include").then(|| rest.trim())
}

/// The file and line that hold a word of ours, for messages: plugstack.conf, or a
/// file it includes.
pub fn plugstack_line(word: &str) -> String {
    let Some(slurm_conf) = file() else {
        return "plugstack.conf".to_owned();
    };
    let base = slurm_conf.parent().unwrap_or(Path::new("/"));
    let plugstack = match setting(&slurm_conf, "PlugStackConfig") {
        Some(path) => base.join(path),
        None => base.join("plugstack.conf"),
    };
    holder(&plugstack, word, MOST_LEVELS).unwrap_or_else(|| plugstack.display().to_string())
}

fn holder(file: &Path, word: &str, levels: usize) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        if line.split_whitespace().any(|other| other == word) {
            return Some(format!("{}, line {}", file.display(), index + 1));
        }
        let Some(included) = included(line).filter(|_| levels > 0) else {
            continue;
        };
        let pattern = file.parent().unwrap_or(Path::new("/")).join(included);
        let found = matching(&pattern)
            .iter()
            .find_map(|file| holder(file, word, levels - 1));
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The files that a pattern with stars in its last part means.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().and_then(|name| name.to_str());
    let (Some(directory), Some((before, after))) =
        (pattern.parent(), name.and_then(|name| name.split_once('*')))
    else {
        return vec![pattern.to_owned()];
    };
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(before) && name.ends_with(after))
        .map(|name| directory.join(name))
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_words_are_found_through_includes() {
        let directory = std::env::temp_dir().join(format!("slurm-conf-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let main = write("slurm.conf", "# TaskProlog=/no\nInclude more.conf\nX=1\n");
        write("more.conf", "taskprolog = /yes # why\n");
        let stack = write("plugstack.conf", "include plugstack.conf.d/*.conf\n");
        write("plugstack.conf.d/a.conf", "optional other.so\n");
        let ours = write(
            "plugstack.conf.d/b.conf",
            "\nrequired singularity.so colour=red\n",
        );
        assert_eq!(setting(&main, "TaskProlog").as_deref(), Some("/yes"));
        assert_eq!(setting(&main, "TaskEpilog"), None);
        assert_eq!(
            holder(&stack, "colour=red", MOST_LEVELS),
            Some(format!("{}, line 2", ours.display()))
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
