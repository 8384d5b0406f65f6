//! With a second task, or without any, a thread could wait inside its own read section.

use hugewalk::platform::{Barriers, Platform};
use hugewalk::rcu::Rcu;
use hugewalk::sync::Arc;
use hugewalk::{Hugetlb, Task};

fn second_task<P: Platform>(hugetlb: &Arc<Hugetlb<P>>) {
    let _ = Task::new(hugetlb);
}

fn without_a_task<P: Platform>(hugetlb: &Hugetlb<P>) {
    hugetlb.rcu().synchronize(hugetlb.platform());
    hugetlb.rcu().barrier(hugetlb.platform());
    hugetlb.platform().pause();
}

fn main() {}
