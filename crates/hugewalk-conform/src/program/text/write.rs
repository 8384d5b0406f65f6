//! Steps are written.

use std::fmt;

use super::MAP_FLAGS;
use crate::program::{Call, FileKind, Map, MapFlags, Step, To};

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
            Self::Scan { at, length, written, protect, check } => {
                write!(f, "scan {at} {length}")?;
                let set = [(*written, " written"), (*protect, " protect"), (*check, " check")];
                set.into_iter().filter(|(set, _)| *set).try_for_each(|(_, name)| f.write_str(name))
            }
            Self::Lock { at, length, on_fault } => {
                write!(f, "mlock {at} {length}{}", if *on_fault { " onfault" } else { "" })
            }
            Self::Unlock { at, length } => write!(f, "munlock {at} {length}"),
            Self::LockNew { on_fault } => write!(f, "mlockall{}", if *on_fault { " onfault" } else { "" }),
            Self::UnlockAll => f.write_str("munlockall"),
            Self::Bind { at, length, policy } => write!(f, "mbind {at} {length} {policy}"),
            Self::Userfault { handler: 0, handling } => write!(f, "uffd {handling}"),
            Self::Userfault { handler, handling } => write!(f, "uffd{} {handling}", handler + 1),
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
