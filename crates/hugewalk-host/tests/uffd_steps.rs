//! Scenario S19 step by step: a fault is resolved, and woken, once, between any two of its steps. Nobody wakes it again, so
//! wherever it was then, it must not sleep any more.

mod stepped;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::uffd::{ContinueMode, CopyMode, Features, Modes, ProtectMode, Userfault};
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig};

use stepped::{HANDLER_CALLED, Stepped, Steps, interrupt};

const MIB2: u64 = X86_64::SIZE_2M.bytes();
const BASE: VirtAddr = VirtAddr::new(8 << 30);
/// A fault that has come to no end by then sleeps.
const SLEEPS: Duration = Duration::from_millis(200);
/// And if it still does by now, for ever.
const FOR_EVER: Duration = Duration::from_secs(20);

type Uffd = Userfault<Stepped>;

/// Faults with `resolve` having its turn before each step in turn, in a fresh world each time; returns how many steps there
/// were. The last time the fault sleeps first, and is resolved then.
fn resolved_at_each_step(
    kind: MapFlags,
    modes: Modes,
    access: Access,
    prepare: impl Fn(&Uffd, &mut Task<Stepped>, &HugeFile<Stepped>),
    resolve: impl Fn(&Uffd, &mut Task<Stepped>) + Sync,
) -> u64 {
    for number in 0.. {
        let config = HostConfig::new().huge_bytes(16 * MIB2).max_tables(100).contents(Contents::Nothing);
        let hugetlb = Hugetlb::new(Stepped(Host::new(&config).unwrap())).unwrap();
        hugetlb.resize_pool(X86_64::SIZE_2M, 4);
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
        file.truncate(&mut task, MIB2).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        let request = MapRequest {
            placement: Placement::Fixed(BASE),
            length: MIB2,
            protection: Protection::READ | Protection::WRITE,
            flags: kind,
            backing: Backing::File { file: &file, offset: 0 },
        };
        space.mmap(&mut task, &request).unwrap();
        let uffd = Userfault::new(&space, Features::empty()).unwrap();
        prepare(&uffd, &mut task, &file);
        uffd.register(&mut task, BASE, MIB2, modes).unwrap();
        if modes == Modes::WP {
            uffd.write_protect(&mut task, BASE, MIB2, ProtectMode::WP).unwrap();
        }
        // By whose turn comes first.
        let resolved = AtomicBool::new(false);
        let in_turn = AtomicBool::new(false);
        let (ended, end) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut task = hugewalk_host::task(&hugetlb).unwrap();
                let turn = || {
                    if !resolved.swap(true, Ordering::SeqCst) {
                        in_turn.store(true, Ordering::SeqCst);
                        resolve(&uffd, &mut hugewalk_host::task(&hugetlb).unwrap());
                    }
                };
                let (fault, _) =
                    interrupt(number, Steps::WordsAndLocks, turn, || space.fault(&mut task, BASE, access));
                ended.send(fault).unwrap();
            });
            if end.recv_timeout(SLEEPS).is_ok() {
                return;
            }
            if !resolved.swap(true, Ordering::SeqCst) {
                // So many steps it does not have before it sleeps.
                resolve(&uffd, &mut task);
            }
            if end.recv_timeout(FOR_EVER).is_err() {
                uffd.wake(BASE, MIB2).unwrap();
                panic!("resolved before step {number}, it sleeps for ever");
            }
        });
        let over = !in_turn.load(Ordering::SeqCst);
        space.exit(&mut task).unwrap();
        if over {
            return number;
        }
    }
    unreachable!("it has an end");
}

const KINDS: [MapFlags; 2] = [MapFlags::empty(), MapFlags::SHARED];

#[test]
fn a_missing_page_may_come_at_any_step() {
    for kind in KINDS {
        let steps = resolved_at_each_step(
            kind,
            Modes::MISSING,
            Access::Read,
            |_, _, _| (),
            |uffd, task| {
                // The page may come while the fault holds its locks; or the entry is empty, and it comes.
                uffd.copy(task, BASE, &vec![0; MIB2 as usize], CopyMode::empty()).unwrap();
            },
        );
        assert!(steps > 10, "{steps}");
    }
}

#[test]
fn a_page_of_the_file_may_be_continued_with_at_any_step() {
    for kind in KINDS {
        let steps = resolved_at_each_step(
            kind,
            Modes::MINOR,
            Access::Read,
            |_, task, file| file.write_at(task, 0, b"x").unwrap(),
            |uffd, task| uffd.continue_range(task, BASE, MIB2, ContinueMode::empty()).unwrap(),
        );
        assert!(steps > 10, "{steps}");
    }
}

#[test]
fn a_protection_may_be_taken_back_at_any_step() {
    for kind in KINDS {
        let steps = resolved_at_each_step(
            kind,
            Modes::WP,
            Access::Write,
            |uffd, task, _| {
                uffd.address_space().fault(task, BASE, Access::Write).unwrap();
            },
            |uffd, task| uffd.write_protect(task, BASE, MIB2, ProtectMode::empty()).unwrap(),
        );
        assert!(steps > 10, "{steps}");
    }
}

#[test]
fn the_range_may_be_unregistered_at_any_step() {
    for modes in [Modes::MISSING, Modes::WP] {
        let steps = resolved_at_each_step(
            MapFlags::SHARED,
            modes,
            Access::Write,
            |uffd, task, _| {
                if modes == Modes::WP {
                    uffd.address_space().fault(task, BASE, Access::Write).unwrap();
                }
            },
            |uffd, task| uffd.unregister(task, BASE, MIB2).unwrap(),
        );
        assert!(steps > 10, "{steps}");
    }
}

#[test]
fn the_host_is_told_that_a_handler_has_a_message() {
    let config = HostConfig::new().huge_bytes(16 * MIB2).max_tables(100).contents(Contents::Nothing);
    let hugetlb = Hugetlb::new(Stepped(Host::new(&config).unwrap())).unwrap();
    hugetlb.resize_pool(X86_64::SIZE_2M, 4);
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    space.mmap(&mut task, &MapRequest::anonymous(X86_64::SIZE_2M, MIB2).at(BASE)).unwrap();
    let uffd = Userfault::new(&space, Features::empty()).unwrap();
    uffd.register(&mut task, BASE, MIB2, Modes::MISSING).unwrap();
    let (tell, told) = channel();
    let told = thread::scope(|scope| {
        scope.spawn(|| {
            HANDLER_CALLED.set(Some(tell));
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            space.fault(&mut task, BASE, Access::Read).unwrap();
        });
        let told = told.recv_timeout(FOR_EVER);
        uffd.read_event(&mut task).unwrap();
        uffd.wake(BASE, MIB2).unwrap();
        told
    });
    assert!(told.is_ok(), "the fault has sent its message, and the host was not told");
}
