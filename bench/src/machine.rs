//! What the figures were measured on and with.

use std::fs;
use std::process::Command;

use serde::Serialize;

use crate::stage::Stage;

/// The machine and the programs. No names of hosts or people.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Processors that may be used.
    pub cores: usize,
    /// Their model, as the kernel gives it.
    pub processor: String,
    /// Memory, in MiB.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution.
    pub system: String,
    /// Mounts of the host, which every new mount namespace copies.
    pub mounts: usize,
    /// Programs, and what they say they are.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// Asks the system.
    pub fn describe(stage: &Stage) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str, separator: char| {
            text.lines()
                .filter_map(|line| line.split_once(separator))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal", ':');
        let kilobytes = memory.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        let programs = [
            (stage.singularity.as_str(), "--version"),
            ("mpirun.openmpi", "--version"),
            ("bwrap", "--version"),
            ("ch-run", "--version"),
            ("squashfuse_ll", "--help"),
            ("erofsfuse", "--version"),
            ("fuse2fs", "-V"),
        ];
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name", ':'),
            memory: kilobytes.unwrap_or_default() / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: field(&read("/etc/os-release"), "PRETTY_NAME", '='),
            mounts: read("/proc/self/mountinfo").lines().count(),
            versions: programs
                .iter()
                .filter_map(|(program, option)| {
                    let name = program.rsplit('/').next()?.to_owned();
                    Some((name, version(stage, program, option)?))
                })
                .collect(),
        }
    }
}

/// The first line with a version in it that the program prints, wherever it does.
fn version(stage: &Stage, program: &str, option: &str) -> Option<String> {
    let path = stage.program(program)?;
    let output = Command::new(path)
        .arg(option)
        .env("USER", "nobody")
        .output()
        .ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .find(|line| {
            let numbers = line.as_bytes().windows(3);
            let mut versions =
                numbers.filter(|w| w[0].is_ascii_digit() && w[1] == b'.' && w[2].is_ascii_digit());
            versions.next().is_some()
        })
        .map(|line| line.trim().to_owned())
}
