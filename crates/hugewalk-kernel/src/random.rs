//! Numbers that a program cannot guess easily: xorshift over the clock. Not for secrets.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::clock;

static STATE: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);

/// Fills bytes.
pub fn fill(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let mut state = STATE.load(Ordering::Relaxed) ^ clock::now().rotate_left(32);
        state = state.max(1);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        STATE.store(state, Ordering::Relaxed);
        chunk.copy_from_slice(&state.to_ne_bytes()[..chunk.len()]);
    }
}
