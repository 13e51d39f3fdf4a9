//! Options, the variables that stand for them, and what is refused early.

use test_support::Form;

use crate::ground::{debian, image_option, small, small_file, Ground};
use crate::Case;

pub const CASES: &[Case] = &[
    (
        "every_option_does_what_it_says",
        every_option_does_what_it_says,
    ),
    ("variables_stand_for_options", variables_stand_for_options),
    (
        "options_of_a_batch_job_hold_for_its_steps",
        options_of_a_batch_job_hold_for_its_steps,
    ),
    (
        "options_of_salloc_hold_for_its_steps",
        options_of_salloc_hold_for_its_steps,
    ),
    (
        "a_relative_path_starts_where_it_is_typed",
        a_relative_path_starts_where_it_is_typed,
    ),
    (
        "a_staged_step_has_one_copy_on_each_node",
        a_staged_step_has_one_copy_on_each_node,
    ),
    (
        "mistakes_fail_at_submission_in_one_line",
        mistakes_fail_at_submission_in_one_line,
    ),
];

const WHICH: &str = "grep -h ^NAME= /etc/os-release";
const INSIDE: &str = "NAME=\"Busybox\"\n";

fn every_option_does_what_it_says(ground: &Ground) {
    let image = small();
    let shows = |options: &[&str], script: &str, expected: &str| {
        let words = [options, &["sh", "-c", script]].concat();
        let output = ground.srun_in(&image, &words);
        output.succeeded().quietly();
        assert_eq!(output.stdout(), expected, "{output}");
    };
    let home = ground.user.home().display().to_string();
    let file = ground.user.file("data/file", "content\n");
    let data = file.parent().expect("it has one").display().to_string();
    ground.user.directory("other home");
    shows(&[], WHICH, INSIDE);
    let bind = format!("--singularity-bind={data}:/mnt/a:ro,{data}:/mnt/b");
    shows(
        &[&bind, "--singularity-bind=/etc/slurm:/mnt/c"],
        "cat /mnt/a/file; touch /mnt/a/x 2>/dev/null || touch /mnt/b/x; ls /mnt",
        "content\na\nb\nc\n",
    );
    shows(&["--singularity-pwd=/etc"], "pwd", "/etc\n");
    let other = format!("--singularity-home={home}/other home:/home/elsewhere");
    shows(&[&other], "echo $HOME; ls -A $HOME", "/home/elsewhere\n");
    shows(
        &["--singularity-no-home", "--chdir=/"],
        "ls -d ~ 2>/dev/null || echo none",
        "none\n",
    );
    let contained =
        format!("ls -A /tmp {home}; touch /tmp/x ~/x && echo writable; ls /dev | grep -c sda");
    let expected = format!("{home}:\n\n/tmp:\nwritable\n0\n");
    let output = ground.srun_in(&image, &["--singularity-contain", "sh", "-c", &contained]);
    assert_eq!(output.stdout(), expected, "{output}");
    let variables = [("SECRET", "s"), ("SINGULARITYENV_GIVEN", "g")];
    let option = image_option(&image);
    let words = [
        &option,
        "--singularity-cleanenv",
        r"--singularity-env=A=1\,2,B=3",
        "sh",
        "-c",
        "echo $SECRET-$GIVEN-$A-$B-$SINGULARITY_NAME-$SLURM_PROCID",
    ];
    let output = ground.command_with(&variables, "srun", &words);
    output.succeeded().quietly().wrote("-g-1,2-3-busybox-0\n");
    shows(
        &["--singularity-writable-tmpfs"],
        "echo x >/new && cat /new; ls -d /etc",
        "x\n/etc\n",
    );
    assert!(!image.join("new").exists());
    ground.user.directory("layer");
    let overlay = format!("--singularity-overlay={home}/layer");
    shows(&[&overlay], "echo kept >/new", "");
    shows(&[&overlay], "cat /new", "kept\n");
}

fn variables_stand_for_options(ground: &Ground) {
    let image = small();
    let image = image.to_str().expect("a printable path");
    let variables = [
        ("SLURM_SINGULARITY_IMAGE", image),
        ("SLURM_SINGULARITY_BIND", "/etc/slurm:/mnt/c"),
        ("SLURM_SINGULARITY_PWD", "/mnt"),
        ("SLURM_SINGULARITY_ENV", "A=1"),
        ("SLURM_SINGULARITY_CONTAIN", "no"),
    ];
    let words = [
        "sh",
        "-c",
        "pwd; ls; echo $A; env | grep -c SLURM_SINGULARITY",
    ];
    let output = ground.command_with(&variables, "srun", &words);
    assert_eq!(output.stdout(), "/mnt\nc\n1\n0\n", "{output}");
    // For one step the job's image is left out.
    let words = ["--no-singularity", "sh", "-c", WHICH];
    let output = ground.command_with(&variables, "srun", &words);
    output.succeeded().quietly();
    assert!(output.stdout().contains("Debian"), "{output}");
    for export in ["--export=NONE", "--export=A=2", "--export=ALL"] {
        let output = ground.command_with(&variables, "srun", &[export, "/bin/sh", "-c", WHICH]);
        assert_eq!(output.stdout(), INSIDE, "{export} {output}");
    }
}

fn options_of_a_batch_job_hold_for_its_steps(ground: &Ground) {
    let image = small();
    let script = format!(
        "#SBATCH {} --singularity-env=K=v\n#SBATCH -N2 -n2\n\
         {WHICH}\nsrun -n1 -N1 /bin/sh -c '{WHICH}; echo $K'\nsrun -n1 -N1 --no-singularity /bin/sh -c '{WHICH}'\n\
         srun -n1 -N1 {} /bin/sh -c '{WHICH}'\n",
        image_option(&image),
        image_option(&debian()),
    );
    for options in [&[][..], &["--export=NONE"]] {
        let (text, output) = ground.batch(options, &script);
        output.succeeded();
        let debian = "NAME=\"Debian GNU/Linux\"\n";
        assert_eq!(
            text,
            format!("{debian}{INSIDE}v\n{debian}{debian}"),
            "{output}"
        );
    }
    ground.configure("batch-script=image");
    let (text, output) = ground.batch(&[&image_option(&debian())], "echo $SINGULARITY_NAME\n");
    output.succeeded();
    assert_eq!(text, "openmpi-bookworm\n");
}

fn options_of_salloc_hold_for_its_steps(ground: &Ground) {
    let image = image_option(&small());
    let words = ["-N1", "--quiet", &image, "srun", "sh", "-c", WHICH];
    let output = ground.command("salloc", &words);
    output.succeeded().quietly().wrote(INSIDE);
}

fn a_relative_path_starts_where_it_is_typed(ground: &Ground) {
    let place = ground.user.directory("place");
    std::os::unix::fs::symlink(small(), place.join("img")).expect("a new directory can be filled");
    let directory = place.to_str().expect("a printable path");
    let words = ["-c", "cd \"$0\" && exec srun --chdir=/ --singularity-image=img sh -c 'grep -h ^NAME= /etc/os-release'", directory];
    ground
        .command("sh", &words)
        .succeeded()
        .quietly()
        .wrote(INSIDE);
    let script = format!("cd /\nsrun sh -c '{WHICH}'\n");
    ground.user.file(
        "place/job.sh",
        format!("#!/bin/sh\n#SBATCH --singularity-image=img\n{script}"),
    );
    let words = [
        "-c",
        "cd \"$0\" && sbatch --quiet --output=out job.sh; until grep -s . out; do sleep 0.1; done",
        directory,
    ];
    ground
        .command("sh", &words)
        .succeeded()
        .quietly()
        .wrote(INSIDE);
}

fn mistakes_fail_at_submission_in_one_line(ground: &Ground) {
    let image = image_option(&small());
    let no_format = ground.user.file("text", "no image\n");
    let text = image_option(&no_format);
    let cases: &[(&[&str], &str)] = &[
        (&["--singularity-image=/none"], "/none: does not exist"),
        (&[&text], "is a text file, not an image"),
        (&["--singularity-image="], "--singularity-image: its value is empty (hint: is a variable of the shell not set?"),
        (&[&image, "--singularity-overlay="], "--singularity-overlay: its value is empty"),
        (&["--singularity-contain"], "--singularity-contain: there is no image (hint: add --singularity-image)"),
        (&[&image, "--no-singularity"], "--no-singularity with --singularity-image: they contradict each other (hint: give one of the two)"),
        (&[&image, "--singularity-home=/a", "--singularity-no-home"], "they contradict each other"),
        (&[&image, "--singularity-writable-tmpfs", "--singularity-overlay=/a"], "they contradict each other"),
        (&[&image, "--singularity-overlay=/none"], "--singularity-overlay /none: not a directory (hint: make it first: mkdir DIR)"),
        (&[&image, "--singularity-pwd=etc"], "--singularity-pwd etc: not an absolute path"),
        (&[&image, "--singularity-env=A"], "--singularity-env A: not NAME=VALUE"),
        (&[&image, "--singularity-bind=/a:b"], "its destination is not an absolute path"),
    ];
    let script = ground.user.file("true.sh", "#!/bin/sh\n");
    let script = script.to_str().expect("a printable path");
    for (options, expected) in cases {
        for (program, last) in [("srun", "true"), ("sbatch", script), ("salloc", "true")] {
            let words = [options, &[last][..]].concat();
            let output = ground.command(program, &words);
            output.exited_with(1).wrote("");
            let stderr = output.stderr();
            assert!(
                stderr.starts_with(&format!("{program}: error: singularity: ")),
                "{output}"
            );
            assert!(
                stderr.contains(expected) && stderr.lines().count() == 1,
                "{output}"
            );
        }
    }
    let queue = ground.command("squeue", &["--noheader"]);
    queue.succeeded().wrote("");
    // A damaged file is recognised as well.
    let mut bytes = std::fs::read(small_file(Form::SquashfsLz4)).expect("images can be read");
    bytes.truncate(bytes.len() / 2);
    let damaged = image_option(&ground.user.file("damaged", bytes));
    ground.srun(&[&damaged, "true"]).exited_with(1);
}

/// Each node has a /dev/shm of its own, in which nothing is but the copy.
fn a_staged_step_has_one_copy_on_each_node(ground: &Ground) {
    let image = small_file(Form::SquashfsLz4);
    let size = std::fs::metadata(&image).expect("it is there").len();
    let look = "sleep 1; echo $(stat -f -c '%b %f %S' /dev/shm) $(cat /proc/sys/kernel/hostname)";
    for arguments in ["", "enter=prefix"] {
        ground.configure(arguments);
        let words = [
            "-N2",
            "-n4",
            "--singularity-stage=/dev/shm",
            "sh",
            "-c",
            look,
        ];
        let output = ground.srun_in(&image, &words);
        output.succeeded().quietly();
        let mut nodes = std::collections::BTreeSet::new();
        for line in output.stdout().lines() {
            let mut words = line.split(' ');
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
            let (blocks, free, unit) = (number(), number(), number());
            let used =
                (blocks.expect("a number") - free.expect("a number")) * unit.expect("a number");
            assert!(
                (size..2 * size).contains(&used),
                "{arguments}: {used} of {size}\n{output}"
            );
            nodes.extend(words.next().map(str::to_owned));
        }
        assert_eq!(
            (output.stdout().lines().count(), nodes.len()),
            (4, 2),
            "{output}"
        );
    }
    ground.configure("");
    let output = ground.srun_in(&image, &["--singularity-stage=/nowhere", "true"]);
    output.exited_with(255);
    assert!(output.stderr().contains("to /nowhere: "), "{output}");
}
