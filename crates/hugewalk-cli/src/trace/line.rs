//! One line of strace: whose it is, when, and which of the six things that strace prints.

use std::borrow::Cow;

use winnow::ascii::{dec_uint, multispace0, multispace1};
use winnow::combinator::{alt, delimited, opt, terminated};
use winnow::prelude::*;

use super::error::Problem;
use super::syntax;
use super::time::Time;

/// A line, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// The thread; none where strace followed only one and did not say.
    pub(crate) tid: Option<u32>,
    pub(crate) time: Time,
    pub(crate) body: Body<'a>,
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// A call from its name to its result.
    Call(&'a str),
    /// The first part of a call, up to `<unfinished ...>`.
    Unfinished { name: &'a str, head: &'a str },
    /// The second part, from behind `resumed>`.
    Resumed { name: &'a str, tail: &'a str },
    /// `+++ exited` or `+++ killed`.
    Ended,
    /// The thread is gone, because another of its process calls execve and goes on under its number.
    Superseded { by: u32 },
    /// A call during which strace let go of the thread: how it went on is not known.
    Detached,
    /// A signal: it changes no mapping.
    Signal,
}

/// The lines of a recording with their numbers. Without `-o`, strace may announce a new process in the middle of a line,
/// and break that line there: the announcement is taken out, and the line is whole again under its first number.
pub(crate) fn lines(text: &str) -> Vec<(u32, Cow<'_, str>)> {
    let mut whole = Vec::new();
    let mut broken: Option<(u32, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let (number, line) = match broken.take() {
            Some((first, head)) => (first, Cow::Owned(head + line)),
            None => (number, Cow::Borrowed(line)),
        };
        match line.rsplit_once("strace: Process ") {
            Some((head, rest)) if rest.ends_with(" attached") && head.contains('(') => {
                broken = Some((number, head.to_owned()));
            }
            _ => whole.push((number, line)),
        }
    }
    whole.extend(broken.map(|(number, head)| (number, Cow::Owned(head))));
    whole
}

/// Reads a line; none for one that strace prints about itself.
pub(crate) fn parse(text: &str) -> Result<Option<Line<'_>>, Problem> {
    let text = text.trim_end();
    let mut input = text;
    let tid = winnow::Result::ok(opt(terminated(tid, multispace0)).parse_next(&mut input)).flatten();
    if text.is_empty() || input.starts_with("strace: ") {
        return Ok(None);
    }
    let time = terminated(moment, multispace1)
        .parse_next(&mut input)
        .map_err(|_| Problem::NoTime(input.to_owned()))?;
    Ok(Some(Line { tid, time, body: body(input)? }))
}

/// `[pid 12]`, or a number that is not itself the time.
fn tid(input: &mut &str) -> winnow::Result<u32> {
    let plain = terminated(
        dec_uint::<_, u32, _>,
        (multispace1, winnow::combinator::peek(alt((moment.void(), "strace: ".void())))),
    );
    alt((delimited(("[pid", multispace1), dec_uint, ']'), plain)).parse_next(input)
}

/// A time with a fraction, as `-ttt` prints it: a number without one is somebody's pid, with the time missing.
fn moment(input: &mut &str) -> winnow::Result<Time> {
    winnow::combinator::peek(Time::parser.take())
        .verify(|text: &str| text.contains('.'))
        .parse_next(input)?;
    Time::parser(input)
}

fn body(text: &str) -> Result<Body<'_>, Problem> {
    let whole = |prefix: &str, suffix: &str| {
        if text.ends_with(suffix) && text.len() >= prefix.len() + suffix.len() {
            Ok(())
        } else {
            Err(Problem::CutOff(text.to_owned()))
        }
    };
    if text.starts_with("+++ ") {
        whole("+++ ", " +++")?;
        let mut by = delimited::<_, _, u32, _, winnow::error::ContextError, _, _, _>(
            "+++ superseded by execve in pid ",
            dec_uint,
            " +++",
        );
        return Ok(by.parse(text).map_or(Body::Ended, |by| Body::Superseded { by }));
    }
    if text.starts_with("--- ") {
        return whole("--- ", " ---").map(|()| Body::Signal);
    }
    if let Some(inside) = text.strip_prefix("<... ") {
        let mut input = inside;
        return terminated(syntax::name, " resumed>")
            .parse_next(&mut input)
            .map(|name| Body::Resumed { name, tail: input })
            .map_err(|_| Problem::CutOff(text.to_owned()));
    }
    let mut input = text;
    let name = terminated(syntax::name, '(')
        .parse_next(&mut input)
        .map_err(|_| Problem::NotStrace(text.to_owned()))?;
    if let Some(head) = text.strip_suffix("<unfinished ...>") {
        return Ok(Body::Unfinished { name, head: head.trim_end() });
    }
    if text.ends_with("<detached ...>") {
        return Ok(Body::Detached);
    }
    Ok(Body::Call(text))
}

/// The number of the thread that a `clone` made, as printed: the whole call is not needed to tell who is whose child.
pub(crate) fn child_of(tail: &str) -> Option<u32> {
    tail.rsplit_once('=')?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line<'_> {
        parse(text).expect("a line").expect("not about strace itself")
    }

    #[test]
    fn the_thread_is_read_in_all_three_forms() {
        assert_eq!(line("12 1795335358.5 getpid() = 1").tid, Some(12));
        assert_eq!(line("[pid 12] 1795335358.5 getpid() = 1").tid, Some(12));
        assert_eq!(line("[pid    12] 1795335358.5 getpid() = 1").tid, Some(12));
        assert_eq!(line("1795335358.5 getpid() = 1").tid, None);
        assert_eq!(line("1795335358.5 getpid() = 1").time, Time(1_795_335_358_500_000_000));
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
        assert_eq!(body("1 5.5 +++ exited with 0 +++"), Body::Ended);
        assert_eq!(body("1 5.5 +++ killed by SIGSEGV (core dumped) +++"), Body::Ended);
        assert_eq!(body("1 5.5 +++ superseded by execve in pid 7 +++"), Body::Superseded { by: 7 });
        assert_eq!(body("1 5.5 --- SIGCHLD {si_signo=SIGCHLD} ---"), Body::Signal);
        assert_eq!(body("1 5.5 read(3,  <detached ...>"), Body::Detached);
    }

    #[test]
    fn what_strace_says_about_itself_is_passed_over() {
        assert_eq!(parse("strace: Process 12 attached").expect("fine"), None);
        assert_eq!(parse("[pid 11] strace: Process 12 attached").expect("fine"), None);
        assert_eq!(parse("").expect("fine"), None);
    }

    #[test]
    fn a_line_broken_by_an_announcement_is_whole_again() {
        let text = "5.1 clone(flags=SIGCHLDstrace: Process 12 attached\n, tid=0) = 12\nstrace: Process 13 attached\n5.2 x";
        let lines: Vec<(u32, String)> =
            lines(text).into_iter().map(|(number, line)| (number, line.into_owned())).collect();
        let expected =
            [(1, "5.1 clone(flags=SIGCHLD, tid=0) = 12"), (3, "strace: Process 13 attached"), (4, "5.2 x")];
        assert_eq!(lines, expected.map(|(number, line)| (number, line.to_owned())));
    }

    #[test]
    fn other_clocks_and_cut_lines_are_refused() {
        assert!(matches!(parse("12 12:30:01.5 brk(NULL) = 0"), Err(Problem::NoTime(_))));
        assert!(matches!(parse("12 brk(NULL) = 0"), Err(Problem::NoTime(_))));
        assert!(matches!(parse("12 5.5 +++ exited wi"), Err(Problem::CutOff(_))));
        assert!(matches!(parse("12 5.5 --- SIGCHLD {si"), Err(Problem::CutOff(_))));
        assert!(matches!(parse("12 5.5 <... brk resu"), Err(Problem::CutOff(_))));
        assert!(matches!(parse("12 5.5 mma"), Err(Problem::NotStrace(_))));
    }
}
