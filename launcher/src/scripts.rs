//! The image's own environment scripts.
//!
//! Owns: which there are, and the text by which the image's shell reads them
//! before it executes the command. Never: reads what is in them.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::env::Environment;
use crate::exec::not_found;

/// The image's environment scripts in the order they are run. Newer images link
/// /environment to one of the directory, so it counts only without the directory.
pub fn environment_scripts() -> Vec<PathBuf> {
    if let Ok(entries) = std::fs::read_dir("/.singularity.d/env") {
        let mut scripts: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension() == Some(OsStr::new("sh")))
            .collect();
        scripts.sort();
        return scripts;
    }
    let single = PathBuf::from("/environment");
    if single.is_file() {
        vec![single]
    } else {
        Vec::new()
    }
}

/// What a shell has to read so that the scripts are applied, and the user's own
/// variables after them.
pub fn sourcing(scripts: &[PathBuf], environment: &Environment) -> OsString {
    let mut text = reading(scripts);
    let word = |path: &Option<OsString>| path.as_deref().map(quoted);
    let [before, after] = environment.around_path.each_ref().map(word);
    text.push(path_between(before, after));
    for (name, value) in environment
        .overrides
        .iter()
        .filter(|(name, _)| is_shell_name(name))
    {
        text.push("export ");
        text.push(name);
        text.push("=");
        text.push(quoted(value));
        text.push("\n");
    }
    text
}

/// The assignments that put something before and after the search path that the scripts
/// have left, where it is not there yet. What is put there is a word of the shell.
fn path_between(before: Option<OsString>, after: Option<OsString>) -> OsString {
    let mut text = OsString::new();
    let mut put = |word: OsString, is_there: [&str; 2], path: [&str; 2]| {
        text.push("case \":$PATH:\" in\n");
        text.push(is_there[0]);
        text.push(&word);
        text.push(is_there[1]);
        text.push(") ;;\n*) PATH=");
        text.push(path[0]);
        text.push(word);
        text.push(path[1]);
        text.push(" ;;\nesac\nexport PATH\n");
    };
    if let Some(word) = before {
        put(word, [":", ":*"], ["", "${PATH:+:$PATH}"]);
    }
    if let Some(word) = after {
        put(word, ["*:", ":"], ["${PATH:+$PATH:}", ""]);
    }
    text
}

fn reading(scripts: &[PathBuf]) -> OsString {
    let mut text = OsString::new();
    for script in scripts {
        text.push(". ");
        text.push(quoted(script.as_os_str()));
        text.push("\n");
    }
    text
}

/// The text of a shell that reads the scripts, sets again what the user set, and
/// executes its arguments; and variables that hand it the values. Values are not
/// in the text, which is an argument, and those everybody can read in /proc.
///
/// Shells know no variables like `BASH_FUNC_module%%` and drop them; env(1) of
/// the image, if it has one, gives them back.
pub fn executing(
    program: &OsStr,
    scripts: &[PathBuf],
    environment: &Environment,
    all: &[(OsString, OsString)],
) -> (OsString, Vec<(OsString, OsString)>) {
    let mut text = OsString::from("singularity_scripts() {\n");
    text.push(reading(scripts));
    // In a function, what a script does to the arguments ends with it.
    text.push("}\nsingularity_scripts\nunset -f singularity_scripts\n");
    let mut set = Vec::new();
    let mut hand = |value: &OsString| {
        let name = format!("SINGULARITY_SET_{}", set.len());
        set.push((OsString::from(&name), value.clone()));
        name
    };
    let around = environment.around_path.each_ref();
    let [before, after] = around.map(|path| path.as_ref().map(&mut hand));
    let word = |name: &String| OsString::from(format!("\"${name}\""));
    text.push(path_between(
        before.as_ref().map(word),
        after.as_ref().map(word),
    ));
    for handed in [before, after].into_iter().flatten() {
        text.push(format!("unset {handed}\n"));
    }
    let named = environment.overrides.iter();
    for (name, value) in named.filter(|(name, _)| is_shell_name(name)) {
        let handed = hand(value);
        text.push("export ");
        text.push(name);
        text.push(format!("=\"${handed}\"\nunset {handed}\n"));
    }
    let missing = not_found(program, OsStr::new("$PATH"));
    if !program.as_bytes().contains(&b'/') {
        text.push("command -v -- \"$1\" >/dev/null || {\nprintf 'singularity: %s\\nhint: %s\\n' ");
        text.push(quoted(missing.to_string().as_ref()));
        let hint = missing.remedy().unwrap_or_default();
        text.push(format!(" \"{hint}\" >&2\nexit 127\n}}\n"));
    }
    let odd: Vec<_> = all
        .iter()
        .filter(|(name, _)| !is_shell_name(name))
        .collect();
    for (index, (name, value)) in odd.iter().enumerate() {
        if index == 0 {
            text.push("if command -v env >/dev/null; then\n");
        }
        let handed = hand(value);
        text.push("set -- ");
        text.push(quoted(name));
        text.push(format!("=\"${handed}\" \"$@\"\nunset {handed}\n"));
        if index + 1 == odd.len() {
            text.push("set -- env \"$@\"\nfi\n");
        }
    }
    text.push("exec \"$@\"\n");
    (text, set)
}

/// What a search path is after the scripts, as far as they set it in plain words:
/// `NAME=VALUE`, exported or not, where VALUE is text and the variable itself. A guess,
/// for finding the program that will be executed; `now` is its value before.
pub fn assigned(name: &str, now: Option<OsString>, scripts: &[PathBuf]) -> Option<OsString> {
    const LARGEST: u64 = 64 << 10;
    let mut value = now;
    for script in scripts {
        let mut text = Vec::new();
        let read =
            std::fs::File::open(script).and_then(|file| file.take(LARGEST).read_to_end(&mut text));
        if read.is_err() {
            continue;
        }
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.trim_ascii();
            let line = line.strip_prefix(b"export ").unwrap_or(line).trim_ascii();
            let Some(given) = line.strip_prefix(name.as_bytes()) else {
                continue;
            };
            let Some(given) = given.strip_prefix(b"=") else {
                continue;
            };
            let given = given.strip_suffix(b";").unwrap_or(given);
            value = Some(expanded(given, name, value.as_deref().unwrap_or_default()));
        }
    }
    value
}

/// The value with its quotes off and the variable itself put in; directories that other
/// variables are in are left out.
fn expanded(given: &[u8], name: &str, now: &OsStr) -> OsString {
    let bare: Vec<u8> = given
        .iter()
        .copied()
        .filter(|byte| !b"\"'".contains(byte))
        .collect();
    let own = [
        format!("${name}"),
        format!("${{{name}}}"),
        format!("${{{name}:-}}"),
    ];
    let mut parts = Vec::new();
    // `${PATH:+:$PATH}` and the like hold colons of their own.
    let text = String::from_utf8_lossy(&bare)
        .replace(&format!("${{{name}:+:${name}}}"), &format!(":${name}"));
    for part in text.split(':') {
        if own.iter().any(|form| form == part) || part.starts_with(&format!("${{{name}")) {
            parts.extend(
                now.as_bytes()
                    .split(|&byte| byte == b':')
                    .map(<[u8]>::to_vec),
            );
        } else if !part.contains('$') && !part.contains('}') {
            parts.push(part.as_bytes().to_vec());
        }
    }
    OsString::from_vec(parts.join(&b':'))
}

/// Whether a shell can have a variable of this name.
pub fn is_shell_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !bytes.first().is_none_or(u8::is_ascii_digit)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// A word as a shell reads it back.
pub fn quoted(text: &OsStr) -> OsString {
    let mut bytes = vec![b'\''];
    for &b in text.as_bytes() {
        if b == b'\'' {
            bytes.extend(b"'\\''");
        } else {
            bytes.push(b);
        }
    }
    bytes.push(b'\'');
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_a_shell() {
        let nasty = OsString::from_vec(b"a'b $(c) \\ \n\xff".to_vec());
        let mut script = OsString::from("printf %s ");
        script.push(quoted(&nasty));
        let output = std::process::Command::new("/bin/sh")
            .arg("-c")
            .arg(script)
            .output()
            .unwrap();
        assert_eq!(output.stdout, nasty.into_vec());
    }

    #[test]
    fn a_search_path_that_a_script_sets_in_plain_words_is_known() {
        let directory = std::env::temp_dir().join(format!("paths-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let script = directory.join("10-paths.sh");
        let after = |text: &str| {
            std::fs::write(&script, text).unwrap();
            let found = assigned("PATH", Some("/bin".into()), std::slice::from_ref(&script));
            found.unwrap().into_string().unwrap()
        };
        for (text, expected) in [
            ("export PATH=/opt/bin:$PATH\n", "/opt/bin:/bin"),
            (
                "PATH=\"/opt/bin:${PATH}\"; \nexport PATH\n",
                "/opt/bin:/bin",
            ),
            ("export PATH=${PATH:-}:/opt/bin", "/bin:/opt/bin"),
            ("export PATH=/a${PATH:+:$PATH}", "/a:/bin"),
            (
                "export PATH=/opt/bin\nexport PATH=$PATH:$OTHER/bin",
                "/opt/bin",
            ),
            ("MYPATH=/x\nexport LD_LIBRARY_PATH=/y", "/bin"),
        ] {
            assert_eq!(after(text), expected, "{text}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn only_shell_names_are_exported_by_the_shell() {
        for (name, fits) in [
            ("A", true),
            ("_a1", true),
            ("1A", false),
            ("", false),
            ("A-B", false),
        ] {
            assert_eq!(is_shell_name(OsStr::new(name)), fits, "{name}");
        }
    }
}
