//! The words of a shell's text.
//!
//! Owns: which of them may name a program, and whether a command's name is one that the
//! text alone does not tell. Never: parses as a shell does; it is a guess, and where the
//! guess matters the cautious side is taken.

/// Words that are followed by a command.
const BEFORE_A_COMMAND: [&[u8]; 18] = [
    b"exec", b"then", b"do", b"else", b"elif", b"if", b"while", b"until", b"!", b"time", b"nohup",
    b"env", b"eval", b"command", b"builtin", b"nice", b"setsid", b"xargs",
];

/// The words of a text that may be names of programs, comments left out.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let separates = |byte: &u8| byte.is_ascii_whitespace() || b";|&()<>\"'`{}=".contains(byte);
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.trim_ascii_start().starts_with(b"#"))
        .flat_map(move |line| line.split(separates))
        .filter(|word| {
            word.first()
                .is_some_and(|byte| byte.is_ascii_alphanumeric() || b"./_".contains(byte))
        })
}

/// Whether a command is executed whose name is in a variable: `$APP input`. The text's own
/// arguments (`"$@"`, `$1`) do not count, as who looks has them.
pub(super) fn hides_one(text: &[u8]) -> bool {
    text.split(|&byte| byte == b'\n').any(|line| {
        let line = line.trim_ascii_start();
        !line.starts_with(b"#") && line_hides_one(line)
    })
}

fn line_hides_one(line: &[u8]) -> bool {
    let mut is_command = true;
    let mut rest = line;
    while let Some((&first, after)) = rest.split_first() {
        if first.is_ascii_whitespace() {
            rest = after;
            continue;
        }
        if b";|&(`{".contains(&first) {
            is_command = true;
            rest = after;
            continue;
        }
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b";|&(`".contains(byte);
        let length = rest.iter().position(ends).unwrap_or(rest.len()).max(1);
        let (word, after) = rest.split_at(length);
        rest = after;
        if !is_command {
            continue;
        }
        let word = word.trim_ascii();
        let bare = word.strip_prefix(b"\"").unwrap_or(word);
        if let Some(name) = bare.strip_prefix(b"$") {
            let name = name.strip_prefix(b"{").unwrap_or(name);
            if name
                .first()
                .is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
            {
                return true;
            }
        }
        let is_assignment = word.contains(&b'=');
        is_command = is_assignment || BEFORE_A_COMMAND.contains(&word);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_in_a_variable_is_seen() {
        for text in [
            "$APP",
            "cd /work && $APP input",
            "A=1 exec \"$HERE/app\"",
            "if true; then\n  ${APP} -x\nfi",
            "eval $LINE",
            "x=$(${TOOL} now)",
        ] {
            assert!(hides_one(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn variables_elsewhere_hide_nothing() {
        for text in [
            "echo out $SLURM_PROCID; echo err $SLURM_PROCID >&2",
            "test $SLURM_PROCID = 0 && exit 3; exec sleep 20",
            "trap 'echo got TERM; exit 4' TERM; while :; do sleep 0.1; done",
            "for i in $(seq 600); do sleep 0.2; done",
            "exec \"$@\"",
            "$1 and ${2}",
            "# $APP is what it runs",
            "A=$B C=\"$D\" exec ring",
            "pwd; umask; kill -SEGV $$",
        ] {
            assert!(!hides_one(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn comments_name_no_programs() {
        let text = b"#!/bin/sh\n  # runs ring\nX=/opt/app; ./app \"$X\" -n";
        let found: Vec<_> = words(text).map(String::from_utf8_lossy).collect();
        assert_eq!(found, ["X", "/opt/app", "./app"]);
    }
}
