//! The graphs of docs/PERFORMANCE.md: `singularity bench` over one tree as a
//! directory and as files, as an ordinary user and, run by root, as root too.

use std::process::Command;

use test_support::{Form, Image, User};

/// What is measured where nothing else is said.
const USUAL: [&str; 2] = ["--minutes", "60"];

/// Draws them, with these further options.
///
/// # Errors
/// The run failed.
pub fn draw(options: &[String]) -> Result<(), String> {
    // Made for the run, and removed afterwards.
    let user = User::ordinary();
    let image = Image::OpenMpiBookworm;
    let images = [
        image.directory(),
        image.file(Form::Squashfs),
        image.file(Form::ErofsLz4hc),
    ];
    let is_root = nix::unistd::geteuid().is_root();
    let mut command = Command::new(test_support::command());
    command
        .env("PATH", test_support::search_path())
        .arg("bench");
    if !options
        .iter()
        .any(|option| ["--quick", "--minutes", "--rounds"].contains(&option.as_str()))
    {
        command.args(USUAL);
    }
    command.args(["--most", "16M"]);
    if is_root {
        command.args(["--as", user.name(), "--measure", "all"]);
    }
    let status = command
        .args(options)
        .arg("--out")
        .arg(test_support::top().join("docs/figures"))
        .args(&images)
        .status()
        .map_err(|error| format!("singularity bench: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("singularity bench: {status}")),
    }
}
