//! The state that matters, in a line or two.

use crate::story::{Life, State, Table};

/// The state before all steps.
pub(super) fn at_first(state: &State, width: usize) -> String {
    let mut parts = parents(state);
    parts.extend(state.tables.iter().map(|table| {
        let entries = table.entries.iter().map(|entry| format!("[{}] = {}", entry.index, entry.entry));
        let filled = entries.collect::<Vec<_>>().join(", ");
        let filled = if filled.is_empty() { "empty".to_owned() } else { filled };
        format!("{}: {}, {filled}", table.name, table_words(table))
    }));
    wrapped("at first: ", &parts, width)
}

/// What has changed since the state that was told last, and who holds what.
pub(super) fn changed(told: &State, now: &State, width: usize) -> String {
    let before = parents(told);
    let mut parts: Vec<String> = parents(now).into_iter().filter(|part| !before.contains(part)).collect();
    for table in &now.tables {
        let was = told.tables.iter().find(|was| was.name == table.name);
        if was.is_none_or(|was| table_words(was) != table_words(table)) {
            parts.push(format!("{}: {}", table.name, table_words(table)));
        }
    }
    for held in &now.holds {
        let has = if held.locks[0] == "interrupts off" { "has" } else { "holds" };
        parts.push(format!("{} {has} {}", char::from(b'A' + held.cpu as u8), held.locks.join(" + ")));
    }
    if parts.is_empty() {
        parts.push("nothing has changed, nobody holds a lock".to_owned());
    }
    wrapped("-- ", &parts, width)
}

fn parents(state: &State) -> Vec<String> {
    let of = |process: &crate::story::Process| {
        let entries: Vec<_> = process
            .pud
            .iter()
            .map(|entry| format!("{}.pud[{}] = {}", process.name, entry.index, entry.entry))
            .collect();
        if entries.is_empty() { vec![format!("{} has no tables", process.name)] } else { entries }
    };
    state.processes.iter().flat_map(of).collect()
}

/// What has become of a table.
pub(super) fn table_words(table: &Table) -> String {
    let users = table.users.cast_signed();
    match table.life {
        Life::Freed => "freed".to_owned(),
        Life::Retired if table.lock_freed => "waits for the grace period, its lock is freed".to_owned(),
        Life::Retired => "waits for the grace period".to_owned(),
        Life::Alive if table.lock_freed => format!("pt_share_count {users}, its lock is freed"),
        Life::Alive => format!("pt_share_count {users}"),
    }
}

/// A part, taken apart where locks or the entries of a table are joined.
fn taken_apart(part: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for joined in part.split_inclusive(" + ") {
        for (number, entry) in joined.trim_end().split(", [").enumerate() {
            match pieces.last_mut() {
                Some(before) if number > 0 => {
                    before.push(',');
                    pieces.push(format!("[{entry}"));
                }
                _ => pieces.push(entry.to_owned()),
            }
        }
    }
    pieces
}

/// The parts, with as many on a line as fit. One that is longer than a line is taken apart.
pub(super) fn wrapped(start: &str, parts: &[String], width: usize) -> String {
    let mut lines = vec![start.trim_end().to_owned()];
    let mut is_first = true;
    for (number, part) in parts.iter().enumerate() {
        let comma = if number + 1 < parts.len() { ";" } else { "" };
        let mut deeper = 0;
        let mut pieces = vec![format!("{part}{comma}")];
        if start.len() + part.len() + comma.len() > width {
            pieces = taken_apart(part);
            pieces.last_mut().expect("one at least").push_str(comma);
            deeper = 2;
        }
        for (number, piece) in pieces.iter().enumerate() {
            let line = lines.last_mut().expect("one at least");
            // A part begins a line of its own rather than to break twice.
            let breaks = pieces.len() > 1 && number == 0;
            if !is_first && (breaks || line.len() + 1 + piece.len() > width) {
                let pad = start.len() + if number > 0 { deeper } else { 0 };
                lines.push(format!("{:pad$}{piece}", ""));
            } else {
                *line += &format!(" {piece}");
            }
            is_first = false;
        }
    }
    lines.join("\n")
}
