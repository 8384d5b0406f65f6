//! A thread has one task; it can be dropped, moved about, forgotten, or end with its thread.

use std::cell::RefCell;
use std::mem;
use std::thread;

use hugewalk::sync::Arc;
use hugewalk::{Hugetlb, Task};
use hugewalk_host::{Host, HostConfig, TaskError, task};

fn system() -> Arc<Hugetlb<Host>> {
    Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(1 << 30)).unwrap()).unwrap()
}

#[test]
fn a_second_task_on_the_same_thread_is_refused() {
    let hugetlb = system();
    let first = task(&hugetlb).unwrap();
    assert_eq!(task(&hugetlb).err(), Some(TaskError::HasOne));
    // Another thread has its own.
    thread::scope(|scope| scope.spawn(|| task(&hugetlb).map(drop)).join().unwrap()).unwrap();
    drop(first);
    task(&hugetlb).unwrap();
}

/// With a task of each of two systems safe code slept by the one while a table of the other was locked: locking a table takes
/// any task, and borrows that one.
#[test]
fn a_thread_has_one_task_whatever_the_system() {
    let [one, other] = [system(), system()];
    let first = task(&one).unwrap();
    assert_eq!(task(&other).err(), Some(TaskError::HasOne));
    // Systems come and go meanwhile, and each has a reader for its end.
    drop(system());
    thread::scope(|scope| scope.spawn(|| task(&other).map(drop)).join().unwrap()).unwrap();
    drop(first);
    let second = task(&other).unwrap();
    assert_eq!(task(&one).err(), Some(TaskError::HasOne));
    drop(second);
    task(&one).unwrap();
}

#[test]
fn a_forgotten_task_keeps_its_threads_place_and_no_other() {
    let hugetlb = system();
    mem::forget(task(&hugetlb).unwrap());
    for hugetlb in [&hugetlb, &system()] {
        assert_eq!(task(hugetlb).err(), Some(TaskError::HasOne));
    }
    thread::scope(|scope| {
        scope.spawn(|| task(&hugetlb).unwrap().synchronize()).join().unwrap();
    });
}

#[test]
fn a_task_may_be_a_thread_local_value_and_ends_with_its_thread() {
    struct Late(Arc<Hugetlb<Host>>);
    impl Drop for Late {
        fn drop(&mut self) {
            // The thread knows to the end whether it has one.
            assert!(matches!(task(&self.0), Ok(_) | Err(TaskError::HasOne)));
        }
    }
    thread_local! {
        static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
        static TASK: RefCell<Option<Task<Host>>> = const { RefCell::new(None) };
    }
    let hugetlb = system();
    for task_first in [true, false] {
        let hugetlb = hugetlb.clone();
        thread::spawn(move || {
            let own = || TASK.set(Some(task(&hugetlb).unwrap()));
            let late = || LATE.set(Some(Late(hugetlb.clone())));
            if task_first {
                own();
                late();
            } else {
                late();
                own();
            }
            assert_eq!(task(&hugetlb).err(), Some(TaskError::HasOne));
        })
        .join()
        .unwrap();
    }
    // No reader is left behind in a section, or this would not return.
    task(&hugetlb).unwrap().synchronize();
    assert_eq!(Arc::strong_count(&hugetlb), 1);
}
