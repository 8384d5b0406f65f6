//! process_vm_readv and process_vm_writev.

use hugewalk::addr::VirtAddr;
use hugewalk::error::Errno;
use hugewalk::gup::{GupError, TransferError};
use hugewalk::vma::Protection;

use crate::setup::{BASE, MIB2, World, at};

#[test]
fn bytes_of_another_process_are_transferred_across_pages_up_to_the_first_that_is_not_there() {
    let mut world = World::new();
    world.map_private(2);
    let World { task, space, .. } = &mut world;
    let text: Vec<u8> = (0..20_000).map(|n| (n % 251) as u8).collect();
    assert_eq!(space.write_bytes(task, at(0, MIB2 - 10_001), &text), Ok(text.len()));
    let mut back = vec![0; text.len()];
    assert_eq!(space.read_bytes(task, at(0, MIB2 - 10_001), &mut back), Ok(text.len()));
    assert_eq!(back, text);
    assert_eq!(space.write_bytes(task, at(1, MIB2 - 3), &text), Ok(3));
    assert_eq!(space.read_bytes(task, at(1, MIB2 - 4), &mut back), Ok(4));
    assert_eq!(back[..4], [0, 0, 1, 2]);
    let error = space.read_bytes(task, at(2, 0), &mut back).unwrap_err();
    assert_eq!(error, TransferError::NoPage(GupError::NotMapped { address: at(2, 0) }));
    assert_eq!(error.errno(), Errno::EFAULT);
    for address in [u64::MAX, u64::MAX - 5, 1 << 47] {
        let error = space.read_bytes(task, VirtAddr::new(address), &mut back).unwrap_err();
        assert_eq!(error.errno(), Errno::EFAULT);
    }
    assert_eq!(space.read_bytes(task, at(7, 0), &mut []), Ok(0));
    space.exit(task).unwrap();
    assert_eq!(space.read_bytes(task, BASE, &mut back), Err(TransferError::Exited));
    assert_eq!(space.write_bytes(task, BASE, &text).unwrap_err().errno(), Errno::ESRCH);
    assert_eq!(space.read_bytes(task, BASE, &mut []), Ok(0));
}

#[test]
fn writing_to_another_process_copies_what_it_shares_copy_on_write() {
    let mut world = World::new();
    world.map_private(1);
    let World { task, space, .. } = &mut world;
    space.write_bytes(task, BASE, &[1]).unwrap();
    let child = space.fork(task).unwrap();
    assert_eq!(child.write_bytes(task, BASE, &[2]), Ok(1));
    let mut byte = [0];
    space.read_bytes(task, BASE, &mut byte).unwrap();
    assert_eq!(byte, [1]);
    child.read_bytes(task, BASE, &mut byte).unwrap();
    assert_eq!(byte, [2]);
    space.mprotect(task, BASE, MIB2, Protection::READ).unwrap();
    assert_eq!(space.write_bytes(task, BASE, &[3]).unwrap_err().errno(), Errno::EFAULT);
    space.read_bytes(task, BASE, &mut byte).unwrap();
    assert_eq!(byte, [1]);
}
