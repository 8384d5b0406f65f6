//! Tables and pages as they come and go: what the machine does, as steps that are told.

use hugewalk::addr::{HugeFrame, TableFrame};

use super::ground::{FLAGS, Fill, Flaw, IN_USE, Life, Origin, access, world};
use super::judge::contents::Contents;
use super::trace;
use crate::explore::{Kind, Op, in_thread};
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

/// A page is filled: a step, if anybody asks what pages contain.
pub(super) fn fill(page: HugeFrame, fill: Fill) {
    if world().flaws.has(Flaw::LateFill)
        && let Some(thread) = in_thread()
    {
        return world().flaws.put_off_fill(thread, page, fill);
    }
    fill_now(page, fill);
}

fn fill_now(page: HugeFrame, fill: Fill) {
    if let Some(object) = world().contents_of(page) {
        let from = if let Fill::Copy(from) = fill { world().contents_of(from) } else { None };
        access(&from.map_or(Op::write(object), |from| Op::write(object).and(from, Kind::Read)));
        if in_thread().is_some() {
            trace::event(Some(object), StepKind::Write, || {
                let (name, how) = (format!("page {}", page.0 >> 9), fill.in_words());
                [name.clone(), format!("{how} {name}"), format!("{how} {name}")]
            });
        }
    }
    match fill {
        Fill::Zero => world().contents.fill(page, Origin::Zeroes),
        Fill::Copy(from) => world().contents.copy(from, page),
        Fill::Write => {
            // A page that is on its way to its first use may never get there.
            let is_there = world().peek_page(page, FLAGS) & IN_USE != 0;
            world().contents.write(page, in_thread().filter(|_| is_there));
        }
    }
}

/// A page is read from the file's side: a step, if anybody asks what pages contain.
pub(super) fn read(page: HugeFrame) {
    if let Some(object) = world().contents_of(page) {
        access(&Op::read(object));
    }
    Contents::is_read(page);
}

/// The thread has released a sleeping lock: what it has put off, on a machine that does, it does now.
pub(super) fn catch_up() {
    if let Some(thread) = in_thread()
        && let Some((page, fill)) = world().flaws.put_off(thread)
    {
        fill_now(page, fill);
    }
}
