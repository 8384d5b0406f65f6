//! What is said of a run at its end.

use std::collections::BTreeMap;

use serde::Serialize;

use super::wire::{Ended, Heard};

/// The report for programs.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    schema: &'static str,
    /// The program's exit status, or none if a signal ended it.
    exit: Option<u8>,
    signal: Option<u8>,
    seconds: f64,
    /// All counters by name; `docs/kernel.md` says what they count.
    counts: BTreeMap<&'a str, u64>,
    /// Tables that several processes used at once, as read from the hardware's tables.
    shared: Vec<Shared>,
    /// System calls that the kernel lacks.
    missing: Vec<Missing<'a>>,
    /// What was not given back.
    leaks: &'a [String],
    /// What a step that was left out has led to.
    stale: &'a [String],
}

#[derive(Debug, Serialize)]
struct Shared {
    tables: u64,
    users: u64,
}

#[derive(Debug, Serialize)]
struct Missing<'a> {
    name: &'a str,
    times: u64,
}

/// One line of JSON.
pub(super) fn json(heard: &Heard, ended: Ended, seconds: f64) -> serde_json::Result<String> {
    let (exit, signal) = match ended {
        Ended::Exit(status) => (Some(status), None),
        Ended::Signal(signal) => (None, Some(signal)),
    };
    serde_json::to_string(&Report {
        schema: "hugewalk-run/1",
        exit,
        signal,
        seconds,
        counts: heard.counts.iter().map(|(name, number)| (name.as_str(), *number)).collect(),
        shared: heard.shared.iter().map(|&(tables, users)| Shared { tables, users }).collect(),
        missing: heard.missing.iter().map(|(name, times)| Missing { name, times: *times }).collect(),
        leaks: &heard.leaks,
        stale: &heard.stale,
    })
}

/// Lines for people.
pub(super) fn text(heard: &Heard, ended: Ended, seconds: f64) -> String {
    let how = match ended {
        Ended::Exit(status) => format!("exit {status}"),
        Ended::Signal(signal) => format!("ended by {}", signal_name(signal)),
    };
    let mut first = vec![];
    for (name, one, many) in
        [("calls", "kind of system call", "kinds of system call"), ("faults", "fault", "faults")]
    {
        first.extend(heard.count(name).map(|number| counted(number, one, many)));
    }
    if let (Some(peak), Some(pages)) = (heard.count("pages_peak"), heard.count("pages")) {
        first.push(format!("most huge pages in use {peak} of {pages}"));
    }
    let mut lines = vec![said(&format!("{how} after {seconds:.1} s"), &first)];

    let mut tables = vec![];
    if let Some(most) = heard.count("tables_peak") {
        tables.push(format!("at most {most} of the engine's"));
    }
    for &(number, users) in &heard.shared {
        tables.push(format!("{} by {users}", counted(number, "shared", "shared")));
    }
    if heard.shared.is_empty() && heard.count("tables_peak").is_some() {
        tables.push("none shared".to_owned());
    }
    let mut changes = vec![];
    for (name, what) in [("shares", "shares"), ("unshares", "unshares")] {
        changes.extend(heard.count(name).map(|number| format!("{what} {number}")));
    }
    let mut processors = vec![];
    for (name, what) in [
        ("flushes", "flushes"),
        ("interrupts", "interrupts to other processors"),
        ("disturbed", "programs disturbed by them"),
    ] {
        processors.extend(heard.count(name).map(|number| format!("{what} {number}")));
    }
    if !tables.is_empty() {
        lines.push(said(&format!("tables: {}", tables.join(", ")), &changes));
    }
    if !processors.is_empty() {
        lines.push(format!("TLB: {}", processors.join(", ")));
    }
    if let Some(left_out) = heard.count("left_out") {
        let flushes = counted(left_out, "flush was", "flushes were");
        lines.push(said(&format!("without flush: {flushes} left out"), &heard.stale));
    }
    if !heard.missing.is_empty() {
        let each = heard.missing.iter().map(|(name, times)| match times {
            1 => name.clone(),
            _ => format!("{name} ({times} times)"),
        });
        lines.push(format!("not in this kernel: {}", each.collect::<Vec<_>>().join(", ")));
    }
    lines.iter().map(|line| format!("hugewalk: {line}\n")).collect()
}

fn said(first: &str, more: &[String]) -> String {
    if more.is_empty() { first.to_owned() } else { format!("{first}; {}", more.join(", ")) }
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// `SIGSEGV`, or the number of one without a name.
pub(super) fn signal_name(signal: u8) -> String {
    match signal_hook::low_level::signal_name(i32::from(signal)) {
        Some(name) => name.to_owned(),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &str) -> Heard {
        let mut heard = Heard::default();
        for line in lines.lines() {
            assert_eq!(heard.take(line), None);
        }
        assert_eq!(heard.foreign, None);
        heard
    }

    #[test]
    fn what_is_counted_is_said_and_what_is_not_is_left_out() {
        let heard = heard(
            "count calls 17\ncount faults 1\ncount pages 256\ncount pages_peak 128\ncount tables_peak 2\nshared 1 3\n\
             count flushes 2\nmissing 2 getcpu\nmissing 1 ioctl 0x5401",
        );
        assert_eq!(
            text(&heard, Ended::Exit(0), 1.06),
            "hugewalk: exit 0 after 1.1 s; 17 kinds of system call, 1 fault, most huge pages in use 128 of 256\n\
             hugewalk: tables: at most 2 of the engine's, 1 shared by 3\n\
             hugewalk: TLB: flushes 2\n\
             hugewalk: not in this kernel: getcpu (2 times), ioctl 0x5401\n"
        );
        assert_eq!(
            text(&Heard::default(), Ended::Signal(11), 0.0),
            "hugewalk: ended by SIGSEGV after 0.0 s\n"
        );
    }

    #[test]
    fn the_report_for_programs_holds_every_counter() {
        let json = json(&heard("count odd 7\nshared 1 3"), Ended::Signal(9), 0.5).expect("JSON");
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["schema"], "hugewalk-run/1");
        assert_eq!((&value["exit"], &value["signal"]), (&serde_json::Value::Null, &9.into()));
        assert_eq!(value["counts"]["odd"], 7);
        assert_eq!(value["shared"][0]["users"], 3);
    }
}
