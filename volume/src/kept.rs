//! What was unpacked last, for whoever asks next.
//!
//! Owns: how much of it is kept. Never: unpacks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::locked;

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
