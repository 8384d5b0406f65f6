//! Walks to 2 MiB entries. All walkers walk the same tables, which are the engine's: the peers see them by their physical
//! addresses, as an offset mapping.

use std::error::Error;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::walk::huge_pte_offset;
use hugewalk_bench::{Case, Effort, Group, threads, timed, together};
use hugewalk_host::{Host, task};
use page_table_multiarch::x86_64::X64PageTable;
use parking_lot::RwLock;
use x86_64::structures::paging::mapper::TranslateResult;
use x86_64::structures::paging::{OffsetPageTable, PageTable, Translate};

use crate::ground::{Ground, MIB2, number};
use crate::multiarch::Handler;

const FRAME: u64 = ((1 << 52) - 1) & !0xfff;

/// What a walk waits for: the one before it, or nothing.
#[derive(Clone, Copy)]
enum Order {
    Dependent,
    Ahead,
}

struct Walkers {
    ground: Ground,
    root: usize,
    base: usize,
    x86_64: OffsetPageTable<'static>,
    locked: RwLock<OffsetPageTable<'static>>,
    /// Its tables below the root are the engine's, so it is never dropped.
    multiarch: ManuallyDrop<X64PageTable<Handler>>,
}

fn offset_table(root: usize, base: usize) -> OffsetPageTable<'static> {
    let root = std::ptr::with_exposed_provenance_mut::<PageTable>(root);
    // SAFETY: the tables stay as they are while anybody walks.
    let root = unsafe { &mut *root };
    // SAFETY: every table lies at its physical address behind the base.
    unsafe { OffsetPageTable::new(root, x86_64::VirtAddr::new(base as u64)) }
}

fn translated(table: &OffsetPageTable<'_>, address: u64) -> u64 {
    match table.translate(x86_64::VirtAddr::new(address)) {
        TranslateResult::Mapped { frame, .. } => frame.start_address().as_u64(),
        _ => 0,
    }
}

impl Walkers {
    fn new(gigabytes: u64) -> Result<Self, Box<dyn Error>> {
        let ground = Ground::new(gigabytes)?;
        let (root, base) = ground.root();
        Handler::set_base(base);
        let multiarch = X64PageTable::<Handler>::try_new().map_err(|error| format!("{error:?}"))?;
        let copy = std::ptr::with_exposed_provenance_mut::<u64>(
            multiarch.root_paddr().as_usize().wrapping_add(base),
        );
        // SAFETY: both are tables of 512 entries, and nobody else has them.
        unsafe { copy.copy_from_nonoverlapping(std::ptr::with_exposed_provenance(root), 512) };
        let walkers = Self {
            x86_64: offset_table(root, base),
            locked: RwLock::new(offset_table(root, base)),
            multiarch: ManuallyDrop::new(multiarch),
            ground,
            root,
            base,
        };
        walkers.agree()?;
        Ok(walkers)
    }

    /// Do all of them find the same?
    fn agree(&self) -> Result<(), Box<dyn Error>> {
        let task = task(&self.ground.hugetlb)?;
        for page in (0..self.ground.pages).step_by(97) {
            let address = self.ground.start + page * MIB2;
            let chased = self.chase(address) & FRAME & !(MIB2 - 1);
            let leaf = self.under_rcu(&task, address);
            let found = [translated(&self.x86_64, address), self.multiarch(address), leaf * 4096];
            if chased == 0 || found.iter().any(|&found| found != chased) {
                return Err(format!("walkers differ at {address:#x}: {chased:#x}, {found:x?}").into());
            }
        }
        Ok(())
    }

    /// Three dependent loads, without a check.
    #[inline(always)]
    fn chase(&self, address: u64) -> u64 {
        let (mut table, mut entry) = (self.root, 0);
        for shift in [39, 30, 21] {
            let place = table + ((address >> shift) as usize & 511) * 8;
            // SAFETY: entries of tables that stay as they are.
            entry = unsafe { &*std::ptr::with_exposed_provenance::<AtomicU64>(place) }.load(Relaxed);
            table = self.base.wrapping_add((entry & FRAME) as usize);
        }
        entry
    }

    #[inline(always)]
    fn multiarch(&self, address: u64) -> u64 {
        let found = self.multiarch.query(memory_addr::VirtAddr::from(address as usize));
        found.map_or(0, |(frame, ..)| frame.as_usize() as u64)
    }

    #[inline(always)]
    fn under_rcu(&self, task: &Task<Host>, address: u64) -> u64 {
        let (mm, address) = (self.ground.space.mm(), VirtAddr::new(address));
        let section = task.rcu_read_lock();
        let Ok(Some(slot)) = huge_pte_offset(&section, mm, address, X86_64::SIZE_2M) else { return 0 };
        slot.read().map_or(0, number)
    }

    /// So many walks that take the VMA lock each time; the mmap lock is taken once.
    #[inline(always)]
    fn under_vma_lock(&self, order: Order, task: &mut Task<Host>, count: u64) {
        let (space, start) = (&self.ground.space, VirtAddr::new(self.ground.start));
        let mmap = space.mmap_read(task);
        let Some(vma) = mmap.find(start) else { return };
        self.each(order, count, |address| {
            let Some(locked) = mmap.lock_vma(vma, task) else { return 0 };
            match huge_pte_offset(&locked, space.mm(), VirtAddr::new(address), X86_64::SIZE_2M) {
                Ok(Some(slot)) => number(slot.read()),
                _ => 0,
            }
        });
    }

    #[inline(always)]
    fn each(&self, order: Order, count: u64, walk: impl FnMut(u64) -> u64) {
        match order {
            Order::Dependent => self.ground.dependent(count, walk),
            Order::Ahead => self.ground.ahead(count, walk),
        }
    }

    /// A case on so many threads.
    fn case<'c>(
        &'c self,
        name: &'static str,
        threads: usize,
        work: impl Fn(&mut Task<Host>, u64) + Sync + 'c,
    ) -> Case<'c> {
        Case::new(name, move |count| {
            together(threads, |_| {
                let mut task = task(&self.ground.hugetlb).expect("memory for a task");
                // So that it is not the first look at anything, and locks have got their bias.
                work(&mut task, 64);
                timed(|| work(&mut task, count))
            })
        })
    }

    /// Walks of tables that nobody may change, and the engine's, which others may change meanwhile.
    fn alone(&self, title: String, order: Order) -> Group<'_> {
        let cases = vec![
            self.case("plain chase: three loads", 1, move |_, n| self.each(order, n, |at| self.chase(at))),
            self.case("x86_64: OffsetPageTable::translate", 1, move |_, n| {
                self.each(order, n, |at| translated(&self.x86_64, at));
            }),
            self.case("page_table_multiarch: query", 1, move |_, n| {
                self.each(order, n, |at| self.multiarch(at));
            }),
            self.case("hugewalk under RCU, a section each, confirmed", 1, move |task, n| {
                self.each(order, n, |at| self.under_rcu(task, at));
            }),
            self.case("hugewalk under the VMA lock, taken each time", 1, move |task, n| {
                self.under_vma_lock(order, task, n);
            }),
        ];
        Group { title, parts: 1, cases }
    }

    /// Walks of tables that others may change meanwhile: what that takes with each.
    fn beside_writers(&self, threads: usize, title: String) -> Group<'_> {
        let order = Order::Dependent;
        let cases = vec![
            self.case("x86_64 behind parking_lot's RwLock, read each time", threads, move |_, n| {
                self.each(order, n, |at| translated(&self.locked.read(), at));
            }),
            self.case("hugewalk under RCU, a section each, confirmed", threads, move |task, n| {
                self.each(order, n, |at| self.under_rcu(task, at));
            }),
            self.case("hugewalk under the VMA lock, taken each time", threads, move |task, n| {
                self.under_vma_lock(order, task, n);
            }),
        ];
        Group { title, parts: 1, cases }
    }
}

pub(crate) fn report(effort: &Effort, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    for (gigabytes, size) in [(16, "16 GiB"), (1024, "1 TiB")] {
        let dependent = format!("a walk of {size}, each depends on the one before, 1 thread");
        let ahead = format!("a walk of {size}, addresses known ahead, 1 thread");
        let beside = [1, 2]
            .map(|count| (count, format!("a walk of {size} that others may change, {}", threads(count))));
        let titles = [&dependent, &ahead, &beside[0].1, &beside[1].1];
        if !titles.iter().any(|title| effort.wants(title)) {
            continue;
        }
        let walkers = Walkers::new(gigabytes)?;
        walkers.alone(dependent, Order::Dependent).report(effort, out)?;
        walkers.alone(ahead, Order::Ahead).report(effort, out)?;
        for (count, title) in beside {
            walkers.beside_writers(count, title).report(effort, out)?;
        }
    }
    Ok(())
}
