//! Nothing is held: nothing keeps a table on the way from being unshared and freed.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::mm::Mm;
use hugewalk::platform::Platform;
use hugewalk::walk::{huge_pte_offset, leaf_offset};

fn walks<P: Platform>(mm: &Mm<P>, address: VirtAddr) {
    let _ = huge_pte_offset(&(), mm, address, X86_64::SIZE_2M);
    let _ = leaf_offset(&(), mm, address);
}

fn main() {}
