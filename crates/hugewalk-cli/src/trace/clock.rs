//! What the times at the head of the lines mean, for the recording as a whole.

use serde::Serialize;

use super::line::{Body, Line, Stamp};
use super::time::Time;

/// By which clock a recording was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// Seconds since the epoch (`-ttt`): that of perf's faults.
    #[default]
    RealTime,
    /// Times of day (`-t`, `-tt`), made to go on over midnight.
    OfDay,
    /// Times since the line before (`-r`), added up.
    Relative,
    /// None: only the order of the lines is known.
    None,
}

const DAY: u64 = 24 * 60 * 60 * 1_000_000_000;

/// How the lines of a recording begin: as most of those do that strace certainly printed.
pub(super) fn shape(lines: &[(u32, Line<'_>)]) -> Stamp {
    let mut counts: [(Stamp, u32); 3] =
        [(Stamp::Seconds(Time(0)), 0), (Stamp::OfDay { time: Time(0), whole: true }, 0), (Stamp::None, 0)];
    for (_, line) in lines.iter().filter(|(_, line)| !matches!(line.body, Body::Other(_))) {
        if let Some((_, count)) = counts.iter_mut().find(|(stamp, _)| stamp.is_like(line.stamp)) {
            *count += 1;
        }
    }
    // Times that are there were not made up: lines without one are then the program's own.
    match counts.iter().filter(|(stamp, _)| *stamp != Stamp::None).max_by_key(|(_, count)| *count) {
        Some((stamp, count)) if *count > counts[2].1 / 4 => *stamp,
        _ => Stamp::None,
    }
}

/// Deltas are small, and do not grow from line to line as moments do.
fn are_deltas(times: &[Time]) -> bool {
    const YEAR: u64 = 365 * DAY;
    times.iter().all(|time| time.0 < YEAR) && (times.first() == Some(&Time(0)) || !times.is_sorted())
}

/// The moment of each line, and by which clock it is one.
pub(super) fn moments(lines: &[(u32, Line<'_>)]) -> (Clock, Vec<Time>) {
    let stamps = lines.iter().map(|(_, line)| line.stamp);
    match lines.first().map(|(_, line)| line.stamp) {
        None | Some(Stamp::None) => (Clock::None, vec![Time(0); lines.len()]),
        Some(Stamp::OfDay { .. }) => {
            let mut last = 0;
            let mut midnights = 0;
            let of_day = stamps.map(|stamp| {
                let Stamp::OfDay { time, .. } = stamp else { return Time(last + midnights) };
                if time.0 + DAY / 2 < last {
                    midnights += DAY;
                }
                last = time.0;
                Time(time.0 + midnights)
            });
            (Clock::OfDay, of_day.collect())
        }
        Some(Stamp::Seconds(_)) => {
            let times: Vec<Time> =
                stamps.map(|stamp| if let Stamp::Seconds(time) = stamp { time } else { Time(0) }).collect();
            if !are_deltas(&times) {
                return (Clock::RealTime, times);
            }
            let mut now = Time(0);
            let sums = times.into_iter().map(|delta| {
                now = now + delta;
                now
            });
            (Clock::Relative, sums.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::{Parsed, parse};
    use super::*;

    fn clock(texts: &[&str]) -> (Clock, Vec<u64>) {
        let lines: Vec<_> = texts
            .iter()
            .map(|text| match parse(text) {
                Parsed::Line(line) => (1, line),
                other => panic!("{other:?}"),
            })
            .collect();
        let (clock, times) = moments(&lines);
        (clock, times.into_iter().map(|time| time.0 / 1_000_000).collect())
    }

    #[test]
    fn deltas_are_added_up() {
        let texts = ["7 0.000000 a() = 0", "7 0.004000 a() = 0", "7 0.000000 a() = 0", "7 0.310000 a() = 0"];
        assert_eq!(clock(&texts), (Clock::Relative, vec![0, 4, 4, 314]));
        let begun_late = ["7 0.004000 a() = 0", "7 0.001000 a() = 0", "7 0.310000 a() = 0"];
        assert_eq!(clock(&begun_late), (Clock::Relative, vec![4, 5, 315]));
        assert_eq!(clock(&["5.1 a() = 0", "5.2 a() = 0"]).0, Clock::RealTime);
        // Files of -ff joined by cat: moments go back, but are none the less moments.
        assert_eq!(clock(&["1795340000.5 a() = 0", "1795340000.1 a() = 0"]).0, Clock::RealTime);
    }

    #[test]
    fn times_of_day_go_on_over_midnight() {
        let (clock, times) = clock(&["23:59:59.999 a() = 0", "00:00:00.001 a() = 0"]);
        assert_eq!((clock, times[1] - times[0]), (Clock::OfDay, 2));
    }

    #[test]
    fn the_shape_is_that_of_the_lines_that_are_strace_s() {
        let lines = |texts: &[&'static str]| -> Vec<(u32, Line<'static>)> {
            texts
                .iter()
                .filter_map(|text| if let Parsed::Line(line) = parse(text) { Some((1, line)) } else { None })
                .collect()
        };
        let mixed = lines(&["hello", "5.1 brk(0) = 0", "call(1) = 2", "5.2 brk(0) = 0", "and so on"]);
        assert!(shape(&mixed).is_like(Stamp::Seconds(Time(0))));
        assert_eq!(shape(&lines(&["brk(0) = 0", "5.1 x"])), Stamp::None);
    }
}
