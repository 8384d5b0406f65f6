//! All the ways in which a program can end, looked for in several ways, which have to agree: for tests of the explorer, and of
//! what is built on it.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::bounded::{Bound, Bounded};
use super::clock::Clock;
use super::dpor::Dpor;
use super::op::{Class, Footprint, Kind, NOTHING};
use super::vm::{Deadlock, Setup};
use super::{Coverage, Explorer, Options, Report};

/// A program that is explored in several ways.
#[derive(Clone, Copy)]
pub struct Subject<'s> {
    /// Sets it up. At the end of a run that is judged it adds the state to `ended`.
    pub program: &'s dyn Fn(&mut Setup),
    /// The states in which runs have ended.
    pub ended: &'s RefCell<BTreeSet<Vec<u64>>>,
    /// The state of the run that has ended last, or hangs.
    pub state: &'s dyn Fn() -> Vec<u64>,
}

impl std::fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").finish_non_exhaustive()
    }
}

/// How all orders are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A scheduling point at every access, all orders.
    Naive,
    /// Scheduling points at contended objects, all orders.
    Contended,
    /// The same with at most 0, 1, 2, ... preemptions, until nothing is cut off any more.
    Bounded,
    /// A scheduling point at every access, with reduction.
    ReducedEverywhere,
    /// Scheduling points at contended objects, with reduction.
    Reduced,
}

impl How {
    const ALL: [Self; 4] = [Self::Contended, Self::Bounded, Self::ReducedEverywhere, Self::Reduced];
}

/// The ways in which a program can end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// All threads have ended, in this state.
    pub ended: BTreeSet<Vec<u64>>,
    /// Some wait for ever, in this state.
    pub hung: BTreeSet<Vec<u64>>,
    /// What went wrong first.
    pub wrong: BTreeSet<String>,
    /// Fewest switches, then fewest steps of a run that hangs or goes wrong.
    pub shortest: Option<(u32, u32)>,
    /// Which step comes after which in the runs, for each thread and step: two runs have the same if they differ only in
    /// the order of steps that commute.
    orders: BTreeSet<Vec<(u8, Clock)>>,
    /// Runs that it took.
    pub runs: u64,
}

/// Runs that a search may take.
const MOST_RUNS: u64 = 10_000;

/// A relation that is not the real one: what a footprint is made into.
#[derive(Clone, Copy, Debug)]
pub struct Falsify(fn(&mut Footprint));

/// Relations that call steps independent which are not.
pub const WRONG: [(&str, Falsify); 4] = [
    ("writes commute", Falsify(|footprint| (footprint.kind, footprint.also_kind) = (Kind::Read, Kind::Read))),
    ("there is no second object", Falsify(|footprint| footprint.also = NOTHING)),
    (
        "who takes a lock commutes with who takes it",
        Falsify(|footprint| {
            if footprint.class == Class::Acquire {
                footprint.kind = Kind::Read;
            }
        }),
    ),
    (
        "every step lets somebody go",
        Falsify(|footprint| {
            if footprint.class == Class::Plain {
                footprint.class = Class::Release;
            }
        }),
    ),
];

impl Subject<'_> {
    /// The ways in which the program can end; `None` if there are too many runs.
    #[must_use]
    pub fn ends(&self, how: How, falsify: Option<Falsify>) -> Option<Ends> {
        let mut explorer = self.explorer();
        explorer.vm.objects.all = matches!(how, How::Naive | How::ReducedEverywhere);
        explorer.vm.objects.falsify = falsify.map(|falsify| falsify.0);
        if !explorer.vm.objects.all {
            explorer.learn();
        }
        let mut bound = if how == How::Bounded { Bound::Preemptions(0) } else { Bound::Nothing };
        'anew: loop {
            self.ended.borrow_mut().clear();
            explorer.executions = 0;
            let mut ends = Ends::default();
            let (mut bounded, mut dpor) = (Bounded::new(bound), Dpor::new());
            let reduced = matches!(how, How::Reduced | How::ReducedEverywhere);
            loop {
                let learned = if reduced { explorer.run(&mut dpor) } else { explorer.run(&mut bounded) };
                if learned {
                    continue 'anew;
                }
                if !explorer.vm.gave_up {
                    let mut order: Vec<_> =
                        explorer.vm.steps.iter().map(|step| (step.thread, step.after)).collect();
                    order.sort_by_key(|&(thread, _)| thread);
                    ends.orders.insert(order);
                }
                if let Some(found) = explorer.vm.found.take() {
                    let length = (found.schedule.switches(), found.schedule.steps());
                    ends.shortest = Some(ends.shortest.map_or(length, |shortest| shortest.min(length)));
                    if found.what.is::<Deadlock>() {
                        ends.hung.insert((self.state)());
                    } else {
                        ends.wrong.insert(found.text);
                    }
                }
                if !reduced && explorer.executions > MOST_RUNS {
                    return None;
                }
                if !if reduced { dpor.advance(&explorer.vm) } else { bounded.advance() } {
                    break;
                }
            }
            match &mut bound {
                Bound::Preemptions(most) if bounded.cut => *most += 1,
                _ => {
                    ends.ended = self.ended.borrow().clone();
                    ends.runs = explorer.executions;
                    return Some(ends);
                }
            }
        }
    }

    fn explorer(&self) -> Explorer<'_> {
        let mut explorer = Explorer::new(self.program);
        // What happens after a report is not explored, and here it is the ends that count.
        explorer.vm.locks.ignored = true;
        explorer
    }

    /// What `how` finds is what there is.
    ///
    /// # Errors
    ///
    /// How the two differ.
    pub fn agrees(&self, naive: &Ends, how: How, falsify: Option<Falsify>) -> Result<Ends, String> {
        let found = self.ends(how, falsify).ok_or("it takes more runs than without")?;
        // What goes wrong ends the run, so which of two independent errors comes first is left to the search.
        let errors = found.wrong.is_subset(&naive.wrong) && found.wrong.is_empty() == naive.wrong.is_empty();
        let ends = !naive.wrong.is_empty() || (&found.ended, &found.hung) == (&naive.ended, &naive.hung);
        if !errors || !ends {
            return Err(format!("{how:?} finds {found:?}, there are {naive:?}"));
        }
        let comparable = how == How::ReducedEverywhere && naive.wrong.is_empty() && falsify.is_none();
        if comparable && found.orders != naive.orders {
            let (some, all) = (found.orders.len(), naive.orders.len());
            return Err(format!(
                "of {all} runs that differ in more than steps that commute, {some} are found"
            ));
        }
        Ok(found)
    }

    /// A counterexample is found if there is one, and is a shortest one.
    fn is_checked(&self, naive: &Ends) -> Result<(), String> {
        let options = Options { preemptions: 1, ..Options::default() };
        let report: Report = self.explorer().check(&options);
        let found = report.counterexample.as_ref();
        let length = found.map(|found| (found.schedule.switches(), found.schedule.steps()));
        let complete = found.map_or(report.coverage == Coverage::Everything, |found| found.shortest);
        if length == naive.shortest && complete {
            return Ok(());
        }
        Err(format!("the check finds {report:?}, the shortest is {:?} long", naive.shortest))
    }

    /// A search that leaves out what differs in the order of steps that commute finds a shortest counterexample, too.
    ///
    /// # Errors
    ///
    /// How long the shortest is, and the one that is found.
    pub fn is_shortened(&self, naive: &Ends, falsify: Option<Falsify>) -> Result<(), String> {
        let Some(shortest @ (most, _)) = naive.shortest.filter(|&(switches, _)| switches > 0) else {
            return Ok(());
        };
        let mut explorer = self.explorer();
        explorer.vm.objects.all = true;
        explorer.vm.objects.falsify = falsify.map(|falsify| falsify.0);
        let found = (1..=most).find_map(|switches| {
            let bound = Bound::Switches(switches, u32::MAX);
            let search = || Bounded::new(bound).with_sleep();
            explorer.search(search, bound, u64::MAX, true).1
        });
        let length = found.map(|found| (found.schedule.switches(), found.schedule.steps()));
        if length == Some(shortest) {
            return Ok(());
        }
        Err(format!("the shortest that is found is {length:?} long, and there is one of {shortest:?}"))
    }

    /// Compares all ways: what there is, and the runs that it takes with reduction; `None` if there are too many runs.
    ///
    /// # Errors
    ///
    /// How two ways differ.
    pub fn compare(&self) -> Result<Option<(Ends, u64)>, String> {
        let Some(naive) = self.ends(How::Naive, None) else { return Ok(None) };
        let mut reduced = 0;
        for how in How::ALL {
            reduced = self.agrees(&naive, how, None)?.runs;
        }
        self.is_checked(&naive)?;
        self.is_shortened(&naive, None)?;
        Ok(Some((naive, reduced)))
    }
}
