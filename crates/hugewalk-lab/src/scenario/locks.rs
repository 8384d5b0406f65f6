//! The lock whose readers mark themselves in lines of their own, by itself: elsewhere in the lab, locks are the lab's.
//!
//! Memory is sequentially consistent here, so a barrier that is left out is what it lets the processor do: the load comes before
//! the store.

use std::rc::Rc;

use hugewalk::sleep::BiasedRwLock;
use hugewalk::sync::Word as _;

use super::Scenario;
use super::bench::{Bench, LabTask};
use super::expected::{MISTAKE, OTHERS, Row, Verdicts};
use crate::explore::violation;
use crate::lab::{Lab, Property, Word};

/// Reads that give a fresh lock its bias.
const READS: u32 = 16;

/// What the lock is judged by, besides deadlocks and what else is judged always.
const EXCLUDES: &[Property] = &[Property::I17];

/// Safe, and nothing that the protocols of others have.
const OWN: Verdicts = Verdicts::RacesBut(
    &[],
    OTHERS,
    "it is about a lock of this engine's, which the other protocols do not have",
);

macro_rules! row {
    ($id:literal, $what:literal, $build:ident) => {
        Row { scenario: Scenario { id: $id, what: $what, judged: EXCLUDES, build: $build }, verdicts: OWN }
    };
    ($id:literal, $what:literal, $build:ident, without $step:literal) => {
        Row {
            scenario: Scenario {
                id: $id,
                what: $what,
                judged: EXCLUDES,
                build: |bench| {
                    bench.without($step);
                    $build(bench);
                },
            },
            verdicts: MISTAKE,
        }
    };
}

pub(super) const ROWS: &[Row] = &[
    row!("S80", "a reader marks itself while a writer takes the bias away", read_and_write),
    row!(
        "S80:no-barrier-of-entry",
        "S80, and the reader sees the lock biased before its mark can be seen",
        read_and_write,
        without "mark-then-look"
    ),
    row!(
        "S80:no-barrier-of-writer",
        "S80, and the writer looks for marks before it can be seen that the bias is gone",
        read_and_write,
        without "revoke-then-scan"
    ),
    row!("S80/try", "S80, and the writer only tries, and comes back", read_and_try),
    row!(
        "S80/try:no-barrier-of-entry",
        "S80/try, and the reader sees the lock biased before its mark can be seen",
        read_and_try,
        without "mark-then-look"
    ),
    row!("S81", "a reader leaves while a writer sleeps", leave_and_sleep),
    row!(
        "S81:no-barrier-of-exit",
        "S81, and the reader looks for a writer before it can be seen that its mark is gone",
        leave_and_sleep,
        without "leave-then-look"
    ),
    row!("S82", "a reader gives the bias back, another one uses it, and a writer takes it away", give_back),
    row!(
        "S82:no-barrier-of-writer",
        "S82, and the writer looks for marks before it can be seen that the bias is gone",
        give_back,
        without "revoke-then-scan"
    ),
    row!("S83", "two writers, of which one takes the bias away, and a reader", two_writers),
    row!(
        "S84",
        "a writer is killed while it waits for a reader that has marked itself, and comes again",
        killed_writer
    ),
];

/// A lock around a number, which is odd while somebody writes.
type Guarded = Rc<BiasedRwLock<Lab, Word>>;

/// A lock that so many reads have been counted of.
fn lock(bench: &mut Bench<'_>, reads: u32) -> Guarded {
    bench.protocol(|settings| Some(settings.with_biased_readers()));
    let lock = Rc::new(BiasedRwLock::new(bench.hugetlb(), Word::new(0)));
    for _ in 0..reads {
        drop(lock.read(bench.task()));
    }
    assert_eq!(lock.is_biased(), reads == READS);
    lock
}

fn look(number: &Word) {
    let before = number.load(std::sync::atomic::Ordering::Relaxed);
    let after = number.load(std::sync::atomic::Ordering::Relaxed);
    if before % 2 == 1 || after != before {
        violation("I17: a reader and a writer hold the lock at once".to_owned(), Property::I17);
    }
}

fn change(number: &Word) {
    let before = number.load(std::sync::atomic::Ordering::Relaxed);
    number.store(before + 1, std::sync::atomic::Ordering::Relaxed);
    let now = number.load(std::sync::atomic::Ordering::Relaxed);
    if before % 2 == 1 || now != before + 1 {
        violation("I17: two writers hold the lock at once".to_owned(), Property::I17);
    }
    number.store(before + 2, std::sync::atomic::Ordering::Relaxed);
}

fn reads(lock: &Guarded) -> impl FnOnce(&mut LabTask) + 'static {
    let lock = lock.clone();
    move |task| look(&lock.read(task))
}

fn writes(lock: &Guarded) -> impl FnOnce(&mut LabTask) + 'static {
    let lock = lock.clone();
    move |task| change(&lock.write(task))
}

fn read_and_write(bench: &mut Bench<'_>) {
    let lock = lock(bench, READS);
    bench.cpu("read", reads(&lock));
    bench.cpu("write", writes(&lock));
}

fn read_and_try(bench: &mut Bench<'_>) {
    let lock = lock(bench, READS);
    bench.cpu("read", reads(&lock));
    bench.cpu("try", move |task| {
        if let Some(number) = lock.try_write() {
            return change(&number);
        }
        // The bias is gone, and the reader may be there still.
        change(&lock.write(task));
    });
}

fn leave_and_sleep(bench: &mut Bench<'_>) {
    let lock = lock(bench, READS);
    for name in ["read", "read too"] {
        bench.cpu(name, reads(&lock));
    }
    bench.cpu("write", writes(&lock));
}

fn give_back(bench: &mut Bench<'_>) {
    let lock = lock(bench, READS - 1);
    for name in ["read", "read too"] {
        bench.cpu(name, reads(&lock));
    }
    bench.cpu("write", writes(&lock));
}

fn two_writers(bench: &mut Bench<'_>) {
    let lock = lock(bench, READS);
    bench.cpu("read", reads(&lock));
    for name in ["write", "write too"] {
        bench.cpu(name, writes(&lock));
    }
}

fn killed_writer(bench: &mut Bench<'_>) {
    let lock = lock(bench, READS);
    bench.cpu("read", reads(&lock));
    let token = bench.mortal_cpu("write", move |task| {
        if let Ok(number) = lock.write_killable(task) {
            return change(&number);
        }
        // The bias is gone, and the reader may be there still.
        change(&lock.write(task));
    });
    bench.cpu("kill", move |_| token.kill());
}
