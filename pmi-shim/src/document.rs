//! The tables of docs/PMI.md are those of the code: tests compare them.
//!
//! `WRITE_DOCUMENT=1 cargo test -p pmi-shim the_document` writes them anew.

use std::path::Path;

/// Fails if the section with this name is not `table`.
#[track_caller]
pub fn assert_section(name: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PMI.md");
    let text = std::fs::read_to_string(&path).expect("docs/PMI.md");
    let (begin, end) = (
        format!("<!-- {name}: made by the tests of pmi-shim -->\n"),
        format!("<!-- end of {name} -->"),
    );
    let parts = text.split_once(&begin).and_then(|(before, rest)| {
        let (section, after) = rest.split_once(&end)?;
        Some((before, section, after))
    });
    let (before, section, after) = parts.expect("docs/PMI.md has the section's marks");
    if section == table {
        return;
    }
    if std::env::var_os("WRITE_DOCUMENT").is_some() {
        let text = format!("{before}{begin}{table}{end}{after}");
        return std::fs::write(&path, text).expect("docs/PMI.md can be written");
    }
    panic!("{name} in docs/PMI.md is not the code's; WRITE_DOCUMENT=1 writes it:\n{table}");
}
