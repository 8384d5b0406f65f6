//! What of a mapping cannot share its tables, and why, in words.
//!
//! [`crate::gigabyte`] has what the kernel asks of a mapping by itself. Here stands what other mappings, and later calls,
//! take away.

use std::ops::Range;

use super::holders::{Holders, Unlike};
use super::{Made, MappingId, Plan};
pub(crate) use crate::gigabyte::ANOTHER_PLACE;
pub(super) use crate::gigabyte::whole_ranges;
use crate::gigabyte::{GIB, unsharable};
use crate::report::{Unsharable, range_text};
use crate::trace::flags::Prot;

/// Reasons listed for one mapping; more say nothing new.
const LISTED: usize = 12;

/// What cannot share from the start.
pub(super) fn at_first(made: &Made) -> Vec<Unsharable> {
    unsharable(&made.range, made.shift, made.shared)
}

/// What keeps a mapping from sharing with those of the same file that are held at the time.
pub(super) fn beside_others(made: &Made, others: &[Made], holders: &Holders) -> Vec<Unsharable> {
    if !made.may_share() || made.whole_ranges == 0 {
        // What it lacks itself has been said.
        return Vec::new();
    }
    let why = |unlike: Unlike| {
        let other = others.get(unlike.other.0 as usize)?;
        let line = other.line;
        Some(if unlike.elsewhere {
            format!("not with the mapping of line {line}: {ANOTHER_PLACE}")
        } else {
            let (other, own) = (rights(other.prot), rights(made.prot));
            format!("not with the mapping of line {line}: that one is {other}, this one {own}")
        })
    };
    let whole = |why: String| Unsharable {
        bytes: made.range.end - made.range.start,
        range: range_text(&made.range),
        why,
    };
    holders.unlike(made, LISTED).into_iter().filter_map(why).map(whole).collect()
}

/// A later call that touches the sharing of a mapping.
#[derive(Clone, Copy)]
pub(super) enum Later {
    Protect(Prot),
    Unmap,
    Move,
    UserfaultWriteProtect,
    UserfaultMinor,
}

impl Plan {
    /// Notes what a call of line `line` on `part` of a mapping takes away from sharing.
    pub(super) fn note(&mut self, mapping: MappingId, part: &Range<u64>, later: Later, pid: u32, line: u32) {
        let Some(made) = self.mappings.get_mut(mapping.0 as usize).filter(|made| made.may_share()) else {
            return;
        };
        // Parts may have moved since; of the original place this still holds.
        let whole = whole_ranges(&made.range);
        let part =
            part.start.max(whole.start.saturating_mul(GIB))..part.end.min(whole.end.saturating_mul(GIB));
        if part.start >= part.end {
            return;
        }
        let inner = whole_ranges(&part);
        let (first, last) = (part.start / GIB, part.end.div_ceil(GIB));
        let gigabytes = if part.start.div_ceil(GIB) > part.end / GIB {
            // Inside of one.
            vec![(first..last, false)]
        } else {
            vec![(first..inner.start, false), (inner.clone(), true), (inner.end..last, false)]
        };
        let lost = gigabytes.into_iter().filter(|(range, _)| !range.is_empty()).filter_map(|(range, all)| {
            Some((
                range.start.saturating_mul(GIB)..range.end.saturating_mul(GIB),
                why(later, all, pid, line)?,
            ))
        });
        for (range, why) in lost {
            let entry = Unsharable { bytes: range.end - range.start, range: range_text(&range), why };
            let known =
                made.unsharable.iter().any(|other| other.range == entry.range && other.why == entry.why);
            if made.unsharable.len() < LISTED && !known {
                made.unsharable.push(entry);
            }
        }
    }
}

/// Why a 1 GiB range that a call covers whole, or in part, does not share any more; none if the call takes nothing away.
fn why(later: Later, all: bool, pid: u32, line: u32) -> Option<String> {
    let what = match (later, all) {
        (Later::Protect(prot), true) => {
            return Some(format!(
                "only with mappings that are {} too, in process {pid} from line {line} on (mprotect)",
                rights(prot)
            ));
        }
        (Later::Protect(_), false) => "got other rights (mprotect)",
        (Later::Unmap, false) => "was unmapped",
        (Later::Move, false) => "was moved away (mremap)",
        // What is gone as a whole leaves nothing that could share.
        (Later::Unmap | Later::Move, true) => return None,
        (Later::UserfaultWriteProtect, _) => {
            return Some(format!(
                "registered with userfaultfd for write protection, in process {pid} from line {line} on"
            ));
        }
        (Later::UserfaultMinor, _) => {
            return Some(format!(
                "registered with userfaultfd for minor faults, in process {pid} from line {line} on"
            ));
        }
    };
    Some(format!("a part of the gigabyte {what}, in process {pid} on line {line}"))
}

/// Rights as `/proc/PID/maps` writes them.
fn rights(prot: Prot) -> String {
    [(Prot::PROT_READ, 'r'), (Prot::PROT_WRITE, 'w'), (Prot::PROT_EXEC, 'x')]
        .into_iter()
        .map(|(right, letter)| if prot.contains(right) { letter } else { '-' })
        .collect()
}

/// What the mapping would gain from another place: none if nothing. A larger mapping would share more, too, and cost more
/// pages than that saves in tables.
pub(crate) fn to_gain(made: &Made) -> Option<Gain> {
    let bytes = made.range.end - made.range.start;
    let aligned = (bytes / GIB).saturating_sub(made.whole_ranges);
    (made.may_share() && made.processes > 1 && aligned > 0).then_some(Gain { aligned })
}

/// See [`to_gain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gain {
    /// 1 GiB ranges more that would share if the mapping began on a 1 GiB boundary.
    pub(crate) aligned: u64,
}

impl Gain {
    /// In words.
    pub(crate) fn sentence(self, made: &Made) -> String {
        let now = made.whole_ranges;
        let ranges = match now + self.aligned {
            1 => "1 range of 1 GiB would share its table".to_owned(),
            ranges => format!("{ranges} ranges of 1 GiB would share their tables"),
        };
        let instead = if now == 0 { ", now none does".to_owned() } else { format!(" instead of {now}") };
        format!("map what line {} maps 1 GiB aligned: {ranges}{instead}.", made.line)
    }
}

#[cfg(test)]
mod tests {
    use super::super::FileId;
    use super::*;
    use crate::programs::Program;

    fn made(start: u64, megabytes: u64) -> Made {
        let range = start..start + (megabytes << 20);
        Made {
            pid: 1,
            line: 7,
            call: "mmap",
            backing: String::new(),
            file: FileId(0),
            offset: 0,
            whole_ranges: { whole_ranges(&range) }.count() as u64,
            range,
            shift: 21,
            shared: true,
            prot: Prot::PROT_READ,
            processes: 2,
            program: Program::Other,
            unsharable: Vec::new(),
        }
    }

    fn parts(made: &Made) -> Vec<(u64, String)> {
        at_first(made).into_iter().map(|part| (part.bytes >> 20, part.why)).collect()
    }

    #[test]
    fn only_whole_aligned_gigabytes_of_shared_mappings_share() {
        let postgres = made(0x7fce_a580_0000, 2682);
        assert_eq!(postgres.whole_ranges, 2);
        let why = |text: &str| text.to_owned();
        let expected = [
            (424, why("lies before the first 1 GiB boundary")),
            (210, why("lies behind the last 1 GiB boundary")),
        ];
        assert_eq!(parts(&postgres), expected);
        assert_eq!(parts(&made(GIB, 2048)), []);
        assert_eq!(parts(&made(GIB + (2 << 20), 1500))[0].1, "covers no aligned 1 GiB range as a whole");
        assert_eq!(parts(&made(GIB, 500))[0].1, "smaller than the 1 GiB that a table covers");
        assert!(parts(&Made { shared: false, ..made(GIB, 2048) })[0].1.starts_with("private"));
        assert!(parts(&Made { shift: 30, ..made(GIB, 2048) })[0].1.starts_with("pages of 1 GiB"));
    }

    #[test]
    fn mappings_of_one_file_share_only_at_the_same_place_in_the_gigabyte_and_with_the_same_rights() {
        let first = made(GIB, 2048);
        let mut holders = Holders::default();
        holders.add(0, None, MappingId(0), &first);
        let why = |other: &Made| {
            beside_others(other, std::slice::from_ref(&first), &holders).pop().map(|part| part.why)
        };
        assert_eq!(why(&made(5 * GIB, 2048)), None);
        assert!(why(&made(5 * GIB + (2 << 20), 2048)).expect("a reason").contains("another place"));
        let writable = Made { prot: Prot::PROT_READ | Prot::PROT_WRITE, ..made(5 * GIB, 2048) };
        assert!(why(&writable).expect("a reason").ends_with("that one is r--, this one rw-"));
        assert_eq!(why(&Made { file: FileId(1), ..made(5 * GIB + (2 << 20), 2048) }), None);
        assert_eq!(why(&made(5 * GIB + (2 << 20), 500)), None, "too small to share with anybody");
        // One that is gone by then is nothing to agree with.
        holders.remove(0, None, MappingId(0), &first);
        let elsewhere = made(5 * GIB + (2 << 20), 2048);
        assert!(beside_others(&elsewhere, std::slice::from_ref(&first), &holders).is_empty());
    }

    #[test]
    fn a_later_call_on_a_part_costs_the_whole_gigabyte() {
        let mut plan = Plan { mappings: vec![made(GIB, 4096)], ..Plan::default() };
        let mapping = MappingId(0);
        plan.note(mapping, &(GIB..2 * GIB + 5), Later::Protect(Prot::PROT_READ), 12, 30);
        plan.note(mapping, &(3 * GIB..5 * GIB), Later::UserfaultMinor, 12, 31);
        plan.note(mapping, &(GIB..5 * GIB), Later::Unmap, 12, 32);
        let notes: Vec<_> =
            plan.mappings[0].unsharable.iter().map(|part| (part.bytes >> 30, part.why.as_str())).collect();
        let expected = [
            (1, "only with mappings that are r-- too, in process 12 from line 30 on (mprotect)"),
            (1, "a part of the gigabyte got other rights (mprotect), in process 12 on line 30"),
            (2, "registered with userfaultfd for minor faults, in process 12 from line 31 on"),
        ];
        assert_eq!(notes, expected);
    }

    #[test]
    fn advice_is_given_only_where_there_is_something_to_gain() {
        let sentence = |made: &Made| to_gain(made).map(|gain| gain.sentence(made));
        assert_eq!(sentence(&made(GIB, 2048)), None);
        assert_eq!(
            sentence(&made(GIB + (2 << 20), 2048)).as_deref(),
            Some(
                "map what line 7 maps 1 GiB aligned: 2 ranges of 1 GiB would share their tables instead of 1."
            )
        );
        let one = sentence(&made(GIB + (2 << 20), 1500)).expect("a gain");
        assert!(one.ends_with("would share its table, now none does."));
        assert_eq!(sentence(&made(0x7fce_a580_0000, 2682)), None, "only more pages would help");
        assert_eq!(sentence(&Made { processes: 1, ..made(GIB + (2 << 20), 2048) }), None);
        assert_eq!(sentence(&made(GIB + (2 << 20), 600)), None);
    }
}
