//! `image-server IMAGE DEVICE`: serves the file system in an image file over FUSE.
//!
//! Started by the launcher, as the user, in a mount namespace without the mount that
//! it serves: so the kernel ends the connection, and with it this program, when the
//! last process of the image is gone. Both words are numbers of open descriptors: the
//! image, and a `/dev/fuse` that is mounted already.
//!
//! Owns: reading requests and writing answers, by as many threads as there is work
//! for. Never: writes to the image, opens a file, or trusts a number in the image.

mod answer;
mod protocol;

use std::fs::File;
use std::io::{IoSlice, Write as _};
use std::os::fd::OwnedFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Scope;

use image::Image;
use launcher::Error;
use nix::errno::Errno;
use nix::sys::uio::writev;

use answer::Server;
use protocol::Request;

/// More at a time would wait for one another: ranks share the processors too.
const MOST_THREADS: usize = 4;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [image, device] = words.as_slice() else {
        return Err(
            Error::new("read the command line", "two descriptors are expected")
                .hint("singularity starts this program by itself"),
        );
    };
    let [image, device] = [inherited(image)?, inherited(device)?];
    let image = Image::from_file(Path::new("image"), File::from(image))?;
    let volume = volume::serve(&image)?
        .ok_or_else(|| Error::new("serve the image", "its file system is not served here"))?;
    let server = Server::new(&*volume);
    let work = Work {
        server: &server,
        device: &device,
        idle: AtomicUsize::new(0),
        threads: AtomicUsize::new(1),
    };
    std::thread::scope(|scope| work.go_on(scope));
    Ok(())
}

/// A descriptor that the launcher has left open for this program.
fn inherited(word: &str) -> Result<OwnedFd, Error> {
    let step = || format!("take descriptor {word}");
    let number: i32 = word
        .parse()
        .map_err(|_| Error::new(step(), "it is not a number"))?;
    if number < 3 {
        return Err(Error::new(step(), "it is a standard one"));
    }
    launcher::inherited(number).ok_or_else(|| Error::new(step(), "it is not open"))
}

struct Work<'a> {
    server: &'a Server<'a>,
    device: &'a OwnedFd,
    /// Threads that wait for a request.
    idle: AtomicUsize,
    threads: AtomicUsize,
}

impl<'a> Work<'a> {
    /// Answers until the file system is unmounted.
    fn go_on<'s>(&'s self, scope: &'s Scope<'s, 'a>) {
        let mut buffer = vec![0; protocol::REQUEST_LENGTH];
        // Kept: memory that is new each time costs a fault for each page.
        let mut body = Vec::new();
        loop {
            self.idle.fetch_add(1, Ordering::Relaxed);
            let read = nix::unistd::read(self.device, &mut buffer);
            let waiting = self.idle.fetch_sub(1, Ordering::Relaxed) - 1;
            let length = match read {
                Ok(length) => length,
                // Interrupted, or the one who asked has gone.
                Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => continue,
                Err(_) => return,
            };
            let Some(request) = Request::parse(buffer.get(..length).unwrap_or_default()) else {
                continue;
            };
            if waiting == 0 && request.is_work() {
                self.start_another(scope);
            }
            // What a damaged image might do to this program stays one failed call.
            let answering = AssertUnwindSafe(|| self.server.answer(&request, &mut body));
            let answer = catch_unwind(answering).unwrap_or(Some(Err(Errno::EIO)));
            let Some(answer) = answer else { continue };
            if answer.is_err() {
                body.clear();
            }
            let head = protocol::head(request.unique, answer, body.len());
            let parts = [IoSlice::new(&head), IoSlice::new(&body)];
            // Other errors concern this request only: it was interrupted.
            if writev(self.device, &parts) == Err(Errno::ENODEV) {
                return;
            }
        }
    }

    fn start_another<'s>(&'s self, scope: &'s Scope<'s, 'a>) {
        if self.threads.fetch_add(1, Ordering::Relaxed) >= MOST_THREADS {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let started = std::thread::Builder::new()
            .stack_size(512 << 10)
            .spawn_scoped(scope, || self.go_on(scope));
        if started.is_err() {
            // One of them suffices.
            self.threads.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
