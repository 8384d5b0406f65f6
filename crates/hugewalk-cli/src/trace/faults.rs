//! Page faults, as `perf script --ns -F pid,tid,time,event,addr` prints them.

use std::path::Path;

use winnow::ascii::{dec_uint, hex_uint, space0, space1};
use winnow::combinator::{opt, preceded, separated_pair, terminated};
use winnow::prelude::*;
use winnow::token::take_till;

use super::error::{Problem, TraceError};
use super::time::Time;

/// A page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub time: Time,
    /// The line of the file.
    pub line: u32,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The address touched.
    pub address: u64,
}

/// Reads the text of a fault file; the faults come back in order of time.
///
/// # Errors
///
/// If a line is not what perf prints.
pub fn read(file: &Path, text: &str) -> Result<Vec<Fault>, TraceError> {
    let mut faults = Vec::new();
    for (number, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (pid, tid, time, event, address) = fault
            .parse(text)
            .map_err(|_| TraceError::at(file, number, Problem::NotAFault(text.to_owned())))?;
        if is_page_fault(event) {
            faults.push(Fault { time, line: number, pid, tid, address });
        }
    }
    // perf writes buffer by buffer, one per processor.
    faults.sort_by_key(|fault| (fault.time, fault.line));
    Ok(faults)
}

type Parts<'a> = (u32, u32, Time, &'a str, u64);

fn fault<'a>(input: &mut &'a str) -> winnow::Result<Parts<'a>> {
    let (pid, tid) = terminated(separated_pair(dec_uint, '/', dec_uint), space1).parse_next(input)?;
    let time = terminated(Time::parser, (':', space1)).parse_next(input)?;
    // An event's name may itself hold colons: `exceptions:page_fault_user:`, `page-faults:u:`.
    let event = terminated(take_till(1.., char::is_whitespace), space1).parse_next(input)?;
    let address = preceded((space0, opt("0x")), hex_uint::<_, u64, _>).parse_next(input)?;
    Ok((pid, tid, time, event, address))
}

/// Other events may have been recorded in the same file.
fn is_page_fault(event: &str) -> bool {
    ["page-faults", "faults", "minor-faults", "major-faults", "exceptions:page_fault_user"]
        .iter()
        .any(|name| event.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_back_in_order_of_time() {
        let text = "# comment\n  7/8 5.000000002: page-faults:     7fcea5800000\n\
                    7/7 5.000000001: page-faults:u:  1000\n7/7 5.5: cycles:  1000\n\
                    7/7 5.6: exceptions:page_fault_user: 0x2000\n";
        let faults = read(Path::new("f"), text).expect("good");
        let seen: Vec<_> = faults.iter().map(|fault| (fault.line, fault.tid, fault.address)).collect();
        assert_eq!(seen, [(3, 7, 0x1000), (2, 8, 0x7fce_a580_0000), (5, 7, 0x2000)]);
    }

    #[test]
    fn a_line_that_is_no_fault_is_an_error_with_its_number() {
        for bad in [
            "7 5.1: page-faults: 10",
            "7/7 5.1 page-faults: 10",
            "7/7 5.1: page-faults:",
            "7/7 5.1: page-faults: xyz",
            "PERFILE2",
        ] {
            let error = read(Path::new("f"), &format!("7/7 5.1: page-faults: 10\n{bad}\n")).expect_err(bad);
            assert!(error.to_string().starts_with("f:2: not a fault: `"), "{error}");
        }
    }
}
