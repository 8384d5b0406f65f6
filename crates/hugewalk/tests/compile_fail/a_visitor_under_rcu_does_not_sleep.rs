//! A page walk calls a visitor inside an RCU read section, unless it is of the kind that may sleep: then the walk is another
//! one. A visitor under RCU has nothing to sleep with (scenario S6), and is not taken for one of the other kind.

use std::ops::Range;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::Entry;
use hugewalk::pagewalk::{Found, Next, Resched, SleepingVisitor, Visitor};
use hugewalk::platform::Platform;
use hugewalk::vma::Vma;
use hugewalk::{AddressSpace, Task};

struct Waits<'t, P: Platform>(&'t mut Task<P>);

impl<P: Platform> Visitor<P> for Waits<'_, P> {
    fn entry(&mut self, _: &Found<'_, P>) {
        self.0.synchronize();
    }
}

fn with_the_task_of_the_walk<P: Platform>(space: &AddressSpace<P>, task: &mut Task<P>, range: Range<VirtAddr>) {
    let mut waits = Waits(task);
    let _ = space.walk_range(task, range, &mut waits);
}

struct Reschedules;

impl<P: Platform> SleepingVisitor<P> for Reschedules {
    fn entry(&mut self, resched: &mut Resched<'_, P>, _: &Vma<P>, _: VirtAddr, _: Entry) -> Next {
        resched.cond_resched();
        Next::Go
    }
}

fn of_the_other_kind<P: Platform>(space: &AddressSpace<P>, task: &mut Task<P>, range: Range<VirtAddr>) {
    let _ = space.walk_range(task, range, &mut Reschedules);
}

fn main() {}
