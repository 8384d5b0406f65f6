//! `i_mmap` says nothing of a VMA that is not in its tree: the proof is a VMA that was found there.

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::file::HugeFile;
use hugewalk::mm::Mm;
use hugewalk::platform::Platform;
use hugewalk::walk::huge_pte_offset;

fn walks<P: Platform>(file: &HugeFile<P>, mm: &Mm<P>, task: &mut Task<P>, address: VirtAddr) {
    let i_mmap = file.i_mmap_read(task);
    let _ = huge_pte_offset(&i_mmap, mm, address, X86_64::SIZE_2M);
}

fn main() {}
