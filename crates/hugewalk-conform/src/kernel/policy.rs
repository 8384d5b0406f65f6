//! Memory policies: `mbind(2)` and `get_mempolicy(2)`, as a process of a program calls them.

use std::ptr;

/// Linux: include/uapi/linux/mempolicy.h.
const MPOL_F_ADDR: u64 = 1 << 1;

/// One node more than the bits that are meant: the kernel takes the number for that of the bits behind the last.
const NODES: u64 = 64 + 1;

/// Gives a range a policy. Says nothing of an error but that there is one.
pub(super) fn bind([address, length, mode, nodes]: [u64; 4]) -> Option<()> {
    // SAFETY: reads one word of nodes; the range is one of the program's window.
    let bound =
        unsafe { libc::syscall(libc::SYS_mbind, address, length, mode, &raw const nodes, NODES, 0u64) };
    (bound == 0).then_some(())
}

/// The mode and the nodes of the policy at an address, if something is mapped there.
pub(super) fn of(address: u64) -> Option<[u64; 2]> {
    let mut mode = 0i32;
    // The kernel writes as many nodes as it is built for, 1024 at most.
    let mut nodes = [0u64; 16];
    let bits = size_of_val(&nodes) as u64 * 8;
    let (to_mode, to_nodes) = (&raw mut mode, nodes.as_mut_ptr());
    // SAFETY: writes a number and no more than so many bits.
    let got = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            to_mode,
            to_nodes,
            bits,
            ptr::without_provenance::<()>(address as usize),
            MPOL_F_ADDR,
        )
    };
    (got == 0).then_some([mode as u64, nodes[0]])
}
