//! What processes do as the handlers of their own faults.

use super::{Generator, Mapped};
use crate::program::{
    Bytes, Call, HANDLERS, Handling, LONGEST_COPY, Map, MapFlags, Modes, OnRange, PAGE, Rights, Step,
};

impl Generator {
    /// A process with a mapping of which it handles faults.
    pub(super) fn handled(&mut self) {
        let file = if self.one_in(4) { None } else { self.open_file().map(|file| (file, Bytes(0))) };
        let Mapped { at, length } = match self.mapped(0) {
            Some(mapped) => mapped,
            None => {
                let (at, length) = (self.place(), self.rng.u64(2..8) * PAGE);
                let mut flags = MapFlags::FIXED;
                flags.set(MapFlags::SHARED, !self.one_in(3));
                flags.set(MapFlags::NO_RESERVE, self.one_in(5));
                let rights = Rights::READ | Rights::WRITE;
                let map = Map { file, at: Bytes(at), length: Bytes(length), rights, flags };
                self.steps.push(Step::In { process: 0, call: Call::Map(map) });
                self.processes[0].get_or_insert_default().insert(0, Mapped { at, length });
                Mapped { at, length }
            }
        };
        // Pages that the file has and the process does not: what minor faults are about.
        if let Some((file, _)) = file.filter(|_| self.one_in(2)) {
            let length = Bytes(self.rng.u64(1..=(length / PAGE).min(4)) * PAGE);
            self.steps.push(Step::Allocate { file, from: Bytes(0), length, keep: false });
        }
        for _ in 0..self.rng.usize(0..3) {
            let page = self.rng.u64(0..(length / PAGE).min(4));
            let call = Call::Store { at: Bytes(at + page * PAGE), value: self.rng.u8(1..) };
            self.steps.push(Step::In { process: 0, call });
        }
        self.handlers[0][0] = Some(vec![Mapped { at, length }]);
        let register = Handling::Register { at: Bytes(at), length: Bytes(length), modes: self.modes() };
        let open = Handling::Open { asynchronous: self.one_in(3) };
        for handling in [open, register] {
            self.steps.push(Step::In { process: 0, call: Call::Userfault { handler: 0, handling } });
        }
    }

    pub(super) fn modes(&mut self) -> Modes {
        let (missing, wp, minor) = (Modes::MISSING, Modes::WP, Modes::MINOR);
        self.pick(&[missing, missing, wp, wp, minor, missing | wp, missing | minor, wp | minor, Modes::all()])
    }

    pub(super) fn handle(&mut self, process: usize) -> Option<Call> {
        // Mostly the first; the second takes what the first has, and the other way round.
        let second = self.handlers[process][1].is_some();
        let handler = usize::from(self.one_in(if second { 3 } else { 12 }));
        let registered = if self.one_in(4) { self.rng.usize(0..HANDLERS) } else { handler };
        let handling = self.handling(process, handler, registered)?;
        Some(Call::Userfault { handler, handling })
    }

    /// A scan for pages, and for those that were written. One that protects is of whole pages: of a part of one Linux says again
    /// and again where the next scan has to start, and that is there.
    pub(super) fn scan(&mut self, process: usize) -> Option<Call> {
        let (mut at, mut length) = self.part(process)?;
        let written = !self.one_in(3);
        let protect = written && self.one_in(2);
        if protect {
            (at, length) = (at.page(), Bytes(length.0.next_multiple_of(PAGE)));
        } else {
            at = Bytes(at.0 & !4095);
        }
        Some(Call::Scan { at, length, written, protect, check: !protect && self.one_in(8) })
    }

    /// What a handler does, mostly with what one of them has registered.
    fn handling(&mut self, process: usize, handler: usize, of: usize) -> Option<Handling> {
        let Some(registered) = &self.handlers[process][handler] else {
            self.handlers[process][handler] = Some(Vec::new());
            return Some(Handling::Open { asynchronous: self.one_in(3) });
        };
        let none = registered.is_empty();
        let roll = self.rng.u8(0..36);
        if roll == 0 {
            self.handlers[process][handler] = None;
            return Some(Handling::Close);
        }
        if none || roll < 6 {
            let (at, length) = self.part(process)?;
            let modes = if self.one_in(40) { Modes::empty() } else { self.modes() };
            let range = Mapped { at: at.page().0, length: length.0 };
            self.handlers[process][handler].as_mut()?.insert(0, range);
            return Some(Handling::Register { at, length, modes });
        }
        // Mostly what was registered; now and then anything.
        let (mut at, mut length) = self.part(process)?;
        if !self.one_in(8) {
            let of = if self.handlers[process][of].as_ref().is_some_and(|ranges| !ranges.is_empty()) {
                of
            } else {
                handler
            };
            let count = self.handlers[process][of].as_ref()?.len();
            let which = self.rng.usize(0..count).min(self.rng.usize(0..count));
            let range = self.handlers[process][of].as_ref()?[which].clone();
            let pages = (range.length / PAGE).max(1);
            let first = self.rng.u64(0..pages.min(4));
            at = Bytes(range.at + first * PAGE);
            length = Bytes(self.rng.u64(1..=(pages - first).min(4)) * PAGE);
            match self.rng.u8(0..30) {
                0 => at.0 += 4096,
                1 => length.0 += 4096,
                2 => length.0 = 0,
                3 => length = Bytes(range.length),
                _ => {}
            }
        }
        let what = match roll {
            6..14 => {
                let length = Bytes(length.0.min(LONGEST_COPY));
                return Some(Handling::Copy {
                    at,
                    length,
                    value: self.rng.u8(1..),
                    protected: self.one_in(4),
                });
            }
            14..20 => OnRange::Continue,
            20..26 => OnRange::Protect,
            26..29 => OnRange::Unprotect,
            29 => OnRange::Unregister,
            30 => OnRange::Zero,
            31 | 32 => OnRange::Poison,
            33 | 34 => OnRange::ContinueProtected,
            _ => OnRange::Wake,
        };
        Some(Handling::On { at, length, what })
    }
}
