//! `/sys/kernel/debug/gup_test`: the door through which the selftests `gup_test`, `gup_longterm` and `cow` pin pages. Linux:
//! mm/gup_test.c. Huge pages are pinned by the engine, base pages by the kernel.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hugewalk::addr::VirtAddr;
use hugewalk::gup::{GupFlags, Pins};
use hugewalk::pagewalk::PageMap;
use hugewalk::vma::Protection;
use spin::Mutex;

use super::file::File;
use super::folder::Folder;
use super::inode::{Inode, Kind, Special};
use super::mounts::{Contents, Filesystem};
use crate::cpu::{clock, shootdown};
use crate::errno::{Errno, Result};
use crate::memory::page::BasePage;
use crate::memory::{PAGE, user};
use crate::platform::{Kernel, protocol};
use crate::space::fault::Refused;
use crate::space::user_range;
use crate::task::current;

/// `struct gup_test` in mm/gup_test.h, in words of 32 bits: two times, address and size of 64 bits each, then pages a call,
/// `FOLL_*`, flags of the test, and eight numbers of pages to print.
type Test = [u32; 20];

const GUP_FAST_BENCHMARK: u32 = 0xc050_6701;
const PIN_FAST_BENCHMARK: u32 = 0xc050_6702;
const PIN_LONGTERM_BENCHMARK: u32 = 0xc050_6703;
const PIN_BASIC_TEST: u32 = 0xc050_6705;
const DUMP_USER_PAGES_TEST: u32 = 0xc050_6706;
/// `struct pin_longterm_test`: address, size, flags; padded to 24 bytes.
const PIN_LONGTERM_TEST_START: u32 = 0x4018_6707;
const PIN_LONGTERM_TEST_STOP: u32 = 0x6708;
const PIN_LONGTERM_TEST_READ: u32 = 0x4008_6709;

const FOLL_WRITE: u32 = 1;
const USE_WRITE: u32 = 1;
const USE_FAST: u32 = 2;

/// A new debugfs.
pub fn root() -> Arc<Inode> {
    let filesystem = Filesystem::new("debugfs", 0x6462_6720, Contents::Fixed);
    let root = Folder::create(&filesystem, 0o700);
    let door = Inode::new(&filesystem, Kind::Special(Arc::new(Door)), 0o600);
    if let Ok(names) = root.folder() {
        let _ = names.insert(&root, b"gup_test", &door);
    }
    root
}

struct Door;

impl Special for Door {
    fn open(&self, _: u32) -> Result<Arc<dyn File>> {
        Ok(Arc::new(Pinned(Mutex::new(None))))
    }
}

/// An open door, and what is pinned through it until it is told to stop.
struct Pinned(Mutex<Option<Vec<Held>>>);

/// Pages that are held.
enum Held {
    Huge(Pins<Kernel>),
    Base(BasePage),
}

impl Held {
    fn bytes(&self) -> u64 {
        match self {
            Self::Huge(pins) => pins.bytes(),
            Self::Base(_) => PAGE,
        }
    }
}

/// How pages are taken.
#[derive(Clone, Copy)]
struct Way {
    flags: GupFlags,
    fast: bool,
}

/// Takes references to pages from the start of a range on: to huge ones as far as they go, or to one base page.
fn pin(address: u64, size: u64, way: Way) -> Result<Held> {
    let me = current();
    let space = me.space();
    let mut task = me.task()?;
    let (engine, start) = (space.engine(), VirtAddr::new(address));
    let own = engine
        .mmap_read(&mut task)
        .find(start)
        .map(|vma| !vma.is_shared() && vma.protection().contains(Protection::WRITE));
    let Some(own) = own else {
        drop(task);
        let write = way.flags.contains(GupFlags::WRITE);
        return space.pin_base(address, write).map(Held::Base).map_err(Refused::errno);
    };
    let mut way = way;
    // A handler of page faults is asked for stores, not for pins that only read.
    let is_protected = || -> Result<bool> {
        let mut task = me.task()?;
        let range = start..VirtAddr::new(address.saturating_add(size));
        let pages = engine.pagemap(&mut task, range)?;
        Ok(pages.iter().any(|(_, page)| page.contains(PageMap::UFFD_WP)))
    };
    drop(task);
    if own && way.flags.contains(GupFlags::LONGTERM) && !is_protected()? {
        // Since 6.2 a pin that stays makes a page of the file the mapping's own first, also if it only reads:
        // `gup_must_unshare()` in mm/internal.h. The engine leaves that to its caller, as 6.1 did.
        way.flags |= GupFlags::WRITE;
    }
    let mut task = me.task()?;
    if way.fast && protocol::fast_walks_wait() {
        // As below, with interrupts off, as far as pages are mapped: the protocol is one of Linux.
        let mut at = address;
        while at < address.saturating_add(size) {
            let fast = || engine.pin_page_fast(&task, VirtAddr::new(at), way.flags);
            // The reference is given up with interrupts on again.
            let Some(page) = shootdown::walk_without_locks(engine.mm().id(), fast) else { break };
            at = (at | (page.size().bytes() - 1)).saturating_add(1);
        }
    } else if way.fast {
        // Without a lock where that goes. These references borrow the address space; those that stay are taken next, of pages
        // that are mapped by now.
        drop(
            engine
                .pin_pages_fast(&mut task, start, size, way.flags)
                .map_err(|error| Errno::from(error.errno()))?,
        );
    }
    let pins = engine.pin_pages(&mut task, start, size, way.flags);
    pins.map(Held::Huge).map_err(|error| error.errno().into())
}

impl Pinned {
    fn test(&self, request: u32, argument: u64) -> Result<u64> {
        let mut test: Test = user::get(argument)?;
        let wide = |test: &Test, at: usize| u64::from(test[at]) | u64::from(test[at + 1]) << 32;
        let (address, size) = (wide(&test, 4), wide(&test, 6));
        let (per_call, asked) = (u64::from(test[8]).max(1), test[9]);
        let (kind, fast) = match request {
            GUP_FAST_BENCHMARK => (GupFlags::empty(), true),
            PIN_FAST_BENCHMARK => (GupFlags::PIN, true),
            PIN_LONGTERM_BENCHMARK => (GupFlags::PIN | GupFlags::LONGTERM, false),
            PIN_BASIC_TEST => (GupFlags::PIN, false),
            _ => (GupFlags::empty(), false),
        };
        let mut way = Way { flags: kind, fast };
        way.flags.set(GupFlags::WRITE, asked & FOLL_WRITE != 0);
        let end = address.checked_add(size).ok_or(Errno::EINVAL)?;
        let mut all = Vec::new();
        let mut at = address;
        let begin = clock::now();
        while at < end {
            match pin(at, (per_call * PAGE).min(end - at), way) {
                Ok(pins) => {
                    let got = pins.bytes();
                    all.push(pins);
                    at += got.max(1);
                }
                Err(error) if all.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        let pinned = clock::now();
        let bytes: u64 = all.iter().map(Held::bytes).sum();
        drop(all);
        let released = clock::now();
        let mut put = |at: usize, value: u64| (test[at], test[at + 1]) = (value as u32, (value >> 32) as u32);
        put(0, (pinned - begin) / 1000);
        put(2, (released - pinned) / 1000);
        put(6, bytes);
        user::put(argument, &test)?;
        Ok(0)
    }

    fn start(&self, argument: u64) -> Result<u64> {
        let [address, size, flags]: [u64; 3] = user::get(argument)?;
        if self.0.lock().is_some() || size == 0 || !(address | size).is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let flags = flags as u32;
        let mut way = Way { flags: GupFlags::PIN | GupFlags::LONGTERM, fast: flags & USE_FAST != 0 };
        way.flags.set(GupFlags::WRITE, flags & USE_WRITE != 0);
        let mut all = Vec::new();
        let (mut at, end) = user_range(address, size).map_err(|_| Errno::EINVAL)?;
        while at < end {
            let pins = pin(at, end - at, way)?;
            at += pins.bytes();
            all.push(pins);
        }
        let old = self.0.lock().replace(all);
        drop(old);
        Ok(0)
    }

    fn stop(&self) -> Result<u64> {
        let pins = self.0.lock().take();
        drop(pins);
        Ok(0)
    }

    /// Copies what is in the pinned pages to an address that the argument points to. Not through the page tables: that is what
    /// the test compares with.
    fn contents(&self, argument: u64) -> Result<u64> {
        let mut to: u64 = user::get(argument)?;
        let Some(pins) = self.0.lock().take() else { return Err(Errno::EINVAL) };
        let copied = copy_out(&pins, &mut to);
        *self.0.lock() = Some(pins);
        copied.map(|()| 0)
    }
}

fn copy_out(held: &[Held], to: &mut u64) -> Result<()> {
    let mut piece = alloc::vec![0; PAGE as usize];
    let mut put = |piece: &[u8]| -> Result<()> {
        user::write(*to, piece)?;
        *to += piece.len() as u64;
        Ok(())
    };
    for held in held {
        let pins = match held {
            Held::Huge(pins) => pins,
            Held::Base(page) => {
                page.read(0, &mut piece);
                put(&piece)?;
                continue;
            }
        };
        let mut at = pins.start().as_u64();
        let end = at + pins.bytes();
        for page in pins.pages() {
            let size = page.size().bytes();
            let last = end.min((at / size + 1) * size);
            while at < last {
                let count = (last - at).min(PAGE) as usize;
                page.read(at % size, &mut piece[..count]).map_err(|_| Errno::EFAULT)?;
                put(&piece[..count])?;
                at += count as u64;
            }
        }
    }
    Ok(())
}

impl File for Pinned {
    fn ioctl(&self, request: u32, argument: u64) -> Result<u64> {
        match request {
            GUP_FAST_BENCHMARK..=DUMP_USER_PAGES_TEST => self.test(request, argument),
            PIN_LONGTERM_TEST_START => self.start(argument),
            PIN_LONGTERM_TEST_STOP => self.stop(),
            PIN_LONGTERM_TEST_READ => self.contents(argument),
            _ => Err(Errno::EINVAL),
        }
    }
}
