//! What the contenders stand on: somebody to run them, programs, images, peers.
//!
//! Owns: making all of it before anything is timed. Never: measures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use test_support::{Form, Image, Mpi, User};

use bench::round::{Measured, Task};

/// Does nothing: what it takes to run it is the floor.
const TRUE: &str = "int main(void) { return 0; }\n";

/// Becomes another program, like every launcher in the end: no launcher that is
/// a program of its own can be faster.
const WRAPPER: &str = "#include <unistd.h>\n\
    int main(int argc, char **argv, char **envp)\n\
    { return argc < 2 ? 2 : execve(argv[1], argv + 1, envp); }\n";

/// Whoever runs the contenders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// An ordinary user.
    User,
    /// Root, for whom the kernel mounts image files.
    Root,
}

/// Everything the sections need.
#[derive(Debug)]
pub struct Stage {
    user: User,
    /// Programs and scratch files, seen at the same path in every image: all
    /// launchers here show /tmp.
    place: PathBuf,
    /// The command that is measured.
    pub singularity: String,
    /// The Open MPI image as a directory.
    pub directory: String,
    /// The host's MPI.
    pub mpi: Mpi,
}

impl Stage {
    /// Makes it.
    ///
    /// # Errors
    /// What could not be made.
    pub fn set() -> Result<Self, String> {
        let user = User::ordinary();
        let place = PathBuf::from(format!("/tmp/singularity-bench-{}", std::process::id()));
        fs::create_dir(&place).map_err(|error| format!("make {}: {error}", place.display()))?;
        user.give(&place);
        let stage = Self {
            singularity: test_support::command().display().to_string(),
            directory: Image::OpenMpiBookworm.directory().display().to_string(),
            mpi: Mpi::openmpi(),
            user,
            place,
        };
        stage.compile("true", TRUE)?;
        stage.compile("wrapper", WRAPPER)?;
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        // The user may be unable to enter the directory it was built in.
        fs::copy(this, stage.place.join("bench")).map_err(|error| error.to_string())?;
        Ok(stage)
    }

    fn compile(&self, name: &str, source: &str) -> Result<(), String> {
        let file = self.place.join(format!("{name}.c"));
        fs::write(&file, source).map_err(|error| error.to_string())?;
        let status = Command::new("gcc")
            .args(["-O2", "-static", "-o"])
            .arg(self.place.join(name))
            .arg(&file)
            .status()
            .map_err(|error| format!("gcc: {error}: apt-get install gcc"))?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("gcc {}: {status}", file.display())),
        }
    }

    /// The static program that does nothing.
    pub fn static_true(&self) -> String {
        self.file("true")
    }

    /// The static program that only executes its arguments.
    pub fn wrapper(&self) -> String {
        self.file("wrapper")
    }

    fn file(&self, name: &str) -> String {
        self.place.join(name).display().to_string()
    }

    /// The Open MPI image in one file.
    pub fn image(&self, form: Form) -> String {
        Image::OpenMpiBookworm.file(form).display().to_string()
    }

    /// Whether there is somebody for root's part.
    pub fn has_root(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    /// A peer or FUSE server on the user's PATH.
    pub fn program(&self, name: &str) -> Option<String> {
        let path = test_support::search_path();
        std::env::split_paths(path)
            .map(|directory| directory.join(name))
            .find(|program| program.is_file())
            .map(|program| program.display().to_string())
    }

    /// `singularity exec OPTIONS IMAGE`, to be followed by a command.
    pub fn exec(&self, options: &[&str], image: &str) -> Vec<String> {
        let mut words = vec![self.singularity.clone(), "exec".to_owned()];
        words.extend(options.iter().map(|&option| option.to_owned()));
        words.push(image.to_owned());
        words
    }

    /// `singularity exec DIRECTORY` without the binds that bubblewrap cannot do in
    /// this image and Charliecloud does not: what compares like with like.
    pub fn exec_like_peers(&self) -> Vec<String> {
        let etc = Path::new(&self.directory).join("etc");
        let absent: Vec<&str> = ["hosts", "localtime"]
            .into_iter()
            .filter(|file| {
                !etc.join(file)
                    .symlink_metadata()
                    .is_ok_and(|place| place.is_file())
            })
            .collect();
        self.exec(&["--no-mount", &absent.join(",")], &self.directory)
    }

    /// bubblewrap with the binds that `singularity exec --dry-run` lists, or
    /// `None` where it is not installed. What bubblewrap cannot do, because the
    /// image lacks the mount point or has a dangling link there, is left out, in
    /// its favour.
    pub fn bubblewrap(&self) -> Option<Vec<String>> {
        let mut words = vec![self.program("bwrap")?];
        let root = self.directory.clone();
        words.extend(["--ro-bind".to_owned(), root, "/".to_owned()]);
        let output = self
            .user
            .singularity()
            .args(["exec", "--dry-run", &self.directory, "true"])
            .output()
            .ok()?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            words.extend(self.as_bind(line).unwrap_or_default());
        }
        Some(words)
    }

    /// `NN  mount SOURCE on DESTINATION (nosuid, …)` as bubblewrap's options.
    fn as_bind(&self, line: &str) -> Option<Vec<String>> {
        let (_, mount) = line.split_once("  mount ")?;
        let (mount, options) = mount.rsplit_once(" (")?;
        let (source, destination) = mount.split_once(" on ")?;
        let own = self.file(&destination.replace('/', "_"));
        let source = if source.starts_with('/') {
            source
        } else {
            // The user's passwd and group.
            fs::copy(destination, &own).ok()?;
            &own
        };
        let inside = Path::new(&self.directory).join(destination.strip_prefix('/')?);
        let mut words = Vec::new();
        let there = inside.symlink_metadata();
        if there.as_ref().is_ok_and(|place| place.is_symlink()) {
            return None;
        }
        if there.is_err() {
            if !Path::new(source).is_dir() {
                return None;
            }
            let parent = Path::new(destination).parent()?.display().to_string();
            words.extend(["--tmpfs".to_owned(), parent]);
        }
        let kind = match (destination, options.contains("read-only")) {
            ("/dev", _) => "--dev-bind",
            (_, true) => "--ro-bind",
            (_, false) => "--bind",
        };
        words.extend([kind, source, destination].map(str::to_owned));
        Some(words)
    }

    /// Charliecloud's `ch-run OPTIONS IMAGE --`, with the home directory shown
    /// too, or `None` where it is not installed.
    pub fn charliecloud(&self, options: &[&str], image: &str) -> Option<Vec<String>> {
        let mut words = vec![self.program("ch-run")?, "--home".to_owned()];
        words.extend(options.iter().map(|&option| option.to_owned()));
        words.extend([image.to_owned(), "--".to_owned()]);
        Some(words)
    }

    /// A directory for Charliecloud to mount squashfs files on.
    pub fn mount_point(&self) -> String {
        let place = self.place.join("mount");
        if fs::create_dir(&place).is_ok() {
            self.user.give(&place);
        }
        place.display().to_string()
    }

    /// `mpirun` with so many ranks.
    pub fn mpirun(&self, who: Who, ranks: usize) -> Vec<String> {
        let mut words = vec![self.mpi.launcher().display().to_string()];
        if who == Who::Root {
            words.push("--allow-run-as-root".to_owned());
        }
        words.extend(["--oversubscribe", "-np"].map(str::to_owned));
        words.push(ranks.to_string());
        words
    }

    /// Has a task done by whom it is for.
    ///
    /// # Errors
    /// The first contender that failed.
    pub fn measure(&self, who: Who, task: &Task) -> Result<Measured, String> {
        let bench = self.place.join("bench");
        let mut command = match who {
            Who::User => self.user.command(bench),
            Who::Root => {
                let mut command = Command::new(bench);
                command.env_clear().current_dir("/root").envs([
                    ("HOME", "/root"),
                    ("USER", "root"),
                    ("PATH", test_support::search_path()),
                    ("LC_ALL", "C.UTF-8"),
                ]);
                command
            }
        };
        let mut worker = command
            .arg("measure")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start the measuring process: {error}"))?;
        let sent = worker
            .stdin
            .take()
            .map(|input| serde_json::to_writer(input, task));
        if !matches!(sent, Some(Ok(()))) {
            return Err("the measuring process does not listen".to_owned());
        }
        let output = worker
            .wait_with_output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err("a contender failed".to_owned());
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("read what was measured: {error}"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.place) {
            eprintln!("bench: remove {}: {error}", self.place.display());
        }
    }
}
