//! Where pages are to come from: mbind, get_mempolicy, set_mempolicy, move_pages. There is one node, so of base pages nothing needs to be
//! kept.

use alloc::sync::Arc;

use crate::arch::numbers::*;
use hugewalk::addr::VirtAddr;
use hugewalk::vma::{Nodes, Policy};

use super::{Answer, Arguments};
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, user};
use crate::process::{Process, find};
use crate::space::Space;
use crate::task::current;

const MPOL_F_NODE: u64 = 1;
const MPOL_F_ADDR: u64 = 2;
const MPOL_F_MEMS_ALLOWED: u64 = 4;
/// What may be added to a mode: static and relative nodes, balancing.
const MODE_FLAGS: u64 = 0xe000;
/// `MPOL_MF_STRICT`, `MPOL_MF_MOVE` and `MPOL_MF_MOVE_ALL`.
const MOVE_FLAGS: u64 = 7;

pub(super) fn call(number: u32, a: &Arguments) -> Answer {
    Some(match number {
        __NR_mbind => bind(a),
        __NR_get_mempolicy => get(a),
        __NR_set_mempolicy => policy(a[0], a[1], a[2]).map(|_| 0),
        __NR_move_pages => move_pages(a),
        __NR_migrate_pages => migrate_pages(a),
        _ => return None,
    })
}

/// The nodes of a mask, of which the last bit does not count.
fn nodes(at: u64, bits: u64) -> Result<u64> {
    if at == 0 || bits <= 1 {
        return Ok(0);
    }
    let mask: u64 = user::get(at)?;
    let bits = bits - 1;
    Ok(if bits >= 64 { mask } else { mask & ((1 << bits) - 1) })
}

/// The policy that a mode and nodes stand for; there is node 0 only. Linux: `mpol_new()` and `mpol_set_nodemask()` in mm/mempolicy.c.
fn policy(mode: u64, at: u64, bits: u64) -> Result<Policy> {
    let bits = nodes(at, bits)?;
    let mask = Nodes::from_bits_retain(bits);
    let mode = mode & !MODE_FLAGS;
    let takes_none = mode == 0 || mode == 4;
    if takes_none && bits != 0 || !takes_none && bits & 1 == 0 && (mode, bits) != (1, 0) {
        return Err(Errno::EINVAL);
    }
    Ok(match mode {
        0 => Policy::Default,
        1 => Policy::Preferred(mask),
        2 => Policy::Bind(mask),
        3 => Policy::Interleave(mask),
        4 => Policy::Local,
        5 => Policy::PreferredMany(mask),
        _ => return Err(Errno::EINVAL),
    })
}

fn bind(a: &Arguments) -> Result<u64> {
    let [start, length, mode, at, bits, flags] = *a;
    if flags & !MOVE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let policy = policy(mode, at, bits)?;
    let space = current().space();
    if space.has_base(start, length) {
        return Ok(0);
    }
    let me = current();
    let mut task = me.task()?;
    space.engine().mbind(&mut task, VirtAddr::new(start), length, policy)?;
    Ok(0)
}

fn get(a: &Arguments) -> Result<u64> {
    let [mode_at, nodes_at, bits, address, flags, _] = *a;
    let asks_for_nodes = flags == MPOL_F_MEMS_ALLOWED;
    if flags & !(MPOL_F_NODE | MPOL_F_ADDR) != 0 && !asks_for_nodes
        || address != 0 && flags & MPOL_F_ADDR == 0
    {
        return Err(Errno::EINVAL);
    }
    let mut policy = (0_u32, u64::from(asks_for_nodes));
    if flags & MPOL_F_ADDR != 0 {
        let space = current().space();
        if !space.has_base(address, 1) {
            let me = current();
            let mut task = me.task()?;
            let mmap = space.engine().mmap_read(&mut task);
            let vma = mmap.find(VirtAddr::new(address)).ok_or(Errno::EFAULT)?;
            policy = match vma.policy() {
                Policy::Default => (0, 0),
                Policy::Preferred(nodes) => (1, nodes.bits()),
                Policy::Bind(nodes) => (2, nodes.bits()),
                Policy::Interleave(nodes) => (3, nodes.bits()),
                Policy::Local => (4, 0),
                Policy::PreferredMany(nodes) => (5, nodes.bits()),
            };
        }
    }
    if mode_at != 0 {
        // The node of the page is the only one.
        user::put(mode_at, &if flags & MPOL_F_NODE != 0 { 0 } else { policy.0 })?;
    }
    if nodes_at != 0 && bits > 0 {
        for word in 0..bits.div_ceil(64).min(16) {
            user::put(nodes_at + 8 * word, &if word == 0 { policy.1 } else { 0 })?;
        }
    }
    Ok(0)
}

/// The node of the page at an address, or what is said in its place.
fn status(space: &Arc<Space>, address: u64) -> Result<i32> {
    let page = space.pages(address & !(PAGE - 1), 1)?;
    if page.first().is_some_and(|page| page.frame.is_some()) {
        return Ok(0);
    }
    let error = if space.is_mapped(address & !(PAGE - 1), PAGE)? { Errno::ENOENT } else { Errno::EFAULT };
    Ok(-error.0.cast_signed())
}

fn process(pid: u64) -> Result<Arc<Process>> {
    match pid as u32 {
        0 => Ok(current().process().clone()),
        pid => find(pid).ok_or(Errno::ESRCH),
    }
}

/// Nowhere to migrate to. Linux: `kernel_migrate_pages()` in mm/mempolicy.c.
fn migrate_pages(a: &Arguments) -> Result<u64> {
    let [pid, bits, from, to, ..] = *a;
    nodes(from, bits)?;
    let to = nodes(to, bits)?;
    process(pid)?;
    if to & 1 == 0 { Err(Errno::EINVAL) } else { Ok(0) }
}

fn move_pages(a: &Arguments) -> Result<u64> {
    let [pid, count, pages, to, statuses, flags] = *a;
    // Being strict is for mbind.
    if flags & !(MOVE_FLAGS & !1) != 0 {
        return Err(Errno::EINVAL);
    }
    let process = process(pid)?;
    let space = process.space()?;
    for index in 0..count.min(1 << 20) {
        let address: u64 = user::get(pages + 8 * index)?;
        let node = if to == 0 { 0 } else { user::get::<i32>(to + 4 * index)? };
        if node != 0 {
            return Err(Errno::ENODEV);
        }
        user::put(statuses + 4 * index, &status(&space, address)?)?;
    }
    Ok(0)
}
