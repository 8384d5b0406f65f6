//! What programs are kept from doing on the running kernel.
//!
//! The kernel is not ours: a program must leave it as it was. Some kernels are known to lose count of their huge pages, or
//! to hang, over what is listed here, and only a reboot helps then. So a step that would come to it is left out, on both
//! sides. Whether it would is decided when it is its turn, by what the engine then says is mapped: nothing that a
//! program's text can say gets past.

use std::ops::Range;

use hugewalk::vma::VmaFlags;
use hugewalk_host::Host;

use crate::engine::Engine;
use crate::known::Kernels;
use crate::observe::Pool;
use crate::program::{
    Advice, Bytes, Call, GIB, Handling, Map, MapFlags, Modes, OnRange, PAGE, PROCESSES, Step, To, WINDOW,
};

/// The largest pool a program may ask for, surplus pages included.
pub const LARGEST_POOL: u64 = 1600;

/// A reason to leave a step out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    /// mremap from or to a range that crosses a multiple of 1 GiB, or to one that starts there.
    RemapAtGigabyte,
    /// mremap that moves a part of a private mapping.
    RemapOfPart,
    /// The process that made a private mapping drops pages of it, or exits, while a child has a copy of it.
    OwnerDrops,
    /// A process moves its copy of a private mapping that another process has too.
    CopyMoves,
    /// A `min_size` together with surplus pages, or a second one, or with pages that a handler copies to its files.
    Minimum,
    /// A page of a mount with limits is asked for that the pool may not have.
    LimitedAndEmpty,
    /// A range that is registered for write protection by userfaultfd stops being so and keeps its protections: it is
    /// registered anew, for other modes only, or moved.
    ProtectionStays,
    /// A scan that protects whatever it finds: where there is no table, it waits for ever for a lock that it holds.
    ScanProtects,
    /// What the running kernel does not know yet.
    NotYet,
    /// An allocation that ends in the last page that a file can have, and fits.
    LastPage,
    /// More pages than the machine shall give.
    TooMany,
}

impl Guard {
    /// All there are.
    pub const ALL: [Self; 11] = [
        Self::RemapAtGigabyte,
        Self::RemapOfPart,
        Self::OwnerDrops,
        Self::CopyMoves,
        Self::Minimum,
        Self::LimitedAndEmpty,
        Self::ProtectionStays,
        Self::ScanProtects,
        Self::NotYet,
        Self::LastPage,
        Self::TooMany,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RemapAtGigabyte => "remap-at-gigabyte",
            Self::RemapOfPart => "remap-of-part",
            Self::OwnerDrops => "owner-drops",
            Self::CopyMoves => "copy-moves",
            Self::Minimum => "minimum",
            Self::LimitedAndEmpty => "limited-and-empty",
            Self::ProtectionStays => "protection-stays",
            Self::ScanProtects => "scan-protects",
            Self::NotYet => "not-yet",
            Self::LastPage => "last-page",
            Self::TooMany => "too-many",
        }
    }
}

/// A mapping, as the guards see it.
struct Seen {
    process: usize,
    range: Range<u64>,
    shared: bool,
    owner: bool,
    file: u64,
    limited: bool,
    protectable: bool,
}

/// The guards over one program.
#[derive(Debug, Default)]
pub struct Guards {
    /// There has been a mount with a minimum.
    minimum: bool,
    overcommit: u64,
}

impl Guards {
    /// The guard that keeps a step from being carried out, if there is one. The step names what is there.
    pub fn check(&self, engine: &mut Engine, step: &Step) -> Option<Guard> {
        let pool = engine.pool();
        match *step {
            Step::Pool { pages } if pages + self.overcommit.max(pool.surplus) > LARGEST_POOL => {
                return Some(Guard::TooMany);
            }
            Step::Overcommit { pages } if pool.total - pool.surplus + pages > LARGEST_POOL => {
                return Some(Guard::TooMany);
            }
            Step::Pool { pages } if self.minimum && pages < pool.total - (pool.free - pool.reserved) => {
                return Some(Guard::Minimum);
            }
            Step::Overcommit { pages } if self.minimum && pages > 0 => return Some(Guard::Minimum),
            Step::Mount { min: Some(_), .. } if self.minimum || self.overcommit > 0 || pool.surplus > 0 => {
                return Some(Guard::Minimum);
            }
            Step::Allocate { from, length, .. } if ends_in_last_page(from, length) => {
                return Some(Guard::LastPage);
            }
            Step::Pool { .. } | Step::Overcommit { .. } | Step::Mount { .. } => return None,
            _ => {}
        }
        if !known_since(step).is_running() {
            return Some(Guard::NotYet);
        }
        if matches!(step, Step::In { call: Call::Scan { written: false, protect: true, .. }, .. }) {
            return Some(Guard::ScanProtects);
        }
        let seen = see(engine);
        if let Step::In { process, call: Call::Remap { at, length, kept, to: To::Fixed(to) } } = *step {
            if crosses(at, length.0.max(kept.0)) || crosses(to, kept.0) || to.0.is_multiple_of(GIB) {
                return Some(Guard::RemapAtGigabyte);
            }
            let moved = around(at, kept);
            let in_part = |seen: &Seen| {
                seen.process == process
                    && !seen.shared
                    && overlap(&seen.range, &moved)
                    && (seen.range.start < moved.start || moved.end < seen.range.end)
            };
            if seen.iter().any(in_part) {
                return Some(Guard::RemapOfPart);
            }
        }
        if let Step::In { process, call: Call::Remap { at, length, to: To::Fixed(_) | To::Anywhere, .. } } =
            *step
        {
            let moves = |one: &Seen| {
                one.process == process && !one.shared && overlap(&one.range, &around(at, length))
            };
            let elsewhere =
                |one: &Seen| seen.iter().any(|other| other.process != process && other.file == one.file);
            if seen.iter().any(|one| moves(one) && elsewhere(one)) {
                return Some(Guard::CopyMoves);
            }
        }
        if let Step::In {
            process,
            call: Call::Userfault { handling: Handling::Copy { at, length, .. }, .. },
        } = *step
        {
            let limited = |one: &Seen| {
                one.process == process && one.limited && overlap(&one.range, &around(at, length))
            };
            if self.minimum && seen.iter().any(limited) {
                return Some(Guard::Minimum);
            }
        }
        if seen.iter().any(|seen| leaves_protections(step, seen)) {
            return Some(Guard::ProtectionStays);
        }
        if seen.iter().any(|seen_one| drops(engine, step, seen_one) && has_copy(&seen, seen_one)) {
            return Some(Guard::OwnerDrops);
        }
        let needed = self.limited_pages(engine, &seen, step);
        let Pool { free, reserved, surplus, .. } = pool;
        let available = free - reserved + self.overcommit.saturating_sub(surplus);
        (needed > available).then_some(Guard::LimitedAndEmpty)
    }

    /// Notes that a step was carried out.
    pub fn note(&mut self, step: &Step) {
        match *step {
            Step::Mount { min: Some(_), .. } => self.minimum = true,
            Step::Overcommit { pages } => self.overcommit = pages,
            _ => {}
        }
    }

    /// Has there been a mount with a minimum?
    pub(crate) const fn minimum(&self) -> bool {
        self.minimum
    }

    /// Pages that a step may ask of the pool for files on mounts with limits.
    fn limited_pages(&self, engine: &Engine, seen: &[Seen], step: &Step) -> u64 {
        let limited =
            |file: usize| engine.files[file].as_ref().is_some_and(|file| file.file.subpool().is_some());
        let pages = |length: Bytes| length.0.div_ceil(PAGE) + 1;
        match *step {
            Step::Allocate { file, length, .. } if limited(file) => pages(length),
            Step::In { call: Call::Map(Map { file: Some((file, _)), length, .. }), .. } if limited(file) => {
                pages(length)
            }
            Step::In { process, ref call } => {
                let process = match *call {
                    Call::Peek { of, .. } | Call::Poke { of, .. } => of,
                    _ => process,
                };
                let (at, length) = match *call {
                    Call::Peek { at, length, .. } | Call::Poke { at, length, .. } => (at, Bytes(length)),
                    Call::Load { at } | Call::Store { at, .. } => (at, Bytes(1)),
                    Call::Sweep { at, length }
                    | Call::Userfault { handling: Handling::Copy { at, length, .. }, .. } => (at, length),
                    Call::Advise { at, length, advice: Advice::PopulateRead | Advice::PopulateWrite }
                    | Call::Lock { at, length, .. } => (at, length),
                    _ => return 0,
                };
                let touched = around(at, length);
                let meets =
                    |seen: &&Seen| seen.process == process && seen.limited && overlap(&seen.range, &touched);
                if seen.iter().any(|seen| meets(&seen)) { pages(length) } else { 0 }
            }
            _ => 0,
        }
    }
}

/// The kernels that know what a step asks for, beside those that programs need anyway.
fn known_since(step: &Step) -> Kernels {
    let Step::In { call, .. } = step else { return Kernels::ALL };
    match call {
        Call::Scan { .. } | Call::Userfault { handling: Handling::Open { asynchronous: true }, .. } => {
            Kernels::since(6, 7)
        }
        Call::Userfault { handling: Handling::On { what: OnRange::Poison, .. }, .. } => Kernels::since(6, 6),
        Call::Userfault { handling: Handling::On { what: OnRange::ContinueProtected, .. }, .. } => {
            Kernels::since(6, 4)
        }
        _ => Kernels::ALL,
    }
}

/// Whole pages around a range, as addresses.
fn around(at: Bytes, length: Bytes) -> Range<u64> {
    let end = (at.0 + length.0).next_multiple_of(PAGE);
    at.page().address()..WINDOW + end
}

fn ends_in_last_page(from: Bytes, length: Bytes) -> bool {
    let largest = i64::MAX as u64;
    from.0.checked_add(length.0).is_some_and(|end| (largest - PAGE..=largest).contains(&end))
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn crosses(at: Bytes, length: u64) -> bool {
    let last = at.0 + length.next_multiple_of(PAGE).max(1) - 1;
    at.0 / GIB != last / GIB
}

fn see(engine: &mut Engine) -> Vec<Seen> {
    let mut seen = Vec::new();
    for process in 0..PROCESSES {
        let Some(running) = &engine.processes[process] else { continue };
        let mmap = running.space.mmap_read(&mut engine.task);
        let see = |vma: &hugewalk::vma::Vma<Host>| Seen {
            process,
            range: vma.start().as_u64()..vma.end().as_u64(),
            shared: vma.is_shared(),
            owner: vma.owns_reservation(),
            file: vma.file().id(),
            limited: vma.file().subpool().is_some(),
            protectable: vma.flags().contains(VmaFlags::UFFD_WP),
        };
        seen.extend(mmap.vmas().map(|vma| see(vma)));
    }
    seen
}

/// May a step leave pages of a mapping protected for a handler that is not asked any more?
fn leaves_protections(step: &Step, seen: &Seen) -> bool {
    let Step::In { process, ref call } = *step else { return false };
    let left = match *call {
        Call::Userfault { handling: Handling::Register { at, length, modes }, .. }
            if !modes.contains(Modes::WP) =>
        {
            around(at, length)
        }
        Call::Remap { at, length, kept, to: To::Fixed(_) | To::Anywhere } => {
            around(at, Bytes(length.0.max(kept.0)))
        }
        _ => return false,
    };
    seen.protectable && process == seen.process && overlap(&left, &seen.range)
}

/// Does a step drop pages of a mapping that has reservations of its own?
fn drops(engine: &Engine, step: &Step, seen: &Seen) -> bool {
    if !seen.owner {
        return false;
    }
    let of_file = |file: usize| engine.files[file].as_ref().is_some_and(|file| file.file.id() == seen.file);
    match *step {
        Step::Truncate { file, .. } | Step::Punch { file, .. } => of_file(file),
        // Through a shared mapping of whatever file: whose is not looked for.
        Step::In { call: Call::Advise { advice: Advice::Remove, .. }, .. } => true,
        Step::In { process, ref call } if process == seen.process => {
            let dropped = match *call {
                Call::Exit => return true,
                Call::Unmap { at, length } | Call::Advise { at, length, advice: Advice::DontNeed } => {
                    [around(at, length), 0..0]
                }
                Call::Attach { file, at, replace: true } => {
                    let size = engine.files[file].as_ref().map_or(0, |file| file.file.size());
                    [around(at, Bytes(size)), 0..0]
                }
                Call::Map(Map { at, length, flags, .. }) if flags.contains(MapFlags::FIXED) => {
                    [around(at, length), 0..0]
                }
                Call::Remap { at, length, kept, to } => {
                    let target = match to {
                        To::Fixed(to) => around(to, kept),
                        To::InPlace | To::Anywhere => 0..0,
                    };
                    [around(at, Bytes(length.0.max(kept.0))), target]
                }
                _ => return false,
            };
            dropped.iter().any(|range| overlap(range, &seen.range))
        }
        _ => false,
    }
}

/// Has another process a copy of a private mapping?
fn has_copy(all: &[Seen], of: &Seen) -> bool {
    all.iter()
        .any(|other| other.process != of.process && other.file == of.file && !other.shared && !other.owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Program;

    #[test]
    fn an_allocation_does_not_end_in_the_last_page() {
        let largest = i64::MAX as u64;
        let ends = |from: u64, length: u64| ends_in_last_page(Bytes(from), Bytes(length));
        assert!(ends(largest - 4096, 4096) && ends(0, largest - PAGE) && ends(largest - PAGE, 1));
        assert!(!ends(0, largest - PAGE - 1) && !ends(largest, 1) && !ends(u64::MAX, 2));
    }

    #[test]
    fn a_range_does_not_stop_being_registered_for_protection_but_by_unregistering() {
        let mut engine = Engine::new().unwrap();
        engine.begin().unwrap();
        let before = "pool 4; p0 map fresh at=1g length=2p rights=rw shared fixed; p0 uffd open; p0 uffd register 1g 1p wp";
        for step in &before.parse::<Program>().unwrap().steps {
            engine.step(step);
        }
        for (step, expected) in [
            ("p0 uffd register 1g 2p missing", Some(Guard::ProtectionStays)),
            ("p0 remap 1g 1p 1p to=3g+1p", Some(Guard::ProtectionStays)),
            ("p0 uffd register 1g+1p 1p missing", None),
            ("p0 uffd register 1g 2p missing+wp", None),
            ("p0 uffd unregister 1g 2p", None),
        ] {
            let step = &step.parse::<Program>().unwrap().steps[0];
            assert_eq!(Guards::default().check(&mut engine, step), expected, "{step}");
        }
    }
}
