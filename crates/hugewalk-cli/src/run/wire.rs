//! What the kernel says on its report channel; `docs/kernel.md` has the table.

/// The version of the table that this command reads.
pub(super) const VERSION: u32 = 1;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The kernel has its channel and speaks this version.
    Kernel(u32),
    /// The program made its first system call.
    User,
    /// A system call, in strace's form.
    Trace(String),
    /// The kernel cannot do what it was asked for.
    Refused(String),
    /// A fault in the kernel.
    Panic(String),
    /// A frame of its backtrace.
    At(String),
    /// Something was not given back.
    Leak(String),
    /// What a step that was left out has led to.
    Stale(String),
    /// How the program ended.
    Ended(Ended),
    /// A system call that the kernel lacks.
    Missing(u64, String),
    /// A counter.
    Count(String, u64),
    /// So many tables were shared by at most so many processes.
    Shared(u64, u64),
    /// The report is whole.
    End,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with a status.
    Exit(u8),
    /// A signal ended it.
    Signal(u8),
}

/// Reads a line; none if it is not one of the table.
pub(super) fn parse(line: &str) -> Option<Line> {
    let (key, value) = line.split_once(' ').unwrap_or((line, ""));
    let text = || value.to_owned();
    let two = || value.split_once(' ');
    Some(match key {
        "hugewalk-kernel" => Line::Kernel(value.parse().ok()?),
        "user" => Line::User,
        "trace" => Line::Trace(text()),
        "refused" => Line::Refused(text()),
        "panic" => Line::Panic(text()),
        "at" => Line::At(text()),
        "leak" => Line::Leak(text()),
        "stale" => Line::Stale(text()),
        "exit" => Line::Ended(Ended::Exit(value.parse().ok()?)),
        "signal" => Line::Ended(Ended::Signal(value.parse().ok()?)),
        "missing" => {
            let (count, name) = two()?;
            Line::Missing(count.parse().ok()?, name.to_owned())
        }
        "count" => {
            let (name, number) = two()?;
            Line::Count(name.to_owned(), number.parse().ok()?)
        }
        "shared" => {
            let (tables, users) = two()?;
            Line::Shared(tables.parse().ok()?, users.parse().ok()?)
        }
        "end" => Line::End,
        _ => return None,
    })
}

/// All that was heard of a run.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) version: Option<u32>,
    pub(super) user: bool,
    pub(super) refused: Option<String>,
    pub(super) panic: Option<String>,
    pub(super) frames: Vec<String>,
    pub(super) leaks: Vec<String>,
    pub(super) stale: Vec<String>,
    pub(super) ended: Option<Ended>,
    pub(super) missing: Vec<(String, u64)>,
    pub(super) counts: Vec<(String, u64)>,
    pub(super) shared: Vec<(u64, u64)>,
    pub(super) whole: bool,
    /// A line that is not of the table.
    pub(super) foreign: Option<String>,
}

impl Heard {
    /// Takes a line in; gives a line of the trace back.
    pub(super) fn take(&mut self, line: &str) -> Option<String> {
        match parse(line) {
            Some(Line::Trace(text)) => return Some(text),
            Some(Line::Kernel(version)) => self.version = Some(version),
            Some(Line::User) => self.user = true,
            Some(Line::Refused(text)) => self.refused = Some(text),
            // A panic while a panic is printed does not hide the first.
            Some(Line::Panic(text)) => drop(self.panic.get_or_insert(text)),
            Some(Line::At(text)) => self.frames.push(text),
            Some(Line::Leak(text)) => self.leaks.push(text),
            Some(Line::Stale(text)) => self.stale.push(text),
            Some(Line::Ended(ended)) => self.ended = Some(ended),
            Some(Line::Missing(count, name)) => self.missing.push((name, count)),
            Some(Line::Count(name, number)) => self.counts.push((name, number)),
            Some(Line::Shared(tables, users)) => self.shared.push((tables, users)),
            Some(Line::End) => self.whole = true,
            None => drop(self.foreign.get_or_insert_with(|| line.to_owned())),
        }
        None
    }

    /// A counter's value.
    pub(super) fn count(&self, name: &str) -> Option<u64> {
        self.counts.iter().find(|(known, _)| known == name).map(|&(_, number)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_understood_and_no_other() {
        let lines = [
            ("hugewalk-kernel 1", Line::Kernel(1)),
            ("user", Line::User),
            ("trace 1 0.000001 getpid() = 1", Line::Trace("1 0.000001 getpid() = 1".to_owned())),
            ("stale processor 1", Line::Stale("processor 1".to_owned())),
            ("exit 3", Line::Ended(Ended::Exit(3))),
            ("signal 11", Line::Ended(Ended::Signal(11))),
            ("missing 2 ioctl 0x5401", Line::Missing(2, "ioctl 0x5401".to_owned())),
            ("count flushes 7", Line::Count("flushes".to_owned(), 7)),
            ("shared 1 4", Line::Shared(1, 4)),
            ("end", Line::End),
        ];
        for (text, line) in lines {
            assert_eq!(parse(text), Some(line), "{text}");
        }
        for odd in ["", "exit", "exit 300", "count x", "shared 1", "hello world"] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    /// The page and the reader name the same keys.
    #[test]
    fn the_documentation_lists_what_is_read() {
        let page = include_str!("../../../../docs/kernel.md");
        let table = page.split("| line | meaning |").nth(1).expect("the table of lines");
        let table = table.split("\n\n").next().expect("its end");
        let rows: Vec<&str> = table.lines().filter_map(|row| row.strip_prefix("| `")).collect();
        assert!(rows.len() >= 12);
        for row in rows {
            let form = row.split('`').next().expect("a form");
            let line = form.replace("TEXT", "x").replace("COUNT", "1").replace("USERS", "1");
            let line = line.replace("NAME", "x").replace(" N", " 1");
            assert!(parse(&line).is_some(), "{form}");
        }
    }
}
