//! Tables and pages as they come and go: what the machine does, as steps that are told.

use hugewalk::addr::TableFrame;

use super::ground::{Life, access, world};
use super::trace;
use crate::explore::Op;
use crate::story::StepKind;

/// Is there memory for tables? A step, if that ever changes.
pub(super) fn has_memory() -> bool {
    let (none, object) = world().no_memory();
    if none {
        trace::event(Some(object), StepKind::Read, || {
            ["memory", "is refused memory", "alloc()  // fails"].map(str::to_owned)
        });
    }
    !none
}

/// Says whether there is memory for tables from now on. A step.
pub(super) fn set_memory(there_is: bool) {
    access(&Op::write(world().memory_object()));
    trace::event(None, StepKind::Write, || {
        let what = if there_is { "there is memory again" } else { "there is no memory" };
        ["memory".to_owned(), what.to_owned(), what.to_owned()]
    });
    world().set_memory(there_is);
}

pub(super) fn alloc_table() -> Option<TableFrame> {
    let frame = world().alloc_table()?;
    trace::allocated(frame);
    Some(frame)
}

/// A table dies, and its lock with it if it has not died before.
pub(super) fn free_table(frame: TableFrame) {
    kill_lock(frame);
    access(&Op::write(world().life_of(frame)));
    trace::event(None, StepKind::Free, || {
        let table = format!("T{}", frame.0);
        [table.clone(), format!("frees {table}"), format!("free_page({table})")]
    });
    trace::freed(frame);
    world().dies(frame, false);
}

/// The lock of a table dies, if it has not died before: with its table, or while the table lives on.
pub(super) fn kill_lock(frame: TableFrame) {
    access(&Op::write(world().lock_life_of(frame)));
    if world().life(frame, true) == Life::Alive {
        trace::event(None, StepKind::FreeLock, || {
            let lock = format!("lock of T{}", frame.0);
            [lock.clone(), format!("frees the {lock}"), format!("ptlock_free(T{})", frame.0)]
        });
        trace::lock_freed(frame);
        world().dies(frame, true);
    }
}
