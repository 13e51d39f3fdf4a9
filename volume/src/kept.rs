//! What was read or unpacked last, for whoever asks next.
//!
//! Owns: how much of it is kept. Never: unpacks.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use crate::locked;

/// What was found out, by number. When there is too much of it all of it goes.
#[derive(Debug)]
pub(crate) struct Known<T> {
    most: usize,
    all: Mutex<HashMap<u64, T>>,
}

impl<T: Clone> Known<T> {
    /// Room for so many.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            all: Mutex::default(),
        }
    }

    /// What is known of this number, or else what `find` finds, which is kept.
    ///
    /// # Errors
    /// As `find`.
    pub fn get_or<E>(&self, number: u64, find: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if let Some(known) = locked(&self.all).get(&number) {
            return Ok(known.clone());
        }
        // Others may go on meanwhile.
        let found = find()?;
        let mut all = locked(&self.all);
        if all.len() >= self.most {
            all.clear();
        }
        all.insert(number, found.clone());
        Ok(found)
    }
}

/// How many bytes are kept, and of how many pieces at most: they are looked through one
/// by one.
const BYTES: usize = 8 << 20;
const PIECES: usize = 256;

/// Pieces of data, the latest at the end.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Pieces>);

/// Where it lies, and what else tells it from others there.
type Place = (u64, u64);

#[derive(Debug, Default)]
struct Pieces {
    all: VecDeque<(Place, Arc<Vec<u8>>)>,
    bytes: usize,
}

impl Kept {
    /// The piece from this place, if it is there still.
    pub fn get(&self, place: Place) -> Option<Arc<Vec<u8>>> {
        let all = &mut locked(&self.0).all;
        let index = all.iter().rposition(|(other, _)| *other == place)?;
        let found = all.remove(index)?;
        let content = Arc::clone(&found.1);
        all.push_back(found);
        Some(content)
    }

    /// Keeps a piece, in place of those that nobody asked for longest. One that is too
    /// large for that is kept alone.
    pub fn put(&self, place: Place, content: &Arc<Vec<u8>>) {
        let pieces = &mut *locked(&self.0);
        while pieces.all.len() >= PIECES || pieces.bytes + content.len() > BYTES {
            let Some((_, oldest)) = pieces.all.pop_front() else {
                break;
            };
            pieces.bytes -= oldest.len();
        }
        pieces.bytes += content.len();
        pieces.all.push_back((place, Arc::clone(content)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_not_looked_for_again_until_there_is_too_much() {
        let known = Known::new(2);
        let find = |number| known.get_or(number, || Ok::<_, ()>(number * 10));
        let no = |number| known.get_or(number, || Err::<u64, _>("looked for"));
        assert_eq!(find(1), Ok(10));
        assert_eq!(find(2), Ok(20));
        assert_eq!((no(1), no(2), no(3)), (Ok(10), Ok(20), Err("looked for")));
        assert_eq!(find(3), Ok(30));
        assert_eq!((no(1), no(3)), (Err("looked for"), Ok(30)));
    }

    #[test]
    fn what_was_asked_for_longest_ago_goes_first() {
        let kept = Kept::default();
        let half = Arc::new(vec![0; BYTES / 2]);
        kept.put((1, 0), &half);
        kept.put((2, 0), &half);
        assert!(kept.get((1, 0)).is_some());
        kept.put((3, 0), &half);
        let there = [1, 2, 3].map(|name| kept.get((name, 0)).is_some());
        assert_eq!(there, [true, false, true]);
        kept.put((4, 0), &Arc::new(vec![0; BYTES * 2]));
        let there = [1, 3, 4].map(|name| kept.get((name, 0)).is_some());
        assert_eq!(there, [false, false, true]);
        for name in 5..5 + 2 * PIECES as u64 {
            kept.put((name, 0), &Arc::new(vec![0]));
        }
        assert_eq!(locked(&kept.0).bytes, PIECES);
    }
}
