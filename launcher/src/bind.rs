//! The notation for binds that the command, the plugin and the site's
//! configuration share: `source[:destination[:options]]`, in comma lists.
//!
//! Owns: this notation and its escapes. Never: looks whether a path exists.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::error::{shown, Error};
use crate::request::{Bind, HostPath, ImagePath};

/// Reads a comma list of binds. A backslash takes the special meaning from a
/// colon, a comma or a backslash after it. A relative source starts at `cwd`; a
/// destination is absolute and the source's path unless it is given.
///
/// # Errors
/// The bind that is wrong, and how.
pub fn parse_list(list: &OsStr, cwd: &Path) -> Result<Vec<Bind>, Error> {
    let mut binds = Vec::new();
    for item in split(list.as_bytes(), b',') {
        if !item.is_empty() {
            binds.push(parse(item, cwd).map_err(|cause| {
                Error::new(format!("bind {}", shown(path(item))), cause).hint(
                    r"write SOURCE[:DESTINATION[:ro|rw]]; a colon or comma in a path is written \: or \,",
                )
            })?);
        }
    }
    Ok(binds)
}

/// Reads `source[:destination]`, as `--home` takes it.
///
/// # Errors
/// As [`parse_list`].
pub fn parse_pair(pair: &OsStr, cwd: &Path) -> Result<(HostPath, ImagePath), Error> {
    let parsed = if split(pair.as_bytes(), b':').len() > 2 {
        Err("it takes no options")
    } else {
        parse(pair.as_bytes(), cwd)
    };
    let bind = parsed.map_err(|cause| {
        Error::new(format!("home {}", shown(Path::new(pair))), cause)
            .hint(r"write SOURCE[:DESTINATION]; a colon in a path is written \:")
    })?;
    Ok((bind.source, bind.destination))
}

fn path(text: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(text))
}

fn parse(item: &[u8], cwd: &Path) -> Result<Bind, &'static str> {
    let fields = split(item, b':');
    let field = |n: usize| {
        fields
            .get(n)
            .map(|field| unescape(field))
            .filter(|f| !f.is_empty())
    };
    if fields.len() > 3 {
        return Err("it has more than three parts");
    }
    let source = field(0).ok_or("its source is empty")?;
    let source = cwd.join(source);
    let destination = match field(1) {
        Some(path) => ImagePath::new(&path).ok_or("its destination is not an absolute path")?,
        None => ImagePath::new(&source).ok_or("its source is not absolute")?,
    };
    let mut read_only = false;
    for option in field(2)
        .unwrap_or_default()
        .as_bytes()
        .split(|&b| b == b'+')
    {
        match option {
            b"" | b"rw" => {}
            b"ro" => read_only = true,
            _ => return Err("its options are not ro or rw"),
        }
    }
    Ok(Bind {
        source: HostPath::new(source),
        destination,
        read_only,
    })
}

/// Splits at `separator`, unless a backslash stands before it; escapes stay.
fn split(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, &b) in text.iter().enumerate() {
        if !escaped && b == separator {
            parts.push(&text[start..i]);
            start = i + 1;
        }
        escaped = !escaped && b == b'\\';
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        match bytes.peek() {
            Some(&next) if b == b'\\' && matches!(next, b':' | b',' | b'\\') => {
                plain.push(next);
                bytes.next();
            }
            _ => plain.push(b),
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list, and its source, destination and read-only flag of each bind.
    type Case = (&'static str, &'static [(&'static str, &'static str, bool)]);

    fn read(list: &str) -> Vec<(String, String, bool)> {
        parse_list(OsStr::new(list), Path::new("/here"))
            .unwrap()
            .iter()
            .map(|bind| {
                let text = |path: &Path| path.to_str().unwrap().to_owned();
                (
                    text(bind.source.as_path()),
                    text(bind.destination.as_path()),
                    bind.read_only,
                )
            })
            .collect()
    }

    #[test]
    fn lists_defaults_options_and_escapes_are_read() {
        let cases: [Case; 8] = [
            ("", &[]),
            ("/a", &[("/a", "/a", false)]),
            ("/a:/b", &[("/a", "/b", false)]),
            ("/a:/b:ro,/c", &[("/a", "/b", true), ("/c", "/c", false)]),
            ("/a::ro", &[("/a", "/a", true)]),
            ("rel:/b:rw", &[("/here/rel", "/b", false)]),
            (r"/a\:b\,c:/d", &[("/a:b,c", "/d", false)]),
            (
                r"/back\\slash,/x",
                &[(r"/back\slash", r"/back\slash", false), ("/x", "/x", false)],
            ),
        ];
        for (text, expected) in cases {
            let expected: Vec<_> = expected
                .iter()
                .map(|(s, d, ro)| (s.to_string(), d.to_string(), *ro))
                .collect();
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, cause) in [
            (":/b", "source is empty"),
            ("/a:b", "not an absolute path"),
            ("/a:/b:rx", "not ro or rw"),
            ("/a:/b:ro:x", "more than three"),
        ] {
            let error = parse_list(OsStr::new(text), Path::new("/")).unwrap_err();
            assert!(error.to_string().contains(cause), "{text}: {error}");
        }
    }
}
