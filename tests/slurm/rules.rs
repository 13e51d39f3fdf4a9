//! The site's configuration, `singularity.conf`, as the plugin obeys it: each key that
//! concerns it, and who may have written the file.

use std::fs;
use std::path::Path;

use test_support::{Form, Output};

use crate::ground::{debian, run, small, small_file, Ground};
use crate::Case;

pub const CASES: &[Case] = &[
    ("rules_tasks_share_a_namespace_or_each_has_its_own", sharing),
    ("rules_what_the_site_leaves_out_is_not_there", left_out),
    ("rules_what_the_site_adds_is_there", added),
    (
        "rules_what_the_site_forbids_is_refused_with_the_key",
        forbidden,
    ),
    (
        "rules_what_root_must_not_mount_is_entered_as_the_user",
        by_the_user,
    ),
    ("rules_how_ranks_meet_is_the_sites_choice", meeting),
    ("rules_each_entered_step_is_one_line_in_the_log", audit_log),
    (
        "attack_a_configuration_that_others_could_have_written_is_refused",
        others_configuration,
    ),
];

const DIRECTORY: &str = "/etc/singularity";
const FILE: &str = "/etc/singularity/singularity.conf";

/// The site's rules on the first node, where the steps go, until it is dropped.
pub struct Rules<'a> {
    ground: &'a Ground,
    /// Whether the directory was made for it.
    made: bool,
}

impl<'a> Rules<'a> {
    pub fn new(ground: &'a Ground) -> Self {
        let made = !Path::new(DIRECTORY).exists();
        if made {
            fs::create_dir(DIRECTORY).expect("root may");
        }
        ground.configure("check-image=node");
        let rules = Self { ground, made };
        rules.on_node(&format!(
            "mount -t tmpfs -o mode=755 tmpfs {DIRECTORY}; : >{FILE}"
        ));
        rules
    }

    /// The file says this from now on.
    pub fn say(&self, text: &str) -> &Self {
        self.on_node(&format!("cat >{FILE} <<'EOF'\n{text}\nEOF"));
        self
    }

    pub fn on_node(&self, text: &str) {
        let node = &self.ground.cluster.nodes()[0];
        let mut shell = self.ground.cluster.root(node, "sh");
        run(shell.args(["-ec", text])).succeeded();
    }

    /// A step with these options and words.
    pub fn step(&self, image: &Path, words: &[&str]) -> Output {
        let node = self.ground.on_first_node();
        self.ground
            .srun_in(image, &[&[node.as_str()], words].concat())
    }

    /// What a shell's text says in an image.
    #[track_caller]
    fn says(&self, image: &Path, options: &[&str], text: &str) -> String {
        let words = [options, &["sh", "-c", text]].concat();
        self.step(image, &words).succeeded().stdout()
    }
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        let node = &self.ground.cluster.nodes()[0];
        let mut umount = self.ground.cluster.root(node, "umount");
        let _ = umount.arg(DIRECTORY).status();
        if self.made {
            // Somebody else may use it by now.
            let _ = fs::remove_dir(DIRECTORY);
        }
    }
}

fn sharing(ground: &Ground) {
    let rules = Rules::new(ground);
    let text = "echo $(readlink /proc/self/ns/mnt) $(awk '$5 == \"/\" { print $3 }' /proc/self/mountinfo) $(id -u)";
    let uid = ground.user.uid().to_string();
    for image in [small_file(Form::SquashfsLz4), small_file(Form::ErofsLz4hc)] {
        for (rule, namespaces) in [("", 1), ("share between ranks = no", 3)] {
            let said = rules.say(rule).says(&image, &["-n3", "--overcommit"], text);
            let lines: Vec<Vec<&str>> =
                said.lines().map(|line| line.split(' ').collect()).collect();
            assert_eq!(lines.len(), 3, "{said}");
            // The namespace, and the mount of the image: its device's number.
            for column in [0, 1] {
                let mut values: Vec<_> = lines.iter().map(|line| line[column]).collect();
                values.sort_unstable();
                values.dedup();
                assert_eq!(values.len(), namespaces, "{rule}: {said}");
            }
            assert!(lines.iter().all(|line| line[2] == uid), "{said}");
        }
    }
    // Each writes to a memory of its own.
    rules.say("share between ranks = no");
    let text = "touch /made-$SLURM_PROCID; sleep 0.5; ls / | grep -c made-";
    let options = ["-n2", "--overcommit", "--singularity-writable-tmpfs"];
    assert_eq!(rules.says(&small(), &options, text), "1\n1\n");
    // What only fails for the second is told by the second.
    let options = ["-n2", "--overcommit"];
    let output = rules
        .say("share between ranks = no\nmax loop devices = 0")
        .step(
            &small_file(Form::SquashfsLz4),
            &[&options[..], &["true"]].concat(),
        );
    output.exited_with(255).wrote("");
    assert_eq!(
        output.stderr().matches("attach image").count(),
        2,
        "{output}"
    );
    // By the command it is the command that obeys.
    ground.configure("check-image=node enter=prefix");
    rules.say("share between ranks = no");
    let text = "readlink /proc/self/ns/mnt";
    let said = rules.says(&small(), &options, text);
    let (one, other) = said.trim().split_once('\n').expect("two lines");
    assert_ne!(one, other);
}

fn left_out(ground: &Ground) {
    let rules = Rules::new(ground);
    let mounted =
        |path: &str| format!("grep -q ' {path} ' /proc/self/mountinfo && echo there; true");
    let account =
        |file: &str, id: &str| format!("grep -q \":$(id {id}):\" /etc/{file} && echo there; true");
    let work = ground.user.work().display().to_string();
    for (key, text) in [
        (
            "mount home",
            "[ -e \"$HOME/here\" ] && echo there; true".to_owned(),
        ),
        (
            "mount cwd",
            format!("[ -e {work}/here ] && echo there; true"),
        ),
        ("mount tmp", mounted("/tmp")),
        (
            "mount proc",
            "[ -e /proc/self ] && echo there; true".to_owned(),
        ),
        (
            "mount sys",
            "[ -e /sys/kernel ] && echo there; true".to_owned(),
        ),
        (
            "mount dev",
            "[ -e /dev/null ] && echo there; true".to_owned(),
        ),
        ("mount hosts", mounted("/etc/hosts")),
        ("mount resolv.conf", mounted("/etc/resolv.conf")),
        ("mount localtime", mounted("/etc/localtime")),
        ("mount passwd", account("passwd", "-u")),
        ("mount group", account("group", "-g")),
    ] {
        ground.user.file("here", "");
        // What is at home is not there by the directory of the step, and the reverse.
        let others = match key {
            "mount home" => "mount cwd = no",
            "mount cwd" => "mount home = no",
            _ => "",
        };
        let options = if key == "mount home" {
            &["--chdir=/"][..]
        } else {
            &[]
        };
        let yes = rules.say(others).says(&small(), options, &text);
        let no = rules.say(&format!("{others}\n{key} = no"));
        let no = no.says(&small(), options, &text);
        assert_eq!((yes.as_str(), no.as_str()), ("there\n", ""), "{key}");
    }
    let text = "ls /dev/loop-control /dev/null 2>/dev/null";
    rules.say("mount dev = minimal");
    let output = rules.step(&small(), &["sh", "-c", text]);
    output.wrote("/dev/null\n");
}

fn added(ground: &Ground) {
    let rules = Rules::new(ground);
    rules.say("bind path = /usr/share:/mnt/s:ro, /no/such/place\nuser bind control = no");
    let text = "ls -d /mnt/s/doc";
    assert_eq!(rules.says(&small(), &[], text), "/mnt/s/doc\n");
    // The site's own binds in plugstack.conf are no user's.
    ground.configure("check-image=node bind=/usr/share:/mnt/t");
    assert_eq!(
        rules.says(&small(), &[], "ls -d /mnt/t/doc"),
        "/mnt/t/doc\n"
    );
    ground.configure("check-image=node");
    for points in ["overlay", "underlay", "auto"] {
        rules.say(&format!("mount points = {points}"));
        let bind = "--singularity-bind=/usr/share:/mnt/not/there";
        let said = rules.says(&small(), &[bind], "ls -d /mnt/not/there/doc");
        assert_eq!(said, "/mnt/not/there/doc\n");
    }
    let clean = ["--singularity-cleanenv", "--export=ALL,KEPT_A=1,OTHER=2"];
    let text = "echo ${KEPT_A-none} ${OTHER-none}";
    assert_eq!(rules.say("").says(&small(), &clean, text), "none none\n");
    rules.say("keep environment = KEPT_*");
    assert_eq!(rules.says(&small(), &clean, text), "1 none\n");
    rules.say("drop environment = OTH*");
    assert_eq!(rules.says(&small(), &clean[1..], text), "1 none\n");
    // Where copies go, for who names no place.
    let file = small_file(Form::SquashfsLz4);
    let stage = ["--singularity-stage=yes"];
    assert_eq!(rules.say("").says(&file, &stage, "echo in"), "in\n");
    rules.say("stage dir = /no/such/place");
    let output = rules.step(&file, &[stage[0], "true"]);
    output.exited_with(255).wrote("");
    assert!(output.stderr().contains("/no/such/place"), "{output}");
}

fn forbidden(ground: &Ground) {
    let rules = Rules::new(ground);
    let (directory, file) = (small(), small_file(Form::SquashfsLz4));
    // Which root does not mount unless the site names it.
    let ext = small_file(Form::Ext4);
    for (rule, image, options, words) in [
        ("image driver = kernel", &ext, "", "'image driver' in"),
        (
            "allow user namespaces = no",
            &ext,
            "",
            "'allow user namespaces' in",
        ),
        (
            "limit image owners = 12345",
            &directory,
            "",
            "images owned by user 0",
        ),
        (
            "limit image groups = self",
            &directory,
            "",
            "images of group 0",
        ),
        (
            "limit image directories = /opt/images",
            &directory,
            "",
            "images there (hint: images must be in /opt/images)",
        ),
        (
            "user bind control = no",
            &directory,
            "--singularity-bind=/usr",
            "'user bind control' in",
        ),
        (
            "user bind control = no",
            &directory,
            "--singularity-home=/tmp:/home/x",
            "'user bind control' in",
        ),
        (
            "enable overlay = no",
            &directory,
            "--singularity-writable-tmpfs",
            "'enable overlay' in",
        ),
        ("max loop devices = 0", &file, "", "'max loop devices' in"),
        (
            "image driver = fuse\nallow user namespaces = no",
            &file,
            "",
            "'allow user namespaces' in",
        ),
        (
            "allow privileged formats = none\nallow user namespaces = no",
            &directory,
            "",
            "'allow user namespaces' in",
        ),
    ] {
        let options: Vec<&str> = Some(options)
            .filter(|text| !text.is_empty())
            .into_iter()
            .collect();
        let output = rules
            .say(rule)
            .step(image, &[&options[..], &["true"]].concat());
        output.exited_with(255).wrote("");
        assert!(output.stderr().contains(words), "{rule}: {output}");
    }
}

fn by_the_user(ground: &Ground) {
    let rules = Rules::new(ground);
    let (directory, file) = (small(), small_file(Form::SquashfsLz4));
    let ext = small_file(Form::Ext4);
    let text = ["readlink", "/proc/self/ns/user"];
    let own = ground.srun(&text).succeeded().stdout();
    for (rule, image, by_root) in [
        ("", &file, true),
        ("image driver = kernel", &file, true),
        ("image driver = kernel", &directory, true),
        ("", &ext, false),
        ("image driver = auto", &ext, false),
        (
            "image driver = kernel\nallow privileged formats = ext",
            &ext,
            true,
        ),
        (
            "allow user namespaces = no\nallow privileged formats = ext",
            &ext,
            true,
        ),
        ("image driver = fuse", &file, false),
        ("image driver = fuse", &directory, true),
        ("allow privileged formats = erofs", &file, false),
        ("allow privileged formats = erofs", &directory, false),
        ("allow privileged formats = none", &directory, false),
        ("allow user namespaces = no", &file, true),
        // It is of the starter only.
        ("allow setuid = no", &file, true),
    ] {
        let said = rules.say(rule).step(image, &text).succeeded().stdout();
        assert_eq!(said == own, by_root, "{rule}: {said}");
    }
}

fn meeting(ground: &Ground) {
    let rules = Rules::new(ground);
    // Variables are changed for a program whose MPI is not known, too.
    let text = "echo ${PMIX_MCA_gds-none}";
    let options = ["--mpi=pmix"];
    assert_eq!(rules.say("").says(&small(), &options, text), "hash\n");
    rules.say("mpi hygiene = no");
    assert_eq!(rules.says(&small(), &options, text), "none\n");
    rules.say("mpi = off");
    assert_eq!(rules.says(&small(), &options, text), "none\n");
    // Two that could meet directly.
    let text = "for p in /proc/[0-9]*/comm; do read -r name <$p; [ \"$name\" = pmi-bridge ] && echo bridged; \
                done 2>/dev/null; exec ring";
    let options = ["--mpi=pmix", "-n2", "--overcommit"];
    for (rule, bridged) in [("", false), ("mpi = pass", false), ("mpi = bridge", true)] {
        let said = rules.say(rule).says(&debian(), &options, text);
        assert_eq!(said.contains("bridged\n"), bridged, "{rule}: {said}");
        assert!(said.contains("ring of 2 ranks"), "{rule}: {said}");
    }
}

fn audit_log(ground: &Ground) {
    let rules = Rules::new(ground);
    let listener = "import socket, os, sys\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind('/dev/log'); os.chmod('/dev/log', 0o666)\n\
        f = open(sys.argv[1], 'ab', 0)\n\
        while True: f.write(s.recv(4096) + b'\\n')\n";
    let script = ground.user.file("listener.py", listener);
    let log = ground.cluster.shared().join("audit");
    // A /dev of the node's own, so that the machine's log is left alone.
    rules.on_node(&format!(
        "mkdir -p /run/dev; mount -t tmpfs -o mode=755 tmpfs /run/dev; cd /dev; \
         for f in *; do if [ -d $f ] && [ ! -h $f ]; then mkdir /run/dev/$f; mount --rbind $f /run/dev/$f; \
         else cp -a $f /run/dev/; fi; done; mount --move /run/dev /dev; rmdir /run/dev; cd /; : >{0}; \
         setsid /usr/bin/python3 {1} {0} </dev/null >/dev/null 2>&1 & echo $! >/run/listener; \
         n=0; while [ ! -S /dev/log ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n+1)); done",
        log.display(),
        script.display()
    ));
    let logged = || {
        let text = fs::read_to_string(&log).expect("it is there");
        fs::write(&log, "").expect("root may");
        text
    };
    let image = small_file(Form::SquashfsLz4);
    let one = ["-n2", "--overcommit", "echo", "secret"];
    rules.say("").step(&image, &one).succeeded();
    let shared = logged();
    rules
        .say("share between ranks = no")
        .step(&image, &one)
        .succeeded();
    let apart = logged();
    let refused = rules.say("max loop devices = 0").step(&image, &["true"]);
    let no = logged();
    rules.say("audit log = no").step(&image, &one).succeeded();
    let silent = logged();
    rules.on_node("kill $(cat /run/listener); rm /run/listener; umount -R -l /dev");
    drop(rules);
    fs::remove_file(log).expect("root may");
    let uid = ground.user.uid();
    let line = format!("]: user={uid} image=\"{}\" options=", image.display());
    for (text, lines) in [(&shared, 1), (&apart, 2)] {
        assert_eq!(text.lines().count(), lines, "{text}");
        for found in text.lines() {
            assert!(found.starts_with("<85>singularity-slurm["), "{text}");
            assert!(found.contains(&line), "{text}");
            assert!(found.ends_with(" outcome=started"), "{text}");
        }
    }
    refused.exited_with(255);
    assert!(
        no.contains(&line) && no.contains(" outcome=refused reason=\"attach image "),
        "{no}"
    );
    assert_eq!(silent, "");
}

fn others_configuration(ground: &Ground) {
    let rules = Rules::new(ground);
    let uid = ground.user.uid();
    let step = || rules.step(&small_file(Form::SquashfsLz4), &["true"]);
    step().succeeded().quietly();
    let others = "others than its owner may write to it";
    for (make, undo, words) in [
        (
            format!("chown {uid} {FILE}"),
            format!("chown 0 {FILE}"),
            format!("it belongs to user {uid}"),
        ),
        (
            format!("chmod 666 {FILE}"),
            format!("chmod 644 {FILE}"),
            others.to_owned(),
        ),
        (
            format!("chmod 777 {DIRECTORY}"),
            format!("chmod 755 {DIRECTORY}"),
            others.to_owned(),
        ),
        (
            format!("rm {FILE}; mkfifo {FILE}"),
            format!("rm {FILE}; : >{FILE}"),
            "it is not a regular file".to_owned(),
        ),
        (
            format!("echo 'allow setuids = yes' >{FILE}"),
            format!(": >{FILE}"),
            format!("{FILE}:1:1"),
        ),
    ] {
        rules.on_node(&make);
        let output = step();
        rules.on_node(&undo);
        output.exited_with(255).wrote("");
        let text = output.stderr();
        assert!(text.contains(&words), "{words}: {output}");
        assert_eq!(text.matches("error: singularity: ").count(), 1, "{output}");
    }
}
