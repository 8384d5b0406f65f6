//! execve: another program in the same process.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use linux_raw_sys::auxvec::{
    AT_CLKTCK, AT_EGID, AT_ENTRY, AT_EUID, AT_EXECFN, AT_GID, AT_HWCAP, AT_NULL, AT_PAGESZ, AT_PHDR,
    AT_PHENT, AT_PHNUM, AT_RANDOM, AT_SECURE, AT_UID,
};

use super::elf::{self, Loaded};
use super::{Process, exit, thread};
use crate::arch::{self, Fpu, Frame, auxv};
use crate::errno::{Errno, Result};
use crate::memory::PAGE;
use crate::space::area::Rights;
use crate::space::map::Place;
use crate::space::{STACK_LIMIT, STACK_TOP, Space};
use crate::task::{Thread, begin, current, robust};

/// Bytes of arguments and environment at most.
const LONGEST: usize = 128 << 10;

/// What a program is started with.
pub struct Start {
    /// Its path.
    pub path: String,
    /// Its arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Its environment.
    pub environment: Vec<Vec<u8>>,
}

/// An address space with the program in it, and the registers it begins with.
fn prepare(image: &[u8], start: &Start) -> Result<(Arc<Space>, Frame)> {
    let space = Space::new()?;
    let done = fill(&space, image, start);
    match done {
        Ok(frame) => Ok((space, frame)),
        Err(error) => {
            space.leave();
            Err(error)
        }
    }
}

fn fill(space: &Arc<Space>, image: &[u8], start: &Start) -> Result<Frame> {
    let loaded = elf::load(space, image)?;
    let brk = loaded.brk + PAGE;
    space.set_brk(brk);
    let size = 256 << 10;
    let mut stack = elf::anonymous(STACK_TOP - size, STACK_TOP, Rights::READ | Rights::WRITE);
    stack.stack = true;
    debug_assert!(size < STACK_LIMIT);
    space.map_base(Place::Fixed(stack.start), size, stack)?;
    if let Some(code) = arch::signal::TRAMPOLINE {
        let above = elf::anonymous(STACK_TOP, STACK_TOP + PAGE, Rights::READ | Rights::EXECUTE);
        space.map_base(Place::Fixed(STACK_TOP), PAGE, above)?;
        space.write_fresh(STACK_TOP, code)?;
    }
    let sp = write_stack(space, &loaded, start)?;
    Ok(Frame::begin(loaded.entry, sp))
}

/// Writes arguments, environment and the auxiliary vector, as the ABI has them: argc, argv, 0, envp, 0, auxv.
fn write_stack(space: &Space, loaded: &Loaded, start: &Start) -> Result<u64> {
    let mut at = STACK_TOP - 16;
    let mut put = |bytes: &[u8], zero: bool| -> Result<u64> {
        at -= bytes.len() as u64 + u64::from(zero);
        space.write_fresh(at, bytes)?;
        Ok(at)
    };
    let total: usize = start.arguments.iter().chain(&start.environment).map(|text| text.len() + 9).sum();
    if total > LONGEST {
        return Err(Errno::E2BIG);
    }
    let path = put(start.path.as_bytes(), true)?;
    let environment = start.environment.iter().map(|text| put(text, true)).collect::<Result<Vec<u64>>>()?;
    let arguments = start.arguments.iter().map(|text| put(text, true)).collect::<Result<Vec<u64>>>()?;
    let mut random = [0; 16];
    crate::random::fill(&mut random);
    let random = put(&random, false)?;
    // The first program begins before there is a process.
    let who =
        current().process.as_ref().map(|process| process.credentials.lock().clone()).unwrap_or_default();
    let mut words = Vec::from([arguments.len() as u64]);
    words.extend(arguments);
    words.push(0);
    words.extend(environment);
    words.push(0);
    for (key, value) in [
        (AT_PHDR, loaded.headers.0),
        (AT_PHENT, 56),
        (AT_PHNUM, loaded.headers.1),
        (AT_PAGESZ, PAGE),
        (AT_ENTRY, loaded.entry),
        (AT_UID, who.user.real.into()),
        (AT_EUID, who.user.effective.into()),
        (AT_GID, who.group.real.into()),
        (AT_EGID, who.group.effective.into()),
        (AT_SECURE, 0),
        (AT_RANDOM, random),
        (AT_HWCAP, auxv::features()),
        (AT_CLKTCK, 100),
        (AT_EXECFN, path),
        (AT_NULL, 0),
    ] {
        words.extend([u64::from(key), value]);
    }
    let rsp = (at - 8 * words.len() as u64) & !15;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    space.write_fresh(rsp, &bytes)?;
    Ok(rsp)
}

fn note(process: &Process, start: &Start) {
    let mut arguments = start.arguments.join(&0);
    arguments.push(0);
    *process.program.lock() = (start.path.clone(), arguments);
}

/// Starts the first program.
///
/// # Errors
///
/// As for [`execute`].
pub fn start_first(process: &Arc<Process>, image: &[u8], start: &Start) -> Result<()> {
    let (space, frame) = prepare(image, start)?;
    note(process, start);
    *process.space.lock() = Some(space.clone());
    let thread = Thread::user(process.pid, process.clone(), space, frame, Fpu::new())?;
    *thread.name.lock() = thread::short_name(&start.path);
    process.state.lock().threads.push(thread.clone());
    crate::trace::first(process.pid, start);
    begin(&thread);
    Ok(())
}

/// Replaces the program of the running process. The image was read from the file. Sleeps.
///
/// # Errors
///
/// `ENOEXEC`, `ENOMEM`, `E2BIG`; then the old program goes on.
pub fn execute(frame: &mut Frame, image: &[u8], start: &Start) -> Result<()> {
    let me = current();
    let process = me.process().clone();
    let (space, begin_with) = prepare(image, start)?;
    // From here on nothing fails. The other threads end first.
    if !exit::end_other_threads(&process) {
        space.leave();
        return Err(Errno::EINTR);
    }
    robust::release_all();
    note(&process, start);
    *me.name.lock() = thread::short_name(&start.path);
    let old = process.space.lock().replace(space.clone());
    me.clear_tid.store(0, Ordering::Relaxed);
    // The old one is emptied while it is loaded: its engine part belongs to this thread's task until then.
    if let Some(old) = old {
        old.leave();
        me.set_space(Some(space));
        drop(old);
    } else {
        me.set_space(Some(space));
    }
    let closed = process.files().remove_close_on_exec();
    drop(closed);
    process.handlers().lock().reset_for_exec();
    {
        let mut own = process.credentials.lock();
        own.user.saved = own.user.effective;
        own.group.saved = own.group.effective;
    }
    me.signals.lock().forget_stack();
    process.state.lock().has_execed = true;
    exit::end_of_vfork(&process);
    me.registers.reset();
    Fpu::new().load();
    *frame = begin_with;
    Ok(())
}
