//! Faults that a handler resolves.

use std::time::{Duration, Instant};

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::PMD_SIZE;
use hugewalk::fault::{Access, Fault};
use hugewalk::uffd::{CopyMode, Features, Message, Modes, Userfault};
use hugewalk_host::Host;

use super::ground::Ground;
use crate::bench::BenchError;
use crate::bench::crowd::Crowd;
use crate::bench::sample::Sample;

/// The page whose fault ends the handler's work.
const LAST: u64 = 1;
/// The first page that a thread faults on; page 0 is the unsharer's.
const FIRST: u64 = 2;

/// A gigabyte whose missing pages are a handler's. That mode alone leaves the tables shared.
pub(super) struct Handled {
    pub(super) ground: Ground,
    handler: Userfault<Host>,
    /// The flags of both mappings have to be equal, or they would not share.
    _of_sharer: Userfault<Host>,
    bytes: Vec<u8>,
}

impl Handled {
    pub(super) fn new() -> Result<Self, BenchError> {
        let ground = Ground::new(1)?;
        let mut task = hugewalk_host::task(&ground.hugetlb)?;
        let range = ground.range();
        let mut handlers = Vec::new();
        for space in [&ground.space, &ground.sharer] {
            let handler = Userfault::new(space, Features::empty())?;
            handler.register(&mut task, range.start, range.end.offset_from(range.start), Modes::MISSING)?;
            handlers.push(handler);
        }
        ground.share(&mut task)?;
        let (Some(of_sharer), Some(handler)) = (handlers.pop(), handlers.pop()) else {
            return Err(BenchError::Pages(1));
        };
        Ok(Self { ground, handler, _of_sharer: of_sharer, bytes: vec![0; PMD_SIZE as usize] })
    }

    /// So many faults on missing pages on each thread, with one handler thread for all of them; from the fault until it
    /// returns, resolved and woken.
    pub(super) fn run(&self, crowd: &Crowd<'_>, iterations: u64) -> Sample {
        std::thread::scope(|scope| {
            let handler = scope.spawn(|| self.handle());
            let sample = crowd.run(|task, thread| self.fault(task, FIRST + thread as u64, iterations));
            if let Ok(mut task) = hugewalk_host::task(&self.ground.hugetlb) {
                self.fault(&mut task, LAST, 1);
            }
            let _ = handler.join();
            sample
        })
    }

    fn fault(&self, task: &mut Task<Host>, page: u64, iterations: u64) -> Duration {
        let address = self.ground.page(0, page);
        let mut took = Duration::ZERO;
        for _ in 0..iterations {
            let _ = self.ground.file.punch_hole(task, page * PMD_SIZE, PMD_SIZE);
            let began = Instant::now();
            let fault = self.ground.space.fault(task, address, Access::Read);
            took += began.elapsed();
            // Woken; the access that is tried again finds the page, or the table that has it.
            debug_assert!(matches!(fault, Ok(Fault::Raced)), "{fault:?}");
        }
        took
    }

    fn handle(&self) {
        let Ok(mut task) = hugewalk_host::task(&self.ground.hugetlb) else { return };
        let last: VirtAddr = self.ground.page(0, LAST);
        while let Ok(Message::Pagefault(fault)) = self.handler.read_event(&mut task) {
            let copied = self.handler.copy(&mut task, fault.address, &self.bytes, CopyMode::empty());
            if copied.is_err() {
                // It has come by another way since.
                let _ = self.handler.wake(fault.address, PMD_SIZE);
            }
            if fault.address == last {
                return;
            }
        }
    }
}
