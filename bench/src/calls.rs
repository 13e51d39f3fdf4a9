//! What one start asks of the kernel: programs executed, processes made, system
//! calls in all, counted by strace(1). Counts do not vary as times do.
//!
//! Owns: reading a trace. Never: takes times.

use std::fs;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::launcher::on_path;
use crate::round::Contender;

/// What one start of a program that does nothing asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calls {
    /// The way.
    pub way: String,
    /// Programs that were executed.
    pub programs: u64,
    /// Processes that were made.
    pub processes: u64,
    /// System calls.
    pub all: u64,
}

/// Counts one start. Only root's strace leaves a set-id program its rights.
///
/// # Errors
/// No strace, or a program that failed.
pub fn count(contender: &Contender) -> Result<Calls, String> {
    let strace = on_path("strace").ok_or("strace is needed to count: install strace")?;
    let place =
        std::env::temp_dir().join(format!("singularity-bench-{}.calls", std::process::id()));
    crate::watch::remove_at_the_end(&place);
    let output = Command::new(strace)
        .args(["-f", "-qq", "-s", "0", "-e", "signal=none", "-o"])
        .arg(&place)
        .args(&contender.words)
        .envs(contender.variables.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{}: strace: {error}", contender.name))?;
    let text = fs::read(&place).map_err(|error| format!("read what strace wrote: {error}"))?;
    let _ = fs::remove_file(&place);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}\n{said}", contender.name, output.status));
    }
    Ok(Calls {
        way: contender.name.clone(),
        ..tally(&String::from_utf8_lossy(&text))
    })
}

/// Adds up a trace: a call that was interrupted by another process's is in two
/// lines, of which the second counts where it matters whether it succeeded.
fn tally(trace: &str) -> Calls {
    let mut calls = Calls::default();
    for line in trace.lines() {
        let call = line.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == ' ');
        let resumed = call.strip_prefix("<... ");
        if resumed.is_none() && call.contains('(') {
            calls.all += 1;
        }
        let name = resumed.unwrap_or(call);
        let name = name.split(['(', ' ']).next().unwrap_or_default();
        let Some((_, result)) = call.rsplit_once(" = ") else {
            continue;
        };
        let number = result.split(' ').next().and_then(|n| n.parse::<i64>().ok());
        match (name, number) {
            ("execve" | "execveat", Some(0)) => calls.programs += 1,
            ("clone" | "clone3" | "fork" | "vfork", Some(1..)) => calls.processes += 1,
            _ => {}
        }
    }
    calls
}

/// The counts as a table, one way a line.
pub fn table(all: &[Calls]) -> String {
    let mut text = String::from(
        "What one start of a program that does nothing asks of the kernel\n  programs  processes  calls  way\n",
    );
    for calls in all {
        text.push_str(&format!(
            "  {:>8}  {:>9}  {:>5}  {}\n",
            calls.programs, calls.processes, calls.all, calls.way
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_added_up() {
        let trace = "12 execve(\"\"..., 0x7, 0x7 /* 9 vars */) = 0\n\
            12 execve(\"\"..., 0x7, 0x7 /* 9 vars */) = -1 ENOENT (No such file or directory)\n\
            12 vfork( <unfinished ...>\n\
            13 execveat(5, \"\"..., 0x7, 0x7, AT_EMPTY_PATH <unfinished ...>\n\
            12 <... vfork resumed>) = 13\n\
            13 <... execveat resumed>) = 0\n\
            13 exit_group(0) = ?\n13 +++ exited with 0 +++\n";
        let calls = tally(trace);
        assert_eq!((calls.programs, calls.processes, calls.all), (2, 1, 5));
    }
}
