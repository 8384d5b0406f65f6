//! Ends of runs that were seen before.
//!
//! What is remembered of an end is all of it, but as what is different from the first one: most of what a run can change it
//! has not changed, and thousands of ends are to be remembered in little memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers that ends are remembered in, together: 8 MiB.
const MOST_KEPT: usize = 1 << 20;
/// Words that are compared at a time.
const AT_ONCE: usize = 16;

/// Ends at which nothing was found.
#[derive(Default)]
pub(super) struct Ends {
    /// The first one: its pieces. Before there is one, none of them has a length.
    first: Vec<Vec<u64>>,
    /// What is different in each, by a hash of it.
    good: HashMap<u64, Vec<Box<[u64]>>>,
    kept: usize,
    /// The end that was looked up last.
    last: Vec<u64>,
    pieces: Vec<(*mut u8, usize)>,
    words: Vec<*const AtomicU64>,
    contents: Vec<u64>,
}

impl Ends {
    /// Looks an end up: pieces of memory, added by `pieces`, and words that were written, which may be named repeatedly. Is it
    /// one at which nothing was found?
    ///
    /// # Safety
    ///
    /// Pieces are memory of the run, aligned words, in which nobody writes meanwhile; words are there for ever.
    pub(super) unsafe fn look_up(
        &mut self,
        pieces: impl FnOnce(&mut Vec<(*mut u8, usize)>),
        words: impl Iterator<Item = *const AtomicU64>,
    ) -> bool {
        self.words.clear();
        self.words.extend(words);
        self.words.sort_unstable();
        self.words.dedup();
        self.contents.clear();
        for &word in &self.words {
            // SAFETY: by the contract.
            let word: &AtomicU64 = unsafe { &*word };
            self.contents.extend([std::ptr::from_ref(word).addr() as u64, word.load(Ordering::Relaxed)]);
        }
        self.pieces.clear();
        pieces(&mut self.pieces);
        let is_first = self.first.is_empty();
        self.last.clear();
        for number in 0..=self.pieces.len() {
            let now: &[u64] = match number.checked_sub(1).map(|piece| self.pieces[piece]) {
                None => &self.contents,
                // SAFETY: by the contract. Padding in it was handed out zeroed, and is whatever it is: if it differs, the ends
                // do.
                Some((piece, len)) => unsafe { std::slice::from_raw_parts(piece.cast(), len / 8) },
            };
            if is_first {
                self.first.push(now.to_vec());
            }
            differences(self.first.get(number).map_or(&[], Vec::as_slice), now, &mut self.last);
        }
        self.good.get(&fold(&self.last)).is_some_and(|ends| ends.iter().any(|good| **good == *self.last))
    }

    /// The end that was looked up last, to be [remembered](Self::remember) when it is known to be good.
    pub(super) fn last(&self) -> Box<[u64]> {
        self.last.as_slice().into()
    }

    /// Nothing was found at an end that was looked up.
    pub(super) fn remember(&mut self, end: Box<[u64]>) {
        if self.kept + end.len() <= MOST_KEPT {
            self.kept += end.len();
            self.good.entry(fold(&end)).or_default().push(end);
        }
    }
}

/// Adds how long a piece is, and what in it is different from another one, which counts as going on with zeroes: the places,
/// with what is there, and a last place that there is not. Two pieces are the same if that is.
fn differences(from: &[u64], now: &[u64], to: &mut Vec<u64>) {
    to.push(now.len() as u64);
    let mut compare = |at: usize, from: &[u64], now: &[u64]| {
        for (number, (from, now)) in from.iter().zip(now).enumerate() {
            if from != now {
                to.extend([(at + number) as u64, *now]);
            }
        }
    };
    let both = from.len().min(now.len());
    let (chunks, rest) = now[..both].as_chunks::<AT_ONCE>();
    let (others, _) = from[..both].as_chunks::<AT_ONCE>();
    for (number, (other, chunk)) in others.iter().zip(chunks).enumerate() {
        if other != chunk {
            compare(number * AT_ONCE, other, chunk);
        }
    }
    compare(both - rest.len(), &from[both - rest.len()..both], rest);
    for (number, chunk) in now[both..].chunks(AT_ONCE).enumerate() {
        compare(both + number * AT_ONCE, &[0; AT_ONCE][..chunk.len()], chunk);
    }
    to.push(u64::MAX);
}

/// Mixes numbers into one.
fn fold(numbers: &[u64]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    numbers.iter().fold(0, |hash: u64, number| (hash ^ number).wrapping_mul(ODD).rotate_left(29))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(from: &[u64], now: &[u64]) -> Vec<u64> {
        let mut told = Vec::new();
        differences(from, now, &mut told);
        told
    }

    #[test]
    fn only_what_differs_is_told() {
        let from: Vec<u64> = (0..100).collect();
        let mut now = from.clone();
        assert_eq!(told(&from, &now), [100, u64::MAX]);
        (now[3], now[97]) = (7, 8);
        assert_eq!(told(&from, &now), [100, 3, 7, 97, 8, u64::MAX]);
        assert_eq!(told(&from, &now[..40]), [40, 3, 7, u64::MAX]);
        now.extend([0, 9]);
        assert_eq!(told(&from, &now), [102, 3, 7, 97, 8, 101, 9, u64::MAX]);
        assert_eq!(told(&[], &[0, 5]), [2, 1, 5, u64::MAX]);
    }

    /// Whatever two ends differ in, what is remembered of them differs.
    #[test]
    fn no_end_is_taken_for_another() {
        let mut ends = Ends::default();
        let mut memory = vec![0_u64; 70];
        let (first, second) = memory.split_at_mut(35);
        let pieces: [(*mut u8, usize); 2] =
            [(first.as_mut_ptr().cast(), 35 * 8), (second.as_mut_ptr().cast(), 35 * 8)];
        let mut look = |place: Option<usize>, value: u64, len: usize| {
            let [one, (other, _)] = pieces;
            let write = |value: u64| {
                if let Some(place) = place {
                    let piece: *mut u64 = if place < 35 { one.0.cast() } else { other.cast() };
                    // SAFETY: one of the words of `memory`, to which there is no reference now.
                    unsafe { piece.wrapping_add(place % 35).write(value) };
                }
            };
            write(value);
            // SAFETY: the pieces lie in `memory`.
            let seen =
                unsafe { ends.look_up(|list| list.extend([one, (other, len * 8)]), std::iter::empty()) };
            let end = ends.last();
            ends.remember(end);
            write(0);
            seen
        };
        assert!(!look(None, 0, 35));
        assert!(look(None, 0, 35));
        for place in 0..70 {
            assert!(!look(Some(place), 1, 35), "{place}");
            assert!(!look(Some(place), 2, 35), "{place}");
            assert!(look(Some(place), 1, 35), "{place}");
        }
        assert!(!look(None, 0, 34), "a piece that is shorter by a word that is zero");
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut ends = Ends::default();
        for _ in 0..3 {
            ends.remember(vec![0; MOST_KEPT / 2 + 1].into());
        }
        assert_eq!(ends.kept, MOST_KEPT / 2 + 1);
    }
}
