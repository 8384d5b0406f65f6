//! Memory: mmap, munmap, mprotect, mremap, madvise, brk, mlock, mincore, userfaultfd.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::arch::numbers::*;
use hugewalk::addr::HugeSize;
use hugewalk::addr::VirtAddr;
use hugewalk::mm::{Advice, LockAll};

use super::{Answer, Arguments};
use crate::arch;
use crate::errno::{Errno, Result};
use crate::fs;
use crate::memory::{PAGE, user};
use crate::platform;
use crate::process::memlock;
use crate::process::signal;
use crate::space::Space;
use crate::space::area::{Area, Backing, PageSource, Rights};
use crate::space::fault::Refused;
use crate::space::map::{HugeMapping, Place};
use crate::space::remap::Move;
use crate::space::shared::SharedPages;
use crate::task::current;
use crate::uffd;

pub(super) fn call(number: u32, a: &Arguments) -> Answer {
    let answer = serve(number, a)?;
    let me = current();
    me.space().count_attached(me.process().pid);
    Some(answer)
}

fn serve(number: u32, a: &Arguments) -> Answer {
    let space = || current().space();
    Some(match number {
        __NR_mmap => mmap(a[0], a[1], a[2], a[3] as u32, a[4] as i32, a[5]),
        __NR_munmap => space().unmap(a[0], a[1]).map(|()| 0),
        __NR_mprotect => rights(a[2]).and_then(|rights| space().protect(a[0], a[1], rights)).map(|()| 0),
        __NR_mremap => mremap(a),
        __NR_madvise => madvise(&space(), a[0], a[1], a[2] as u32).map(|()| 0),
        __NR_brk => Ok(space().move_brk(a[0])),
        __NR_mincore => mincore(a[0], a[1], a[2]),
        __NR_mlock => memlock::check(a[1], Errno::ENOMEM).and_then(|()| mlock(&space(), a[0], a[1], 0)),
        __NR_mlock2 => memlock::check(a[1], Errno::ENOMEM).and_then(|()| mlock(&space(), a[0], a[1], a[2])),
        __NR_munlock => munlock(&space(), a[0], a[1]),
        __NR_mlockall => mlockall(&space(), a[0] as u32),
        __NR_munlockall => munlockall(&space()),
        __NR_msync => msync(&space(), a[0], a[1], a[2] as u32),
        // As on a processor without protection keys, where -1 stands for none.
        __NR_pkey_mprotect if a[3] as i32 == -1 => {
            rights(a[2]).and_then(|rights| space().protect(a[0], a[1], rights)).map(|()| 0)
        }
        __NR_pkey_mprotect | __NR_pkey_free => Err(Errno::EINVAL),
        __NR_pkey_alloc => Err(if a[0] != 0 || a[1] & !3 != 0 { Errno::EINVAL } else { Errno::ENOSPC }),
        __NR_mseal if a[2] != 0 => Err(Errno::EINVAL),
        __NR_mseal => mseal(&space(), a[0], a[1]),
        __NR_userfaultfd => uffd::create(a[0] as u32),
        __NR_membarrier => membarrier(a[0] as u32, a[1]),
        _ => return None,
    })
}

fn rights(bits: u64) -> Result<Rights> {
    // PROT_SEM is of other processors; PROT_GROWSDOWN and PROT_GROWSUP are for stacks.
    let known = u64::from(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM);
    if bits & !known != 0 { Err(Errno::EINVAL) } else { Ok(Rights::from_bits_truncate(bits as u8)) }
}

/// The size that `MAP_HUGETLB` asks for.
fn huge_size(flags: u32) -> Result<HugeSize> {
    match flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK {
        0 => Ok(arch::SIZE_2M),
        shift => platform::sizes().find(|size| size.shift() == shift).ok_or(Errno::EINVAL),
    }
}

fn mmap(address: u64, length: u64, prot: u64, flags: u32, descriptor: i32, offset: u64) -> Result<u64> {
    let space = current().space();
    let rights = Rights::from_bits_truncate(prot as u8);
    let shared = match flags & MAP_TYPE {
        MAP_PRIVATE => false,
        MAP_SHARED | MAP_SHARED_VALIDATE => true,
        _ => return Err(Errno::EINVAL),
    };
    if length == 0 || !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    if offset.checked_add(length).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Errno::EOVERFLOW);
    }
    let fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
    if fixed && !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let place = match address {
        at if flags & MAP_FIXED_NOREPLACE != 0 => Place::FixedNoReplace(at),
        at if flags & MAP_FIXED != 0 => Place::Fixed(at),
        hint => Place::Hint(hint & !(PAGE - 1)),
    };
    if flags & MAP_LOCKED != 0 {
        memlock::check(length, Errno::EAGAIN)?;
    }
    // Only private memory without a file grows down.
    let grows = flags & MAP_GROWSDOWN != 0;
    if grows && (shared || flags & MAP_ANONYMOUS == 0 || flags & MAP_HUGETLB != 0) {
        return Err(Errno::EINVAL);
    }
    let noreserve = flags & MAP_NORESERVE != 0;
    let (populate, locked) = (flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE, flags & MAP_LOCKED != 0);
    let huge = |size, file| HugeMapping { file, size, length, rights, shared, noreserve, populate, locked };
    let mut is_huge = flags & MAP_HUGETLB != 0;
    let start = if flags & MAP_ANONYMOUS != 0 {
        if flags & MAP_HUGETLB != 0 {
            let size = huge_size(flags)?;
            if !offset.is_multiple_of(size.bytes()) {
                return Err(Errno::EINVAL);
            }
            space.map_huge(place, &huge(size, None))?
        } else {
            map_base(&space, place, length, rights, shared, None)?
        }
    } else {
        let opened = current().process().files().get(descriptor)?;
        if flags & MAP_HUGETLB != 0 && !matches!(opened.inode.kind, fs::inode::Kind::Huge(_)) {
            return Err(Errno::EINVAL);
        }
        let (backing, may_write) = opened.backing(shared, rights.contains(Rights::WRITE))?;
        match backing {
            fs::Backing::Huge(file) => {
                is_huge = true;
                space.map_huge(place, &huge(file.size_class(), Some((&file, offset))))?
            }
            fs::Backing::Base(source) => {
                map_base(&space, place, length, rights, shared, Some((source, offset / PAGE, may_write)))?
            }
            fs::Backing::Zeroes => map_base(&space, place, length, rights, shared, None)?,
        }
    };
    // The engine sees to its own.
    if flags & (MAP_POPULATE | MAP_LOCKED) != 0 && flags & MAP_NONBLOCK == 0 && !is_huge {
        space.populate(start, length, rights);
    }
    crate::report::sample();
    Ok(start)
}

fn map_base(
    space: &Space,
    place: Place,
    length: u64,
    rights: Rights,
    shared: bool,
    source: Option<(Arc<dyn PageSource>, u64, bool)>,
) -> Result<u64> {
    let (backing, may_write) = match source {
        Some((source, index, may_write)) => (Backing::Source { source, index }, may_write),
        None if shared => (Backing::Source { source: Arc::new(SharedPages::new()), index: 0 }, true),
        None => (Backing::Anonymous, true),
    };
    let area = Area {
        start: 0,
        end: 0,
        rights,
        shared,
        may_write,
        stack: false,
        dont_fork: false,
        handler: None,
        backing,
    };
    space.map_base(place, length, area)
}

fn mremap(a: &Arguments) -> Result<u64> {
    let [old, old_length, new_length, flags, new, _] = *a;
    let flags = flags as u32;
    if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED) != 0
        || flags & MREMAP_FIXED != 0 && flags & MREMAP_MAYMOVE == 0
    {
        return Err(Errno::EINVAL);
    }
    let to = match flags {
        _ if flags & MREMAP_FIXED != 0 => Move::To(new),
        _ if flags & MREMAP_MAYMOVE != 0 => Move::May,
        _ => Move::No,
    };
    current().space().remap(old, old_length, new_length, to)
}

fn madvise(space: &Arc<Space>, start: u64, length: u64, advice: u32) -> Result<()> {
    if !space.has_base(start, length.max(1))
        && let Some(advice) = of_huge(advice)
    {
        let me = current();
        let mut task = me.task()?;
        return Ok(space.engine().madvise(&mut task, VirtAddr::new(start), length, advice)?);
    }
    let advice = match advice {
        MADV_DONTNEED | MADV_DONTNEED_LOCKED => Advice::DontNeed,
        MADV_REMOVE => Advice::Remove,
        MADV_POPULATE_READ => Advice::PopulateRead,
        MADV_POPULATE_WRITE => Advice::PopulateWrite,
        MADV_DONTFORK | MADV_DOFORK => return dont_fork(space, start, length, advice == MADV_DONTFORK),
        MADV_FREE => return free(space, start, length),
        MADV_HWPOISON | MADV_SOFT_OFFLINE => return inject(space, start, length, advice == MADV_HWPOISON),
        // Hints about what the kernel might do and does not.
        MADV_NORMAL | MADV_RANDOM | MADV_SEQUENTIAL | MADV_WILLNEED | MADV_DONTDUMP | MADV_DODUMP
        | MADV_COLD | MADV_PAGEOUT | MADV_NOHUGEPAGE => {
            return checked(space, start, length).map(|_| ());
        }
        _ => return Err(Errno::EINVAL),
    };
    space.advise(start, length, advice)
}

/// An advice that the engine judges, where no base pages are.
fn of_huge(advice: u32) -> Option<Advice> {
    Some(match advice {
        MADV_DONTNEED | MADV_DONTNEED_LOCKED => Advice::DontNeed,
        MADV_REMOVE => Advice::Remove,
        MADV_POPULATE_READ => Advice::PopulateRead,
        MADV_POPULATE_WRITE => Advice::PopulateWrite,
        MADV_DONTFORK => Advice::DontFork,
        MADV_DOFORK => Advice::DoFork,
        MADV_DONTDUMP => Advice::DontDump,
        MADV_DODUMP => Advice::DoDump,
        MADV_NORMAL => Advice::Normal,
        MADV_RANDOM => Advice::Random,
        MADV_SEQUENTIAL => Advice::Sequential,
        MADV_WILLNEED => Advice::WillNeed,
        MADV_COLD => Advice::Cold,
        MADV_PAGEOUT => Advice::PageOut,
        MADV_FREE => Advice::Free,
        MADV_WIPEONFORK => Advice::WipeOnFork,
        MADV_KEEPONFORK => Advice::KeepOnFork,
        _ => return None,
    })
}

/// A range of whole pages, all of them mapped. Returns its length in bytes, rounded up.
fn checked(space: &Space, start: u64, length: u64) -> Result<u64> {
    let whole =
        length.checked_next_multiple_of(PAGE).filter(|_| start.is_multiple_of(PAGE)).ok_or(Errno::EINVAL)?;
    if space.is_mapped(start, whole)? { Ok(whole) } else { Err(Errno::ENOMEM) }
}

/// `MADV_FREE`: the pages may go; here they go at once. Huge pages do not take it.
fn free(space: &Arc<Space>, start: u64, length: u64) -> Result<()> {
    let huge = {
        let mut task = current().task()?;
        let mmap = space.engine().mmap_read(&mut task);
        let range = VirtAddr::new(start)..VirtAddr::new(start.saturating_add(length));
        mmap.overlapping(&range).next().is_some()
    };
    if huge { Err(Errno::EINVAL) } else { space.advise(start, length, Advice::DontNeed) }
}

fn dont_fork(space: &Space, start: u64, length: u64, dont: bool) -> Result<()> {
    let whole = checked(space, start, length)?;
    let mut areas = space.areas().write();
    for mut area in areas.take(start, start + whole) {
        area.dont_fork = dont;
        areas.insert(area);
    }
    Ok(())
}

/// `MADV_HWPOISON` and `MADV_SOFT_OFFLINE`. A program that has an error injected into a page of its own is told as if it had touched
/// the page.
///
/// Linux: `madvise_inject_error()` in mm/madvise.c, `kill_proc()` in mm/memory-failure.c.
fn inject(space: &Arc<Space>, start: u64, length: u64, poison: bool) -> Result<()> {
    if !poison {
        // Linux 6.12: `/proc/sys/vm/enable_soft_offline`.
        if !fs::proc::soft_offline_allowed() {
            return Err(Errno::EOPNOTSUPP);
        }
        return space.advise(start, length, Advice::SoftOffline);
    }
    space.advise(start, length, Advice::Hwpoison)?;
    if length > 0 {
        let refused = Refused::Hwpoison(space.huge_size(start).unwrap_or(arch::SIZE_2M).shift());
        signal::force(signal::Cause::Fault { address: start, refused });
    }
    Ok(())
}

fn mincore(start: u64, length: u64, into: u64) -> Result<u64> {
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    if length == 0 {
        return Ok(0);
    }
    // In pieces, so that a large range needs no large list.
    let end = start.checked_add(length).ok_or(Errno::ENOMEM)?;
    let mut at = start;
    while at < end {
        let here = (end - at).min(512 * PAGE);
        let found = current().space().mincore(at, here)?;
        user::write(into + (at - start) / PAGE, &found)?;
        at += here;
    }
    Ok(0)
}

/// Nothing is ever paged out, so locking means faulting in.
fn mlock(space: &Arc<Space>, start: u64, length: u64, flags: u64) -> Result<u64> {
    if flags & !u64::from(MLOCK_ONFAULT) != 0 {
        return Err(Errno::EINVAL);
    }
    if !space.has_base(start & !(PAGE - 1), length.saturating_add(start % PAGE).max(1)) {
        let me = current();
        let mut task = me.task()?;
        space.engine().mlock(&mut task, VirtAddr::new(start), length)?;
        return Ok(0);
    }
    if flags != 0 {
        // Each page when it is touched.
        return munlock(space, start, length);
    }
    let from = start & !(PAGE - 1);
    let length = (start - from).checked_add(length).and_then(|length| length.checked_next_multiple_of(PAGE));
    let length = length.ok_or(Errno::EINVAL)?;
    if length == 0 {
        return Ok(0);
    }
    if !space.is_mapped(from, length)? {
        return Err(Errno::ENOMEM);
    }
    match space.advise(from, length, Advice::PopulateRead) {
        // A range that allows no access is locked all the same.
        Ok(()) | Err(Errno::EINVAL) => Ok(0),
        Err(Errno::EFAULT) => Err(Errno::ENOMEM),
        Err(Errno::ENOMEM) => Err(Errno::EAGAIN),
        Err(error) => Err(error),
    }
}

fn munlock(space: &Arc<Space>, start: u64, length: u64) -> Result<u64> {
    let from = start & !(PAGE - 1);
    let whole = (start - from).checked_add(length).and_then(|length| length.checked_next_multiple_of(PAGE));
    let whole = whole.ok_or(Errno::EINVAL)?;
    if space.has_base(from, whole.max(1)) {
        return if space.is_mapped(from, whole)? { Ok(0) } else { Err(Errno::ENOMEM) };
    }
    let me = current();
    let mut task = me.task()?;
    space.engine().munlock(&mut task, VirtAddr::new(start), length)?;
    Ok(0)
}

/// Of base pages nothing is ever paged out; those that are mapped later are faulted in when they are touched.
fn mlockall(space: &Space, flags: u32) -> Result<u64> {
    let what = LockAll::from_bits(flags).ok_or(Errno::EINVAL)?;
    memlock::check(0, Errno::ENOMEM)?;
    let me = current();
    let mut task = me.task()?;
    space.engine().mlockall(&mut task, what).map_err(|_| Errno::EINVAL)?;
    Ok(0)
}

fn munlockall(space: &Space) -> Result<u64> {
    let me = current();
    let mut task = me.task()?;
    space.engine().munlockall(&mut task)?;
    Ok(0)
}

/// All of it is one barrier here, whoever has asked for it. Linux: kernel/sched/membarrier.c.
fn membarrier(command: u32, flags: u64) -> Result<u64> {
    const QUERY: u32 = 0;
    /// The last of the commands that are known: everything but what goes with restartable sequences.
    const LAST: u32 = 1 << 6;
    if flags as u32 != 0 || command > LAST || command.count_ones() > 1 {
        return Err(Errno::EINVAL);
    }
    if command == QUERY {
        return Ok(u64::from(LAST * 2 - 1));
    }
    let process = current().process().clone();
    match command {
        // Private ones are for processes that have registered for them.
        0x10 | 0x40 => drop(process.barriers.fetch_or(command, Ordering::Relaxed)),
        0x08 | 0x20 if process.barriers.load(Ordering::Relaxed) & command << 1 == 0 => {
            return Err(Errno::EPERM);
        }
        _ => crate::cpu::shootdown::barrier(),
    }
    Ok(0)
}

/// There is nothing to write back to.
fn msync(space: &Space, start: u64, length: u64, flags: u32) -> Result<u64> {
    if flags & !(MS_ASYNC | MS_INVALIDATE | MS_SYNC) != 0
        || flags & (MS_ASYNC | MS_SYNC) == MS_ASYNC | MS_SYNC
    {
        return Err(Errno::EINVAL);
    }
    checked(space, start, length).map(|_| 0)
}

fn mseal(space: &Space, start: u64, length: u64) -> Result<u64> {
    let mut task = current().task()?;
    space.engine().mseal(&mut task, VirtAddr::new(start), length)?;
    Ok(0)
}
