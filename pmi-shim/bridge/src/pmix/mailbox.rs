//! From libpmix's threads to the bridge's loop.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

/// The end that letters are put in at. Any thread, any number.
#[derive(Debug)]
pub struct Post<T> {
    letters: Arc<Mutex<VecDeque<T>>>,
    bell: Arc<UnixStream>,
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Post {
            letters: Arc::clone(&self.letters),
            bell: Arc::clone(&self.bell),
        }
    }
}

/// The end that the loop watches.
#[derive(Debug)]
pub struct Mailbox<T> {
    letters: Arc<Mutex<VecDeque<T>>>,
    bell: UnixStream,
}

/// A mailbox and where to post for it.
///
/// # Errors
/// socketpair(2)'s.
pub fn mailbox<T>() -> std::io::Result<(Post<T>, Mailbox<T>)> {
    let (rung, heard) = UnixStream::pair()?;
    rung.set_nonblocking(true)?;
    heard.set_nonblocking(true)?;
    let letters = Arc::new(Mutex::new(VecDeque::new()));
    let post = Post {
        letters: Arc::clone(&letters),
        bell: Arc::new(rung),
    };
    Ok((
        post,
        Mailbox {
            letters,
            bell: heard,
        },
    ))
}

impl<T> Post<T> {
    /// Puts a letter in, and wakes the loop.
    pub fn send(&self, letter: T) {
        self.letters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(letter);
        // A full socket has woken it already.
        let _ = (&*self.bell).write(&[0]);
    }
}

impl<T> Mailbox<T> {
    /// What becomes readable when there is a letter.
    pub fn descriptor(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Takes all letters there are.
    pub fn take(&mut self) -> Vec<T> {
        // First the bell: what is posted meanwhile rings again.
        let mut rings = [0; 64];
        while matches!(self.bell.read(&mut rings), Ok(count) if count == rings.len()) {}
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        letters.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
    use std::os::fd::AsFd;

    fn rings(mailbox: &Mailbox<u32>) -> bool {
        let mut polled = [PollFd::new(mailbox.bell.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn letters_of_other_threads_ring_and_come_in_order() {
        let (post, mut mailbox) = mailbox().unwrap();
        let other = post.clone();
        std::thread::spawn(move || (0..1000).for_each(|number| other.send(number)))
            .join()
            .unwrap();
        assert!(rings(&mailbox));
        assert_eq!(mailbox.take(), (0..1000).collect::<Vec<_>>());
        assert!(!rings(&mailbox) && mailbox.take().is_empty());
        post.send(7);
        assert!(rings(&mailbox));
    }
}
