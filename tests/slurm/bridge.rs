//! The bridge between Slurm and MPIs that do not speak what a step offers: nothing
//! at all (`--mpi=none`), or PMI-2.

use std::process::Command;
use std::time::{Duration, Instant};

use test_support::{Image, Node, Output, Running};

use crate::ground::{Ground, LIMIT};
use crate::Case;

pub const CASES: &[Case] = &[
    ("bridge_serves_every_layout", layouts),
    ("bridge_serves_what_scripts_and_interpreters_start", scripts),
    ("bridge_over_pmi2_serves_open_mpi", over_pmi2),
    ("bridge_over_pmix_exchanges_between_the_nodes", over_pmix),
    ("bridge_asks_ranks_of_other_nodes_one_by_one", one_by_one),
    ("bridge_that_is_killed_ends_the_step", killed_helper),
    ("bridge_ends_the_step_with_a_killed_rank", killed_rank),
    (
        "bridge_ends_the_ranks_whose_slurmstepd_is_killed",
        killed_stepd,
    ),
    ("bridge_lets_no_stranger_join_or_wait_in_its_way", strangers),
    ("bridge_does_not_wait_for_a_node_that_failed", missing_node),
    ("bridge_says_that_no_tcp_goes_between_the_nodes", blocked),
];

/// The job ends within this, whatever died.
const SOON: Duration = Duration::from_secs(40);

/// srun of singularity itself, by the user, on the login host.
fn srun(ground: &Ground, options: &[&str], image: Image, program: &[&str]) -> Command {
    let mut command = ground.cluster.command(&ground.user, "srun");
    command
        // The two nodes are one machine, which UCX takes for a way between them.
        .env("UCX_TLS", "tcp,self")
        .args(["--quiet"])
        .args(options)
        .arg(test_support::command())
        .arg("exec")
        .arg(image.directory())
        .args(program);
    command
}

fn run(ground: &Ground, options: &[&str], image: Image) -> Output {
    test_support::capture_within(LIMIT, &mut srun(ground, options, image, &["ring"]), b"")
}

/// Each rank's line, and those of each node together.
fn expect_ranks(output: &Output, on_c1: &[u32], on_c2: &[u32]) {
    output.succeeded();
    let text = output.stdout();
    let size = on_c1.len() + on_c2.len();
    assert!(
        text.contains(&format!("ring of {size} ranks")) || size == 1,
        "{output}"
    );
    for (node, ranks) in [("c1", on_c1), ("c2", on_c2)] {
        for rank in ranks {
            let line = format!("rank {rank} of {size} on {node},");
            assert_eq!(text.matches(&line).count(), 1, "{line}\n{output}");
        }
    }
}

/// Ranks know which of them share memory, whatever the step offers and the MPI speaks.
fn layouts(ground: &Ground) {
    let hosts = ground.user.file("hosts", "c2\nc1\nc2\n");
    let listed = ["-N2", "-n3", "--distribution=arbitrary"];
    let layouts: [(&[&str], &[usize], &[usize]); 5] = [
        (&["-N2", "-n4"], &[0, 1], &[2, 3]),
        (&["-N2", "-n4", "--distribution=cyclic"], &[0, 2], &[1, 3]),
        // More ranks than cores, and not as many on each node.
        (
            &["-N2", "-n5", "-O", "--distribution=plane=2"],
            &[0, 1, 4],
            &[2, 3],
        ),
        (&listed, &[1], &[0, 2]),
        (&["-N1", "-n1", "-wc1"], &[0], &[]),
    ];
    // Debian's MPICH hangs in MPI_Finalize now and then, on the host too: see mpi.rs.
    for (image, speaks) in [
        (Image::OpenMpiBookworm, "pmi2"),
        (Image::WheelMpich5, "pmix"),
    ] {
        let program = test_support::layout_program(&ground.user, image);
        let program = program.to_str().expect("a printable path");
        for interface in ["none", speaks] {
            for (options, on_c1, on_c2) in &layouts {
                let options = [*options, &["--mpi", interface]].concat();
                let mut step = srun(ground, &options, image, &[program]);
                step.envs([("FI_PROVIDER", "tcp"), ("OMPI_MCA_pml", "ob1")]);
                if options.starts_with(&listed) {
                    step.env("SLURM_HOSTFILE", &hosts);
                }
                let output = test_support::capture_within(LIMIT, &mut step, b"");
                if options.starts_with(&listed) && interface == "pmi2" {
                    // Slurm tells each rank that it is alone on its node.
                    assert!(!output.status.success(), "{output}");
                    output.wrote("");
                    let line = "the launcher tells the program that this rank is on another node";
                    assert!(output.stderr().contains(line), "{output}");
                } else {
                    test_support::assert_layout(&output, &[("c1", on_c1), ("c2", on_c2)]);
                }
            }
        }
    }
}

/// No MPI at the launcher, and none that the program names: still one world. A shell that
/// says nothing of MPI has no helper.
fn scripts(ground: &Ground) {
    let shared = ground.cluster.shared().join("scripts");
    std::fs::create_dir_all(&shared).expect("a new directory");
    let script = |name: &str, text: &str| {
        let path = shared.join(name);
        std::fs::write(&path, text).expect("a new file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("a new file can be changed");
        path.display().to_string()
    };
    let inner = script("inner", "#!/bin/sh\nexec ring\n");
    let outer = script("outer", &format!("#!/bin/sh\ncd / && {inner}\n"));
    let hidden = script("hidden", "#!/bin/sh\nset -- ri ng\nAPP=$1$2\n$APP\n");
    let perl = script("perl", "#!/usr/bin/env perl\nexec 'ri' . 'ng';\n");
    let place = shared.display().to_string();
    let bind = format!("--bind={place}");
    let image = Image::OpenMpiBookworm;
    let ring: [&[&str]; 6] = [
        &["sh", "-c", "cd / && ring"],
        &["sh", &outer],
        &[&outer],
        &[&hidden],
        &[&perl],
        &["perl", "-e", "exec 'ri' . 'ng'"],
    ];
    for program in ring {
        let mut command = ground.cluster.command(&ground.user, "srun");
        command
            .env("UCX_TLS", "tcp,self")
            .args(["--quiet", "-N2", "-n4", "--mpi=none"])
            .arg(test_support::command())
            .args(["exec", &bind])
            .arg(image.directory())
            .args(program);
        let output = test_support::capture_within(LIMIT, &mut command, b"");
        expect_ranks(&output, &[0, 1], &[2, 3]);
    }
    let two = ["-N2", "-n4", "--mpi=none"];
    let words = [&two[..], &["perl", "-e", "exec 'ri' . 'ng'"]].concat();
    expect_ranks(
        &ground.srun_in(&image.directory(), &words),
        &[0, 1],
        &[2, 3],
    );
    // One task is a world of one, and says nothing: without its seat Open MPI 4 ends.
    let words = [
        "-N1",
        "-n1",
        "-wc1",
        "--mpi=none",
        "perl",
        "-e",
        "exec 'ri' . 'ng'",
    ];
    let output = ground.srun_in(&image.directory(), &words);
    expect_ranks(&output, &[0], &[]);
    output.quietly();
    // A shell that names no program with MPI gets no seat, and what it may start after
    // all finds no descriptor to take for one.
    let words = [
        &two[..],
        &["sh", "-c", "echo ${PMIX_RANK-none} ${PMI_FD-none}"],
    ]
    .concat();
    let output = ground.srun_in(&image.directory(), &words);
    let unusable = format!("none {}\n", i32::MAX);
    output.succeeded().quietly().wrote(&unusable.repeat(4));
}

fn over_pmi2(ground: &Ground) {
    for image in [Image::OpenMpiBullseye, Image::OpenMpiTrixie] {
        let options = ["-N2", "-n4", "--mpi=pmi2", "--distribution=cyclic"];
        expect_ranks(&run(ground, &options, image), &[0, 2], &[1, 3]);
    }
}

/// Open MPI asks for each rank's address when it needs it, not for all in a fence.
fn one_by_one(ground: &Ground) {
    for pmi in ["--mpi=none", "--mpi=pmi2"] {
        let two = ["-N2", "-n4", pmi, "--distribution=cyclic"];
        let mut command = srun(ground, &two, Image::OpenMpiBookworm, &["ring"]);
        command
            .env("OMPI_MCA_pml", "ob1")
            .env("OMPI_MCA_pmix_base_async_modex", "1")
            .env("OMPI_MCA_pmix_base_collect_data", "0");
        let output = test_support::capture_within(LIMIT, &mut command, b"");
        expect_ranks(&output, &[0, 2], &[1, 3]);
    }
}

/// The launcher's server tells the helpers where they are, and the ranks of a node have
/// one helper; where it dies, or the process that talks to the server, the step ends.
fn over_pmix(ground: &Ground) {
    let two = ["-N2", "-n4", "--mpi=pmix", "--distribution=cyclic"];
    let output = run(ground, &two, Image::WheelMpich4);
    expect_ranks(&output, &[0, 2], &[1, 3]);
    let uneven = ["-N2", "-n5", "-O", "--mpi=pmix", "--distribution=plane=2"];
    let mut command = srun(ground, &uneven, Image::OpenMpiBookworm, &["ring"]);
    command.env("SINGULARITY_MPI", "bridge");
    let output = test_support::capture_within(LIMIT, &mut command, b"");
    expect_ranks(&output, &[0, 1, 4], &[2, 3]);
    for (words, victim) in [("pmi-bridge node", 0), ("pmi-bridge delegate", 1)] {
        let options = ["-N2", "-n4", "--mpi=pmix"];
        let step = holding_step(ground, &options, Image::WheelMpich4);
        let helpers = with_words(ground, words);
        assert_eq!(helpers.len(), 2, "one a node: {words}");
        let status = Command::new("kill")
            .args(["-KILL", &helpers[victim]])
            .status();
        assert!(status.is_ok_and(|status| status.success()));
        expect_soon_over(ground, step);
    }
}

/// The user's processes whose command line begins so.
fn with_words(ground: &Ground, words: &str) -> Vec<String> {
    let uid = ground.user.uid().to_string();
    let mut command = Command::new("pgrep");
    command.args(["--uid", &uid, "--full", &format!("^{words}")]);
    let output = test_support::capture(&mut command);
    output.stdout().lines().map(str::to_owned).collect()
}

/// A step without PMI that goes on for long.
fn long_step(ground: &Ground) -> Running {
    let options = ["-N2", "-n4", "--mpi=none"];
    let step = holding_step(ground, &options, Image::OpenMpiBookworm);
    assert_eq!(pids(ground, "pmi-bridge").len(), 2, "one helper a node");
    step
}

/// A step of four ranks that goes on for long, and whose ranks have all begun.
fn holding_step(ground: &Ground, options: &[&str], image: Image) -> Running {
    let program = ["ring", "--hold", "60"];
    let mut step = Running::start(&mut srun(ground, options, image, &program));
    let end = Instant::now() + LIMIT;
    // Every rank has its seat, and some time to be in the middle of MPI.
    while pids(ground, "ring").len() < 4 {
        assert!(
            step.is_running() && Instant::now() < end,
            "it does not start"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(700));
    step
}

/// The user's processes of that name, on the nodes of this machine.
fn pids(ground: &Ground, name: &str) -> Vec<String> {
    let mut command = Command::new("pgrep");
    let uid = ground.user.uid().to_string();
    command.args(["--exact", "--uid", &uid, name]);
    let output = test_support::capture(&mut command);
    output.stdout().lines().map(str::to_owned).collect()
}

fn kill_one(ground: &Ground, name: &str) {
    let victim = pids(ground, name).pop().expect("it is running");
    let status = Command::new("kill").args(["-KILL", &victim]).status();
    assert!(status.is_ok_and(|status| status.success()));
}

fn expect_soon_over(ground: &Ground, step: Running) -> Output {
    let begun = Instant::now();
    let output = step.wait(LIMIT);
    assert!(begun.elapsed() < SOON, "{:?}: {output}", begun.elapsed());
    assert!(!output.status.success(), "{output}");
    wait_for_the_end(ground, "a process killed");
    output
}

/// Waits until neither ranks nor helpers are left, which must be soon.
fn wait_for_the_end(ground: &Ground, what: &str) {
    let begun = Instant::now();
    while !pids(ground, "pmi-bridge").is_empty() || !pids(ground, "ring").is_empty() {
        assert!(begun.elapsed() < SOON, "something is left: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{what}: over after {:.1} s", begun.elapsed().as_secs_f64());
}

fn killed_helper(ground: &Ground) {
    let step = long_step(ground);
    kill_one(ground, "pmi-bridge");
    let output = expect_soon_over(ground, step);
    let told = output.stderr().contains("contact with its bridge is lost");
    assert!(told, "{output}");
}

/// Slurm itself leaves ranks alone whose slurmstepd has died, and srun waits for half a
/// minute. Under PMIx the helper is a client of that daemon's server; else it watches the
/// daemon, and tells the other node's.
fn killed_stepd(ground: &Ground) {
    for (pmi, image) in [
        ("pmix", Image::WheelMpich4),
        ("pmi2", Image::OpenMpiBookworm),
        ("none", Image::OpenMpiBookworm),
    ] {
        let pmi = format!("--mpi={pmi}");
        let options = ["--job-name=stepd", "-N2", "-n4", &pmi];
        let step = holding_step(ground, &options, image);
        let node = &ground.cluster.nodes()[0];
        let mut pkill = ground.cluster.root(node, "pkill");
        pkill.args(["-KILL", "--oldest", "--exact", "slurmstepd"]);
        test_support::capture(&mut pkill).succeeded();
        wait_for_the_end(ground, &format!("slurmstepd killed, {pmi}"));
        ground.command("scancel", &["--name=stepd"]);
        drop(step);
        ground.cluster.wait_until_idle();
    }
}

fn killed_rank(ground: &Ground) {
    let step = long_step(ground);
    kill_one(ground, "ring");
    let output = expect_soon_over(ground, step);
    let told = output.stderr().contains("ended without MPI_Finalize");
    assert!(told, "{output}");
}

/// Another user on the node finds the port, and connects as often as it goes: to
/// say nothing, to say what is none of ours, and to begin as a helper does.
fn strangers(ground: &Ground) {
    const ATTACK: &str = r#"
import socket, time, os
os.setgid(65534); os.setuid(65534)
begun, held, met = time.time(), [], set()
hello = b"sgmp\x02" + (37).to_bytes(4, "little") + b"\x01" + (1).to_bytes(4, "little") + b"n" * 32
false = b"sgmp\x02" + (18).to_bytes(4, "little") + b"\x02" + (13).to_bytes(4, "little") + b"MUNGE:AwQDAA:"
while time.time() < begun + 6:
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in open(table).readlines()[1:]:
            words = line.split()
            port = int(words[1].rsplit(":", 1)[1], 16)
            if words[3] == "0A" and 20000 <= port < 32000:
                ports.add(port)
    for port in ports:
        for words in (b"", b"GET / HTTP/1.1\r\n\r\n", hello, hello + false, b"\xff" * 9000) * 4:
            try:
                connection = socket.create_connection(("127.0.0.1", port), 0.2)
                connection.sendall(words)
                held.append(connection)
                met.add(port)
            except OSError:
                pass
    held = held[-300:]
    time.sleep(0.005)
print("met", len(met))
"#;
    let node = &ground.cluster.nodes()[0];
    let mut attack = ground.cluster.root(node, "python3");
    let attack = Running::start(attack.args(["-c", ATTACK]));
    std::thread::sleep(Duration::from_millis(300));
    // The second node comes late, so that the door is open for a while.
    let script = format!(
        "test $SLURM_NODEID = 0 || sleep 1; exec {} exec {} ring",
        test_support::command().display(),
        Image::OpenMpiBookworm.directory().display()
    );
    let mut command = ground.cluster.command(&ground.user, "srun");
    command.args(["--quiet", "-N2", "-n4", "--mpi=none", "sh", "-c", &script]);
    let output = test_support::capture_within(LIMIT, &mut command, b"");
    expect_ranks(&output, &[0, 1], &[2, 3]);
    let attack = attack.wait(LIMIT);
    assert!(
        !attack.stdout().contains("met 0"),
        "nobody was attacked: {attack}"
    );
}

/// One node's ranks never come to the bridge: those of the other must not wait
/// for ever, nor become a job of their own.
fn missing_node(ground: &Ground) {
    let script = format!(
        "test $SLURM_NODEID = 0 || exit 3; exec {} exec {} ring",
        test_support::command().display(),
        Image::OpenMpiBookworm.directory().display()
    );
    let mut command = ground.cluster.command(&ground.user, "srun");
    // Slurm ends a step soon after a task has failed, if told so.
    command.args([
        "--quiet",
        "--kill-on-bad-exit=1",
        "-N2",
        "-n2",
        "--mpi=none",
    ]);
    command.args(["sh", "-c", &script]);
    let begun = Instant::now();
    let output = test_support::capture_within(LIMIT, &mut command, b"");
    assert!(!output.status.success(), "{output}");
    // A tenth of a second as a rule. Where one task ends before Slurm has heard that the
    // other began it takes Slurm five or ten, of any program; the bridge's own patience
    // would be 55.
    let bound = Duration::from_secs(30);
    assert!(begun.elapsed() < bound, "{output}");
    let end = Instant::now() + SOON;
    while !pids(ground, "pmi-bridge").is_empty() {
        assert!(Instant::now() < end, "the helper is left");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!output.stdout().contains("rank 0 of"), "{output}");
}

/// What the user's processes on the second node send to the first is lost on the way, as
/// behind a firewall: one line says so, soon.
fn blocked(ground: &Ground) {
    let [first, second] = ground.cluster.nodes() else {
        panic!("the cluster has two nodes");
    };
    let uid = ground.user.uid();
    let ip = |words: &str| ip_at(ground, second, words);
    let users = format!("uidrange {uid}-{uid} to {} lookup 100", first.address());
    let _lifted = Lifted {
        ground,
        node: second,
        rule: users.clone(),
    };
    // The other end of this cable belongs to nobody of that name.
    ip("link add nowhere type veth peer name nobody").succeeded();
    ip("link set nowhere up").succeeded();
    ip("link set nobody up").succeeded();
    let neighbour = format!("neigh add {} lladdr 02:00:00:00:00:99", first.address());
    ip(&format!("{neighbour} dev nowhere")).succeeded();
    ip("route add default dev nowhere table 100").succeeded();
    ip(&format!("rule add {users}")).succeeded();
    for (pmi, image, remedy) in [
        ("pmix", Image::WheelMpich4, "needs TCP between the nodes"),
        (
            "none",
            Image::OpenMpiBookworm,
            "ports 20000 to 31999 must be open",
        ),
    ] {
        let pmi = format!("--mpi={pmi}");
        let options = ["--kill-on-bad-exit=1", "-N2", "-n2", &pmi];
        let silent = format!("was not reached: {}:", first.address());
        let parts = [&silent, "no answer, as behind a firewall", remedy];
        let mut told = false;
        // Of a step that it ends, Slurm loses a rank's last line now and then.
        for _ in 0..3 {
            let begun = Instant::now();
            let output = run(ground, &options, image);
            let took = begun.elapsed();
            println!("no TCP between the nodes, {pmi}: over after {took:.1?}");
            assert!(!output.status.success(), "{output}");
            // Of these, ten are the bridge's patience.
            assert!(took < Duration::from_secs(40), "{output}");
            told = parts.iter().all(|part| output.stderr().contains(part));
            if told {
                break;
            }
            println!("not told: {output}");
        }
        assert!(told, "{parts:?} were never said");
    }
}

fn ip_at(ground: &Ground, node: &Node, words: &str) -> Output {
    let mut command = ground.cluster.root(node, "ip");
    command.args(words.split(' '));
    test_support::capture(&mut command)
}

/// Lets the user's processes through again, also where the case fails: others follow it.
struct Lifted<'a> {
    ground: &'a Ground,
    node: &'a Node,
    rule: String,
}

impl Drop for Lifted<'_> {
    fn drop(&mut self) {
        for words in [&*format!("rule del {}", self.rule), "link del nowhere"] {
            ip_at(self.ground, self.node, words);
        }
    }
}
