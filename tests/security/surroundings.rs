//! What a set-id program inherits: variables, descriptors, arguments, limits.

use std::fs;
use std::os::unix::fs::MetadataExt;

use test_support::attack::{library, variables};
use test_support::{capture, Form, Image};

use crate::ground::{busybox, text_of};
use crate::starter::{ground, path};

#[test]
fn no_variable_gets_code_into_the_starter() {
    let ground = ground();
    let user = ground.user();
    let mark = library(user);
    for (name, value) in variables(user) {
        // By itself, and by the command, to which the same is inherited.
        let mut alone = user.command(path());
        alone.env(name, &value);
        capture(&mut alone).exited_with(255).complained(
            "singularity: start: there is no request\n\
             hint: the singularity command calls the starter; people do not\n",
        );
        let mut command =
            ground.singularity(["exec", "--setuid", text_of(busybox()), "echo", "in"]);
        command.env(name, &value);
        let output = capture(&mut command);
        output.succeeded().wrote("in\n");
        assert!(!mark.exists(), "{name} got code into the starter");
    }
    for made in ["ld-debug", "trace"] {
        assert!(!user.work().join(made).exists(), "{made} was written");
    }
}

#[test]
fn megabytes_of_variables_are_taken_or_told() {
    let ground = ground();
    let text = format!(
        "ulimit -s unlimited; i=0; big=$(head -c 120000 /dev/zero | tr '\\0' x); \
         while [ $i -lt 40 ]; do export V$i=$big; i=$((i+1)); done; \
         exec singularity exec --setuid {} sh -c 'echo ${{#V39}}'",
        text_of(busybox())
    );
    let output = capture(&mut ground.user().shell(&text));
    output.succeeded().quietly().wrote("120000\n");
}

#[test]
fn closed_standard_descriptors_become_no_file_of_roots() {
    let ground = ground();
    let starter = path();
    for closing in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let text = format!("{} 9 {closing}; echo $? >status", text_of(&starter));
        capture(&mut ground.user().shell(&text)).succeeded();
        let status = fs::read_to_string(ground.user().work().join("status"));
        assert_eq!(status.expect("the status was kept"), "255\n", "{closing}");
        let text = format!(
            "singularity exec --setuid {} sh -c 'ls /proc/$$/fd | sort -n | tr \"\\n\" \" \" >open' {closing}",
            text_of(busybox())
        );
        capture(&mut ground.user().shell(&text)).succeeded();
    }
}

#[test]
fn thousands_of_descriptors_stop_nothing_and_stay_open() {
    let ground = ground();
    let script = "import os, resource, sys\n\
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))\n\
        for n in range(5000): os.set_inheritable(os.open('/dev/null', os.O_RDONLY), True)\n\
        os.execv(sys.argv[1], sys.argv[1:])\n";
    let mut python = ground.user().command("/usr/bin/python3");
    python.args(["-c", script]);
    python.args([text_of(test_support::command()), "exec", "--setuid"]);
    let image = Image::Busybox.file(Form::SquashfsLz4);
    python.args([text_of(&image), "sh", "-c", "ls /proc/$$/fd | wc -l"]);
    let output = capture(&mut python);
    let count = output.succeeded().quietly().stdout();
    assert!(
        count.trim().parse::<u32>().is_ok_and(|n| n > 5000),
        "{output}"
    );
}

#[test]
fn no_arguments_at_all_are_refused() {
    let ground = ground();
    ground.user().file(
        "none.c",
        "#include <unistd.h>\nint main(int n, char **v) { char *none[] = {0}; return execve(v[1], none, none); }\n",
    );
    capture(&mut ground.user().shell("cc -o none none.c")).succeeded();
    let mut none = ground.user().command(ground.user().work().join("none"));
    none.arg(path());
    capture(&mut none).exited_with(255).wrote("").complained(
        "singularity: start: there is no request\n\
         hint: the singularity command calls the starter; people do not\n",
    );
}

#[test]
fn an_empty_name_of_the_program_changes_nothing() {
    let ground = ground();
    let refused = "singularity: start: there is no request\n\
         hint: the singularity command calls the starter; people do not\n";
    for words in ["", "9", "0 0"] {
        let text = format!("exec -a '' {} {words}", text_of(&path()));
        let mut bash = ground.user().command("/bin/bash");
        bash.args(["-c", &text]);
        let output = capture(&mut bash);
        output.exited_with(255).wrote("").complained(refused);
    }
}

#[test]
fn limits_at_nothing_are_told_or_endured() {
    let ground = ground();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    for limit in [
        "-n 0",
        "-n 3",
        "-n 4",
        "-n 5",
        "-n 8",
        "-f 0",
        "-u 0",
        "-u 1",
        "-c unlimited",
        "-c 0",
        "-s 64",
        "-s 200",
        "-v 2000",
        "-v 8000",
        "-v 20000",
        "-d 0",
        "-d 500",
        "-l 0",
        "-i 0",
        "-q 0",
        "-x 0",
    ] {
        let text = format!(
            "ulimit {limit} || exit 255; exec singularity exec --setuid {} sh -c 'echo in; exit 7'",
            text_of(&image)
        );
        let mut bash = ground.user().command("/bin/bash");
        bash.args(["-c", &text]);
        let output = capture(&mut bash);
        // The program runs, or it does not: never half-way, and never as another.
        match output.status.code() {
            Some(7) => drop(output.wrote("in\n")),
            Some(255 | 126 | 127) | None => drop(output.wrote("")),
            other => panic!("{limit}: {other:?} of {output}"),
        }
    }
    let cores = fs::read_dir(ground.user().work()).expect("the work directory can be listed");
    for entry in cores.flatten() {
        let name = entry.file_name();
        assert!(
            !name.to_string_lossy().starts_with("core"),
            "a core was left"
        );
        assert_ne!(
            entry.metadata().expect("it is there").uid(),
            0,
            "{name:?} is root's"
        );
    }
}
