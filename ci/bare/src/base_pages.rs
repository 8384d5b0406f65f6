//! Base pages of the kernel's own, in one gigabyte with a huge page of the engine's, and in one tree.
//!
//! `hugewalk` has the tables above; the last table on the way to a base page is the kernel's, and so is what is in it.

use core::fmt::Arguments;
use core::sync::atomic::Ordering;

use hugewalk::addr::{FRAME_BYTES, TableFrame, VirtAddr};
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::base::host_table;
use hugewalk::fault::{Access, Fault};
use hugewalk::mm::{ActiveMm, MapRequest, Placement};
use hugewalk::platform::Tables as _;
use hugewalk::{AddressSpace, Arc, Hugetlb, Task};

use crate::platform::Kernel;
use crate::{Machine, Trap, heap};

const HUGE: VirtAddr = VirtAddr::new(3 * PUD_SIZE);
/// Right behind the huge page.
const BASE: VirtAddr = VirtAddr::new(HUGE.as_u64() + X86_64::SIZE_2M.bytes());
const BASE_PAGES: u64 = 16;

/// An entry of a base page: present, writable, for programs, accessed and dirty.
const PRESENT: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6;

const IN_HUGE: u64 = 0x1111_2222_3333_4444;
const IN_BASE: u64 = 0x5555_6666_7777_8888;

/// Maps a huge page and a base page side by side, and has the processor access both.
pub(crate) fn prove<M: Machine>(
    say: &mut dyn FnMut(Arguments<'_>),
    hugetlb: &Arc<Hugetlb<Kernel<M>>>,
    task: &mut Task<Kernel<M>>,
) {
    task.rcu_barrier();
    let in_use_before = heap::in_use();
    let kernel = hugetlb.platform();
    let space = AddressSpace::new(hugetlb).expect("there is memory");
    let request = MapRequest::anonymous(X86_64::SIZE_2M, X86_64::SIZE_2M.bytes()).at(HUGE);
    assert_eq!(space.mmap(task, &request), Ok(HUGE));
    assert_eq!(space.fault(task, HUGE, Access::Write), Ok(Fault::Fresh));

    let range = BASE..VirtAddr::new(BASE.as_u64() + BASE_PAGES * FRAME_BYTES);
    let claimed = space.claim(task, Placement::FixedNoReplace(BASE), BASE_PAGES * FRAME_BYTES);
    assert_eq!(claimed, Ok(BASE));
    // A page of zeroes is a page of zeroes, whether it becomes a table or not.
    let (page, table) = (zeroes(kernel), zeroes(kernel));
    // SAFETY: allocated just now.
    let entries = unsafe { kernel.table_entries(table) };
    // SAFETY: likewise; entries are atomics. The first one is that of `BASE`.
    unsafe { entries.as_ref() }.store((page.0 * FRAME_BYTES) | PRESENT, Ordering::Release);
    let mmap = space.mmap_read(task);
    // SAFETY: its entries are empty, or let programs reach a page that is theirs. It is freed once it was taken away.
    let put = mmap.host_slot(task, BASE, |slot| unsafe { slot.put(table) });
    drop(mmap);
    assert_eq!(put, Ok(Ok(())));
    assert_eq!(host_table(&task.rcu_read_lock(), space.mm(), BASE), Some(table));
    say(format_args!("base: a table of the kernel's for 4 KiB pages, beside a huge page of the same GiB"));

    accesses::<M>(say, &space, [(HUGE, Some(IN_HUGE)), (BASE, Some(IN_BASE))], "huge and base pages");
    // SAFETY: mapped, and nobody else accesses it.
    let word = unsafe { M::mapped(page.0 * FRAME_BYTES).cast::<u64>().read_volatile() };
    assert_eq!(word, if M::mmu().is_some() { IN_BASE } else { 0 });

    space.munmap(task, HUGE, X86_64::SIZE_2M.bytes()).expect("aligned");
    accesses::<M>(say, &space, [(HUGE, None), (BASE, Some(IN_BASE))], "base pages alone");

    let mut taken = None;
    let mmap = space.mmap_read(task);
    mmap.host_slots(task, range.clone(), |slot| taken = slot.take()).expect("its own task");
    drop(mmap);
    assert_eq!(taken, Some(table));
    accesses::<M>(say, &space, [(HUGE, None), (BASE, None)], "nothing");
    for frame in [page, table] {
        // SAFETY: no entry leads to it any more, and what was cached was flushed.
        unsafe { kernel.free_table(frame) };
    }
    space.release(task, range).expect("nothing is there");
    space.exit(task).expect("its own task");
    drop(space);
    task.rcu_barrier();
    assert_eq!(heap::in_use(), in_use_before, "the tables above are back, too");
    say(format_args!("base: taken away; the tables above went with the last that needed them"));
}

fn zeroes<M: Machine>(kernel: &Kernel<M>) -> TableFrame {
    kernel.alloc_table().expect("there is memory")
}

/// Has the processor store to addresses and load from them, as far as something is to be mapped there.
fn accesses<M: Machine>(
    say: &mut dyn FnMut(Arguments<'_>),
    space: &AddressSpace<Kernel<M>>,
    places: [(VirtAddr, Option<u64>); 2],
    what: &str,
) {
    let Some(mmu) = M::mmu() else { return };
    let (_, format) = &M::formats()[0];
    let active = ActiveMm::new(space.mm());
    // SAFETY: the root is the engine's, and `active` keeps it; nobody changes the tables meanwhile.
    unsafe { mmu.enter(format, active.root_frame().0 * FRAME_BYTES) };
    for (address, value) in places {
        let address = address.as_u64();
        // SAFETY: nothing but raw memory to the program.
        let stored = unsafe { mmu.store(address, value.unwrap_or(0)) };
        let loaded = mmu.load(address);
        match value {
            Some(value) => assert_eq!((stored, loaded), (Ok(()), Ok(value)), "at {address:#x}"),
            None => assert_eq!((stored, loaded), (Err(Trap::Missing), Err(Trap::Missing)), "at {address:#x}"),
        }
    }
    mmu.leave();
    // SAFETY: the processor has loaded another root, which flushes everything.
    unsafe { active.deactivate() };
    say(format_args!("mmu: stores and loads reach {what}"));
}
