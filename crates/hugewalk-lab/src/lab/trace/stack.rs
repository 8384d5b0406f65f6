//! Who called whom: the functions of the engine that are running, with files and lines.

use std::cell::RefCell;
use std::collections::HashMap;

use super::kernel;
use crate::story::{Source, Stack};

thread_local! {
    /// What is at an address of the program: looked up once.
    static KNOWN: RefCell<HashMap<usize, Vec<Source>>> = RefCell::default();
}

/// The functions that are running, innermost first: those of the engine, and below them those of the scenario. Empty if the
/// program has no line tables.
pub(super) fn capture() -> Stack {
    let mut found = Vec::new();
    KNOWN.with_borrow_mut(|known| {
        backtrace::trace(|frame| {
            let sources = known.entry(frame.ip().addr()).or_insert_with(|| resolve(frame));
            found.extend(sources.iter().cloned());
            true
        });
    });
    // What the lab does for the engine's flush is the engine's.
    found.retain(|source| !(source.file.ends_with("/lab/cpu.rs") && source.function == "flush"));
    // An inlined closure has no name of its own: it lies in the next function of its file that called on.
    for at in 0..found.len() {
        if found[at].function.is_empty() {
            let around =
                found[at..].iter().find(|outer| !outer.function.is_empty() && outer.file == found[at].file);
            let function = around.map_or("closure", |outer| &outer.function).to_owned();
            found[at].kernel = kernel::function(&found[at].file, &function);
            found[at].function = function;
        }
    }
    // How the lab watches a walk is no part of the walk.
    let watches = ["watched", "watch", "watch_fast", "held"];
    let is_watching =
        |source: &Source| source.file.ends_with("/lab/walker.rs") && watches.contains(&&*source.function);
    found.retain(|source| !is_watching(source));
    found.dedup_by(|outer, inner| outer.function == inner.function && outer.file == inner.file);
    found.into()
}

/// Has this program line tables? Without them nobody knows the functions of a stack, nor which lock is which.
#[inline(never)]
pub fn has_line_tables() -> bool {
    let mut found = false;
    backtrace::trace(|frame| {
        backtrace::resolve_frame(frame, |symbol| {
            let file = symbol.filename().and_then(|file| file.to_str());
            let is_ours = file.and_then(in_repository).is_some_and(|file| file.ends_with("/trace/stack.rs"));
            found |= is_ours && symbol.lineno().is_some();
        });
        !found
    });
    found
}

fn resolve(frame: &backtrace::Frame) -> Vec<Source> {
    let mut sources = Vec::new();
    backtrace::resolve_frame(frame, |symbol| {
        let place = symbol.filename().and_then(|file| file.to_str()).zip(symbol.lineno());
        if let Some((file, line)) = place
            && let Some(file) = in_repository(file)
            && is_of_interest(&file)
            && let Some(name) = symbol.name()
        {
            let function = function_of(&format!("{name:#}"));
            let kernel = kernel::function(&file, &function);
            sources.push(Source { function, file, line, kernel });
        }
    });
    sources
}

/// The path of a source file of the engine or the lab from the root of the repository on, wherever that lies.
fn in_repository(file: &str) -> Option<String> {
    ["hugewalk", "hugewalk-lab"].into_iter().find_map(|package| {
        let (before, path) = file.rsplit_once("/src/")?;
        let directory = before.rsplit('/').next()?;
        let rest = directory.strip_prefix(package)?;
        // A published package lies in a directory with its version.
        let versioned = rest.strip_prefix('-').is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()));
        (rest.is_empty() || versioned).then(|| format!("crates/{package}/src/{path}"))
    })
}

/// The engine but for its words and locks as such; of the lab, what a scenario is made of.
fn is_of_interest(file: &str) -> bool {
    match file.strip_prefix("crates/hugewalk/src/") {
        Some(file) => !["sync/", "sleep/", "rcu/", "table/mod.rs"].iter().any(|part| file.starts_with(part)),
        None => file.contains("/src/scenario/") || file.ends_with("/cpu.rs") || file.ends_with("/walker.rs"),
    }
}

/// `descend<hugewalk_lab::lab::Lab>` and `<hugewalk::mm::Mm<_>>::descend::{closure#0}` are `descend`.
fn function_of(symbol: &str) -> String {
    let mut plain = String::new();
    let mut depth = 0_u32;
    let mut last = None;
    for c in symbol.chars() {
        match c {
            '<' | '{' | '[' => depth += 1,
            '>' if last == Some('-') => {}
            '>' | '}' | ']' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
        last = Some(c);
    }
    plain.rsplit("::").find(|part| !part.is_empty()).unwrap_or_default().to_owned()
}

/// The line that a reader should look at for a step: the innermost one that is not about slots as such.
pub(super) fn source(stack: &[Source], is_lock: bool) -> Option<&Source> {
    const OF_SLOTS: [&str; 9] = [
        "replace_entry",
        "raw",
        "attach",
        "detach",
        "sharers",
        "sharers_hint",
        "lock_in_section",
        "is_attached",
        "drop",
    ];
    const OF_ENTRIES: [&str; 3] = ["read", "replace", "make"];
    let says_nothing = |source: &&Source| {
        let function = &*source.function;
        source.file.ends_with("/table/slot.rs")
            && (OF_SLOTS.contains(&function) || is_lock && function == "lock")
            || source.file.ends_with("/entries/at.rs") && OF_ENTRIES.contains(&function)
    };
    stack.iter().find(|source| !says_nothing(source)).or(stack.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_start_at_the_root_of_the_repository_wherever_that_is() {
        let path = |file: &str| in_repository(file).unwrap_or_default();
        assert_eq!(path("/home/me/x/crates/hugewalk/src/walk.rs"), "crates/hugewalk/src/walk.rs");
        assert_eq!(path("/c/registry/hugewalk-0.1.0/src/mm/mod.rs"), "crates/hugewalk/src/mm/mod.rs");
        assert_eq!(path("crates/hugewalk-lab/src/lab/cpu.rs"), "crates/hugewalk-lab/src/lab/cpu.rs");
        assert_eq!(path("/x/crates/hugewalk-lab/src/lab/cpu.rs"), "crates/hugewalk-lab/src/lab/cpu.rs");
        assert_eq!(path("/x/lock_api-0.4.14/src/rwlock.rs"), "");
    }

    #[test]
    fn a_program_with_line_tables_knows_that_it_has_them() {
        assert!(has_line_tables());
    }

    #[test]
    fn a_function_is_named_without_its_generics_and_closures() {
        for symbol in [
            "descend<hugewalk_lab::lab::Lab>",
            "hugewalk[c1f1]::walk::descend::<hugewalk_lab[2]::lab::Lab>",
            "<hugewalk::mm::Mm<hugewalk_lab::lab::Lab>>::descend::{closure#0}",
            "descend<fn(hugewalk::mm::Part) -> core::result::Result<(), Error>>",
        ] {
            assert_eq!(function_of(symbol), "descend", "{symbol}");
        }
    }
}
