//! A secondary MMU for each address space, as a hypervisor's: translations of its own, which it drops when it is told to, and
//! looks up at every opportunity.

use core::ops::Range;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::{Entry, Leaf, LeafFlags};
use hugewalk::mm::Mm;
use hugewalk::platform::{Flush, Invalidation};
use hugewalk::sync::Arc;
use hugewalk::walk::leaf_offset;
use parking_lot::Mutex;

use super::{Bench, Task, inject, interrupt};

#[derive(Default)]
pub(crate) struct Secondary(Mutex<State>);

#[derive(Default)]
struct State {
    attached: bool,
    /// Changes that it was told of, and not yet that they are over.
    under_way: Vec<(Range<VirtAddr>, Invalidation)>,
    /// How many are over.
    sequence: u64,
    shadow: BTreeMap<VirtAddr, (Leaf, HugeSize)>,
    /// What it has found, and when: it is kept at the next opportunity, unless anything has changed.
    found: Vec<(VirtAddr, Leaf, HugeSize, u64)>,
    told: Vec<Invalidation>,
}

fn overlap(one: &Range<VirtAddr>, other: &Range<VirtAddr>) -> bool {
    one.start < other.end && other.start < one.end
}

fn page(start: VirtAddr, size: HugeSize) -> Range<VirtAddr> {
    start..VirtAddr::new(start.as_u64() + size.bytes())
}

impl State {
    fn changes(&self, range: &Range<VirtAddr>) -> bool {
        self.under_way.iter().any(|(changing, _)| overlap(changing, range))
    }
}

impl Secondary {
    /// It begins to keep translations. Nothing is under way.
    pub(crate) fn attach(&self) {
        self.0.lock().attached = true;
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.0.lock().attached
    }

    pub(crate) fn start(&self, range: &Range<VirtAddr>, why: Invalidation, may_block: bool) {
        let mut state = self.0.lock();
        assert!(range.start < range.end, "an empty range is told of");
        assert_eq!(may_block, !NOT_TO_BLOCK.get(), "only `huge_pmd_unshare` must not sleep");
        state.under_way.push((range.clone(), why));
        state.told.push(why);
        state.shadow.retain(|&start, &mut (_, size)| !overlap(range, &page(start, size)));
    }

    pub(crate) fn end(&self, range: &Range<VirtAddr>, why: Invalidation) {
        let mut state = self.0.lock();
        let change = (range.clone(), why);
        let at = state.under_way.iter().position(|it| *it == change).expect("an end without a start");
        state.under_way.remove(at);
        state.sequence += 1;
    }

    /// Processors are made to forget a range. That belongs to a change that was told of and is not over. Where tables go which have
    /// no entry any more, there is no such change; nor where a group of entries gains a right, which `breaks` says that it may.
    pub(crate) fn check_flush(&self, flush: &Flush, breaks: bool) {
        let state = self.0.lock();
        let covers = |(changing, _): &(Range<VirtAddr>, _)| {
            changing.start <= flush.range.start && flush.range.end <= changing.end
        };
        let told = !state.attached || flush.tables || breaks || state.under_way.iter().any(covers);
        assert!(told || std::thread::panicking(), "{flush:x?} comes before the start or after the end");
    }

    /// What it was told of since the last call. Nothing is under way.
    pub(crate) fn take_told(&self) -> Vec<Invalidation> {
        let mut state = self.0.lock();
        assert!(state.under_way.is_empty(), "no end was told: {:x?}", state.under_way);
        std::mem::take(&mut state.told)
    }

    /// Is a change of this range under way?
    pub(crate) fn is_under_way(&self, range: Range<VirtAddr>) -> bool {
        self.0.lock().under_way.iter().any(|(changing, _)| *changing == range)
    }

    /// How many translations it has.
    pub(crate) fn kept(&self) -> usize {
        self.0.lock().shadow.len()
    }

    /// Checks what it has against the tables, keeps what it has found before, and looks these addresses up.
    fn look(&self, mm: &Mm<Bench>, task: &Task, addresses: &[VirtAddr]) {
        let mut state = self.0.lock();
        for (&start, &(kept, size)) in &state.shadow {
            let now = walk(mm, task, start);
            let agrees = now.is_some_and(|(now, there)| there == size && allows(now, kept));
            assert!(agrees, "{start:x?} was changed to {now:x?}, and nobody was told: {kept:x?} is kept");
        }
        for (start, leaf, size, then) in std::mem::take(&mut state.found) {
            if then == state.sequence && !state.changes(&page(start, size)) {
                state.shadow.insert(start, (leaf, size));
            }
        }
        let then = state.sequence;
        let found = addresses.iter().filter_map(|&address| {
            let (leaf, size) = walk(mm, task, address)?;
            leaf.is_accessible().then(|| (address.huge_page(size), leaf, size, then))
        });
        state.found = found.collect();
    }
}

/// Does an entry allow what a translation does that was made from it? Processors that look may find no access for a moment, where
/// one page goes from fewer rights to more in a group of entries: the page is the same before and after. So in a flush that is no
/// change.
fn allows(now: Leaf, kept: Leaf) -> bool {
    now.frame == kept.frame
        && (now.is_accessible() || IN_FLUSH.get())
        && (now.is_writable() || !kept.is_writable())
        && (!now.flags.contains(LeafFlags::NO_EXECUTE) || kept.flags.contains(LeafFlags::NO_EXECUTE))
}

fn walk(mm: &Mm<Bench>, task: &Task, address: VirtAddr) -> Option<(Leaf, HugeSize)> {
    let section = task.rcu_read_lock();
    let (slot, size) = leaf_offset(&section, mm, address).unwrap()?;
    match slot.read() {
        Ok(Entry::Leaf(leaf)) => Some((leaf, size)),
        _ => None,
    }
}

/// An address space that is watched, and where to look.
type Watched = (Arc<Mm<Bench>>, Vec<VirtAddr>);

thread_local! {
    static IN_FLUSH: Cell<bool> = const { Cell::new(false) };
    static NOT_TO_BLOCK: Cell<bool> = const { Cell::new(false) };
    static WATCHED: RefCell<Option<(Task, Vec<Watched>)>> = const { RefCell::new(None) };
}

/// From now on these address spaces have secondary MMUs, which look these addresses up at every opportunity. Others have none.
/// Nothing is under way.
pub(crate) fn watch(task: Task, spaces: Vec<Watched>) {
    spaces.iter().for_each(|(mm, _)| mm.context().secondary.attach());
    WATCHED.set(Some((task, spaces)));
    interrupt::watch(Some(look));
    // Found now, kept then.
    look();
    look();
}

/// Does something at the beginning of a flush.
pub(crate) fn in_flush(work: impl FnOnce()) {
    IN_FLUSH.set(true);
    work();
    IN_FLUSH.set(false);
}

/// Says whether starts are told by callers that must not sleep.
pub(crate) fn must_not_block(not_to_block: bool) {
    NOT_TO_BLOCK.set(not_to_block);
}

/// Nothing is watched any more.
pub(crate) fn unwatch() {
    interrupt::watch(None);
    inject::exempt(|| WATCHED.take());
}

/// Looks at all of them.
pub(crate) fn look() {
    inject::exempt(|| {
        WATCHED.with_borrow(|watched| {
            if let Some((task, spaces)) = watched {
                spaces.iter().for_each(|(mm, addresses)| mm.context().secondary.look(mm, task, addresses));
            }
        });
    });
}
