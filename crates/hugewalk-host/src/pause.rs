//! What a task does while it waits for others.

use core::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// Calls no further apart than this belong to one wait.
const ONE_WAIT: Duration = Duration::from_millis(1);
/// How often a wait yields before it sleeps.
const YIELDS: u32 = 64;
/// The sleep; the kernel's timer slack adds about as much.
const NAP: Duration = Duration::from_micros(50);

/// Lets other threads run: yields at first, and sleeps when the wait gets long. So a reader that
/// was preempted gets the processor even on a small machine.
pub(crate) fn pause() {
    thread_local! {
        static WAIT: Cell<Option<(Instant, u32)>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    let calls = match WAIT.get() {
        Some((last, calls)) if now.duration_since(last) < ONE_WAIT => calls.saturating_add(1),
        _ => 0,
    };
    if calls < YIELDS {
        thread::yield_now();
    } else {
        thread::sleep(NAP);
    }
    WAIT.set(Some((Instant::now(), calls)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wait_sleeps() {
        let begin = Instant::now();
        for _ in 0..YIELDS + 100 {
            pause();
        }
        assert!(begin.elapsed() >= 100 * NAP);
    }
}
