//! Definitions in both syntaxes become images, for everybody who builds.

use std::fs;
use std::path::PathBuf;

use test_support::capture_within;

use crate::ground::text_of;
use crate::space_users::{Builder, Who, LIMIT};

const SECTIONS: &str = "\
Bootstrap: busybox
%setup
  echo setup >\"$SINGULARITY_ROOTFS/from-setup\"
%files
  given.txt /data/
  given.txt /data/other
%post
  id -u >/who; cat /data/given.txt >/seen; chown 33:44 /seen
  echo 'export FROM_POST=post' >>\"$SINGULARITY_ENVIRONMENT\"
  echo 'from.post 1' >>\"$SINGULARITY_LABELS\"
%environment
  export FROM_ENVIRONMENT=environment
%runscript
  echo \"ran $* $FROM_POST $FROM_ENVIRONMENT\"
%labels
  Version 1.0
%test
  test \"$(cat /who)\" = 0 && test \"$FROM_ENVIRONMENT\" = environment
%help
  How to use it.
%appinstall first
  echo tool >bin/tool
%apprun first
  echo \"app $SCIF_APPNAME $*\"
%appenv first
  export OF_APP=yes
";

const DIRECTIVES: &str = "\
DistType \"busybox\"
Setup
Bootstrap
InstallFile given.txt /opt/given.txt
RunCmd touch /made-by-command
RunScript echo \"hello $1\"
Cleanup
";

impl Builder {
    /// Builds `image` from this text.
    fn builds(&self, image: &str, text: &str) -> PathBuf {
        let definition = self.ground.user().file(format!("{image}.def"), text);
        self.ground.user().file("given.txt", "given\n");
        let mut command = self.command(&["-q", "build", image, text_of(&definition)]);
        capture_within(LIMIT, &mut command, b"")
            .succeeded()
            .quietly();
        self.ground.user().work().join(image)
    }

    fn inside(&self, words: &[&str]) -> String {
        let output = capture_within(LIMIT, &mut self.command(words), b"");
        output.succeeded().quietly().stdout()
    }
}

#[test]
fn every_section_does_its_part_for_everybody() {
    for who in Who::ALL {
        let builder = Builder::new(who);
        let image = builder.builds("sections.sqfs", SECTIONS);
        let image = text_of(&image);
        let text = "cat /from-setup /who /seen /data/given.txt /data/other";
        assert_eq!(
            builder.inside(&["exec", image, "sh", "-c", text]),
            "setup\n0\ngiven\ngiven\ngiven\n",
            "{who:?}"
        );
        assert_eq!(
            builder.inside(&["run", image, "x", "y"]),
            "ran x y post environment\n"
        );
        assert_eq!(builder.inside(&["test", image]), "");
        assert_eq!(
            builder.inside(&["run", "--app", "first", image, "z"]),
            "app first z\n"
        );
        let text = "cat \"$SCIF_APPBIN/tool\"; echo $OF_APP; readlink /singularity";
        assert_eq!(
            builder.inside(&["exec", "--app", "first", image, "sh", "-c", text]),
            "tool\nyes\n.singularity.d/runscript\n"
        );
        let facts = builder.inside(&["inspect", "--json", image]);
        for part in [
            "\"from.post\": \"1\"",
            "\"Version\": \"1.0\"",
            "How to use it.",
            "\"first\"",
        ] {
            assert!(facts.contains(part), "{part} is not in {facts}");
        }
    }
}

#[test]
fn the_directives_of_2016_still_make_an_image() {
    for who in [Who::Root, Who::WithoutIds] {
        let builder = Builder::new(who);
        let image = builder.builds("directives.sif", DIRECTIVES);
        let image = text_of(&image);
        assert_eq!(builder.inside(&["run", image, "you"]), "hello you\n");
        let text = "cat /opt/given.txt; ls /made-by-command";
        assert_eq!(
            builder.inside(&["exec", image, "sh", "-c", text]),
            "given\n/made-by-command\n"
        );
    }
}

#[test]
fn two_steps_as_in_the_original_make_an_image_too() {
    for who in [Who::Root, Who::WithoutIds] {
        let builder = Builder::new(who);
        builder.ground.user().file("given.txt", "given\n");
        let definition = builder.ground.user().file("a.def", DIRECTIVES);
        builder.inside(&["create", "-s", "32", "two.img"]);
        builder.inside(&["-q", "bootstrap", "two.img", text_of(&definition)]);
        assert_eq!(builder.inside(&["run", "two.img", "you"]), "hello you\n");
    }
}

#[test]
fn a_later_stage_takes_files_of_an_earlier_one() {
    let builder = Builder::new(Who::WithoutIds);
    let text = "\
Bootstrap: busybox
Stage: compile
%post
  mkdir -p /out && echo result >/out/program && ln -s program /out/link

Bootstrap: busybox
%files from compile
  /out/program /usr/bin/
  /out/link /
";
    let image = builder.builds("stages.sqfs", text);
    let text = "cat /usr/bin/program /link; ls /out 2>/dev/null || echo none";
    let said = builder.inside(&["exec", text_of(&image), "sh", "-c", text]);
    assert_eq!(said, "result\nresult\nnone\n");
}

#[test]
fn build_arguments_have_defaults_and_are_given() {
    let builder = Builder::new(Who::WithoutIds);
    let text = "\
Bootstrap: busybox
%arguments
  NAME=nobody
%post
  echo '{{ NAME }}' >/name
";
    let definition = builder.ground.user().file("args.def", text);
    let definition = text_of(&definition);
    let name = |options: &[&str]| {
        let mut words = vec!["-q", "build", "-F"];
        words.extend(options);
        words.extend(["args.sqfs", definition]);
        builder.inside(&words);
        builder.inside(&["exec", "args.sqfs", "cat", "/name"])
    };
    assert_eq!(name(&[]), "nobody\n");
    assert_eq!(name(&["--build-arg", "NAME=ada"]), "ada\n");
    builder.ground.user().file("values", "# said\nNAME=file\n");
    assert_eq!(name(&["--build-arg-file", "values"]), "file\n");
    let words = [
        "build",
        "-F",
        "--build-arg",
        "NAEM=x",
        "args.sqfs",
        definition,
    ];
    let output = capture_within(LIMIT, &mut builder.command(&words), b"");
    output.exited_with(255);
    assert!(output.stderr().contains("did you mean NAME?"), "{output}");
}

#[test]
fn what_is_wrong_with_a_definition_is_shown_in_its_line() {
    let builder = Builder::new(Who::WithoutIds);
    for (text, complaint) in [
        (
            "Bootstrap: busybox\n%pots\n",
            "bad.def:2:1: unknown section %pots\n    2 | %pots\n      | ^\nhint: did you mean %post? A line of a script can be indented\n",
        ),
        (
            "%post\n  true\n",
            "bad.def:1:1: nothing says what makes the base system\n    1 | %post\n      | ^\nhint: a header with Bootstrap: AGENT does; singularity bootstrap changes an image that has one\n",
        ),
        (
            "Bootstrap: bussybox\n",
            "bad.def:1:12: nothing makes a base system by the name \"bussybox\"\n    1 | Bootstrap: bussybox\n      |            ^\nhint: did you mean busybox?",
        ),
    ] {
        builder.ground.user().file("bad.def", text);
        let mut command = builder.command(&["build", "bad.sqfs", "bad.def"]);
        let output = capture_within(LIMIT, &mut command, b"");
        output.exited_with(255).wrote("");
        let said = output.stderr();
        assert!(said.starts_with(&format!("singularity: {complaint}")), "{output}");
        assert!(!builder.ground.user().work().join("bad.sqfs").exists());
    }
}

#[test]
fn a_failing_script_leaves_the_old_image_and_names_its_log() {
    let builder = Builder::new(Who::WithoutIds);
    builder.builds("kept.sqfs", "Bootstrap: busybox\n%post\n  echo old >/age\n");
    let bad = "Bootstrap: busybox\n%post\n  echo last words\n  false\n  echo not reached\n";
    builder.ground.user().file("bad.def", bad);
    let mut command = builder.command(&["-q", "build", "-F", "kept.sqfs", "bad.def"]);
    let output = capture_within(LIMIT, &mut command, b"");
    output.exited_with(255).wrote("");
    let said = output.stderr();
    assert!(
        said.starts_with("singularity: run %post: ended with status 1: last words\n"),
        "{output}"
    );
    assert!(said.contains("\nhint: it stopped at: false; "), "{output}");
    let log = said
        .split("what was printed is in ")
        .nth(1)
        .map(str::trim)
        .unwrap_or_else(|| panic!("no log in {output}"));
    let log = fs::read_to_string(log).expect("the log can be read");
    assert!(
        log.contains("last words") && !log.contains("not reached"),
        "{log}"
    );
    assert_eq!(
        builder.inside(&["exec", "kept.sqfs", "cat", "/age"]),
        "old\n"
    );
    // Without --force nothing is replaced.
    let mut command = builder.command(&["build", "kept.sqfs", "bad.def"]);
    capture_within(LIMIT, &mut command, b"").exited_with(255);
}

#[test]
fn a_failing_test_stops_the_build_unless_it_is_left_out() {
    let builder = Builder::new(Who::WithoutIds);
    let text = "Bootstrap: busybox\n%test\n  echo not good; exit 3\n";
    let definition = builder.ground.user().file("t.def", text);
    let definition = text_of(&definition);
    let mut command = builder.command(&["-q", "build", "t.sqfs", definition]);
    let output = capture_within(LIMIT, &mut command, b"");
    output.exited_with(255);
    assert!(
        output
            .stderr()
            .contains("run %test: ended with status 3: not good"),
        "{output}"
    );
    builder.inside(&["-q", "build", "--notest", "t.sqfs", definition]);
}

#[test]
fn the_same_definition_gives_the_same_bytes() {
    let builder = Builder::new(Who::WithoutIds);
    let text = "Bootstrap: busybox\n%post\n  date >/when; mkdir -p /a/b; echo x >/a/b/c\n  rm /when\n%runscript\n  true\n";
    let definition = builder.ground.user().file("same.def", text);
    for format in ["squashfs", "erofs", "ext4", "sif"] {
        let mut made = Vec::new();
        for number in 0..2 {
            let image = format!("{format}-{number}");
            let words = [
                "-q",
                "build",
                "--format",
                format,
                &image,
                text_of(&definition),
            ];
            let mut command = builder.command(&words);
            command.env("SOURCE_DATE_EPOCH", "1500000000");
            capture_within(LIMIT, &mut command, b"")
                .succeeded()
                .quietly();
            made.push(fs::read(builder.ground.user().work().join(image)).expect("it was made"));
            // The clock of file systems goes by seconds.
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
        assert!(made[0] == made[1], "{format} differs");
    }
}

#[test]
fn every_source_becomes_every_format() {
    let builder = Builder::new(Who::WithoutIds);
    builder.builds(
        "first.sqfs",
        "Bootstrap: busybox\n%runscript\n  echo \"runs $1\"\n",
    );
    let mut before = "first.sqfs".to_owned();
    for image in ["a.erofs", "b.ext4", "c.sif", "d/", "e.ext3", "f.sqfs"] {
        builder.inside(&["-q", "build", image, &before]);
        // Debian 12 serves EROFS by a program of this project's own tools.
        assert_eq!(builder.inside(&["run", image, "x"]), "runs x\n", "{image}");
        before = image.to_owned();
    }
    let archive = builder.inside(&["export", "f.sqfs"]);
    assert!(!archive.is_empty());
    builder.inside(&["export", "--file", "f.tar", "f.sqfs"]);
    builder.inside(&["-q", "build", "g.sqfs", "f.tar"]);
    assert_eq!(builder.inside(&["run", "g.sqfs", "x"]), "runs x\n");
    let tar = fs::read(builder.ground.user().work().join("f.tar")).expect("it was made");
    let mut command = builder.command(&["-q", "build", "h.sqfs", "-"]);
    capture_within(LIMIT, &mut command, &tar).succeeded();
    assert_eq!(builder.inside(&["run", "h.sqfs", "x"]), "runs x\n");
}

#[test]
fn a_pipe_is_read_once_as_an_archive() {
    let builder = Builder::new(Who::WithoutIds);
    let text = "Bootstrap: busybox\n%runscript\n  echo \"runs $1\"\n";
    builder.builds("first.sqfs", text);
    let line = "singularity export first.sqfs | singularity -q build second.sqfs /dev/stdin";
    let mut shell = builder.ground.user().shell(line);
    capture_within(LIMIT, &mut shell, b"").succeeded().quietly();
    assert_eq!(builder.inside(&["run", "second.sqfs", "x"]), "runs x\n");
}

#[test]
fn a_local_image_is_the_base_of_another() {
    let builder = Builder::new(Who::WithoutIds);
    builder.builds(
        "base.sqfs",
        "Bootstrap: busybox\n%post\n  echo base >/base\n%labels\n  a 1\n",
    );
    let text =
        "Bootstrap: localimage\nFrom: base.sqfs\n%post\n  cat /base >/copy\n%labels\n  b 2\n";
    let image = builder.builds("next.sqfs", text);
    let image = text_of(&image);
    assert_eq!(builder.inside(&["exec", image, "cat", "/copy"]), "base\n");
    let labels = builder.inside(&["inspect", "--labels", image]);
    assert!(
        labels.contains("a: 1\n") && labels.contains("b: 2\n"),
        "{labels}"
    );
}
