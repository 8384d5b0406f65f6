//! The bench of scenarios about groups: a system of its own, on the same machine, with arm64's tables and pages of 32 MiB.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::rc::Rc;

use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Aarch64, Entry, PMD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, MapFlags, MapRequest};
use hugewalk::sync::Arc;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Hugetlb, Task};

use super::{BASE, Bench};
use crate::explore::violation;
use crate::lab::{Format, Lab, Property};

/// A task of a system with groups.
pub type GroupTask = Task<Lab<Aarch64>>;
/// A process of a system with groups.
pub type GroupProcess = Arc<AddressSpace<Lab<Aarch64>>>;
/// A file of a system with groups: of pages of 32 MiB.
pub type GroupFile = Arc<HugeFile<Lab<Aarch64>>>;

/// The address of a member of the first group.
#[must_use]
pub fn member(number: u64) -> VirtAddr {
    VirtAddr::new(BASE.as_u64() + number * PMD_SIZE)
}

/// A system with groups in the making. It takes the place of that of the bench, which has no pages left.
pub struct Groups<'b, 's> {
    bench: &'b mut Bench<'s>,
    task: GroupTask,
    hugetlb: Arc<Hugetlb<Lab<Aarch64>>>,
    processes: Rc<RefCell<Vec<GroupProcess>>>,
    files: Vec<GroupFile>,
}

fn another(hugetlb: &Arc<Hugetlb<Lab<Aarch64>>>) -> GroupTask {
    // SAFETY: as in `bench::another`.
    unsafe { Task::new(hugetlb) }.expect("memory")
}

impl<'b, 's> Groups<'b, 's> {
    /// A system with a few pages.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    #[must_use]
    pub fn new(bench: &'b mut Bench<'s>) -> Self {
        bench.hugetlb().resize_pool(X86_64::SIZE_2M, 0);
        let hugetlb = Hugetlb::new(Lab::with_groups()).expect("memory");
        hugetlb.platform().attach(hugetlb.rcu());
        hugetlb.resize_pool(Aarch64::size(), 4);
        let task = another(&hugetlb);
        Self { bench, task, hugetlb, processes: Rc::default(), files: Vec::new() }
    }

    /// A file of two pages.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn file(&mut self) -> GroupFile {
        let file = HugeFile::new(&self.hugetlb, Aarch64::size(), None).expect("memory");
        file.truncate(&mut self.task, 2 * Aarch64::size().bytes()).expect("aligned");
        self.files.push(file.clone());
        file
    }

    /// A process that maps the file, shared or for itself, and has touched nothing.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn untouched(&mut self, file: &GroupFile, shared: bool) -> GroupProcess {
        let space = AddressSpace::new(&self.hugetlb).expect("memory");
        Lab::name_process(&space);
        let request = MapRequest::file(file, 0, Aarch64::size().bytes()).with(MapFlags::NORESERVE).at(BASE);
        let request = if shared { request.shared() } else { request };
        space.mmap(&mut self.task, &request).expect("room");
        self.processes.borrow_mut().push(space.clone());
        space
    }

    /// A process that maps the file, shared or for itself, and has stored to its first page.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn process(&mut self, file: &GroupFile, shared: bool) -> GroupProcess {
        let space = self.untouched(file, shared);
        space.fault(&mut self.task, BASE, Access::Write).expect("a page");
        space
    }

    /// A process that maps the file, shared, whose first page is mapped and may be written, and has not been stored to.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn clean(&mut self, file: &GroupFile) -> GroupProcess {
        let space = self.process(file, true);
        self.bring_anew(&space);
        space
    }

    /// The first page of a process is taken out and brought in once more, and has not been stored to then.
    ///
    /// # Panics
    ///
    /// If it is not mapped.
    pub fn bring_anew(&mut self, space: &GroupProcess) {
        space.madvise(&mut self.task, BASE, Aarch64::size().bytes(), Advice::DontNeed).expect("mapped");
        space.fault(&mut self.task, BASE, Access::Read).expect("a page");
    }

    /// A child of a process.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn fork(&mut self, parent: &GroupProcess) -> GroupProcess {
        let child = parent.fork(&mut self.task).expect("memory");
        Lab::name_process(&child);
        self.processes.borrow_mut().push(child.clone());
        child
    }

    /// Keeps the processes that threads make.
    #[must_use]
    pub fn nursery(&self) -> Rc<RefCell<Vec<GroupProcess>>> {
        self.processes.clone()
    }

    /// Forgets that the first page of a process was accessed.
    ///
    /// # Panics
    ///
    /// If it is not mapped.
    pub fn make_old(&mut self, space: &GroupProcess) {
        let frame = self.frame(space);
        self.hugetlb.referenced(&mut self.task, frame).expect("in use");
    }

    /// The frame of the first page of a process.
    ///
    /// # Panics
    ///
    /// If it is not mapped.
    pub fn frame(&mut self, space: &GroupProcess) -> HugeFrame {
        let mmap = space.mmap_read(&mut self.task);
        let vma = mmap.find(BASE).expect("mapped");
        let locked = mmap.lock_vma(vma, &mut self.task).expect("its own");
        let slot = huge_pte_offset(&locked, space.mm(), BASE, Aarch64::size());
        match slot.expect("its own").map(|slot| slot.read()) {
            Some(Entry::Leaf(leaf)) => leaf.frame,
            other => panic!("no page but {other:?}"),
        }
    }

    /// The task of the setup.
    pub fn task(&mut self) -> &mut GroupTask {
        &mut self.task
    }

    /// A processor that does this.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn cpu(&mut self, name: &str, work: impl FnOnce(&mut GroupTask) + 'static) {
        let mut task = another(&self.hugetlb);
        self.bench.setup.thread(name, move || {
            work(&mut task);
            Lab::end_thread();
        });
    }

    /// The system is complete. At the end everything is as it should be, and nothing is left: the bench sees that.
    pub fn finish(self) {
        let Self { bench, task, hugetlb, processes, files } = self;
        let mut system = ManuallyDrop::new((task, hugetlb, processes, files));
        bench.at_end(move |_| {
            let (task, hugetlb, processes, files) = &mut *system;
            task.finish_drops();
            let all = processes.take();
            let roots: Vec<_> = all.iter().map(|process| process.mm().root_frame()).collect();
            Lab::check_pages(&roots, files.iter().map(|file| file.pages()).sum());
            for process in &all {
                Lab::check_stores(process, |address| process.fault(task, address, Access::Read).is_ok());
            }
            for process in &all {
                process.exit(task).expect("its own task");
            }
            drop(all);
            files.clear();
            task.rcu_barrier();
            let counters = hugetlb.pool(Aarch64::size()).counters();
            if counters.total != counters.free {
                let left = counters.total - counters.free;
                return violation(format!("I9: left at the end: {left} pages"), Property::I9);
            }
            hugetlb.resize_pool(Aarch64::size(), 0);
            // SAFETY: not used again: the closure is called once.
            drop(unsafe { ManuallyDrop::take(&mut system) });
        });
    }
}
