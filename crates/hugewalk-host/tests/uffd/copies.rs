//! Copies from a source that faults while it is copied: a program's memory that is not there yet.

use std::thread;

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::error::{BadSource, Errno, NoPage};
use hugewalk::mm::{Advice, MapFlags};
use hugewalk::source::{Room, Source};
use hugewalk::uffd::{CopyMode, Features, Message, Modes, Stopped, UserfaultError};
use hugewalk_host::{Cpu, Host};

use crate::setup::{BASE, File, KINDS, MIB2, Space, World, at, file_of, load, map_at, store, until};

const NONE: CopyMode = CopyMode::empty();
const ELSEWHERE: VirtAddr = VirtAddr::new(20 << 30);

/// A source of which nothing is there. Page `n` is full of `n + 1`; what comes before that is the test's.
pub(crate) struct Absent<F>(pub(crate) F);

impl<F: FnMut(&mut Task<Host>, u64) -> Result<(), BadSource>> Source<Host> for Absent<F> {
    fn copy(
        &mut self,
        offset: u64,
        room: &mut Room<'_, Host>,
        task: &mut Task<Host>,
    ) -> Result<(), BadSource> {
        (self.0)(task, offset)?;
        fill(room, offset);
        Ok(())
    }
}

fn fill(room: &mut Room<'_, Host>, offset: u64) {
    let piece = [(offset / MIB2) as u8 + 1; 1000];
    while room.left() > 0 {
        let left = room.left();
        assert_eq!(room.write(&piece), left.min(piece.len()));
    }
    assert_eq!(room.write(&piece), 0);
}

fn free(world: &World) -> (u64, u64) {
    let counters = world.hugetlb.pool(X86_64::SIZE_2M).counters();
    (counters.free, counters.reserved)
}

/// Takes each lock that a fault takes, and those of the operations that faults wait for; also the inode lock of the file that is
/// filled, and the fault mutex of the very page.
fn every_lock(space: &Space, cpu: &mut Cpu, task: &mut Task<Host>, (file, page): (&File, u64)) {
    cpu.store(task, ELSEWHERE, 1).unwrap();
    space.madvise(task, ELSEWHERE, MIB2, Advice::Remove).unwrap();
    space.munmap(task, ELSEWHERE, MIB2).unwrap();
    file.allocate(task, page * MIB2, MIB2, true).unwrap();
    file.punch_hole(task, page * MIB2, MIB2).unwrap();
}

#[test]
fn a_source_may_take_every_lock_that_a_fault_takes() {
    for kind in KINDS {
        let mut world = World::registered(4, kind, Modes::MISSING);
        let other = file_of(&mut world.task, 1);
        let (space, file, mut cpu) = (world.space.clone(), world.file.clone(), world.cpu());
        let mut asked = Vec::new();
        let mut source = Absent(|task: &mut Task<Host>, offset| {
            asked.push(offset);
            map_at(&space, task, &other, ELSEWHERE, MapFlags::SHARED);
            every_lock(&space, &mut cpu, task, (&file, 1 + offset / MIB2));
            Ok(())
        });
        world.uffd.copy_from(&mut world.task, at(1, 0), 2 * MIB2, &mut source, NONE).unwrap();
        assert_eq!(asked, [0, MIB2], "each page is asked for once");
        let mut cpu = world.cpu();
        assert_eq!([1, 2].map(|page| load(&mut cpu, &mut world.task, page)), [Ok(1), Ok(2)]);
        assert_eq!(store(&mut cpu, &mut world.task, 1, 9), Ok(()));
        drop((cpu, other, space, file));
        world.end();
    }
}

#[test]
fn the_address_space_may_be_the_sources_own() {
    for kind in KINDS {
        let mut world = World::registered(4, kind, Modes::MISSING);
        let other = file_of(&mut world.task, 1);
        map_at(&world.space, &mut world.task, &other, ELSEWHERE, MapFlags::SHARED);
        let mut cpu = world.cpu();
        let mut source = Absent(|task: &mut Task<Host>, _| {
            // A fault of this very address space.
            cpu.store(task, ELSEWHERE, 7).map_err(|_| BadSource)
        });
        world.uffd.copy_from(&mut world.task, at(0, 0), MIB2, &mut source, NONE).unwrap();
        assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(1));
        assert_eq!(cpu.load(&mut world.task, ELSEWHERE), Ok(7));
        drop((cpu, other));
        world.end();
    }
}

#[test]
fn a_source_that_fails_in_the_middle_leaves_what_was_there_before_it() {
    for kind in KINDS {
        let mut world = World::registered(4, kind, Modes::MISSING);
        let before = free(&world);
        let bad =
            |from| move |_: &mut Task<Host>, offset| if offset < from { Ok(()) } else { Err(BadSource) };
        let copied = world.uffd.copy_from(&mut world.task, BASE, 4 * MIB2, &mut Absent(bad(2 * MIB2)), NONE);
        let error = UserfaultError::BadSource(BadSource);
        assert_eq!(copied, Err(Stopped { done: 2 * MIB2, error }));
        assert_eq!((copied.unwrap_err().errno(), error.errno()), (Errno::EAGAIN, Errno::EFAULT));
        // The two that were reserved are used, and nothing else is gone.
        assert_eq!(free(&world), (before.0 - 2, before.1 - 2));
        let none = world.uffd.copy_from(&mut world.task, at(2, 0), MIB2, &mut Absent(bad(0)), NONE);
        assert_eq!(none, Err(Stopped { done: 0, error }));
        // Bytes that end too early are no page.
        let mut short: &[u8] = &[1; 100];
        let none = world.uffd.copy_from(&mut world.task, at(2, 0), MIB2, &mut short, NONE);
        assert_eq!(none, Err(Stopped { done: 0, error }));
        assert_eq!(free(&world), (before.0 - 2, before.1 - 2));
        world.uffd.copy_from(&mut world.task, at(2, 0), 2 * MIB2, &mut Absent(bad(4 * MIB2)), NONE).unwrap();
        let mut cpu = world.cpu();
        let seen = [0, 1, 2, 3].map(|page| load(&mut cpu, &mut world.task, page).unwrap());
        assert_eq!(seen, [1, 2, 1, 2]);
        drop(cpu);
        world.end();
    }
}

#[test]
fn what_is_there_needs_no_page_besides() {
    let mut world = World::registered(4, MapFlags::SHARED, Modes::MISSING);
    let all = world.hugetlb.resize_pool(X86_64::SIZE_2M, 4);
    assert_eq!((all, free(&world)), (4, (4, 4)));
    let refused = world.uffd.copy_from(&mut world.task, BASE, MIB2, &mut Absent(|_: &mut _, _| Ok(())), NONE);
    assert!(matches!(refused, Err(Stopped { done: 0, error: UserfaultError::NoPage(NoPage::PoolEmpty(_)) })));
    assert_eq!((refused.unwrap_err().errno(), free(&world)), (Errno::ENOMEM, (4, 4)));
    let bytes = vec![3; 4 * MIB2 as usize];
    world.uffd.copy_from(&mut world.task, BASE, 4 * MIB2, &mut &bytes[..], NONE).unwrap();
    assert_eq!(free(&world), (0, 0));
    world.end();
}

#[test]
fn what_changed_while_the_source_was_copied_is_seen() {
    for kind in KINDS {
        let unmap = |space: &Space, task: &mut Task<Host>| space.munmap(task, BASE, 4 * MIB2).unwrap();
        let exit = |space: &Space, task: &mut Task<Host>| space.exit(task).unwrap();
        for (change, error) in [
            (&unmap as &dyn Fn(&Space, &mut Task<Host>), UserfaultError::NotRegistered { address: BASE }),
            (&exit, UserfaultError::Exited),
        ] {
            let mut world = World::registered(4, kind, Modes::MISSING);
            let space = world.space.clone();
            let mut source = Absent(|task: &mut Task<Host>, offset| {
                if offset == MIB2 {
                    change(&space, task);
                }
                Ok(())
            });
            let copied = world.uffd.copy_from(&mut world.task, BASE, 4 * MIB2, &mut source, NONE);
            assert_eq!(copied, Err(Stopped { done: MIB2, error }));
            drop(space);
            world.end();
        }
        let mut world = World::registered(4, kind, Modes::MISSING);
        let uffd = &world.uffd;
        let mut source = Absent(|task: &mut Task<Host>, _| {
            uffd.unregister(task, BASE, 4 * MIB2).unwrap();
            Ok(())
        });
        let copied = uffd.copy_from(&mut world.task, BASE, MIB2, &mut source, NONE);
        assert_eq!(copied.unwrap_err().error, UserfaultError::NotRegistered { address: BASE });
        world.end();
    }
}

#[test]
fn a_page_that_came_while_the_source_was_copied_stays() {
    for kind in KINDS {
        let mut world = World::registered(4, kind, Modes::MISSING);
        let uffd = &world.uffd;
        let mut source = Absent(|task: &mut Task<Host>, _| {
            let bytes = vec![8; MIB2 as usize];
            uffd.copy(task, BASE, &bytes, NONE).unwrap();
            Ok(())
        });
        let copied = uffd.copy_from(&mut world.task, BASE, MIB2, &mut source, NONE);
        assert_eq!(copied.unwrap_err().error, UserfaultError::Exists { address: BASE });
        let mut cpu = world.cpu();
        assert_eq!(load(&mut cpu, &mut world.task, 0), Ok(8));
        drop(cpu);
        world.end();
    }
}

#[test]
fn nothing_is_brought_into_mappings_that_began_to_change_meanwhile() {
    let mut world = World::new(4, MapFlags::SHARED, Features::EVENT_REMOVE);
    world.register(Modes::MISSING);
    let (hugetlb, space, uffd) = (world.hugetlb.clone(), world.space.clone(), &world.uffd);
    let mut remover = None;
    let mut source = Absent(|_: &mut Task<Host>, _| {
        let (hugetlb, space) = (hugetlb.clone(), space.clone());
        remover = Some(thread::spawn(move || {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            space.madvise(&mut task, BASE, MIB2, Advice::Remove)
        }));
        until(|| uffd.poll());
        Ok(())
    });
    let copied = uffd.copy_from(&mut world.task, BASE, MIB2, &mut source, NONE);
    assert_eq!(copied.unwrap_err().error, UserfaultError::Changing);
    assert!(matches!(uffd.read_event(&mut world.task), Ok(Message::Remove { .. })));
    remover.unwrap().join().unwrap().unwrap();
    uffd.copy_from(&mut world.task, BASE, MIB2, &mut Absent(|_: &mut _, _| Ok(())), NONE).unwrap();
    drop((hugetlb, space));
    world.end();
}
