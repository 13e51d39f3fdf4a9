//! One line in the system log for each privileged start.
//!
//! Owns: the form of the line and where it goes: the socket of syslog(3), which
//! journald serves too. Never: stops a start because nobody listens, or writes
//! what the user passed to the program.

use std::fmt::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use image::Shown;

use crate::error::Error;

const SOCKET: &str = "/dev/log";

/// How long a log that others have filled may keep a start waiting for its line.
const PATIENCE: Duration = Duration::from_secs(2);

/// `LOG_AUTHPRIV | LOG_NOTICE` and `LOG_AUTHPRIV | LOG_WARNING` of syslog(3).
const STARTED: u8 = 10 << 3 | 5;
const REFUSED: u8 = 10 << 3 | 4;

/// How a privileged start ended.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// The program is about to run.
    Started,
    /// It does not run.
    Refused(&'a Error),
}

/// The line to be written; the socket is opened before the host's is out of sight.
#[derive(Debug)]
pub struct Log {
    socket: Option<UnixDatagram>,
    program: &'static str,
    uid: u32,
    image: String,
    options: Option<u128>,
}

impl Log {
    /// Connects to the system's log, if the site wants the line.
    pub fn open(program: &'static str, wanted: bool, uid: u32, image: &Path) -> Self {
        Self {
            socket: wanted.then(|| connect(Path::new(SOCKET))).flatten(),
            program,
            uid,
            image: Shown::new(image).to_string(),
            options: None,
        }
    }

    /// Adds the digest of what was asked for.
    pub fn options(&mut self, digest: u128) {
        self.options = Some(digest);
    }

    /// Writes the line.
    pub fn write(&mut self, outcome: &Outcome<'_>) {
        let Some(socket) = &self.socket else { return };
        // A log that stays full, or is gone, stops nobody.
        let _ = socket.send(self.line(outcome, std::process::id()).as_bytes());
    }

    fn line(&self, outcome: &Outcome<'_>, pid: u32) -> String {
        let (priority, word) = match outcome {
            Outcome::Started => (STARTED, "started"),
            Outcome::Refused(_) => (REFUSED, "refused"),
        };
        let mut line = format!(
            "<{priority}>{}[{pid}]: user={} image={} ",
            self.program,
            self.uid,
            quoted(&self.image)
        );
        if let Some(digest) = self.options {
            let _ = write!(line, "options={digest:032x} ");
        }
        let _ = write!(line, "outcome={word}");
        if let Outcome::Refused(error) = outcome {
            let _ = write!(line, " reason={}", quoted(&error.to_string()));
        }
        line
    }
}

/// A digest of what was asked for, of an image that nobody has opened: equal for what
/// shows equally.
pub fn digest(wish: &impl std::fmt::Debug) -> u128 {
    crate::plan::digest(0, (env!("CARGO_PKG_VERSION"), format!("{wish:?}")))
}

/// A way to the log at `path`, on which nobody waits for long.
fn connect(path: &Path) -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(path).ok()?;
    socket.set_write_timeout(Some(PATIENCE)).ok()?;
    Some(socket)
}

/// In quotes, and so that nothing in it ends them or the line.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars().take(1024) {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push('?'),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_name_cannot_end_its_line_or_its_quotes() {
        let log = Log {
            socket: None,
            program: "singularity-starter",
            uid: 7,
            image: "a\" outcome=started\n<0>x".to_owned(),
            options: Some(1),
        };
        let error = Error::new("enter", "no\\");
        assert_eq!(
            log.line(&Outcome::Refused(&error), 5),
            format!(
                "<84>singularity-starter[5]: user=7 image=\"a\\\" outcome=started?<0>x\" \
                 options={:032x} outcome=refused reason=\"enter: no\\\\\"",
                1
            )
        );
    }

    /// A directory of this test's own.
    fn directory() -> std::path::PathBuf {
        let name = format!("singularity-audit-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        // A run of this test that was killed may have had the same process id.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn a_log_that_nobody_reads_keeps_a_start_for_two_seconds_and_no_longer() {
        let directory = directory();
        let place = directory.join("log");
        let listener = UnixDatagram::bind(&place).unwrap();
        let others = UnixDatagram::unbound().unwrap();
        others.connect(&place).unwrap();
        others.set_nonblocking(true).unwrap();
        while others.send(b"noise").is_ok() {}
        let mut log = Log {
            socket: connect(&place),
            program: "singularity-starter",
            uid: 7,
            image: "/i".to_owned(),
            options: None,
        };
        assert!(log.socket.is_some());
        let begun = Instant::now();
        log.write(&Outcome::Started);
        let waited = begun.elapsed();
        assert!(waited >= PATIENCE.mul_f64(0.9), "{waited:?}");
        assert!(waited < 5 * PATIENCE, "{waited:?}");
        // One line less in it, and the next arrives.
        let mut text = [0; 64];
        listener.recv(&mut text).unwrap();
        log.write(&Outcome::Started);
        listener.set_nonblocking(true).unwrap();
        let mut last = Vec::new();
        while let Ok(length) = listener.recv(&mut text) {
            last = text[..length].to_vec();
        }
        assert!(last.starts_with(b"<85>singularity-starter["), "{last:?}");
        // Nobody there at all: no waiting, no failure.
        drop(listener);
        log.socket = connect(&place);
        assert!(log.socket.is_none());
        log.write(&Outcome::Started);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
