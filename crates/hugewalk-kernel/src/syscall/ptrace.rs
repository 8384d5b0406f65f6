//! Requests of a process that traces a thread. Linux: `ptrace_request()` in kernel/ptrace.c.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::arch::numbers::*;
use linux_raw_sys::elf_uapi::NT_PRSTATUS;
use linux_raw_sys::ptrace::*;

use super::transfer::reach;
use super::{Answer, Arguments};
use crate::arch::{AUDIT, Registers};
use crate::errno::{Errno, Result};
use crate::memory::user;
use crate::process::credentials;
use crate::process::ptrace::{
    self, Go, Tracing, Why, attach, detach, interrupt, resume, tracee, with_stopped,
};
use crate::process::signal::{Info, Set, send_to_thread, unblockable};
use crate::process::{self, find};
use crate::space::Space;
use crate::task::{Thread, current};

/// All options but those about seccomp.
const OPTIONS: u32 = PTRACE_O_EXITKILL | 0x7f;

pub(super) fn call(number: u32, a: &Arguments) -> Answer {
    (number == __NR_ptrace).then(|| request(a[0] as u32, a[1] as u32, a[2], a[3]))
}

fn request(request: u32, tid: u32, address: u64, data: u64) -> Result<u64> {
    match request {
        PTRACE_TRACEME => trace_me(),
        PTRACE_ATTACH => begin(tid, false, 0),
        PTRACE_SEIZE if address != 0 => Err(Errno::EIO),
        PTRACE_SEIZE => begin(tid, true, data),
        PTRACE_INTERRUPT => interrupt(tid),
        PTRACE_DETACH => detach(tid, data),
        PTRACE_KILL => resume(tid, Go::Freely, SIGKILL.into()),
        PTRACE_CONT => resume(tid, Go::Freely, data),
        PTRACE_SYSCALL => resume(tid, Go::ToCall, data),
        PTRACE_SINGLESTEP => resume(tid, Go::Step, data),
        PTRACE_PEEKTEXT | PTRACE_PEEKDATA => peek(tid, address, data),
        PTRACE_POKETEXT | PTRACE_POKEDATA => poke(tid, address, data),
        PTRACE_PEEKUSR => {
            let word = with_stopped(tid, |state| state.stop()?.registers.word(address))?;
            user::put(data, &word).map(|()| 0)
        }
        PTRACE_POKEUSR => {
            with_stopped(tid, |state| state.stop()?.registers.change_word(address, data).map(|()| 0))
        }
        PTRACE_SETOPTIONS => {
            let options = options(data)?;
            with_stopped(tid, |state| {
                state.options = options;
                Ok(0)
            })
        }
        PTRACE_GETEVENTMSG => {
            let message = with_stopped(tid, |state| Ok(state.message))?;
            user::put(data, &message).map(|()| 0)
        }
        PTRACE_GETSIGINFO => {
            let info = with_stopped(tid, |state| signal_of(state).map(|info| *info))?;
            user::write(data, &info.bytes()).map(|()| 0)
        }
        PTRACE_SETSIGINFO => {
            let mut bytes = [0; 128];
            user::read(data, &mut bytes)?;
            let info = Info::of_bytes(&bytes);
            with_stopped(tid, |state| {
                *signal_of(state)? = info;
                Ok(0)
            })
        }
        PTRACE_GETREGSET => set_of_registers(tid, address as u32, data, false),
        PTRACE_SETREGSET => set_of_registers(tid, address as u32, data, true),
        PTRACE_GETSIGMASK | PTRACE_SETSIGMASK => mask(tid, address, data, request == PTRACE_SETSIGMASK),
        PTRACE_GET_SYSCALL_INFO => describe_call(tid, address, data),
        _ => match Registers::of_request(request) {
            Some((kind, false)) => {
                let bytes = with_stopped(tid, |state| state.stop()?.registers.set(kind))?;
                user::write(data, &bytes).map(|()| 0)
            }
            Some((kind, true)) => {
                let mut bytes = with_stopped(tid, |state| state.stop()?.registers.set(kind))?;
                user::read(data, &mut bytes)?;
                with_stopped(tid, |state| state.stop()?.registers.change(kind, &bytes)).map(|()| 0)
            }
            None => {
                tracee(tid)?;
                Err(Errno::EIO)
            }
        },
    }
}

fn options(data: u64) -> Result<u32> {
    u32::try_from(data).ok().filter(|options| options & !OPTIONS == 0).ok_or(Errno::EINVAL)
}

/// `PTRACE_TRACEME`.
fn trace_me() -> Result<u64> {
    let me = current();
    let parent = me.process().parent.lock().upgrade().ok_or(Errno::EPERM)?;
    attach(&me.handle(), &parent, false, 0).map(|()| 0)
}

/// `PTRACE_ATTACH` and `PTRACE_SEIZE`.
fn begin(tid: u32, seized: bool, data: u64) -> Result<u64> {
    let options = if seized { options(data).map_err(|_| Errno::EIO)? } else { 0 };
    let of = |process: Arc<process::Process>| process.threads().into_iter().find(|thread| thread.tid == tid);
    let thread =
        find(tid).and_then(of).or_else(|| process::all().into_iter().find_map(of)).ok_or(Errno::ESRCH)?;
    let own = current().process().clone();
    if thread.process.as_ref().is_none_or(|process| Arc::ptr_eq(process, &own)) {
        return Err(Errno::EPERM);
    }
    may_trace(&thread)?;
    attach(&thread, &own, seized, options)?;
    if seized {
        // It may be in a stop of its process, which is now this one's to end.
        thread.unpark();
    } else {
        send_to_thread(&thread, Info::kernel(SIGSTOP));
    }
    Ok(0)
}

/// Linux: `__ptrace_may_access()` in kernel/ptrace.c.
fn may_trace(thread: &Thread) -> Result<()> {
    let own = credentials::own();
    let other = thread.process.as_ref().ok_or(Errno::EPERM)?.credentials.lock().clone();
    if own.may_reach(&other) { Ok(()) } else { Err(Errno::EPERM) }
}

fn space_of(thread: &Thread) -> Result<Arc<Space>> {
    thread.process.as_ref().ok_or(Errno::ESRCH)?.space()
}

/// The address space of a thread that has stopped.
fn stopped_space(tid: u32) -> Result<Arc<Space>> {
    with_stopped(tid, |_| Ok(()))?;
    space_of(&*tracee(tid)?)
}

fn peek(tid: u32, address: u64, into: u64) -> Result<u64> {
    let space = stopped_space(tid)?;
    let mut word = [0; 8];
    if reach(&space, address, &mut word, false) != Ok(word.len()) {
        return Err(Errno::EIO);
    }
    user::write(into, &word).map(|()| 0)
}

/// Stores a word, also where the program may not: then in a page of its own. Not so in huge pages. Linux: `FOLL_FORCE` in
/// `check_vma_flags()`, mm/gup.c.
fn poke(tid: u32, address: u64, word: u64) -> Result<u64> {
    let space = stopped_space(tid)?;
    let mut bytes = word.to_ne_bytes();
    if reach(&space, address, &mut bytes, true) == Ok(bytes.len())
        || space.write_by_force(address, &bytes).is_ok()
    {
        return Ok(0);
    }
    Err(Errno::EIO)
}

/// The signal that a thread has stopped for.
fn signal_of(state: &mut Tracing) -> Result<&mut Info> {
    let seized = state.seized;
    let stop = state.stop()?;
    if stop.why == Why::Group && !seized { Err(Errno::EINVAL) } else { Ok(&mut stop.info) }
}

/// `PTRACE_GETREGSET`, `PTRACE_SETREGSET`: at `vector` are an address and a length.
fn set_of_registers(tid: u32, kind: u32, vector: u64, change: bool) -> Result<u64> {
    let [at, length]: [u64; 2] = user::get(vector)?;
    let bytes = with_stopped(tid, |state| state.stop()?.registers.set(kind))?;
    let count = bytes.len().min(usize::try_from(length).unwrap_or(usize::MAX));
    if change {
        let mut given: Vec<u8> = alloc::vec![0; count];
        user::read(at, &mut given)?;
        with_stopped(tid, |state| state.stop()?.registers.change(kind, &given))?;
    } else {
        let unit = if kind == NT_PRSTATUS { 8 } else { 4 };
        if !count.is_multiple_of(unit) {
            return Err(Errno::EINVAL);
        }
        user::write(at, &bytes[..count])?;
    }
    user::put(vector + 8, &(count as u64)).map(|()| 0)
}

/// `PTRACE_GETSIGMASK`, `PTRACE_SETSIGMASK`.
fn mask(tid: u32, size: u64, at: u64, change: bool) -> Result<u64> {
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    with_stopped(tid, |_| Ok(()))?;
    let thread = tracee(tid)?;
    if change {
        let set: Set = user::get(at)?;
        thread.signals.lock().mask = set & !unblockable();
    } else {
        let set = thread.signals.lock().mask;
        user::put(at, &set)?;
    }
    Ok(0)
}

/// `PTRACE_GET_SYSCALL_INFO`: `struct ptrace_syscall_info`. Returns how long it is, whatever is asked for.
fn describe_call(tid: u32, size: u64, into: u64) -> Result<u64> {
    let (why, places, call, result) = with_stopped(tid, |state| {
        let stop = state.stop()?;
        let registers = &stop.registers;
        Ok((stop.why, registers.places(), registers.call(), registers.result()))
    })?;
    let kind = match why {
        ptrace::Why::Entry => PTRACE_SYSCALL_INFO_ENTRY,
        ptrace::Why::Exit => PTRACE_SYSCALL_INFO_EXIT,
        _ => PTRACE_SYSCALL_INFO_NONE,
    };
    let mut bytes = Vec::new();
    let mut put = |word: u64| bytes.extend_from_slice(&word.to_ne_bytes());
    put(u64::from(kind) | u64::from(AUDIT) << 32);
    put(places.0);
    put(places.1);
    match why {
        Why::Entry => {
            put(call.0);
            call.1.into_iter().for_each(put);
        }
        Why::Exit => {
            put(result);
            let failed = result.cast_signed() < 0 && result.cast_signed() >= -4095;
            bytes.push(u8::from(failed));
        }
        _ => {}
    }
    let count = bytes.len().min(usize::try_from(size).unwrap_or(usize::MAX));
    user::write(into, &bytes[..count])?;
    Ok(bytes.len() as u64)
}
