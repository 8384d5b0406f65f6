//! `hugetlb-read-hwpoison`: read(2) of a file of which a page has failed, before it is punched out and after.

use hugewalk::error::Errno;
use hugewalk::file::FileError;
use hugewalk::mm::Advice;

use crate::setup::{BASE, MIB2, Machine, SHARED, at, check_bytes, cpu, write_bytes};

const PAGES: u64 = 8;
const BAD: u64 = 4;

#[test]
fn a_file_is_read_up_to_the_page_that_failed_and_on_behind_it_and_again_once_it_was_punched_out() {
    let mut machine = Machine::new(PAGES);
    let (file, space) = (machine.file(PAGES), machine.process());
    machine.map(&space, &file, BASE, PAGES * MIB2, SHARED);
    let mut cpu = cpu(&space);
    write_bytes(&mut cpu, &mut machine.task, BASE, PAGES * MIB2);
    check_bytes(&mut cpu, &mut machine.task, BASE, PAGES * MIB2);
    space.madvise(&mut machine.task, at(BAD), 4096, Advice::Hwpoison).unwrap();
    let mut all = vec![0xff; (PAGES * MIB2) as usize];
    // Nothing of the whole huge page: which of its small pages failed is not kept.
    assert_eq!(file.read_at(0, &mut all).unwrap() as u64, BAD * MIB2);
    for (page, bytes) in all.chunks(MIB2 as usize).take(BAD as usize).enumerate() {
        assert_eq!((bytes[0], bytes[1], bytes[255]), (page as u8, 0, 255));
    }
    // Not the end of the file, which is no error.
    let bad = FileError::Hwpoison { index: BAD };
    assert_eq!(file.read_at(BAD * MIB2, &mut all), Err(bad));
    assert_eq!(file.read_at(BAD * MIB2 + 4096, &mut all[..100]), Err(bad));
    assert_eq!((bad.errno(), file.read_at(PAGES * MIB2, &mut all)), (Errno::EIO, Ok(0)));
    // Who seeks behind it reads the rest.
    assert_eq!(file.read_at((BAD + 1) * MIB2, &mut all).unwrap() as u64, (PAGES - BAD - 1) * MIB2);
    assert_eq!(all[0], BAD as u8 + 1);
    // Neither is it written.
    let refused = file.write_at(&mut machine.task, BAD * MIB2, &[1]).unwrap_err();
    assert_eq!(refused.errno(), Errno::EIO);
    file.punch_hole(&mut machine.task, BAD * MIB2, MIB2).unwrap();
    assert_eq!(file.read_at(0, &mut all).unwrap() as u64, PAGES * MIB2);
    assert!(all[(BAD * MIB2) as usize..((BAD + 1) * MIB2) as usize].iter().all(|&byte| byte == 0));
    assert_eq!(all[((BAD + 1) * MIB2) as usize], BAD as u8 + 1);
    assert_eq!((machine.counters().total, machine.free()), (PAGES - 1, 0));
    drop((cpu, space, file));
    machine.end();
}
