//! The ioctls that work on ranges: of huge pages by the engine, of base pages by the kernel.

use alloc::sync::Arc;

use hugewalk::addr::VirtAddr;
use hugewalk::uffd::{ContinueMode, CopyMode, Modes, PoisonMode, ProtectMode, Stopped};

use super::Uffd;
use super::base::{Handler, Registration};
use super::fill::Fill;
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, user};
use crate::space::Space;
use crate::task::current;

/// `_UFFDIO_WAKE`, `_UFFDIO_COPY`, `_UFFDIO_ZEROPAGE`, `_UFFDIO_MOVE` and `_UFFDIO_POISON`, as bits of what `UFFDIO_REGISTER` answers
/// for base pages.
const OPERATIONS: u64 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8;
/// `_UFFDIO_WRITEPROTECT`, where protection is registered, and `_UFFDIO_CONTINUE`, where minor faults are.
const PROTECTING: u64 = 1 << 6;
const CONTINUING: u64 = 1 << 7;

/// `UFFDIO_ZEROPAGE_MODE_DONTWAKE`, which other modes have at the same place.
const DONT_WAKE: u64 = 1;
/// `UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES`.
const ALLOW_HOLES: u64 = 1 << 1;

impl Uffd {
    pub(super) fn register(&self, at: u64) -> Result<u64> {
        let [start, length, modes]: [u64; 3] = user::get(at)?;
        let modes = Modes::from_bits(modes).filter(|modes| !modes.is_empty()).ok_or(Errno::EINVAL)?;
        let handle = self.handle()?;
        if let Some(space) = self.base_space(start, length) {
            let base = self.base_handler(handle.features());
            space.set_handler(start, length, Some(&Registration { handler: base, modes }))?;
            let mut operations = OPERATIONS;
            operations |= if modes.contains(Modes::WP) { PROTECTING } else { 0 };
            operations |= if modes.contains(Modes::MINOR) { CONTINUING } else { 0 };
            user::put(at + 24, &operations)?;
            return Ok(0);
        }
        let operations = {
            let mut task = current().task()?;
            handle.register(&mut task, VirtAddr::new(start), length, modes)?
        };
        user::put(at + 24, &operations.bits())?;
        Ok(0)
    }

    /// The address space, which may be another process's than the caller's, if there are base pages in the range.
    fn base_space(&self, start: u64, length: u64) -> Option<Arc<Space>> {
        self.space.mm().context().space().filter(|space| space.has_base(start, length))
    }

    /// Does something to each base page of a range, given its offset there, and wakes those that wait for the pages unless told
    /// not to. Says at `done_at` how far it came.
    fn each_base_page(
        &self,
        start: u64,
        length: u64,
        sleep_on: bool,
        done_at: u64,
        mut work: impl FnMut(&Arc<Handler>, u64) -> Result<()>,
    ) -> Result<u64> {
        if length == 0 || !(start | length).is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let base = self.base.get().ok_or(Errno::ENOENT)?;
        let mut done = 0;
        let outcome = loop {
            if done == length {
                break Ok(());
            }
            match work(base, done) {
                Ok(()) => done += PAGE,
                Err(error) => break Err(error),
            }
        };
        self.wake_base(start, done, sleep_on);
        answer(done_at, done, outcome)
    }

    /// Wakes the faults on base pages in a range, unless told not to.
    fn wake_base(&self, start: u64, length: u64, sleep_on: bool) {
        if let Some(base) = self.base.get().filter(|_| !sleep_on) {
            base.wake(start, length);
        }
    }

    pub(super) fn unregister(&self, at: u64) -> Result<u64> {
        let [start, length]: [u64; 2] = user::get(at)?;
        let handle = self.handle()?;
        if let Some(space) = self.base_space(start, length) {
            space.set_handler(start, length, None)?;
            self.wake_base(start, length, false);
            return Ok(0);
        }
        let mut task = current().task()?;
        handle.unregister(&mut task, VirtAddr::new(start), length)?;
        Ok(0)
    }

    pub(super) fn wake(&self, at: u64) -> Result<u64> {
        let [start, length]: [u64; 2] = user::get(at)?;
        self.handle()?.wake(VirtAddr::new(start), length)?;
        self.wake_base(start, length, false);
        Ok(0)
    }

    pub(super) fn copy(&self, at: u64) -> Result<u64> {
        let [to, from, length, mode]: [u64; 4] = user::get(at)?;
        let handle = self.handle()?;
        let mode = CopyMode::from_bits(mode).ok_or(Errno::EINVAL)?;
        if length == 0 || to.checked_add(length).is_none() || from.checked_add(length).is_none() {
            return Err(Errno::EINVAL);
        }
        if let Some(space) = self.base_space(to, length) {
            let sleep_on = mode.contains(CopyMode::DONTWAKE);
            let mut bytes = [0; PAGE as usize];
            return self.each_base_page(to, length, sleep_on, at + 32, |base, offset| {
                user::read(from + offset, &mut bytes)?;
                space.fill(to + offset, base, Fill::Bytes(&bytes), mode.contains(CopyMode::WP))
            });
        }
        let outcome = {
            let mut task = current().task()?;
            handle.copy_from(&mut task, VirtAddr::new(to), length, &mut user::Memory(from), mode)
        };
        stopped(at + 32, length, outcome)
    }

    pub(super) fn zero(&self, at: u64) -> Result<u64> {
        let [start, length, mode]: [u64; 3] = user::get(at)?;
        let handle = self.handle()?;
        if let Some(space) = self.base_space(start, length) {
            if mode & !DONT_WAKE != 0 {
                return Err(Errno::EINVAL);
            }
            return self.each_base_page(start, length, mode & DONT_WAKE != 0, at + 24, |base, offset| {
                space.fill(start + offset, base, Fill::Zeroes, false)
            });
        }
        let outcome = {
            let mut task = current().task()?;
            handle.zero(&mut task, VirtAddr::new(start), length)
        };
        stopped(at + 24, length, outcome)
    }

    pub(super) fn continue_range(&self, at: u64) -> Result<u64> {
        let [start, length, mode]: [u64; 3] = user::get(at)?;
        let handle = self.handle()?;
        let mode = ContinueMode::from_bits(mode).ok_or(Errno::EINVAL)?;
        if let Some(space) = self.base_space(start, length) {
            let sleep_on = mode.contains(ContinueMode::DONTWAKE);
            return self.each_base_page(start, length, sleep_on, at + 24, |base, offset| {
                space.fill(start + offset, base, Fill::OfFile, mode.contains(ContinueMode::WP))
            });
        }
        let outcome = {
            let mut task = current().task()?;
            handle.continue_range(&mut task, VirtAddr::new(start), length, mode)
        };
        stopped(at + 24, length, outcome)
    }

    pub(super) fn poison(&self, at: u64) -> Result<u64> {
        let [start, length, mode]: [u64; 3] = user::get(at)?;
        let handle = self.handle()?;
        let mode = PoisonMode::from_bits(mode).ok_or(Errno::EINVAL)?;
        if let Some(space) = self.base_space(start, length) {
            let sleep_on = mode.contains(PoisonMode::DONTWAKE);
            return self.each_base_page(start, length, sleep_on, at + 24, |base, offset| {
                space.fill(start + offset, base, Fill::Poison, false)
            });
        }
        let outcome = {
            let mut task = current().task()?;
            handle.poison(&mut task, VirtAddr::new(start), length, mode)
        };
        stopped(at + 24, length, outcome)
    }

    pub(super) fn write_protect(&self, at: u64) -> Result<u64> {
        let [start, length, mode]: [u64; 3] = user::get(at)?;
        let handle = self.handle()?;
        let mode = ProtectMode::from_bits(mode).ok_or(Errno::EINVAL)?;
        if let Some(space) = self.base_space(start, length) {
            let protect = mode.contains(ProtectMode::WP);
            let sleep_on = mode.contains(ProtectMode::DONTWAKE);
            if length == 0 || !(start | length).is_multiple_of(PAGE) || protect && sleep_on {
                return Err(Errno::EINVAL);
            }
            let base = self.base.get().ok_or(Errno::ENOENT)?;
            space.protect_for(start, length, base, protect)?;
            self.wake_base(start, length, protect || sleep_on);
            return Ok(0);
        }
        let mut task = current().task()?;
        handle.write_protect(&mut task, VirtAddr::new(start), length, mode)?;
        Ok(0)
    }

    /// `UFFDIO_MOVE`: of anonymous memory, which huge pages are not.
    pub(super) fn move_range(&self, at: u64) -> Result<u64> {
        let [to, from, length, mode]: [u64; 4] = user::get(at)?;
        self.handle()?;
        let ends = (to.checked_add(length), from.checked_add(length));
        let is_range = length > 0 && (to | from | length).is_multiple_of(PAGE);
        if mode & !(DONT_WAKE | ALLOW_HOLES) != 0 || !is_range || ends.0.is_none() || ends.1.is_none() {
            return Err(Errno::EINVAL);
        }
        let space = current().space();
        if !hugewalk::Arc::ptr_eq(&self.space, space.engine()) {
            return Err(Errno::EINVAL);
        }
        let base = self.base.get().ok_or(Errno::EINVAL)?;
        let (done, outcome) = space.move_for(to, from, length, base, mode & ALLOW_HOLES != 0);
        self.wake_base(to, done, mode & DONT_WAKE != 0);
        answer(at + 32, done, outcome)
    }
}

fn stopped(at: u64, length: u64, outcome: core::result::Result<(), Stopped>) -> Result<u64> {
    match outcome {
        Ok(()) => answer(at, length, Ok(())),
        Err(stopped) => answer(at, stopped.done, Err(stopped.error.into())),
    }
}

/// Says how much was done, or the error if nothing was. What is done in part is `EAGAIN`.
fn answer(at: u64, done: u64, outcome: Result<()>) -> Result<u64> {
    match outcome {
        Ok(()) => user::put(at, &done).map(|()| 0),
        Err(error) if done == 0 => {
            user::put(at, &error.as_result())?;
            Err(error)
        }
        Err(_) => {
            user::put(at, &done)?;
            Err(Errno::EAGAIN)
        }
    }
}
