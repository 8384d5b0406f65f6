//! Steps are read.

use super::forms::{FORMS, Form, unknown};
use super::words::{Words, named, number};
use super::{ADVICE, MAP_FLAGS};
use crate::program::{
    Bytes, Call, FILES, FileKind, Handling, MOUNTS, Map, MapFlags, OnRange, PROCESSES, Rights, Step, To,
};

pub(super) fn parse_step(text: &str) -> Result<Step, String> {
    let mut words = Words::new(text);
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
                    let reserve = match words.optional() {
                        None => true,
                        Some("noreserve") => false,
                        Some(word) => return Err(format!("{word}: only `noreserve` is known")),
                    };
                    FileKind::Segment { length, reserve }
                }
                on => FileKind::On { mount: named(on, 'm', MOUNTS)? },
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
        process if is_process(process) => {
            Step::In { process: named(process, 'p', PROCESSES)?, call: parse_call(&mut words)? }
        }
        _ => return Err(unknown_step(verb)),
    };
    words.end()?;
    Ok(step)
}

fn parse_mount(words: &mut Words<'_>) -> Result<Step, String> {
    let mount = words.index('m', MOUNTS)?;
    let (mut size, mut min) = (None, None);
    while let Some(word) = words.optional() {
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
    Ok(match verb {
        "map" => Call::Map(parse_map(words)?),
        "attach" => {
            let (file, at) = (words.index('f', FILES)?, words.bytes("where")?);
            let replace = words.flag("replace")?;
            Call::Attach { file, at, replace }
        }
        "detach" => Call::Detach { at: words.bytes("where")? },
        "unmap" => {
            let (at, length) = words.range()?;
            Call::Unmap { at, length }
        }
        "protect" => {
            let (at, length) = words.range()?;
            Call::Protect { at, length, rights: words.next("the rights")?.parse()? }
        }
        "remap" => {
            let (at, length) = words.range()?;
            let kept = words.bytes("the new length")?;
            let to = match words.optional() {
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
            let (at, length) = words.range()?;
            let word = words.next("the advice")?;
            let known = ADVICE.into_iter().find(|(name, _)| *name == word);
            let all = ADVICE.iter().map(|(name, _)| *name);
            let (_, advice) = known.ok_or_else(|| unknown(word, "advice", all))?;
            Call::Advise { at, length, advice }
        }
        "fork" => Call::Fork { child: words.index('p', PROCESSES)? },
        "exit" => Call::Exit,
        "load" => Call::Load { at: words.bytes("where")? },
        "store" => Call::Store { at: words.bytes("where")?, value: words.byte()? },
        "sweep" => {
            let (at, length) = words.range()?;
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
            let (at, length) = words.range()?;
            Call::Mincore { at, length }
        }
        "nodes" => {
            let (at, length) = words.range()?;
            let moved = words.flag("moved")?;
            Call::Nodes { at, length, moved }
        }
        "scan" => {
            let (at, length) = words.range()?;
            let [written, protect, check] = words.flags(["written", "protect", "check"])?;
            Call::Scan { at, length, written, protect, check }
        }
        "mlock" => {
            let (at, length) = words.range()?;
            Call::Lock { at, length, on_fault: words.flag("onfault")? }
        }
        "munlock" => {
            let (at, length) = words.range()?;
            Call::Unlock { at, length }
        }
        "mlockall" => Call::LockNew { on_fault: words.flag("onfault")? },
        "munlockall" => Call::UnlockAll,
        "mbind" => {
            let (at, length) = words.range()?;
            Call::Bind { at, length, policy: words.next("the policy")?.parse()? }
        }
        "uffd" | "uffd2" => {
            Call::Userfault { handler: usize::from(verb == "uffd2"), handling: parse_handling(words)? }
        }
        _ => return Err(unknown(verb, "step of a process", calls().chain(["uffd2"]))),
    })
}

fn parse_map(words: &mut Words<'_>) -> Result<Map, String> {
    let file = match words.next("what is mapped")? {
        "fresh" => None,
        word => {
            let (file, offset) = word.split_once('+').unwrap_or((word, "0"));
            Some((named(file, 'f', FILES)?, offset.parse()?))
        }
    };
    let mut map =
        Map { file, at: Bytes(0), length: Bytes(0), rights: Rights::empty(), flags: MapFlags::empty() };
    while let Some(word) = words.optional() {
        match word.split_once('=') {
            Some(("at", at)) => map.at = at.parse()?,
            Some(("length", length)) => map.length = length.parse()?,
            Some(("rights", rights)) => map.rights = rights.parse()?,
            _ => {
                let known = MAP_FLAGS.into_iter().find(|(name, _)| *name == word);
                let all = MAP_FLAGS.iter().map(|(name, _)| *name).chain(["at=", "length=", "rights="]);
                map.flags |= known.ok_or_else(|| unknown(word, "way to map", all))?.1;
            }
        }
    }
    Ok(map)
}

/// What follows `uffd`.
fn parse_handling(words: &mut Words<'_>) -> Result<Handling, String> {
    let verb = words.next("what the handler does")?;
    match verb {
        "open" => return Ok(Handling::Open { asynchronous: words.flag("async")? }),
        "close" => return Ok(Handling::Close),
        _ => {}
    }
    let on_range = OnRange::ALL.into_iter().find(|what| what.name() == verb);
    if on_range.is_none() && !["register", "copy"].contains(&verb) {
        return Err(unknown(verb, "operation of a handler", FORMS.iter().filter_map(Form::handling)));
    }
    let (at, length) = words.range()?;
    if let Some(what) = on_range {
        return Ok(Handling::On { at, length, what });
    }
    if verb == "register" {
        return Ok(Handling::Register { at, length, modes: words.next("the modes")?.parse()? });
    }
    let value = words.byte()?;
    Ok(Handling::Copy { at, length, value, protected: words.flag("wp")? })
}

/// Is this meant to be a process, and not a step whose name begins with the same letter?
fn is_process(word: &str) -> bool {
    word.strip_prefix('p').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn unknown_step(verb: &str) -> String {
    if calls().any(|call| call == verb) {
        return format!("`{verb}` is what a process does: write `p0 {verb} ...`");
    }
    unknown(
        verb,
        "step",
        FORMS.iter().map(Form::verb).filter(|(_, of_process)| !of_process).map(|(verb, _)| verb),
    )
}

fn calls() -> impl Iterator<Item = &'static str> + Clone {
    FORMS.iter().map(Form::verb).filter(|(_, of_process)| *of_process).map(|(verb, _)| verb)
}
