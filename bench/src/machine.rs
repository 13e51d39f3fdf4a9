//! What the figures were measured on and with.

use std::fs;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// The machine and the programs. No names of hosts or people.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    /// The load before anything was measured: processes that wanted to run, as a
    /// mean over a minute.
    #[serde(default)]
    pub load: f64,
    /// Programs, and what they say they are.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// Asks the system, and these programs with these words for their versions.
    pub fn describe(programs: &[(&str, &str)]) -> Self {
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
        let load = read("/proc/loadavg");
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name", ':'),
            memory: kilobytes.unwrap_or_default() / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: field(&read("/etc/os-release"), "PRETTY_NAME", '='),
            mounts: read("/proc/self/mountinfo").lines().count(),
            load: load
                .split(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or_default(),
            versions: programs
                .iter()
                .filter_map(|(program, option)| {
                    let name = program.rsplit('/').next()?.to_owned();
                    Some((name, version(program, option)?))
                })
                .collect(),
        }
    }

    /// In a line.
    pub fn line(&self) -> String {
        format!(
            "{} cores ({}), {} MiB, Linux {}, {}, {} mounts, load {:.2}",
            self.cores,
            self.processor,
            self.memory,
            self.kernel,
            self.system,
            self.mounts,
            self.load
        )
    }
}

/// The first line with a version in it that the program prints, wherever it does.
pub fn version(program: &str, option: &str) -> Option<String> {
    let output = Command::new(program)
        .arg(option)
        .env("USER", "nobody")
        .stdin(Stdio::null())
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
