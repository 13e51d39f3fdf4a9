//! Prints what the named images are: `cargo run -p image --example describe -- IMAGE...`

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for path in std::env::args_os().skip(1) {
        match image::Image::open(path.as_ref()) {
            Ok(image) => {
                println!("{}: {}", image::Shown::new(&path), image.format());
                if let Some(root) = image.root() {
                    println!(
                        "  {} at byte {}, {} bytes",
                        root.filesystem, root.offset, root.size
                    );
                }
                if let Some(superblock) = image.superblock() {
                    println!("  {superblock:?}");
                }
            }
            Err(error) => {
                eprintln!("{error}");
                if let Some(hint) = error.hint() {
                    eprintln!("hint: {hint}");
                }
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
