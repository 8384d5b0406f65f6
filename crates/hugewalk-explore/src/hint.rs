//! Loops that wait.

use crate::explorer::{Kind, Op, Wait, access, in_thread};
use crate::state;

/// Says that this loop waits for another thread: the thread is not run on until another one has changed something that this one
/// has looked at since it last said so.
///
/// Without that, a loop such as `while !flag.load(SeqCst) {}` has endless runs, in which the others never get their turn. A
/// thread that waits in a loop for what never comes is reported as a deadlock.
///
/// The explorer keeps account of two objects. A thread that has touched more of them since it last waited runs on at once: that
/// is right for a loop that tries again after another thread got ahead, and reported as a livelock for one that waits.
#[track_caller]
pub fn spin_loop() {
    let Some(thread) = in_thread() else { return std::hint::spin_loop() };
    let Some((first, second)) = state::waits_for(thread) else { return };
    // Those who change one of them, or release it, do so by an operation that this does not commute with.
    let (first, kind) = first;
    let mut op = if kind == Kind::Read { Op::read(first) } else { Op::write(first) };
    if let Some((second, kind)) = second {
        op = op.and(second, kind);
    }
    let changed = |thread: *const ()| state::has_changed(thread.addr());
    access(&op.awaits(Wait::until(changed, std::ptr::without_provenance(thread))));
    state::goes_on(thread);
    state::tell(first, || "# has changed: try again".to_owned());
}
