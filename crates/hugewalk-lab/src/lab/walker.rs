//! Walkers under watch: what they read, write and are told is judged (I2, I3).
//!
//! [`Walker`] has a walk of the lab's own, which looks an entry up and reads it, or locks its table and writes it, holding
//! what the protocol asks for. And it watches the walkers of the engine while they walk ([`Walker::watch`]).

use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Entry, X86_64};
use hugewalk::mm::AddressSpace;
use hugewalk::task::Task;
use hugewalk::walk::{LockedSlot, huge_pte_offset};

use super::ground::{Lab, world};
use super::judge;
use super::judge::walks::{Watch, watch};
use super::property::{Property, in_words};
use super::protocol::set_without_vma_lock;
use super::rcu::{runs, set_dud, set_interrupts_off};
use super::settings::Walkers;
use crate::explore::in_thread;

/// What to do at the end of a walk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Read,
    Lock,
    Mark,
}

impl Act {
    fn with(self, locked: &LockedSlot<'_, Lab>) -> Option<Entry> {
        if self == Self::Mark {
            locked.mark_used(true);
        }
        None
    }
}

/// One look at one address of one address space.
#[derive(Debug)]
pub struct Walker<'s> {
    space: &'s AddressSpace<Lab>,
    address: VirtAddr,
}

impl<'s> Walker<'s> {
    /// A walker to this address.
    #[must_use]
    pub fn new(space: &'s AddressSpace<Lab>, address: VirtAddr) -> Self {
        Self { space, address }
    }

    /// Reads the entry. `None` if there is no table, or it was unshared meanwhile.
    pub fn read(&self, task: &mut Task<Lab>) -> Option<Entry> {
        self.held(task, Act::Read)
    }

    /// Locks the table, and lets go of it.
    pub fn lock(&self, task: &mut Task<Lab>) {
        self.held(task, Act::Lock);
    }

    /// Locks the table and sets the accessed and dirty bits of the entry.
    pub fn mark(&self, task: &mut Task<Lab>) {
        self.held(task, Act::Mark);
    }

    /// What GUP-fast does, in every protocol with no lock: reads the entry, reads it again, confirms.
    pub fn gup_fast(&self, task: &Task<Lab>) -> Option<Entry> {
        self.watch_fast(|| {
            let section = task.rcu_read_lock();
            let slot = huge_pte_offset(&section, self.space.mm(), self.address, X86_64::SIZE_2M).ok()??;
            let found = slot.peek().and_then(|entry| entry.confirm_unchanged()).ok();
            drop(section);
            self.told_fast(found.and_then(|found| found.page()));
            found
        })
    }

    /// Holds what the protocol asks for, and acts.
    fn held(&self, task: &mut Task<Lab>, act: Act) -> Option<Entry> {
        let walkers = world().settings.get().walkers;
        let mm = self.space.mm();
        self.watch(|| {
            let found = match walkers {
                Walkers::Vma => {
                    let mmap = self.space.mmap_read(task);
                    let locked = mmap.lock_vma(mmap.find(self.address)?, task)?;
                    let slot = huge_pte_offset(&locked, mm, self.address, X86_64::SIZE_2M).ok()??;
                    if act == Act::Read { Some(slot.read()) } else { act.with(&slot.lock(task)) }
                }
                Walkers::Rcu | Walkers::Mmap => {
                    let mmap = (walkers == Walkers::Mmap).then(|| self.space.mmap_read(task));
                    let section = task.rcu_read_lock();
                    let slot = huge_pte_offset(&section, mm, self.address, X86_64::SIZE_2M).ok().flatten();
                    let found = slot.and_then(|slot| match act {
                        Act::Read => slot.read().ok(),
                        _ => slot.lock().ok().and_then(|locked| act.with(&locked)),
                    });
                    drop(section);
                    drop(mmap);
                    found
                }
            };
            self.told(found.map(|found| found.page()));
            found
        })
    }

    /// Watches a walker of the engine: what it writes goes to tables of its own (I2). Where walkers have the mmap lock alone,
    /// its read sections are none.
    pub fn watch<R>(&self, walk: impl FnOnce() -> R) -> R {
        let unlocked = world().settings.get().walkers == Walkers::Mmap;
        set_dud(unlocked);
        let found = self.watched(Some(self.space), walk);
        set_dud(false);
        found
    }

    /// As [`watch`](Self::watch), a walker that must hold the VMA lock since it sleeps: where walkers have the mmap lock
    /// alone, it does not.
    pub fn watch_sleeper<R>(&self, walk: impl FnOnce() -> R) -> R {
        set_without_vma_lock(world().settings.get().walkers == Walkers::Mmap);
        let found = self.watched(Some(self.space), walk);
        set_without_vma_lock(false);
        found
    }

    /// As [`watch`](Self::watch), a walker that has interrupts off, in every protocol.
    pub fn watch_fast<R>(&self, walk: impl FnOnce() -> R) -> R {
        set_interrupts_off(true);
        runs(Some(self.space.mm().context()));
        let found = self.watched(Some(self.space), walk);
        runs(None);
        set_interrupts_off(false);
        found
    }

    /// As [`watch`](Self::watch), one that walks in all address spaces, with what it holds in every protocol.
    pub fn watch_everywhere<R>(&self, walk: impl FnOnce() -> R) -> R {
        self.watched(None, walk)
    }

    fn watched<R>(&self, space: Option<&AddressSpace<Lab>>, walk: impl FnOnce() -> R) -> R {
        let root = space.map(|space| space.mm().root_frame());
        if let Some(root) = root {
            super::trace::works_in(root);
        }
        watch(Watch { on: true, root, everywhere: root.is_none(), address: self.address, own: None });
        let found = walk();
        watch(Watch::default());
        found
    }

    /// Do walkers of this protocol hold the VMA lock?
    #[must_use]
    pub fn holds_vma_lock(&self) -> bool {
        world().settings.get().walkers == Walkers::Vma
    }

    /// The walker that is watched is told of an entry, and of the page it names if it does (I3). The last entry it has read
    /// is judged.
    pub fn told(&self, entry: Option<Option<HugeFrame>>) {
        let Some(page) = entry else { return };
        judge::acts();
        Self::told_page(page);
    }

    /// As [`told`](Self::told) of a page, in a protocol in which GUP-fast promises no more than a page that the mapping has
    /// a right to.
    pub fn told_fast(&self, page: Option<HugeFrame>) {
        if page.is_some() && world().settings.get().promises_own_entry() {
            judge::acts();
        }
        Self::told_page(page);
    }

    fn told_page(page: Option<HugeFrame>) {
        if let (Some(page), Some(thread)) = (page, in_thread())
            && world().foreign() == Some(page)
        {
            let (who, page) = (in_words(Some(thread)), page.0 >> 9);
            let text = format!("{who} is given page {page}, which its mapping has no right to");
            world().violated(Property::I3, &text);
        }
    }

    /// Does a fault of this protocol wait for a page that is moved as [`wait_out_of_section`](Self::wait_out_of_section) does?
    #[must_use]
    pub fn waits_with_slot(&self) -> bool {
        let settings = world().settings.get();
        settings.walkers != Walkers::Vma && !settings.checks()
    }

    /// A fault that meets a migration entry, as in the RFC: it leaves the read section and waits for the table lock then,
    /// with the slot it has from the section; the mmap lock is all it holds. Not by types: they want a section, so there is
    /// one, which keeps nothing. That section is `second`'s.
    pub fn wait_out_of_section(&self, task: &mut Task<Lab>, second: &Task<Lab>) {
        self.watched(Some(self.space), || {
            let _mmap = self.space.mmap_read(task);
            set_dud(world().settings.get().walkers == Walkers::Mmap);
            let section = task.rcu_read_lock();
            set_dud(true);
            let none = second.rcu_read_lock();
            set_dud(false);
            let slot = huge_pte_offset(&none, self.space.mm(), self.address, X86_64::SIZE_2M).ok()??;
            let moving = matches!(slot.read(), Ok(Entry::Migration(_)));
            drop(section);
            if moving {
                drop(slot.lock());
            }
            Some(())
        });
    }

    /// The page that is mapped there now belongs to something else than what the watched walkers' mappings show.
    pub fn foreign(page: HugeFrame) {
        world().set_foreign(page);
    }
}
