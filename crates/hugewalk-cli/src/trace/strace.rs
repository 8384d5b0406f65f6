//! From the lines of strace to the calls of the recording, whole and in the order in which they were made.
//!
//! A call counts from the moment it was entered, also when its result is printed lines later: a child runs, and is
//! recorded, before the `clone` that made it is printed as returned. A thread ends where strace says so (`+++`), not
//! where it calls `exit`: its memory is still there in between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use super::call::{Call, Outcome};
use super::decode;
use super::error::{Problem, TraceError};
use super::line::{self, Body, Line};
use super::syntax::{self, RawCall};
use super::time::Time;

/// What a thread did, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it began.
    pub time: Time,
    /// The line on which it begins.
    pub line: u32,
    /// The thread.
    pub tid: u32,
    /// What it did.
    pub action: Action,
}

/// What a thread can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It made a call.
    Call(Call, Outcome),
    /// It came to its end; with `group`, so did all threads of its process.
    Ended {
        /// All threads of the process.
        group: bool,
    },
}

/// What one strace file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// In order of time.
    pub events: Vec<Event>,
    /// Calls that this program does not perform, by name.
    pub skipped: BTreeMap<String, u64>,
    /// The thread to which lines without a thread's number belong, if there are such lines: 0 if no line has one.
    pub unnumbered: Option<u32>,
}

/// The number given to the only thread of a recording that has no numbers.
pub(crate) const UNNUMBERED: u32 = 0;

/// Reads the text of a strace file.
///
/// # Errors
///
/// If a line is not what strace prints, or a part of a call is missing.
pub fn read(file: &Path, text: &str) -> Result<Recording, TraceError> {
    let texts = line::lines(text);
    let mut lines = Vec::with_capacity(texts.len());
    for (number, text) in &texts {
        match line::parse(text) {
            Ok(Some(line)) => lines.push((*number, line)),
            Ok(None) => {}
            Err(problem) => return Err(TraceError::at(file, *number, problem)),
        }
    }
    if lines.is_empty() {
        return Err(TraceError::in_file(file, Problem::Empty));
    }
    let mut assembly = Assembly { owner: Owner::of(&lines), ..Assembly::default() };
    for (number, line) in lines {
        assembly.take(number, &line).map_err(|problem| TraceError::at(file, number, problem))?;
    }
    assembly.finish().map_err(|(number, problem)| TraceError::at(file, number, problem))
}

/// To whom lines without a number belong: strace leaves it out while there is one process only.
#[derive(Default)]
struct Owner {
    main: u32,
    alive: BTreeSet<u32>,
    needed: bool,
}

impl Owner {
    fn of(lines: &[(u32, Line<'_>)]) -> Self {
        let children: HashSet<u32> = lines.iter().filter_map(|(_, line)| child(&line.body)).collect();
        let main = lines.iter().filter_map(|(_, line)| line.tid).find(|tid| !children.contains(tid));
        Self {
            main: main.unwrap_or(UNNUMBERED),
            alive: BTreeSet::new(),
            needed: lines.iter().any(|(_, line)| line.tid.is_none()),
        }
    }

    fn tid(&mut self, line: &Line<'_>) -> u32 {
        let tid = line.tid.unwrap_or_else(|| match self.alive.first() {
            Some(&only) if self.alive.len() == 1 => only,
            _ => self.main,
        });
        if line.body == Body::Ended {
            self.alive.remove(&tid);
        } else {
            self.alive.insert(tid);
        }
        tid
    }
}

fn child(body: &Body<'_>) -> Option<u32> {
    let (name, text) = match body {
        Body::Call(text) => (text.split('(').next().unwrap_or_default(), *text),
        Body::Resumed { name, tail } => (*name, *tail),
        _ => return None,
    };
    matches!(name, "clone" | "clone3" | "fork" | "vfork").then(|| line::child_of(text)).flatten()
}

/// A call that has begun.
struct Begun<'a> {
    number: u32,
    time: Time,
    name: &'a str,
    head: &'a str,
}

#[derive(Default)]
struct Assembly<'a> {
    recording: Recording,
    owner: Owner,
    begun: HashMap<u32, Begun<'a>>,
    /// Threads that have been seen: the first line of one that strace joined may be the end of a call.
    seen: HashSet<u32>,
    ended: HashSet<u32>,
}

impl<'a> Assembly<'a> {
    fn take(&mut self, number: u32, line: &Line<'a>) -> Result<(), Problem> {
        let tid = self.owner.tid(line);
        let first = self.seen.insert(tid);
        match line.body {
            Body::Call(text) => {
                self.at_rest(tid)?;
                self.call(number, line.time, tid, text)
            }
            Body::Unfinished { name, head } => {
                self.at_rest(tid)?;
                self.begun.insert(tid, Begun { number, time: line.time, name, head });
                Ok(())
            }
            Body::Resumed { name, tail } => match self.begun.remove(&tid) {
                Some(begun) if begun.name == name => {
                    let whole = format!("{}{tail}", begun.head);
                    self.call(begun.number, begun.time, tid, &whole)
                }
                None if first => Ok(()),
                _ => Err(Problem::ResumedOnly { call: name.to_owned(), tid }),
            },
            Body::Ended => {
                self.begun.remove(&tid);
                self.ended.insert(tid);
                self.push(number, line.time, tid, Action::Ended { group: false });
                Ok(())
            }
            Body::Superseded { by } => {
                // The caller of execve takes over the number of this thread, and returns under it.
                self.begun.remove(&tid);
                if let Some(execve) = self.begun.remove(&by) {
                    self.begun.insert(tid, execve);
                }
                self.ended.insert(by);
                self.push(number, line.time, by, Action::Ended { group: false });
                Ok(())
            }
            Body::Detached => self.at_rest(tid),
            Body::Signal => Ok(()),
        }
    }

    fn at_rest(&self, tid: u32) -> Result<(), Problem> {
        match self.begun.get(&tid) {
            None => Ok(()),
            Some(begun) => Err(Problem::NotResumed { call: begun.name.to_owned(), tid, begun: begun.number }),
        }
    }

    fn call(&mut self, number: u32, time: Time, tid: u32, text: &str) -> Result<(), Problem> {
        let Some(raw) = RawCall::parse(text).filter(|raw| !raw.result.is_empty()) else {
            return Err(Problem::CutOff(text.to_owned()));
        };
        match decode::decode(&raw)? {
            Some(call) => {
                let outcome = decode::outcome(&raw)?;
                self.push(number, time, tid, Action::Call(call, outcome));
            }
            None => *self.recording.skipped.entry(skipped_name(&raw)).or_default() += 1,
        }
        Ok(())
    }

    fn push(&mut self, line: u32, time: Time, tid: u32, action: Action) {
        self.recording.events.push(Event { time, line, tid, action });
    }

    fn finish(mut self) -> Result<Recording, (u32, Problem)> {
        if let Some((tid, begun)) = self.begun.iter().min_by_key(|(_, begun)| begun.number) {
            return Err((begun.number, Problem::NeverReturns { call: begun.name.to_owned(), tid: *tid }));
        }
        let events = &mut self.recording.events;
        for event in events.iter_mut() {
            // Where strace was told to be quiet (-qq) it prints no ends.
            if let Action::Call(Call::Exit { group }, _) = event.action
                && !self.ended.contains(&event.tid)
            {
                event.action = Action::Ended { group };
            }
        }
        events.retain(|event| !matches!(event.action, Action::Call(Call::Exit { .. }, _)));
        events.sort_by_key(|event| (event.time, event.line));
        self.recording.unnumbered = self.owner.needed.then_some(self.owner.main);
        Ok(self.recording)
    }
}

/// Calls that do many things are counted by what they did.
fn skipped_name(raw: &RawCall<'_>) -> String {
    let command = match raw.name {
        "ioctl" | "fcntl" | "shmctl" | "prctl" => {
            raw.arguments.get(usize::from(raw.name != "prctl")).filter(|text| syntax::string(text).is_none())
        }
        _ => None,
    };
    match command {
        Some(command) => format!("{}({})", raw.name, command.split([' ', '|']).next().unwrap_or_default()),
        None => raw.name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(text: &str) -> Recording {
        read(Path::new("t"), text).expect("a good recording")
    }

    fn problem(text: &str) -> String {
        read(Path::new("t"), text).expect_err("a bad recording").to_string()
    }

    fn shape(recording: &Recording) -> Vec<(u32, u32, &'static str)> {
        let name = |action: &Action| match action {
            Action::Call(call, _) => call.name(),
            Action::Ended { .. } => "ended",
        };
        recording.events.iter().map(|event| (event.tid, event.line, name(&event.action))).collect()
    }

    #[test]
    fn a_clone_happens_when_it_is_entered_and_knows_its_child() {
        let recording = recording(
            "1 5.1 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD <unfinished ...>\n\
             2 5.2 munmap(0x1000, 4096) = 0\n\
             1 5.3 <... clone resumed>, child_tidptr=0x7f) = 2\n",
        );
        assert_eq!(shape(&recording), [(1, 1, "clone"), (2, 2, "munmap")]);
        assert!(matches!(recording.events[0].action, Action::Call(_, Outcome::Returned(2))));
    }

    #[test]
    fn a_thread_ends_where_strace_says_so_or_else_where_it_exits() {
        let loud = recording("1 5.1 exit_group(0) = ?\n1 5.2 +++ exited with 0 +++\n");
        assert_eq!(shape(&loud), [(1, 2, "ended")]);
        let quiet = recording("1 5.1 exit_group(0) = ?\n");
        assert_eq!(shape(&quiet), [(1, 1, "ended")]);
        let killed =
            recording("1 5.1 munmap(0x1000, 4096 <unfinished ...>\n1 5.2 +++ killed by SIGKILL +++\n");
        assert_eq!(shape(&killed), [(1, 2, "ended")]);
    }

    #[test]
    fn lines_without_a_number_belong_to_whoever_is_alone() {
        let recording = recording(
            "5.1 munmap(0x1000, 4096) = 0\n\
             [pid 10] 5.2 fork( <unfinished ...>\n\
             strace: Process 11 attached\n\
             [pid 11] 5.3 munmap(0x1000, 4096) = 0\n\
             [pid 10] 5.4 <... fork resumed>) = 11\n\
             [pid 11] 5.5 +++ exited with 0 +++\n\
             5.6 munmap(0x2000, 4096) = 0\n",
        );
        let threads: Vec<u32> = recording.events.iter().map(|event| event.tid).collect();
        assert_eq!(threads, [10, 10, 11, 11, 10]);
        assert_eq!(recording.unnumbered, Some(10));
    }

    #[test]
    fn the_thread_that_calls_execve_goes_on_under_the_number_of_the_process() {
        let recording = recording(
            "1 5.1 clone(child_stack=0x7, flags=CLONE_VM|CLONE_THREAD) = 2\n\
             1 5.2 munmap(0x1000, 4096 <unfinished ...>\n\
             2 5.3 execve(\"/bin/a\", [\"a\"], 0x7 /* 3 vars */ <unfinished ...>\n\
             1 5.4 +++ superseded by execve in pid 2 +++\n\
             1 5.5 <... execve resumed>) = 0\n",
        );
        assert_eq!(shape(&recording), [(1, 1, "clone"), (1, 3, "execve"), (2, 4, "ended")]);
    }

    #[test]
    fn calls_of_no_interest_are_counted_by_name() {
        let recording = recording(
            "1 5.1 getpid() = 1\n1 5.2 getpid() = 1\n1 5.3 ioctl(1, TCGETS, 0x7) = -1 ENOTTY (x)\n",
        );
        let expected = [("getpid".to_owned(), 2), ("ioctl(TCGETS)".to_owned(), 1)];
        assert_eq!(recording.skipped, BTreeMap::from(expected));
    }

    #[test]
    fn missing_halves_are_errors_with_their_line() {
        let begun = "1 5.1 munmap(0x1000, 4096 <unfinished ...>\n";
        assert!(problem(begun).starts_with("t:1: munmap of task 1 never returns"));
        assert!(
            problem(&format!("{begun}1 5.2 getpid() = 1\n"))
                .starts_with("t:2: task 1 goes on, but its munmap of line 1")
        );
        assert!(
            problem("1 5.1 getpid() = 1\n1 5.2 <... brk resumed>) = 0\n")
                .starts_with("t:2: brk of task 1 resumes")
        );
        assert!(problem("1 5.1 munmap(0x1000, 40").starts_with("t:1: the call is cut off"));
        assert!(problem("1 5.1 munmap(0x1000, 4096) = ").starts_with("t:1: the call is cut off"));
        assert!(problem("\n").starts_with("t: holds no events"));
    }

    #[test]
    fn a_call_that_strace_joined_in_the_middle_is_passed_over() {
        assert_eq!(
            shape(&recording("1 5.1 <... read resumed>) = 1\n1 5.2 munmap(0x1000, 1) = 0\n")),
            [(1, 2, "munmap")]
        );
    }
}
