//! Reports of stored runs, by the program itself: all that it shows comes from the
//! file, and the same file always shows the same.

use std::path::Path;
use std::process::{Command, Output};

use bench::calls::Calls;
use bench::data::{Data, Launcher, Measure, Way, FORM};
use bench::machine::Machine;

fn way(name: &str, entering: &str) -> Way {
    Way {
        name: name.to_owned(),
        baseline: "host".to_owned(),
        entering: entering.to_owned(),
        format: "directory".to_owned(),
        bytes: 0,
        mpi: "Open MPI v4.1.4".to_owned(),
        cma: "yes".to_owned(),
        nodes: 1,
        own: true,
        words: "{launcher} singularity exec {image} {program}".to_owned(),
        bridged: name.contains("bridge"),
    }
}

/// Ten rounds whose noise is the same for all ways, and in which each way takes
/// exactly so much of the host's time.
fn run(factors: &[(&str, &str, f64)]) -> Data {
    let mut data = Data {
        form: FORM,
        version: "9.9".to_owned(),
        ended: 0,
        quick: false,
        machine: Machine {
            cores: 2,
            processor: "A processor".to_owned(),
            kernel: "6.12.0-x".to_owned(),
            ..Machine::default()
        },
        launcher: Launcher {
            words: "mpirun".to_owned(),
            version: "mpirun (Open MPI) 4.1.4".to_owned(),
        },
        ways: vec![way("host", "none: the host itself")],
        series: Vec::new(),
        files: Vec::new(),
        calls: Vec::new(),
        notes: Vec::new(),
    };
    for (name, entering, _) in factors {
        data.ways.push(way(name, entering));
    }
    let all = std::iter::once(("host", 1.0)).chain(factors.iter().map(|f| (f.0, f.2)));
    for (name, factor) in all {
        for noise in [1.0, 1.1, 0.9, 1.3, 1.05, 0.95, 1.02, 1.2, 0.97, 1.0] {
            for (power, bytes) in [1, 1024, 1 << 20, 16 << 20].into_iter().enumerate() {
                let time = 10f64.powi(power as i32) * noise * factor;
                data.add(Measure::Latency, name, 2, bytes, time);
            }
            for ranks in [2, 8, 32] {
                let time = f64::from(ranks) * 30.0 * noise * factor;
                data.add(Measure::Init, name, ranks, 0, time);
                data.add(Measure::Memory, name, ranks, 0, f64::from(ranks) * 3000.0);
                data.add(Measure::Helpers, name, ranks, 0, 0.0);
            }
            data.add(Measure::Ring, name, 4, 0, 300.0 * noise * factor);
            data.add(Measure::Enter, name, 1, 0, 2.0 * noise * factor);
        }
    }
    data
}

/// `singularity bench` with these words.
fn bench(words: &[&str], files: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg("bench")
        .args(words)
        .args(files)
        .output()
        .expect("the program was built")
}

/// What it prints, all being well.
fn printed(words: &[&str], files: &[&Path]) -> String {
    let output = bench(words, files);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8(output.stdout).expect("it prints text")
}

fn stored(directory: &Path, name: &str, data: &Data) -> std::path::PathBuf {
    let file = directory.join(name);
    data.write(&file)
        .expect("a new directory can be written to");
    file
}

#[test]
fn known_ratios_are_told_with_what_they_mean() {
    let place = tempfile::tempdir().unwrap();
    let data = run(&[
        ("directory", "user namespace", 1.0),
        ("squashfs, FUSE", "user namespace, FUSE", 1.2),
    ]);
    let text = printed(&["--from"], &[&stored(place.path(), "a.json", &data)]);
    for part in [
        "2 cores (A processor)",
        "Linux 6.12.0-x",
        "launcher: mpirun (mpirun (Open MPI) 4.1.4)",
        "directory: user namespace; format directory; Open MPI v4.1.4; CMA yes; nodes 1",
        "1.00 (1.00-1.00) =",
        "1.20 (1.20-1.20) -",
        "kept       directory, ring of 4 ranks: at most 1.02: 1.000 (1.000-1.000)",
        "missed     squashfs, FUSE, ring of 4 ranks: at most 1.15: 1.200 (1.200-1.200)",
        "kept       directory, memory (PSS) of an added rank: at most 100 KiB more: +0 KiB",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn a_report_is_drawn_from_the_file_alone_and_is_always_the_same() {
    let place = tempfile::tempdir().unwrap();
    let data = run(&[("directory", "user namespace", 1.01)]);
    let file = stored(place.path(), "a.json", &data);
    let [one, two] = ["one", "two"].map(|name| place.path().join(name));
    for out in [&one, &two] {
        let out = format!("--out={}", out.display());
        printed(&[&out, "--from"], &[&file]);
    }
    let read = |name: &str| std::fs::read(one.join(name)).unwrap();
    let page = String::from_utf8(read("report.html")).unwrap();
    assert!(!page.contains("src=") && !page.contains("<link") && !page.contains("<script"));
    for graph in ["latency", "init", "memory", "ring", "enter"] {
        let png = read(&format!("{graph}.png"));
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "{graph}");
        let svg = String::from_utf8(read(&format!("{graph}.svg"))).unwrap();
        assert!(
            svg.contains("directory") && svg.contains("</svg>"),
            "{graph}"
        );
    }
    assert_eq!(page.matches("<svg").count(), 5);
    assert_eq!(
        Data::read(&one.join("data.json")).unwrap().series,
        data.series
    );
    for entry in std::fs::read_dir(&one).unwrap() {
        let name = entry.unwrap().file_name();
        let again = std::fs::read(two.join(&name)).unwrap();
        assert!(std::fs::read(one.join(&name)).unwrap() == again, "{name:?}");
    }
}

#[test]
fn targets_are_a_table_of_all_runs() {
    let place = tempfile::tempdir().unwrap();
    let mut usual = run(&[
        ("directory", "user namespace", 1.0),
        ("directory, starter", "set-id starter", 1.5),
    ]);
    for (way, programs) in [("directory", 2), ("directory, starter", 3)] {
        usual.calls.push(Calls {
            way: way.to_owned(),
            programs,
            ..Calls::default()
        });
    }
    let bridged = run(&[("directory, bridge", "user namespace, bridge", 1.08)]);
    let files = [
        stored(place.path(), "a.json", &usual),
        stored(place.path(), "b.json", &bridged),
    ];
    let text = printed(
        &["--targets", "--from"],
        &[&files[0], Path::new("--from"), &files[1]],
    );
    for row in [
        "| ring of 4 ranks | directory | at most 1.02 | 1.000 | 1.000-1.000 | kept |",
        "| ring of 4 ranks | directory, starter | at most 1.02 | 1.500 | 1.500-1.500 | missed |",
        "| a start, beside one by a user namespace | directory, starter | one execve more | +1 execve, +0 processes, ",
        "| time to the end of MPI_Init, 32 ranks | directory, bridge | at most 1.1 | 1.080 | 1.080-1.080 | kept |",
    ] {
        assert!(text.contains(row), "no {row:?} in\n{text}");
    }
    assert_eq!(
        text.matches("|---|---|---|---|---|---|").count(),
        2,
        "{text}"
    );
}

#[test]
fn two_runs_are_compared_where_their_intervals_allow_it() {
    let place = tempfile::tempdir().unwrap();
    let before = run(&[("directory", "user namespace", 1.0)]);
    let after = run(&[("directory", "user namespace", 1.5)]);
    let files = [
        stored(place.path(), "a.json", &before),
        stored(place.path(), "b.json", &after),
    ];
    let text = printed(&["--compare"], &[&files[0], &files[1]]);
    assert!(
        text.contains("1.500 (1.500-1.500) worse, as ratio to the host"),
        "{text}"
    );
    let same = printed(&["--compare"], &[&files[0], &files[0]]);
    assert!(
        !same.contains("worse") && !same.contains("better"),
        "{same}"
    );
}

#[test]
fn a_file_that_is_no_run_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("no.json");
    std::fs::write(&file, "{}").unwrap();
    let output = bench(&["--from"], &[&file]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(255), "{said}");
    assert!(said.contains("no.json: not a stored run: "), "{said}");
    assert!(said.contains("hint: "), "{said}");
}

#[test]
fn a_full_standard_output_is_an_error_of_one_line() {
    let place = tempfile::tempdir().unwrap();
    let file = stored(
        place.path(),
        "run.json",
        &run(&[("directory", "root", 1.0)]),
    );
    for words in [vec!["--from"], vec!["--json", "-", "--from"]] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("there is a /dev/full");
        let output = Command::new(env!("CARGO_BIN_EXE_bench"))
            .arg("bench")
            .args(&words)
            .arg(&file)
            .stdout(full)
            .output()
            .expect("the program was built");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(255), "{said}");
        let first = "singularity: write to standard output: no space left on device";
        assert!(said.starts_with(first), "{said}");
    }
}
