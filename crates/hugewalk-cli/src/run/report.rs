//! What is said of a run at its end.

use std::collections::BTreeMap;

use serde::Serialize;

use super::protocol::Protocol;
use super::wire::{Ended, Heard};

/// The report for programs.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    schema: &'static str,
    /// The program's exit status, or none if a signal ended it.
    exit: Option<u8>,
    signal: Option<u8>,
    seconds: f64,
    /// The locking protocol, and the broadcasts of it and of others.
    protocol: Followed<'a>,
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
struct Followed<'a> {
    name: &'static str,
    without: &'a [&'static str],
    /// Broadcasts to all other processors that this run sent.
    broadcasts: u64,
    /// Those that the two protocols would have sent, or have: one for each table unshared, and one for each flush after which a table has
    /// one user left.
    ipi_each: u64,
    ipi_last: u64,
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
pub(super) fn json(
    heard: &Heard,
    ended: Ended,
    seconds: f64,
    protocol: &Protocol,
) -> serde_json::Result<String> {
    let (exit, signal) = match ended {
        Ended::Exit(status) => (Some(status), None),
        Ended::Signal(signal) => (None, Some(signal)),
    };
    serde_json::to_string(&Report {
        schema: "hugewalk-run/1",
        exit,
        signal,
        seconds,
        protocol: Followed {
            name: protocol.name,
            without: &protocol.without,
            broadcasts: heard.count("broadcasts").unwrap_or(0),
            ipi_each: heard.count("unshares").unwrap_or(0),
            ipi_last: heard.count("last_flushes").unwrap_or(0),
        },
        counts: heard.counts.iter().map(|(name, number)| (name.as_str(), *number)).collect(),
        shared: heard.shared.iter().map(|&(tables, users)| Shared { tables, users }).collect(),
        missing: heard.missing.iter().map(|(name, times)| Missing { name, times: *times }).collect(),
        leaks: &heard.leaks,
        stale: &heard.stale,
    })
}

/// Lines for people.
pub(super) fn text(heard: &Heard, ended: Ended, seconds: f64, protocol: &Protocol) -> String {
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
    lines.extend(broadcasts(heard, protocol));
    if !protocol.is_own() {
        lines.extend(weaker(heard, protocol));
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

/// The broadcasts of the run, and beside them those of the protocols that have some.
fn broadcasts(heard: &Heard, protocol: &Protocol) -> Option<String> {
    let unshares = heard.count("unshares").filter(|number| *number > 0)?;
    let (sent, last) = (heard.count("broadcasts")?, heard.count("last_flushes")?);
    let interrupts = heard.count("interrupts_broadcast").unwrap_or(0);
    let mut own = format!("{} {sent}", protocol.name);
    if sent > 0 {
        own += &format!(" ({})", counted(interrupts, "interrupt", "interrupts"));
    }
    let others = [("ipi-each", unshares), ("ipi-last", last), ("hugewalk", 0)];
    let others = others.iter().filter(|(name, _)| *name != protocol.name);
    let others: Vec<_> = others.map(|(name, number)| format!("{name} {number}")).collect();
    Some(format!("broadcasts to all processors: {own}; in the same run {}", others.join(", ")))
}

/// What came of a protocol that is weaker than the engine's own.
fn weaker(heard: &Heard, protocol: &Protocol) -> Vec<String> {
    let mut name = protocol.name.to_owned();
    for step in &protocol.without {
        name += &format!(" without {step}");
    }
    let mut seen = vec![];
    if let Some(left_out) = heard.count("left_out") {
        seen.push(format!("{} left out", counted(left_out, "flush was", "flushes were")));
    }
    for (counter, one, many) in [
        ("late_walks", "walk came to a table that was freed", "walks came to tables that were freed"),
        ("late_stores", "freed table was stored to", "freed tables were stored to"),
    ] {
        seen.extend(
            heard.count(counter).filter(|number| *number > 0).map(|number| counted(number, one, many)),
        );
    }
    if seen.is_empty() {
        seen.push("nothing late was seen".to_owned());
    }
    seen.extend(heard.stale.iter().cloned());
    vec![format!("{name}: {}", seen.join("; "))]
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
            text(&heard, Ended::Exit(0), 1.06, &Protocol::own()),
            "hugewalk: exit 0 after 1.1 s; 17 kinds of system call, 1 fault, most huge pages in use 128 of 256\n\
             hugewalk: tables: at most 2 of the engine's, 1 shared by 3\n\
             hugewalk: TLB: flushes 2\n\
             hugewalk: not in this kernel: getcpu (2 times), ioctl 0x5401\n"
        );
        assert_eq!(
            text(&Heard::default(), Ended::Signal(11), 0.0, &Protocol::own()),
            "hugewalk: ended by SIGSEGV after 0.0 s\n"
        );
    }

    #[test]
    fn the_report_for_programs_holds_every_counter() {
        let json =
            json(&heard("count odd 7\nshared 1 3"), Ended::Signal(9), 0.5, &Protocol::own()).expect("JSON");
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["schema"], "hugewalk-run/1");
        assert_eq!((&value["exit"], &value["signal"]), (&serde_json::Value::Null, &9.into()));
        assert_eq!(value["counts"]["odd"], 7);
        assert_eq!(value["shared"][0]["users"], 3);
        assert_eq!(value["protocol"]["name"], "hugewalk");
    }

    #[test]
    fn broadcasts_stand_beside_those_of_other_protocols() {
        let heard =
            heard("count unshares 4\ncount last_flushes 2\ncount broadcasts 0\ncount interrupts_broadcast 0");
        let text = text(&heard, Ended::Exit(0), 0.0, &Protocol::own());
        let line =
            "hugewalk: broadcasts to all processors: hugewalk 0; in the same run ipi-each 4, ipi-last 2\n";
        assert!(text.ends_with(line), "{text}");
    }
}
