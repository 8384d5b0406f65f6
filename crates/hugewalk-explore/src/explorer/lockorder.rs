//! Which locks are waited for while which are held; a cycle is a deadlock that has not happened yet.

use super::clock::MAX_THREADS;
use super::vm::LockCycle;

/// The order in which the locks of one run are taken. Locks that are only tried do not count: who tries does not wait.
#[derive(Default)]
pub(crate) struct LockOrder {
    held: [Vec<usize>; MAX_THREADS],
    /// While the first was held, the second was waited for.
    edges: Vec<(usize, usize)>,
    /// Used by `leads` alone.
    reached: Vec<usize>,
    /// Nobody wants to know.
    pub(crate) ignored: bool,
}

impl Clone for LockOrder {
    fn clone(&self) -> Self {
        Self {
            held: self.held.clone(),
            edges: self.edges.clone(),
            reached: Vec::new(),
            ignored: self.ignored,
        }
    }

    fn clone_from(&mut self, other: &Self) {
        for (held, others) in self.held.iter_mut().zip(&other.held) {
            held.clone_from(others);
        }
        self.edges.clone_from(&other.edges);
        self.ignored = other.ignored;
    }
}

impl LockOrder {
    pub(crate) fn begin_run(&mut self) {
        self.held.iter_mut().for_each(Vec::clear);
        self.edges.clear();
    }

    /// A thread is about to wait for a lock. Says what is wrong if that closes a cycle.
    pub(crate) fn wanted(&mut self, thread: usize, lock: usize) -> Option<LockCycle> {
        for at in 0..if self.ignored { 0 } else { self.held[thread].len() } {
            let holds = self.held[thread][at];
            if holds == lock {
                return Some(LockCycle::Own);
            }
            if self.edges.contains(&(holds, lock)) {
                continue;
            }
            self.edges.push((holds, lock));
            if self.leads(lock, holds) {
                return Some(LockCycle::Orders);
            }
        }
        None
    }

    pub(crate) fn taken(&mut self, thread: usize, lock: usize) {
        self.held[thread].push(lock);
    }

    pub(crate) fn released(&mut self, thread: usize, lock: usize) {
        if let Some(at) = self.held[thread].iter().rposition(|&held| held == lock) {
            self.held[thread].remove(at);
        }
    }

    /// Is there a way from one lock to another?
    fn leads(&mut self, from: usize, to: usize) -> bool {
        self.reached.clear();
        self.reached.push(from);
        let mut at = 0;
        while let Some(&lock) = self.reached.get(at) {
            for &(first, second) in &self.edges {
                if first == lock && !self.reached.contains(&second) {
                    self.reached.push(second);
                }
            }
            at += 1;
        }
        self.reached.contains(&to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_over_three_locks_is_found_when_it_closes() {
        let mut order = LockOrder::default();
        for (thread, (held, wanted)) in [(1, 2), (2, 3), (3, 1)].into_iter().enumerate() {
            order.taken(thread, held);
            assert_eq!(order.wanted(thread, wanted).is_some(), thread == 2);
        }
    }

    #[test]
    fn one_order_for_all_is_no_cycle() {
        let mut order = LockOrder::default();
        for thread in 0..3 {
            order.taken(thread, 1);
            assert_eq!(order.wanted(thread, 2), None);
            order.released(thread, 1);
            assert_eq!(order.wanted(thread, 3), None);
        }
    }
}
