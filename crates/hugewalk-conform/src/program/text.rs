//! Programs as text: steps separated by semicolons, words separated by blanks.
//!
//! ```text
//! pool 8; open f0 memory; truncate f0 4p; p0 map f0+0 at=1g length=4p rights=rw shared fixed; p0 store 1g+2p 7
//! ```

use std::fmt;
use std::str::{FromStr, SplitWhitespace};

use thiserror::Error;

use super::{Advice, Bytes, Call, FILES, FileKind, GIB, MOUNTS, Map, MapFlags, PAGE, PROCESSES, Program};
use super::{Handling, Rights, Step, To};

/// What is wrong with the text of a program.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("step {step}: {what}")]
pub struct SyntaxError {
    /// The number of the step, from 1 on.
    pub step: usize,
    /// What is wrong with it.
    pub what: String,
}

impl FromStr for Program {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        let steps = text.split(';').enumerate().filter(|(_, step)| !step.trim().is_empty());
        let parsed = steps
            .map(|(number, step)| parse_step(step).map_err(|what| SyntaxError { step: number + 1, what }));
        Ok(Self { steps: parsed.collect::<Result<_, _>>()? })
    }
}

/// The words of a step that are left.
struct Words<'t>(SplitWhitespace<'t>);

impl<'t> Words<'t> {
    fn next(&mut self, what: &str) -> Result<&'t str, String> {
        self.0.next().ok_or_else(|| format!("{what} is missing"))
    }

    fn number(&mut self, what: &str) -> Result<u64, String> {
        number(self.next(what)?, what)
    }

    fn byte(&mut self) -> Result<u8, String> {
        let value = self.number("the byte")?;
        u8::try_from(value).map_err(|_| format!("{value} is no byte"))
    }

    fn bytes(&mut self, what: &str) -> Result<Bytes, String> {
        self.next(what)?.parse()
    }

    fn index(&mut self, letter: char, most: usize) -> Result<usize, String> {
        index(self.next("a name")?, letter, most)
    }

    fn end(mut self) -> Result<(), String> {
        self.0.next().map_or(Ok(()), |word| Err(format!("{word}: nothing more is expected here")))
    }
}

fn number(text: &str, what: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text}: {what} has to be a number"))
}

/// The number of a process, file or mount: `p0`, `f2`, `m1`.
fn index(text: &str, letter: char, most: usize) -> Result<usize, String> {
    let number = text.strip_prefix(letter).and_then(|number| number.parse().ok());
    number
        .filter(|&number| number < most)
        .ok_or_else(|| format!("{text}: one of {letter}0 to {letter}{} is expected", most - 1))
}

fn parse_step(text: &str) -> Result<Step, String> {
    let mut words = Words(text.split_whitespace());
    let verb = words.next("a step")?;
    let step = match verb {
        "pool" => Step::Pool { pages: words.number("the size")? },
        "overcommit" => Step::Overcommit { pages: words.number("the limit")? },
        "mount" => parse_mount(&mut words)?,
        "unmount" => Step::Unmount { mount: words.index('m', MOUNTS)? },
        "open" => {
            let file = words.index('f', FILES)?;
            let kind = match words.next("what kind of file")? {
                "memory" => FileKind::Memory,
                word if word.starts_with("segment=") => {
                    let length = word.trim_start_matches("segment=").parse()?;
                    let reserve = match words.0.next() {
                        None => true,
                        Some("noreserve") => false,
                        Some(word) => return Err(format!("{word}: only `noreserve` is known")),
                    };
                    FileKind::Segment { length, reserve }
                }
                on => FileKind::On { mount: index(on, 'm', MOUNTS)? },
            };
            Step::Open { file, kind }
        }
        "close" => Step::Close { file: words.index('f', FILES)? },
        "truncate" => Step::Truncate { file: words.index('f', FILES)?, size: words.bytes("the size")? },
        "allocate" => {
            let file = words.index('f', FILES)?;
            let (from, length) = (words.bytes("the offset")?, words.bytes("the length")?);
            let keep = match words.0.next() {
                None => false,
                Some("keep") => true,
                Some(word) => return Err(format!("{word}: only `keep` is known")),
            };
            Step::Allocate { file, from, length, keep }
        }
        "punch" => Step::Punch {
            file: words.index('f', FILES)?,
            from: words.bytes("the offset")?,
            length: words.bytes("the length")?,
        },
        "read" => Step::Read {
            file: words.index('f', FILES)?,
            from: words.bytes("the offset")?,
            length: words.number("the length")?,
        },
        "write" => {
            Step::Write { file: words.index('f', FILES)?, at: words.bytes("where")?, value: words.byte()? }
        }
        process if process.starts_with('p') => {
            Step::In { process: index(process, 'p', PROCESSES)?, call: parse_call(&mut words)? }
        }
        _ => return Err(format!("{verb}: no such step")),
    };
    words.end()?;
    Ok(step)
}

fn parse_mount(words: &mut Words<'_>) -> Result<Step, String> {
    let mount = words.index('m', MOUNTS)?;
    let (mut size, mut min) = (None, None);
    for word in words.0.by_ref() {
        match word.split_once('=') {
            Some(("size", pages)) => size = Some(number(pages, "size")?),
            Some(("min", pages)) => min = Some(number(pages, "min")?),
            _ => return Err(format!("{word}: size=PAGES or min=PAGES is expected")),
        }
    }
    Ok(Step::Mount { mount, size, min })
}

fn parse_call(words: &mut Words<'_>) -> Result<Call, String> {
    let verb = words.next("what the process does")?;
    let range = |words: &mut Words<'_>| Ok::<_, String>((words.bytes("where")?, words.bytes("the length")?));
    Ok(match verb {
        "map" => Call::Map(parse_map(words)?),
        "attach" => {
            let (file, at) = (words.index('f', FILES)?, words.bytes("where")?);
            let replace = match words.0.next() {
                None => false,
                Some("replace") => true,
                Some(word) => return Err(format!("{word}: only `replace` is known")),
            };
            Call::Attach { file, at, replace }
        }
        "detach" => Call::Detach { at: words.bytes("where")? },
        "unmap" => {
            let (at, length) = range(words)?;
            Call::Unmap { at, length }
        }
        "protect" => {
            let (at, length) = range(words)?;
            Call::Protect { at, length, rights: words.next("the rights")?.parse()? }
        }
        "remap" => {
            let (at, length) = range(words)?;
            let kept = words.bytes("the new length")?;
            let to = match words.0.next() {
                None => To::InPlace,
                Some("anywhere") => To::Anywhere,
                Some(word) => match word.strip_prefix("to=") {
                    Some(to) => To::Fixed(to.parse()?),
                    None => return Err(format!("{word}: `anywhere` or to=PLACE is expected")),
                },
            };
            Call::Remap { at, length, kept, to }
        }
        "advise" => {
            let (at, length) = range(words)?;
            let word = words.next("the advice")?;
            let known = ADVICE.into_iter().find(|(name, _)| *name == word);
            let (_, advice) = known.ok_or_else(|| format!("{word}: no such advice"))?;
            Call::Advise { at, length, advice }
        }
        "fork" => Call::Fork { child: words.index('p', PROCESSES)? },
        "exit" => Call::Exit,
        "load" => Call::Load { at: words.bytes("where")? },
        "store" => Call::Store { at: words.bytes("where")?, value: words.byte()? },
        "sweep" => {
            let (at, length) = range(words)?;
            Call::Sweep { at, length }
        }
        "peek" => Call::Peek {
            of: words.index('p', PROCESSES)?,
            at: words.bytes("where")?,
            length: words.number("the length")?,
        },
        "poke" => Call::Poke {
            of: words.index('p', PROCESSES)?,
            at: words.bytes("where")?,
            length: words.number("the length")?,
            value: words.byte()?,
        },
        "mincore" => {
            let (at, length) = range(words)?;
            Call::Mincore { at, length }
        }
        "nodes" => {
            let (at, length) = range(words)?;
            let moved = match words.0.next() {
                None => false,
                Some("moved") => true,
                Some(word) => return Err(format!("{word}: only `moved` is known")),
            };
            Call::Nodes { at, length, moved }
        }
        "uffd" => Call::Userfault(Handling::parse(|what| words.next(what))?),
        _ => return Err(format!("{verb}: no process does that")),
    })
}

const ADVICE: [(&str, Advice); 8] = [
    ("dontneed", Advice::DontNeed),
    ("remove", Advice::Remove),
    ("populate-read", Advice::PopulateRead),
    ("populate-write", Advice::PopulateWrite),
    ("dontdump", Advice::DontDump),
    ("dodump", Advice::DoDump),
    ("dontfork", Advice::DontFork),
    ("dofork", Advice::DoFork),
];

const MAP_FLAGS: [(&str, MapFlags); 6] = [
    ("shared", MapFlags::SHARED),
    ("fixed", MapFlags::FIXED),
    ("noreplace", MapFlags::NO_REPLACE),
    ("noreserve", MapFlags::NO_RESERVE),
    ("populate", MapFlags::POPULATE),
    ("locked", MapFlags::LOCKED),
];

const RIGHTS: [(char, Rights); 3] = [('r', Rights::READ), ('w', Rights::WRITE), ('x', Rights::EXECUTE)];

fn parse_map(words: &mut Words<'_>) -> Result<Map, String> {
    let file = match words.next("what is mapped")? {
        "fresh" => None,
        word => {
            let (file, offset) = word.split_once('+').unwrap_or((word, "0"));
            Some((index(file, 'f', FILES)?, offset.parse()?))
        }
    };
    let mut map =
        Map { file, at: Bytes(0), length: Bytes(0), rights: Rights::empty(), flags: MapFlags::empty() };
    for word in words.0.by_ref() {
        match word.split_once('=') {
            Some(("at", at)) => map.at = at.parse()?,
            Some(("length", length)) => map.length = length.parse()?,
            Some(("rights", rights)) => map.rights = rights.parse()?,
            _ => {
                let known = MAP_FLAGS.into_iter().find(|(name, _)| *name == word);
                map.flags |= known.ok_or_else(|| format!("{word}: no such way to map"))?.1;
            }
        }
    }
    Ok(map)
}

impl FromStr for Bytes {
    type Err = String;

    /// A sum of GiB, huge pages and bytes: `1g+3p+4096`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: a number of bytes is expected, such as 1g+3p+4096");
        let term = |term: &str| {
            let (digits, unit) = match term.strip_suffix('g') {
                Some(digits) => (digits, GIB),
                None => term.strip_suffix('p').map_or((term, 1), |digits| (digits, PAGE)),
            };
            digits.parse::<u64>().ok()?.checked_mul(unit)
        };
        let add = |sum: u64, text| sum.checked_add(term(text)?);
        text.split('+').try_fold(0, add).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.0 / GIB, "g"), (self.0 % GIB / PAGE, "p"), (self.0 % PAGE, "")];
        let mut plus = "";
        for (number, unit) in parts.into_iter().filter(|(number, _)| *number > 0) {
            write!(f, "{plus}{number}{unit}")?;
            plus = "+";
        }
        if plus.is_empty() { f.write_str("0") } else { Ok(()) }
    }
}

impl FromStr for Rights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::empty());
        }
        let right = |letter| RIGHTS.into_iter().find(|(name, _)| *name == letter).map(|(_, right)| right);
        text.chars()
            .map(right)
            .collect::<Option<Self>>()
            .ok_or_else(|| format!("{text}: rights are letters of rwx, or `none`"))
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        RIGHTS.iter().filter(|(_, right)| self.contains(*right)).try_for_each(|(name, _)| write!(f, "{name}"))
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ADVICE.iter().find(|(_, advice)| advice == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file {
            Some((file, offset)) => write!(f, "map f{file}+{offset}")?,
            None => f.write_str("map fresh")?,
        }
        write!(f, " at={} length={} rights={}", self.at, self.length, self.rights)?;
        let has = |(_, flag): &&(&str, MapFlags)| self.flags.contains(*flag);
        MAP_FLAGS.iter().filter(has).try_for_each(|(name, _)| write!(f, " {name}"))
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(map) => write!(f, "{map}"),
            Self::Attach { file, at, replace } => {
                write!(f, "attach f{file} {at}{}", if *replace { " replace" } else { "" })
            }
            Self::Detach { at } => write!(f, "detach {at}"),
            Self::Unmap { at, length } => write!(f, "unmap {at} {length}"),
            Self::Protect { at, length, rights } => write!(f, "protect {at} {length} {rights}"),
            Self::Remap { at, length, kept, to } => {
                write!(f, "remap {at} {length} {kept}")?;
                match to {
                    To::InPlace => Ok(()),
                    To::Anywhere => f.write_str(" anywhere"),
                    To::Fixed(to) => write!(f, " to={to}"),
                }
            }
            Self::Advise { at, length, advice } => write!(f, "advise {at} {length} {advice}"),
            Self::Fork { child } => write!(f, "fork p{child}"),
            Self::Exit => f.write_str("exit"),
            Self::Load { at } => write!(f, "load {at}"),
            Self::Store { at, value } => write!(f, "store {at} {value}"),
            Self::Sweep { at, length } => write!(f, "sweep {at} {length}"),
            Self::Peek { of, at, length } => write!(f, "peek p{of} {at} {length}"),
            Self::Poke { of, at, length, value } => write!(f, "poke p{of} {at} {length} {value}"),
            Self::Mincore { at, length } => write!(f, "mincore {at} {length}"),
            Self::Nodes { at, length, moved } => {
                write!(f, "nodes {at} {length}{}", if *moved { " moved" } else { "" })
            }
            Self::Userfault(handling) => write!(f, "{handling}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool { pages } => write!(f, "pool {pages}"),
            Self::Overcommit { pages } => write!(f, "overcommit {pages}"),
            Self::Mount { mount, size, min } => {
                write!(f, "mount m{mount}")?;
                size.map_or(Ok(()), |pages| write!(f, " size={pages}"))?;
                min.map_or(Ok(()), |pages| write!(f, " min={pages}"))
            }
            Self::Unmount { mount } => write!(f, "unmount m{mount}"),
            Self::Open { file, kind: FileKind::Memory } => write!(f, "open f{file} memory"),
            Self::Open { file, kind: FileKind::On { mount } } => write!(f, "open f{file} m{mount}"),
            Self::Open { file, kind: FileKind::Segment { length, reserve } } => {
                write!(f, "open f{file} segment={length}{}", if *reserve { "" } else { " noreserve" })
            }
            Self::Close { file } => write!(f, "close f{file}"),
            Self::Truncate { file, size } => write!(f, "truncate f{file} {size}"),
            Self::Allocate { file, from, length, keep } => {
                write!(f, "allocate f{file} {from} {length}{}", if *keep { " keep" } else { "" })
            }
            Self::Punch { file, from, length } => write!(f, "punch f{file} {from} {length}"),
            Self::Read { file, from, length } => write!(f, "read f{file} {from} {length}"),
            Self::Write { file, at, value } => write!(f, "write f{file} {at} {value}"),
            Self::In { process, call } => write!(f, "p{process} {call}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::generate::Generator;

    #[test]
    fn what_is_printed_is_read_again() {
        for seed in 0..300 {
            let program = Generator::new(seed).program();
            assert_eq!(program.to_string().parse(), Ok(program));
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_step() {
        let wrong = |text: &str| text.parse::<Program>().unwrap_err().to_string();
        assert_eq!(wrong("pool 3; open f7 memory"), "step 2: f7: one of f0 to f2 is expected");
        assert_eq!(wrong("p0 protect 1g 2p rq"), "step 1: rq: rights are letters of rwx, or `none`");
        assert_eq!(wrong("pool 3 4"), "step 1: 4: nothing more is expected here");
    }
}
