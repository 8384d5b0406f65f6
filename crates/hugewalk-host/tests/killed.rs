//! Waits that end because their task is killed or interrupted.

use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::X86_64;
use hugewalk::error::{Errno, Interrupted};
use hugewalk::fault::{Access, FaultError};
use hugewalk::file::{FileError, HugeFile};
use hugewalk::mm::{MapError, MapRequest};
use hugewalk::sync::Arc;
use hugewalk::uffd::{Features, Modes, Userfault, UserfaultError};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Host, HostConfig, Park};

const PAGE: HugeSize = X86_64::SIZE_2M;
const GIB: u64 = 1 << 30;
const START: VirtAddr = VirtAddr::new(4 * GIB);
/// Long enough for a thread to come to where it waits, and no bound: one that is slower finds its signal there.
const A_WHILE: Duration = Duration::from_millis(30);

struct Setting {
    hugetlb: Arc<Hugetlb<Host>>,
    file: Arc<HugeFile<Host>>,
    space: Arc<AddressSpace<Host>>,
}

fn setting() -> (Setting, Task<Host>) {
    let hugetlb = Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(GIB)).unwrap()).unwrap();
    hugetlb.resize_pool(PAGE, 8);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = HugeFile::new(&hugetlb, PAGE, None).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    space.mmap(&mut task, &MapRequest::file(&file, 0, 4 << 21).shared().at(START)).unwrap();
    (Setting { hugetlb, file, space }, task)
}

impl Setting {
    /// Does this on another thread, and `signal` to it when it waits.
    fn while_it_waits<R: Send>(
        &self,
        work: impl FnOnce(&mut Task<Host>) -> R + Send,
        signal: impl FnOnce(&Park),
    ) -> R {
        thread::scope(|scope| {
            let (here, there): (Sender<Arc<Park>>, _) = channel();
            let waits = scope.spawn(move || {
                let mut task = hugewalk_host::task(&self.hugetlb).unwrap();
                here.send(task.parker().clone()).unwrap();
                work(&mut task)
            });
            let park = there.recv().unwrap();
            thread::sleep(A_WHILE);
            assert!(!waits.is_finished(), "it does not wait");
            signal(&park);
            waits.join().unwrap()
        })
    }
}

#[test]
fn a_writer_that_waits_for_readers_of_the_mmap_lock_can_be_killed() {
    let (setting, mut task) = setting();
    let space = &setting.space;
    // From now on readers mark the lock.
    while setting.hugetlb.revocations() == 0 {
        for _ in 0..64 {
            drop(space.mmap_read(&mut task));
        }
        let held = space.mmap_read(&mut task);
        let killed = setting.while_it_waits(|task| space.munmap(task, START, 1 << 21), Park::kill);
        assert_eq!(killed, Err(MapError::Interrupted(Interrupted)));
        assert_eq!(killed.unwrap_err().errno(), Errno::EINTR);
        assert!(held.find(START).is_some(), "it was unmapped all the same");
    }
    // The lock is free, and no thread waits for it.
    space.munmap(&mut task, START, 1 << 21).unwrap();
    assert!(space.mmap_read(&mut task).find(START).is_none());
}

#[test]
fn a_signal_that_does_not_kill_leaves_a_writer_waiting() {
    let (setting, mut task) = setting();
    let space = &setting.space;
    for _ in 0..64 {
        drop(space.mmap_read(&mut task));
    }
    let held = space.mmap_read(&mut task);
    let unmapped = setting.while_it_waits(
        |task| space.munmap(task, START, 1 << 21),
        |park| {
            park.interrupt();
            thread::sleep(A_WHILE);
            drop(held);
        },
    );
    assert_eq!(unmapped, Ok(()));
}

#[test]
fn a_task_that_is_killed_does_not_begin_to_wait() {
    let (setting, mut task) = setting();
    task.parker().kill();
    let unmapped = setting.space.munmap(&mut task, START, 1 << 21);
    assert_eq!(unmapped, Err(MapError::Interrupted(Interrupted)));
    // An exit does not ask.
    setting.space.exit(&mut task).unwrap();
}

#[test]
fn a_reader_of_messages_is_interrupted_and_reads_on() {
    let (setting, mut task) = setting();
    let handler = Userfault::new(&setting.space, Features::empty()).unwrap();
    handler.register(&mut task, START, 4 << 21, Modes::MISSING).unwrap();
    let read = setting.while_it_waits(
        |task| {
            let first = handler.read_event(task).map(drop);
            assert!(task.parker().take_signal());
            (first, handler.try_read_event().is_none())
        },
        Park::interrupt,
    );
    assert_eq!(read, (Err(UserfaultError::Interrupted(Interrupted)), true));
}

#[test]
fn a_fault_that_waits_for_a_handler_is_interrupted_and_leaves_no_question() {
    let (setting, mut task) = setting();
    let handler = Userfault::new(&setting.space, Features::empty()).unwrap();
    handler.register(&mut task, START, 4 << 21, Modes::MISSING).unwrap();
    let fault = |task: &mut Task<Host>| setting.space.fault(task, START, Access::Read);
    let interrupted = setting.while_it_waits(fault, Park::interrupt);
    assert_eq!(interrupted, Err(FaultError::Interrupted(Interrupted)));
    assert_eq!(interrupted.unwrap_err().errno(), Errno::EINTR);
    assert!(handler.try_read_event().is_none(), "the handler is asked for a fault that has gone");
}

#[test]
fn allocation_of_a_range_ends_at_a_signal_and_goes_on_from_there() {
    let (setting, mut task) = setting();
    task.parker().interrupt();
    let allocated = setting.file.allocate(&mut task, 0, 4 << 21, false);
    assert_eq!(allocated, Err(FileError::Interrupted(Interrupted)));
    assert_eq!(setting.file.pages(), 0);
    assert!(task.parker().take_signal());
    setting.file.allocate(&mut task, 0, 4 << 21, false).unwrap();
    assert_eq!(setting.file.pages(), 4);
}

#[test]
fn whoever_unmaps_and_is_killed_takes_its_event_back() {
    let (setting, mut task) = setting();
    let handler = Userfault::new(&setting.space, Features::EVENT_UNMAP).unwrap();
    handler.register(&mut task, START, 4 << 21, Modes::MISSING).unwrap();
    let unmapped = setting.while_it_waits(|task| setting.space.munmap(task, START, 1 << 21), Park::kill);
    assert_eq!(unmapped, Ok(()));
    assert!(handler.try_read_event().is_none());
    assert!(setting.space.mmap_read(&mut task).find(START).is_none());
}
