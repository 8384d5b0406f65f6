//! Vector clocks: what each thread has seen of the others.

/// Threads a program may have.
pub const MAX_THREADS: usize = 8;

/// For each thread, how many of its steps have been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(align(16))]
pub(crate) struct Clock([u16; MAX_THREADS]);

impl Clock {
    pub(crate) fn of(self, thread: usize) -> u16 {
        self.0[thread & (MAX_THREADS - 1)]
    }

    pub(crate) fn set(&mut self, thread: usize, value: u16) {
        self.0[thread & (MAX_THREADS - 1)] = value;
    }

    pub(crate) fn tick(&mut self, thread: usize) {
        self.0[thread & (MAX_THREADS - 1)] += 1;
    }

    pub(crate) fn join(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = (*mine).max(theirs);
        }
    }

    /// Has `later` seen all that this one says?
    pub(crate) fn within(&self, later: &Self) -> bool {
        self.0.iter().zip(later.0).all(|(mine, theirs)| *mine <= theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_within_every_join_it_took_part_in() {
        let (mut one, mut other) = (Clock::default(), Clock::default());
        one.tick(0);
        other.tick(7);
        assert!(!one.within(&other));
        other.join(&one);
        assert!(one.within(&other) && !other.within(&one));
        assert_eq!((other.of(0), other.of(7)), (1, 1));
    }
}
