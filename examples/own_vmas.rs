//! A kernel in miniature that has a set of VMAs and an mmap lock of its own, and leaves huge pages to the engine.
//!
//! Its processes have base pages and huge pages, in the same gigabyte. It calls the engine for one VMA at a time
//! ([`hugewalk::vm_ops`]). [`machine`] is what it runs on.
//!
//! Run it: `cargo run -p hugewalk --example own_vmas`. It says nothing if all is well. It is a test too.

#[path = "own_vmas/machine.rs"]
mod machine;

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::Range;
use std::sync::Arc as StdArc;
use std::sync::atomic::Ordering::SeqCst;

use hugewalk::addr::{TableFrame, VirtAddr};
use hugewalk::arch::{PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::base::HostSlot;
use hugewalk::fault::{Access, Handled, hugetlb_fault};
use hugewalk::file::HugeFile;
use hugewalk::gup::{Followed, GupFlags, follow_hugetlb_page, hugetlb_follow_page};
use hugewalk::mm::Mm;
use hugewalk::platform::Tables as _;
use hugewalk::uffd::{Fill, UserfaultError, hugetlb_mfill_atomic};
use hugewalk::vm_ops;
use hugewalk::vma::{MmapLocked, MmapLockedForWrite, Policy, Protection, Shape, Vma, VmaFlags};
use hugewalk::{Arc, Hugetlb};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::machine::{ENTRIES, Machine, PRESENT, SMALL_BYTES, USER, WRITABLE};

type System = StdArc<Machine>;
type Task = hugewalk::Task<System>;
type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// What is mapped in an area.
#[derive(Clone)]
enum Kind {
    /// Base pages of this kernel's own: fresh, private, writable.
    Base,
    /// Huge pages: the engine's.
    Huge(Arc<Vma<System>>),
}

/// The kernel's set of VMAs, of all kinds: the end and the kind of each, by its start.
#[derive(Default)]
struct Areas(BTreeMap<u64, (u64, Kind)>);

impl Areas {
    fn find(&self, address: VirtAddr) -> Option<(Range<VirtAddr>, Kind)> {
        let (&start, (end, kind)) = self.0.range(..=address.as_u64()).next_back()?;
        (address.as_u64() < *end).then(|| (VirtAddr::new(start)..VirtAddr::new(*end), kind.clone()))
    }

    fn put(&mut self, range: &Range<VirtAddr>, kind: Kind) {
        self.0.insert(range.start.as_u64(), (range.end.as_u64(), kind));
    }

    fn put_huge(&mut self, vma: &Arc<Vma<System>>) {
        self.put(&(vma.start()..vma.end()), Kind::Huge(vma.clone()));
    }

    /// The range around another one that has no huge pages, if that one has none.
    fn free_of_huge(&self, range: &Range<VirtAddr>) -> Range<VirtAddr> {
        let is_huge = |area: &(&u64, &(u64, Kind))| matches!(area.1.1, Kind::Huge(_));
        let before = self.0.range(..range.start.as_u64()).rev().find(is_huge);
        let behind = self.0.range(range.end.as_u64()..).find(is_huge);
        let start = before.map_or(0, |(_, (end, _))| *end);
        let end = behind.map_or(1 << 47, |(&start, _)| start);
        VirtAddr::new(start)..VirtAddr::new(end)
    }
}

/// A process: its tables, and its areas under the mmap lock.
struct Process {
    mm: Arc<Mm<System>>,
    areas: RwLock<Areas>,
}

/// The mmap lock, held in read.
struct Reading<'p> {
    mm: &'p Arc<Mm<System>>,
    areas: RwLockReadGuard<'p, Areas>,
}

impl Reading<'_> {
    fn locked(&self) -> MmapLocked<'_, System> {
        // SAFETY: the lock is held in read, and the value borrows its guard. Writers make theirs from a guard too.
        unsafe { MmapLocked::assume_held(self.mm) }
    }
}

/// The mmap lock, held in write.
struct Writing<'p> {
    mm: &'p Arc<Mm<System>>,
    areas: RwLockWriteGuard<'p, Areas>,
}

impl Writing<'_> {
    fn locked(&mut self) -> MmapLockedForWrite<'_, System> {
        // SAFETY: the lock is held in write, and the value borrows its guard mutably: it is the only one.
        unsafe { MmapLockedForWrite::assume_held(self.mm) }
    }

    /// Frees the tables that nothing needs after huge pages were taken away.
    fn free_tables(&mut self, range: Range<VirtAddr>, task: &Task) -> Result {
        let free = self.areas.free_of_huge(&range);
        // SAFETY: as the set says, in which every mapping is.
        Ok(unsafe { vm_ops::free_tables(&mut self.locked(), range, free, task) }?)
    }

    /// Unmaps an area, which is base pages or huge ones.
    fn unmap(&mut self, range: Range<VirtAddr>, kind: &Kind, task: &mut Task) -> Result {
        match kind {
            Kind::Huge(vma) => {
                // The reservation goes back at the end of this block, when the area is gone.
                let _unmapped = vm_ops::unmap(&mut self.locked(), vma, task)?;
                self.areas.0.remove(&range.start.as_u64());
                self.free_tables(range, task)
            }
            Kind::Base => {
                let free = self.areas.free_of_huge(&range);
                let (machine, mut pages, mut tables) = (task.hugetlb().platform().clone(), vec![], vec![]);
                // SAFETY: as the set says.
                unsafe {
                    self.locked().host_slots(task, range.clone(), &free, |slot| {
                        let Some(table) = slot.table() else { return };
                        let block = slot.address().as_u64();
                        let inside =
                            |index: usize| range.contains(&VirtAddr::new(block + index as u64 * SMALL_BYTES));
                        for index in (0..ENTRIES).filter(|&index| inside(index)) {
                            pages.push(machine.entry(table, index).swap(0, SeqCst));
                        }
                        slot.flush();
                        if (0..ENTRIES).all(|index| machine.entry(table, index).load(SeqCst) == 0) {
                            tables.extend(slot.take());
                        }
                    })?;
                }
                // No processor reaches them any more.
                let pages = pages.into_iter().filter(|entry| entry & PRESENT != 0);
                for frame in pages.map(|entry| TableFrame(entry >> 12)).chain(tables) {
                    // SAFETY: they came from there, and were flushed.
                    unsafe { machine.free_table(frame) };
                }
                self.areas.0.remove(&range.start.as_u64());
                Ok(())
            }
        }
    }
}

impl Process {
    fn new(hugetlb: &Arc<Hugetlb<System>>) -> Result<Self> {
        Ok(Self { mm: Mm::new(hugetlb)?, areas: RwLock::default() })
    }

    fn read(&self) -> Reading<'_> {
        Reading { mm: &self.mm, areas: self.areas.read() }
    }

    fn write(&self) -> Writing<'_> {
        Writing { mm: &self.mm, areas: self.areas.write() }
    }

    fn machine(&self) -> &Machine {
        self.mm.hugetlb().platform()
    }

    /// mmap: base pages of its own at a free place.
    fn map_base(&self, range: &Range<VirtAddr>) {
        self.write().areas.put(range, Kind::Base);
    }

    /// mmap: a file of huge pages at a free place.
    fn map_huge(
        &self,
        file: &Arc<HugeFile<System>>,
        at: u64,
        pages: u64,
        flags: VmaFlags,
        task: &mut Task,
    ) -> Result {
        let start = VirtAddr::new(at);
        let end = VirtAddr::new(at + pages * PMD_SIZE);
        let protection = Protection::READ | Protection::WRITE;
        let shape = Shape { start, end, offset: 0, protection, flags, policy: Policy::Default };
        let mut mmap = self.write();
        // SAFETY: the place is free, as this kernel's programs know.
        let vma = unsafe { vm_ops::map(&mut mmap.locked(), file, shape, task) }?;
        mmap.areas.put_huge(&vma);
        Ok(())
    }

    /// munmap, of a range that is one part of one area. A huge mapping is cut first.
    fn unmap(&self, range: Range<VirtAddr>, task: &mut Task) -> Result {
        let mut mmap = self.write();
        let kind = mmap.cut(&range, task)?;
        mmap.unmap(range, &kind, task)
    }

    /// mprotect, of such a range with huge pages.
    fn protect(&self, range: &Range<VirtAddr>, protection: Protection, task: &mut Task) -> Result {
        let mut mmap = self.write();
        if let Kind::Huge(vma) = mmap.cut(range, task)? {
            let new = vm_ops::protect(&mut mmap.locked(), &vma, protection, task)?;
            mmap.areas.put_huge(&new);
        }
        Ok(())
    }

    /// mremap, of such a range with huge pages, to a free place.
    fn remap(&self, range: &Range<VirtAddr>, to: VirtAddr, task: &mut Task) -> Result {
        let mut mmap = self.write();
        if let Kind::Huge(vma) = mmap.cut(range, task)? {
            // SAFETY: the place is free, as this kernel's programs know.
            let new = unsafe { vm_ops::remap(&mut mmap.locked(), &vma, to, task) }?;
            mmap.areas.0.remove(&range.start.as_u64());
            mmap.areas.put_huge(&new);
            mmap.free_tables(range.clone(), task)?;
        }
        Ok(())
    }

    /// madvise(MADV_DONTNEED), of a range with huge pages.
    fn dont_need(&self, range: Range<VirtAddr>, task: &mut Task) -> Result {
        let mmap = self.read();
        if let Some((_, Kind::Huge(vma))) = mmap.areas.find(range.start) {
            vm_ops::zap(&mmap.locked(), &vma, range, task)?;
        }
        Ok(())
    }

    /// fork. Base pages are copied at once.
    fn fork(&self, task: &mut Task) -> Result<Self> {
        let child = Self::new(task.hugetlb())?;
        let mut mmap = self.write();
        let areas: Vec<_> = mmap.areas.0.iter().map(|(start, area)| (*start, area.clone())).collect();
        for (start, (end, kind)) in areas {
            let range = VirtAddr::new(start)..VirtAddr::new(end);
            if let Kind::Huge(vma) = &kind {
                let mut into = child.write();
                // SAFETY: nothing is mapped in the child that is not in the parent.
                let new = unsafe { vm_ops::copy(&mut mmap.locked(), vma, &mut into.locked(), task) }?;
                into.areas.put_huge(&new);
                continue;
            }
            child.map_base(&range);
            for at in (start..end).step_by(SMALL_BYTES as usize) {
                if let Some(word) = self.machine().access(self.mm.root_frame(), VirtAddr::new(at), None) {
                    child.store(VirtAddr::new(at), word, task)?; // a word stands for its page here
                }
            }
        }
        Ok(child)
    }

    fn exit(&self, task: &mut Task) -> Result {
        let mut mmap = self.write();
        while let Some((&start, (end, kind))) = mmap.areas.0.first_key_value() {
            let (range, kind) = (VirtAddr::new(start)..VirtAddr::new(*end), kind.clone());
            mmap.unmap(range, &kind, task)?;
        }
        Ok(())
    }

    /// A page fault.
    fn fault(&self, address: VirtAddr, access: Access, task: &mut Task) -> Result {
        let mmap = self.read();
        match mmap.areas.find(address).ok_or("SIGSEGV")? {
            (_, Kind::Huge(vma)) => {
                let handled = hugetlb_fault(&mmap.locked(), &vma, address, access, task)?;
                drop(mmap);
                match handled {
                    Handled::Done(_) => Ok(()),
                    Handled::Retry(migration) => Ok(migration.wait(task)?),
                }
            }
            (range, Kind::Base) => {
                let free = mmap.areas.free_of_huge(&range);
                let machine = task.hugetlb().platform().clone();
                let (page, spare) = machine.alloc_two().ok_or("no memory")?;
                let index = (address.as_u64() / SMALL_BYTES) as usize % ENTRIES;
                let entry = page.0 << 12 | PRESENT | WRITABLE | USER;
                let install = |slot: &mut HostSlot<'_, System>| {
                    // SAFETY: a table of empty entries, and no huge page is mapped at this address.
                    let put = slot.table().is_none() && unsafe { slot.put(spare) }.is_ok();
                    let word = slot.table().map(|table| machine.entry(table, index));
                    let mapped =
                        word.is_some_and(|word| word.compare_exchange(0, entry, SeqCst, SeqCst).is_ok());
                    (put, mapped)
                };
                // SAFETY: as the set says.
                let used = unsafe { mmap.locked().host_slot(task, address, &free, install) };
                let (put, mapped) = used.unwrap_or((false, false));
                for frame in [(!put).then_some(spare), (!mapped).then_some(page)].into_iter().flatten() {
                    // SAFETY: it came from there, and was not used.
                    unsafe { machine.free_table(frame) };
                }
                Ok(used.map(drop)?)
            }
        }
    }

    /// A processor of this process loads a word.
    fn load(&self, address: VirtAddr, task: &mut Task) -> Result<u64> {
        loop {
            match self.machine().access(self.mm.root_frame(), address, None) {
                Some(word) => return Ok(word),
                None => self.fault(address, Access::Read, task)?,
            }
        }
    }

    /// A processor of this process stores a word.
    fn store(&self, address: VirtAddr, word: u64, task: &mut Task) -> Result {
        while self.machine().access(self.mm.root_frame(), address, Some(word)).is_none() {
            self.fault(address, Access::Write, task)?;
        }
        Ok(())
    }
}

impl Writing<'_> {
    /// Cuts the area around a range, so that the range is an area of its own.
    fn cut(&mut self, range: &Range<VirtAddr>, task: &mut Task) -> Result<Kind> {
        let (area, mut kind) = self.areas.find(range.start).ok_or("not mapped")?;
        if range.end > area.end {
            return Err("not one area".into());
        }
        for at in [range.start, range.end].into_iter().filter(|&at| area.start < at && at < area.end) {
            let (around, whole) = self.areas.find(at).ok_or("not mapped")?;
            match whole {
                Kind::Huge(vma) => {
                    let parts = vm_ops::split(&mut self.locked(), &vma, at, task)?;
                    parts.iter().for_each(|part| self.areas.put_huge(part));
                }
                Kind::Base => {
                    self.areas.put(&(around.start..at), Kind::Base);
                    self.areas.put(&(at..around.end), Kind::Base);
                }
            }
            kind = self.areas.find(range.start).ok_or("not mapped")?.1;
        }
        Ok(kind)
    }
}

fn main() -> Result {
    let machine = StdArc::new(Machine::new());
    let hugetlb = Hugetlb::new(machine.clone())?;
    hugetlb.resize_pool(X86_64::SIZE_2M, 8);
    // SAFETY: this thread has no other task.
    let task = &mut unsafe { hugewalk::Task::new(&hugetlb) }?;
    side_by_side(&hugetlb, task)?;
    tables_are_shared(&hugetlb, task)?;
    private_pages(&hugetlb, task)?;
    pins_and_fills(&hugetlb, task)?;
    many_threads(&hugetlb, task)?;
    task.rcu_barrier();
    assert_eq!(machine.in_use(), (0, 8), "tables and base pages are left");
    Ok(())
}

/// Base pages and huge pages in the same gigabyte.
fn side_by_side(hugetlb: &Arc<Hugetlb<System>>, task: &mut Task) -> Result {
    let process = Process::new(hugetlb)?;
    let file = HugeFile::new(hugetlb, X86_64::SIZE_2M, None)?;
    let (huge, base) = (VirtAddr::new(PUD_SIZE), VirtAddr::new(PUD_SIZE + 2 * PMD_SIZE));
    process.map_huge(&file, huge.as_u64(), 2, VmaFlags::SHARED, task)?;
    process.map_base(&(base..VirtAddr::new(base.as_u64() + (64 << 10))));
    process.store(huge, 1, task)?;
    process.store(base, 2, task)?;
    assert_eq!((process.load(huge, task)?, process.load(base, task)?), (1, 2));

    // Tables above both stay as long as one of them needs them.
    process.unmap(huge..base, task)?;
    assert_eq!(process.load(base, task)?, 2);
    process.map_huge(&file, huge.as_u64(), 2, VmaFlags::SHARED, task)?;
    let child = process.fork(task)?;
    child.store(base, 3, task)?;
    assert_eq!((process.load(base, task)?, child.load(huge, task)?), (2, 1));
    child.exit(task)?;
    process.unmap(base..VirtAddr::new(base.as_u64() + (64 << 10)), task)?;
    assert_eq!(process.load(huge, task)?, 1);
    process.exit(task)?;
    assert!(process.load(huge, task).is_err(), "nothing is mapped");
    Ok(())
}

/// Two processes share the table of a gigabyte, and unshare it.
fn tables_are_shared(hugetlb: &Arc<Hugetlb<System>>, task: &mut Task) -> Result {
    let file = HugeFile::new(hugetlb, X86_64::SIZE_2M, None)?;
    let (first, second) = (Process::new(hugetlb)?, Process::new(hugetlb)?);
    let at = VirtAddr::new(4 * PUD_SIZE);
    let page = |number: u64| VirtAddr::new(at.as_u64() + number * PMD_SIZE);
    for process in [&first, &second] {
        process.map_huge(&file, at.as_u64(), 512, VmaFlags::SHARED | VmaFlags::NORESERVE, task)?;
    }
    first.store(page(1), 7, task)?;
    let machine = hugetlb.platform().clone();
    let before = machine.counts();
    assert_eq!(second.load(page(1), task)?, 7);
    assert_eq!(machine.counts(), (before.0 + 1, before.1), "one table more is shared");

    second.dont_need(page(1)..page(2), task)?;
    assert_eq!(machine.counts(), (before.0 + 1, before.1 + 1), "and one unshared");
    assert_eq!((first.load(page(1), task)?, second.load(page(1), task)?), (7, 7));

    // A part of the mapping gets other rights, and cannot share any more; another part moves.
    second.protect(&(page(1)..page(2)), Protection::READ, task)?;
    assert!(second.store(page(1), 8, task).is_err(), "it may not be written");
    second.remap(&(page(1)..page(2)), VirtAddr::new(9 * PUD_SIZE), task)?;
    assert_eq!(second.load(VirtAddr::new(9 * PUD_SIZE), task)?, 7);
    assert!(second.load(page(1), task).is_err(), "it has moved");
    second.exit(task)?;
    first.exit(task)
}

/// A private mapping is copied at fork and at the first store, and its reservation goes back.
fn private_pages(hugetlb: &Arc<Hugetlb<System>>, task: &mut Task) -> Result {
    let file = HugeFile::new(hugetlb, X86_64::SIZE_2M, None)?;
    let (parent, at) = (Process::new(hugetlb)?, VirtAddr::new(2 * PUD_SIZE));
    parent.map_huge(&file, at.as_u64(), 4, VmaFlags::empty(), task)?;
    assert_eq!(hugetlb.pool(X86_64::SIZE_2M).counters().reserved, 4);
    parent.store(at, 1, task)?;
    let child = parent.fork(task)?;
    child.store(at, 2, task)?;
    assert_eq!((parent.load(at, task)?, child.load(at, task)?), (1, 2));
    child.exit(task)?;
    parent.exit(task)?;
    assert_eq!(hugetlb.pool(X86_64::SIZE_2M).counters().reserved, 0);
    Ok(())
}

/// A device reads and writes pages, and a handler in this kernel brings them, without a fault of a processor.
fn pins_and_fills(hugetlb: &Arc<Hugetlb<System>>, task: &mut Task) -> Result {
    let file = HugeFile::new(hugetlb, X86_64::SIZE_2M, None)?;
    let (process, at) = (Process::new(hugetlb)?, VirtAddr::new(3 * PUD_SIZE));
    let next = VirtAddr::new(at.as_u64() + PMD_SIZE);
    process.map_huge(&file, at.as_u64(), 2, VmaFlags::SHARED, task)?;
    let mmap = process.read();
    let (_, Kind::Huge(vma)) = mmap.areas.find(at).ok_or("not mapped")? else { unreachable!() };
    // The handler's page is there, and nothing is where it has brought nothing.
    let bytes = 5u64.to_le_bytes().repeat(PMD_SIZE as usize / 8);
    hugetlb_mfill_atomic(&mmap.locked(), &vma, at, Fill::Copy(&bytes), task)?;
    let again = hugetlb_mfill_atomic(&mmap.locked(), &vma, at, Fill::Copy(&bytes), task);
    assert!(matches!(again, Err(UserfaultError::Exists { .. })));
    let short = hugetlb_mfill_atomic(&mmap.locked(), &vma, next, Fill::Copy(&bytes[8..]), task);
    assert!(matches!(short, Err(UserfaultError::BadRange { .. })));
    assert!(hugetlb_follow_page(&mmap.locked(), &vma, next, GupFlags::empty(), task)?.is_none());
    // The pin brings the second page too, and ends with the VMA.
    let flags = GupFlags::PIN | GupFlags::WRITE;
    let Followed::Pages(pins) = follow_hugetlb_page(&mmap.locked(), &vma, at, PUD_SIZE, flags, task)? else {
        return Err("nothing is moved here".into());
    };
    assert_eq!((pins.bytes(), pins.pages().len()), (2 * PMD_SIZE, 2));
    drop(mmap);
    assert_eq!((process.load(at, task)?, process.load(next, task)?), (5, 0));
    for page in pins.pages() {
        page.write(0, &6u64.to_le_bytes())?;
    }
    assert_eq!((process.load(at, task)?, process.load(next, task)?), (6, 6));
    process.exit(task)?;
    let free = || hugetlb.pool(X86_64::SIZE_2M).counters().free;
    drop((vma, file));
    let held = free();
    drop(pins);
    assert_eq!(free(), held + 2, "the device has held them");
    Ok(())
}

/// Threads of two processes touch a shared gigabyte, while others drop its pages, move them and map it anew.
fn many_threads(hugetlb: &Arc<Hugetlb<System>>, task: &mut Task) -> Result {
    let file = HugeFile::new(hugetlb, X86_64::SIZE_2M, None)?;
    let processes = [Process::new(hugetlb)?, Process::new(hugetlb)?];
    let at = VirtAddr::new(6 * PUD_SIZE);
    let whole = at..VirtAddr::new(7 * PUD_SIZE);
    std::thread::scope(|scope| {
        for process in &processes {
            let (file, whole) = (&file, whole.clone());
            scope.spawn(move || {
                // SAFETY: this thread has no other task.
                let task = &mut unsafe { hugewalk::Task::new(hugetlb) }.expect("memory");
                for round in 0..100 {
                    let flags = VmaFlags::SHARED | VmaFlags::NORESERVE;
                    process.map_huge(file, at.as_u64(), 512, flags, task).expect("it is free");
                    process.store(at, round, task).expect("it is mapped");
                    process.dont_need(whole.clone(), task).expect("it is mapped");
                    process.unmap(whole.clone(), task).expect("it is mapped");
                }
            });
            scope.spawn(move || {
                // SAFETY: likewise.
                let task = &mut unsafe { hugewalk::Task::new(hugetlb) }.expect("memory");
                // Mapped or not: an access ends with a value or a signal, and never in memory of another's.
                let values = (0..2000).filter_map(|_| process.load(at, task).ok());
                assert!(values.max().is_none_or(|most| most < 100));
            });
        }
    });
    processes.iter().try_for_each(|process| process.exit(task))
}

#[test]
fn it_runs() {
    main().expect("all is well");
}
