//! Vector clocks: what each thread has seen of the others.

/// Threads a program may have.
pub const MAX_THREADS: usize = 8;

/// For each thread, how many of its steps have been seen: 16 bits each, one number, since clocks are copied whole far more
/// often than they are looked into, and a small store before a large load makes the processor wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Clock(u128);

const BITS: usize = 16;

impl Clock {
    fn lanes(self) -> [i16; MAX_THREADS] {
        // SAFETY: both are 16 bytes of which every pattern is a value.
        unsafe { std::mem::transmute::<u128, [i16; MAX_THREADS]>(self.0) }
    }

    fn from_lanes(lanes: [i16; MAX_THREADS]) -> Self {
        // SAFETY: as above.
        Self(unsafe { std::mem::transmute::<[i16; MAX_THREADS], u128>(lanes) })
    }

    pub(crate) fn of(self, thread: usize) -> u16 {
        (self.0 >> (BITS * (thread & (MAX_THREADS - 1)))) as u16
    }

    pub(crate) fn set(&mut self, thread: usize, value: u16) {
        let shift = BITS * (thread & (MAX_THREADS - 1));
        self.0 = self.0 & !(u128::from(u16::MAX) << shift) | u128::from(value) << shift;
    }

    pub(crate) fn tick(&mut self, thread: usize) {
        // A run has far fewer steps than 32767: its accesses are bounded.
        self.0 += 1 << (BITS * (thread & (MAX_THREADS - 1)));
    }

    pub(crate) fn join(&mut self, other: &Self) {
        let mut lanes = self.lanes();
        for (mine, theirs) in lanes.iter_mut().zip(other.lanes()) {
            *mine = (*mine).max(theirs);
        }
        *self = Self::from_lanes(lanes);
    }

    /// Has `later` seen all that this one says?
    pub(crate) fn within(&self, later: &Self) -> bool {
        self.0 == 0 || self.lanes().iter().zip(later.lanes()).all(|(mine, theirs)| *mine <= theirs)
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
