//! Processes: execve, wait, identity, limits.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::arch::numbers::*;

use super::{Answer, Arguments};
use crate::arch::{self, Frame};
use crate::cpu::clock;
use crate::errno::{Errno, Result};
use crate::memory::{frames, user};
use crate::process::credentials::{self, Ids, Kind};
use crate::process::exec::{self, Start};
use crate::process::group;
use crate::process::ptrace;
use crate::process::wait::{Wants, Which, wait_for};
use crate::process::{self, find};
use crate::task::current;
use crate::{fs, random};

pub(super) fn call(number: u32, a: &Arguments, frame: &mut Frame) -> Answer {
    let me = current();
    let process = me.process();
    Some(match number {
        __NR_execve => execve(frame, a[0], a[1], a[2]),
        __NR_wait4 => wait4(a[0] as i32, a[1], a[2] as u32, a[3]),
        __NR_waitid => waitid(a),
        __NR_getpid => Ok(u64::from(process.pid)),
        __NR_getppid => Ok(u64::from(process.parent_pid())),
        __NR_getuid => Ok(credentials::own().user.real.into()),
        __NR_geteuid => Ok(credentials::own().user.effective.into()),
        __NR_getgid => Ok(credentials::own().group.real.into()),
        __NR_getegid => Ok(credentials::own().group.effective.into()),
        __NR_getresuid => put_ids(credentials::own().user, a),
        __NR_getresgid => put_ids(credentials::own().group, a),
        __NR_setuid => credentials::set(Kind::User, a[0] as u32),
        __NR_setgid => credentials::set(Kind::Group, a[0] as u32),
        __NR_setreuid => credentials::set_two(Kind::User, a[0] as u32, a[1] as u32),
        __NR_setregid => credentials::set_two(Kind::Group, a[0] as u32, a[1] as u32),
        __NR_setresuid => credentials::set_three(Kind::User, [a[0], a[1], a[2]].map(|id| id as u32)),
        __NR_setresgid => credentials::set_three(Kind::Group, [a[0], a[1], a[2]].map(|id| id as u32)),
        // It is the effective one always.
        __NR_setfsuid => Ok(credentials::own().user.effective.into()),
        __NR_setfsgid => Ok(credentials::own().group.effective.into()),
        __NR_setgroups => set_groups(a[0], a[1]),
        __NR_getgroups => groups(a[0], a[1]),
        __NR_capset => Ok(0),
        __NR_capget => capget(a[0], a[1]),
        __NR_getpgrp => Ok(u64::from(process.state.lock().group)),
        __NR_getpgid => of(a[0] as u32).map(|process| u64::from(process.state.lock().group)),
        __NR_getsid => of(a[0] as u32).map(|process| u64::from(process.state.lock().session)),
        __NR_setpgid => group::join(a[0] as u32, a[1] as i32).map(|()| 0),
        __NR_setsid => group::begin_session().map(u64::from),
        __NR_prlimit64 => prlimit(a[0] as u32, a[1], a[2], a[3]),
        __NR_getrlimit => prlimit(0, a[0], 0, a[1]),
        __NR_setrlimit => prlimit(0, a[0], a[1], 0),
        __NR_getrusage => usage(a[1]),
        __NR_prctl => prctl(a[0] as u32, a[1]),
        __NR_uname => uname(a[0]),
        __NR_sysinfo => sysinfo(a[0]),
        __NR_getrandom => getrandom(a[0], a[1]),
        __NR_umask => Ok(u64::from(process.umask.swap(a[0] as u32 & 0o777, Ordering::Relaxed))),
        __NR_personality => Ok(0),
        __NR_pidfd_open => process::pidfd::open(a[0] as u32, a[1] as u32),
        __NR_unshare => unshare(a[0] as u32),
        _ => return None,
    })
}

fn put_ids(ids: Ids, a: &Arguments) -> Result<u64> {
    for (at, id) in a.iter().zip([ids.real, ids.effective, ids.saved]) {
        user::put(*at, &id)?;
    }
    Ok(0)
}

fn set_groups(count: u64, at: u64) -> Result<u64> {
    credentials::must_be_root()?;
    if count > 65536 {
        return Err(Errno::EINVAL);
    }
    let groups = (0..count).map(|index| user::get(at + 4 * index)).collect::<Result<Vec<u32>>>()?;
    current().process().credentials.lock().groups = groups;
    Ok(0)
}

fn groups(room: u64, into: u64) -> Result<u64> {
    let groups = credentials::own().groups;
    if room != 0 {
        if (room as usize) < groups.len() {
            return Err(Errno::EINVAL);
        }
        for (index, group) in groups.iter().enumerate() {
            user::put(into + 4 * index as u64, group)?;
        }
    }
    Ok(groups.len() as u64)
}

/// `unshare`: a namespace of segments, or a table of descriptors.
fn unshare(flags: u32) -> Result<u64> {
    if flags & !(CLONE_NEWIPC | CLONE_FS | CLONE_SYSVSEM) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & CLONE_NEWIPC != 0 {
        let old = current().process().ipc.lock().replace(crate::ipc::shm::Namespace::new());
        drop(old);
    }
    Ok(0)
}

fn of(pid: u32) -> Result<alloc::sync::Arc<process::Process>> {
    if pid == 0 { Ok(current().process().clone()) } else { find(pid).ok_or(Errno::ESRCH) }
}

/// A list of pointers to strings, ended by 0.
fn strings(at: u64) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    if at == 0 {
        return Ok(all);
    }
    for index in 0..4096 {
        let pointer: u64 = user::get(at + 8 * index)?;
        if pointer == 0 {
            return Ok(all);
        }
        all.push(user::string(pointer, 128 << 10)?.into_bytes());
    }
    Err(Errno::E2BIG)
}

fn execve(frame: &mut Frame, path: u64, arguments: u64, environment: u64) -> Result<u64> {
    let path = user::string(path, 4096)?;
    let mut start = Start { path, arguments: strings(arguments)?, environment: strings(environment)? };
    let mut image = fs::program(start.path.as_bytes())?;
    // A script names its interpreter in its first line.
    if let Some(line) = image.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let interpreter = words.next().ok_or(Errno::ENOEXEC)?.to_vec();
        let mut all = Vec::from([interpreter.clone()]);
        all.extend(words.map(<[u8]>::to_vec));
        all.push(start.path.clone().into_bytes());
        all.extend(start.arguments.drain(..).skip(1));
        image = fs::program(&interpreter)?;
        start.path = String::from_utf8(interpreter).map_err(|_| Errno::ENOENT)?;
        start.arguments = all;
    }
    exec::execute(frame, &image, &start)?;
    frame.set_result(0);
    ptrace::began_program(frame);
    Ok(0)
}

/// Children of each kind are waited for: `__WNOTHREAD`, `__WALL`, `__WCLONE`.
const ANY_KIND: u32 = 0xe000_0000;

fn which(pid: i32) -> Which {
    match pid {
        -1 => Which::Any,
        0 => Which::Group(current().process().state.lock().group),
        pid if pid > 0 => Which::Pid(pid.cast_unsigned()),
        group => Which::Group(group.unsigned_abs()),
    }
}

fn wait4(pid: i32, status: u64, options: u32, usage_at: u64) -> Result<u64> {
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | ANY_KIND) != 0 {
        return Err(Errno::EINVAL);
    }
    let has = |flag| options & flag != 0;
    let wants = Wants {
        ended: true,
        stopped: has(WUNTRACED),
        continued: has(WCONTINUED),
        nohang: has(WNOHANG),
        keep: false,
    };
    let Some((pid, found)) = wait_for(which(pid), wants)? else { return Ok(0) };
    if status != 0 {
        user::put(status, &found.as_wait())?;
    }
    if usage_at != 0 {
        usage(usage_at)?;
    }
    Ok(u64::from(pid))
}

fn waitid(a: &Arguments) -> Result<u64> {
    let which = match a[0] as u32 {
        P_ALL => Which::Any,
        P_PID => Which::Pid(a[1] as u32),
        P_PGID => Which::Group(a[1] as u32),
        _ => return Err(Errno::EINVAL),
    };
    let options = a[3] as u32;
    let has = |flag| options & flag != 0;
    if options & !(WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | ANY_KIND) != 0
        || !has(WEXITED | WSTOPPED | WCONTINUED)
    {
        return Err(Errno::EINVAL);
    }
    let wants = Wants {
        ended: has(WEXITED),
        stopped: has(WSTOPPED),
        continued: has(WCONTINUED),
        nohang: has(WNOHANG),
        keep: has(WNOWAIT),
    };
    let found = wait_for(which, wants)?;
    if a[2] != 0 {
        let bytes = found.map_or([0; 128], |(pid, found)| {
            let (code, value) = found.as_code();
            process::signal::Info::child(SIGCHLD, code, pid, value).bytes()
        });
        user::write(a[2], &bytes)?;
    }
    Ok(0)
}

fn prlimit(pid: u32, resource: u64, new: u64, old: u64) -> Result<u64> {
    let process = of(pid)?;
    let at = usize::try_from(resource).ok().filter(|at| *at < 16).ok_or(Errno::EINVAL)?;
    let was = process.limits.lock()[at];
    if new != 0 {
        let limit: [u64; 2] = user::get(new)?;
        if limit[0] > limit[1] {
            return Err(Errno::EINVAL);
        }
        if limit[1] > was[1] {
            credentials::must_be_root()?;
        }
        process.limits.lock()[at] = limit;
    }
    if old != 0 {
        user::put(old, &was)?;
    }
    Ok(0)
}

/// `struct rusage`: the time since the start, minor faults, and zeroes.
fn usage(into: u64) -> Result<u64> {
    let mut words = [0_u64; 18];
    let time = clock::now() - current().process().started.load(Ordering::Relaxed);
    words[0] = time / 1_000_000_000;
    words[1] = time % 1_000_000_000 / 1000;
    words[8] = current().process().faults.load(Ordering::Relaxed);
    user::put(into, &words)?;
    Ok(0)
}

fn prctl(option: u32, argument: u64) -> Result<u64> {
    use linux_raw_sys::prctl::{
        PR_GET_DUMPABLE, PR_GET_NAME, PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, PR_SET_NAME,
        PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, PR_SET_PTRACER,
    };
    let me = current();
    match option {
        PR_SET_NAME => {
            let mut name = [0; 16];
            let text = user::string(argument, 4096)?;
            let length = text.len().min(15);
            name[..length].copy_from_slice(&text.as_bytes()[..length]);
            *me.name.lock() = name;
            Ok(0)
        }
        PR_GET_NAME => {
            let name = *me.name.lock();
            user::put(argument, &name).map(|()| 0)
        }
        PR_SET_CHILD_SUBREAPER => {
            me.process().subreaper.store(argument != 0, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_DUMPABLE => Ok(1),
        PR_SET_DUMPABLE | PR_SET_NO_NEW_PRIVS | PR_SET_PDEATHSIG | PR_SET_PTRACER => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// `struct capability`: version 3, and all of them.
fn capget(header: u64, data: u64) -> Result<u64> {
    const VERSION: u32 = 0x2008_0522;
    let [version, _]: [u32; 2] = user::get(header)?;
    if version != VERSION {
        user::put(header, &VERSION)?;
        return if data == 0 { Ok(0) } else { Err(Errno::EINVAL) };
    }
    if data != 0 {
        let has = if credentials::own().is_root() { [u32::MAX, 0x1ff] } else { [0; 2] };
        user::put(data, &[has[0], has[0], 0, has[1], has[1], 0])?;
    }
    Ok(0)
}

fn uname(into: u64) -> Result<u64> {
    let mut bytes = [0; 6 * 65];
    for (index, text) in
        ["Linux", "hugewalk", fs::proc::RELEASE, "#1 SMP", arch::MACHINE, "(none)"].iter().enumerate()
    {
        bytes[65 * index..][..text.len()].copy_from_slice(text.as_bytes());
    }
    user::write(into, &bytes)?;
    Ok(0)
}

fn sysinfo(into: u64) -> Result<u64> {
    let (total, free) = frames::totals();
    let mut words = [0_u64; 14];
    words[0] = clock::now() / 1_000_000_000;
    words[4] = total;
    words[5] = free;
    words[10] = process::all().len() as u64;
    // The unit, a byte, is in the upper half of the word.
    words[13] = 1;
    user::put(into, &words)?;
    Ok(0)
}

fn getrandom(into: u64, length: u64) -> Result<u64> {
    let mut done = 0;
    while done < length {
        let mut bytes = [0; 256];
        let here = (length - done).min(256) as usize;
        random::fill(&mut bytes[..here]);
        user::write(into + done, &bytes[..here])?;
        done += here as u64;
    }
    Ok(length)
}
