//! A secondary MMU, as that of a hypervisor: it asks a processor for a translation, and keeps it until it is told of a change.

use hugewalk::addr::{HugeFrame, TableFrame, VirtAddr};
use hugewalk::mm::AddressSpace;

use super::cpu::{Context, Use, translate, use_page};
use super::ground::{Cached, Lab, To, world};
use super::notify::is_kept;
use super::property::SECONDARY;
use super::trace;

/// The secondary MMU of an address space.
#[derive(Debug)]
pub struct SecondaryMmu<'s> {
    root: TableFrame,
    context: &'s Context,
}

impl<'s> SecondaryMmu<'s> {
    /// An address space gets one, before anything changes.
    pub fn attach(space: &AddressSpace<Lab>) {
        space.mm().context().notices.attached.set(true);
    }

    /// That of an address space which has one.
    #[must_use]
    pub fn of(space: &'s AddressSpace<Lab>) -> Self {
        Self { root: space.mm().root_frame(), context: space.mm().context() }
    }

    /// Looks an address up and keeps what it finds, unless something changes meanwhile.
    ///
    /// It finds what this processor finds, which may be what the processor remembers (arm64: `AT S1E0R`).
    pub fn look_up(&self, address: VirtAddr) {
        self.look_up_for(address, Use::Load);
    }

    /// As [`look_up`](Self::look_up), for stores.
    pub fn look_up_to_store(&self, address: VirtAddr) {
        self.look_up_for(address, Use::Store);
    }

    fn look_up_for(&self, address: VirtAddr, what: Use) {
        trace::works_in(self.root);
        let noted = self.context.notices.sequence();
        self.context.begin_access();
        let found = translate(self.root, self.context, address, what);
        self.context.end_access();
        if let Some(page) = found {
            let context = std::ptr::from_ref(self.context).addr();
            let start = address.as_u64() >> 21 << 21;
            let found = Cached { cpu: Some(SECONDARY), context, root: self.root, start, to: To::Page(page) };
            self.context.notices.keep(noted, found);
        }
    }

    /// Loads from an address. `None` if it keeps no translation.
    pub fn load(&self, address: VirtAddr) -> Option<HugeFrame> {
        self.access(address, Use::Load)
    }

    /// Stores to an address. `None` if it keeps no translation that allows it.
    pub fn store(&self, address: VirtAddr) -> Option<HugeFrame> {
        self.access(address, Use::Store)
    }

    fn access(&self, address: VirtAddr, what: Use) -> Option<HugeFrame> {
        trace::works_in(self.root);
        self.context.notices.begin_access();
        let (of, at) = (std::ptr::from_ref(self.context).addr(), address.as_u64() >> 21 << 21);
        let kept = world().cached.find(|cached| is_kept(cached, of) && cached.start == at);
        let page = match kept.map(|cached| cached.to) {
            Some(To::Page(page)) if what == Use::Load || page.writable => Some(page),
            _ => None,
        };
        if let Some(page) = page {
            use_page(self.root, address, page, what);
        }
        self.context.notices.end_access();
        page.map(|page| page.frame)
    }
}
