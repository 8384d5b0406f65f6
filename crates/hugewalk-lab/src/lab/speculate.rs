//! Somebody who takes a reference to a page for a moment, not knowing what it is: compaction, memory failure, a look into
//! /proc/kpageflags. Linux: `get_page_unless_zero()`.

use std::sync::atomic::Ordering::AcqRel;

use hugewalk::addr::{TableFrame, VirtAddr};
use hugewalk::arch::X86_64;
use hugewalk::mm::AddressSpace;
use hugewalk::sync::Word as _;
use hugewalk::task::Task;
use hugewalk::walk::huge_pte_offset;

use super::ground::{Lab, USERS, world};
use super::word::Word;

/// Takes references to the page that holds a table.
#[derive(Debug)]
pub struct Speculator<'s> {
    space: &'s AddressSpace<Lab>,
    address: VirtAddr,
}

impl<'s> Speculator<'s> {
    /// To the table of the leaves around this address.
    #[must_use]
    pub fn new(space: &'s AddressSpace<Lab>, address: VirtAddr) -> Self {
        Self { space, address }
    }

    /// Takes a reference, and gives it back. In a read section, so that the page is still a table.
    pub fn hold(&self, task: &Task<Lab>) {
        let section = task.rcu_read_lock();
        let found = huge_pte_offset(&section, self.space.mm(), self.address, X86_64::SIZE_2M);
        let root = self.space.mm().root_frame();
        let pud = world().peek(root, self.address.as_u64() >> 39);
        let table = pud.and_then(|pud| world().peek(pud, self.address.as_u64() >> 30));
        if let (Ok(Some(_)), Some(table)) = (found, table)
            && world().settings.get().users_are_references
        {
            users(table).fetch_add(1, AcqRel);
            // Not `fetch_sub`: it is no user who leaves, so it is not judged as one.
            users(table).fetch_add(1_u64.wrapping_neg(), AcqRel);
        }
        drop(section);
    }
}

/// The count of further users of a table.
fn users(table: TableFrame) -> &'static Word {
    let word = world().record(table).cast::<Word>().as_ptr().wrapping_add(USERS);
    // SAFETY: the record is there as long as the world, and this word of it is the count, an atomic.
    unsafe { &*word }
}
