//! Walks that are watched: what a walker writes goes to a table of its own (I2), and what it acts on was its own entry when it
//! read it (I3).

use std::cell::RefCell;

use hugewalk::addr::{TableFrame, VirtAddr};

use super::{Access, Judge};
use crate::explore::{MAX_THREADS, Object, in_thread};
use crate::lab::ground::{Place, world};
use crate::lab::property::{Property, in_words};
use crate::lab::trace;

/// What a thread is doing.
#[derive(Clone, Copy, Default)]
pub(in crate::lab) struct Watch {
    pub(in crate::lab) on: bool,
    /// Of the address space it walks in.
    pub(in crate::lab) root: Option<TableFrame>,
    /// It walks in one address space after the other: in the one whose root it read last.
    pub(in crate::lab) everywhere: bool,
    pub(in crate::lab) address: VirtAddr,
    /// The first entry of a leaf table that it read since its walk began at the root: was it its own?
    pub(in crate::lab) own: Option<bool>,
}

/// What each thread is doing.
#[derive(Default)]
pub(in crate::lab) struct Walks(RefCell<[Watch; MAX_THREADS]>);

thread_local! {
    static WALKS: &'static Walks = Box::leak(Box::default());
}

fn walks() -> &'static Walks {
    WALKS.with(|walks| *walks)
}

/// From now on the thread is watched like this.
pub(in crate::lab) fn watch(watch: Watch) {
    if let Some(thread) = in_thread() {
        walks().0.borrow_mut()[thread] = watch;
    }
}

/// The parent entry that the walk of this thread, if it is watched, came by to an entry of a table of leaves. What is
/// judged of the access depends on it, so it belongs to what the access touches.
pub(in crate::lab) fn parent_of(frame: TableFrame, index: usize) -> Option<Object> {
    let watch = walks().0.borrow()[in_thread()?];
    let root = watch.root?;
    if index != (watch.address.as_u64() >> 21 & 511) as usize || frame == root {
        return None;
    }
    let (pud, index) = world().pud_entry(root, watch.address).filter(|&(pud, _)| pud != frame)?;
    Some(world().entry_object(pud, index))
}

impl Judge for Walks {
    fn begin_run() {
        *walks().0.borrow_mut() = Default::default();
    }

    fn pieces(each: &mut dyn FnMut(*mut u8, usize)) {
        each(std::ptr::from_ref(walks()).cast_mut().cast(), size_of::<Self>());
    }

    fn accesses(access: &Access) {
        if let Place::Entry(frame, index) = access.place {
            check_own(frame, index, access.writes);
        }
    }

    fn acts() {
        if let Some(thread) = in_thread()
            && walks().0.borrow()[thread].own == Some(false)
        {
            let who = in_words(Some(thread));
            let text = format!("{who} acts on an entry that was not its own when it was read");
            world().violated(Property::I3, &text);
        }
    }
}

/// An entry is read or written by a thread whose walk is watched.
fn check_own(frame: TableFrame, index: usize, writes: bool) {
    let Some(thread) = in_thread() else { return };
    let watch = walks().0.borrow()[thread];
    if watch.on && !writes && (watch.root == Some(frame) || world().roots().any(|root| root == frame)) {
        // A walk begins.
        let root = if watch.everywhere { Some(frame) } else { watch.root };
        walks().0.borrow_mut()[thread] = Watch { root, own: None, ..watch };
    }
    let Some(root) = watch.root else { return };
    let address = watch.address.as_u64();
    let pud = world().peek(root, address >> 39);
    if index != (address >> 21 & 511) as usize || frame == root || pud == Some(frame) {
        return;
    }
    let own = pud.and_then(|pud| world().peek(pud, address >> 30)) == Some(frame);
    if writes {
        if !own {
            let who = in_words(Some(thread));
            let process = world().roots().position(|known| known == root).map_or(0, |at| at + 1);
            let text = format!("{who} writes to T{} after P{process} stopped using it", frame.0);
            trace::is_about(frame, false);
            world().violated(Property::I2, &text);
        }
    } else {
        walks().0.borrow_mut()[thread].own.get_or_insert(own);
    }
}
