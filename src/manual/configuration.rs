//! The manual page of the site's configuration, singularity.conf(5).
//!
//! Owns: what is said around the keys. Never: says a key by itself; they are
//! [`launcher::site::table`]'s.

use std::fs;
use std::io;
use std::path::Path;

use launcher::site::table::KEYS;
use launcher::site::PATH;

/// Writes the page.
///
/// # Errors
/// A directory that cannot be written.
pub fn write(directory: &Path) -> io::Result<()> {
    let mut text = String::from(BEGINNING);
    text.push_str(&format!(".SH FILES\n.I {}\n.SH KEYS\n", escaped(PATH)));
    for key in &KEYS {
        text.push_str(&format!(
            ".TP\n.BI \"{} = \" {}\n{}\n",
            escaped(key.name),
            quoted(key.form),
            escaped(key.meaning)
        ));
        if key.repeatable {
            text.push_str("May be given more than once.\n");
        }
        let default = match key.default {
            "" => "none".to_owned(),
            default => escaped(default),
        };
        text.push_str(&format!("Default: {default}.\n"));
    }
    text.push_str(END);
    fs::write(directory.join("singularity.conf.5"), text)
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', r"\e").replace('-', r"\-");
    match text.strip_prefix(['.', '\'']) {
        Some(_) => format!(r"\&{text}"),
        None => text,
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

const BEGINNING: &str = r#".TH singularity.conf 5 "" "singularity"
.SH NAME
singularity.conf \- what the administrator of a machine allows, forbids and adds
.SH DESCRIPTION
The
.B singularity
command, the set\-id starter and the Slurm plugin read this file at every start.
Without it the defaults hold, but the starter does not work.
.PP
The file, and every directory above it, must belong to root and be writable by nobody
else; it must not be a symbolic link.
Otherwise every start is refused in one line.
A mistake in it, such as an unknown key, is refused too, with file, line and column.
.B "singularity config check"
says beforehand whether it is right, and
.B "singularity config show"
prints what holds.
.PP
A line is
.IB key " = " value .
Empty lines, and lines that begin with
.BR # ,
say nothing.
A list is separated by commas.
.PP
What the file forbids to the command, users could do with a program of their own where
the kernel lets them make user namespaces.
The starter and the plugin are root's, and there is no way around what it forbids to
them.
"#;

const END: &str = r#".SH EXAMPLES
A site where the kernel may mount only images that the administrators installed, and
nobody makes user namespaces:
.PP
.in +4n
.EX
allow user namespaces = no
limit image directories = /opt/images
limit image owners = root
.EE
.in
.SH SEE ALSO
.BR singularity (1),
.BR singularity\-config (1),
.BR singularity\-slurm (1)
"#;
