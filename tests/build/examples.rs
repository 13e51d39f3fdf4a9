//! The definitions of `examples`, built as they stand.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use test_support::{capture, capture_within, top, Mpi};

use crate::ground::text_of;
use crate::oci_server::{Door, Layout, Registry};
use crate::space_users::{Builder, Who, LIMIT};

/// The archive that this machine's apt is set up with.
fn archive() -> &'static str {
    static ARCHIVE: OnceLock<String> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let output = capture(&mut Command::new(top().join("packages/debian-archive")));
        output.succeeded().stdout().trim().to_owned()
    })
}

/// Builds an example as a user; packages come from where this machine's come from.
fn build(builder: &Builder, name: &str, options: &[&str]) -> String {
    let user = builder.ground.user();
    for example in ["ring", "mpich", "python", "oci"] {
        let directory = top().join("examples").join(example);
        for entry in fs::read_dir(directory).expect("there are examples") {
            let path = entry.expect("an example can be read").path();
            let file = path.file_name().expect("a file has a name");
            let text = fs::read_to_string(&path).expect("an example is text");
            let mirror = format!("OSVersion: bookworm\nMirrorURL: {}\n", archive());
            let text = text.replace("OSVersion: bookworm\n", &mirror);
            let copy = format!("examples/{example}/{}", file.to_string_lossy());
            user.file(copy, text);
        }
    }
    let image = user.work().join(format!("{name}.sqfs"));
    let mut words = vec!["-q", "build"];
    words.extend(options);
    let definition = format!("{name}.def");
    words.extend([text_of(&image), &definition]);
    let mut command = builder.command(&words);
    command.current_dir(user.work().join("examples").join(name));
    capture_within(LIMIT, &mut command, b"")
        .succeeded()
        .quietly();
    text_of(&image).to_owned()
}

fn said(builder: &Builder, words: &[&str]) -> String {
    let mut command = builder.command(words);
    capture_within(LIMIT, &mut command, b"")
        .succeeded()
        .stdout()
}

#[test]
fn the_ring_of_open_mpi_is_built_and_runs_under_the_hosts_mpirun() {
    let builder = Builder::new(Who::WithIds);
    let image = build(&builder, "ring", &[]);
    let mut command = Mpi::openmpi().command(builder.ground.user(), 2);
    command.arg(test_support::command()).args(["run", &image]);
    let output = capture_within(LIMIT, &mut command, b"");
    let text = output.succeeded().stdout();
    assert!(text.contains("ring of 2 ranks"), "{output}");
}

#[test]
fn mpich_is_compiled_in_one_stage_and_runs_in_another() {
    let builder = Builder::new(Who::WithoutIds);
    let image = build(&builder, "mpich", &[]);
    let text = said(&builder, &["run", &image]);
    assert!(text.contains("ring of 1 ranks"), "{text}");
    let mut command = builder.command(&["exec", &image, "gcc", "--version"]);
    capture(&mut command).exited_with(127);
}

#[test]
fn a_python_stack_has_apps() {
    let builder = Builder::new(Who::WithIds);
    let image = build(&builder, "python", &[]);
    let line = "import numpy; print(numpy.arange(4).sum())";
    assert_eq!(said(&builder, &["run", &image, "-c", line]), "6\n");
    let mean = ["run", "--app", "mean", &image, "1", "2", "6"];
    assert_eq!(said(&builder, &mean), "3.0\n");
    let apps = said(&builder, &["inspect", "--list-apps", &image]);
    assert_eq!(apps, "mean\nthreads\n");
}

#[test]
fn an_image_of_a_registry_is_the_base_of_ones_own() {
    let builder = Builder::new(Who::WithoutIds);
    let mut layout = Layout::new();
    let base = layout.base("gzip");
    layout.image("base", "{}", &[base]);
    let registry = Registry::start(&Door::Open);
    registry.push(&layout, "base", "lab/base:1");
    let argument = format!("IMAGE={}/lab/base:1", registry.host());
    let image = build(&builder, "oci", &["--build-arg", &argument]);
    assert_eq!(
        said(&builder, &["run", &image]),
        "on top of NAME=\"Busybox\"\n"
    );
}
