//! Recordings of real programs: what strace and `perf script` print, as one stream of events in time.

mod arguments;
pub mod call;
pub mod calls;
pub mod clock;
mod decode;
pub mod error;
pub mod faults;
pub mod flags;
mod input;
mod joined;
mod line;
mod messages;
mod names;
mod ranges;
mod sift;
pub mod strace;
mod syntax;
mod threads;
pub mod time;
mod userfault;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::replay::args::Until;

pub use call::{Advice, Call, Descriptor, Handling, Outcome};
pub use clock::Clock;
pub use error::{Place, Problem, TraceError};
pub use faults::Fault;
use strace::Recording;
pub use strace::{Action, Event, Faulted, Signal};
pub use time::Time;

/// A recording: what the threads of some processes did, and the page faults they took.
#[derive(Debug, Default)]
pub struct Trace {
    /// Calls and ends, in order of time.
    pub events: Vec<Event>,
    /// Faults, in order of time.
    pub faults: Vec<Fault>,
    /// Calls that this program does not perform, by name, and how often they were made.
    pub skipped: BTreeMap<String, u64>,
    /// By which clock its times are.
    pub clock: Clock,
    /// Which process a thread belongs to, where the recording does not show who made it.
    pub leaders: HashMap<u32, u32>,
    /// What cannot be concluded from it, and what would help: a sentence each.
    pub notes: Vec<String>,
}

/// One step of a recording.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A call, or an end.
    Event(&'a Event),
    /// A fault.
    Fault(&'a Fault),
}

impl Step<'_> {
    /// When it happened.
    #[must_use]
    pub fn time(&self) -> Time {
        match self {
            Step::Event(event) => event.time,
            Step::Fault(fault) => fault.time,
        }
    }
}

impl Trace {
    /// Reads the two files.
    ///
    /// # Errors
    ///
    /// If one of them cannot be read, or holds a line that the tool would not have printed.
    pub fn load(strace: &Path, faults: Option<&Path>) -> Result<Self, TraceError> {
        let mut notes = Vec::new();
        if let Some(file) = faults.filter(|file| strace.as_os_str() == "-" && *file == strace) {
            return Err(TraceError::in_file(file, Problem::ReadAlready));
        }
        let mut recording = strace::read(strace, &input::text(strace, &mut notes)?)?;
        notes.append(&mut recording.notes);
        let mut found = match faults {
            Some(file) => faults::read(file, &input::text(file, &mut notes)?)?,
            None => Vec::new(),
        };
        if let Some(file) = faults {
            put_beside(file, &mut found, &recording, &mut notes)?;
        }
        let mut events = recording.events;
        if recording.unnumbered == Some(strace::UNNUMBERED) {
            // A recording of one thread has no numbers; the fault file knows the one it needs.
            let pid = found.first().map_or(1, |fault| fault.pid);
            for event in events.iter_mut().filter(|event| event.tid == strace::UNNUMBERED) {
                event.tid = pid;
            }
        }
        let leaders = threads::leaders(&recording.threads, &events, &found, &mut notes);
        let Recording { skipped, clock, .. } = recording;
        Ok(Self { events, faults: found, skipped, clock, leaders, notes })
    }

    /// Looks whether there is such a moment to stop at.
    ///
    /// # Errors
    ///
    /// If the recording has no times to which it could belong.
    pub fn has_moment(&self, strace: &Path, until: Option<Until>) -> Result<(), TraceError> {
        match (until, self.clock) {
            (Some(Until::Moment(_)), Clock::OfDay | Clock::Relative | Clock::None)
            | (Some(Until::After(_)), Clock::None) => Err(TraceError::in_file(strace, Problem::NoMoments)),
            _ => Ok(()),
        }
    }

    /// Both in one, in order of time. What strace and perf put at the same moment happened in that order: a call is
    /// entered before the faults it brings.
    pub fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        let mut events = self.events.iter().peekable();
        let mut faults = self.faults.iter().peekable();
        std::iter::from_fn(move || {
            let fault_is_next = match (events.peek(), faults.peek()) {
                (Some(event), Some(fault)) => fault.time < event.time,
                (event, _) => event.is_none(),
            };
            if fault_is_next { faults.next().map(Step::Fault) } else { events.next().map(Step::Event) }
        })
    }

    /// Whether a note says that programs ran already when the recording began.
    #[must_use]
    pub fn said_late(&self) -> bool {
        self.notes.iter().any(|note| note.starts_with(threads::BEGAN_LATE))
    }

    /// The moment of the first event.
    #[must_use]
    pub fn start(&self) -> Time {
        self.events.first().map_or_else(Time::default, |event| event.time)
    }
}

/// Brings the faults to the clock of the calls.
fn put_beside(
    file: &Path,
    faults: &mut [Fault],
    recording: &Recording,
    notes: &mut Vec<String>,
) -> Result<(), TraceError> {
    let (Some(first_fault), Some(last_fault)) = (faults.first().copied(), faults.last().copied()) else {
        notes.push(format!(
            "{} holds no page faults: only pages that calls populate are present. perf may have recorded another event, \
             or have been stopped before the program began.",
            file.display()
        ));
        return Ok(());
    };
    let events = &recording.events;
    let (Some(first), Some(last)) =
        (events.first().map(|event| event.time), events.last().map(|event| event.time))
    else {
        return Ok(());
    };
    let refused = |problem| Err(TraceError::in_file(file, problem));
    match recording.clock {
        Clock::None => refused(Problem::FaultsWithoutTimes("without times")),
        Clock::Relative => refused(Problem::FaultsWithoutTimes("with relative times (-r)")),
        Clock::OfDay => {
            // Clocks on the wall differ from the epoch's by quarters of an hour.
            const QUARTER: u64 = 15 * 60 * 1_000_000_000;
            if last - first > Time(QUARTER / 2) || first.0 % 1_000_000_000 == 0 && last.0 % 1_000_000_000 == 0
            {
                return refused(Problem::FaultsWithoutTimes("with times of day to the second (-t)"));
            }
            let quarters = (first_fault.time.0 + QUARTER / 2).saturating_sub(first.0) / QUARTER;
            for fault in faults {
                fault.time = fault.time - Time(quarters * QUARTER);
            }
            notes.push(
                "The calls have times of day, and the faults were put between them by the quarter of an hour that fits. \
                 Record with strace -ttt."
                    .to_owned(),
            );
            Ok(())
        }
        Clock::RealTime => {
            // A moment's difference is no other clock: perf may begin earlier and end later.
            const APART: Time = Time(3600 * 1_000_000_000);
            let apart = last_fault.time + APART < first || last + APART < first_fault.time;
            if apart {
                return refused(Problem::OtherClock { faults: first_fault.time, calls: first });
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(name: &str) -> Trace {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/traces");
        let file = |ending: &str| directory.join(format!("{name}.{ending}"));
        Trace::load(&file("strace"), Some(&file("faults"))).expect("a good recording")
    }

    #[test]
    fn the_recordings_of_the_examples_are_read_whole() {
        let trace = example("postgres");
        let clones =
            trace.events.iter().filter(|event| matches!(event.action, Action::Call(Call::Clone { .. }, _)));
        let ends = trace.events.iter().filter(|event| matches!(event.action, Action::Ended { .. }));
        assert_eq!((clones.count(), ends.count(), trace.faults.len()), (77, 78, 3147));
        assert_eq!(trace.skipped, BTreeMap::from([("brk".to_owned(), 505)]));
        assert_eq!(example("selftest-mremap").events.len(), 29);
        assert_eq!(example("selftest-madvise").events.len(), 38);
    }

    #[test]
    fn steps_come_in_order_of_time_and_a_call_before_the_faults_of_its_moment() {
        let trace = example("postgres");
        let times: Vec<Time> = trace.steps().map(|step| step.time()).collect();
        assert!(times.is_sorted());
        assert_eq!(times.len(), trace.events.len() + trace.faults.len());
        // No child touches memory before it has been made.
        let mut made = std::collections::HashSet::from([trace.events[0].tid]);
        for step in trace.steps() {
            match step {
                Step::Event(Event { action: Action::Call(Call::Clone { .. }, outcome), .. }) => {
                    made.extend(outcome.value().and_then(|child| u32::try_from(child).ok()));
                }
                Step::Event(event) => assert!(made.contains(&event.tid), "{event:?}"),
                Step::Fault(fault) => assert!(made.contains(&fault.tid), "{fault:?}"),
            }
        }
    }
}
