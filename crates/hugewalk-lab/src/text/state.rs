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
    format!("{}\n", wrapped("at first: ", &parts, width))
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
        let letter = char::from(b'A' + held.cpu as u8);
        parts.push(format!("{letter} holds {}", held.locks.join(" + ")));
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

fn table_words(table: &Table) -> String {
    match table.life {
        Life::Freed => "freed".to_owned(),
        Life::Retired if table.lock_freed => "waits for the grace period, its lock is freed".to_owned(),
        Life::Retired => "waits for the grace period".to_owned(),
        Life::Alive => format!("pt_share_count {}", table.users.cast_signed()),
    }
}

/// The parts, with as many on a line as fit.
fn wrapped(start: &str, parts: &[String], width: usize) -> String {
    let mut lines = vec![start.to_owned()];
    for (number, part) in parts.iter().enumerate() {
        let comma = if number + 1 < parts.len() { ";" } else { "" };
        let line = lines.last_mut().expect("one at least");
        let is_first = line.trim_end().len() <= start.trim_end().len();
        if !is_first && line.chars().count() + 1 + part.chars().count() + comma.len() > width {
            lines.push(format!("{:pad$}{part}{comma}", "", pad = start.len()));
        } else {
            let gap = if is_first { "" } else { " " };
            *line += &format!("{gap}{part}{comma}");
        }
    }
    lines.join("\n")
}
