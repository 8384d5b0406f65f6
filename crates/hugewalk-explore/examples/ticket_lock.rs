//! A ticket lock under every interleaving, and one that is broken: `cargo run -p hugewalk-explore --example ticket_lock`.
//!
//! Prints how many runs the right one took, and the shortest run in which the broken one lets two in.

use hugewalk_explore::sync::Arc;
use hugewalk_explore::sync::atomic::AtomicUsize;
use hugewalk_explore::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use hugewalk_explore::{Explore, hint, thread};

#[derive(Default)]
struct TicketLock {
    next: AtomicUsize,
    served: AtomicUsize,
}

impl TicketLock {
    fn lock(&self) {
        let ticket = self.next.fetch_add(1, AcqRel);
        self.wait(ticket);
    }

    /// Takes a ticket in two steps: another thread may take the same one in between.
    fn lock_broken(&self) {
        let ticket = self.next.load(Acquire);
        self.next.store(ticket + 1, Release);
        self.wait(ticket);
    }

    fn wait(&self, ticket: usize) {
        while self.served.load(Acquire) != ticket {
            hint::spin_loop();
        }
    }

    fn unlock(&self) {
        self.served.fetch_add(1, AcqRel);
    }
}

/// So many threads take the lock, each once, and see that nobody else has it.
fn program(threads: usize, lock: fn(&TicketLock)) -> impl Fn() {
    move || {
        let shared: Arc<(TicketLock, AtomicUsize)> = Arc::default();
        let begun: Vec<_> = (0..threads)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (ticket_lock, inside) = &*shared;
                    lock(ticket_lock);
                    assert_eq!(inside.fetch_add(1, AcqRel), 0, "two threads hold the lock");
                    inside.fetch_sub(1, AcqRel);
                    ticket_lock.unlock();
                })
            })
            .collect();
        begun.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn main() {
    let explored = Explore::new().run(program(3, TicketLock::lock));
    println!("the ticket lock is right: {:?} in {} runs\n", explored.coverage, explored.executions);
    let failure = Explore::new().try_run(program(2, TicketLock::lock_broken)).expect_err("it is broken");
    println!("the broken one is not: {failure}");
}
