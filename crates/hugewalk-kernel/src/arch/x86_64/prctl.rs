//! `arch_prctl`: the bases of FS and GS.

use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::general::__NR_arch_prctl;

use crate::errno::{Errno, Result};
use crate::memory::user;
use crate::syscall::{Answer, Arguments};
use crate::task::current;

/// Serves a system call of this architecture alone.
pub fn call(number: u32, a: &Arguments) -> Answer {
    (number == __NR_arch_prctl).then(|| arch_prctl(a[0] as u32, a[1]))
}

fn arch_prctl(code: u32, address: u64) -> Result<u64> {
    const SET_GS: u32 = 0x1001;
    const SET_FS: u32 = 0x1002;
    const GET_FS: u32 = 0x1003;
    const GET_GS: u32 = 0x1004;
    let me = current();
    let base = match code {
        SET_FS | GET_FS => &me.registers.fs_base,
        SET_GS | GET_GS => &me.registers.gs_base,
        _ => return Err(Errno::EINVAL),
    };
    match code {
        SET_FS | SET_GS if address >= crate::memory::USER_END => return Err(Errno::EPERM),
        SET_FS | SET_GS => {
            base.store(address, Relaxed);
            me.registers.load();
        }
        _ => user::put(address, &base.load(Relaxed))?,
    }
    Ok(0)
}
