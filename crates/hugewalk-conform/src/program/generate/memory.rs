//! Calls on the memory of a process.

use super::{Generator, Kind, Mapped};
use crate::program::{
    Advice, Bytes, Call, FILES, GIB, Map, MapFlags, PAGE, PROCESSES, Policy, PolicyMode, Rights, To,
};

impl Generator {
    /// A segment is attached, mostly at a place of its own.
    pub(super) fn attach(&mut self, process: usize) -> Option<Call> {
        let segments: Vec<usize> = (0..FILES).filter(|&file| self.segments[file].is_some()).collect();
        if segments.is_empty() || self.one_in(3) {
            return None;
        }
        let file = self.pick(&segments);
        let length = self.segments[file]?.next_multiple_of(PAGE);
        let odd = if self.one_in(10) { self.pick(&[1, 4096]) } else { 0 };
        let at = Bytes(self.place());
        self.processes[process].as_mut()?.insert(0, Mapped { at: at.0, length });
        Some(Call::Attach { file, at: Bytes(at.0 + odd), replace: self.one_in(3) })
    }

    /// One process reads or writes the memory of another, or of itself; of one that is not there now and then.
    pub(super) fn transfer(&mut self) -> Option<Call> {
        let of = self.living()?;
        let mut at = self.spot(of)?;
        // Up to the end of a page, and over it.
        if self.one_in(3) {
            at.0 = (at.0 + PAGE - 4).max(PAGE) - PAGE;
        }
        let of = if self.one_in(12) { self.rng.usize(0..PROCESSES) } else { of };
        let length = self.rng.u64(0..12);
        Some(if self.one_in(2) {
            Call::Peek { of, at, length }
        } else {
            Call::Poke { of, at, length, value: self.rng.u8(1..) }
        })
    }

    pub(super) fn rights(&mut self) -> Rights {
        let (r, w) = (Rights::READ, Rights::WRITE);
        self.pick(&[r | w, r | w, r | w, r | w, r, r, Rights::empty(), w, r | Rights::EXECUTE, Rights::all()])
    }

    /// Where something may be mapped.
    pub(super) fn place(&mut self) -> u64 {
        let kind = self.kind;
        match kind {
            Kind::Giant if !self.one_in(4) => self.rng.u64(1..6) * GIB,
            // On both sides of a boundary.
            _ => self.rng.u64(1..3) * GIB + self.rng.u64(0..24) * PAGE - 8 * PAGE,
        }
    }

    pub(super) fn map(&mut self, process: usize) -> Option<Call> {
        let mut flags = MapFlags::empty();
        let file = if self.one_in(4) { None } else { self.open_file() };
        let kind = self.kind;
        let mut length = match kind {
            Kind::Giant if !self.one_in(3) => self.rng.u64(1..=2) * GIB + self.rng.u64(0..2) * PAGE,
            _ => self.rng.u64(1..8) * PAGE,
        };
        let offset = match kind {
            _ if self.one_in(60) => self.far(),
            Kind::Giant => self.pick(&[0, 0, 0, GIB, PAGE]),
            _ => self.pick(&[0, 0, 0, PAGE, 2 * PAGE, 3 * PAGE]),
        };
        let giant = length >= GIB;
        flags.set(MapFlags::SHARED, giant || self.one_in(2));
        flags.set(MapFlags::NO_RESERVE, if giant { !self.one_in(4) } else { self.one_in(5) });
        flags.set(MapFlags::POPULATE, !giant && self.one_in(12));
        flags.set(MapFlags::LOCKED, !giant && self.one_in(25));
        match self.rng.u8(0..10) {
            0..7 => flags |= MapFlags::FIXED,
            7..9 => flags |= MapFlags::NO_REPLACE,
            _ => {}
        }
        let mut at = self.place();
        if let Some(first) = self.processes[process].as_ref()?.first().cloned()
            && self.one_in(6)
        {
            at = first.at + first.length;
        }
        let mut offset = Bytes(offset);
        // Now and then something that has to be refused, or rounded.
        match self.rng.u8(0..40) {
            0 => at += 4096,
            1 => length += 4096,
            2 => offset.0 += 4096,
            3 => length = 0,
            4 => at += 1,
            _ => {}
        }
        self.processes[process].as_mut()?.insert(0, Mapped { at: Bytes(at).page().0, length });
        let file = file.map(|file| (file, offset));
        let rights = if self.one_in(6) { self.rights() } else { Rights::READ | Rights::WRITE };
        Some(Call::Map(Map { file, at: Bytes(at), length: Bytes(length), rights, flags }))
    }

    /// One of the mappings; the latest ones more often.
    pub(super) fn mapped(&mut self, process: usize) -> Option<Mapped> {
        let mapped = self.processes[process].as_ref()?;
        if mapped.is_empty() {
            return None;
        }
        let one = self.rng.usize(0..mapped.len()).min(self.rng.usize(0..mapped.len()));
        Some(mapped[one].clone())
    }

    /// A part of what is mapped, give or take.
    pub(super) fn part(&mut self, process: usize) -> Option<(Bytes, Bytes)> {
        let Mapped { at, length, .. } = self.mapped(process)?;
        let pages = (length / PAGE).max(1);
        let (first, count) = match self.rng.u8(0..10) {
            0..3 => (0, pages),
            3..5 => (0, self.rng.u64(1..=pages)),
            5 => (0, pages + self.rng.u64(1..4)),
            _ => {
                let first = self.rng.u64(0..pages);
                (first, self.rng.u64(1..=(pages - first).min(4)))
            }
        };
        let (mut at, mut length) = (at + first * PAGE, count * PAGE);
        match self.rng.u8(0..40) {
            0 => at += 4096,
            1 => length += 4096,
            2 => length = 0,
            3 => length -= 4096,
            4 => at += 1,
            _ => {}
        }
        Some((Bytes(at), Bytes(length)))
    }

    pub(super) fn spot(&mut self, process: usize) -> Option<Bytes> {
        let Mapped { at, length, .. } = self.mapped(process)?;
        let pages = (length / PAGE).max(1);
        let page = match self.rng.u8(0..8) {
            0 => pages - 1,
            1 => pages,
            2 => self.rng.u64(0..pages),
            _ => self.rng.u64(0..pages.min(4)),
        };
        let byte = self.pick(&[0, 0, 0, 4096, PAGE - 1]);
        Some(Bytes(at + page * PAGE + byte))
    }

    pub(super) fn remap(&mut self, process: usize) -> Option<Call> {
        let (at, length) = if self.one_in(2) {
            let mapped = self.mapped(process)?;
            (Bytes(mapped.at), Bytes(mapped.length))
        } else {
            self.part(process)?
        };
        let kept = match self.rng.u8(0..12) {
            0..8 => length,
            8 => Bytes(length.0 + PAGE),
            9 => Bytes(length.0 / 2),
            10 => Bytes(0),
            _ => Bytes(length.page().0 / 2 / PAGE * PAGE),
        };
        let to = match self.rng.u8(0..8) {
            0 => To::InPlace,
            1 => To::Anywhere,
            2 => To::Fixed(Bytes(at.0 + PAGE)),
            3 => To::Fixed(Bytes(self.place() + 4096)),
            _ => {
                let to = Bytes(self.rng.u64(6..9) * GIB + self.rng.u64(1..20) * PAGE);
                self.processes[process].as_mut()?.insert(0, Mapped { at: to.0, length: kept.0 });
                To::Fixed(to)
            }
        };
        Some(Call::Remap { at, length, kept, to })
    }

    /// Memory is locked, or bound to nodes.
    pub(super) fn lock_or_bind(&mut self, process: usize) -> Option<Call> {
        let (mut at, mut length) = self.part(process)?;
        Some(match self.rng.u8(0..24) {
            0..8 => {
                // mlock takes what is odd as well.
                if self.one_in(8) {
                    at.0 += self.pick(&[1, 4095, 4096, PAGE - 1]);
                }
                length.0 = length.0.min(8 * PAGE);
                Call::Lock { at, length, on_fault: self.one_in(5) }
            }
            8..10 => Call::Unlock { at, length },
            10 if self.kind != Kind::Giant => Call::LockNew { on_fault: self.one_in(3) },
            10..12 => Call::UnlockAll,
            _ => Call::Bind { at, length, policy: self.policy() },
        })
    }

    fn policy(&mut self) -> Policy {
        let mode = self.pick(&PolicyMode::ALL);
        // Node 0 is there everywhere, the others seldom.
        let nodes = self.pick(&[1, 1, 1, 1, 3, 0, 2]);
        Policy { mode, nodes: if mode.is_without_nodes() { 0 } else { nodes } }
    }

    pub(super) fn advise(&mut self, process: usize) -> Option<Call> {
        let (at, mut length) = self.part(process)?;
        let advice = match self.rng.u8(0..15) {
            12 | 13 => self.pick(&[Advice::Normal, Advice::Random, Advice::Sequential]),
            14 => self.pick(&[
                Advice::WillNeed,
                Advice::Cold,
                Advice::PageOut,
                Advice::Free,
                Advice::WipeOnFork,
                Advice::KeepOnFork,
            ]),
            10 => self.pick(&[Advice::DontDump, Advice::DoDump]),
            11 => self.pick(&[Advice::DontFork, Advice::DoFork]),
            0..5 => Advice::DontNeed,
            5..7 => Advice::Remove,
            7 => Advice::PopulateRead,
            _ => Advice::PopulateWrite,
        };
        if matches!(advice, Advice::PopulateRead | Advice::PopulateWrite) {
            length.0 = length.0.min(8 * PAGE);
        }
        Some(Call::Advise { at, length, advice })
    }
}
