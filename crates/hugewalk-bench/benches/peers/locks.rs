//! A lock of readers and writers, of which nearly all are readers: `parking_lot`'s, and the engine's, whose readers mark a line of
//! their own. The engine's mmap lock and VMA locks are such locks.

use std::error::Error;
use std::io::{self, Write};

use hugewalk::Hugetlb;
use hugewalk::sleep::BiasedRwLock;
use hugewalk::sync::Arc;
use hugewalk_bench::{Case, Effort, Group, repeat, threads, together};
use hugewalk_host::{Host, task};
use parking_lot::RwLock;

use crate::ground::system;

struct Locks {
    hugetlb: Arc<Hugetlb<Host>>,
    plain: RwLock<u64>,
    biased: BiasedRwLock<Host, u64>,
}

impl Locks {
    /// Reads on so many threads, of which the first takes the lock in write once for so many reads of its own; never if that is 0.
    fn group(&self, count: usize, writes: u64, title: String) -> Group<'_> {
        let writer =
            move |thread: usize, turn: u64| writes != 0 && thread == 0 && turn.is_multiple_of(writes);
        let plain = Case::new("parking_lot: RwLock", move |n| {
            together(count, |thread| {
                let mut turn = 0;
                repeat(n, || {
                    turn += 1;
                    if writer(thread, turn) {
                        *self.plain.write() += 1;
                    }
                    *self.plain.read()
                })
            })
        });
        let biased = Case::new("hugewalk: BiasedRwLock", move |n| {
            together(count, |thread| {
                let mut task = task(&self.hugetlb).expect("memory for a task");
                let mut turn = 0;
                repeat(n, || {
                    turn += 1;
                    if writer(thread, turn) {
                        *self.biased.write(&mut task) += 1;
                    }
                    *self.biased.read(&mut task)
                })
            })
        });
        Group { title, parts: 1, cases: vec![plain, biased] }
    }

    fn write(&self, title: String) -> Group<'_> {
        let plain = Case::new("parking_lot: RwLock", |n| {
            repeat(n, || {
                *self.plain.write() += 1;
                0
            })
        });
        let biased = Case::new("hugewalk: BiasedRwLock", |n| {
            together(1, |_| {
                let mut task = task(&self.hugetlb).expect("memory for a task");
                repeat(n, || {
                    *self.biased.write(&mut task) += 1;
                    0
                })
            })
        });
        Group { title, parts: 1, cases: vec![plain, biased] }
    }

    fn report(&self, effort: &Effort, out: &mut dyn Write) -> io::Result<()> {
        for count in [1, 2] {
            let title = format!("a lock in read, {}", threads(count));
            self.group(count, 0, title).report(effort, out)?;
        }
        for writes in [10_000, 100] {
            let title = format!("a lock in read, once in {writes} times in write, 1 thread");
            self.group(1, writes, title).report(effort, out)?;
        }
        self.write("a lock in write, nobody reads, 1 thread".to_owned()).report(effort, out)
    }
}

pub(crate) fn report(effort: &Effort, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let hugetlb = system(1)?;
    let biased = BiasedRwLock::new(&hugetlb, 0);
    Ok(Locks { hugetlb, plain: RwLock::new(0), biased }.report(effort, out)?)
}
