//! Signals: actions, masks, sending, waiting.

use crate::arch::numbers::*;

use super::{Answer, Arguments};
use crate::arch::{self, Frame};
use crate::cpu::clock;
use crate::errno::{Errno, Result};
use crate::memory::user;
use crate::process::signal::{self, Action, Info, Set, forget, send_to_process, send_to_thread, set_mask};
use crate::process::{self, INIT, credentials, find};
use crate::task::wait::sleep;
use crate::task::{current, timer};

pub(super) fn call(number: u32, a: &Arguments, registers: &mut Frame) -> Answer {
    Some(match number {
        __NR_rt_sigaction => action(a[0] as u32, a[1], a[2]),
        __NR_rt_sigprocmask => mask(a[0] as u32, a[1], a[2]),
        __NR_rt_sigreturn => Ok(returned(registers)),
        __NR_rt_sigpending => pending(a[0]),
        __NR_rt_sigsuspend => user::get::<Set>(a[0]).and_then(|mask| signal::with_mask(Some(mask), forever)),
        __NR_pause => forever(),
        __NR_rt_sigtimedwait => timed_wait(a[0], a[1], a[2]),
        __NR_sigaltstack => alternate_stack(a[0], a[1], registers.stack()),
        __NR_rt_sigqueueinfo => queue(None, a[0] as u32, a[1] as u32, a[2]),
        __NR_rt_tgsigqueueinfo => queue(Some(a[0] as u32), a[1] as u32, a[2] as u32, a[3]),
        __NR_kill => kill(a[0] as i32, a[1] as u32),
        __NR_tgkill => kill_thread(Some(a[0] as u32), a[1] as u32, a[2] as u32),
        __NR_tkill => kill_thread(None, a[0] as u32, a[1] as u32),
        __NR_alarm => Ok(alarm(a[0])),
        __NR_setitimer => set_timer(a[0] as u32, a[1], a[2]),
        _ => return None,
    })
}

fn forever() -> Result<u64> {
    loop {
        sleep(None)?;
    }
}

fn check(signal: u32) -> Result<()> {
    if (1..=64).contains(&signal) { Ok(()) } else { Err(Errno::EINVAL) }
}

fn action(number: u32, new: u64, old: u64) -> Result<u64> {
    check(number)?;
    let me = current();
    let handlers = me.process().handlers();
    let was = handlers.lock().action(number);
    if new != 0 {
        if matches!(number, SIGKILL | SIGSTOP) {
            return Err(Errno::EINVAL);
        }
        let [handler, flags, restorer, mask]: [u64; 4] = user::get(new)?;
        handlers.lock().set(number, Action { handler, flags, restorer, mask });
        if handler == 1 {
            forget(me.process(), number);
        }
    }
    if old != 0 {
        user::put(old, &[was.handler, was.flags, was.restorer, was.mask])?;
    }
    Ok(0)
}

fn mask(how: u32, new: u64, old: u64) -> Result<u64> {
    let was = current().signals.lock().mask;
    if new != 0 {
        let set: Set = user::get(new)?;
        set_mask(match how {
            SIG_BLOCK => was | set,
            SIG_UNBLOCK => was & !set,
            SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        });
    }
    if old != 0 {
        user::put(old, &was)?;
    }
    Ok(0)
}

fn returned(registers: &mut Frame) -> u64 {
    if arch::signal::pop(registers).is_err() {
        signal::force_info(Info::kernel(SIGSEGV));
    }
    // What the interrupted program had in the register stays there.
    registers.result()
}

fn pending(into: u64) -> Result<u64> {
    let me = current();
    let set = me.signals.lock().pending.set() | me.process().pending.lock().set();
    user::put(into, &set)?;
    Ok(0)
}

fn timed_wait(set: u64, info: u64, timeout: u64) -> Result<u64> {
    let wanted: Set = user::get(set)?;
    let deadline = match timeout {
        0 => None,
        at => {
            let [seconds, nanoseconds]: [u64; 2] = user::get(at)?;
            Some(
                clock::now()
                    .saturating_add(seconds.saturating_mul(1_000_000_000))
                    .saturating_add(nanoseconds),
            )
        }
    };
    loop {
        if let Some(found) = signal::take(wanted) {
            if info != 0 {
                user::write(info, &found.bytes())?;
            }
            return Ok(u64::from(found.signal));
        }
        match sleep(deadline) {
            Err(Errno::ETIMEDOUT) => return Err(Errno::EAGAIN),
            other => other?,
        }
    }
}

/// `SS_ONSTACK` is taken and means nothing. Linux: `do_sigaltstack()` in kernel/signal.c.
fn alternate_stack(new: u64, old: u64, pointer: u64) -> Result<u64> {
    let me = current();
    let was = me.signals.lock().stack;
    if new != 0 {
        let [start, flags, size]: [u64; 3] = user::get(new)?;
        let flags = flags as u32;
        let on_stack = pointer.wrapping_sub(was.0) < was.1;
        if on_stack {
            return Err(Errno::EPERM);
        }
        if !matches!(flags, 0 | signal::SS_ONSTACK | signal::SS_DISABLE) {
            return Err(Errno::EINVAL);
        }
        let disable = flags == signal::SS_DISABLE;
        if !disable && size < 2048 {
            return Err(Errno::ENOMEM);
        }
        me.signals.lock().stack = if disable { (0, 0, signal::SS_DISABLE) } else { (start, size, 0) };
    }
    if old != 0 {
        user::put(old, &[was.0, u64::from(was.2), was.1])?;
    }
    Ok(0)
}

fn kill(pid: i32, number: u32) -> Result<u64> {
    if number != 0 {
        check(number)?;
    }
    let own = current().process().clone();
    let targets = match pid {
        pid if pid > 0 => alloc::vec::Vec::from([find(pid.cast_unsigned()).ok_or(Errno::ESRCH)?]),
        _ => {
            let group = if pid == 0 { own.state.lock().group } else { pid.unsigned_abs() };
            let all = process::all();
            all.into_iter()
                .filter(|other| {
                    if pid == -1 {
                        ![own.pid, INIT].contains(&other.pid)
                    } else {
                        other.state.lock().group == group
                    }
                })
                .collect()
        }
    };
    if targets.is_empty() {
        return Err(Errno::ESRCH);
    }
    let mut allowed = targets.iter().filter(|target| may_signal(target, number)).peekable();
    if allowed.peek().is_none() {
        return Err(Errno::EPERM);
    }
    for target in allowed.filter(|_| number != 0) {
        send_to_process(target, Info::user(number, false));
    }
    Ok(0)
}

fn kill_thread(group: Option<u32>, tid: u32, number: u32) -> Result<u64> {
    if number != 0 {
        check(number)?;
    }
    let candidates = match group {
        Some(group) => alloc::vec::Vec::from([find(group).ok_or(Errno::ESRCH)?]),
        None => process::all(),
    };
    let thread = candidates.iter().flat_map(|process| process.threads()).find(|thread| thread.tid == tid);
    let thread = thread.ok_or(Errno::ESRCH)?;
    if thread.process.as_ref().is_none_or(|process| !may_signal(process, number)) {
        return Err(Errno::EPERM);
    }
    if number != 0 {
        send_to_thread(&thread, Info::user(number, true));
    }
    Ok(0)
}

/// `rt_sigqueueinfo`, and with a group `rt_tgsigqueueinfo`: a signal with what the sender says about it. What the kernel alone may
/// say is refused, unless it is said to oneself. Linux: `do_rt_sigqueueinfo()` in kernel/signal.c.
fn queue(group: Option<u32>, to: u32, number: u32, info: u64) -> Result<u64> {
    let info = Info { signal: number, ..Info::of_bytes(&user::get(info)?) };
    let own = current().process().pid;
    if (info.code >= 0 || info.code == Info::user(number, true).code) && group.unwrap_or(to) != own {
        return Err(Errno::EPERM);
    }
    if number != 0 {
        check(number)?;
    }
    let process = find(group.unwrap_or(to)).ok_or(Errno::ESRCH)?;
    let thread = process.threads().into_iter().find(|thread| thread.tid == to);
    if group.is_some() && thread.is_none() {
        return Err(Errno::ESRCH);
    }
    if !may_signal(&process, number) {
        return Err(Errno::EPERM);
    }
    match thread {
        _ if number == 0 => {}
        Some(thread) if group.is_some() => send_to_thread(&thread, info),
        _ => send_to_process(&process, info),
    }
    Ok(0)
}

/// May the running process send a signal to another? Linux: `check_kill_permission()` in kernel/signal.c.
fn may_signal(target: &process::Process, number: u32) -> bool {
    let (me, own) = (current(), credentials::own());
    let ids = target.credentials.lock().user;
    let same_session = || me.process().state.lock().session == target.state.lock().session;
    own.is_root()
        || [own.user.real, own.user.effective].iter().any(|id| [ids.real, ids.saved].contains(id))
        || number == SIGCONT && same_session()
}

/// Sets the interval timer, and returns how many nanoseconds the old one had left.
fn set_interval(after: u64, every: u64) -> u64 {
    let me = current();
    let process = me.process();
    let now = clock::now();
    let next = (after > 0).then(|| (timer::signal_at(now.saturating_add(after), process), every));
    let old = core::mem::replace(&mut *process.interval.lock(), next);
    old.map_or(0, |(alarm, _)| alarm.time().saturating_sub(now).max(1))
}

fn alarm(seconds: u64) -> u64 {
    set_interval((seconds & 0xffff_ffff) * 1_000_000_000, 0).div_ceil(1_000_000_000)
}

fn set_timer(which: u32, new: u64, old: u64) -> Result<u64> {
    if which != ITIMER_REAL {
        return Err(Errno::EINVAL);
    }
    let nanoseconds =
        |seconds: u64, micros: u64| seconds.saturating_mul(1_000_000_000).saturating_add(micros * 1000);
    let [every_s, every_us, after_s, after_us]: [u64; 4] = user::get(new)?;
    if every_us >= 1_000_000 || after_us >= 1_000_000 {
        return Err(Errno::EINVAL);
    }
    let left = set_interval(nanoseconds(after_s, after_us), nanoseconds(every_s, every_us));
    if old != 0 {
        user::put(old, &[0, 0, left / 1_000_000_000, left % 1_000_000_000 / 1000])?;
    }
    Ok(0)
}
