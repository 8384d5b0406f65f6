//! A task of another system, for every public operation that takes a task. The list is held against the source.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

use hugewalk::Arc;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, PMD_SIZE, X86_64};
use hugewalk::base::HostSlot;
use hugewalk::error::{Errno, WrongSystem};
use hugewalk::fault::{Access, hugetlb_fault};
use hugewalk::gather::Gather;
use hugewalk::gup::{follow_hugetlb_page, hugetlb_follow_page};
use hugewalk::mm::{Advice, LockAll, MapRequest, Mm, Placement, RemapTo};
use hugewalk::pagewalk::{Found, Next, Resched, Scan, SleepingVisitor, Visitor};
use hugewalk::share::huge_pmd_unshare;
use hugewalk::uffd::{
    ContinueMode, CopyMode, Features, Fill, Modes, PoisonMode, ProtectMode, Userfault, hugetlb_mfill_atomic,
};
use hugewalk::vm_ops;
use hugewalk::vma::{MmapLockedForWrite, Policy, Protection, Shape, Vma, VmaFlags};
use hugewalk::walk::{WrongProof, huge_pte_offset};
use hugewalk_host::Host;

use crate::gup::PIN;
use crate::pages::page;
use crate::{HANDLED, World, errno};

/// The error of an operation that has no other than [`WrongSystem`]. Linux has one system, so it has no number for that.
fn wrong_system<T>(result: Result<T, WrongSystem>) -> Option<Errno> {
    result.err().map(|WrongSystem| Errno::EINVAL)
}

/// Fails if it visits anything.
struct Nothing;

impl Visitor<Host> for Nothing {
    fn entry(&mut self, found: &Found<'_, Host>) {
        panic!("visited {}", found.address());
    }
    fn hole(&mut self, _: &Vma<Host>, range: Range<VirtAddr>) {
        panic!("visited {}", range.start);
    }
}

impl SleepingVisitor<Host> for Nothing {
    fn entry(&mut self, _: &mut Resched<'_, Host>, _: &Vma<Host>, address: VirtAddr, _: Entry) -> Next {
        panic!("visited {address}");
    }
}

/// A process of a host that has a set of VMAs of its own, with one VMA.
fn in_own_set(
    w: &mut World,
    call: impl FnOnce(&mut World, &Arc<Mm<Host>>, &Arc<Vma<Host>>) -> Option<Errno>,
) -> Option<Errno> {
    let mm = Mm::new(&w.hugetlb).unwrap();
    // SAFETY: nothing is mapped there yet.
    let vma = unsafe { vm_ops::map(&mut locked(&mm), &w.file, shape(0), &mut w.task) }.unwrap();
    let error = call(w, &mm, &vma);
    drop(vm_ops::unmap(&mut locked(&mm), &vma, &mut w.task).expect("it is still mapped"));
    // SAFETY: its only VMA was unmapped.
    unsafe { vm_ops::free_tables(&mut locked(&mm), page(0)..page(2), page(0)..page(1000), &w.task) }.unwrap();
    error
}

/// Nobody else knows such an address space, so its lock needs no lock.
fn locked(mm: &Arc<Mm<Host>>) -> MmapLockedForWrite<'_, Host> {
    // SAFETY: this thread is the only one that knows it, and uses one such value at a time.
    unsafe { MmapLockedForWrite::assume_held(mm) }
}

fn shape(at: u64) -> Shape {
    let flags = VmaFlags::SHARED | VmaFlags::NORESERVE;
    let (start, end) = (page(at), page(at + 2));
    Shape { start, end, offset: 0, protection: Protection::READ, flags, policy: Policy::Default }
}

type Foreign = (&'static str, fn(&mut World) -> Option<Errno>);

/// Where an operation is declared, and a call of it that would do something with a task of the right system.
pub(crate) const CASES: &[Foreign] = &[
    ("base/mod.rs host_slot", |w| {
        let mmap = w.space.mmap_read(&mut w.task);
        errno!(mmap.host_slot(&mut w.foreign.task, page(40), |_| panic!("lent")))
    }),
    ("base/mod.rs host_slots", |w| {
        let mmap = w.space.mmap_read(&mut w.task);
        wrong_system(mmap.host_slots(&w.foreign.task, page(0)..page(40), |_| panic!("lent")))
    }),
    ("base/locked.rs host_slot", |w| {
        in_own_set(w, |w, mm, _| {
            let free = page(2)..page(1000);
            // SAFETY: the only VMA ends before.
            errno!(unsafe { locked(mm).host_slot(&mut w.foreign.task, page(40), &free, |_| panic!("lent")) })
        })
    }),
    ("base/locked.rs host_slots", |w| {
        in_own_set(w, |w, mm, _| {
            let free = page(2)..page(1000);
            let visit = |_: &mut HostSlot<'_, Host>| panic!("lent");
            // SAFETY: the only VMA ends before.
            wrong_system(unsafe { locked(mm).host_slots(&w.foreign.task, page(40)..page(41), &free, visit) })
        })
    }),
    ("fault/mod.rs hugetlb_fault", |w| {
        in_own_set(w, |w, mm, vma| {
            errno!(hugetlb_fault(&locked(mm), vma, page(0), Access::Read, &mut w.foreign.task))
        })
    }),
    ("vm_ops/copy.rs copy", |w| {
        in_own_set(w, |w, mm, vma| {
            let child = Mm::new(&w.hugetlb).unwrap();
            // SAFETY: nothing is mapped in the child.
            errno!(unsafe { vm_ops::copy(&mut locked(mm), vma, &mut locked(&child), &mut w.foreign.task) })
        })
    }),
    ("vm_ops/exchange.rs protect", |w| {
        in_own_set(w, |w, mm, vma| {
            errno!(vm_ops::protect(&mut locked(mm), vma, Protection::WRITE, &mut w.foreign.task))
        })
    }),
    ("vm_ops/map.rs map", |w| {
        in_own_set(w, |w, mm, _| {
            // SAFETY: nothing is mapped there.
            errno!(unsafe { vm_ops::map(&mut locked(mm), &w.file, shape(4), &mut w.foreign.task) })
        })
    }),
    ("vm_ops/remap.rs remap", |w| {
        in_own_set(w, |w, mm, vma| {
            // SAFETY: nothing is mapped there.
            errno!(unsafe { vm_ops::remap(&mut locked(mm), vma, page(40), &mut w.foreign.task) })
        })
    }),
    ("vm_ops/settle.rs settle", |w| {
        in_own_set(w, |w, mm, vma| errno!(vm_ops::settle(&mut locked(mm), vma, &mut w.foreign.task)))
    }),
    ("vm_ops/split.rs split", |w| {
        in_own_set(w, |w, mm, vma| errno!(vm_ops::split(&mut locked(mm), vma, page(1), &mut w.foreign.task)))
    }),
    ("vm_ops/unmap.rs free_tables", |w| {
        in_own_set(w, |w, mm, _| {
            let range = page(4)..page(8);
            // SAFETY: nothing is mapped there.
            wrong_system(unsafe {
                vm_ops::free_tables(&mut locked(mm), range.clone(), range, &w.foreign.task)
            })
        })
    }),
    ("vm_ops/unmap.rs unmap", |w| {
        in_own_set(w, |w, mm, vma| errno!(vm_ops::unmap(&mut locked(mm), vma, &mut w.foreign.task)))
    }),
    ("vm_ops/zap.rs zap", |w| {
        in_own_set(w, |w, mm, vma| {
            errno!(vm_ops::zap(&locked(mm), vma, page(0)..page(1), &mut w.foreign.task))
        })
    }),
    ("fault/mod.rs fault", |w| errno!(w.space.fault(&mut w.foreign.task, page(1), Access::Write))),
    ("file/io.rs reserve", |w| errno!(w.file.reserve(&mut w.foreign.task, 0, PMD_SIZE))),
    ("file/io.rs unreserve", |w| errno!(w.file.unreserve(&mut w.foreign.task, 0, PMD_SIZE))),
    ("file/io.rs allocate", |w| errno!(w.file.allocate(&mut w.foreign.task, 0, 3 * PMD_SIZE, false))),
    ("file/io.rs write_at", |w| errno!(w.file.write_at(&mut w.foreign.task, 0, &[9]))),
    ("file/write.rs write_from", |w| {
        let mut source: &[u8] = &[9];
        w.file.write_from(&mut w.foreign.task, 0, 1, &mut source).err().map(|stopped| stopped.error.errno())
    }),
    ("truncate.rs truncate", |w| errno!(w.file.truncate(&mut w.foreign.task, 0))),
    ("truncate.rs punch_hole", |w| errno!(w.file.punch_hole(&mut w.foreign.task, 0, PMD_SIZE))),
    ("gup/locked.rs follow_hugetlb_page", |w| {
        in_own_set(w, |w, mm, vma| {
            errno!(follow_hugetlb_page(&locked(mm), vma, page(0), 1, PIN, &mut w.foreign.task))
        })
    }),
    ("gup/locked.rs hugetlb_follow_page", |w| {
        in_own_set(w, |w, mm, vma| {
            errno!(hugetlb_follow_page(&locked(mm), vma, page(0), PIN, &w.foreign.task))
        })
    }),
    ("gup/mod.rs pin_pages", |w| errno!(w.space.pin_pages(&mut w.foreign.task, page(0), 1, PIN))),
    ("gup/mod.rs pin_pages_nowait", |w| errno!(w.space.pin_pages_nowait(&w.foreign.task, page(0), 1, PIN))),
    ("gup/mod.rs pin_pages_fast", |w| errno!(w.space.pin_pages_fast(&mut w.foreign.task, page(0), 1, PIN))),
    // It has no error to return.
    ("gup/mod.rs pin_page_fast", |w| {
        w.space.pin_page_fast(&w.foreign.task, page(0), PIN).is_none().then_some(Errno::EINVAL)
    }),
    ("gup/mod.rs follow_page", |w| errno!(w.space.follow_page(&w.foreign.task, page(0), PIN))),
    ("gup/transfer.rs read_bytes", |w| errno!(w.space.read_bytes(&mut w.foreign.task, page(0), &mut [0]))),
    ("gup/transfer.rs write_bytes", |w| errno!(w.space.write_bytes(&mut w.foreign.task, page(0), &[9]))),
    ("mm/advise.rs madvise", |w| {
        errno!(w.space.madvise(&mut w.foreign.task, page(0), PMD_SIZE, Advice::DontNeed))
    }),
    ("mm/bind.rs mbind", |w| errno!(w.space.mbind(&mut w.foreign.task, page(0), PMD_SIZE, Policy::Default))),
    ("mm/claim.rs claim", |w| errno!(w.space.claim(&mut w.foreign.task, Placement::Anywhere, PMD_SIZE))),
    ("mm/claim.rs release", |w| errno!(w.space.release(&mut w.foreign.task, page(40)..page(41)))),
    ("mm/exit.rs exit", |w| wrong_system(w.space.exit(&mut w.foreign.task))),
    ("mm/exit.rs has_exited", |w| wrong_system(w.space.has_exited(&mut w.foreign.task))),
    ("mm/fork.rs fork", |w| errno!(w.space.fork(&mut w.foreign.task))),
    ("mm/lock.rs mlock", |w| errno!(w.space.mlock(&mut w.foreign.task, page(0), PMD_SIZE))),
    ("mm/lock.rs munlock", |w| errno!(w.space.munlock(&mut w.foreign.task, page(0), PMD_SIZE))),
    ("mm/lock.rs mlockall", |w| errno!(w.space.mlockall(&mut w.foreign.task, LockAll::FUTURE))),
    ("mm/lock.rs munlockall", |w| errno!(w.space.munlockall(&mut w.foreign.task))),
    ("mm/map.rs mmap", |w| {
        let request = MapRequest::anonymous(X86_64::SIZE_2M, PMD_SIZE);
        errno!(w.space.mmap(&mut w.foreign.task, &request))
    }),
    ("mm/observe.rs residency", |w| {
        wrong_system(w.space.residency(&mut w.foreign.task, |vma, _| panic!("visited {vma:?}")))
    }),
    ("mm/observe.rs tables", |w| errno!(w.space.tables(&mut w.foreign.task))),
    ("mm/observe.rs tables_counting", |w| {
        errno!(w.space.tables_counting(&mut w.foreign.task, |_, _| panic!("asked")))
    }),
    ("mm/protect.rs mprotect", |w| {
        errno!(w.space.mprotect(&mut w.foreign.task, page(0), PMD_SIZE, Protection::READ))
    }),
    ("mm/remap.rs mremap", |w| {
        let to = RemapTo::Fixed(page(40));
        errno!(w.space.mremap(&mut w.foreign.task, page(0), PMD_SIZE, PMD_SIZE, to))
    }),
    ("mm/seal.rs mseal", |w| errno!(w.space.mseal(&mut w.foreign.task, page(0), 2 * PMD_SIZE))),
    ("mm/settle.rs settle", |w| wrong_system(w.space.settle(&mut w.foreign.task))),
    ("mm/soft_dirty.rs clear_soft_dirty", |w| wrong_system(w.space.clear_soft_dirty(&mut w.foreign.task))),
    ("mm/unmap.rs munmap", |w| errno!(w.space.munmap(&mut w.foreign.task, page(0), 2 * PMD_SIZE))),
    ("pagewalk/mod.rs walk_range", |w| {
        errno!(w.space.walk_range(&mut w.foreign.task, page(0)..page(2), &mut Nothing))
    }),
    ("pagewalk/mod.rs walk_range_sleeping", |w| {
        errno!(w.space.walk_range_sleeping(&mut w.foreign.task, page(0)..page(2), &mut Nothing))
    }),
    ("pagewalk/reports.rs pagemap", |w| errno!(w.space.pagemap(&mut w.foreign.task, page(0)..page(2)))),
    ("pagewalk/reports.rs mincore", |w| errno!(w.space.mincore(&mut w.foreign.task, page(0)..page(2)))),
    ("pagewalk/reports.rs sample_accessed", |w| {
        errno!(w.space.sample_accessed(&mut w.foreign.task, page(0)..page(2)))
    }),
    ("pagewalk/reports.rs numa_maps", |w| errno!(w.space.numa_maps(&mut w.foreign.task, page(0)..page(2)))),
    ("pagewalk/scan.rs scan_pages", |w| {
        errno!(w.space.scan_pages(&mut w.foreign.task, &Scan::new(page(0)..page(2))))
    }),
    ("rmap/displace.rs unmap_page", |w| {
        let frame = w.frame(0);
        errno!(w.hugetlb.unmap_page(&mut w.foreign.task, frame))
    }),
    ("rmap/failure.rs memory_failure", |w| {
        let frame = w.frame(0);
        errno!(w.hugetlb.memory_failure(&mut w.foreign.task, frame))
    }),
    ("rmap/failure.rs referenced", |w| {
        let frame = w.frame(0);
        errno!(w.hugetlb.referenced(&mut w.foreign.task, frame))
    }),
    ("rmap/migrate.rs migrate", |w| {
        let frame = w.frame(0);
        errno!(w.hugetlb.migrate(&mut w.foreign.task, frame))
    }),
    ("rmap/migrate.rs soft_offline", |w| {
        let frame = w.frame(0);
        errno!(w.hugetlb.soft_offline(&mut w.foreign.task, frame))
    }),
    ("share.rs huge_pmd_unshare", |w| {
        let mmap = w.space.mmap_read(&mut w.task);
        let mut vma = mmap.lock_vma_write(mmap.find(page(0)).unwrap(), &mut w.task).unwrap();
        let mut i_mmap = w.file.i_mmap_write(&mut w.task);
        Gather::scope(w.space.mm(), &mut i_mmap, |gather| {
            let unshared = huge_pmd_unshare(&mut vma, page(0), gather, &w.foreign.task);
            unshared.err().map(|WrongProof| Errno::EINVAL)
        })
    }),
    ("uffd/fill.rs hugetlb_mfill_atomic", |w| {
        in_own_set(w, |w, mm, vma| {
            errno!(hugetlb_mfill_atomic(&locked(mm), vma, page(0), Fill::Continue, &mut w.foreign.task))
        })
    }),
    ("uffd/fill.rs copy", |w| {
        let bytes = vec![9; PMD_SIZE as usize];
        errno!(w.uffd.copy(&mut w.foreign.task, page(HANDLED + 1), &bytes, CopyMode::empty()))
    }),
    ("uffd/fill.rs copy_from", |w| {
        let mut source: &[u8] = &vec![9; PMD_SIZE as usize];
        let place = (page(HANDLED + 1), PMD_SIZE);
        errno!(w.uffd.copy_from(&mut w.foreign.task, place.0, place.1, &mut source, CopyMode::empty()))
    }),
    ("uffd/fill.rs continue_range", |w| {
        let mode = ContinueMode::empty();
        errno!(w.uffd.continue_range(&mut w.foreign.task, page(HANDLED + 1), PMD_SIZE, mode))
    }),
    ("uffd/fill.rs poison", |w| {
        let mode = PoisonMode::empty();
        errno!(w.uffd.poison(&mut w.foreign.task, page(HANDLED + 1), PMD_SIZE, mode))
    }),
    ("uffd/fill.rs zero", |w| errno!(w.uffd.zero(&mut w.foreign.task, page(HANDLED + 1), PMD_SIZE))),
    ("uffd/mod.rs read_event", |w| errno!(w.uffd.read_event(&mut w.foreign.task))),
    ("uffd/mod.rs close", |w| {
        let handle = Userfault::new(&w.space, Features::empty()).unwrap();
        handle.register(&mut w.task, page(0), 2 * PMD_SIZE, Modes::WP).unwrap();
        let (handle, WrongSystem) = handle.close(&mut w.foreign.task).err()?;
        // It is still what it was.
        handle.write_protect(&mut w.task, page(0), PMD_SIZE, ProtectMode::WP).unwrap();
        handle.write_protect(&mut w.task, page(0), PMD_SIZE, ProtectMode::empty()).unwrap();
        handle.unregister(&mut w.task, page(0), 2 * PMD_SIZE).unwrap();
        Some(Errno::EINVAL)
    }),
    ("uffd/protect.rs write_protect", |w| {
        let mode = ProtectMode::WP;
        errno!(w.uffd.write_protect(&mut w.foreign.task, page(HANDLED), PMD_SIZE, mode))
    }),
    ("uffd/register.rs register", |w| {
        errno!(w.rival.register(&mut w.foreign.task, page(0), PMD_SIZE, Modes::WP))
    }),
    ("uffd/register.rs unregister", |w| {
        errno!(w.uffd.unregister(&mut w.foreign.task, page(HANDLED), PMD_SIZE))
    }),
];

/// Guards take a task of any system: see `hugewalk::task`.
const GUARDS: &[&str] = &[
    "file/i_mmap.rs i_mmap_read",
    "file/i_mmap.rs i_mmap_write",
    "sleep/own.rs read",
    "sleep/own.rs try_read",
    "sleep/own.rs write",
    "sleep/own.rs write_killable",
    "space/mod.rs mmap_read",
    "space/mod.rs mmap_try_read",
    "space/mod.rs lock_vma",
    "space/mod.rs lock_vma_write",
    "table/slot.rs lock",
    "vma/mmap.rs lock_vma",
    "vma/mmap.rs lock_vma_write",
];

/// Needs a page that is being moved at that very moment.
const NOT_REACHED: &[&str] = &["fault/mod.rs wait"];

/// A queue belongs to no system.
const OF_NO_SYSTEM: &[&str] = &["sleep/wait.rs wait", "sleep/wait.rs wait_as", "sleep/wait.rs wait_unless"];

/// `file name`, of each public function of the engine that takes a task.
fn declared(directory: &Path, root: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            declared(&path, root, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let code = code.replace("pub unsafe fn ", "pub fn ");
        for declaration in code.split("pub fn ").skip(1) {
            let head = declaration.split(['{', ';']).next().unwrap();
            let (name, rest) = head.split_at(head.find(['(', '<']).unwrap());
            let parameters = rest.split("->").next().unwrap();
            let file = path.strip_prefix(root).unwrap().to_str().unwrap();
            if ["&Task<", "&mut Task<", "Task<P>)"].iter().any(|kind| parameters.contains(kind))
                || (parameters.contains("&'") && parameters.contains(" Task<"))
            {
                found.insert(format!("{file} {name}"));
            }
        }
    }
}

#[test]
fn no_operation_that_takes_a_task_is_left_out() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hugewalk/src");
    let mut found = BTreeSet::new();
    declared(&root, &root, &mut found);
    let listed = CASES
        .iter()
        .map(|(name, _)| *name)
        .chain(GUARDS.iter().chain(OF_NO_SYSTEM).chain(NOT_REACHED).copied());
    assert_eq!(found, listed.map(String::from).collect());
}

/// What a guard is, whichever task took it.
#[test]
fn guards_taken_with_a_task_of_another_system_are_as_good() {
    let mut world = World::new();
    let World { space, other, file, task, foreign, .. } = &mut world;
    // A process that was dropped waits for an operation of its own system.
    let dropped = hugewalk::AddressSpace::new(task.hugetlb()).unwrap();
    dropped.mmap(task, &MapRequest::file(file, 0, PMD_SIZE).shared().at(page(0))).unwrap();
    drop(dropped);
    let mmap = space.mmap_read(&mut foreign.task);
    let vma = mmap.find(page(0)).unwrap();
    assert!(space.mmap_try_read(&foreign.task).is_some());
    let i_mmap = file.i_mmap_read(&mut foreign.task);
    assert_eq!(i_mmap.vmas(0..1).count(), 3, "none of them was taken down");
    drop(i_mmap);
    let locked = mmap.lock_vma(vma, &mut foreign.task).unwrap();
    // It proves what it is a proof of, and nothing else.
    assert!(huge_pte_offset(&locked, other.mm(), page(0), X86_64::SIZE_2M).is_err());
    let slot = huge_pte_offset(&locked, space.mm(), page(0), X86_64::SIZE_2M).unwrap().unwrap();
    let entry = slot.lock(&foreign.task).read();
    assert_eq!(slot.read(), entry);
    drop(locked);
    drop(mmap.lock_vma_write(vma, &mut foreign.task).unwrap());
    drop(mmap);
    // A section of another system is no proof.
    let section = foreign.task.rcu_read_lock();
    assert!(huge_pte_offset(&section, space.mm(), page(0), X86_64::SIZE_2M).is_err());
    drop(section);
    foreign.task.finish_drops();
    drop(file.i_mmap_write(&mut foreign.task));
    assert_eq!(file.i_mmap_read(task).vmas(0..1).count(), 3);
    task.finish_drops();
    assert_eq!(file.i_mmap_read(task).vmas(0..1).count(), 2);
}
