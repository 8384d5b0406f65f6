//! Litmus tests: each small program has exactly the outcomes that sequential consistency gives it.

use std::cell::RefCell;
use std::collections::BTreeSet;

use hugewalk_explore::sync::atomic::Ordering::SeqCst;
use hugewalk_explore::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};
use hugewalk_explore::sync::mpsc::{self, TryRecvError, TrySendError};
use hugewalk_explore::sync::{Arc, Barrier, Condvar, Mutex, RwLock};
use hugewalk_explore::{Coverage, explore, hint, thread};

/// All that `program` returns, in every interleaving.
fn outcomes<T: Ord>(program: impl Fn() -> T) -> BTreeSet<T> {
    let seen = RefCell::new(BTreeSet::new());
    let explored = explore(|| {
        let outcome = program();
        seen.borrow_mut().insert(outcome);
    });
    assert_eq!(explored.coverage, Coverage::Everything);
    seen.into_inner()
}

/// Two threads on two numbers; what they return.
fn two<A: Send + 'static, B: Send + 'static>(
    one: fn(&[AtomicU32; 2]) -> A,
    other: fn(&[AtomicU32; 2]) -> B,
) -> (A, B) {
    let shared: Arc<[AtomicU32; 2]> = Arc::default();
    let there = shared.clone();
    let other = thread::spawn(move || other(&there));
    let first = one(&shared);
    (first, other.join().unwrap())
}

#[test]
fn store_buffering_never_misses_both_stores() {
    let seen = outcomes(|| {
        two(
            |[x, y]| {
                x.store(1, SeqCst);
                fence(SeqCst);
                y.load(SeqCst)
            },
            |[x, y]| {
                y.store(1, SeqCst);
                x.load(SeqCst)
            },
        )
    });
    assert_eq!(seen, BTreeSet::from([(0, 1), (1, 0), (1, 1)]));
}

#[test]
fn a_message_is_there_when_its_flag_is() {
    let seen = outcomes(|| {
        two(
            |[data, flag]| {
                data.store(1, SeqCst);
                flag.store(1, SeqCst);
            },
            |[data, flag]| (flag.load(SeqCst), data.load(SeqCst)),
        )
        .1
    });
    assert_eq!(seen, BTreeSet::from([(0, 0), (0, 1), (1, 1)]));
}

#[test]
fn loads_do_not_come_after_later_stores() {
    let seen = outcomes(|| {
        two(
            |[x, y]| {
                let seen = x.load(SeqCst);
                y.store(1, SeqCst);
                seen
            },
            |[x, y]| {
                let seen = y.load(SeqCst);
                x.store(1, SeqCst);
                seen
            },
        )
    });
    assert_eq!(seen, BTreeSet::from([(0, 0), (0, 1), (1, 0)]));
}

#[test]
fn two_stores_are_seen_in_one_order_by_all() {
    let seen = outcomes(|| {
        let shared: Arc<[AtomicU32; 2]> = Arc::default();
        let spawn = |work: fn(&[AtomicU32; 2]) -> (u32, u32)| {
            let shared = shared.clone();
            thread::spawn(move || work(&shared))
        };
        let stores = [
            spawn(|[x, _]| {
                x.store(1, SeqCst);
                (0, 0)
            }),
            spawn(|[_, y]| {
                y.store(1, SeqCst);
                (0, 0)
            }),
        ];
        let loads = [
            spawn(|[x, y]| (x.load(SeqCst), y.load(SeqCst))),
            spawn(|[x, y]| {
                let second = y.load(SeqCst);
                (x.load(SeqCst), second)
            }),
        ];
        stores.into_iter().for_each(|thread| drop(thread.join()));
        loads.map(|thread| thread.join().unwrap())
    });
    assert!(!seen.contains(&[(1, 0), (0, 1)]), "they disagree on which store came first");
    assert_eq!(seen.len(), 15);
}

#[test]
fn an_update_in_two_steps_is_lost_and_in_one_is_not() {
    let one_step = |add: fn(&AtomicU32)| {
        outcomes(|| {
            let count = Arc::new(AtomicU32::new(0));
            let threads = [count.clone(), count.clone()].map(|count| thread::spawn(move || add(&count)));
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            count.load(SeqCst)
        })
    };
    assert_eq!(one_step(|count| _ = count.fetch_add(1, SeqCst)), BTreeSet::from([2]));
    assert_eq!(one_step(|count| count.store(count.load(SeqCst) + 1, SeqCst)), BTreeSet::from([1, 2]));
    let update = |count: &AtomicU32| _ = count.fetch_update(SeqCst, SeqCst, |value| Some(value + 1));
    assert_eq!(one_step(update), BTreeSet::from([2]));
}

#[test]
fn of_two_exchanges_of_the_same_value_one_fails() {
    let seen = outcomes(|| {
        let claim: fn(&[AtomicU32; 2]) -> bool =
            |[owner, _]| owner.compare_exchange(0, 1, SeqCst, SeqCst).is_ok();
        two(claim, claim)
    });
    assert_eq!(seen, BTreeSet::from([(false, true), (true, false)]));
}

#[test]
fn what_a_mutex_guards_changes_as_one() {
    let seen = outcomes(|| {
        let pair = Arc::new(Mutex::new((0, 0)));
        let there = pair.clone();
        let other = thread::spawn(move || {
            let mut pair = there.lock().unwrap();
            pair.0 = 1;
            pair.1 = 1;
        });
        let seen = *pair.lock().unwrap();
        other.join().unwrap();
        seen
    });
    assert_eq!(seen, BTreeSet::from([(0, 0), (1, 1)]));
}

#[test]
fn a_lock_that_is_only_tried_may_be_held() {
    let seen = outcomes(|| {
        let lock = Arc::new(Mutex::new(0));
        let there = lock.clone();
        let other = thread::spawn(move || *there.lock().unwrap() += 1);
        let seen = lock.try_lock().map(|value| *value).ok();
        other.join().unwrap();
        seen
    });
    assert_eq!(seen, BTreeSet::from([None, Some(0), Some(1)]));
}

#[test]
fn two_readers_read_at_the_same_time_and_a_writer_writes_alone() {
    let together = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let most = together.clone();
    let seen = outcomes(move || {
        let lock = Arc::new(RwLock::new((0, 0)));
        let inside = Arc::new(AtomicU32::new(0));
        let reads = |most: Arc<std::sync::atomic::AtomicU32>| {
            let (lock, inside) = (lock.clone(), inside.clone());
            thread::spawn(move || {
                let pair = lock.read().unwrap();
                most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                inside.fetch_sub(1, SeqCst);
                *pair
            })
        };
        let readers = [reads(most.clone()), reads(most.clone())];
        {
            let mut pair = lock.write().unwrap();
            assert_eq!(inside.load(SeqCst), 0);
            pair.0 = 1;
            pair.1 = 1;
        }
        readers.map(|reader| reader.join().unwrap())
    });
    let pairs = [(0, 0), (1, 1)];
    assert_eq!(seen, pairs.into_iter().flat_map(|one| pairs.map(|other| [one, other])).collect());
    assert_eq!(together.load(SeqCst), 2, "two readers were never inside together");
}

#[test]
fn a_notification_wakes_one_of_those_that_wait() {
    let seen = outcomes(|| {
        let shared = Arc::new((Mutex::new(Vec::new()), Condvar::new(), Mutex::new(0)));
        let waiters = [0, 1].map(|who| {
            let shared = shared.clone();
            thread::spawn(move || {
                let (woken, changed, tickets) = &*shared;
                let mut tickets =
                    changed.wait_while(tickets.lock().unwrap(), |tickets| *tickets == 0).unwrap();
                *tickets -= 1;
                woken.lock().unwrap().push(who);
            })
        });
        let (woken, changed, tickets) = &*shared;
        for _ in 0..2 {
            *tickets.lock().unwrap() += 1;
            changed.notify_one();
        }
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        woken.lock().unwrap().clone()
    });
    assert_eq!(seen, BTreeSet::from([vec![0, 1], vec![1, 0]]));
}

#[test]
fn a_barrier_lets_all_go_together_and_has_one_leader() {
    let seen = outcomes(|| {
        let shared = Arc::new((Barrier::new(2), AtomicU32::new(0)));
        let there = shared.clone();
        let comes = |(barrier, come): &(Barrier, AtomicU32)| {
            come.fetch_add(1, SeqCst);
            let leads = barrier.wait().is_leader();
            assert_eq!(come.load(SeqCst), 2);
            leads
        };
        let other = thread::spawn(move || comes(&there));
        (comes(&shared), other.join().unwrap())
    });
    assert_eq!(seen, BTreeSet::from([(false, true), (true, false)]));
}

#[test]
fn messages_of_a_sender_come_in_their_order_and_then_the_channel_closes() {
    let seen = outcomes(|| {
        let (sender, receiver) = mpsc::channel();
        let threads = [1, 3].map(|first| {
            let sender = sender.clone();
            thread::spawn(move || {
                sender.send(first).unwrap();
                sender.send(first + 1).unwrap();
            })
        });
        drop(sender);
        let messages: Vec<i32> = receiver.iter().collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        messages
    });
    // Two of four places for the first sender.
    assert_eq!(seen.len(), 6);
    let in_order = |messages: &Vec<i32>, pair: [i32; 2]| {
        messages.iter().copied().filter(|message| pair.contains(message)).eq(pair)
    };
    assert!(seen.iter().all(|messages| in_order(messages, [1, 2]) && in_order(messages, [3, 4])), "{seen:?}");
}

#[test]
fn a_message_to_nobody_comes_back() {
    let seen = outcomes(|| {
        let (sender, receiver) = mpsc::channel();
        let other = thread::spawn(move || receiver.try_recv().ok());
        let sent = sender.send(1).is_ok();
        (sent, other.join().unwrap())
    });
    assert_eq!(seen, BTreeSet::from([(false, None), (true, None), (true, Some(1))]));
    let (sender, receiver) = mpsc::channel::<()>();
    drop(sender);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
}

#[test]
fn a_channel_without_room_is_a_meeting() {
    let seen = outcomes(|| {
        let (sender, receiver) = mpsc::sync_channel(0);
        let met = Arc::new(AtomicBool::new(false));
        let there = met.clone();
        let other = thread::spawn(move || {
            sender.send(7).unwrap();
            there.load(SeqCst)
        });
        met.store(true, SeqCst);
        (receiver.recv().unwrap(), other.join().unwrap())
    });
    assert_eq!(seen, BTreeSet::from([(7, true)]));

    let seen = outcomes(|| {
        let (sender, receiver) = mpsc::sync_channel(0);
        let other = thread::spawn(move || receiver.recv());
        let sent = match sender.try_send(1) {
            Ok(()) => true,
            Err(TrySendError::Full(1)) => false,
            Err(other) => panic!("{other:?}"),
        };
        drop(sender);
        (sent, other.join().unwrap().ok())
    });
    assert_eq!(seen, BTreeSet::from([(false, None), (true, Some(1))]));
}

#[test]
fn a_full_channel_keeps_its_sender() {
    let seen = outcomes(|| {
        let (sender, receiver) = mpsc::sync_channel(1);
        let sent = Arc::new(AtomicU32::new(0));
        let count = sent.clone();
        let other = thread::spawn(move || {
            for message in 0..3 {
                sender.send(message).unwrap();
                count.fetch_add(1, SeqCst);
            }
        });
        let before = sent.load(SeqCst);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [0, 1, 2]);
        other.join().unwrap();
        before
    });
    assert_eq!(seen, BTreeSet::from([0, 1]), "the second waits for the first to be received");
}

#[test]
fn a_thread_that_is_unparked_early_does_not_park() {
    let seen = outcomes(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let there = flag.clone();
        let waits = thread::spawn(move || {
            let before = there.load(SeqCst);
            thread::park();
            assert!(there.load(SeqCst));
            before
        });
        flag.store(true, SeqCst);
        waits.thread().unpark();
        waits.join().unwrap()
    });
    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn a_loop_that_says_that_it_waits_comes_to_its_end() {
    let seen = outcomes(|| {
        let flag = Arc::new(AtomicU64::new(0));
        let there = flag.clone();
        let other = thread::spawn(move || {
            there.store(1, SeqCst);
            there.store(2, SeqCst);
        });
        let first = loop {
            match flag.load(SeqCst) {
                0 => hint::spin_loop(),
                value => break value,
            }
        };
        other.join().unwrap();
        first
    });
    assert_eq!(seen, BTreeSet::from([1, 2]));
}

#[test]
fn threads_of_a_scope_borrow() {
    let seen = outcomes(|| {
        let mut left = 0;
        let right = AtomicU32::new(0);
        let loaded = thread::scope(|scope| {
            scope.spawn(|| left = 1);
            scope.spawn(|| right.store(1, SeqCst));
            right.load(SeqCst)
        });
        (left, right.load(SeqCst), loaded)
    });
    assert_eq!(seen, BTreeSet::from([(1, 1, 0), (1, 1, 1)]));
}

#[test]
fn threads_are_begun_by_threads() {
    let seen = outcomes(|| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let there = order.clone();
        let child = thread::spawn(move || {
            let order = there.clone();
            let grandchild = thread::spawn(move || order.lock().unwrap().push('g'));
            there.lock().unwrap().push('c');
            grandchild.join().unwrap();
        });
        order.lock().unwrap().push('m');
        child.join().unwrap();
        let order: String = order.lock().unwrap().iter().collect();
        order
    });
    assert_eq!(seen.len(), 6, "{seen:?}");
}
