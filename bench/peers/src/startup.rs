//! What it takes to start a program that does nothing.

use test_support::Form;

use crate::section::{Builder, Effort, Section};
use crate::stage::{Stage, Who};
use bench::round::{Contender, READY};

const ROUNDS: usize = 200;
const IMAGE_TRUE: &str = "/bin/true";

/// Measures it, as a user and as root.
///
/// # Errors
/// The first contender that failed.
pub fn measure(stage: &Stage, effort: Effort) -> Result<Vec<Section>, String> {
    let mut sections = vec![floor(stage, effort)?, images(stage, effort)?];
    if stage.has_root() {
        sections.push(root(stage, effort)?);
    }
    Ok(sections)
}

/// The fixed cost of each launcher: a static program, so that nothing of the
/// image is read.
fn floor(stage: &Stage, effort: Effort) -> Result<Section, String> {
    let mut builder = Builder::new("start a static program that does nothing", Who::User);
    let program = [stage.static_true()];
    builder.add("host", &[], &program);
    builder.add("one more execve", &[stage.wrapper()], &program);
    let directory = stage.exec(&[], &stage.directory);
    builder.add("singularity, directory", &directory, &program);
    add_directory_peers(&mut builder, stage, &program);

    // Ranks that join: by a name, and as a launcher's, told by its variables.
    let joining = stage.exec(&["--share=bench"], &stage.directory);
    let hold = ["/bin/sh", "-c", &format!("echo {READY}; exec sleep 86400")].map(str::to_owned);
    builder.meanwhile(Contender::new(
        "holder",
        joining.iter().chain(&hold).cloned(),
    ));
    builder.add("singularity, joining by name", &joining, &program);
    let mut first = Contender::new("first rank", directory.iter().chain(&hold).cloned());
    first.variables = rank(0);
    builder.meanwhile(first);
    builder
        .add("singularity, joining as a rank", &directory, &program)
        .variables = rank(1);

    builder.target(
        "singularity, the peers' binds",
        0.7,
        "bubblewrap, directory",
    );
    builder.target(
        "singularity, the peers' binds",
        0.7,
        "charliecloud, directory",
    );
    builder.target("singularity, joining by name", 1.15, "one more execve");
    builder.target("singularity, joining as a rank", 1.15, "one more execve");
    Ok(builder.run(stage, effort, ROUNDS)?.0)
}

/// What a PMIx launcher tells a rank, as far as it matters before MPI_Init.
fn rank(number: u32) -> Vec<(String, String)> {
    [
        ("PMIX_NAMESPACE", "bench.1".to_owned()),
        ("PMIX_RANK", number.to_string()),
        ("PMIX_SERVER_URI21", "bench.0;tcp4://127.0.0.1:9".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn add_directory_peers(builder: &mut Builder, stage: &Stage, program: &[String]) {
    builder.add(
        "singularity, the peers' binds",
        &stage.exec_like_peers(),
        program,
    );
    builder.add_if(
        "bubblewrap, directory",
        stage.bubblewrap(),
        program,
        "bubblewrap",
    );
    builder.add_if(
        "charliecloud, directory",
        stage.charliecloud(&[], &stage.directory),
        program,
        "charliecloud",
    );
}

/// The image's own program, from images of each form.
fn images(stage: &Stage, effort: Effort) -> Result<Section, String> {
    let mut builder = Builder::new("start the image's /bin/true", Who::User);
    let program = [IMAGE_TRUE.to_owned()];
    builder.add("host", &[], &program);
    builder.add("one more execve", &[stage.wrapper()], &program);
    let directory = stage.exec(&[], &stage.directory);
    builder.add("singularity, directory", &directory, &program);
    add_directory_peers(&mut builder, stage, &program);
    for (name, form, server, package) in FILES {
        let name = format!("singularity, {name} by FUSE");
        let words = stage
            .program(server)
            .map(|_| stage.exec(&[], &stage.image(form)));
        builder.add_if(&name, words, &program, package);
    }
    let squashfs = stage.charliecloud(
        &["--mount", &stage.mount_point()],
        &stage.image(Form::Squashfs),
    );
    builder.add_if("charliecloud, squashfs", squashfs, &program, "charliecloud");
    builder.target(
        "singularity, the peers' binds",
        0.7,
        "bubblewrap, directory",
    );
    builder.target(
        "singularity, the peers' binds",
        0.7,
        "charliecloud, directory",
    );
    builder.target(
        "singularity, squashfs by FUSE",
        0.5,
        "charliecloud, squashfs",
    );
    Ok(builder.run(stage, effort, ROUNDS / 2)?.0)
}

/// The forms of image file, what serves them, and the server's package.
pub const FILES: [(&str, Form, &str, &str); 3] = [
    ("squashfs", Form::Squashfs, "squashfuse_ll", "squashfuse"),
    ("erofs", Form::ErofsLz4hc, "erofsfuse", "erofsfuse"),
    ("ext4", Form::Ext4, "fuse2fs", "fuse2fs"),
];

/// Image files that the kernel mounts.
fn root(stage: &Stage, effort: Effort) -> Result<Section, String> {
    let mut builder = Builder::new("start the image's /bin/true, as root", Who::Root);
    let program = [IMAGE_TRUE.to_owned()];
    builder.add("host", &[], &program);
    builder.add("one more execve", &[stage.wrapper()], &program);
    builder.add(
        "singularity, directory",
        &stage.exec(&[], &stage.directory),
        &program,
    );
    for (name, form, ..) in FILES {
        let name = format!("singularity, {name} by the kernel");
        builder.add(&name, &stage.exec(&[], &stage.image(form)), &program);
    }
    Ok(builder.run(stage, effort, ROUNDS / 2)?.0)
}
