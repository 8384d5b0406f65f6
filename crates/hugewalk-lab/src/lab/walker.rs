//! A walker: one who looks an entry up and reads it, or locks its table and writes it, holding what the protocol asks for.

use hugewalk::addr::{HugeFrame, HugeSize, VirtAddr};
use hugewalk::arch::Entry;
use hugewalk::mm::AddressSpace;
use hugewalk::task::Task;
use hugewalk::walk::{LockedSlot, huge_pte_offset};

use super::Lab;
use super::protocol::Walkers;
use super::rcu::set_dud;
use super::world::{Property, Watch, world};
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
        self.watched(!world().settings.get().promises_own_entry(), || {
            let section = task.rcu_read_lock();
            let slot = huge_pte_offset(&section, self.space.mm(), self.address, HugeSize::Size2M).ok()??;
            slot.peek().and_then(|entry| entry.confirm_unchanged()).ok()
        })
    }

    /// Holds what the protocol asks for, and acts.
    fn held(&self, task: &mut Task<Lab>, act: Act) -> Option<Entry> {
        let walkers = world().settings.get().walkers;
        let mm = self.space.mm();
        self.watched(false, || match walkers {
            Walkers::Vma => {
                let mmap = self.space.mmap_read(task);
                let locked = mmap.lock_vma(mmap.find(self.address)?, task)?;
                let slot = huge_pte_offset(&locked, mm, self.address, HugeSize::Size2M).ok()??;
                if act == Act::Read {
                    return Some(slot.read());
                }
                act.with(&slot.lock(task));
                None
            }
            Walkers::Rcu | Walkers::Mmap => {
                let mmap = (walkers == Walkers::Mmap).then(|| self.space.mmap_read(task));
                set_dud(walkers == Walkers::Mmap);
                let section = task.rcu_read_lock();
                let slot = huge_pte_offset(&section, mm, self.address, HugeSize::Size2M).ok().flatten();
                let found = slot.and_then(|slot| match act {
                    Act::Read => slot.read().ok(),
                    _ => slot.lock().ok().and_then(|locked| act.with(&locked)),
                });
                drop(section);
                set_dud(false);
                drop(mmap);
                found
            }
        })
    }

    /// The page that is mapped there now belongs to something else than what the watched walkers' mappings show. For the
    /// setup.
    pub fn foreign(file_page: HugeFrame) {
        world().foreign.set(Some(file_page));
    }

    /// Watches what is read and written meanwhile (I2), and judges what is returned (I3), unless that is `unjudged`.
    fn watched(&self, unjudged: bool, work: impl FnOnce() -> Option<Entry>) -> Option<Entry> {
        let thread = in_thread()?;
        let root = Some(self.space.mm().root_frame());
        super::trace::works_in(self.space.mm().root_frame());
        world().watch.borrow_mut()[thread] = Watch { root, address: self.address, own: None };
        let found = work();
        let watch = std::mem::take(&mut world().watch.borrow_mut()[thread]);
        let letter = char::from(b'A' + thread as u8);
        if found.is_some() && watch.own == Some(false) && !unjudged {
            let text = format!("{letter} is told of an entry that was not its own when it was read");
            world().violated(Property::I3, &text);
        }
        if let Some(Entry::Leaf(leaf)) = found
            && world().foreign.get() == Some(leaf.frame)
        {
            let text =
                format!("{letter} is given huge page {:#x}, which its mapping has no right to", leaf.frame.0);
            world().violated(Property::I3, &text);
        }
        found
    }
}
