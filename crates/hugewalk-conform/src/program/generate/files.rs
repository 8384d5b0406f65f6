//! Files, mounts and pools.

use super::{Generator, Kind};
use crate::program::{Bytes, FILES, FileKind, GIB, MOUNTS, PAGE, Step};

impl Generator {
    pub(super) fn mount(&mut self, mount: usize) -> Step {
        self.mounts[mount] = true;
        let size = (!self.one_in(3)).then(|| self.rng.u64(1..10));
        let min = self.one_in(2).then(|| self.rng.u64(1..6));
        Step::Mount { mount, size, min }
    }

    pub(super) fn file_kind(&mut self) -> FileKind {
        if self.one_in(5) {
            let giant = self.kind == Kind::Giant;
            let length = match self.rng.u8(0..12) {
                0 => 0,
                1 => PAGE + 4096,
                _ if giant => self.rng.u64(1..=2) * GIB + self.rng.u64(0..2) * PAGE,
                _ => self.rng.u64(1..8) * PAGE,
            };
            let reserve = if giant { self.one_in(4) } else { !self.one_in(4) };
            return FileKind::Segment { length: Bytes(length), reserve };
        }
        let mounts: Vec<usize> = (0..MOUNTS).filter(|&mount| self.mounts[mount]).collect();
        if mounts.is_empty() || self.one_in(5) {
            return FileKind::Memory;
        }
        FileKind::On { mount: self.pick(&mounts) }
    }

    pub(super) fn opened(&mut self, file: usize, kind: FileKind) {
        self.files[file] = true;
        self.segments[file] = match kind {
            FileKind::Segment { length, .. } => Some(length.0),
            FileKind::Memory | FileKind::On { .. } => None,
        };
    }

    pub(super) fn open_file(&mut self) -> Option<usize> {
        let open: Vec<usize> =
            (0..FILES).filter(|&file| self.files[file] && self.segments[file].is_none()).collect();
        if open.is_empty() { None } else { Some(self.pick(&open)) }
    }

    pub(super) fn file_step(&mut self) -> Option<Step> {
        let roll = self.rng.u8(0..24);
        match roll {
            0 => {
                let pages = self.rng.u64(0..24);
                return Some(Step::Pool { pages });
            }
            1 => {
                let pages = self.rng.u64(0..5);
                return Some(Step::Overcommit { pages });
            }
            2 => {
                let file = (0..FILES).find(|&file| !self.files[file])?;
                let kind = self.file_kind();
                self.opened(file, kind);
                return Some(Step::Open { file, kind });
            }
            3 => {
                let mount = self.rng.usize(0..MOUNTS);
                if self.mounts[mount] {
                    self.mounts[mount] = false;
                    return Some(Step::Unmount { mount });
                }
                return (self.kind == Kind::Mounts).then(|| self.mount(mount));
            }
            _ => {}
        }
        if roll == 4
            && let Some(file) = (0..FILES).find(|&file| self.segments[file].is_some())
        {
            self.files[file] = false;
            self.segments[file] = None;
            return Some(Step::Close { file });
        }
        let file = self.open_file()?;
        let from = self.extent();
        let length = self.extent();
        let few = Bytes(length.0.min(6 * PAGE));
        Some(match roll {
            4 => {
                self.files[file] = false;
                Step::Close { file }
            }
            5..11 => Step::Truncate { file, size: from },
            11 if self.one_in(6) => {
                let from = Bytes(self.far());
                Step::Allocate { file, from, length: few, keep: self.one_in(2) }
            }
            11..15 => Step::Allocate { file, from, length: few, keep: self.one_in(2) },
            15..21 => Step::Punch { file, from, length },
            21 if self.one_in(6) => Step::Write { file, at: from, value: 7 },
            _ => Step::Read { file, from, length: self.rng.u64(0..20) },
        })
    }

    /// Near the end of the largest file, or behind it.
    pub(super) fn far(&mut self) -> u64 {
        let end = 1u64 << 63;
        let pages = self.rng.u64(0..4);
        let from = [end - 12 * PAGE, end - 12 * PAGE, end - 4 * PAGE, end, u64::MAX - 4 * PAGE + 1];
        self.pick(&from) + pages * PAGE
    }

    pub(super) fn extent(&mut self) -> Bytes {
        let pages = self.rng.u64(0..8);
        let giant = if self.kind == Kind::Giant && self.one_in(3) { GIB } else { 0 };
        if self.one_in(50) {
            return Bytes(self.far());
        }
        let odd = if self.one_in(6) { self.pick(&[1, 4096, PAGE - 4096]) } else { 0 };
        Bytes(giant + pages * PAGE + odd)
    }
}
