//! A bounded queue of a mutex and two condition variables, with two mistakes that are easily made:
//! `cargo run -p hugewalk-explore --example bounded_queue`.

use std::collections::VecDeque;

use hugewalk_explore::sync::{Arc, Condvar, Mutex};
use hugewalk_explore::{Explore, thread};

/// How the queue is built.
#[derive(Clone, Copy)]
enum Variant {
    Right,
    /// Looks once whether there is room: another thread may have filled it before this one has the lock again.
    If,
    /// One condition for both sides: a notification may wake a thread that it does not help.
    OneCondition,
}

struct Queue {
    items: Mutex<VecDeque<usize>>,
    room: usize,
    filled: Condvar,
    emptied: Condvar,
    variant: Variant,
}

impl Queue {
    fn new(room: usize, variant: Variant) -> Self {
        let (filled, emptied) = (Condvar::new(), Condvar::new());
        Self { items: Mutex::default(), room, filled, emptied, variant }
    }

    fn emptied(&self) -> &Condvar {
        if let Variant::OneCondition = self.variant { &self.filled } else { &self.emptied }
    }

    fn put(&self, item: usize) {
        let mut items = self.items.lock().unwrap();
        while items.len() == self.room {
            items = self.emptied().wait(items).unwrap();
            if let Variant::If = self.variant {
                break;
            }
        }
        items.push_back(item);
        assert!(items.len() <= self.room, "the queue has more in it than there is room for");
        self.filled.notify_one();
    }

    fn take(&self) -> usize {
        let mut items = self.items.lock().unwrap();
        let item = loop {
            match items.pop_front() {
                Some(item) => break item,
                None => items = self.filled.wait(items).unwrap(),
            }
        };
        self.emptied().notify_one();
        item
    }
}

/// So many threads put an item each; one thread takes them all.
fn program(putting: usize, variant: Variant) -> impl Fn() {
    move || {
        let queue = Arc::new(Queue::new(1, variant));
        let begun: Vec<_> = (0..putting)
            .map(|item| {
                let queue = queue.clone();
                thread::spawn(move || queue.put(item))
            })
            .collect();
        let mut taken: Vec<usize> = (0..putting).map(|_| queue.take()).collect();
        begun.into_iter().for_each(|thread| thread.join().unwrap());
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..putting), "an item is lost");
    }
}

fn main() {
    let explored = Explore::new().run(program(2, Variant::Right));
    println!("the queue is right: {:?} in {} runs\n", explored.coverage, explored.executions);
    for (name, putting, variant) in [
        ("with an if in place of the loop", 3, Variant::If),
        ("with one condition", 3, Variant::OneCondition),
    ] {
        let failure = Explore::new().try_run(program(putting, variant)).expect_err("it is broken");
        println!("{name}: {failure}\n");
    }
}
