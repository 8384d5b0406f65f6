//! The files of `strace -ff`, one for each thread, put behind each other: lines that do not say whose they are, but whose
//! order shows where one thread ends and the next begins.

use std::collections::BTreeSet;

use super::clock::Clock;
use super::line::{self, Body};
use super::sift::Sifted;
use super::time::Time;

/// A number for a thread of which none is recorded. No real one is as large.
const NAMELESS: u32 = 1 << 30;

/// One thread's lines.
struct Section {
    start: usize,
    end: usize,
}

/// Gives each line its thread, if these are files that were joined; returns what to say of it. The thread that made the
/// others is `main`.
pub(super) fn name_threads(lines: &mut [Sifted<'_>], clock: Clock, main: u32) -> Option<String> {
    if lines.iter().any(|line| line.tid.is_some()) {
        return None;
    }
    let sections = sections(lines, clock);
    if sections.len() < 2 {
        return None;
    }
    let first_time = |section: &Section| lines[section.start].time;
    let root = (0..sections.len()).min_by_key(|place| (first_time(&sections[*place]), *place))?;
    let children: Vec<(Time, u32)> =
        lines.iter().filter_map(|line| Some((line.time, child(line)?))).collect();
    let names = by_name(&sections, root, &children)
        .filter(|names| {
            clock == Clock::None
                || all_begin_after_their_clone(names, &children, |place| first_time(&sections[place]))
        })
        .unwrap_or_else(|| by_time(&sections, root, children, first_time));
    let nameless = names.iter().filter(|(_, tid)| *tid >= NAMELESS).count();
    for (place, section) in sections.iter().enumerate() {
        let tid = names.iter().find(|(named, _)| *named == place).map_or(main, |(_, tid)| *tid);
        for line in &mut lines[section.start..section.end] {
            line.tid = Some(tid);
        }
    }
    if clock == Clock::None {
        put_in_order(lines, &sections, root, &names);
    }
    let mut note = format!(
        "No line names its thread, and the lines begin anew {}: they are taken for files of strace -ff, and each file for \
         that of the next thread that a clone made. strace-log-merge joins such files and keeps their numbers.",
        match sections.len() - 1 {
            1 => "once".to_owned(),
            more => format!("{more} times"),
        }
    );
    if nameless > 0 {
        note +=
            &format!(" Of {nameless} of them no clone is recorded, so that what they shared is not known.");
    }
    if clock == Clock::None {
        note += " Without times (-ttt) it is not known in which order the threads did what they did: each is taken to do \
                 all that it does right after it was made.";
    }
    Some(note)
}

/// Without times: what a thread does is put behind the clone that made it.
fn put_in_order(lines: &mut [Sifted<'_>], sections: &[Section], root: usize, names: &[(usize, u32)]) {
    // Room for what is put behind another line.
    const STEP: u64 = 2;
    let mut now = 0;
    let mut done = vec![false; sections.len()];
    let mut open = vec![(root, sections[root].start)];
    let mut rest = 0..sections.len();
    loop {
        let Some((place, line)) = open.pop() else {
            // One that nobody is seen to have made.
            match rest.find(|place| !done[*place]) {
                Some(place) => open.push((place, sections[place].start)),
                None => return,
            }
            continue;
        };
        done[place] = true;
        if line == sections[place].end {
            continue;
        }
        now += STEP;
        lines[line].time = Time(now);
        open.push((place, line + 1));
        let made = child(&lines[line]).and_then(|tid| names.iter().find(|(_, named)| *named == tid));
        if let Some((child, _)) = made.filter(|(child, _)| !done[*child]) {
            open.push((*child, sections[*child].start));
        }
    }
}

/// A new thread begins behind the end of one, and where time goes back.
fn sections(lines: &[Sifted<'_>], clock: Clock) -> Vec<Section> {
    let mut starts = vec![0];
    for (place, pair) in lines.windows(2).enumerate() {
        let ends = matches!(pair[0].body, Body::Ended { .. });
        if ends || clock == Clock::RealTime && pair[1].time < pair[0].time {
            starts.push(place + 1);
        }
    }
    let ends = starts.iter().skip(1).copied().chain([lines.len()]);
    starts.iter().zip(ends).map(|(start, end)| Section { start: *start, end }).collect()
}

fn child(line: &Sifted<'_>) -> Option<u32> {
    let Body::Call(text) = line.body else { return None };
    let name = text.split('(').next()?;
    matches!(name, "clone" | "clone3" | "fork" | "vfork").then(|| line::child_of(text))?
}

/// `cat FILE.*` goes through the files in the order of their names, which end with the number of the thread.
fn by_name(sections: &[Section], root: usize, children: &[(Time, u32)]) -> Option<Vec<(usize, u32)>> {
    let mut names: Vec<(String, u32)> =
        children.iter().map(|(_, child)| (child.to_string(), *child)).collect();
    names.sort();
    let others = (0..sections.len()).filter(|place| *place != root);
    (names.len() + 1 == sections.len()).then(|| others.zip(names.iter().map(|(_, child)| *child)).collect())
}

fn all_begin_after_their_clone(
    names: &[(usize, u32)],
    children: &[(Time, u32)],
    first_time: impl Fn(usize) -> Time,
) -> bool {
    names
        .iter()
        .all(|(place, tid)| children.iter().any(|(made, child)| child == tid && *made <= first_time(*place)))
}

/// Each begins soon after the clone that made it.
fn by_time(
    sections: &[Section],
    root: usize,
    children: Vec<(Time, u32)>,
    first_time: impl Fn(&Section) -> Time,
) -> Vec<(usize, u32)> {
    let mut children: BTreeSet<(Time, u32)> = children.into_iter().collect();
    let mut others: Vec<usize> = (0..sections.len()).filter(|place| *place != root).collect();
    others.sort_by_key(|place| (first_time(&sections[*place]), *place));
    let mut nameless = NAMELESS..;
    let mut name = |place: usize| {
        let made = children.first().copied().filter(|(made, _)| *made <= first_time(&sections[place]));
        match made {
            Some(child) => {
                children.remove(&child);
                child.1
            }
            None => nameless.next().unwrap_or(NAMELESS),
        }
    };
    others.into_iter().map(|place| (place, name(place))).collect()
}
