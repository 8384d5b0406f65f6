//! Nothing is held: nothing keeps a table on the way from being unshared and freed.

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::mm::Mm;
use hugewalk::platform::Platform;
use hugewalk::walk::{huge_pte_offset, leaf_offset};

fn walks<P: Platform>(mm: &Mm<P>, address: VirtAddr) {
    let _ = huge_pte_offset(&(), mm, address, HugeSize::Size2M);
    let _ = leaf_offset(&(), mm, address);
}

fn main() {}
