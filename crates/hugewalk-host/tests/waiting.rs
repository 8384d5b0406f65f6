//! What a guard of the mmap lock holds up, and what it does not, while another thread waits for the lock in write. As the
//! documentation of `hugewalk::mm` has it: fair locks, real threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::fault::{Access, Fault};
use hugewalk::file::HugeFile;
use hugewalk::gup::GupFlags;
use hugewalk::mm::MapRequest;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Hugetlb};
use hugewalk_host::{Host, HostConfig};

const PAGE: HugeSize = X86_64::SIZE_2M;
const START: VirtAddr = VirtAddr::new(4 * PUD_SIZE);
/// Long enough for a thread to come to its lock, and no bound: a thread that is slower makes the test see less.
const A_WHILE: Duration = Duration::from_millis(100);

/// A lock may be tried so often before it is biased. Readers of a biased lock may overtake a writer that still waits for others.
const TRIES: usize = 8;

#[test]
fn a_writer_waits_for_a_guard_and_readers_wait_for_the_writer() {
    let hugetlb = Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(PUD_SIZE)).unwrap()).unwrap();
    hugetlb.resize_pool(PAGE, 4);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = HugeFile::new(&hugetlb, PAGE, None).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    let map = || MapRequest::file(&file, 0, 4 << 21).shared().at(START);
    space.mmap(&mut task, &map()).unwrap();
    space.fault(&mut task, START, Access::Write).unwrap();
    let (unmapped, faulted) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let guard = space.mmap_read(&mut task);
        scope.spawn(|| {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            space.munmap(&mut task, START, 2 << 21).unwrap();
            unmapped.store(true, Ordering::Release);
        });
        // The writer waits as soon as readers are turned away.
        let writer_waits = (0..TRIES).any(|number| {
            // Few tries, and more time for each: on a busy machine the writer may take seconds to come.
            thread::sleep(A_WHILE * (1 << number));
            space.mmap_try_read(&task).is_none()
        });
        assert!(writer_waits, "readers are not turned away");
        scope.spawn(|| {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            // A fault by the thread that has the guard would wait here for itself.
            let fault = space.fault(&mut task, START.checked_add(3 << 21).unwrap(), Access::Write);
            assert_eq!(fault, Ok(Fault::Fresh));
            faulted.store(true, Ordering::Release);
        });
        thread::sleep(A_WHILE);
        assert!(!unmapped.load(Ordering::Acquire), "the mapping went under a guard");
        assert!(!faulted.load(Ordering::Acquire), "a fault overtook the writer");

        // All that may be called under the guard goes through.
        assert!(space.pin_page_fast(&task, START, GupFlags::PIN).is_some());
        let section = task.rcu_read_lock();
        assert!(huge_pte_offset(&section, space.mm(), START, PAGE).unwrap().unwrap().read().is_ok());
        drop(section);
        let vma = guard.find(START).unwrap();
        let locked = guard.lock_vma(vma, &mut task).unwrap();
        assert!(huge_pte_offset(&locked, space.mm(), START, PAGE).unwrap().is_some());
        drop(file.i_mmap_read(&mut task));
        drop(locked);
        drop(guard.lock_vma_write(vma, &mut task).unwrap());
        task.synchronize();
        task.rcu_barrier();
        assert!(!unmapped.load(Ordering::Acquire));
        drop(guard);
    });
    assert!(unmapped.into_inner() && faulted.into_inner());
    assert!(space.fault(&mut task, START, Access::Read).is_err(), "it is unmapped now");
}
