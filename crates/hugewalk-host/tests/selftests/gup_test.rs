//! `gup_test`: get_user_pages and pin_user_pages, fast and slow, over huge pages (its option `-H`), private and shared (`-S`),
//! for reading and writing, by one thread and by many (`-j`).

use std::thread;

use hugewalk::Task;
use hugewalk::gup::{GupFlags, Pins};
use hugewalk_host::Host;

use crate::pages::Space;
use crate::setup::{BASE, MIB2, Machine, PRIVATE, SHARED, after, cpu, write_bytes};

/// The selftest's default: 128 MiB.
const LENGTH: u64 = 128 << 20;
const PAGES: u64 = LENGTH / MIB2;

const GET: GupFlags = GupFlags::empty();
const PIN: GupFlags = GupFlags::PIN;
/// Its commands: `GUP_FAST_BENCHMARK`, `PIN_FAST_BENCHMARK`, `GUP_BASIC_TEST`, `PIN_BASIC_TEST`, `PIN_LONGTERM_BENCHMARK`.
const COMMANDS: [(bool, GupFlags); 5] =
    [(true, GET), (true, PIN), (false, GET), (false, PIN), (false, PIN.union(GupFlags::LONGTERM))];

/// The range in pieces, as the selftest asks for it; each by one call. Hands each piece to `look`.
fn in_pieces(
    space: &Space,
    task: &mut Task<Host>,
    fast: bool,
    flags: GupFlags,
    piece: u64,
    mut look: impl FnMut(u64, u64, &[hugewalk::gup::PinnedPage<Host>]),
) {
    let mut done = 0;
    while done < LENGTH {
        let length = piece.min(LENGTH - done);
        let at = after(BASE, done);
        let pages: Vec<_> = if fast {
            let pins = space.pin_pages_fast(task, at, length, flags).unwrap();
            assert_eq!(pins.small_pages(), length / 4096);
            pins.into_pages().map(hugewalk::gup::PinnedPage::into_owned).collect()
        } else {
            let pins: Pins<Host> = space.pin_pages(task, at, length, flags).unwrap();
            assert_eq!(pins.small_pages(), length / 4096);
            pins.into_pages().collect()
        };
        look(done, length, &pages);
        done += length;
    }
}

#[test]
fn every_command_gets_every_page_with_its_contents_and_gives_it_back() {
    for flags in [PRIVATE, SHARED] {
        let mut machine = Machine::new(PAGES);
        let space = machine.process();
        machine.anonymous(&space, BASE, LENGTH, flags);
        write_bytes(&mut cpu(&space), &mut machine.task, BASE, LENGTH);
        for (fast, command) in COMMANDS {
            for write in [GET, GupFlags::WRITE] {
                for piece in [4096 * 3000, MIB2, LENGTH] {
                    in_pieces(
                        &space,
                        &mut machine.task,
                        fast,
                        command | write,
                        piece,
                        |from, length, pages| {
                            // `DUMP_USER_PAGES_TEST`: what a dump of the pages shows.
                            for (page, number) in pages.iter().zip(from / MIB2..) {
                                let mut head = [0; 9];
                                assert_eq!(page.read(0, &mut head), Ok(9));
                                assert_eq!(head[..8], number.to_le_bytes());
                                assert_eq!(head[8], 8);
                                assert_eq!(page.page().pins(), u64::from(command.contains(PIN)));
                                assert_eq!(page.is_writable(), write == GupFlags::WRITE);
                            }
                            let touched = (from + length).div_ceil(MIB2) - from / MIB2;
                            assert_eq!(pages.len() as u64, touched);
                        },
                    );
                }
            }
        }
        // Nobody holds anything any more: one reference each for the mapping, and one for the file.
        let expected = 1 + u64::from(flags == SHARED);
        in_pieces(&space, &mut machine.task, false, GET, LENGTH, |_, _, pages| {
            let held = pages.iter().map(|page| (page.page().pins(), page.page().references()));
            assert!(held.into_iter().all(|counts| counts == (0, expected + 1)));
        });
        drop(space);
        machine.end();
    }
}

#[test]
fn pages_that_nobody_has_touched_are_faulted_in() {
    for flags in [PRIVATE, SHARED] {
        for (fast, command) in COMMANDS {
            let mut machine = Machine::new(PAGES);
            let space = machine.process();
            machine.anonymous(&space, BASE, LENGTH, flags);
            in_pieces(&space, &mut machine.task, fast, command | GupFlags::WRITE, LENGTH, |_, _, pages| {
                assert_eq!(pages.len() as u64, PAGES);
            });
            assert_eq!(machine.four(), (PAGES, 0, 0, 0));
            drop(space);
            machine.end();
        }
    }
}

#[test]
fn threads_get_the_same_pages_at_once_and_give_all_of_them_back() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 6;
    for flags in [PRIVATE, SHARED] {
        let mut machine = Machine::new(PAGES);
        let space = machine.process();
        machine.anonymous(&space, BASE, LENGTH, flags);
        let hugetlb = &machine.hugetlb;
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let space = &space;
                scope.spawn(move || {
                    let mut task = hugewalk_host::task(hugetlb).unwrap();
                    for round in 0..ROUNDS {
                        let (fast, command) = COMMANDS[(thread + round) % COMMANDS.len()];
                        in_pieces(
                            space,
                            &mut task,
                            fast,
                            command | GupFlags::WRITE,
                            10 * MIB2,
                            |_, _, pages| {
                                assert!(pages.iter().all(|page| page.page().references() > 1));
                            },
                        );
                    }
                });
            }
        });
        let expected = 2 + u64::from(flags == SHARED);
        in_pieces(&space, &mut machine.task, false, GET, LENGTH, |_, _, pages| {
            assert!(pages.iter().all(|page| page.page().references() == expected && page.page().pins() == 0));
        });
        drop(space);
        machine.end();
    }
}
