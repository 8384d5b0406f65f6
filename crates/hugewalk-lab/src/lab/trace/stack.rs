//! Who called whom: the functions of the engine that are running, with files and lines.

use std::cell::RefCell;
use std::collections::HashMap;

use super::kernel;
use crate::story::{Source, Stack};

thread_local! {
    /// What is at an address of the program: looked up once.
    static KNOWN: RefCell<HashMap<usize, Vec<Source>>> = RefCell::default();
}

/// A file, from the root of the repository on, and functions in it.
type Functions = (&'static str, &'static [&'static str]);

/// Does something for the engine.
const FLUSH: Functions = ("crates/hugewalk-lab/src/lab/cpu.rs", &["flush"]);

/// Watch a walk.
const WATCHES: Functions =
    ("crates/hugewalk-lab/src/lab/walker.rs", &["watched", "watch", "watch_fast", "held"]);

/// Say nothing to a reader: they are about slots as such.
#[rustfmt::skip]
const OF_SLOTS: &[Functions] = &[
    ("crates/hugewalk/src/table/slot.rs", &[
        "replace_entry", "replace_carrying", "store", "is_none", "attach", "point_to", "detach", "sharers",
        "sharers_hint", "lock_in_section", "is_attached", "drop",
    ]),
    ("crates/hugewalk/src/table/group.rs", &["replace_group"]),
    ("crates/hugewalk/src/entries/at.rs", &["read", "replace", "make"]),
    ("crates/hugewalk/src/tree.rs", &["detach"]),
];

/// Say nothing where a lock is taken.
const LOCKS_A_SLOT: Functions = ("crates/hugewalk/src/table/slot.rs", &["lock"]);

/// Words and locks as such. They are the engine's, and not of interest.
const AS_SUCH: &[&str] = &["sync/", "sleep/", "table/mod.rs"];

/// The lock whose readers mark themselves. It is of interest in a scenario about it, and where others use it a lock as such.
const BIASED: &[&str] = &["sleep/biased.rs", "sleep/lines.rs", "sleep/own.rs"];

fn is_one_of(source: &Source, of: &[Functions]) -> bool {
    of.iter().any(|(file, functions)| source.file == *file && functions.contains(&&*source.function))
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
    found.retain(|source| !is_one_of(source, &[FLUSH]));
    leave_locks_out(&mut found);
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
    found.retain(|source| !is_one_of(source, &[WATCHES]));
    found.dedup_by(|outer, inner| outer.function == inner.function && outer.file == inner.file);
    found.into()
}

/// Leaves out what the engine's own use of the lock whose readers mark themselves is made of.
fn leave_locks_out(found: &mut Vec<Source>) {
    let of_engine =
        |source: &Source| source.file.strip_prefix("crates/hugewalk/src/").map(|f| BIASED.contains(&f));
    let outermost = found.iter().rposition(|source| of_engine(source) == Some(true));
    if found.iter().skip(outermost.unwrap_or(found.len())).any(|source| of_engine(source) == Some(false)) {
        found.retain(|source| of_engine(source) != Some(true));
    }
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
    // Most runs are not told: what was read of the tables of all crates need not lie about.
    backtrace::clear_symbol_cache();
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
pub(super) fn is_of_interest(file: &str) -> bool {
    match file.strip_prefix("crates/hugewalk/src/") {
        Some(file) => BIASED.contains(&file) || !AS_SUCH.iter().any(|part| file.starts_with(part)),
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
    let says_nothing =
        |source: &&Source| is_one_of(source, OF_SLOTS) || is_lock && is_one_of(source, &[LOCKS_A_SLOT]);
    stack.iter().find(|source| !says_nothing(source)).or(stack.first())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::trace::kernel::tests::is_there;

    #[test]
    fn paths_start_at_the_root_of_the_repository_wherever_that_is() {
        let path = |file: &str| in_repository(file).unwrap_or_default();
        assert_eq!(path("/home/me/x/crates/hugewalk/src/walk.rs"), "crates/hugewalk/src/walk.rs");
        assert_eq!(path("/c/registry/hugewalk-0.1.0/src/mm/mod.rs"), "crates/hugewalk/src/mm/mod.rs");
        assert_eq!(path("crates/hugewalk-lab/src/lab/cpu.rs"), "crates/hugewalk-lab/src/lab/cpu.rs");
        assert_eq!(path("/x/crates/hugewalk-lab/src/lab/cpu.rs"), "crates/hugewalk-lab/src/lab/cpu.rs");
        assert_eq!(path("/x/lock_api-0.4.14/src/rwlock.rs"), "");
    }

    /// The lists name files and functions; if one is renamed, they have to follow.
    #[test]
    fn every_function_that_says_nothing_is_there() {
        for (file, functions) in OF_SLOTS.iter().chain([&FLUSH, &WATCHES, &LOCKS_A_SLOT]) {
            for function in *functions {
                assert!(is_there(file, function), "{file}: {function}");
            }
        }
        for file in AS_SUCH.iter().chain(BIASED) {
            assert!(is_there(&format!("crates/hugewalk/src/{file}"), "*"), "{file}");
        }
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
