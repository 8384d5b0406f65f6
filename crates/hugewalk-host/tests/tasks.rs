//! A thread has one task of a system; it can be dropped, moved about, forgotten, or end with its thread.

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

#[test]
fn a_thread_has_a_task_of_each_system() {
    let systems = [system(), system()];
    let mut tasks = systems.each_ref().map(|hugetlb| task(hugetlb).unwrap());
    // Which variable has which task does not matter.
    let [first, second] = &mut tasks;
    mem::swap(first, second);
    let [second, first] = tasks;
    drop(first);
    assert_eq!(task(&systems[1]).err(), Some(TaskError::HasOne));
    let first = task(&systems[0]).unwrap();
    drop((first, second));
    task(&systems[1]).unwrap();
}

#[test]
fn a_forgotten_task_keeps_its_threads_place_and_no_other() {
    let hugetlb = system();
    mem::forget(task(&hugetlb).unwrap());
    assert_eq!(task(&hugetlb).err(), Some(TaskError::HasOne));
    thread::scope(|scope| {
        scope.spawn(|| task(&hugetlb).unwrap().synchronize()).join().unwrap();
    });
    // Its system stays, so that no other comes to lie at the same place.
    drop(hugetlb);
    for _ in 0..100 {
        task(&system()).unwrap();
    }
}

#[test]
fn a_task_may_be_a_thread_local_value_and_ends_with_its_thread() {
    struct Late(Arc<Hugetlb<Host>>);
    impl Drop for Late {
        fn drop(&mut self) {
            // Either the list of tasks is still there, or the thread is told that it is too late.
            assert!(matches!(task(&self.0), Ok(_) | Err(TaskError::ThreadEnds | TaskError::HasOne)));
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
