//! Which lines of a file are strace's: what a program wrote in between is left out, and so is a last line that was cut
//! off; what is damaged in any other place is an error.

use std::path::Path;

use super::clock::{self, Clock};
use super::decode;
use super::error::{Excerpt, Problem, TraceError};
use super::line::{self, Body, Line, Parsed, Stamp};
use super::syntax::RawCall;
use super::time::Time;

/// A line that strace printed.
#[derive(Debug)]
pub(super) struct Sifted<'a> {
    pub(super) number: u32,
    pub(super) time: Time,
    pub(super) tid: Option<u32>,
    pub(super) body: Body<'a>,
    /// The call as it was before something else was printed in the middle of it.
    pub(super) mended: Option<String>,
}

/// The lines of strace, and what else is known.
#[derive(Debug, Default)]
pub(super) struct Sieve<'a> {
    pub(super) lines: Vec<Sifted<'a>>,
    pub(super) clock: Clock,
    /// Processes that strace joined, and how many threads each had.
    pub(super) attached: Vec<(u32, u32)>,
    pub(super) notes: Vec<String>,
}

/// Parts the lines of strace from the others.
pub(super) fn sift<'a>(
    file: &Path,
    text: &str,
    texts: &'a [(u32, std::borrow::Cow<'a, str>)],
) -> Result<Sieve<'a>, TraceError> {
    let mut sieve = Sieve::default();
    let mut lines: Vec<(u32, Line<'a>)> = Vec::with_capacity(texts.len());
    for (number, text) in texts {
        match line::parse(text) {
            Parsed::Line(line) => lines.push((*number, line)),
            Parsed::Attached { pid, threads } => sieve.attached.push((pid, threads)),
            Parsed::Nothing => {}
        }
    }
    let is_own = |(_, line): &&(u32, Line<'_>)| !matches!(line.body, Body::Other(_));
    if !lines.iter().any(|line| is_own(&line)) {
        return Err(nothing_here(file, text, &lines));
    }
    let shape = clock::shape(&lines);
    // Without times a number alone does not make a line strace's.
    let numbered = lines.iter().filter(is_own).filter(|(_, line)| line.tid.is_some()).count();
    let headed = shape != Stamp::None || 2 * numbered > lines.len();
    let mut mesh =
        Mesh { shape, headed, kept: Vec::with_capacity(lines.len()), mended: Vec::new(), foreign: None };
    let last = lines.len() - 1;
    let mut cut = None;
    for (place, (number, line)) in lines.into_iter().enumerate() {
        if place == last && mesh.is_cut(&line, text.ends_with('\n')) {
            let (Body::Other(text) | Body::Call(text)) = line.body else { break };
            cut = Some((number, text));
            break;
        }
        mesh.take(number, line).map_err(|problem| TraceError::at(file, number, problem))?;
    }
    if let (true, Some((number, text))) = (mesh.kept.is_empty(), cut) {
        return Err(TraceError::at(file, number, Problem::CutOff(text.to_owned())));
    }
    if let Some((count, first, example)) = mesh.foreign {
        let example = Excerpt(&example);
        let which = match count {
            1 => format!("Line {first} of the file is not strace's and was left out: {example}."),
            _ => format!(
                "{count} lines of the file are not strace's and were left out; the first is line {first}, {example}."
            ),
        };
        sieve.notes.push(format!("{which} To keep what the program prints apart, record with -o FILE."));
    }
    if let Some((number, _)) = cut {
        sieve.notes.push(format!(
            "The last line ({number}) is cut off and was left out: what happened from then on is not known."
        ));
    }
    let (clock, times) = clock::moments(&mesh.kept);
    let mut mended = mesh.mended.into_iter().peekable();
    sieve.clock = clock;
    let sifted = mesh.kept.into_iter().zip(times).enumerate().map(|(place, ((number, line), time))| Sifted {
        number,
        time,
        tid: line.tid,
        body: line.body,
        mended: mended.next_if(|(at, _)| *at == place).map(|(_, text)| text),
    });
    sieve.lines = sifted.collect();
    Ok(sieve)
}

/// A file in which strace printed no line.
fn nothing_here(file: &Path, text: &str, lines: &[(u32, Line<'_>)]) -> TraceError {
    match lines.first() {
        Some((number, line)) => {
            let Body::Other(other) = line.body else { return TraceError::in_file(file, Problem::Empty) };
            let problem = if looks_cut(other) { Problem::CutOff } else { Problem::NotStrace };
            TraceError::at(file, *number, problem(other.to_owned()))
        }
        None if text.contains("% time ") => TraceError::in_file(file, Problem::OnlyCounts),
        None => TraceError::in_file(file, Problem::Empty),
    }
}

/// Whether it is the beginning of something that strace prints.
fn looks_cut(text: &str) -> bool {
    text.starts_with("+++ ") || text.starts_with("--- ") || text.starts_with("<... ")
}

struct Mesh<'a> {
    shape: Stamp,
    /// Whether the lines of strace can be told by how they begin.
    headed: bool,
    kept: Vec<(u32, Line<'a>)>,
    /// Calls that were put together again, by their place among those kept.
    mended: Vec<(usize, String)>,
    /// How many lines are not strace's, and the first of them.
    foreign: Option<(u64, u32, String)>,
}

impl<'a> Mesh<'a> {
    fn take(&mut self, number: u32, line: Line<'a>) -> Result<(), Problem> {
        let like = line.stamp.is_like(self.shape);
        match line.body {
            Body::Other(text) if text.starts_with(')') && self.mend(text) => Ok(()),
            Body::Other(text) => {
                if let Some(line) = self.behind_output(text) {
                    self.kept.push((number, line));
                } else if like && self.headed && (line.tid.is_some() || self.shape != Stamp::None) {
                    // It begins as the others do, so it is strace's, and something is wrong with it.
                    let problem = if looks_cut(text) { Problem::CutOff } else { Problem::NotStrace };
                    if looks_cut(text) || !text.contains(' ') {
                        return Err(problem(text.to_owned()));
                    }
                    self.foreign(number, text);
                } else {
                    self.foreign(number, text);
                }
                Ok(())
            }
            Body::Call(text) if !like && line.tid.is_some() => Err(Problem::NoTime(text.to_owned())),
            Body::Call(text) if !like => {
                self.foreign(number, text);
                Ok(())
            }
            Body::Call(text) if self.shape == Stamp::None && line.tid.is_none() => {
                // Without a head that would show where it begins, output may stand right before the call.
                let body = performed_behind(text).map_or(line.body, Body::Call);
                self.kept.push((number, Line { body, ..line }));
                Ok(())
            }
            _ => {
                self.kept.push((number, line));
                Ok(())
            }
        }
    }

    fn foreign(&mut self, number: u32, text: &str) {
        let (count, ..) = self.foreign.get_or_insert_with(|| (0, number, text.to_owned()));
        *count += 1;
    }

    /// `text` is the end of the last call, behind which a program wrote something. Puts the two together.
    fn mend(&mut self, text: &str) -> bool {
        let place = self.kept.len().wrapping_sub(1);
        let Some((_, Line { body: Body::Call(head), .. })) = self.kept.last() else { return false };
        let is_whole = |text: &str| RawCall::parse(text).is_some_and(|raw| !raw.result.is_empty());
        if is_whole(head) {
            return false;
        }
        // What was written stands behind the last argument, and cannot be told from it but by its value.
        let mended = format!("{head}{text}");
        if is_whole(&mended) {
            self.mended.push((place, mended));
        } else {
            // The arguments cannot be read, but the call is over.
            let name = head.split('(').next().unwrap_or_default();
            self.mended.push((place, format!("{name}(?{text}")));
        }
        true
    }

    /// A line of strace that stands behind output without an end of line.
    fn behind_output(&self, text: &'a str) -> Option<Line<'a>> {
        const FARTHEST: usize = 4096;
        if self.shape == Stamp::None {
            return performed_behind(text).map(|call| Line {
                tid: None,
                stamp: Stamp::None,
                body: Body::Call(call),
            });
        }
        let begins = |(place, c): &(usize, char)| *place > 0 && (*c == '[' || c.is_ascii_digit());
        text.char_indices().take(FARTHEST).filter(begins).find_map(|(place, _)| {
            match line::parse(&text[place..]) {
                Parsed::Line(line)
                    if line.stamp.is_like(self.shape) && !matches!(line.body, Body::Other(_)) =>
                {
                    Some(line)
                }
                _ => None,
            }
        })
    }

    /// Whether the last line lacks its end. Where the file does not end with its line, a number at the end may be only
    /// the beginning of one.
    fn is_cut(&self, line: &Line<'_>, ends_with_line: bool) -> bool {
        match line.body {
            Body::Other(text) if self.behind_output(text).is_some() => false,
            // Where nothing shows whose the line is, only a word can be the beginning of a call.
            Body::Other(text) => {
                let like = line.stamp.is_like(self.shape) && (self.headed || !text.contains(' '));
                like && !text.starts_with(')') || looks_cut(text)
            }
            Body::Call(text) => match RawCall::parse(text).filter(|raw| !raw.result.is_empty()) {
                None => true,
                Some(_) if ends_with_line => false,
                Some(raw) => {
                    let gives_number = matches!(
                        raw.name,
                        "mmap"
                            | "mmap2"
                            | "mremap"
                            | "shmat"
                            | "shmget"
                            | "clone"
                            | "clone3"
                            | "fork"
                            | "vfork"
                            | "open"
                            | "openat"
                            | "openat2"
                            | "creat"
                            | "memfd_create"
                            | "userfaultfd"
                    );
                    let is_bare = raw.result.chars().all(|c| c.is_ascii_alphanumeric());
                    raw.result.starts_with("-1") && !raw.result.contains(')') || gives_number && is_bare
                }
            },
            _ => false,
        }
    }
}

/// The call at the end of `text`, if it is one of memory that a program's output stands right before.
fn performed_behind(text: &str) -> Option<&str> {
    const CALLS: [&str; 12] = [
        "munmap",
        "mmap",
        "mprotect",
        "mremap",
        "madvise",
        "shmat",
        "shmdt",
        "ftruncate",
        "fallocate",
        "memfd_create",
        "openat",
        "clone",
    ];
    let name = text.split('(').next().unwrap_or_default();
    if decode::is_known(name) {
        return None;
    }
    let call = CALLS.iter().find(|call| name.ends_with(**call))?;
    let found = &text[name.len() - call.len()..];
    RawCall::parse(found).is_some_and(|raw| !raw.result.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sifted(text: &str) -> Result<(Vec<(u32, String)>, Vec<String>), String> {
        let texts = line::lines(text);
        let sieve = sift(Path::new("t"), text, &texts).map_err(|error| error.to_string())?;
        let text = |line: &Sifted<'_>| match (&line.mended, &line.body) {
            (Some(mended), _) => mended.clone(),
            (None, Body::Call(text)) => (*text).to_owned(),
            (None, other) => format!("{other:?}"),
        };
        Ok((sieve.lines.iter().map(|line| (line.number, text(line))).collect(), sieve.notes))
    }

    #[test]
    fn what_a_program_prints_in_between_is_left_out() {
        let (lines, notes) = sifted(
            "Hello, world\nwrite(1, \"a\\n\", 2a\n)   = 2\nmunmap(0x1000, 4096) = 0\n12 monkeys\n\
             x> munmap(0x2000, 4096) = 0\n",
        )
        .expect("good");
        let expected = [
            (2, "write(1, \"a\\n\", 2a)   = 2"),
            (4, "munmap(0x1000, 4096) = 0"),
            (6, "munmap(0x2000, 4096) = 0"),
        ];
        assert_eq!(lines, expected.map(|(number, text)| (number, text.to_owned())));
        assert!(notes[0].starts_with("2 lines of the file are not strace's"), "{notes:?}");
        let (lines, _) =
            sifted("1795340000.5 brk(0) = 0\nhello[pid 7] 1795340000.6 munmap(0x1000, 4096) = 0\n")
                .expect("good");
        assert_eq!(lines[1], (2, "munmap(0x1000, 4096) = 0".to_owned()));
    }

    #[test]
    fn a_last_line_that_is_cut_off_is_left_out() {
        let first = "7 5.1 munmap(0x1000, 4096) = 0\n";
        for cut in [
            "7 5.2 mun",
            "7 5.2 munmap(0x1000, 40",
            "7 5.2 munmap(0x1000, 4096) = ",
            "7 5.2 munmap(0x1000, 4096) = -1",
            "7 5.2 munmap(0x1000, 4096) = -1 EINVAL (Inv",
            "7 5.2 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, -1, 0) = 0x7f",
            "7 5.2 +++ exited wi",
            "7 5.2",
        ] {
            let (lines, notes) = sifted(&format!("{first}{cut}")).expect(cut);
            assert_eq!(lines.len(), 1, "{cut}: {lines:?}");
            assert!(notes[0].starts_with("The last line (2) is cut off"), "{notes:?}");
        }
        for whole in ["7 5.2 munmap(0x1000, 4096) = 0", "7 5.2 exit(0) = ?", "7 5.2 +++ exited with 0 +++"] {
            assert_eq!(sifted(&format!("{first}{whole}")).map(|(lines, _)| lines.len()), Ok(2), "{whole}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_an_error() {
        let last = "7 5.3 brk(0) = 0\n";
        for (bad, what) in
            [("7 5.2 mma", "not a line"), ("7 5.2 +++ exited wi", "cut off"), ("7 brk(0) = 0", "no time at")]
        {
            let problem = sifted(&format!("7 5.1 brk(0) = 0\n{bad}\n{last}")).expect_err(bad);
            assert!(problem.starts_with("t:2: ") && problem.contains(what), "{problem}");
        }
        assert!(
            sifted("% time     seconds\n------ ---\n")
                .expect_err("no calls")
                .contains("counts of calls only")
        );
    }
}
