//! The explorer against numbers and programs whose answers are known.

use std::rc::Rc;

use lock_api::{RawMutex, RawRwLock};

use super::*;

fn increments(threads: usize, rounds: usize) -> impl Fn(&mut Setup) {
    move |setup| {
        let cell = Rc::new(Shared::new(0));
        for thread in 0..threads {
            let cell = cell.clone();
            setup.thread(format!("{thread}"), move || {
                for _ in 0..rounds {
                    let value = cell.load();
                    cell.store(value + 1);
                }
            });
        }
    }
}

#[test]
fn the_number_of_interleavings_is_that_of_the_formula() {
    let known = [(2, 2, 70), (2, 3, 924), (2, 4, 12_870), (3, 1, 90), (3, 2, 34_650), (4, 1, 2_520)];
    for (threads, rounds, count) in known {
        assert_eq!(Explorer::new(&increments(threads, rounds)).count_all(), count, "{threads} x {rounds}");
    }
}

/// Seventeen million runs: not for code that is not optimised. `ci/release.sh` runs it.
#[cfg(not(debug_assertions))]
#[test]
fn the_number_of_interleavings_is_that_of_the_formula_also_when_it_is_large() {
    assert_eq!(Explorer::new(&increments(3, 3)).count_all(), 17_153_136);
}

struct World {
    cells: [Shared; 2],
    locks: [Lock; 2],
    rw: RwLock,
    /// Guarded by the locks, each its own: touched without being announced as contended by anybody else.
    guarded: [Shared; 2],
}

fn perform(world: &World, (what, which): (u64, u64), register: &mut u64) {
    let (cell, lock) = (&world.cells[which as usize], &world.locks[which as usize]);
    let guarded = &world.guarded[which as usize];
    match what {
        0 => *register = *register * 3 + cell.load(),
        1 => cell.store(*register + 1),
        2 => *register = *register * 3 + cell.update(|value| value * 2 + 1),
        3 | 4 => {
            lock.lock();
            guarded.store(guarded.load() * 2 + *register);
            if what == 4 {
                let other = &world.locks[1 - which as usize];
                other.lock();
                // SAFETY: locked above.
                unsafe { other.unlock() };
            }
            // SAFETY: locked above.
            unsafe { lock.unlock() };
        }
        5 => {
            if lock.try_lock() {
                cell.store(7);
                // SAFETY: locked above.
                unsafe { lock.unlock() };
            }
        }
        6 | 7 => {
            world.rw.lock_shared();
            *register = *register * 3 + cell.load();
            if what == 7 {
                world.rw.lock_shared();
                // SAFETY: locked above.
                unsafe { world.rw.unlock_shared() };
            }
            // SAFETY: locked above.
            unsafe { world.rw.unlock_shared() };
        }
        _ => {
            world.rw.lock_exclusive();
            cell.store(*register + 5);
            // SAFETY: locked above.
            unsafe { world.rw.unlock_exclusive() };
        }
    }
}

fn two(one: fn(&World), other: fn(&World)) -> impl Fn(&mut Setup) {
    move |setup| {
        let world = Rc::new(World {
            cells: Default::default(),
            locks: [RawMutex::INIT; 2],
            rw: RawRwLock::INIT,
            guarded: Default::default(),
        });
        for (name, work) in [("one", one), ("other", other)] {
            let world = world.clone();
            setup.thread(name, move || work(&world));
        }
        setup.finally(move |judged| {
            if judged && world.cells[0].peek() == 1 {
                violation("a lost update", ());
            }
        });
    }
}

fn nested(world: &World, first: usize) {
    perform(world, (4, first as u64), &mut 0);
}

fn add(world: &World) {
    let value = world.cells[0].load();
    world.cells[0].store(value + 1);
}

#[test]
fn the_first_counterexample_is_a_shortest_one() {
    let report = Explorer::new(&two(add, add)).check(&Options::default());
    let found = report.counterexample.expect("a lost update");
    assert!(found.shortest);
    // Both load before either stores; the thread that loaded last goes on.
    assert_eq!(found.schedule.to_string(), "A1B2A1");
}

#[test]
fn chance_finds_a_lost_update_too() {
    for chance in [Chance::Plain, Chance::Pct { changes: 2 }] {
        let report = || Explorer::new(&two(add, add)).sample(chance, 1_000, 7);
        let found = report().counterexample.expect("a lost update");
        assert_eq!(found.text, "a lost update");
        assert_eq!(report().counterexample.expect("again").schedule, found.schedule, "the same seed");
    }
}

#[test]
fn locks_in_two_orders_are_found_where_nothing_hangs_and_where_it_does() {
    let program = two(|world| nested(world, 0), |world| nested(world, 1));
    let report = Explorer::new(&program).check(&Options::default());
    assert!(report.counterexample.expect("a cycle").what.is::<LockCycle>());

    let mut explorer = Explorer::new(&program);
    explorer.vm.locks.ignored = true;
    let report = explorer.check(&Options::default());
    assert!(report.counterexample.expect("a deadlock").what.is::<Deadlock>());
}

#[test]
fn who_waits_for_itself_is_found() {
    let twice = |world: &World| {
        world.locks[0].lock();
        world.locks[0].lock();
    };
    let report = Explorer::new(&two(twice, |_| ())).check(&Options::default());
    assert!(report.counterexample.expect("a self-deadlock").what.is::<LockCycle>());
}

#[test]
fn a_queued_writer_holds_a_second_read_up() {
    let reads_twice = |world: &World| perform(world, (7, 0), &mut 0);
    let writes = |world: &World| perform(world, (8, 1), &mut 0);
    let program = two(reads_twice, writes);
    let mut explorer = Explorer::new(&program);
    explorer.vm.locks.ignored = true;
    let found = explorer.check(&Options::default()).counterexample.expect("a deadlock");
    assert!(found.what.is::<Deadlock>() && found.shortest);
}

#[test]
fn a_loop_that_waits_for_what_never_comes_is_a_livelock() {
    let spins = |world: &World| while world.cells[0].load() == 0 {};
    let report = Explorer::new(&two(spins, |world| world.cells[1].store(1))).check(&Options::default());
    assert!(report.counterexample.expect("a livelock").text.contains("livelock"));
}

#[test]
fn a_panic_is_a_counterexample() {
    let panics = |world: &World| assert_ne!(world.cells[0].load(), 3, "three");
    let report = Explorer::new(&two(panics, |world| world.cells[0].store(3))).check(&Options::default());
    assert!(report.counterexample.expect("a panic").text.contains("three"));
}

/// Follows a pointer that lay in memory which was freed, and wiped.
fn follow(pointer: u64) {
    if pointer == 0 {
        // SAFETY: nothing is there: the processor raises a signal, and nothing comes back here.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::asm!("mov {0}, qword ptr [{0}]", inout(reg) pointer + 0x18 => _);
        };
        // SAFETY: likewise.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!("ldr {0}, [{0}]", inout(reg) pointer + 0x18 => _);
        };
        // SAFETY: likewise.
        #[cfg(target_arch = "riscv64")]
        unsafe {
            std::arch::asm!("ld {0}, 0({0})", inout(reg) pointer + 0x18 => _);
        };
    }
}

#[test]
fn a_crash_is_a_counterexample_and_the_process_lives_on() {
    catch_crashes();
    let frees = |world: &World| world.cells[0].store(0);
    let follows = |world: &World| {
        world.cells[0].store(7);
        follow(world.cells[0].load());
    };
    let program = two(follows, frees);
    for _ in 0..2 {
        let found = Explorer::new(&program).check(&Options::default()).counterexample.expect("a crash");
        assert!(found.what.is::<Crash>() && found.shortest);
        assert_eq!((&*found.text, &*found.schedule.to_string()), ("a crash: SIGSEGV at 0x18", "A1B1A1"));
    }
    let chance = Explorer::new(&program).sample(Chance::Plain, 1_000, 7);
    assert!(chance.counterexample.expect("a crash").what.is::<Crash>());
    // Others go on as they did.
    let found =
        Explorer::new(&two(add, add)).check(&Options::default()).counterexample.expect("a lost update");
    assert_eq!(found.text, "a lost update");
}

#[test]
fn a_crash_at_the_end_of_a_run_is_a_counterexample() {
    catch_crashes();
    let program = |setup: &mut Setup| {
        let cell = Rc::new(Shared::new(7));
        for value in [0, 7] {
            let cell = cell.clone();
            setup.thread(format!("{value}"), move || cell.store(value));
        }
        setup.finally(move |_| follow(cell.peek()));
    };
    let found = Explorer::new(&program).check(&Options::default()).counterexample.expect("a crash");
    assert!(found.what.is::<Crash>());
    assert_eq!((&*found.text, &*found.schedule.to_string()), ("a crash: SIGSEGV at 0x18", "B1A1"));
}

/// Only in the middle of a run is a crash a finding. `a_crash_outside_of_a_run_ends_the_process` runs this by itself.
#[test]
#[ignore = "it ends the process"]
fn crashes_outside_of_a_run() {
    catch_crashes();
    follow(0);
}

#[test]
fn a_crash_outside_of_a_run_ends_the_process() {
    use std::os::unix::process::ExitStatusExt as _;
    let this = std::env::current_exe().expect("its name");
    let mut command = std::process::Command::new(this);
    command.args(["--ignored", "--exact", "explorer::tests::crashes_outside_of_a_run"]);
    let output = command.output().expect("it runs");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
}
