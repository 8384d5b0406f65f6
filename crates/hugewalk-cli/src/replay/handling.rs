//! The machine with handlers of faults: what is done in an address space, and by its handler.

use std::ops::Range;
use std::sync::mpsc::channel;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::PMD_SIZE;
use hugewalk::error::OutOfMemory;
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::gup::TransferError;
use hugewalk::sync::Arc;
use hugewalk::uffd::{ContinueMode, CopyMode, Modes, ProtectMode, Stopped, Userfault};
use hugewalk::{AddressSpace, Task};
use hugewalk_host::Host;

use super::got::Got;
use super::handlers::{Performed, Ticket, Work};
use super::machine::Machine;
use super::plan::{FileId, HandlerAct, Space, ToHandler};
use crate::trace::Handling;

/// How often an access is tried anew before it is given up.
const ATTEMPTS: u32 = 8;

/// Bytes of another process that are read or written in one step.
const CHUNK: u64 = PMD_SIZE;

impl Machine {
    /// Does something in an address space: here, or if it has a handler, on a thread that may wait for that. `address` is what
    /// it faults on, if it is a fault.
    pub(super) fn work(
        &mut self,
        (copy, space): (u32, Space),
        address: Option<u64>,
        work: impl FnOnce(&Arc<AddressSpace<Host>>, &mut Task<Host>) -> Option<Got> + Send + 'static,
    ) -> Result<Performed, OutOfMemory> {
        let has_handler = self.handlers.has(copy, space);
        let (of, task) = self.made(copy, space)?;
        if !has_handler {
            return Ok(Performed::Done(work(&of, task)));
        }
        let work: Work = Box::new(work);
        let (performed, born) = self.handlers.run(&self.hugetlb, (copy, space), &of, address, work);
        self.born = born;
        Ok(performed)
    }

    pub(super) fn fork(
        &mut self,
        copy: u32,
        (parent, child): (Space, Space),
        handlers: &[(FileId, FileId)],
    ) -> Result<Performed, OutOfMemory> {
        let (give, take) = channel();
        let performed = self.work((copy, parent), None, move |space, task| {
            Some(match space.fork(task) {
                // The one who takes it waits for this to end.
                Ok(forked) => give.send(forked).map_or(Got::from(OutOfMemory), |()| Got::Value(0)),
                Err(error) => Err::<(), _>(error).into(),
            })
        })?;
        if let Ok(forked) = take.try_recv() {
            self.put(copy, child, Some(forked));
        }
        for (of_parent, handle) in std::mem::take(&mut self.born) {
            if let Some((_, id)) = handlers.iter().find(|(parent, _)| *parent == of_parent) {
                self.handlers.add(copy, *id, child, handle);
            }
        }
        Ok(performed)
    }

    pub(super) fn transfer(
        &mut self,
        copy: u32,
        space: Space,
        write: bool,
        parts: &[Range<u64>],
    ) -> Result<Performed, OutOfMemory> {
        let parts = parts.to_vec();
        self.work((copy, space), None, move |space, task| {
            let mut done = 0;
            for part in &parts {
                let (moved, error) = transfer_part(space, task, write, part);
                done += moved;
                match error {
                    // The first byte decides whether it is an error.
                    Some(error) if done == 0 => return Some(error.into()),
                    Some(_) => break,
                    None if moved < part.end - part.start => break,
                    None => {}
                }
            }
            Some(Got::Value(done))
        })
    }

    pub(super) fn handle(&mut self, copy: u32, act: &HandlerAct) -> Result<Option<Got>, OutOfMemory> {
        let HandlerAct { space, handler, features, what } = act;
        let ToHandler::Handle { parts, handling } = what else {
            if let Some(handle) = self.handlers.take(copy, *handler) {
                handle.close(&mut self.task).expect("its own task");
                self.handlers.woken(copy, *space, &(0..u64::MAX));
            }
            return Ok(None);
        };
        let (of, _) = self.made(copy, *space)?;
        let handle = match self.handlers.handler(copy, *handler, *space, &of, *features) {
            Ok(handle) => handle,
            Err(error) => return Ok(Some(Err(error).into())),
        };
        let mut woken = Vec::new();
        let mut result = Got::Value(0);
        for part in parts {
            let (got, wakes) = handle_part(handle, &mut self.task, part, *handling);
            woken.extend(wakes);
            result = got;
            if result != Got::Value(0) {
                break;
            }
        }
        for range in woken {
            self.handlers.woken(copy, *space, &range);
        }
        Ok(Some(result))
    }

    /// What waited and has come to an end since it was asked last.
    pub fn take_finished(&mut self) -> Vec<(Ticket, Option<Got>)> {
        self.handlers.take_finished()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // What still waits ends with its address space.
        for (copy, space) in self.handlers.waiting() {
            if let Some(space) = self.space(copy, space).cloned() {
                space.exit(&mut self.task).expect("its own task");
            }
        }
        self.handlers.end();
    }
}

/// Takes a fault, as often as it takes.
pub(super) fn fault_in(
    space: &AddressSpace<Host>,
    task: &mut Task<Host>,
    address: u64,
    access: Access,
) -> Result<(), FaultError> {
    for _ in 0..ATTEMPTS {
        if space.fault(task, VirtAddr::new(address), access)? != Fault::Raced {
            break;
        }
    }
    Ok(())
}

/// Does one thing of a handler; how it ended, and the faults of which range it has woken.
fn handle_part(
    handle: &Userfault<Host>,
    task: &mut Task<Host>,
    part: &Range<u64>,
    handling: Handling,
) -> (Got, Option<Range<u64>>) {
    let (start, length) = (VirtAddr::new(part.start), part.end - part.start);
    // As far as it got.
    let filled = |result: &Result<(), Stopped>, dont_wake: bool| {
        let done = result.map_or_else(|stopped| stopped.done, |()| length);
        (done > 0 && !dont_wake).then(|| part.start..part.start + done)
    };
    match handling {
        Handling::Register(modes) => {
            let result = handle.register(task, start, length, Modes::from_bits_retain(modes.bits()));
            (result.map(|_| ()).into(), None)
        }
        Handling::Unregister => (handle.unregister(task, start, length).into(), Some(part.clone())),
        Handling::Copy(mode) => {
            let mode = CopyMode::from_bits_retain(mode.bits());
            // Pages have no contents here: these are as good as any.
            let bytes = vec![0; usize::try_from(length).unwrap_or_default()];
            let result = handle.copy(task, start, &bytes, mode);
            (result.into(), filled(&result, mode.contains(CopyMode::DONTWAKE)))
        }
        Handling::Continue(mode) => {
            let mode = ContinueMode::from_bits_retain(mode.bits());
            let result = handle.continue_range(task, start, length, mode);
            (result.into(), filled(&result, mode.contains(ContinueMode::DONTWAKE)))
        }
        Handling::Zeropage => (handle.zero(task, start, length).into(), None),
        Handling::Writeprotect(mode) => {
            let mode = ProtectMode::from_bits_retain(mode.bits());
            let result = handle.write_protect(task, start, length, mode);
            let wakes = result.is_ok() && mode.is_empty();
            (result.into(), wakes.then(|| part.clone()))
        }
        Handling::Wake => (handle.wake(start, length).into(), Some(part.clone())),
    }
}

/// Moves bytes from or to another process; how many, and why not more if that is known.
fn transfer_part(
    space: &AddressSpace<Host>,
    task: &mut Task<Host>,
    write: bool,
    part: &Range<u64>,
) -> (u64, Option<TransferError>) {
    let mut at = part.start;
    let mut bytes = vec![0; usize::try_from(CHUNK.min(part.end - part.start)).unwrap_or_default()];
    while at < part.end {
        let length = usize::try_from(CHUNK.min(part.end - at)).unwrap_or_default();
        let Some(bytes) = bytes.get_mut(..length) else { break };
        let address = VirtAddr::new(at);
        let moved = if write {
            space.write_bytes(task, address, bytes)
        } else {
            space.read_bytes(task, address, bytes)
        };
        match moved {
            Ok(moved) if moved < length => return (at - part.start + moved as u64, None),
            Ok(moved) => at += moved as u64,
            Err(error) => return (at - part.start, Some(error)),
        }
    }
    (at - part.start, None)
}
