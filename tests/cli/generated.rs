//! Manual pages and shell completions, made from the definition of the options.

use std::fs;
use std::path::Path;

use test_support::capture;

use crate::ground::{text_of, Ground};

fn options_of(ground: &Ground, verb: &str) -> Vec<String> {
    let text = ground.run(&[verb, "--help"]).stdout();
    let mut options: Vec<String> = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with("--") && word.len() > 3)
        .map(str::to_owned)
        .collect();
    options.sort();
    options.dedup();
    assert!(options.len() > 3, "{options:?}");
    options
}

fn generate(ground: &Ground, what: &str) -> std::path::PathBuf {
    let directory = ground.user().work().join("made").join(what);
    let output = ground.run(&["generate", what, text_of(&directory)]);
    output.succeeded().quietly().wrote("");
    directory
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn manual_pages_have_every_option_and_the_exit_statuses() {
    let ground = Ground::new();
    let directory = generate(&ground, "man");
    assert!(directory.join("singularity.1").exists());
    for verb in ["exec", "run", "shell", "test"] {
        let page = directory.join(format!("singularity-{verb}.1"));
        let source = read(&page);
        let output = capture(
            ground
                .user()
                .command("man")
                .env("MANWIDTH", "200")
                .args(["--warnings", "-l"])
                .arg(&page),
        );
        let text = output.succeeded().quietly().stdout();
        for option in options_of(&ground, verb) {
            assert!(text.contains(&option), "{option} is not in {verb}'s page");
        }
        for part in ["126", "127", "255", "SINGULARITY_BINDPATH"] {
            assert!(source.contains(part), "{part} is not in {verb}'s page");
        }
    }
}

#[test]
fn every_variable_for_an_option_is_in_the_users_document() {
    let ground = Ground::new();
    let document = read(&test_support::top().join("docs/USER.md"));
    for verb in ["exec", "shell"] {
        let text = ground.run(&[verb, "--help"]).stdout();
        let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        for name in words.filter(|word| word.starts_with("SINGULARITY_")) {
            assert!(
                document.contains(&format!("| `{name}`")),
                "{name} is not in docs/USER.md"
            );
        }
    }
}

#[test]
fn every_verb_on_images_has_a_page_of_its_own() {
    let ground = Ground::new();
    let directory = generate(&ground, "man");
    for verb in command::cli::ImageVerb::NAMES {
        let page = directory.join(format!("singularity-{verb}.1"));
        let output = capture(
            ground
                .user()
                .command("man")
                .env("MANWIDTH", "200")
                .args(["--warnings", "-l"])
                .arg(&page),
        );
        let text = output.succeeded().quietly().stdout();
        for option in options_of(&ground, verb) {
            assert!(text.contains(&option), "{option} is not in {verb}'s page");
        }
        let synopsis = format!("singularity {verb} ");
        let own = text.contains(&synopsis) && !text.contains("becomes a program in it");
        assert!(own, "{verb} has the page of the command");
        for part in ["EXIT STATUS", "255", "EXAMPLES", "SOURCE_DATE_EPOCH"] {
            assert!(text.contains(part), "{part} is not in {verb}'s page");
        }
    }
}

#[test]
fn completions_have_every_option_and_load_in_their_shells() {
    let ground = Ground::new();
    let directory = generate(&ground, "completions");
    for (file, check) in [
        ("singularity.bash", "bash -c 'source $0 && complete -p singularity'"),
        ("_singularity", "zsh -fc 'fpath=($PWD/made/completions $fpath); autoload -Uz compinit && compinit -D -u && (( $+_comps[singularity] ))'"),
        ("singularity.fish", "fish --no-config -c 'source $argv[1]; complete -C\"singularity exec --con\" | grep -q -- --contain'"),
    ] {
        let path = directory.join(file);
        let text = read(&path);
        for option in options_of(&ground, "exec") {
            // fish writes `-l bind`.
            let bare = format!("-l {}", option.trim_start_matches('-'));
            assert!(
                text.contains(&option) || text.contains(&bare),
                "{option} is not in {file}"
            );
        }
        let output = capture(&mut ground.user().shell(&format!("{check} {}", path.display())));
        output.succeeded().quietly();
    }
}

#[test]
fn generate_says_what_it_cannot_do() {
    let ground = Ground::new();
    ground.fails(
        &["generate", "poems", "."],
        255,
        "singularity: generate poems: unknown\nhint: man, completions or conf\n",
    );
    ground.fails(
        &["generate", "man", "/proc/x"],
        255,
        "singularity: write to /proc/x: no such file or directory\nhint: name a directory that you may write to\n",
    );
}

#[test]
fn every_option_has_a_variable_but_those_that_have_another() {
    let ground = Ground::new();
    let directory = generate(&ground, "man");
    let page = read(&directory.join("singularity-shell.1")).replace('\\', "");
    let names = options_of(&ground, "shell");
    for option in names {
        // --env has SINGULARITYENV_NAME.
        if ["--env", "--help", "--version"].contains(&option.as_str()) {
            continue;
        }
        let name = match option.as_str() {
            "--bind" => "BINDPATH".to_owned(),
            other => other[2..].to_uppercase().replace('-', "_"),
        };
        let variable = format!("SINGULARITY_{name}");
        assert!(page.contains(&variable), "{option} has no {variable}");
    }
}
