//! 512 pages of 2 MiB mapped and unmapped. The peers write entries; the engine also reserves, allocates and counts the pages,
//! keeps a reverse map and a page cache, and does so beside faults of others. So this is not the same work: it is what the
//! caller of each has to pay for a page that is there.

use std::alloc::{Layout, alloc_zeroed};
use std::error::Error;
use std::hint::black_box;
use std::io::Write;

use hugewalk::AddressSpace;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::PUD_SIZE;
use hugewalk::fault::Access;
use hugewalk::mm::MapFlags;
use hugewalk_bench::{Case, Effort, Group, timed};
use hugewalk_host::task;
use page_table_multiarch::MappingFlags;
use page_table_multiarch::x86_64::X64PageTable;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size2MiB, Size4KiB,
};

use crate::ground::{MIB2, request, system};
use crate::multiarch::Handler;

const PAGES: u64 = 512;
const START: u64 = 4 * PUD_SIZE;
const TITLE: &str = "map and unmap 512 pages of 2 MiB, a page";

/// Tables of the heap. None is given back: `unmap` of `x86_64` leaves tables where they are.
struct Tables;

// SAFETY: each frame is fresh memory.
unsafe impl FrameAllocator<Size4KiB> for Tables {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let layout = Layout::from_size_align(4096, 4096).ok()?;
        // SAFETY: the layout is not empty.
        let table = unsafe { alloc_zeroed(layout) };
        (!table.is_null())
            .then(|| PhysFrame::containing_address(x86_64::PhysAddr::new(table.expose_provenance() as u64)))
    }
}

fn by_x86_64(table: &mut OffsetPageTable<'_>) {
    let pages = (0..PAGES).map(|page| {
        let address = x86_64::VirtAddr::new(START + page * MIB2);
        (Page::<Size2MiB>::containing_address(address), x86_64::PhysAddr::new((1 + page) * MIB2))
    });
    for (page, frame) in pages.clone() {
        let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        let frame = PhysFrame::containing_address(frame);
        // SAFETY: no processor uses these tables.
        let mapped = unsafe { table.map_to(page, frame, flags, &mut Tables) };
        mapped.expect("it is not mapped").ignore();
    }
    for (page, _) in pages {
        let (frame, flush) = table.unmap(page).expect("it is mapped");
        black_box(frame);
        flush.ignore();
    }
}

fn by_multiarch(table: &mut X64PageTable<Handler>) {
    let start = memory_addr::VirtAddr::from(START as usize);
    let frame = |at: memory_addr::VirtAddr| {
        memory_addr::PhysAddr::from(at.as_usize() - START as usize + MIB2 as usize)
    };
    let (bytes, flags) = (PUD_SIZE as usize, MappingFlags::READ | MappingFlags::WRITE);
    // A gigabyte that starts at an odd 2 MiB, so that it takes 512 entries.
    table.cursor().map_region(start, frame, bytes, flags, true).expect("it is not mapped");
    table.cursor().unmap_region(start, bytes).expect("it is mapped");
}

/// `mmap(MAP_POPULATE)` and `munmap`.
fn populate<'c>(name: &'static str, flags: MapFlags) -> Result<Case<'c>, Box<dyn Error>> {
    let hugetlb = system(PAGES)?;
    let space = AddressSpace::new(&hugetlb)?;
    Ok(Case::new(name, move |count| {
        let mut task = task(&hugetlb).expect("memory for a task");
        timed(|| {
            for _ in 0..count {
                let mapping = request(START, PUD_SIZE, flags | MapFlags::POPULATE);
                space.mmap(&mut task, &mapping).expect("there are pages");
                space.munmap(&mut task, VirtAddr::new(START), PUD_SIZE).expect("it is mapped");
            }
        })
    }))
}

/// Another process gets the 512 pages by taking up the table: fork, one fault, exit.
fn share<'c>() -> Result<Case<'c>, Box<dyn Error>> {
    let hugetlb = system(PAGES)?;
    let space = AddressSpace::new(&hugetlb)?;
    let mapping = request(START, PUD_SIZE, MapFlags::SHARED | MapFlags::POPULATE);
    space.mmap(&mut task(&hugetlb)?, &mapping)?;
    Ok(Case::new("hugewalk: fork, 1 fault that shares the table, exit", move |count| {
        let mut task = task(&hugetlb).expect("memory for a task");
        timed(|| {
            for _ in 0..count {
                let child = space.fork(&mut task).expect("memory for a child");
                child.fault(&mut task, VirtAddr::new(START), Access::Read).expect("it is mapped");
                child.exit(&mut task).expect("nothing keeps it");
            }
        })
    }))
}

pub(crate) fn report(effort: &Effort, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    if !effort.wants(TITLE) {
        return Ok(());
    }
    Handler::set_base(0);
    let root = Box::leak(Box::new(PageTable::new()));
    // SAFETY: tables lie at their physical addresses: both are addresses of the heap.
    let mut table = unsafe { OffsetPageTable::new(root, x86_64::VirtAddr::new(0)) };
    let mut multiarch = X64PageTable::<Handler>::try_new().map_err(|error| format!("{error:?}"))?;
    let cases = vec![
        Case::new("x86_64: map_to and unmap, page by page", move |count| {
            timed(|| (0..count).for_each(|_| by_x86_64(&mut table)))
        }),
        Case::new("page_table_multiarch: map_region and unmap_region", move |count| {
            timed(|| (0..count).for_each(|_| by_multiarch(&mut multiarch)))
        }),
        populate("hugewalk: mmap(MAP_POPULATE) and munmap, shared", MapFlags::SHARED)?,
        populate("hugewalk: mmap(MAP_POPULATE) and munmap, private", MapFlags::empty())?,
        share()?,
    ];
    Ok(Group { title: TITLE.to_owned(), parts: PAGES, cases }.report(effort, out)?)
}
