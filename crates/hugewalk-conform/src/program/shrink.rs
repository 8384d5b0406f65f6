//! Shorter programs that still do what a program does.

use super::{Bytes, Call, FileKind, MapFlags, PAGE, Program, Step};

/// Makes a program as short as it gets while `still` says so of it. Asks `most` times at most.
pub fn shrink(program: &Program, most: u32, mut still: impl FnMut(&Program) -> bool) -> Program {
    let mut best = program.clone();
    let mut left = most;
    loop {
        let before = best.clone();
        let mut keep_if = |candidate: Program, best: &mut Program| {
            let good = candidate != *best && left > 0 && {
                left -= 1;
                still(&candidate)
            };
            if good {
                *best = candidate;
            }
            good
        };
        // Runs of steps, long ones first.
        let mut run = best.steps.len().div_ceil(2);
        while run > 0 {
            let mut at = best.steps.len();
            while at > 0 {
                let from = at.saturating_sub(run);
                let mut candidate = best.clone();
                candidate.steps.drain(from..at);
                keep_if(candidate, &mut best);
                at = from.min(best.steps.len());
            }
            run /= 2;
        }
        for at in 0..best.steps.len() {
            for step in simpler(&best.steps[at]) {
                let mut candidate = best.clone();
                candidate.steps[at] = step;
                if keep_if(candidate, &mut best) {
                    break;
                }
            }
        }
        if best == before || left == 0 {
            return best;
        }
    }
}

/// Steps that do less than a step does, the simplest first.
fn simpler(step: &Step) -> Vec<Step> {
    let mut found = Vec::new();
    match step {
        Step::Pool { pages } => {
            found.extend([0, 1, 2, pages / 2, pages.saturating_sub(1)].map(|pages| Step::Pool { pages }));
        }
        Step::Overcommit { pages } => found.extend([0, 1, pages / 2].map(|pages| Step::Overcommit { pages })),
        Step::Mount { mount, size, min } => {
            let mount = *mount;
            found.extend([
                Step::Mount { mount, size: None, min: *min },
                Step::Mount { mount, size: *size, min: None },
            ]);
        }
        Step::Open { file, kind: FileKind::Segment { length, reserve } } => {
            let (file, reserve) = (*file, *reserve);
            let open = |length| Step::Open { file, kind: FileKind::Segment { length, reserve } };
            found.extend(smaller(*length).map(open));
        }
        Step::Truncate { file, size } => {
            found.extend(smaller(*size).map(|size| Step::Truncate { file: *file, size }));
        }
        Step::Allocate { file, from, length, keep } => {
            let (file, keep) = (*file, *keep);
            found.extend(smaller(*from).map(|from| Step::Allocate { file, from, length: *length, keep }));
            found.extend(smaller(*length).map(|length| Step::Allocate { file, from: *from, length, keep }));
        }
        Step::Punch { file, from, length } => {
            let file = *file;
            found.extend(smaller(*from).map(|from| Step::Punch { file, from, length: *length }));
            found.extend(smaller(*length).map(|length| Step::Punch { file, from: *from, length }));
        }
        Step::In { process, call } => {
            found.extend(simpler_calls(call).into_iter().map(|call| Step::In { process: *process, call }));
        }
        _ => {}
    }
    found.retain(|simpler| simpler != step);
    found
}

fn simpler_calls(call: &Call) -> Vec<Call> {
    match *call {
        Call::Map(ref map) => {
            let mut found = Vec::new();
            let unwanted = [MapFlags::POPULATE, MapFlags::LOCKED, MapFlags::NO_RESERVE, MapFlags::NO_REPLACE];
            for flag in unwanted.into_iter().filter(|flag| map.flags.contains(*flag)) {
                let mut plain = map.clone();
                plain.flags -= flag;
                plain.flags |= MapFlags::FIXED;
                found.push(Call::Map(plain));
            }
            for length in smaller(map.length) {
                found.push(Call::Map(super::Map { length, ..map.clone() }));
            }
            if let Some((file, offset)) = map.file {
                found.push(Call::Map(super::Map { file: None, ..map.clone() }));
                for offset in smaller(offset) {
                    found.push(Call::Map(super::Map { file: Some((file, offset)), ..map.clone() }));
                }
            }
            found
        }
        Call::Unmap { at, length } => smaller(length).map(|length| Call::Unmap { at, length }).collect(),
        Call::Protect { at, length, rights } => {
            smaller(length).map(|length| Call::Protect { at, length, rights }).collect()
        }
        Call::Advise { at, length, advice } => {
            smaller(length).map(|length| Call::Advise { at, length, advice }).collect()
        }
        Call::Sweep { at, length } => smaller(length).map(|length| Call::Sweep { at, length }).collect(),
        Call::Mincore { at, length } => smaller(length).map(|length| Call::Mincore { at, length }).collect(),
        Call::Scan { at, length, written, protect, check } => {
            smaller(length).map(|length| Call::Scan { at, length, written, protect, check }).collect()
        }
        Call::Nodes { at, length, moved } => {
            smaller(length).map(|length| Call::Nodes { at, length, moved }).collect()
        }
        Call::Lock { at, length, on_fault } => {
            smaller(length).map(|length| Call::Lock { at, length, on_fault }).collect()
        }
        Call::Unlock { at, length } => smaller(length).map(|length| Call::Unlock { at, length }).collect(),
        Call::Bind { at, length, policy } => {
            smaller(length).map(|length| Call::Bind { at, length, policy }).collect()
        }
        Call::LockNew { on_fault: true } => vec![Call::LockNew { on_fault: false }],
        Call::Attach { file, at, replace: true } => vec![Call::Attach { file, at, replace: false }],
        Call::Attach { .. } | Call::Detach { .. } => Vec::new(),
        Call::Store { at, .. } => vec![Call::Load { at }, Call::Store { at: at.page(), value: 1 }],
        Call::Peek { of, at, length } => [1, length / 2]
            .into_iter()
            .filter(|&fewer| fewer < length)
            .map(|length| Call::Peek { of, at, length })
            .collect(),
        Call::Poke { of, at, length, value } => [1, length / 2]
            .into_iter()
            .filter(|&fewer| fewer < length)
            .map(|length| Call::Poke { of, at, length, value })
            .collect(),
        Call::Load { at } => vec![Call::Load { at: at.page() }],
        Call::Userfault { handler, ref handling } => {
            let lengths = handling.range().into_iter().flat_map(|(_, length)| smaller(length));
            lengths
                .map(|length| Call::Userfault { handler, handling: handling.with_length(length) })
                .collect()
        }
        Call::Remap { .. } | Call::Fork { .. } | Call::Exit | Call::LockNew { .. } | Call::UnlockAll => {
            Vec::new()
        }
    }
}

fn smaller(bytes: Bytes) -> impl Iterator<Item = Bytes> {
    let pages = bytes.0 / PAGE;
    let candidates = [0, PAGE, 2 * PAGE, pages / 2 * PAGE, pages.saturating_sub(1) * PAGE, pages * PAGE];
    candidates.into_iter().filter(move |&fewer| fewer < bytes.0).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::generate::Generator;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let stores = |program: &Program| {
            let store = |step: &&Step| matches!(step, Step::In { call: Call::Store { .. }, .. });
            program.steps.iter().filter(store).count()
        };
        let program = (0..).map(|seed| Generator::new(seed).program()).find(|program| stores(program) > 3);
        let short = shrink(&program.unwrap(), 10_000, |program| stores(program) > 1);
        assert_eq!((short.steps.len(), stores(&short)), (2, 2));
    }

    #[test]
    fn shrinking_ends_when_it_has_asked_often_enough() {
        let mut asked = 0;
        let program = Generator::new(1).program();
        shrink(&program, 17, |_| {
            asked += 1;
            false
        });
        assert!(asked <= 17);
    }
}
