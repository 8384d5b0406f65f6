//! Files that are written from a source which faults while it is copied.

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::X86_64;
use hugewalk::error::{BadSource, Errno, Interrupted};
use hugewalk::fault::Access;
use hugewalk::file::{FileError, HugeFile, WriteStopped};
use hugewalk::mm::{LockAll, MapRequest};
use hugewalk::source::{Room, Source};
use hugewalk::sync::Arc;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Cpu, Host, HostConfig};

const PAGE: HugeSize = X86_64::SIZE_2M;
const MIB2: u64 = PAGE.bytes();
const START: VirtAddr = VirtAddr::new(4 << 30);

struct World {
    hugetlb: Arc<Hugetlb<Host>>,
    task: Task<Host>,
    file: Arc<HugeFile<Host>>,
}

fn world(pages: u64) -> World {
    let hugetlb = Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(1 << 30)).unwrap()).unwrap();
    hugetlb.resize_pool(PAGE, pages);
    let task = hugewalk_host::task(&hugetlb).unwrap();
    let file = HugeFile::new(&hugetlb, PAGE, None).unwrap();
    World { hugetlb, task, file }
}

/// Bytes that say where they are.
fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

/// A source of which the bytes up to `there` are there without a fault, and each fault brings some more.
struct Partly<F> {
    there: u64,
    faults: u64,
    fault: F,
}

impl<F> Partly<F> {
    fn new(fault: F) -> Self {
        Self { there: 0, faults: 0, fault }
    }

    fn put(offset: u64, room: &mut Room<'_, Host>, count: u64) {
        let bytes: Vec<u8> = (offset..offset + count.min(room.left() as u64)).map(byte).collect();
        room.write(&bytes);
    }
}

/// Bytes that a fault brings: no multiple of anything.
const BROUGHT: u64 = 700_001;

impl<F: FnMut(&mut Task<Host>, u64) -> Result<(), BadSource>> Source<Host> for Partly<F> {
    fn copy_nofault(&mut self, offset: u64, room: &mut Room<'_, Host>) {
        Self::put(offset, room, self.there.saturating_sub(offset));
    }

    fn copy(
        &mut self,
        offset: u64,
        room: &mut Room<'_, Host>,
        task: &mut Task<Host>,
    ) -> Result<(), BadSource> {
        let end = offset + room.left() as u64;
        if end > self.there {
            self.faults += 1;
            (self.fault)(task, offset)?;
            self.there = end.max(self.there + BROUGHT);
        }
        Self::put(offset, room, end - offset);
        Ok(())
    }
}

fn assert_holds(file: &HugeFile<Host>, offset: u64, length: u64) {
    let mut bytes = vec![0; length as usize];
    assert_eq!(file.read_at(offset, &mut bytes), Ok(length as usize));
    let wrong = bytes.iter().zip(0..).position(|(&seen, at)| seen != byte(at));
    assert_eq!(wrong, None, "a byte is not what was written");
}

#[test]
fn each_byte_of_a_source_comes_to_where_it_belongs() {
    for (offset, length) in [(0, 3 * MIB2), (5, 1), (MIB2 - 3, 7), (1000, 2 * MIB2 + 77), (MIB2, MIB2)] {
        let World { mut task, file, .. } = world(8);
        let mut source = Partly::new(|_: &mut _, _| Ok(()));
        file.write_from(&mut task, offset, length, &mut source).unwrap();
        assert_eq!(file.size(), offset + length);
        assert_holds(&file, offset, length);
        assert_eq!(file.pages(), (offset + length).div_ceil(MIB2) - offset / MIB2);
        // What is there is not waited for: a fault, and all that it has brought.
        let most = length / BROUGHT + 1 + file.pages();
        assert!((1..=most).contains(&source.faults), "{} faults", source.faults);
        // What lies before and behind is as it was.
        let mut before = vec![0xff; offset as usize];
        file.read_at(0, &mut before).unwrap();
        assert!(before.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn bytes_that_are_there_are_a_source() {
    let World { mut task, file, .. } = world(1);
    let bytes: Vec<u8> = (0..1000).map(byte).collect();
    file.write_from(&mut task, 10, 1000, &mut &bytes[..]).unwrap();
    assert_holds(&file, 10, 1000);
    file.write_from(&mut task, 0, 0, &mut &bytes[..]).unwrap();
}

#[test]
fn a_source_may_be_the_very_page_that_is_written() {
    let World { hugetlb, mut task, file } = world(8);
    let space = AddressSpace::new(&hugetlb).unwrap();
    file.truncate(&mut task, 2 * MIB2).unwrap();
    space.mmap(&mut task, &MapRequest::file(&file, 0, 2 * MIB2).shared().at(START)).unwrap();
    let mut cpu = Cpu::new(&space).unwrap();
    let mut source = Partly::new(|task: &mut Task<Host>, offset| {
        // The mmap lock, the fault mutex of this page, the VMA lock; and the inode lock of the file.
        let at = START.checked_add(offset).unwrap();
        space.fault(task, at, Access::Write).map_err(|_| BadSource)?;
        cpu.store(task, at, 1).map_err(|_| BadSource)?;
        file.allocate(task, 0, 2 * MIB2, true).map_err(|_| BadSource)?;
        space.mlockall(task, LockAll::CURRENT).map_err(|_| BadSource)
    });
    file.write_from(&mut task, 0, 2 * MIB2, &mut source).unwrap();
    assert!(source.faults > 1);
    assert_holds(&file, 0, 2 * MIB2);
    drop(cpu);
    space.exit(&mut task).unwrap();
}

#[test]
fn what_a_source_could_not_bring_is_not_written_and_takes_no_page() {
    let World { mut task, file, .. } = world(8);
    let stop = MIB2 + BROUGHT;
    let fails = |_: &mut Task<Host>, offset| if offset < stop { Ok(()) } else { Err(BadSource) };
    let stopped = file.write_from(&mut task, 0, 4 * MIB2, &mut Partly::new(fails)).unwrap_err();
    assert_eq!((stopped.error, stopped.error.errno()), (FileError::BadSource(BadSource), Errno::EFAULT));
    assert!((stop..2 * MIB2).contains(&stopped.done));
    assert_eq!((file.size(), file.pages()), (stopped.done, 2));
    assert_holds(&file, 0, stopped.done);
}

#[test]
fn bytes_that_end_where_a_page_does_take_no_other_page() {
    let World { mut task, file, .. } = world(8);
    let bytes: Vec<u8> = (0..MIB2).map(byte).collect();
    let stopped = file.write_from(&mut task, 0, 2 * MIB2, &mut &bytes[..]).unwrap_err();
    assert_eq!(stopped, WriteStopped { done: MIB2, error: FileError::BadSource(BadSource) });
    assert_eq!((file.size(), file.pages()), (MIB2, 1));
}

#[test]
fn without_a_page_it_says_how_far_it_came() {
    let World { mut task, file, .. } = world(2);
    let stopped =
        file.write_from(&mut task, 0, 4 * MIB2, &mut Partly::new(|_: &mut _, _| Ok(()))).unwrap_err();
    assert!(matches!(stopped, WriteStopped { done, error: FileError::PoolEmpty(_) } if done == 2 * MIB2));
    assert_eq!((file.size(), file.pages()), (2 * MIB2, 2));
    assert_holds(&file, 0, 2 * MIB2);
}

#[test]
fn a_task_that_is_killed_writes_no_more() {
    let World { mut task, file, .. } = world(4);
    let killed = Partly::new(|task: &mut Task<Host>, offset| {
        if offset > MIB2 {
            task.parker().kill();
        }
        Ok(())
    });
    let stopped = file.write_from(&mut task, 0, 4 * MIB2, &mut { killed }).unwrap_err();
    assert_eq!(stopped.error, FileError::Interrupted(Interrupted));
    assert!((MIB2..4 * MIB2).contains(&stopped.done));
    assert_eq!(file.size(), stopped.done);
    assert_holds(&file, 0, stopped.done);
}

#[test]
fn a_range_that_no_file_has_is_refused_before_the_source_is_asked() {
    let World { mut task, file, .. } = world(2);
    let mut never = Partly::new(|_: &mut _, _| panic!("it is asked"));
    let past = file.write_from(&mut task, i64::MAX as u64, 2, &mut never);
    assert_eq!(past, Err(WriteStopped { done: 0, error: FileError::TooLarge }));
    let negative = file.write_from(&mut task, 1 << 63, 2, &mut never).unwrap_err();
    assert_eq!((negative.error.errno(), file.pages()), (Errno::EINVAL, 0));
}
