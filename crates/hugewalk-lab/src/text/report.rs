//! The report, in the manner of KASAN.

use std::fmt::Write as _;

use super::{Drawing, Style, lane, paragraph, state};
use crate::story::{Event, Report, Source, Story, Taken};

pub(super) fn report(story: &Story, found: &Report, drawing: &Drawing) -> String {
    let bar = "=".repeat(66.min(drawing.width));
    let mut out = format!("{bar}\n");
    let who = |cpu: Option<usize>| match cpu.and_then(|cpu| story.cpus.get(cpu)) {
        Some(cpu) => lane::title(cpu),
        None => "the setup".to_owned(),
    };
    let title = format!("BUG: hugewalk: {}", found.title);
    let _ = writeln!(out, "{}", drawing.styled(Style::Bold, &title));
    let what = format!("{}: {}", found.property, found.what);
    let _ = writeln!(out, "{}", paragraph(&what, drawing.width));
    if found.cpu.is_some() {
        let _ = writeln!(out, "\n{}:", who(found.cpu));
        stack(&found.stack, drawing, &mut out);
    }
    for ((cpu, what), at) in found.waits.iter().zip(&found.waits_in) {
        if found.is_sleep() {
            break;
        } else if found.cpu == Some(*cpu) {
            let _ = writeln!(out, "\n{} waits for: {what}", who(Some(*cpu)));
        } else {
            let _ = writeln!(out, "\n{} waits for {what}:", who(Some(*cpu)));
            stack(at, drawing, &mut out);
        }
    }
    for Taken { cpu, held, taken, stack: at } in &found.order {
        let _ = writeln!(out, "\n{} held {held} when it took {taken}:", who(Some(*cpu)));
        stack(at, drawing, &mut out);
    }
    let mut event = |what: &str, event: &Option<Event>| {
        if let Some(event) = event {
            let object = match event.object.strip_prefix("lock") {
                Some(of) => format!("Lock{of}"),
                None if event.object.starts_with("VMA") => event.object.clone(),
                None => format!("Table {}", event.object),
            };
            let _ = writeln!(out, "\n{object} was {what} by {}:", who(event.cpu));
            stack(&event.stack, drawing, &mut out);
        }
    };
    event("allocated", &found.allocated);
    event("freed", &found.freed);
    if let Some(end) = story.states.last() {
        let held: Vec<String> = end
            .holds
            .iter()
            .map(|held| {
                let start = format!(" CPU {}: ", char::from(b'A' + held.cpu as u8));
                state::wrapped(&start, &[held.locks.join(" + ")], drawing.width)
            })
            .collect();
        if !held.is_empty() {
            let _ = writeln!(out, "\nLocks held:\n{}", held.join("\n"));
        }
        if !end.tables.is_empty() {
            let _ = writeln!(out, "\nTables:");
        }
        for table in &end.tables {
            let parents: Vec<String> = end
                .processes
                .iter()
                .flat_map(|process| {
                    let fits = process.pud.iter().filter(|entry| entry.entry == table.name);
                    fits.map(|entry| format!("{}.pud[{}]", process.name, entry.index)).collect::<Vec<_>>()
                })
                .collect();
            let parents = if parents.is_empty() { "no parent entry".to_owned() } else { parents.join(", ") };
            let _ = writeln!(out, " {}: {}; {parents}", table.name, state::table_words(table));
        }
    }
    let _ = writeln!(
        out,
        "\nSchedule {}: {} {}, {} accesses\n{bar}",
        found.schedule,
        found.switches,
        if found.switches == 1 { "switch" } else { "switches" },
        found.steps
    );
    out
}

fn stack(stack: &[Source], drawing: &Drawing, out: &mut String) {
    // What a scenario calls is its own; how its processors are started is nobody's business.
    let told: Vec<&Source> = stack.iter().filter(|source| !source.file.ends_with("/bench.rs")).collect();
    let place = |source: &Source| format!("{}:{}", source.file, source.line);
    let name_width = told.iter().map(|source| source.function.len()).max().unwrap_or(0);
    let place_width = told.iter().map(|source| place(source).len()).max().unwrap_or(0);
    // The names of Linux stand in the drawing, too: where there is no room, the files are what counts.
    let kernel = |source: &Source| source.kernel.map(|kernel| format!("{kernel}()")).unwrap_or_default();
    let kernel_width = told.iter().map(|source| kernel(source).len()).max().unwrap_or(0);
    let has_room = 5 + name_width + place_width + kernel_width <= drawing.width;
    for source in told {
        let line = format!(" {:name_width$}  {:place_width$}  ", source.function, place(source));
        let kernel = if has_room { kernel(source) } else { String::new() };
        let line = format!("{line}{}", drawing.styled(Style::Faint, &kernel));
        let _ = writeln!(out, "{}", line.trim_end());
    }
}
