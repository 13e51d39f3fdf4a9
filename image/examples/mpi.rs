//! Says which MPI a command in a root uses, and what the root holds:
//! `cargo run --package image --example mpi ROOT [COMMAND…]`.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Instant;

use image::mpi::{of_program, survey, Depth, Question, Root};

fn main() -> std::io::Result<()> {
    let mut words = std::env::args_os().skip(1);
    let root = Root::open(Path::new(&words.next().unwrap_or_else(|| "/".into())))?;
    let words: Vec<OsString> = words.collect();
    if words.is_empty() {
        for library in survey(&root) {
            let version = library.version.map(|v| v.to_string()).unwrap_or_default();
            println!(
                "{} {version} {}",
                library.kind.name(),
                library.path.display()
            );
        }
        return Ok(());
    }
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let library_path = std::env::var_os("INSIDE_LD_LIBRARY_PATH");
    for depth in [Depth::Thorough, Depth::Quick] {
        let question = Question {
            words: &words,
            path: OsStr::new(path),
            library_path: library_path.as_deref(),
            variable: &|name| std::env::var_os(format!("INSIDE_{name}")),
            directory: Path::new("/"),
            at_terminal: false,
            depth,
        };
        let start = Instant::now();
        let answer = of_program(&root, &question);
        println!("{depth:?} {:?} in {:?}", answer, start.elapsed());
    }
    Ok(())
}
