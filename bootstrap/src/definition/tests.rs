//! Definitions of both syntaxes, right and wrong.

use std::path::Path;

use super::*;

fn parse(text: &str) -> Result<Definition, Error> {
    Definition::parse(Path::new("a.def"), text.as_bytes(), &Arguments::default())
}

fn good(text: &str) -> Definition {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The message and the hint, of which only the first line and the caret's column.
fn bad(text: &str) -> (String, String) {
    let error = parse(text).expect_err(text);
    let message = error.to_string();
    let mut lines = message.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    let caret = lines.last().unwrap_or_default();
    assert!(caret.ends_with('^'), "{message}");
    (first, error.remedy().unwrap_or_default().to_owned())
}

fn words(list: &[Located<String>]) -> Vec<&str> {
    list.iter().map(|word| word.value.as_str()).collect()
}

const DIRECTIVES: &str = r#"# As in 2016
RELEASE=7
DistType "redhat"
MirrorURL "http://mirror/${RELEASE}/os/\$basearch/" base
MirrorURL http://mirror/updates
OSVersion "$RELEASE"

Setup
Bootstrap coreutils \
    vim-minimal
InstallPkgs openmpi "gcc"   # two of them
InstallFile ring.c /usr/src/
InstallFile '/etc/a b'
RunCmd sed -i 's/$/ universe/' /etc/x
RunScript echo "$@" # hello
RunScript   exec a \
    b
Cleanup
"#;

#[test]
fn a_list_of_directives_is_read_in_its_order() {
    let definition = good(DIRECTIVES);
    assert_eq!(definition.syntax, Syntax::Directives);
    let stage = definition.last();
    let header = &stage.header;
    assert_eq!(header.agent.as_ref().map(|a| a.value), Some(Agent::Yum));
    assert_eq!(header.mirrors[0].url.value, "http://mirror/7/os/$basearch/");
    assert_eq!(header.mirrors[0].name.as_deref(), Some("base"));
    assert_eq!(header.mirrors[1].name, None);
    assert_eq!(header.version.as_ref().map(|v| v.value.as_str()), Some("7"));
    assert_eq!(words(&header.include), ["coreutils", "vim-minimal"]);
    assert_eq!(stage.steps.len(), 5);
    assert!(matches!(&stage.steps[0], Step::Packages(p) if words(p) == ["openmpi", "gcc"]));
    let Step::Files(files) = &stage.steps[2] else {
        panic!("{:?}", stage.steps[2]);
    };
    assert_eq!(files.list[0].source.value, "/etc/a b");
    assert_eq!(files.list[0].destination, None);
    assert!(
        matches!(&stage.steps[3], Step::Command(c) if words(c) == ["sed", "-i", "s/$/ universe/", "/etc/x"])
    );
    assert!(matches!(stage.steps[4], Step::Cleanup(at) if at.line == 18));
    let script = stage.runscript.as_ref().expect("a runscript");
    assert_eq!(script.text, "echo \"$@\" # hello\n  exec a \\\n    b\n");
    assert_eq!(script.interpreter, ["/bin/sh"]);
}

#[test]
fn wrong_directives_are_named_by_their_place() {
    for (text, message, hint) in [
        ("DistType \"debian\"\nRunCdm ls\n", "2:1: \"RunCdm\" is no directive", "did you mean RunCmd?"),
        ("DistType\n", "1:1: DistType without a word after it", "DistType takes a distribution, such as \"debian\""),
        ("DistType slackware\n", "1:10: nothing makes a base system by the name \"slackware\"", "there are debian, redhat, busybox"),
        ("DistType debain\n", "1:10: nothing makes a base system by the name \"debain\"", "did you mean debian? There are debian, redhat, busybox"),
        ("DistType debian\nDistType debian\n", "2:1: DistType is there a second time", "leave one of them"),
        ("OSVersion x\nSetup\nBootstrap\n", "3:1: nothing says which distribution", "put DistType \"NAME\" before it"),
        ("DistType debian\nRunCmd x\nBootstrap\n", "3:1: Bootstrap has to come before what changes the image", "move it up, below DistType, MirrorURL and OSVersion"),
        ("DistType debian\nSetup\n", "1:10: DistType is there, but nothing makes its base system", "add a line with Bootstrap below it, or leave it out"),
        ("Setup\nRunCmd echo a > /b\n", "2:15: > is for a shell, which a list of directives is not", "quote it, or give a whole line to a shell: RunCmd sh -c 'LINE'"),
        ("Setup\nInstallFile a b c\n", "2:17: InstallFile takes no more words", "quote what belongs together; a comment begins with #"),
        ("Setup\nif true\n", "2:1: \"if\" is no directive", "there are DistType, MirrorURL, OSVersion, Setup, Bootstrap, InstallPkgs, InstallFile, RunCmd, RunScript, Cleanup, and NAME=VALUE"),
        ("Setup\n%post\n", "2:1: \"%post\" is no directive", "sections and keys with a colon are another syntax, which cannot be mixed with directives"),
        ("Setup\nMirrorURL: x\n", "2:1: \"MirrorURL:\" is no directive", "sections and keys with a colon are another syntax, which cannot be mixed with directives"),
        ("A=b c\nSetup\n", "1:5: a word after a variable was set", "quote the value, if it has spaces; one variable a line"),
        ("Setup\nRunCmd 'a\n", "2:8: ' is not closed", "close it with ', or put a backslash before it"),
        ("Setup\nRunScript\n", "2:1: RunScript without a word after it", "RunScript takes a line of the script"),
    ] {
        assert_eq!(bad(text), (format!("a.def:{message}"), hint.to_owned()), "{text}");
    }
}

const SECTIONS: &str = r#"BootStrap: debootstrap   # the agent
OSVersion: 7
MirrorURL: http://mirror/%{OSVERSION}/os/ base
UpdateURL: http://mirror/%{OSVERSION}/updates
Include: gcc \
   make
include: 'a b'
Stage: build

%pre
    echo before
%setup
    touch "$SINGULARITY_ROOTFS/x"
%post -c "/bin/bash -l"
    echo one

%post -c "/bin/bash -l"

    echo two
%files
    # nothing
    a /b
    "c d"

bootstrap: scratch
%files from build
    /usr/bin/* /bin/
    '*.c'
%environment
    export A=b
%runscript

#!/usr/bin/env python3
print(1)
%startscript
%test
    true
%labels
    Author "A B"
    Version 1
%help
    # not a comment

    two

%apprun first
    exec one
%appenv first
    A=1
%appfiles first
    a bin/a
%applabels first
    X y
%apphelp first
    Help.
%appinstall second
    touch x
%apptest second
    true
%appstart second
    sleep 1
"#;

#[test]
fn header_and_sections_are_read() {
    let definition = good(SECTIONS);
    assert_eq!(definition.syntax, Syntax::Sections);
    assert_eq!(definition.stages.len(), 2);
    let first = &definition.stages[0];
    let header = &first.header;
    assert_eq!(
        header.agent.as_ref().map(|a| a.value),
        Some(Agent::Debootstrap)
    );
    assert_eq!(header.mirrors[0].url.value, "http://mirror/7/os/");
    assert_eq!(header.mirrors[0].name.as_deref(), Some("base"));
    assert_eq!(words(&header.updates), ["http://mirror/7/updates"]);
    assert_eq!(words(&header.include), ["gcc", "make", "a b"]);
    assert_eq!(first.name.as_ref().map(|n| n.value.as_str()), Some("build"));
    assert_eq!(first.pre[0].text, "    echo before\n");
    let Step::Post(post) = &first.steps[2] else {
        panic!("{:?}", first.steps);
    };
    assert_eq!(post.text, "    echo one\n\n    echo two\n");
    assert_eq!(post.interpreter, ["/bin/bash", "-l"]);
    assert!(post.is_for_a_shell());
    assert!(matches!(&first.steps[0], Step::Setup(s) if s.at == Place { line: 13, column: 1 }));
    let Step::Files(files) = &first.steps[1] else {
        panic!("{:?}", first.steps);
    };
    assert_eq!(files.list.len(), 2);
    assert_eq!(
        files.list[1].source,
        Located::new(
            "c d".into(),
            Place {
                line: 23,
                column: 5
            }
        )
    );

    let last = definition.last();
    let Step::Files(files) = &last.steps[0] else {
        panic!("{:?}", last.steps);
    };
    assert_eq!(files.from.as_ref().map(|f| f.value.as_str()), Some("build"));
    assert_eq!(files.list[0].source.value, "/usr/bin/*");
    assert_eq!(files.list[1].source.value, "[*].c");
    let runscript = last.runscript.as_ref().expect("a runscript");
    assert_eq!(runscript.file(), "#!/usr/bin/env python3\nprint(1)\n");
    assert!(!runscript.is_for_a_shell());
    assert_eq!(last.startscript, None);
    assert_eq!(
        last.labels,
        [
            ("Author".to_owned(), "A B".to_owned()),
            ("Version".into(), "1".into())
        ]
    );
    assert_eq!(
        last.help.as_deref(),
        Some("    # not a comment\n\n    two\n")
    );
    assert_eq!(last.apps.len(), 2);
    assert_eq!(last.apps[0].files[0].source.value, "a");
    assert_eq!(last.apps[1].name, "second");
    assert!(matches!(&last.steps[2], Step::App(name) if name == "second"));
}

#[test]
fn dos_line_ends_and_a_byte_order_mark_do_no_harm() {
    let definition = good("\u{feff}Bootstrap: scratch\r\n%post\r\n  true\r\n");
    assert!(matches!(&definition.last().steps[0], Step::Post(s) if s.text == "  true\n"));
}

#[test]
fn registry_and_namespace_are_put_before_the_name() {
    let text = "Bootstrap: docker\nRegistry: localhost:5000\nNamespace: a\nFrom: b:1\n";
    let definition = good(text);
    let from = definition.last().header.from.as_ref();
    assert_eq!(from.map(|f| f.value.as_str()), Some("localhost:5000/a/b:1"));
}

#[test]
fn wrong_sections_are_named_by_their_place() {
    let keys =
        "Bootstrap, From, MirrorURL, UpdateURL, OSVersion, Include, Variant, Components, Keyring, Stage, Registry, Namespace";
    let scratch = "Bootstrap: scratch\n";
    for (text, message, hint) in [
        ("Boostrap: scratch\n".to_owned(), "1:1: unknown key \"Boostrap\"", "did you mean Bootstrap?".to_owned()),
        (format!("{scratch}Fingerprints: x\n"), "2:1: unknown key \"Fingerprints\"", format!("there are {keys}")),
        (format!("{scratch}From\n"), "2:1: not a key with its value", "write From: VALUE".into()),
        (format!("{scratch}  %post\n"), "2:3: not a key with its value", "a section begins at the very beginning of a line".into()),
        (format!("{scratch}OSVersion:\n"), "2:1: OSVersion has no value", "write the value behind the colon, or leave the line out".into()),
        (format!("{scratch}OSVersion: 1 2\n"), "2:14: OSVersion takes no more words", "put quotes around a value with spaces; a comment begins with #".into()),
        (format!("{scratch}bootstrap: scratch\n"), "2:1: bootstrap is there a second time", "leave one of them".into()),
        ("Bootstrap: dokcer\n".into(), "1:12: nothing makes a base system by the name \"dokcer\"", "did you mean docker? There are debootstrap, mmdebstrap, yum, dnf, busybox, localimage, docker, oci, oci-archive, docker-archive, scratch".into()),
        ("Bootstrap: docker\n".into(), "1:12: docker without From:", "add a line From: with the image that is the base".into()),
        (format!("{scratch}Registry: x\n"), "2:11: a registry, but nothing that comes from one", "it goes with Bootstrap: docker and From: NAME:TAG".into()),
        (format!("{scratch}%psot\n"), "2:1: unknown section %psot", "did you mean %post? A line of a script can be indented".into()),
        (format!("{scratch}%post -x\n"), "2:7: not an option of a script", "-c /PATH/OF/INTERPRETER is one; the script begins in the next line".into()),
        (format!("{scratch}%post -c\n"), "2:7: not an option of a script", "-c /PATH/OF/INTERPRETER is one; the script begins in the next line".into()),
        (format!("{scratch}%post\na\n%post -c /bin/bash\nb\n"), "5:1: a section of the same name is for /bin/sh, this one for /bin/bash", "one script has one interpreter: put them together, or call one from the other".into()),
        (format!("{scratch}%help me\n"), "2:7: a word that this section does not take", "the content of a section begins in the next line".into()),
        (format!("{scratch}%files from x\n"), "2:13: no stage above is called x", "a stage above has to have the line Stage: NAME in its header, with this name".into()),
        (format!("{scratch}Stage: a\n%files from a\n"), "3:13: no stage above is called a", "a stage above has to have the line Stage: NAME in its header, with this name".into()),
        (format!("{scratch}%files of x\n"), "2:8: not a source of files", "write %files, or %files from STAGE; the files are in the lines below".into()),
        (format!("{scratch}%files\n  a b c\n"), "3:7: a third word", "a line has a source and a destination; put quotes around a name with spaces".into()),
        (format!("{scratch}%labels\n A\n"), "3:2: a label without a value", "write NAME VALUE in one line".into()),
        (format!("{scratch}%apprun\n x\n"), "2:1: %apprun without the name of an app", "write %apprun NAME".into()),
        (format!("{scratch}%apprun ../x\n x\n"), "2:9: not a name of an app", "letters, digits and _ - + . make a name, which is that of a directory".into()),
        (format!("{scratch}Stage: a\nBootstrap: scratch\n"), "3:1: Bootstrap is there a second time", "leave one of them".into()),
        (format!("{scratch}Stage: a\n%post\n b\nStage: a\n"), "5:8: another stage is called a", "give it a name of its own".into()),
        (format!("{scratch}%post\n{{{{ X }}}}\n"), "3:1: the build argument X has no value", "give it with --build-arg X=VALUE, or a default in %arguments; \\{{ stands for {{".into()),
    ] {
        assert_eq!(bad(&text), (format!("a.def:{message}"), hint), "{text}");
    }
}

#[test]
fn the_syntax_is_recognised_by_content() {
    for (text, expected) in [
        ("Bootstrap: docker\n", Some(Syntax::Sections)),
        ("# c\n\n  bootstrap : docker\n", Some(Syntax::Sections)),
        ("%post\nRunCmd x\n", Some(Syntax::Sections)),
        ("DistType \"debian\"\n", Some(Syntax::Directives)),
        ("RELEASE=7\n", Some(Syntax::Directives)),
        (
            "MirrorURL \"http://x\"\nDistType x\n",
            Some(Syntax::Directives),
        ),
        ("Bootstrap docker\nFrom: x\n", Some(Syntax::Sections)),
        (
            "MirrorURL \"http://x\"\nBootstrap\n",
            Some(Syntax::Directives),
        ),
        ("", None),
        ("# only\n", None),
        ("hello world\n", None),
    ] {
        let text_of = Text::new(Path::new("a"), text.as_bytes()).unwrap();
        assert_eq!(recognise(&text_of).ok(), expected, "{text:?}");
    }
}

#[test]
fn what_is_no_definition_gets_a_hint() {
    let error = |text: &str| {
        let error = Definition::parse(Path::new("a.def"), text.as_bytes(), &Arguments::default())
            .unwrap_err();
        format!("{error}\nhint: {}", error.remedy().unwrap_or_default())
    };
    assert_eq!(
        error("Boostrap docker\n"),
        "a.def:1:1: neither a key with its value, nor a section, nor a directive\n    \
             1 | Boostrap docker\n      | ^\nhint: did you mean Bootstrap: VALUE?"
    );
    assert_eq!(
        error(""),
        "a.def:1:1: the definition is empty\n\
             hint: it begins with Bootstrap: AGENT, or with DistType \"NAME\""
    );
}
