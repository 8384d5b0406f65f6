//! What the threads share: the system, the files, the processes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use hugewalk::Hugetlb;
use hugewalk::addr::HugeSize;
use hugewalk::arch::{AnyPaging, Paging, X86_64};
use hugewalk::file::HugeFile;
use hugewalk::reserve::SubPool;
use hugewalk::sync::Arc as EngineArc;
use hugewalk_host::HostConfig;

use crate::ledger::{Finished, Ledger};
use crate::process::Process;
use crate::tag::PAGES;

/// A host with tables of whatever format the run is for. All formats have pages of 2 MiB, and some have groups of entries for
/// them.
pub(crate) type Host = hugewalk_host::Host<AnyPaging>;

pub(crate) const MIB2: u64 = X86_64::SIZE_2M.bytes();
pub(crate) const GIB: u64 = X86_64::SIZE_1G.bytes();

/// One file is mapped by the gibibyte with its pages reserved; the rest is for everybody else, and often too little.
pub(crate) const POOL: u64 = 512 + 110;
/// The pages that the mount's file may have, and those reserved for it.
const MOUNT: (u64, u64) = (14, 4);

pub(crate) struct File {
    pub(crate) file: EngineArc<HugeFile<Host>>,
    pub(crate) number: u32,
    pub(crate) ledger: Arc<Ledger>,
    /// Offsets of the pages that are touched.
    pub(crate) offsets: [u64; PAGES],
    /// Is it ever made shorter?
    pub(crate) shrinks: bool,
}

pub(crate) struct World {
    pub(crate) size: HugeSize,
    pub(crate) hugetlb: EngineArc<Hugetlb<Host>>,
    pub(crate) files: [File; 3],
    pub(crate) mount: EngineArc<SubPool<Host>>,
    pub(crate) processes: Mutex<Vec<Arc<Process>>>,
    pub(crate) finished: Finished,
    pub(crate) stop: AtomicBool,
    next_process: AtomicU32,
}

/// The big one with reserved pages, the one on a mount, and the small one that private mappings copy.
pub(crate) const BIG: usize = 0;
pub(crate) const MOUNTED: usize = 1;
pub(crate) const SMALL: usize = 2;

impl World {
    /// `notes_use`: do the processors note by themselves what they have used?
    pub(crate) fn new(paging: AnyPaging, membarrier: bool, notes_use: bool) -> Self {
        let config = HostConfig::new().huge_bytes(2 * GIB).max_tables(20_000).membarrier(membarrier);
        let config = config.paging(paging).notes_use(notes_use);
        let size = paging.of_shift(MIB2.trailing_zeros()).unwrap();
        let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
        assert_eq!(hugetlb.resize_pool(size, POOL), POOL);
        let (max, min) = MOUNT;
        let mount = SubPool::new(&hugetlb, size, Some(max), Some(min)).unwrap();
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let mut file = |number: usize, mount, pages: u64, offsets, shrinks| {
            let file = HugeFile::new(&hugetlb, size, mount).unwrap();
            file.truncate(&mut task, pages * MIB2).unwrap();
            File { file, number: number as u32, ledger: Arc::default(), offsets, shrinks }
        };
        let files = [
            file(BIG, None, 512, [0, 1, 2, 3, 4, 255, 510, 511], true),
            file(MOUNTED, Some(&mount), 1024, [0, 1, 2, 510, 511, 512, 513, 1023], false),
            file(SMALL, None, PAGES as u64, [0, 1, 2, 3, 4, 5, 6, 7], true),
        ];
        Self {
            size,
            files,
            mount,
            hugetlb,
            processes: Mutex::default(),
            finished: Default::default(),
            stop: AtomicBool::new(false),
            next_process: AtomicU32::new(1),
        }
    }

    pub(crate) fn fresh_process(&self) -> u32 {
        self.next_process.fetch_add(1, SeqCst)
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(SeqCst)
    }

    /// Everything has been left: nothing is in use any more but what the files and the mount hold, and then nothing at
    /// all.
    pub(crate) fn end(self) {
        let Self { size, hugetlb, files, mount, processes, .. } = self;
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        for process in processes.into_inner().unwrap() {
            process.exit(&mut task);
        }
        task.rcu_barrier();
        assert_eq!(pending(&hugetlb), 0, "callbacks wait after a barrier");
        let usage = hugetlb.platform().usage();
        assert_eq!(usage.tables, 0, "tables leaked: {usage:?}");
        let pool = hugetlb.pool(size);
        let counters = pool.counters();
        let in_files: u64 = files.iter().map(|file| file.file.pages()).sum();
        assert_eq!(counters.total - counters.free, in_files, "pages leaked: {counters:?}");
        assert_eq!(usage.huge(size), counters.total);
        drop(files);
        let (_, min) = MOUNT;
        assert_eq!(mount.usage(), (0, min), "the mount's account is off");
        assert_eq!(pool.counters().reserved, min, "reservations leaked: {:?}", pool.counters());
        drop(mount);
        pool.set_overcommit(0);
        assert_eq!(hugetlb.resize_pool(size, POOL), POOL);
        let counters = pool.counters();
        assert_eq!((counters.total, counters.free), (POOL, POOL), "{counters:?}");
        assert_eq!((counters.reserved, counters.surplus), (0, 0), "{counters:?}");
        hugetlb.resize_pool(size, 0);
        assert_eq!(hugetlb.platform().usage().huge(size), 0);
    }
}

pub(crate) fn pending(hugetlb: &Hugetlb<Host>) -> u64 {
    use hugewalk::rcu::Rcu;
    hugetlb.rcu().pending()
}
