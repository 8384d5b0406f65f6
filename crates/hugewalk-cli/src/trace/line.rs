//! One line of strace: whose it is, when, and which of the things that strace prints.
//!
//! Every option that changes the head of a line is read here: `-f` and `-Y` (the thread), `-t`, `-tt`, `-ttt` and `-r`
//! (the time), `-i` and `-n` (an address or a number in brackets). What the times mean is decided for the recording as a
//! whole, in [`super::clock`].

use std::borrow::Cow;

use super::syntax;
use super::time::Time;

/// A line, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// The thread; none where strace followed only one and did not say.
    pub(crate) tid: Option<u32>,
    pub(crate) stamp: Stamp,
    pub(crate) body: Body<'a>,
}

/// The time at the head of a line, as it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// None.
    None,
    /// Seconds: since the epoch (`-ttt`), or since the line before (`-r`).
    Seconds(Time),
    /// A time of day, `whole` if it has no fraction (`-t`, else `-tt`).
    OfDay { time: Time, whole: bool },
}

impl Stamp {
    /// Whether both are printed by the same option.
    pub(crate) fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// A call from its name to its result, if it is whole.
    Call(&'a str),
    /// The first part of a call, up to `<unfinished ...>`.
    Unfinished { name: &'a str, head: &'a str },
    /// The second part, from behind `resumed>`.
    Resumed { name: &'a str, tail: &'a str },
    /// `+++ exited`, or `+++ killed` by this signal.
    Ended { by: Option<&'a str> },
    /// The thread is gone, because another of its process calls execve and goes on under its number.
    Superseded { by: u32 },
    /// A call during which strace let go of the thread: how it went on is not known.
    Detached { name: &'a str, head: &'a str },
    /// A signal: its name, and what strace says of it.
    Signal { name: &'a str, details: &'a str },
    /// Nothing that strace prints, or only the beginning of it: the program's own output, or damage.
    Other(&'a str),
}

/// What a line turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// What a thread did.
    Line(Line<'a>),
    /// What strace says about itself: that it has joined a process with so many threads.
    Attached { pid: u32, threads: u32 },
    /// Of no consequence.
    Nothing,
}

/// The lines of a recording with their numbers. Without `-o`, strace may announce a new process in the middle of a line,
/// and break that line there: the announcement is taken out, and the line is whole again under its first number.
/// The table that `-c` prints is left out.
pub(crate) fn lines(text: &str) -> Vec<(u32, Cow<'_, str>)> {
    let mut whole = Vec::new();
    let mut broken: Option<(u32, String)> = None;
    let mut in_table = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("% time ") {
            in_table = true;
        }
        if in_table {
            in_table = is_of_table(line);
            if in_table {
                continue;
            }
        }
        let (number, line) = match broken.take() {
            Some((first, head)) => (first, Cow::Owned(head + line)),
            None => (number, Cow::Borrowed(line)),
        };
        match line.rsplit_once("Process ") {
            Some((head, rest)) if announces(rest) && head.contains('(') => {
                // Old versions do not say that it is they who speak.
                broken = Some((number, head.strip_suffix("strace: ").unwrap_or(head).to_owned()));
            }
            _ => whole.push((number, line)),
        }
    }
    whole.extend(broken.map(|(number, head)| (number, Cow::Owned(head))));
    whole
}

/// `12 attached`
fn announces(text: &str) -> bool {
    text.strip_suffix(" attached").is_some_and(|pid| pid.parse::<u32>().is_ok())
}

/// The heading, a rule, or a row of figures.
fn is_of_table(line: &str) -> bool {
    let line = line.trim();
    line.is_empty()
        || line.starts_with("% time ")
        || line.starts_with("------")
        || line.split_whitespace().next().is_some_and(|first| {
            first.contains('.')
                && first.parse::<f64>().is_ok_and(|share| share <= 100.0)
                && !line.contains('(')
        })
}

/// Reads a line.
pub(crate) fn parse(text: &str) -> Parsed<'_> {
    // Stacks (`-k`) follow their calls.
    if text.starts_with(" > ") {
        return Parsed::Nothing;
    }
    let text = text.trim();
    if let Some(parsed) = own_remark(text) {
        return parsed;
    }
    let (tid, after) = match thread(text) {
        Some((tid, after)) => (Some(tid), after),
        None => (None, text),
    };
    if let Some(parsed) = own_remark(after) {
        return parsed;
    }
    let (stamp, after) = stamp(after).unwrap_or((Stamp::None, after));
    let after = behind_brackets(behind_delta(after));
    Parsed::Line(Line { tid, stamp, body: body(after) })
}

/// What strace says about itself.
fn own_remark(text: &str) -> Option<Parsed<'_>> {
    if text.is_empty() || text.starts_with("[ Process PID=") {
        return Some(Parsed::Nothing);
    }
    let said = text.strip_prefix("strace: ");
    let process = said.unwrap_or(text).strip_prefix("Process ")?.split(' ').collect::<Vec<_>>();
    match process[..] {
        [pid, "attached", "with", threads, "threads"] => {
            Some(Parsed::Attached { pid: pid.parse().ok()?, threads: threads.parse().ok()? })
        }
        [pid, "attached" | "detached" | "suspended" | "resumed", ..] if pid.parse::<u32>().is_ok() => {
            Some(Parsed::Nothing)
        }
        _ => said.map(|_| Parsed::Nothing),
    }
    .or(said.map(|_| Parsed::Nothing))
}

/// A number at the beginning, and what follows.
fn digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// No process has a larger number.
const LARGEST_PID: u64 = 1 << 22;

/// `[pid 12]` or `12`, also with the name of its program (`-Y`), and what follows.
fn thread(text: &str) -> Option<(u32, &str)> {
    let (inside, bracket) = match text.strip_prefix("[pid") {
        Some(inside) => (inside.trim_start(), true),
        None => (text, false),
    };
    let (number, rest) = digits(inside)?;
    let named = rest.strip_prefix('<').and_then(|name| name.split_once('>')).map(|(_, rest)| rest);
    let rest = named.unwrap_or(rest);
    let rest = if bracket { rest.strip_prefix(']')? } else { rest };
    // A number of its own, and none that is a time.
    let fits = number.parse::<u64>().is_ok_and(|number| number <= LARGEST_PID);
    (fits && (bracket || rest.is_empty() || rest.starts_with([' ', '\t'])))
        .then(|| Some((number.parse().ok()?, rest.trim_start())))?
}

/// The time, and what follows.
fn stamp(text: &str) -> Option<(Stamp, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    if word.is_empty() || !(rest.is_empty() || rest.starts_with([' ', '\t'])) {
        return None;
    }
    let stamp = if word.contains(':') {
        Stamp::OfDay { time: of_day(word)?, whole: !word.contains('.') }
    } else {
        // A small number without a fraction is somebody's pid, with the time missing.
        let time = Time::parse(word)?;
        (word.contains('.') || time.0 / 1_000_000_000 > LARGEST_PID).then_some(Stamp::Seconds(time))?
    };
    Some((stamp, rest.trim_start()))
}

fn of_day(word: &str) -> Option<Time> {
    let [hours, minutes, seconds] = word.split(':').collect::<Vec<_>>()[..] else { return None };
    let number = |text: &str| (text.len() == 2).then(|| text.parse::<u64>().ok()).flatten();
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let (hours, minutes, seconds) = (number(hours)?, number(minutes)?, number(seconds)?);
    let whole = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000_000;
    let fraction = Time::parse(&format!("0.{fraction}"))?;
    (hours < 24 && minutes < 60 && seconds <= 60).then_some(Time(whole + fraction.0))
}

/// With `-r` beside another time: `(+     0.000012) `.
fn behind_delta(text: &str) -> &str {
    let inside = text.strip_prefix("(+").and_then(|inside| inside.split_once(')'));
    match inside {
        Some((delta, rest)) if Time::parse(delta.trim()).is_some() => rest.trim_start(),
        _ => text,
    }
}

/// What `-i` and `-n` print: `[00007f1122334455]`, `[????????????????]`, `[   9]`.
fn behind_brackets(mut text: &str) -> &str {
    while let Some((inside, rest)) = text.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
        if !inside.chars().all(|c| c.is_ascii_hexdigit() || c == ' ' || c == '?') {
            break;
        }
        text = rest.trim_start();
    }
    text
}

fn body(text: &str) -> Body<'_> {
    let other = || Body::Other(text);
    if let Some(inside) = text.strip_prefix("+++ ") {
        let Some(inside) = inside.strip_suffix(" +++") else { return other() };
        if let Some(by) = inside.strip_prefix("superseded by execve in pid ") {
            let by = digits(by).and_then(|(by, _)| by.parse().ok());
            return by.map_or_else(other, |by| Body::Superseded { by });
        }
        let by = inside.strip_prefix("killed by ").and_then(|by| by.split(' ').next());
        return Body::Ended { by };
    }
    if let Some(inside) = text.strip_prefix("--- ") {
        let Some(inside) = inside.strip_suffix(" ---") else { return other() };
        let (name, details) = inside.split_once(' ').unwrap_or((inside, ""));
        return Body::Signal { name, details };
    }
    if let Some(inside) = text.strip_prefix("<... ") {
        let Some((name, tail)) = inside.split_once(" resumed>") else { return other() };
        // A name, or ??? for a call that strace does not know.
        return if name.contains(' ') { other() } else { Body::Resumed { name, tail } };
    }
    let mut rest = text;
    let Ok(name) = syntax::name(&mut rest) else { return other() };
    if !rest.starts_with('(') {
        return other();
    }
    if let Some(head) = text.strip_suffix("<unfinished ...>") {
        return Body::Unfinished { name, head: head.trim_end() };
    }
    if let Some(head) = text.strip_suffix("<detached ...>") {
        return Body::Detached { name, head: head.trim_end() };
    }
    Body::Call(text)
}

/// The number of the thread that a `clone` made, as printed: the whole call is not needed to tell who is whose child.
pub(crate) fn child_of(tail: &str) -> Option<u32> {
    let (_, result) = tail.rsplit_once(") = ").or_else(|| tail.rsplit_once('='))?;
    let (number, rest) = digits(result.trim())?;
    // Behind it may stand how long it took (`-T`), or the program's name (`-Y`).
    (rest.is_empty() || rest.starts_with([' ', '<'])).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line<'_> {
        match parse(text) {
            Parsed::Line(line) => line,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn the_thread_is_read_in_all_forms() {
        for text in [
            "12 1795335358.5 getpid() = 1",
            "12<a b> 1795335358.5 getpid() = 1",
            "[pid 12] 1795335358.5 getpid() = 1",
            "[pid    12] 1795335358.5 getpid() = 1",
            "[pid 12<postgres>] getpid() = 1",
            "12 getpid() = 1",
            "12    12:30:01 getpid() = 1",
        ] {
            assert_eq!((line(text).tid, line(text).body), (Some(12), Body::Call("getpid() = 1")), "{text}");
        }
        assert_eq!(line("1795335358.5 getpid() = 1").tid, None);
        assert_eq!(line("1795335358 getpid() = 1").tid, None, "no process has such a number");
    }

    #[test]
    fn the_time_is_read_in_all_forms() {
        let seconds = |nanos| Stamp::Seconds(Time(nanos));
        let day = |nanos, whole| Stamp::OfDay { time: Time(nanos), whole };
        for (text, expected) in [
            ("12 1795335358.5 getpid() = 1", seconds(1_795_335_358_500_000_000)),
            ("12 1795335358 getpid() = 1", seconds(1_795_335_358_000_000_000)),
            ("     0.000012 getpid() = 1", seconds(12_000)),
            ("12 00:01:02 getpid() = 1", day(62_000_000_000, true)),
            ("00:01:02.5 getpid() = 1", day(62_500_000_000, false)),
            ("00:01:02.5 (+     0.000012) getpid() = 1", day(62_500_000_000, false)),
            ("getpid() = 1", Stamp::None),
        ] {
            assert_eq!((line(text).stamp, line(text).body), (expected, Body::Call("getpid() = 1")), "{text}");
        }
        for text in ["25:00:00 x", "1:00:00 x", "12:60:00 x", "12:00 x"] {
            assert_eq!(line(text).stamp, Stamp::None, "{text}");
        }
    }

    #[test]
    fn addresses_and_numbers_of_calls_in_brackets_are_passed_over() {
        for text in
            ["[00007f1122334455] brk(0) = 0", "5.5 [  12] [00007f1122334455] brk(0) = 0", "[????] brk(0) = 0"]
        {
            assert_eq!(line(text).body, Body::Call("brk(0) = 0"), "{text}");
        }
        assert_eq!(line("5.5 [????????????????] +++ exited with 0 +++").body, Body::Ended { by: None });
    }

    #[test]
    fn every_kind_of_line_is_told_apart() {
        let body = |text| line(text).body;
        assert_eq!(body("1 5.5 brk(NULL) = 0x5"), Body::Call("brk(NULL) = 0x5"));
        assert_eq!(
            body("1 5.5 brk(NULL <unfinished ...>"),
            Body::Unfinished { name: "brk", head: "brk(NULL" }
        );
        assert_eq!(body("1 5.5 <... brk resumed>) = 0"), Body::Resumed { name: "brk", tail: ") = 0" });
        assert_eq!(body("1 5.5 +++ exited with 0 +++"), Body::Ended { by: None });
        assert_eq!(
            body("1 5.5 +++ killed by SIGSEGV (core dumped) +++"),
            Body::Ended { by: Some("SIGSEGV") }
        );
        assert_eq!(body("1 5.5 +++ superseded by execve in pid 7 +++"), Body::Superseded { by: 7 });
        assert_eq!(
            body("1 5.5 --- SIGCHLD {si_signo=SIGCHLD} ---"),
            Body::Signal { name: "SIGCHLD", details: "{si_signo=SIGCHLD}" }
        );
        assert_eq!(body("1 5.5 read(3,  <detached ...>"), Body::Detached { name: "read", head: "read(3," });
        for cut in ["+++ exited wi", "--- SIGCHLD {si", "<... brk resu", "mma", "hello (you)"] {
            let text = format!("12 5.5 {cut}");
            assert_eq!(line(&text).body, Body::Other(cut));
        }
    }

    #[test]
    fn what_strace_says_about_itself_is_passed_over() {
        for text in [
            "strace: Process 12 attached",
            "[pid 11] strace: Process 12 attached",
            "Process 12 detached",
            "[ Process PID=12 runs in 32 bit mode. ]",
            " > /lib/libc.so.6(mmap64+0x12) [0x3]",
            "",
        ] {
            assert_eq!(parse(text), Parsed::Nothing, "{text}");
        }
        let threads = parse("strace: Process 8000 attached with 3 threads");
        assert_eq!(threads, Parsed::Attached { pid: 8000, threads: 3 });
    }

    #[test]
    fn a_line_broken_by_an_announcement_is_whole_again_and_a_table_of_counts_left_out() {
        let text = "5.1 clone(flags=SIGCHLDstrace: Process 12 attached\n, tid=0) = 12\nstrace: Process 13 attached\n5.2 x\n\
            % time     seconds  usecs/call     calls    errors syscall\n------ -----\n100.00    0.0004  412  1  mmap\n5.3 y(0) = 0";
        let lines: Vec<(u32, String)> =
            lines(text).into_iter().map(|(number, line)| (number, line.into_owned())).collect();
        let expected = [
            (1, "5.1 clone(flags=SIGCHLD, tid=0) = 12"),
            (3, "strace: Process 13 attached"),
            (4, "5.2 x"),
            (8, "5.3 y(0) = 0"),
        ];
        assert_eq!(lines, expected.map(|(number, line)| (number, line.to_owned())));
    }

    #[test]
    fn the_child_of_a_clone_is_seen_behind_all_that_may_stand_there() {
        for text in [
            "fork() = 12",
            "clone(x) = 12 <0.000012>",
            "vfork()    = 12<sh>",
            "clone3({a=1} => {b=[12]}, 88) = 12",
        ] {
            assert_eq!(child_of(text), Some(12), "{text}");
        }
        assert_eq!(child_of("fork() = -1 EAGAIN (x)"), None);
    }
}
