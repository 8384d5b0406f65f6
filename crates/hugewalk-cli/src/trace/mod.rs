//! Recordings of real programs: what `strace -f -ttt` and `perf script` print, as one stream of events in time.

mod arguments;
pub mod call;
mod decode;
pub mod error;
pub mod faults;
pub mod flags;
mod line;
mod ranges;
pub mod strace;
mod syntax;
pub mod time;
mod userfault;

use std::collections::BTreeMap;
use std::path::Path;

pub use call::{Advice, Call, Descriptor, Handling, Outcome};
pub use error::{Place, Problem, TraceError};
pub use faults::Fault;
pub use strace::{Action, Event};
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
        let recording = strace::read(strace, &text_of(strace)?)?;
        let faults = match faults {
            Some(file) => faults::read(file, &text_of(file)?)?,
            None => Vec::new(),
        };
        let mut events = recording.events;
        if recording.unnumbered == Some(strace::UNNUMBERED) {
            // A recording of one thread has no numbers; the fault file knows the one it needs.
            let pid = faults.first().map_or(1, |fault| fault.pid);
            for event in &mut events {
                event.tid = pid;
            }
        }
        Ok(Self { events, faults, skipped: recording.skipped, notes: Vec::new() })
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

    /// The moment of the first event.
    #[must_use]
    pub fn start(&self) -> Time {
        self.events.first().map_or_else(Time::default, |event| event.time)
    }
}

fn text_of(file: &Path) -> Result<String, TraceError> {
    let bytes = std::fs::read(file).map_err(|error| TraceError::in_file(file, error.into()))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        TraceError::at(file, u32::try_from(line).unwrap_or(u32::MAX), Problem::NotText)
    })
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
