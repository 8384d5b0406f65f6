//! No processor uses a translation to a page that was given back or replaced, nor one that allows more than the entry, once the
//! call that changed the entry is over (I11).
//!
//! A call is over when its thread holds no sleeping lock any more: all of them hold one while they change entries. Before that
//! a load may still come to the page, as long as the page is nobody else's: not given back, and not stored to by another process
//! that has it for itself; and no other page has its place.

use std::cell::RefCell;

use hugewalk::addr::{HugeFrame, TableFrame};
use hugewalk::arch::{Entry, Leaf};

use super::{Access, Judge, PageUse};
use crate::explore::{MAX_THREADS, in_thread};
use crate::lab::ground::{ANON, FLAGS, Place, RawEntry, To, world};
use crate::lab::property::{Property, in_words};
use crate::lab::trace;

/// Entries that are narrowed in calls under way.
const NARROWED: usize = 80;

/// An entry that a thread has taken something from.
#[derive(Clone, Copy)]
struct Narrowed {
    thread: usize,
    table: TableFrame,
    index: usize,
    /// The page that it mapped.
    page: HugeFrame,
}

#[derive(Clone, Copy)]
struct State {
    narrowed: [Option<Narrowed>; NARROWED],
    /// Sleeping locks that each thread holds.
    held: [u32; MAX_THREADS],
}

/// What calls under way have narrowed.
pub(super) struct Stale(RefCell<State>);

impl Default for Stale {
    fn default() -> Self {
        Self(RefCell::new(State { narrowed: [None; NARROWED], held: [0; MAX_THREADS] }))
    }
}

thread_local! {
    static STALE: &'static Stale = Box::leak(Box::default());
}

fn stale() -> &'static Stale {
    STALE.with(|stale| *stale)
}

impl Judge for Stale {
    fn begin_run() {
        stale().0.replace(Self::default().0.into_inner());
    }

    fn pieces(each: &mut dyn FnMut(*mut u8, usize)) {
        each(std::ptr::from_ref(stale()).cast_mut().cast(), size_of::<Self>());
    }

    fn accesses(access: &Access) {
        if let (Place::Entry(table, index), Some(thread)) = (access.place, in_thread())
            && access.writes
            && world().judges(Property::I11)
            && let Some(before) = mapped(access.before)
            && is_less(before, mapped(access.after))
        {
            let entry = Narrowed { thread, table, index, page: before.frame };
            let mut state = stale().0.borrow_mut();
            *state.narrowed.iter_mut().find(|place| place.is_none()).expect("fewer entries") = Some(entry);
        }
    }

    fn took(_: usize) {
        if let Some(thread) = in_thread() {
            stale().0.borrow_mut().held[thread] += 1;
        }
    }

    fn let_go(_: usize) {
        let Some(thread) = in_thread() else { return };
        let mut state = stale().0.borrow_mut();
        state.held[thread] = state.held[thread].saturating_sub(1);
        if state.held[thread] > 0 {
            return;
        }
        let mut own = [None; NARROWED];
        for (own, place) in own.iter_mut().zip(&mut state.narrowed) {
            *own = place.take_if(|entry| entry.thread == thread);
        }
        // What another call has narrowed too is that call's to flush, and is looked at when that is over.
        let is_others = |entry: &Narrowed| {
            let at = (entry.table, entry.index);
            state.narrowed.iter().flatten().any(|other| (other.table, other.index) == at)
        };
        for entry in own.iter().flatten().filter(|&entry| !is_others(entry)) {
            check(entry);
        }
    }

    fn uses_page(used: &PageUse) {
        let (who, page) = (in_words(in_thread()), used.page.frame);
        if world().contents.of(page).life != used.page.life {
            let text =
                format!("{who} comes to page {} by a translation that is older than its owner", page.0 >> 9);
            return world().violated(Property::I11, &text);
        }
        let is_private = world().peek_page(page, FLAGS) & ANON != 0;
        if let Some(store) =
            world().contents.foreign(page, used.root, used.page.stored).filter(|_| is_private)
        {
            let (page, by) = (page.0 >> 9, in_words(store.cpu));
            let text = format!(
                "{who} comes to private page {page}, to which {by} of another process has stored since"
            );
            return world().violated(Property::I11, &text);
        }
        let now = mapped(world().peek_raw(used.page.table, used.address >> 21).bits());
        if let Some(now) = now.filter(|now| now.frame != page) {
            let (page, now) = (page.0 >> 9, now.frame.0 >> 9);
            let text = format!("{who} comes to page {page}, in whose place page {now} is mapped");
            world().violated(Property::I11, &text);
        }
    }
}

/// The page that an entry allows to come to.
fn mapped(bits: u64) -> Option<Leaf> {
    match RawEntry::from_bits(bits).decode() {
        Entry::Leaf(leaf) if leaf.is_accessible() => Some(leaf),
        _ => None,
    }
}

/// Does an entry allow less now?
fn is_less(before: Leaf, now: Option<Leaf>) -> bool {
    now.is_none_or(|now| now.frame != before.frame || before.is_writable() && !now.is_writable())
}

/// The call that narrowed an entry is over.
fn check(entry: &Narrowed) {
    let now = mapped(world().peek_raw(entry.table, entry.index as u64).bits());
    let stale = world().cached.find(|cached| {
        let To::Page(page) = cached.to else { return false };
        let is_of_it = page.table == entry.table && (cached.start >> 21 & 511) as usize == entry.index;
        let allows_more =
            now.is_none_or(|now| now.frame != page.frame || page.writable && !now.is_writable());
        is_of_it && page.frame == entry.page && allows_more
    });
    let Some(cached) = stale else { return };
    trace::is_about(entry.table, false);
    let (name, page) = (world().name_of(entry.table, entry.index), entry.page.0 >> 9);
    let what = if now.is_some_and(|now| now.frame == entry.page) { "stores to" } else { "comes to" };
    let who = in_words(cached.cpu);
    let text =
        format!("{name} was changed by a call that is over, and {who} still {what} page {page} through it");
    world().violated(Property::I11, &text);
}
