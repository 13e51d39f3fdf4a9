//! How a container image is run, in Singularity's words.
//!
//! Owns: the runscript, environment and labels that stand for `Entrypoint`, `Cmd`,
//! `WorkingDir`, `Env`, `User` and `Labels`. Never: writes them; that is
//! [`crate::metadata`]'s.
//!
//! The environment script has nothing in it but `export NAME='VALUE'`, so that it
//! can be applied without starting a shell.

use std::fmt::Write as _;

use super::manifest::{Config, Running};

/// Variables that belong to the user and stay theirs, whatever the image says.
const THE_USERS: [&str; 8] = [
    "HOME", "USER", "LOGNAME", "HOSTNAME", "PWD", "OLDPWD", "SHLVL", "_",
];

/// Where the runscript begins instead of in the image's `WorkingDir`.
pub const OTHER_DIRECTORY: &str = "SINGULARITY_OCI_WORKDIR";

/// The text in single quotes, as a shell reads it back.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn words(list: &[String]) -> String {
    let quoted: Vec<_> = list.iter().map(|word| quoted(word)).collect();
    quoted.join(" ")
}

fn running(config: &Config) -> Running {
    config.config.clone().unwrap_or_default()
}

/// The directory that the image starts in, unless it is the top.
pub fn directory(config: &Config) -> Option<String> {
    let directory = running(config).working_dir?;
    let plain = directory.trim_end_matches('/');
    (plain.starts_with('/') && !plain.contains('\0')).then(|| plain.to_owned())
}

/// The text of the runscript, without its `#!` line: `Entrypoint` with the
/// arguments given, or with `Cmd` where none are. None: the image has neither.
pub fn runscript(config: &Config) -> Option<String> {
    let running = running(config);
    let entrypoint = running.entrypoint.unwrap_or_default();
    let cmd = running.cmd.unwrap_or_default();
    // A NUL cannot be in an argument.
    if entrypoint.is_empty() && cmd.is_empty() || has_nul(&entrypoint) || has_nul(&cmd) {
        return None;
    }
    let mut text = String::from("# Entrypoint and Cmd of the container image.\n");
    if let Some(user) = running.user.filter(|user| !user.is_empty()) {
        let user: String = user.chars().filter(|c| !c.is_control()).collect();
        // Nobody becomes somebody else here; the reader should know.
        let _ = writeln!(text, "# It was made to be run by {user}.");
    }
    if let Some(directory) = directory(config) {
        let _ = writeln!(
            text,
            "if [ -n \"${{{OTHER_DIRECTORY}:-}}\" ]; then\n    cd \"${OTHER_DIRECTORY}\" || exit\n\
             else\n    cd {} 2>/dev/null || :\nfi",
            quoted(&directory)
        );
    }
    if !cmd.is_empty() {
        let _ = writeln!(
            text,
            "if [ $# -eq 0 ]; then\n    set -- {}\nfi",
            words(&cmd)
        );
    }
    let program = words(&entrypoint);
    let separator = if program.is_empty() { "" } else { " " };
    let _ = writeln!(text, "exec {program}{separator}\"$@\"");
    Some(text)
}

fn has_nul(list: &[String]) -> bool {
    list.iter().any(|word| word.contains('\0'))
}

/// The environment script, or none if the image sets nothing.
pub fn environment(config: &Config) -> Option<String> {
    let mut text = String::new();
    for variable in running(config).env.unwrap_or_default() {
        let Some((name, value)) = variable.split_once('=') else {
            continue;
        };
        if THE_USERS.contains(&name) || !is_name(name) || value.contains('\0') {
            tracing::debug!(
                "the image's variable {} is left out",
                image::Shown::new(name)
            );
            continue;
        }
        let _ = writeln!(text, "export {name}={}", quoted(value));
    }
    (!text.is_empty()).then(|| format!("# Env of the container image.\n{text}"))
}

fn is_name(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(is_word)
        && name
            .bytes()
            .next()
            .is_some_and(|first| !first.is_ascii_digit())
}

/// The labels: the image's own, and what of its configuration is nowhere else.
pub fn labels(config: &Config) -> Vec<(String, String)> {
    let running = running(config);
    let mut labels: Vec<_> = running.labels.unwrap_or_default().into_iter().collect();
    for (name, value) in [
        ("oci.user", running.user),
        ("oci.workdir", running.working_dir),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            labels.push((name.to_owned(), value));
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn config(json: &str) -> Config {
        let text = format!("{{\"config\":{json}}}");
        Config::read(text.as_bytes(), "it").unwrap()
    }

    fn run(script: &str, arguments: &[&str]) -> String {
        let output = Command::new("sh")
            .args(["-c", script, "runscript"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn arguments_take_the_place_of_cmd_and_never_of_the_entrypoint() {
        let printf = r#""printf","<%s>""#;
        for (json, arguments, expected) in [
            (
                format!("{{\"Entrypoint\":[{printf}],\"Cmd\":[\"a b\",\"it's\"]}}"),
                &[][..],
                "<a b><it's>",
            ),
            (
                format!("{{\"Entrypoint\":[{printf}],\"Cmd\":[\"a\"]}}"),
                &["x", "$HOME"],
                "<x><$HOME>",
            ),
            (format!("{{\"Entrypoint\":[{printf}]}}"), &["x"], "<x>"),
            (
                format!("{{\"Cmd\":[{printf},\"*\\n\\\"`id`\"]}}"),
                &[],
                "<*\n\"`id`>",
            ),
            (
                format!("{{\"Cmd\":[{printf},\"a\"]}}"),
                &["echo", "other"],
                "other\n",
            ),
        ] {
            let script = runscript(&config(&json)).unwrap();
            assert_eq!(run(&script, arguments), expected, "{script}");
        }
        assert_eq!(runscript(&config("{}")), None);
        assert_eq!(runscript(&config("{\"Cmd\":[]}")), None);
    }

    #[test]
    fn it_begins_in_the_images_directory_or_in_another_that_is_named() {
        let config = config(r#"{"Cmd":["pwd"],"WorkingDir":"/usr/lib/","User":"1000\nx"}"#);
        let script = runscript(&config).unwrap();
        assert_eq!(run(&script, &[]), "/usr/lib\n");
        let other = format!("export {OTHER_DIRECTORY}=/\n{script}");
        assert_eq!(run(&other, &[]), "/\n");
        let gone = config_in("/absent");
        assert!(!run(&runscript(&gone).unwrap(), &[]).is_empty());
        assert_eq!(directory(&config_in("/")), None);
        assert_eq!(directory(&config_in("relative")), None);
    }

    fn config_in(directory: &str) -> Config {
        config(&format!(
            "{{\"Cmd\":[\"pwd\"],\"WorkingDir\":\"{directory}\"}}"
        ))
    }

    #[test]
    fn variables_arrive_as_they_are_and_the_users_own_stay() {
        let config = config(
            r#"{"Env":["PATH=/opt/bin:/bin:/usr/bin","A=it's $(id) \\ \"x\"","B=","HOME=/root","1=x","a-b=x","C"]}"#,
        );
        let script = environment(&config).unwrap();
        let all = run(
            &format!("{script}\nprintf '%s|' \"$PATH\" \"$A\" \"$B\""),
            &[],
        );
        assert_eq!(all, "/opt/bin:/bin:/usr/bin|it's $(id) \\ \"x\"||");
        assert_eq!(script.matches("export").count(), 3, "{script}");
        assert_eq!(environment(&config_in("/")), None);
    }

    #[test]
    fn labels_keep_what_is_nowhere_else() {
        let config = config(r#"{"Labels":{"a":"1"},"User":"app","WorkingDir":"/srv"}"#);
        let expected = [("a", "1"), ("oci.user", "app"), ("oci.workdir", "/srv")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(labels(&config), expected);
    }
}
