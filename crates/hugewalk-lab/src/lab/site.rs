//! What an access is called, and which line of the engine makes it.

use std::backtrace::Backtrace;

use hugewalk::arch::{Entry, RawEntry};

use super::world::{Place, world};
use crate::explore::Kind;

/// An access to a word, in words.
pub(super) fn describe(place: Place, kind: Kind, before: u64, after: u64) -> String {
    let entry = |bits: u64| match RawEntry::from_bits(bits).decode() {
        Entry::None => "none".to_owned(),
        Entry::Table(frame) => format!("table {}", frame.0),
        Entry::Leaf(leaf) => format!("page {:#x}", leaf.frame.0),
        other => format!("{other:?}"),
    };
    let (name, is_entry) = match place {
        Place::Entry(frame, index) => (world().name_of(frame, index), true),
        Place::Record(frame, 3) => (format!("generation of table {}", frame.0), false),
        Place::Record(frame, 4) => (format!("users of table {}", frame.0), false),
        Place::Record(frame, word) => (format!("record of table {}, word {word}", frame.0), false),
        Place::PageRecord(word) => (format!("record of page {:#x}", (word / 16 + 1) << 9), false),
        Place::Elsewhere => ("a number".to_owned(), false),
    };
    let show = |bits| if is_entry { entry(bits) } else { bits.to_string() };
    match kind {
        Kind::Read => format!("{name} = {}{}", show(before), site()),
        Kind::Write => format!("{name}: {} -> {}{}", show(before), show(after), site()),
    }
}

/// Something else that was done, with where.
pub(super) fn at(what: &str) -> String {
    format!("{what}{}", site())
}

/// The function of the engine that is running, and the line: the innermost one that is not about words and locks as such.
/// Empty if there is none, or the program has no line tables.
fn site() -> String {
    let trace = Backtrace::force_capture().to_string();
    let mut symbol = "";
    let mut last = String::new();
    for line in trace.lines().map(str::trim) {
        let Some(place) = line.strip_prefix("at ") else {
            symbol = line.split_once(": ").map_or("", |(_, symbol)| symbol);
            continue;
        };
        let Some((_, file)) = place.rsplit_once("hugewalk/src/") else { continue };
        let file = file.rsplit_once(':').map_or(file, |(file, _column)| file);
        let plain = symbol.split('<').find(|part| !part.is_empty()).unwrap_or(symbol);
        let function = plain.trim_end_matches("::").rsplit("::").find(|part| !part.starts_with('{'));
        let function = function.map(|function| format!("{function} ")).unwrap_or_default();
        last = format!("  [{function}{file}]");
        if !["sync/", "table/", "rcu/"].iter().any(|part| file.starts_with(part)) {
            return last;
        }
    }
    last
}
