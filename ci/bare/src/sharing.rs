//! `hugewalk` at work: two address spaces share a page table, one of them gives it up, and nothing is left behind.

use core::fmt::Arguments;
use core::sync::atomic::Ordering;

use hugewalk::addr::{HugeFrame, HugeSize, PUD_SIZE, VirtAddr};
use hugewalk::arch::Entry;
use hugewalk::fault::{Access, Fault};
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Mm, Placement};
use hugewalk::platform::Platform;
use hugewalk::vma::Protection;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Hugetlb, Task};

use crate::platform::Kernel;
use crate::{Machine, frames, heap};

/// Where the range is mapped. A table is shared if it covers an aligned GiB that is mapped as a whole.
const START: VirtAddr = VirtAddr::new(1024 * PUD_SIZE);

/// A page of the range, and a place in it.
const ADDRESS: VirtAddr = VirtAddr::new(START.as_u64() + 5 * HugeSize::Size2M.bytes() + 0x12_3450);

const WRITTEN: u64 = 0x0123_4567_89ab_cdef;

/// Maps, forks, shares, walks, unshares and exits on machine `M`. To be called once: there is one kernel.
pub(crate) fn prove<M: Machine>(say: &mut dyn FnMut(Arguments<'_>)) {
    let in_use_before = heap::in_use();

    let kernel = Kernel::take().expect("nobody took it before");
    let hugetlb = Hugetlb::new(kernel).expect("there is memory");
    let pages = hugetlb.resize_pool(HugeSize::Size2M, frames::FRAMES as u64);
    assert_eq!(pages, frames::FRAMES as u64, "every frame is in the pool");
    // SAFETY: one for each thread of execution, and here is one: this function is called once.
    let mut task = unsafe { Task::new(&hugetlb) }.expect("there is memory");

    let parent = AddressSpace::new(&hugetlb).expect("there is memory");
    let request = MapRequest {
        placement: Placement::Fixed(START),
        length: PUD_SIZE,
        protection: Protection::READ | Protection::WRITE,
        // A page table's worth of pages is more than there are: promise none of them.
        flags: MapFlags::SHARED | MapFlags::NORESERVE,
        backing: Backing::Anonymous(HugeSize::Size2M),
    };
    assert_eq!(parent.mmap(&mut task, &request), Ok(START));
    assert_eq!(parent.fault(&mut task, ADDRESS, Access::Write), Ok(Fault::Fresh));
    say(format_args!("map: 1 GiB shared, a page of it faulted in"));

    let page = walk(&task, parent.mm()).expect("the page is there");
    // SAFETY: the page is mapped, and nobody unmaps it before the end; eight bytes at this offset lie inside.
    unsafe { hugetlb.platform().write_huge(page, offset_in_page(), &WRITTEN.to_ne_bytes()) };
    mmu_reads_what_was_written::<M>(say, &task, parent.mm(), "the parent's");

    let child = parent.fork(&mut task).expect("there is memory");
    assert_eq!(users(&mut task, &child), None, "fork copies no table of a shared mapping");
    assert_eq!(
        child.fault(&mut task, ADDRESS, Access::Read),
        Ok(Fault::Present),
        "the page came with the table"
    );
    assert_eq!(users(&mut task, &child), Some(2));
    say(format_args!("fork: the child's fault takes up the parent's table, users: 2"));

    assert_eq!(walk(&task, child.mm()), Some(page));
    say(format_args!("walk: in an RCU section, to the parent's page, and confirmed"));
    mmu_reads_what_was_written::<M>(say, &task, child.mm(), "the child's");

    let flushes = child.mm().context().load(Ordering::Relaxed);
    assert_eq!(child.madvise(&mut task, START, PUD_SIZE, Advice::DontNeed), Ok(()));
    assert_eq!(child.mm().context().load(Ordering::Relaxed), flushes + 1);
    assert_eq!((users(&mut task, &parent), users(&mut task, &child)), (Some(1), None));
    assert_eq!(walk(&task, child.mm()), None);
    say(format_args!("unshare: the child gives the table up, users: 1, flushes: 1"));

    assert_eq!(walk(&task, parent.mm()), Some(page));
    let mut read = [0; 8];
    // SAFETY: as above.
    unsafe { hugetlb.platform().read_huge(page, offset_in_page(), &mut read) };
    assert_eq!(u64::from_ne_bytes(read), WRITTEN);
    say(format_args!("keep: the parent still has its page, and what was written there"));
    mmu_reads_what_was_written::<M>(say, &task, parent.mm(), "the parent's");

    assert_eq!(child.fault(&mut task, ADDRESS, Access::Read), Ok(Fault::Present));
    assert_eq!(users(&mut task, &parent), Some(2));
    assert_eq!(walk(&task, child.mm()), Some(page));
    say(format_args!("share: the child's next fault takes the table up again, users: 2"));

    child.exit(&mut task).expect("its own task");
    parent.exit(&mut task).expect("its own task");
    drop((child, parent));
    // Tables outlive their address space until no walker can be in them. Here none is, so this waits for nobody.
    task.rcu_barrier();
    let free = hugetlb.pool(HugeSize::Size2M).counters().free;
    assert_eq!(free, frames::FRAMES as u64, "every page is back in the pool");
    drop((task, hugetlb));
    assert_eq!(heap::in_use(), in_use_before, "every table and record is back in the heap");
    say(format_args!("exit: every page and every table given back"));
}

/// The page at [`ADDRESS`], if one is mapped there. Takes no lock.
fn walk(task: &Task<Kernel>, mm: &Mm<Kernel>) -> Option<HugeFrame> {
    let section = task.rcu_read_lock();
    loop {
        let slot = huge_pte_offset(&section, mm, ADDRESS, HugeSize::Size2M).expect("of one system")?;
        match slot.read() {
            Ok(Entry::Leaf(leaf)) => return Some(leaf.frame),
            Ok(_) => return None,
            // The table was taken away between the walk and the read; the next walk does not find it.
            Err(_unshared) => {}
        }
    }
}

/// How many address spaces use the table, if this one has one.
fn users(task: &mut Task<Kernel>, space: &AddressSpace<Kernel>) -> Option<u64> {
    let tables = space.tables(task).expect("there is memory");
    assert!(tables.len() <= 1, "the range has one table");
    tables.first().map(|table| table.users)
}

/// The engine's tables are the processor's: what `mm` maps at [`ADDRESS`] is what a load there reads.
fn mmu_reads_what_was_written<M: Machine>(
    say: &mut dyn FnMut(Arguments<'_>),
    task: &Task<Kernel>,
    mm: &Mm<Kernel>,
    whose: &str,
) {
    assert!(walk(task, mm).is_some(), "the address is mapped");
    // SAFETY: it is mapped, as just seen, and there is nobody else who could change that.
    if let Some(value) = unsafe { M::load(mm.root_frame(), ADDRESS) } {
        assert_eq!(value, WRITTEN);
        say(format_args!("mmu: a load through {whose} tables reads what was written"));
    }
}

fn offset_in_page() -> u64 {
    ADDRESS.offset_from(ADDRESS.huge_page(HugeSize::Size2M))
}
