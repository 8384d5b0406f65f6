//! What scenarios are made of: processes, files, mappings, processors.

mod ending;
mod groups;

use std::cell::RefCell;
use std::rc::Rc;

use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Entry, PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};
use hugewalk::reserve::SubPool;
use hugewalk::sync::Arc;
use hugewalk::uffd::Userfault;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};

use crate::explore::Setup;
use crate::lab::{Flaw, Lab, Property, Settings, Token, Walker};

pub use self::groups::{GroupFile, GroupProcess, GroupTask, Groups, member};

/// Where everything is mapped: at the start of a gigabyte, which one table covers.
pub const BASE: VirtAddr = VirtAddr::new(4 * PUD_SIZE);

/// A task of the lab.
pub type LabTask = Task<Lab>;
/// A process of the lab.
pub type Process = Arc<AddressSpace<Lab>>;
/// A file of the lab.
pub type File = Arc<HugeFile<Lab>>;

/// A mount of the lab.
pub type Mount = Arc<SubPool<Lab>>;

/// A task for one of the lab's threads, or a second one for a scenario about that mistake.
///
/// # Panics
///
/// If this process has no memory.
#[must_use]
pub fn another(hugetlb: &Arc<Hugetlb<Lab>>) -> LabTask {
    // SAFETY: the threads of the lab are its tasks: all of them run on one thread of the system, one at a time, and its RCU
    // knows readers. A thread of a scenario that has two of them is what that scenario shows; no memory is ever reused.
    unsafe { Task::new(hugetlb) }.expect("memory")
}

/// The address of page `index` of the gigabyte.
#[must_use]
pub fn page(index: u64) -> VirtAddr {
    VirtAddr::new(BASE.as_u64() + index * PMD_SIZE)
}

/// A system in the making, and at the end of the run the checks that it is as it was (I4, I9).
pub struct Bench<'s> {
    setup: &'s mut Setup,
    task: LabTask,
    hugetlb: Arc<Hugetlb<Lab>>,
    processes: Vec<Process>,
    files: Vec<File>,
    mounts: Vec<Mount>,
    handlers: Vec<Rc<Userfault<Lab>>>,
    /// Processes whose host has tables of its own in their trees.
    hosts: Vec<Process>,
    born: Nursery,
    last_looks: Vec<LastLook>,
}

/// What a scenario looks at when all threads have ended.
type LastLook = Box<dyn FnOnce(&mut LabTask)>;

/// Keeps the processes that threads make until all threads have ended, and are checked with the others.
///
/// The last reference to a process leaves it to the next operation, which takes it down. Reference counts are no scheduling
/// points, so the explorer would not look for orders in which another thread has the last one.
#[derive(Clone, Debug, Default)]
pub struct Nursery(Rc<RefCell<Vec<Process>>>);

impl Nursery {
    /// Keeps a process.
    pub fn keep(&self, process: Process) {
        self.0.borrow_mut().push(process);
    }
}

impl<'s> Bench<'s> {
    /// A system with a few huge pages, under this protocol, judged by these properties.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    #[must_use]
    pub fn new(setup: &'s mut Setup, settings: Settings, judged: &[Property]) -> Self {
        let hugetlb = Hugetlb::new(Lab::new(settings, judged)).expect("memory");
        hugetlb.platform().attach(hugetlb.rcu());
        hugetlb.resize_pool(X86_64::SIZE_2M, 4);
        let task = another(&hugetlb);
        Self {
            setup,
            task,
            hugetlb,
            processes: Vec::new(),
            files: Vec::new(),
            mounts: Vec::new(),
            handlers: Vec::new(),
            hosts: Vec::new(),
            born: Nursery::default(),
            last_looks: Vec::new(),
        }
    }

    /// Changes the protocol: the scenario is about a machine, or a mistake.
    ///
    /// # Panics
    ///
    /// If there is no such protocol.
    pub fn protocol(&mut self, change: impl FnOnce(Settings) -> Option<Settings>) {
        Lab::follow(change(Lab::followed()).expect("there is such a protocol"));
    }

    /// Leaves a step of the protocol out: one of [`Settings::steps`].
    ///
    /// # Panics
    ///
    /// If there is no such step.
    pub fn without(&mut self, step: &str) {
        self.protocol(|settings| settings.without(step));
    }

    /// The machine has a flaw: the engine relies on something that it does not do.
    pub fn flawed(&mut self, flaw: Flaw) {
        Lab::flawed(flaw);
    }

    /// Keeps VMAs beyond their last reference: whoever uses one then is seen (I1).
    pub fn keep_vmas(&mut self) {
        Lab::keep_vmas();
    }

    /// Rmap has waited often enough for VMA locks that are busy: it changes entries in tables that are still shared.
    pub fn in_place_at_once(&mut self) {
        Lab::in_place_at_once();
    }

    /// A file of one gigabyte.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn file(&mut self) -> File {
        let file = HugeFile::new(&self.hugetlb, X86_64::SIZE_2M, None).expect("memory");
        file.truncate(&mut self.task, PUD_SIZE).expect("aligned");
        self.files.push(file.clone());
        file
    }

    /// A mount with at most `max` pages, and `min` that it has whatever others reserve.
    ///
    /// # Panics
    ///
    /// If the pool has too few.
    pub fn mount(&mut self, max: Option<u64>, min: Option<u64>) -> Mount {
        let mount = SubPool::new(&self.hugetlb, X86_64::SIZE_2M, max, min).expect("pages");
        self.mounts.push(mount.clone());
        mount
    }

    /// A file of one gigabyte on a mount.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn file_on(&mut self, mount: &Mount) -> File {
        let file = HugeFile::new(&self.hugetlb, X86_64::SIZE_2M, Some(mount)).expect("memory");
        file.truncate(&mut self.task, PUD_SIZE).expect("aligned");
        self.files.push(file.clone());
        file
    }

    /// A process that maps the file and has touched these pages.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn process(&mut self, file: &File, touched: &[u64]) -> Process {
        let space = AddressSpace::new(&self.hugetlb).expect("memory");
        Lab::name(&space);
        map(&mut self.task, &space, file, 0, 512);
        for &index in touched {
            space.fault(&mut self.task, page(index), Access::Write).expect("a page");
        }
        self.processes.push(space.clone());
        space
    }

    /// A process that has the first `pages` pages of the file mapped for itself, with reservations, and page 0 read.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn private(&mut self, file: &File, pages: u64) -> Process {
        let space = AddressSpace::new(&self.hugetlb).expect("memory");
        Lab::name(&space);
        let request = MapRequest {
            placement: Placement::Fixed(BASE),
            length: pages * PMD_SIZE,
            protection: Protection::READ | Protection::WRITE,
            flags: MapFlags::empty(),
            backing: Backing::File { file, offset: 0 },
        };
        space.mmap(&mut self.task, &request).expect("room");
        space.fault(&mut self.task, BASE, Access::Read).expect("a page");
        self.processes.push(space.clone());
        space
    }

    /// A process that has the first `pages` pages of the file mapped for itself, without reservations, and has stored to them.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn private_written(&mut self, file: &File, pages: u64) -> Process {
        let space = AddressSpace::new(&self.hugetlb).expect("memory");
        Lab::name(&space);
        let request = MapRequest {
            placement: Placement::Fixed(BASE),
            length: pages * PMD_SIZE,
            protection: Protection::READ | Protection::WRITE,
            flags: MapFlags::NORESERVE,
            backing: Backing::File { file, offset: 0 },
        };
        space.mmap(&mut self.task, &request).expect("room");
        for index in 0..pages {
            space.fault(&mut self.task, page(index), Access::Write).expect("a page");
        }
        self.processes.push(space.clone());
        space
    }

    /// A process with nothing in it.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn empty(&mut self) -> Process {
        let space = AddressSpace::new(&self.hugetlb).expect("memory");
        Lab::name(&space);
        self.processes.push(space.clone());
        space
    }

    /// The host has tables of its own in the tree of this process: what is there at the end of the run, it takes away then.
    pub fn host(&mut self, space: &Process) {
        self.hosts.push(space.clone());
    }

    /// Keeps a file, and looks at it, as at those that it makes.
    pub fn keep_file(&mut self, file: &File) {
        self.files.push(file.clone());
    }

    /// Keeps a handler of faults to the end: it does not leave with a thread, which would wake whoever waits, and at the end it
    /// has nothing to read.
    pub fn keep_handler(&mut self, handler: &Rc<Userfault<Lab>>) {
        self.handlers.push(handler.clone());
    }

    /// When all threads have ended, this is looked at, before anything is taken down.
    pub fn at_end(&mut self, look: impl FnOnce(&mut LabTask) + 'static) {
        self.last_looks.push(Box::new(look));
    }

    /// A child of a process.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn fork(&mut self, parent: &Process) -> Process {
        let child = parent.fork(&mut self.task).expect("memory");
        Lab::name(&child);
        self.processes.push(child.clone());
        child
    }

    /// A process that maps the file and has a PUD table for it, and no more: the file's pages are in a table of another
    /// process, which is there already.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn untouched(&mut self, file: &File) -> Process {
        let space = self.process(file, &[0]);
        space.madvise(&mut self.task, BASE, PUD_SIZE, Advice::DontNeed).expect("mapped");
        space
    }

    /// Page 0 of a file that has nothing to do with the others. Whoever walks in another file's mapping must not be given
    /// it.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn foreign_file(&mut self) -> File {
        let file = self.file();
        let space = self.process(&file, &[0]);
        Walker::foreign(self.frame(&space, 0));
        file
    }

    /// Forgets that a page was accessed.
    ///
    /// # Panics
    ///
    /// If this process does not map it.
    pub fn make_old(&mut self, space: &Process, index: u64) {
        let frame = self.frame(space, index);
        self.hugetlb.referenced(&mut self.task, frame).expect("in use");
    }

    /// The frame of a page that a process has mapped.
    ///
    /// # Panics
    ///
    /// If it has not.
    pub fn frame(&mut self, space: &Process, index: u64) -> HugeFrame {
        let mmap = space.mmap_read(&mut self.task);
        let vma = mmap.find(page(index)).expect("mapped");
        let locked = mmap.lock_vma(vma, &mut self.task).expect("its own");
        let slot = hugewalk::walk::huge_pte_offset(&locked, space.mm(), page(index), X86_64::SIZE_2M);
        match slot.expect("its own").map(|slot| slot.read()) {
            Some(Entry::Leaf(leaf)) => leaf.frame,
            other => panic!("no page but {other:?}"),
        }
    }

    /// The task of the setup.
    pub fn task(&mut self) -> &mut LabTask {
        &mut self.task
    }

    /// The system.
    #[must_use]
    pub fn hugetlb(&self) -> &Arc<Hugetlb<Lab>> {
        &self.hugetlb
    }

    /// Where threads put the processes that they make.
    #[must_use]
    pub fn nursery(&self) -> Nursery {
        self.born.clone()
    }

    /// A processor that does this.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub fn cpu(&mut self, name: &str, work: impl FnOnce(&mut LabTask) + 'static) {
        let task = another(&self.hugetlb);
        self.cpu_of(name, task, work);
    }

    /// A processor that does this, and whose task another one may kill: the token is for that one.
    ///
    /// # Panics
    ///
    /// If this process has no memory.
    pub(crate) fn mortal_cpu(&mut self, name: &str, work: impl FnOnce(&mut LabTask) + 'static) -> Arc<Token> {
        let task = another(&self.hugetlb);
        let token = task.parker().clone();
        token.may_be_killed();
        self.cpu_of(name, task, work);
        token
    }

    fn cpu_of(&mut self, name: &str, mut task: LabTask, work: impl FnOnce(&mut LabTask) + 'static) {
        self.setup.thread(name, move || {
            work(&mut task);
            Lab::end_thread();
        });
    }
}

/// Maps pages of a file, shared, in place of what is mapped there.
///
/// # Panics
///
/// If this process has no memory.
pub fn map(task: &mut LabTask, space: &Process, file: &File, from: u64, count: u64) {
    let request = MapRequest {
        placement: Placement::Fixed(page(from)),
        length: count * PMD_SIZE,
        protection: Protection::READ | Protection::WRITE,
        flags: MapFlags::SHARED | MapFlags::NORESERVE,
        backing: Backing::File { file, offset: from * PMD_SIZE },
    };
    space.mmap(task, &request).expect("room");
}

/// Takes the first page away from a process, without unmapping: it gives up the whole table if others use it too.
///
/// # Panics
///
/// If nothing is mapped.
pub fn dont_need(task: &mut LabTask, space: &Process) {
    space.madvise(task, BASE, PMD_SIZE, Advice::DontNeed).expect("mapped");
}
