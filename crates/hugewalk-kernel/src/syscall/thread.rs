//! Threads: clone, exit, futex, and what a thread sets about itself.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::arch::numbers::*;
use linux_raw_sys::ptrace::PTRACE_EVENT_EXIT;

use super::{Answer, Arguments};
use crate::arch::{Frame, clone_arguments};
use crate::cpu::{self, clock};
use crate::errno::{Errno, Result};
use crate::memory::user;
use crate::process::exit::{Status, end_group};
use crate::process::thread::{self, Request};
use crate::process::{self, Process, ptrace};
use crate::task::{Thread, current, futex, move_to, robust, yield_now};

pub(super) fn call(number: u32, a: &Arguments, frame: &mut Frame) -> Answer {
    Some(match number {
        __NR_clone => {
            let (tls, child_tid) = clone_arguments(a);
            let (flags, exit_signal) = (a[0] & !0xff, (a[0] & 0xff) as u32);
            thread::clone(
                frame,
                &Request { flags, exit_signal, stack: a[1], parent_tid: a[2], child_tid, tls },
            )
        }
        __NR_clone3 => clone3(frame, a[0], a[1]),
        __NR_fork => thread::clone(frame, &Request { exit_signal: SIGCHLD, ..Request::default() }),
        __NR_vfork => thread::clone(
            frame,
            &Request { flags: u64::from(CLONE_VM | CLONE_VFORK), exit_signal: SIGCHLD, ..Request::default() },
        ),
        __NR_exit => {
            // One that was killed meanwhile stops no more.
            if !ptrace::dies() {
                ptrace::event(frame, PTRACE_EVENT_EXIT, (a[0] & 0xff) << 8);
            }
            thread::exit(a[0] as u8)
        }
        __NR_exit_group => {
            end_group(current().process(), Status::Exited(a[0] as u8));
            current().interrupted.store(true, Ordering::SeqCst);
            Ok(0)
        }
        __NR_futex => futex(a),
        __NR_gettid => Ok(u64::from(current().tid)),
        __NR_set_tid_address => {
            current().clear_tid.store(a[0], Ordering::Relaxed);
            Ok(u64::from(current().tid))
        }
        __NR_set_robust_list => robust::set(a[0], a[1]),
        __NR_get_robust_list => robust::of(a[0] as u32, a[1], a[2]),
        // Programs go on without it.
        __NR_rseq => Err(Errno::ENOSYS),
        __NR_sched_yield => {
            yield_now();
            Ok(0)
        }
        __NR_sched_getaffinity => affinity(a[0] as u32, a[1], a[2]),
        __NR_sched_setaffinity => set_affinity(a[0] as u32, a[1], a[2]),
        __NR_sched_setscheduler | __NR_setpriority => Ok(0),
        __NR_sched_getscheduler | __NR_sched_getparam => Ok(0),
        __NR_sched_get_priority_max | __NR_sched_get_priority_min => Ok(0),
        // 20 less the nice value of 0.
        __NR_getpriority => Ok(20),
        __NR_getcpu => getcpu(a[0], a[1]),
        _ => return None,
    })
}

fn clone3(frame: &mut Frame, arguments: u64, size: u64) -> Result<u64> {
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    if size < 64 {
        return Err(Errno::EINVAL);
    }
    // flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls.
    let [flags, _, child_tid, parent_tid, exit_signal, stack, stack_size, tls]: [u64; 8] =
        user::get(arguments)?;
    let exit_signal = u32::try_from(exit_signal).map_err(|_| Errno::EINVAL)?;
    if (stack == 0) != (stack_size == 0) || flags & 0xff != 0 {
        return Err(Errno::EINVAL);
    }
    thread::clone(
        frame,
        &Request { flags, stack: stack + stack_size, parent_tid, child_tid, tls, exit_signal },
    )
}

/// A time of the program's, in nanoseconds since the start.
fn deadline(at: u64, relative: bool, realtime: bool) -> Result<Option<u64>> {
    if at == 0 {
        return Ok(None);
    }
    let [seconds, nanoseconds]: [u64; 2] = user::get(at)?;
    if nanoseconds >= 1_000_000_000 || seconds > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let time = seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    Ok(Some(match (relative, realtime) {
        (true, _) => clock::now().saturating_add(time),
        (false, true) => time.saturating_sub(clock::wall() - clock::now()),
        (false, false) => time,
    }))
}

fn futex(a: &Arguments) -> Result<u64> {
    let operation = a[1] as u32;
    let private = operation & FUTEX_PRIVATE_FLAG != 0;
    let realtime = operation & FUTEX_CLOCK_REALTIME != 0;
    let (address, value) = (a[0], a[2] as u32);
    match operation & FUTEX_CMD_MASK as u32 {
        FUTEX_WAIT => futex::wait(address, private, value, u32::MAX, deadline(a[3], true, false)?),
        FUTEX_WAIT_BITSET => {
            futex::wait(address, private, value, a[5] as u32, deadline(a[3], false, realtime)?)
        }
        FUTEX_WAKE => futex::wake(address, private, value, u32::MAX),
        FUTEX_WAKE_BITSET => futex::wake(address, private, value, a[5] as u32),
        FUTEX_REQUEUE => futex::requeue(address, a[4], private, value, a[3] as u32, None),
        FUTEX_CMP_REQUEUE => futex::requeue(address, a[4], private, value, a[3] as u32, Some(a[5] as u32)),
        _ => Err(Errno::ENOSYS),
    }
}

/// The thread with this number; 0 is the running one.
fn thread_of(tid: u32) -> Result<Arc<Thread>> {
    if tid == 0 {
        return Ok(current().handle());
    }
    let of = |process: Arc<Process>| process.threads().into_iter().find(|thread| thread.tid == tid);
    process::find(tid).and_then(of).or_else(|| process::all().into_iter().find_map(of)).ok_or(Errno::ESRCH)
}

/// All processors, a bit each.
fn all_processors() -> u64 {
    (1 << cpu::count()) - 1
}

fn affinity(tid: u32, size: u64, into: u64) -> Result<u64> {
    if size < 8 || !size.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let mask = thread_of(tid)?.processors.load(Ordering::Relaxed) & all_processors();
    user::put(into, &mask)?;
    Ok(8)
}

/// Linux: `sched_setaffinity()` in kernel/sched/syscalls.c.
fn set_affinity(tid: u32, size: u64, at: u64) -> Result<u64> {
    let mut mask = [0; 8];
    user::read(at, &mut mask[..size.min(8) as usize])?;
    let mask = u64::from_ne_bytes(mask) & all_processors();
    let thread = thread_of(tid)?;
    if mask == 0 {
        return Err(Errno::EINVAL);
    }
    if thread.tid == current().tid {
        move_to(mask);
    } else {
        // It goes there when it is chosen next.
        thread.processors.store(mask, Ordering::Relaxed);
    }
    Ok(0)
}

fn getcpu(cpu: u64, node: u64) -> Result<u64> {
    if cpu != 0 {
        user::put(cpu, &(cpu::this().number() as u32))?;
    }
    if node != 0 {
        user::put(node, &0_u32)?;
    }
    Ok(0)
}
