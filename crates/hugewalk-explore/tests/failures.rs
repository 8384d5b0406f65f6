//! What goes wrong is found, in a shortest run, told in words, drawn, and comes again when its schedule is run.

use hugewalk_explore::cell::UnsafeCell;
use hugewalk_explore::sync::atomic::AtomicU32;
use hugewalk_explore::sync::atomic::Ordering::SeqCst;
use hugewalk_explore::sync::mpsc::channel;
use hugewalk_explore::sync::{Arc, Condvar, Mutex, RwLock};
use hugewalk_explore::{Coverage, Explore, Failure, hint, thread};

fn failure(program: impl Fn()) -> Failure {
    let failure = Explore::new().try_run(&program).expect_err("something goes wrong");
    let schedule = failure.schedule().expect("a run").to_owned();
    let again = Explore::new().replay(&schedule).try_run(&program).expect_err("it goes wrong again");
    assert_eq!((again.text(), again.drawing()), (failure.text(), failure.drawing()), "{schedule}");
    failure
}

fn lost_update() {
    let count = Arc::new(AtomicU32::new(0));
    let there = count.clone();
    let other = thread::spawn(move || there.store(there.load(SeqCst) + 1, SeqCst));
    count.store(count.load(SeqCst) + 1, SeqCst);
    other.join().unwrap();
    assert_eq!(count.load(SeqCst), 2, "an update is lost");
}

#[test]
fn a_lost_update_is_found_in_its_shortest_run_and_drawn() {
    let failure = failure(lost_update);
    assert!(failure.is_shortest());
    assert!(failure.text().contains("an update is lost"), "{failure}");
    assert!(failure.text().contains("tests/failures.rs:"), "{failure}");
    // The first thread begins the second and loads; the second does all it does; the first stores, waits, loads.
    assert_eq!(failure.schedule(), Some("A2B2A3"), "{failure}");
    let drawing = failure.drawing().expect("a drawing");
    let columns: Vec<&str> =
        drawing.lines().map(|line| line.split("  crates").next().unwrap_or(line)).collect();
    let columns: Vec<&str> =
        columns.iter().map(|line| line.split("  tests").next().unwrap_or(line).trim_end()).collect();
    assert_eq!(
        columns[..6],
        [
            "  A main        B",
            "  load #1 = 0",
            "                load #1 = 0",
            "                store #1 = 1",
            "  store #1 = 1",
            "  load #1 = 1",
        ],
        "{drawing}"
    );
    let shown = failure.to_string();
    assert!(shown.contains("schedule A2B2A3: 2 switches, 7 steps; no run with fewer switches"), "{shown}");
    assert!(shown.contains("HUGEWALK_EXPLORE_REPLAY=A2B2A3"), "{shown}");
}

#[test]
fn every_way_to_sample_finds_it_and_the_same_seed_finds_the_same() {
    for explore in
        [Explore::new().random(1_000), Explore::new().pct(1_000, 2), Explore::new().partial_order(1_000)]
    {
        let explore = explore.seed(5);
        let found = explore.try_run(lost_update).expect_err("it is found");
        assert_eq!(explore.try_run(lost_update).expect_err("again").schedule(), found.schedule());
    }
}

#[test]
fn without_a_preemption_it_is_not_there_and_the_bound_is_named() {
    let explored = Explore::new().preemptions(0).try_run(lost_update).expect("it takes one");
    assert_eq!(explored.coverage, Coverage::Preemptions(0));
    assert!(Explore::new().preemptions(1).try_run(lost_update).is_err());
}

#[test]
fn what_was_not_explored_is_not_called_right() {
    let many = || {
        let cells: Arc<[AtomicU32; 3]> = Arc::default();
        let threads = [0, 1, 2].map(|_| {
            let cells = cells.clone();
            thread::spawn(move || cells.iter().for_each(|cell| _ = cell.fetch_add(1, SeqCst)))
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    };
    let explore = Explore::new().executions(20);
    let failure = explore.try_run(many).expect_err("twenty are not all");
    assert!(failure.text().contains("not all schedules were explored"), "{failure}");
    assert_eq!(failure.schedule(), None);
    let explored = explore.allow_incomplete().try_run(many).expect("nothing goes wrong");
    assert_ne!(explored.coverage, Coverage::Everything);
}

#[test]
fn threads_that_wait_for_each_other_are_found() {
    let failure = failure(|| {
        let locks: Arc<[Mutex<()>; 2]> = Arc::default();
        let there = locks.clone();
        let other = thread::spawn(move || {
            let _second = there[1].lock().unwrap();
            let _first = there[0].lock().unwrap();
        });
        let first = locks[0].lock().unwrap();
        let second = locks[1].lock().unwrap();
        drop((first, second));
        other.join().unwrap();
    });
    assert!(failure.text().starts_with("deadlock"), "{failure}");
    assert!(failure.is_shortest());
}

#[test]
fn locks_in_two_orders_are_reported_only_if_asked_for() {
    // The gate keeps the two apart, so nothing hangs.
    let gated = || {
        let locks: Arc<[Mutex<()>; 3]> = Arc::default();
        let there = locks.clone();
        let take = |locks: &[Mutex<()>; 3], first: usize, second: usize| {
            let _gate = locks[2].lock().unwrap();
            let _first = locks[first].lock().unwrap();
            let _second = locks[second].lock().unwrap();
        };
        let other = thread::spawn(move || take(&there, 1, 0));
        take(&locks, 0, 1);
        other.join().unwrap();
    };
    Explore::new().run(gated);
    let failure = Explore::new().lock_order().try_run(gated).expect_err("two orders");
    assert!(failure.text().contains("both orders"), "{failure}");
}

#[test]
fn a_wakeup_that_comes_before_the_wait_is_lost() {
    let failure = failure(|| {
        let shared = Arc::new((AtomicU32::new(0), Mutex::new(()), Condvar::new()));
        let there = shared.clone();
        let other = thread::spawn(move || {
            there.0.store(1, SeqCst);
            there.2.notify_one();
        });
        let (ready, lock, wakes) = &*shared;
        if ready.load(SeqCst) == 0 {
            // Nothing keeps the other thread from going here.
            drop(wakes.wait(lock.lock().unwrap()));
        }
        other.join().unwrap();
    });
    assert!(failure.text().starts_with("deadlock"), "{failure}");
}

#[test]
fn a_read_inside_of_a_read_waits_for_a_writer_that_waits_for_it() {
    let failure = failure(|| {
        let lock = Arc::new(RwLock::new(0));
        let there = lock.clone();
        let writes = thread::spawn(move || *there.write().unwrap() += 1);
        let outer = lock.read().unwrap();
        let inner = lock.read().unwrap();
        drop((outer, inner));
        writes.join().unwrap();
    });
    assert!(failure.text().starts_with("deadlock"), "{failure}");
}

#[test]
fn memory_that_two_threads_use_at_the_same_time_is_a_data_race() {
    struct Shared(UnsafeCell<u32>, Mutex<()>);
    let program = |locked: bool| {
        move || {
            let shared = Arc::new(Shared(UnsafeCell::new(0), Mutex::new(())));
            let there = shared.clone();
            let add = move |shared: &Shared| {
                let _guard = locked.then(|| shared.1.lock().unwrap());
                // SAFETY: watched by the cell: with the lock nobody else is there, and without it the explorer says so and
                // goes no further.
                shared.0.with_mut(|value| unsafe { *value += 1 });
            };
            let other = thread::spawn(move || add(&there));
            add(&shared);
            other.join().unwrap();
        }
    };
    Explore::new().run(program(true));
    let failure = failure(program(false));
    assert!(failure.text().starts_with("data race"), "{failure}");
}

#[test]
fn a_loop_that_does_not_say_that_it_waits_is_told_to() {
    let wait = |spin: fn()| {
        move || {
            let flag = Arc::new(AtomicU32::new(0));
            let there = flag.clone();
            let other = thread::spawn(move || there.store(1, SeqCst));
            while flag.load(SeqCst) == 0 {
                spin();
            }
            other.join().unwrap();
        }
    };
    let failure = Explore::new().accesses(1_000).try_run(wait(|| ())).expect_err("it runs on");
    assert!(failure.text().contains("livelock") && failure.text().contains("spin_loop"), "{failure}");
    Explore::new().run(wait(hint::spin_loop));
    Explore::new().run(wait(thread::yield_now));
}

#[test]
fn a_loop_that_waits_for_what_never_comes_is_found_at_once() {
    let failure = failure(|| {
        let flag = AtomicU32::new(0);
        while flag.load(SeqCst) == 0 {
            hint::spin_loop();
        }
    });
    assert!(failure.text().contains("deadlock: main waits"), "{failure}");
}

#[test]
fn two_that_spin_by_exchanging_the_same_value_do_not_keep_each_other_awake() {
    Explore::new().run(|| {
        let locked = Arc::new(AtomicU32::new(0));
        let threads = [0, 1, 2].map(|_| {
            let locked = locked.clone();
            thread::spawn(move || {
                while locked.swap(1, SeqCst) == 1 {
                    hint::spin_loop();
                }
                locked.store(0, SeqCst);
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_receiver_that_nobody_closes_the_channel_for_waits_for_ever() {
    let failure = failure(|| {
        let (sender, receiver) = channel();
        let other = sender.clone();
        thread::spawn(move || sender.send(1).unwrap());
        assert_eq!(receiver.iter().sum::<u32>(), 1);
        drop(other);
    });
    assert!(failure.text().starts_with("deadlock"), "{failure}");
}

#[test]
fn a_panic_of_a_thread_is_what_goes_wrong_joined_or_not() {
    let failure = failure(|| {
        let count = Arc::new(AtomicU32::new(0));
        let there = count.clone();
        thread::spawn(move || assert_ne!(there.load(SeqCst), 3, "three"));
        count.store(3, SeqCst);
    });
    assert!(failure.text().contains("three"), "{failure}");
}

#[test]
fn a_thread_too_many_is_refused_in_words() {
    let failure = failure(|| drop((0..8).map(|_| thread::spawn(|| ())).collect::<Vec<_>>()));
    assert!(failure.text().contains("more than 8 threads"), "{failure}");
}

#[test]
fn a_schedule_of_another_program_is_refused_in_words() {
    let replay = |schedule: &str| {
        Explore::new().replay(schedule).try_run(lost_update).expect_err("it does not fit").to_string()
    };
    assert!(replay("A2C1").contains("turn 2 names C"), "{}", replay("A2C1"));
    assert!(replay("A2X1").contains("character 3"), "{}", replay("A2X1"));
}

#[test]
#[should_panic(expected = "an update is lost")]
fn the_whole_report_is_what_the_test_panics_with() {
    hugewalk_explore::explore(lost_update);
}
