//! Steps are read.

use std::str::SplitWhitespace;

use super::{ADVICE, MAP_FLAGS};
use crate::program::{
    Bytes, Call, FILES, FileKind, Handling, MOUNTS, Map, MapFlags, PROCESSES, Rights, Step, To,
};

pub(super) fn parse_step(text: &str) -> Result<Step, String> {
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
            let keep = words.flag("keep")?;
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
            let replace = words.flag("replace")?;
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
            let moved = words.flag("moved")?;
            Call::Nodes { at, length, moved }
        }
        "mlock" => {
            let (at, length) = range(words)?;
            Call::Lock { at, length, on_fault: words.flag("onfault")? }
        }
        "munlock" => {
            let (at, length) = range(words)?;
            Call::Unlock { at, length }
        }
        "mlockall" => Call::LockNew { on_fault: words.flag("onfault")? },
        "munlockall" => Call::UnlockAll,
        "mbind" => {
            let (at, length) = range(words)?;
            Call::Bind { at, length, policy: words.next("the policy")?.parse()? }
        }
        "uffd" | "uffd2" => {
            let handling = Handling::parse(|what| words.next(what))?;
            Call::Userfault { handler: usize::from(verb == "uffd2"), handling }
        }
        _ => return Err(format!("{verb}: no process does that")),
    })
}

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

    /// The last word, if there is one: only this one is known.
    fn flag(&mut self, known: &str) -> Result<bool, String> {
        match self.0.next() {
            None => Ok(false),
            Some(word) if word == known => Ok(true),
            Some(word) => Err(format!("{word}: only `{known}` is known")),
        }
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
