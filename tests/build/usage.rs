//! What is typed wrong.

use crate::ground::Ground;

#[test]
fn every_verb_on_images_has_its_help() {
    let ground = Ground::new();
    for verb in [
        "build",
        "create",
        "bootstrap",
        "pull",
        "import",
        "export",
        "expand",
        "copy",
        "convert",
        "inspect",
        "cache",
    ] {
        let help = ground.run(&[verb, "--help"]);
        let text = help.succeeded().quietly().stdout();
        assert!(text.contains("Usage: singularity"), "{verb}: {text}");
    }
}

#[test]
fn a_missing_word_is_named() {
    let ground = Ground::new();
    ground.fails(
        &["build", "image.sqfs"],
        2,
        "singularity: the following required arguments were not provided: <SOURCE>\n\
         hint: singularity help build lists the options\n",
    );
    ground.fails(
        &["create", "--size", "many", "image.ext4"],
        2,
        "singularity: invalid value 'many' for '--size <MiB>': not a whole number\n\
         hint: singularity help create lists the options\n",
    );
}
