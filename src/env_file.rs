//! Files of `NAME=VALUE` lines, for `--env-file`.
//!
//! Owns: this notation. Never: expands anything; a value is what is written.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use image::Shown;
use launcher::Error;

/// Reads the file. Empty lines and lines that begin with `#` are passed over;
/// `export ` before a name and one pair of quotes around a value are taken off.
///
/// # Errors
/// A file that cannot be read, or a line that is no assignment, with its number.
pub fn read(path: &Path) -> Result<Vec<(OsString, OsString)>, Error> {
    let step = || format!("read environment file {}", Shown::new(path));
    let text = std::fs::read(path).map_err(|error| {
        Error::io(step(), &error).hint("name a file with one NAME=VALUE a line")
    })?;
    parse(&text).map_err(|(line, cause)| {
        Error::new(format!("{}, line {line}", step()), cause).hint("write NAME=VALUE, one a line")
    })
}

/// Splits `NAME=VALUE`.
pub fn assignment(text: &[u8]) -> Result<(OsString, OsString), &'static str> {
    let equals = text
        .iter()
        .position(|&b| b == b'=')
        .ok_or("there is no =")?;
    let (name, value) = (&text[..equals], &text[equals + 1..]);
    if name.is_empty() {
        return Err("the name is empty");
    }
    if text.contains(&0) {
        return Err("there is a NUL byte");
    }
    Ok((
        OsString::from_vec(name.to_vec()),
        OsString::from_vec(value.to_vec()),
    ))
}

fn parse(text: &[u8]) -> Result<Vec<(OsString, OsString)>, (usize, &'static str)> {
    let mut variables = Vec::new();
    for (index, line) in text.split(|&b| b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let line = line
            .strip_prefix(b"export ")
            .unwrap_or(line)
            .trim_ascii_start();
        let (name, value) = assignment(line).map_err(|cause| (index + 1, cause))?;
        variables.push((name, OsString::from_vec(unquoted(value.into_vec()))));
    }
    Ok(variables)
}

fn unquoted(value: Vec<u8>) -> Vec<u8> {
    match value.as_slice() {
        [quote @ (b'"' | b'\''), inner @ .., last] if quote == last => inner.to_vec(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_comments_exports_and_quotes_are_read() {
        let text = b"# c\n\nA=1\nexport B=x\nC=\"a b\"\nD='\"'\nE=\n  F=a=b \n";
        let read = parse(text).unwrap();
        let names: Vec<_> = read
            .iter()
            .map(|(n, v)| (n.to_str().unwrap(), v.to_str().unwrap()))
            .collect();
        assert_eq!(
            names,
            [
                ("A", "1"),
                ("B", "x"),
                ("C", "a b"),
                ("D", "\""),
                ("E", ""),
                ("F", "a=b")
            ]
        );
    }

    #[test]
    fn a_line_that_is_no_assignment_is_named() {
        assert_eq!(parse(b"A=1\nnonsense\n"), Err((2, "there is no =")));
        assert_eq!(parse(b"=1"), Err((1, "the name is empty")));
    }
}
