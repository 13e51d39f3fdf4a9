//! Ranks that are killed at any moment of their start.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use test_support::{Form, Image, Leftovers, Mpi, User};

use crate::ranks::{assert_nothing_of_ours, run, LIMIT};

/// Numbers that differ from run to run; the seed is printed with a failure.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(now.expect("after 1970").as_nanos() as u64 | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A process with the variables of a rank of Open MPI's mpirun, whose daemon is
/// this test: hundreds of jobs start in the time of a few real ones.
fn rank(user: &User, job: u64, image: &std::path::Path, command: &[&str]) -> Command {
    let mut rank = user.command(test_support::command());
    rank.envs([
        ("PMIX_NAMESPACE", format!("{job}")),
        ("PMIX_RANK", "0".into()),
        ("PMIX_SERVER_URI41", format!("{job}.0;tcp4://127.0.0.1:1")),
        ("PMIX_SERVER_URI4", format!("{job}.0;tcp4://127.0.0.1:1")),
        (
            "OMPI_MCA_orte_hnp_uri",
            format!("{job}.0;tcp://127.0.0.1:2"),
        ),
        ("OMPI_COMM_WORLD_RANK", "0".into()),
        ("OMPI_COMM_WORLD_SIZE", "8".into()),
    ]);
    rank.arg("exec").arg(image).args(command);
    rank.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    rank
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}

/// The namespace of a rank that has become its program.
fn settled(child: &Child, program: &str) -> String {
    let begun = Instant::now();
    loop {
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", child.id()));
        if comm.is_ok_and(|comm| comm.trim_end() == program) {
            let link = std::fs::read_link(format!("/proc/{}/ns/mnt", child.id()));
            return link.expect("it runs").display().to_string();
        }
        assert!(begun.elapsed() < LIMIT, "a rank did not come up");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts four ranks of `rounds` jobs, kills some of them at a random moment of
/// the first `window` microseconds, and has another rank of the same job start.
fn kill_some(image: std::path::PathBuf, rounds: u64, window: u64) {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    let mut dice = Dice::new();
    for round in 0..rounds {
        let seed = dice.0;
        let job = dice.below(u64::from(u32::MAX));
        let start = |_| {
            rank(&user, job, &image, &["sleep", "1000"])
                .spawn()
                .expect("it starts")
        };
        let mut ranks: Vec<Child> = (0..4).map(start).collect();
        std::thread::sleep(Duration::from_micros(dice.below(window)));
        let victims = 1 + dice.below(15);
        let is_victim = |n: usize| victims >> n & 1 == 1;
        for (_, child) in ranks.iter().enumerate().filter(|(n, _)| is_victim(*n)) {
            kill(pid(child), Signal::SIGKILL).expect("it is there");
        }
        let next = run(&mut rank(&user, job, &image, &["echo", "up"]));
        assert_eq!(next.stdout(), "up\n", "round {round}, seed {seed}: {next}");
        next.succeeded().quietly();
        let survivors = ranks.iter().enumerate().filter(|(n, _)| !is_victim(*n));
        let places: std::collections::BTreeSet<_> = survivors
            .map(|(_, child)| settled(child, "sleep"))
            .collect();
        assert!(places.len() <= 1, "round {round}, seed {seed}: {places:?}");
        for child in &mut ranks {
            let _ = child.kill();
            let status = child.wait().expect("it was ours");
            assert_eq!(status.signal(), Some(9), "round {round}, seed {seed}");
        }
    }
    assert_nothing_of_ours(&before);
}

#[test]
fn ranks_killed_while_a_directory_is_entered_leave_nothing_and_stop_nobody() {
    kill_some(Image::Busybox.directory(), 200, 8_000);
}

#[test]
fn ranks_killed_while_a_squashfs_is_entered_leave_nothing_and_stop_nobody() {
    kill_some(Image::Busybox.file(Form::SquashfsLz4), 200, 25_000);
}

#[test]
fn ranks_killed_while_an_ext4_is_entered_leave_nothing_and_stop_nobody() {
    kill_some(Image::Busybox.file(Form::Ext4), 60, 40_000);
}

#[test]
fn a_first_rank_that_is_stopped_holds_the_others_only_until_it_goes_on() {
    let user = User::ordinary();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let mut dice = Dice::new();
    for _ in 0..20 {
        let job = dice.below(u64::from(u32::MAX));
        let mut first = rank(&user, job, &image, &["sleep", "1000"])
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_micros(dice.below(10_000)));
        kill(pid(&first), Signal::SIGSTOP).expect("it is there");
        let second = rank(&user, job, &image, &["echo", "up"])
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_millis(20));
        kill(pid(&first), Signal::SIGCONT).expect("it is there");
        let second = second.wait_with_output().expect("it ends");
        assert_eq!(second.stdout, b"up\n");
        first.kill().expect("it is there");
        first.wait().expect("it was ours");
    }
}

#[test]
fn a_real_job_whose_rank_is_killed_ends_and_leaves_nothing() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    let image = Image::OpenMpiBookworm.file(Form::Squashfs);
    let mut dice = Dice::new();
    for _ in 0..6 {
        let mut job = Mpi::openmpi().command(&user, 4);
        job.arg(test_support::command())
            .arg("exec")
            .arg(&image)
            .args(["ring", "--hold", "30"]);
        let job = test_support::Running::start(&mut job);
        std::thread::sleep(Duration::from_millis(100 + dice.below(400)));
        // Any process of the user but mpirun: a launcher, a rank, the FUSE server.
        let script = format!(
            "set -- $(pgrep -u {} -x 'singularity|ring|image-server'); [ $# = 0 ] || {{ shift $(({} % $#)); kill -9 $1; }}",
            user.uid(),
            dice.below(1000)
        );
        test_support::capture(&mut user.shell(&script)).succeeded();
        // mpirun cleans up after the ranks if it is left to.
        std::thread::sleep(Duration::from_millis(500));
        job.signal(Signal::SIGTERM);
        job.wait(LIMIT);
        assert_nothing_of_ours(&before);
    }
}
