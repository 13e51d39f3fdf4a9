//! What whoever looks at it can see: how wide and high a terminal is, whether it can
//! be drawn on, and which letters it has.
//!
//! Owns: asking for that. Never: writes.

use std::io::IsTerminal as _;

/// What columns are where nobody says.
const USUAL: (usize, usize) = (24, 100);

/// Whether standard error can be drawn anew: a terminal that takes more than letters.
pub fn can_be_drawn_on() -> bool {
    let dumb = std::env::var("TERM").map_or(true, |name| name.is_empty() || name == "dumb");
    std::io::stderr().is_terminal() && !dumb
}

/// Lines and columns of the terminal; what `LINES` and `COLUMNS` say comes first.
pub fn size() -> (usize, usize) {
    let named = |name| std::env::var(name).ok()?.parse().ok();
    let (lines, columns) = (named("LINES"), named("COLUMNS"));
    let asked = match (lines, columns) {
        (Some(_), Some(_)) => None,
        _ => ask(),
    };
    // A terminal that nobody has given a size says that it has none.
    let asked = asked.filter(|(lines, columns)| *lines > 0 && *columns > 0);
    let (usual_lines, usual_columns) = asked.unwrap_or(USUAL);
    (
        lines.unwrap_or(usual_lines).max(4),
        columns.unwrap_or(usual_columns).max(20),
    )
}

/// As stty(1) has it, which asks the terminal on its standard input.
fn ask() -> Option<(usize, usize)> {
    let terminal = std::fs::File::open("/dev/tty").ok()?;
    let output = std::process::Command::new("stty")
        .arg("size")
        .stdin(terminal)
        .stderr(std::process::Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut words = text.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// How wide the result may be on standard output: as wide as it gets in a file.
pub fn width_of_output() -> usize {
    match std::io::stdout().is_terminal() {
        true => size().1,
        false => usize::MAX,
    }
}

/// The text in letters that the locale has: those of ASCII stand in for others.
pub fn in_letters_of_the_locale(text: &str) -> String {
    // locale(7): the first of these that is not empty decides.
    let named = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty());
    match named.is_some_and(|name| is_utf8(&name)) {
        true => text.to_owned(),
        false => in_ascii(text),
    }
}

fn is_utf8(locale: &str) -> bool {
    let name = locale.to_ascii_lowercase();
    name.contains("utf-8") || name.contains("utf8")
}

/// Letters that this program writes by itself; names of a user's own stay as they are.
fn in_ascii(text: &str) -> String {
    const OTHERS: [(char, char); 12] = [
        ('▁', '_'),
        ('▂', '.'),
        ('▃', '-'),
        ('▄', '='),
        ('▅', '+'),
        ('▆', '*'),
        ('▇', '%'),
        ('█', '#'),
        ('░', '.'),
        ('×', 'x'),
        ('µ', 'u'),
        ('–', '-'),
    ];
    let other = |letter| {
        let found = OTHERS.iter().find(|(own, _)| *own == letter);
        found.map_or(letter, |(_, other)| *other)
    };
    text.chars().map(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_a_locale_lacks_have_a_substitute_each() {
        assert_eq!(in_ascii("[█░] ▁▅ ×1.02 µs"), "[#.] _+ x1.02 us");
        assert!(is_utf8("en_GB.utf8") && is_utf8("C.UTF-8"));
        assert!(!is_utf8("C") && !is_utf8("POSIX") && !is_utf8("de_DE@euro"));
    }
}
