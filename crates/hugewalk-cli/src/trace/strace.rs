//! From the lines of strace to the calls of the recording, whole and in the order in which they were made.
//!
//! A call counts from the moment it was entered, also when its result is printed lines later: a child runs, and is
//! recorded, before the `clone` that made it is printed as returned. A thread ends where strace says so (`+++`), not
//! where it calls `exit`: its memory is still there in between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use super::call::{Call, Outcome};
use super::clock::Clock;
use super::decode;
use super::error::{Problem, TraceError};
use super::joined;
use super::line::{self, Body};
use super::messages;
use super::sift::{self, Sifted};
use super::syntax::{self, RawCall};
use super::threads::Threads;
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

/// What a thread can do, or what can happen to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It made a call.
    Call(Call, Outcome),
    /// An access that it made ended with a signal.
    Faulted(Faulted),
    /// It came to its end; with `group`, so did all threads of its process.
    Ended {
        /// All threads of the process.
        group: bool,
        /// The signal by which it was killed.
        by: Option<Box<str>>,
    },
}

/// A signal that came of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faulted {
    /// Which.
    pub signal: Signal,
    /// Where the access went, if the recording says.
    pub address: Option<u64>,
    /// Whether the rights of a mapping forbade it.
    pub forbidden: bool,
}

/// The signals by which the kernel tells of accesses that fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGBUS`
    Bus,
    /// `SIGSEGV`
    Segv,
}

impl Signal {
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        match name {
            "SIGBUS" => Some(Self::Bus),
            "SIGSEGV" => Some(Self::Segv),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bus => "SIGBUS",
            Self::Segv => "SIGSEGV",
        }
    }
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
    /// By which clock its times are.
    pub clock: Clock,
    /// What is known of threads that were there before.
    pub(super) threads: Threads,
    /// What cannot be concluded from it: a sentence each.
    pub notes: Vec<String>,
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
    let mut sieve = sift::sift(file, text, &texts)?;
    let joined = joined::name_threads(&mut sieve.lines, sieve.clock, UNNUMBERED);
    let mut assembly = Assembly { owner: Owner::of(&sieve.lines), ..Assembly::default() };
    assembly.recording.clock = sieve.clock;
    assembly.recording.notes = sieve.notes;
    assembly.recording.notes.extend(joined);
    assembly.recording.threads.attached = sieve.attached;
    for line in &sieve.lines {
        assembly.take(line).map_err(|problem| TraceError::at(file, line.number, problem))?;
    }
    Ok(assembly.finish())
}

/// To whom lines without a number belong: strace leaves it out while there is one process only.
#[derive(Default)]
struct Owner {
    main: u32,
    alive: BTreeSet<u32>,
    needed: bool,
}

impl Owner {
    fn of(lines: &[Sifted<'_>]) -> Self {
        let children: HashSet<u32> = lines.iter().filter_map(|line| child(&line.body)).collect();
        let main = lines.iter().filter_map(|line| line.tid).find(|tid| !children.contains(tid));
        Self {
            main: main.unwrap_or(UNNUMBERED),
            alive: BTreeSet::new(),
            needed: lines.iter().any(|line| line.tid.is_none()) || main == Some(UNNUMBERED),
        }
    }

    fn tid(&mut self, line: &Sifted<'_>) -> u32 {
        let tid = line.tid.unwrap_or_else(|| match self.alive.first() {
            Some(&only) if self.alive.len() == 1 => only,
            _ => self.main,
        });
        if matches!(line.body, Body::Ended { .. }) {
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
    /// Children of whose end their parents were told.
    reaped: Vec<(u32, Time, u32)>,
}

impl<'a> Assembly<'a> {
    fn take(&mut self, line: &Sifted<'a>) -> Result<(), Problem> {
        let tid = self.owner.tid(line);
        let first = self.seen.insert(tid);
        let (number, time) = (line.number, line.time);
        match line.body {
            Body::Call(text) => {
                self.at_rest(tid)?;
                self.call(number, time, tid, line.mended.as_deref().unwrap_or(text))
            }
            Body::Unfinished { name, head } => {
                self.at_rest(tid)?;
                self.begun.insert(tid, Begun { number, time, name, head });
                Ok(())
            }
            Body::Resumed { name, tail } => match self.begun.remove(&tid) {
                Some(begun) if begun.name == name => {
                    if tail.trim().ends_with("<detached ...>") {
                        self.without_end(&begun, tid);
                        return Ok(());
                    }
                    let whole = format!("{}{tail}", begun.head);
                    // What others sent has arrived by the end of the call, not at its beginning.
                    let receives = matches!(name, "recvmsg" | "recvmmsg" | "recvmmsg_time64" | "pidfd_getfd");
                    let (number, time) = if receives { (number, time) } else { (begun.number, begun.time) };
                    self.call(number, time, tid, &whole)
                }
                None if first => Ok(()),
                _ => Err(Problem::ResumedOnly { call: name.to_owned(), tid }),
            },
            Body::Ended { by } => {
                self.begun.remove(&tid);
                self.ended.insert(tid);
                let by = by.map(Box::from);
                self.push(number, time, tid, Action::Ended { group: false, by });
                Ok(())
            }
            Body::Superseded { by } => {
                // The caller of execve takes over the number of this thread, and returns under it.
                self.begun.remove(&tid);
                if let Some(execve) = self.begun.remove(&by) {
                    self.begun.insert(tid, execve);
                }
                self.ended.insert(by);
                self.push(number, time, by, Action::Ended { group: false, by: None });
                Ok(())
            }
            Body::Detached { name, head } => {
                self.at_rest(tid)?;
                self.without_end(&Begun { number, time, name, head }, tid);
                Ok(())
            }
            Body::Signal { name, details } => {
                self.signal(number, time, tid, name, details);
                Ok(())
            }
            Body::Other(_) => Ok(()),
        }
    }

    fn at_rest(&self, tid: u32) -> Result<(), Problem> {
        match self.begun.get(&tid) {
            None => Ok(()),
            Some(begun) => Err(Problem::NotResumed { call: begun.name.to_owned(), tid, begun: begun.number }),
        }
    }

    /// A call of which the recording shows only that it was made.
    fn without_end(&mut self, begun: &Begun<'_>, tid: u32) {
        let whole = format!("{}) = ?", begun.head.trim_end_matches([',', ' ']));
        let decoded = RawCall::parse(&whole).and_then(|raw| decode::decode(&raw).ok()?);
        // Who was about to exit when strace let go of it has done so since, but not before the recording ended.
        if let Some(call) = decoded.filter(|call| !matches!(call, Call::Exit { .. })) {
            self.push(begun.number, begun.time, tid, Action::Call(call, Outcome::Unknown));
        }
    }

    fn signal(&mut self, number: u32, time: Time, tid: u32, name: &str, details: &str) {
        let field = |name: &str| syntax::field(details, name).map(str::trim);
        let value = |name: &str| field(name).and_then(|text| syntax::number(text, |_| None));
        if name == "SIGCHLD" {
            let ended = matches!(
                field("si_code"),
                Some("CLD_EXITED" | "CLD_KILLED" | "CLD_DUMPED" | "0x1" | "0x2" | "0x3")
            );
            if let Some(child) = value("si_pid").and_then(|pid| u32::try_from(pid).ok()).filter(|_| ended) {
                self.reaped.push((number, time, child));
            }
            return;
        }
        let Some(signal) = Signal::by_name(name) else { return };
        // Others were sent by a program, or tell of memory that nobody touched (BUS_MCEERR_AO).
        let of_access = match field("si_code") {
            None => true,
            Some(code) if code.starts_with("SEGV_") => code != "SEGV_MTEAERR",
            Some(code) => {
                matches!(code, "BUS_ADRERR" | "BUS_MCEERR_AR" | "BUS_OBJERR")
                    || syntax::number(code, |_| None).is_some_and(|code| {
                        matches!((signal, code), (Signal::Bus, 2..=4) | (Signal::Segv, 1..=4))
                    })
            }
        };
        if of_access {
            let forbidden =
                matches!(field("si_code"), Some("SEGV_ACCERR" | "0x2" | "2")) && signal == Signal::Segv;
            let faulted = Faulted { signal, address: value("si_addr"), forbidden };
            self.push(number, time, tid, Action::Faulted(faulted));
        }
    }

    fn call(&mut self, number: u32, time: Time, tid: u32, text: &str) -> Result<(), Problem> {
        let Some(raw) = RawCall::parse(text).filter(|raw| !raw.result.is_empty()) else {
            let name = text.split('(').next().unwrap_or_default();
            if decode::is_known(name) {
                return Err(Problem::CutOff(text.to_owned()));
            }
            *self.recording.skipped.entry(name.to_owned()).or_default() += 1;
            return Ok(());
        };
        // `? ERESTARTSYS (...)`: it is started over, and then printed again.
        if raw.result.starts_with("? ERESTART") {
            return Ok(());
        }
        if let Some(pair) = decode::thread_of(&raw) {
            self.recording.threads.told.push(pair);
        }
        if raw.arguments.iter().any(|argument| argument.starts_with('?')) && decode::is_known(raw.name) {
            self.recording.notes.push(format!(
                "{} on line {number} was broken by other output and is not performed. Record with -o FILE.",
                raw.name
            ));
            return Ok(());
        }
        let decoded = match decode::decode(&raw) {
            // A call that failed may have failed for arguments that cannot be read, and has changed nothing.
            Err(_) if raw.result.starts_with("-1 E") => None,
            decoded => decoded?,
        };
        match decoded {
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

    fn finish(mut self) -> Recording {
        // The recording ends inside of these.
        let mut open: Vec<(u32, Begun<'a>)> = self.begun.drain().collect();
        open.sort_unstable_by_key(|(_, begun)| begun.number);
        for (tid, begun) in &open {
            self.without_end(begun, *tid);
        }
        // Where children are not followed, their parents know when they end.
        for (line, time, child) in std::mem::take(&mut self.reaped) {
            if !self.seen.contains(&child) {
                self.push(line, time, child, Action::Ended { group: true, by: None });
            }
        }
        let events = &mut self.recording.events;
        for event in events.iter_mut() {
            // Where strace was told to be quiet (-qq) it prints no ends.
            if let Action::Call(Call::Exit { group }, _) = event.action
                && !self.ended.contains(&event.tid)
            {
                event.action = Action::Ended { group, by: None };
            }
        }
        events.retain(|event| !matches!(event.action, Action::Call(Call::Exit { .. }, _)));
        events.sort_by_key(|event| (event.time, event.line));
        messages::put_behind_sends(events);
        self.recording.unnumbered = self.owner.needed.then_some(self.owner.main);
        self.recording.threads.seen = self.seen;
        self.recording.threads.nameless = self.recording.unnumbered == Some(UNNUMBERED);
        self.recording
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
            Action::Faulted(_) => "faulted",
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
    fn arguments_of_a_call_that_failed_need_not_be_readable() {
        let failed = "1 5.1 openat2(AT_FDCWD, \"a\", NULL, 24) = -1 EFAULT (Bad address)\n";
        assert_eq!(recording(failed).skipped.get("openat2"), Some(&1));
        assert!(problem("1 5.1 openat2(AT_FDCWD, \"a\", NULL, 24) = 3\n").contains("openat2: argument 3"));
    }

    #[test]
    fn a_call_that_is_started_over_is_printed_again() {
        let text = "1 5.1 mlock(0x1000, 4096) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)\n\
                    1 5.2 mlock(0x1000, 4096) = 0\n1 5.3 munmap(0x1000, 4096) = ?\n";
        let recording = recording(text);
        assert_eq!(shape(&recording), [(1, 2, "mlock"), (1, 3, "munmap")]);
        assert!(matches!(recording.events[1].action, Action::Call(_, Outcome::Unknown)));
    }

    #[test]
    fn missing_halves_are_errors_with_their_line() {
        let begun = "1 5.1 munmap(0x1000, 4096 <unfinished ...>\n";
        // Where the recording ends inside of a call it is known that it was made, and not how it ended.
        assert!(matches!(recording(begun).events[0].action, Action::Call(_, Outcome::Unknown)));
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
