//! `hugewalk` at work: address spaces map pages of each size that the format has, share tables, and give them up; and the
//! processor's own loads and stores find what the engine promises.
//!
//! The processor stays in one address space while the engine changes it, as a kernel's does: what the engine does not have
//! flushed, a load shows.

use core::fmt::Arguments;
use core::sync::atomic::Ordering;

use hugewalk::addr::{FRAME_BYTES, HugeFrame, HugeSize, VirtAddr};
use hugewalk::arch::{Entry, LeafFlags, Paging};
use hugewalk::fault::{Access, Fault};
use hugewalk::mm::{Advice, MapFlags, MapRequest};
use hugewalk::platform::Contents as _;
use hugewalk::vma::Protection;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Arc, Hugetlb, Task};

use crate::platform::{Kernel, Mistake};
use crate::{Machine, Mmu, Trap, formats, heap};

/// Where private pages are mapped: all formats have such addresses.
const PRIVATE: VirtAddr = VirtAddr::new(24 << 30);

const WRITTEN: u64 = 0x0123_4567_89ab_cdef;

/// Runs the engine in each format of the machine, with pages of each size that there is memory for.
pub(crate) fn prove<M: Machine>(say: &mut dyn FnMut(Arguments<'_>)) {
    for (name, format) in M::formats() {
        let in_use_before = heap::in_use();
        let format = if formats::knows_groups::<M>(format) { *format } else { M::without_groups(format) };
        let hugetlb = Hugetlb::new(Kernel::<M>::new(format)).expect("there is memory");
        for &size in format.leaves() {
            let pages = hugetlb.platform().frames.count(size);
            if pages == 0 {
                continue;
            }
            assert_eq!(hugetlb.resize_pool(size, pages), pages, "every page is in the pool");
            // SAFETY: one for each thread of execution, and here is one, which has no other meanwhile.
            let mut task = unsafe { Task::new(&hugetlb) }.expect("there is memory");
            let mut run = Run {
                hugetlb: &hugetlb,
                task: &mut task,
                mmu: M::mmu(),
                format: &format,
                size,
                current: None,
            };
            run.all();
            #[cfg(target_arch = "x86_64")]
            if size.shares_tables() {
                crate::base_pages::prove(say, &hugetlb, &mut task);
            }
            // Tables outlive their address space until no walker can be in them. Here none is, so this waits for nobody.
            task.rcu_barrier();
            assert_eq!(hugetlb.pool(size).counters().free, pages, "every page is back in the pool");
            hugetlb.resize_pool(size, 0);
            drop(task);
            let shares =
                if size.shares_tables() { "tables shared and given up" } else { "no tables to share" };
            say(format_args!("engine: {name}, {size:?}: mapped, forked, protected, copied, moved; {shares}"));
        }
        drop(hugetlb);
        assert_eq!(heap::in_use(), in_use_before, "every table and record is back in the heap");
    }
    say(format_args!("exit: every page and every table given back"));
}

/// Makes mistakes on purpose, and says whether the processor shows them: one that shows none proves nothing by working.
pub(crate) fn make_mistakes<M: Machine>(say: &mut dyn FnMut(Arguments<'_>)) {
    if M::mmu().is_none() {
        return;
    }
    let formats = M::formats();
    for (index, (name, format)) in formats.iter().enumerate() {
        // One width of addresses is as good as another.
        let base_shift = |format: &M::Paging| format.geometry().base_shift;
        let is_last = formats[index + 1..].iter().all(|(_, later)| base_shift(later) != base_shift(format));
        if !is_last || !formats::knows_groups::<M>(format) {
            continue;
        }
        let hugetlb = Hugetlb::new(Kernel::<M>::new(*format)).expect("there is memory");
        for &size in format.leaves().iter().filter(|size| hugetlb.platform().frames.count(**size) > 2) {
            hugetlb.resize_pool(size, hugetlb.platform().frames.count(size));
            // SAFETY: one for each thread of execution, and here is one, which has no other meanwhile.
            let mut task = unsafe { Task::new(&hugetlb) }.expect("there is memory");
            let mut run =
                Run { hugetlb: &hugetlb, task: &mut task, mmu: M::mmu(), format, size, current: None };
            let shown = |shown| if shown { "shows" } else { "does not show" };
            let old = shown(run.goes_on_to_use_what_is_unmapped(Mistake::NoFlush));
            say(format_args!("mistake: {name}, {size:?}: the processor {old} that nothing was flushed"));
            // To copy a larger page pushes the old translation out of QEMU's TLB.
            if size.bytes() <= 64 << 10 {
                let old = shown(run.goes_on_to_use_the_page_that_moved());
                say(format_args!(
                    "mistake: {name}, {size:?}: the processor {old} that a page moved without a flush"
                ));
            }
            if size.group() > 1 {
                let old = shown(run.goes_on_to_use_what_is_unmapped(Mistake::OneOfEachPage));
                say(format_args!(
                    "mistake: {name}, {size:?}: the processor {old} that one entry of the group was flushed"
                ));
            }
            if size.shares_tables() {
                let old = shown(run.goes_on_to_use_what_is_unmapped(Mistake::NoTables));
                say(format_args!(
                    "mistake: {name}, {size:?}: the processor {old} that a table went and only leaves were flushed"
                ));
            }
            hugetlb.resize_pool(size, 0);
        }
    }
}

/// Address spaces that map pages of one size.
struct Run<'r, M: Machine> {
    hugetlb: &'r Arc<Hugetlb<Kernel<M>>>,
    task: &'r mut Task<Kernel<M>>,
    mmu: Option<&'static dyn Mmu<M::Paging>>,
    format: &'r M::Paging,
    size: HugeSize,
    /// The address space that the processor runs.
    current: Option<Space<M>>,
}

type Space<M> = Arc<AddressSpace<Kernel<M>>>;

impl<M: Machine> Run<'_, M> {
    fn all(&mut self) {
        self.a_shared_mapping_is_forked_and_its_tables_are_shared();
        self.rights_are_taken_and_given();
        self.a_private_page_is_copied_when_it_is_written();
        self.a_page_moves_under_its_users();
    }

    /// Bytes of a mapping: a table's worth if such tables are shared, else one page.
    fn length(&self) -> u64 {
        if self.size.shares_tables() {
            self.format.geometry().table_bytes(self.size.level())
        } else {
            self.size.bytes()
        }
    }

    /// Where shared pages are mapped: where a table begins, if such tables are shared.
    fn start(&self) -> VirtAddr {
        VirtAddr::new(self.length().max(32 << 30))
    }

    fn shared_mapping(&mut self) -> Space<M> {
        let space = AddressSpace::new(self.hugetlb).expect("there is memory");
        // A page table's worth of pages is more than there are: promise none of them.
        let request = MapRequest::anonymous(self.size, self.length())
            .shared()
            .with(MapFlags::NORESERVE)
            .at(self.start());
        assert_eq!(space.mmap(self.task, &request), Ok(self.start()));
        space
    }

    fn a_shared_mapping_is_forked_and_its_tables_are_shared(&mut self) {
        let parent = self.shared_mapping();
        self.enter(&parent);
        self.is_missing(self.start().as_u64());
        assert_eq!(parent.fault(self.task, self.start(), Access::Read), Ok(Fault::Fresh));
        let page = self.page(&parent, self.start());
        for address in self.places(self.start()) {
            self.reads(address, 0); // pages are zero at first
        }
        self.is_noted(&parent, LeafFlags::ACCESSED);
        assert!(!self.flags(&parent, self.start()).contains(LeafFlags::DIRTY), "a load is no store");
        for address in self.places(self.start()) {
            self.store(address, WRITTEN ^ address);
            assert_eq!(self.memory(page, address), WRITTEN ^ address);
        }
        self.is_noted(&parent, LeafFlags::DIRTY);

        let child = parent.fork(self.task).expect("there is memory");
        if self.size.shares_tables() {
            assert_eq!(self.users(&child), None, "fork copies no table of a shared mapping");
        }
        self.enter(&child);
        self.is_missing(self.start().as_u64());
        let shares = self.size.shares_tables();
        // The page comes with the table, if there is one to share.
        let expected = if shares { Fault::Present } else { Fault::Mapped };
        assert_eq!(child.fault(self.task, self.start(), Access::Read), Ok(expected));
        assert_eq!(self.users(&child), Some(if shares { 2 } else { 1 }), "users of the table");
        assert_eq!(self.page(&child, self.start()), page);
        for address in self.places(self.start()) {
            self.reads(address, WRITTEN ^ address); // the child reads what the parent wrote
            self.store(address, address);
        }
        self.enter(&parent);
        for address in self.places(self.start()) {
            self.reads(address, address); // and the parent what the child wrote
        }

        self.enter(&child);
        assert!(self.load(self.start().as_u64()).is_ok());
        let flushes = child.mm().context().load(Ordering::Relaxed);
        assert_eq!(child.madvise(self.task, self.start(), self.length(), Advice::DontNeed), Ok(()));
        assert_eq!(child.mm().context().load(Ordering::Relaxed), flushes + 1);
        for address in self.places(self.start()) {
            self.is_missing(address);
        }
        assert_eq!(self.users(&parent), Some(1));
        assert_eq!(self.page(&parent, self.start()), page, "the parent still has its page");
        self.enter(&parent);
        assert!(self.load(self.start().as_u64()).is_ok());

        // And once more.
        assert_eq!(child.fault(self.task, self.start(), Access::Read), Ok(expected));
        assert_eq!(self.users(&parent), Some(if shares { 2 } else { 1 }));
        self.exit([child, parent]);
    }

    fn rights_are_taken_and_given(&mut self) {
        let space = self.shared_mapping();
        self.enter(&space);
        assert_eq!(space.fault(self.task, self.start(), Access::Write), Ok(Fault::Fresh));
        for address in self.places(self.start()) {
            self.store(address, address);
        }
        let protect =
            |this: &mut Self, rights| space.mprotect(this.task, this.start(), this.length(), rights);
        assert_eq!(protect(self, Protection::READ), Ok(()));
        for address in self.places(self.start()) {
            self.is_denied(address);
            self.reads(address, address);
        }
        self.is_noted(&space, LeafFlags::DIRTY);
        assert_eq!(protect(self, Protection::empty()), Ok(()));
        for address in self.places(self.start()) {
            self.is_missing(address);
        }
        assert_eq!(protect(self, Protection::READ | Protection::WRITE), Ok(()));
        for address in self.places(self.start()) {
            self.reads(address, address);
            self.store(address, !address);
            self.reads(address, !address);
        }
        self.exit([space]);
    }

    fn a_private_page_is_copied_when_it_is_written(&mut self) {
        let parent = AddressSpace::new(self.hugetlb).expect("there is memory");
        let request = MapRequest::anonymous(self.size, self.size.bytes()).at(PRIVATE);
        assert_eq!(parent.mmap(self.task, &request), Ok(PRIVATE));
        self.enter(&parent);
        assert_eq!(parent.fault(self.task, PRIVATE, Access::Write), Ok(Fault::Fresh));
        for address in self.places(PRIVATE) {
            self.store(address, address);
        }
        let child = parent.fork(self.task).expect("there is memory");
        let page = self.page(&parent, PRIVATE);
        assert_eq!(self.page(&child, PRIVATE), page);
        // Fork has taken the right to write from the parent, too.
        for address in self.places(PRIVATE) {
            self.is_denied(address);
            self.reads(address, address);
        }
        self.enter(&child);
        for address in self.places(PRIVATE) {
            self.is_denied(address);
            self.reads(address, address);
        }
        assert_eq!(child.fault(self.task, PRIVATE, Access::Write), Ok(Fault::Copied));
        assert_ne!(self.page(&child, PRIVATE), page);
        for address in self.places(PRIVATE) {
            self.reads(address, address); // the copy is one
            self.store(address, !address);
        }
        self.enter(&parent);
        assert_eq!(parent.fault(self.task, PRIVATE, Access::Write), Ok(Fault::Reused));
        for address in self.places(PRIVATE) {
            self.reads(address, address); // the child's store went to the copy
            self.store(address, address + 1);
            assert_eq!(self.memory(page, address), address + 1);
        }
        self.exit([child, parent]);
    }

    fn a_page_moves_under_its_users(&mut self) {
        let space = self.shared_mapping();
        self.enter(&space);
        assert_eq!(space.fault(self.task, self.start(), Access::Write), Ok(Fault::Fresh));
        for address in self.places(self.start()) {
            self.store(address, address);
        }
        let from = self.page(&space, self.start());
        let to = self.hugetlb.migrate(self.task, from).expect("there is a second page");
        assert_ne!(from, to);
        assert_eq!(self.page(&space, self.start()), to);
        for address in self.places(self.start()) {
            self.reads(address, address); // the contents came along
            self.store(address, !address);
            assert_eq!(self.memory(to, address), !address, "a store goes to where the page is now");
            assert_eq!(self.memory(from, address), address, "and not to where it was");
        }
        assert_eq!(space.munmap(self.task, self.start(), self.length()), Ok(()));
        for address in self.places(self.start()) {
            self.is_missing(address);
        }
        self.exit([space]);
    }

    /// A child gives up a mapping, and its table if that is shared, with this mistake. Can it still load?
    fn goes_on_to_use_what_is_unmapped(&mut self, mistake: Mistake) -> bool {
        let parent = self.shared_mapping();
        parent.fault(self.task, self.start(), Access::Write).expect("there are pages");
        let child = parent.fork(self.task).expect("there is memory");
        child.fault(self.task, self.start(), Access::Read).expect("the page is there");
        self.enter(&child);
        for address in self.places(self.start()) {
            assert_eq!(self.load(address), Ok(0));
        }
        *self.hugetlb.platform().mistake.lock() = mistake;
        assert_eq!(child.madvise(self.task, self.start(), self.length(), Advice::DontNeed), Ok(()));
        *self.hugetlb.platform().mistake.lock() = Mistake::No;
        let loaded = self.places(self.start()).any(|address| self.load(address).is_ok());
        self.exit([child, parent]);
        loaded
    }

    /// A page moves, and nothing is flushed on the way: no break before make. Does a store go to where it was?
    fn goes_on_to_use_the_page_that_moved(&mut self) -> bool {
        let space = self.shared_mapping();
        space.fault(self.task, self.start(), Access::Write).expect("there are pages");
        self.enter(&space);
        let from = self.page(&space, self.start());
        for address in self.places(self.start()) {
            self.store(address, address);
        }
        *self.hugetlb.platform().mistake.lock() = Mistake::NoFlush;
        self.hugetlb.migrate(self.task, from).expect("there is a second page");
        *self.hugetlb.platform().mistake.lock() = Mistake::No;
        let mut lost = false;
        for address in self.places(self.start()) {
            self.store(address, !address);
            lost |= self.memory(from, address) == !address;
        }
        self.exit([space]);
        lost
    }

    fn exit<const N: usize>(&mut self, spaces: [Space<M>; N]) {
        if let Some(mmu) = self.mmu {
            mmu.leave();
        }
        self.current = None;
        for space in spaces {
            space.exit(self.task).expect("its own task");
        }
    }

    /// The processor runs the address space from now on.
    fn enter(&mut self, space: &Space<M>) {
        self.current = Some(space.clone());
        if let Some(mmu) = self.mmu {
            // SAFETY: the root is the engine's, of this format, and `exit` leaves it before it goes.
            unsafe { mmu.enter(self.format, space.mm().root_frame().0 * FRAME_BYTES) };
        }
    }

    /// Two addresses in each part of a page that an entry maps.
    fn places(&self, start: VirtAddr) -> impl Iterator<Item = u64> + use<M> {
        let part = self.size.member_bytes();
        let starts = (0..u64::from(self.size.group())).map(move |member| start.as_u64() + member * part);
        starts.flat_map(move |start| [start + 8, start + part - 8])
    }

    /// What a program loads. A process has no processor to itself: a walk of its own stands in.
    fn load(&self, address: u64) -> Result<u64, Trap> {
        match (self.mmu, &self.current) {
            (Some(mmu), _) => mmu.load(address),
            (None, Some(space)) => match self.read(space, VirtAddr::new(address)) {
                Some((page, _)) => Ok(self.memory(page, address)),
                None => Err(Trap::Missing),
            },
            (None, None) => panic!("an address space is entered first"),
        }
    }

    fn reads(&self, address: u64, value: u64) {
        assert_eq!(self.load(address), Ok(value), "at {address:#x}");
    }

    fn store(&self, address: u64, value: u64) {
        match (self.mmu, &self.current) {
            // SAFETY: what is mapped is a huge page, and nobody looks at it but by raw memory.
            (Some(mmu), _) => assert_eq!(unsafe { mmu.store(address, value) }, Ok(()), "at {address:#x}"),
            (None, Some(space)) => {
                let (page, _) = self.read(space, VirtAddr::new(address)).expect("it is mapped");
                let offset = address & (self.size.bytes() - 1);
                // SAFETY: the page is in use, and eight bytes at this offset lie inside.
                unsafe { self.hugetlb.platform().write_huge(page, offset, &value.to_ne_bytes()) };
            }
            (None, None) => panic!("an address space is entered first"),
        }
    }

    fn is_missing(&self, address: u64) {
        let loaded = self.load(address);
        assert!(matches!(loaded, Err(Trap::Missing | Trap::Unsaid)), "{loaded:x?} at {address:#x}");
    }

    fn is_denied(&self, address: u64) {
        if let Some(mmu) = self.mmu {
            // SAFETY: as in `store`.
            let stored = unsafe { mmu.store(address, 0) };
            assert!(matches!(stored, Err(Trap::Denied | Trap::Unsaid)), "{stored:x?} at {address:#x}");
        }
    }

    /// The processor has noted an access.
    fn is_noted(&self, space: &Space<M>, flag: LeafFlags) {
        assert!(self.mmu.is_none() || self.flags(space, self.start()).contains(flag), "{flag:?}");
    }

    /// The page mapped at `start`, found without a lock.
    fn page(&self, space: &Space<M>, start: VirtAddr) -> HugeFrame {
        self.read(space, start).expect("it is mapped").0
    }

    /// What is noted in the entries of the page at `start`, all taken together.
    fn flags(&self, space: &Space<M>, start: VirtAddr) -> LeafFlags {
        let members = (0..u64::from(self.size.group()))
            .map(|member| VirtAddr::new(start.as_u64() + member * self.size.member_bytes()));
        members
            .filter_map(|address| self.read(space, address))
            .fold(LeafFlags::empty(), |all, (_, flags)| all | flags)
    }

    fn read(&self, space: &Space<M>, address: VirtAddr) -> Option<(HugeFrame, LeafFlags)> {
        let section = self.task.rcu_read_lock();
        loop {
            let slot = huge_pte_offset(&section, space.mm(), address, self.size).expect("of one system")?;
            match slot.read() {
                Ok(Entry::Leaf(leaf)) if leaf.is_accessible() => {
                    return Some((leaf.frame, leaf.flags));
                }
                Ok(_) => return None,
                // The table was taken away between the walk and the read; the next walk does not find it.
                Err(_unshared) => {}
            }
        }
    }

    /// How many address spaces use the table, if this one has one.
    fn users(&mut self, space: &Space<M>) -> Option<u64> {
        let tables = space.tables(self.task).expect("there is memory");
        assert!(tables.len() <= 1, "the range has one table");
        tables.first().map(|table| table.users)
    }

    /// What a page has at the place that is mapped at `address`.
    fn memory(&self, page: HugeFrame, address: u64) -> u64 {
        let mut bytes = [0; 8];
        // SAFETY: the page is in the pool or in use, and eight bytes at this offset lie inside.
        unsafe { self.hugetlb.platform().read_huge(page, address & (self.size.bytes() - 1), &mut bytes) }
            .expect("the memory is sound");
        u64::from_ne_bytes(bytes)
    }
}
