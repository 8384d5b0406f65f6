//! The crate is read from the ground up: the order of the modules in `lib.rs` is the order of the floors, and a module
//! uses only those before it.
//!
//! A few records point back at each other, as those of Linux's mm_types.h do: a page knows its file, and a file its
//! pages. They are listed below, one by one. A lower room only keeps such a pointer; what is done with the record behind
//! it is written on the upper floor, in an `impl` block there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module, a later one, and the type of the later one that it points back at.
const POINTS_BACK: [(&str, &str, &str); 14] = [
    // A platform is asked for the protocol, by the one function that asks.
    ("protocol", "platform", "Platform"),
    // What a host's locks that sleep are, and what a weaker protocol releases too early.
    ("platform", "sleep", "RawSleepMutex"),
    ("platform", "sleep", "RawSleepRwLock"),
    ("protocol", "sleep", "RawSleepRwLock"),
    // Shows that the caller may sleep; nothing is done with it.
    ("sleep", "task", "Task"),
    // A task has a line for the locks that it holds in read, and a writer looks at the lines of all tasks of its system.
    ("sleep", "hugetlb", "Hugetlb"),
    ("hugetlb", "task", "Task"),
    // A system has pools, and a queue of address spaces that were dropped.
    ("hugetlb", "pool", "HugePool"),
    ("hugetlb", "space", "AddressSpace"),
    // A page knows the mount that counts it, and the file that it belongs to.
    ("page", "reserve", "SubPool"),
    ("page", "file", "HugeFile"),
    // A fresh page is told its file.
    ("reserve", "file", "HugeFile"),
    // A file knows the mappings of it, and a mapping the handler of its faults.
    ("file", "vma", "Vma"),
    ("vma", "uffd", "Context"),
];

/// A path below `crate`, without `crate`: a module, and what of it is used.
type Use = (String, String);

#[test]
fn a_module_uses_only_those_before_it() {
    let floors = floors();
    let floor = |name: &str| floors.iter().position(|module| module == name);
    let mut up = BTreeSet::new();
    let mut wrong = Vec::new();
    for (file, module) in sources(&floors) {
        for (used, item) in uses(&file) {
            let above =
                floor(&used).unwrap_or_else(|| panic!("{file:?} uses `crate::{used}`, which is no module"));
            if above > floor(&module).unwrap_or(0) {
                let known = POINTS_BACK.iter().any(|&pointer| pointer == (&module, &used, &item));
                if !known {
                    wrong.push(format!(
                        "{}: `{module}` uses `{used}::{item}`, on a floor above",
                        file.display()
                    ));
                }
                up.insert((module.clone(), used, item));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (module, used, item) in POINTS_BACK {
        let is_used = up.contains(&(module.to_owned(), used.to_owned(), item.to_owned()));
        assert!(is_used, "`{module}` does not point back at `{used}::{item}` any more: take it off the list");
    }
}

/// What only the rooms that change entries may name: the bits of an entry, and the one function that stores to it.
const OF_ENTRIES: [&str; 4] = ["RawEntry", "LeafFlags", "replace_entry", "replace_carrying"];

#[test]
fn no_room_above_the_tables_but_one_changes_an_entry() {
    let floors = floors();
    for (file, module) in sources(&floors) {
        let knows_bits = ["arch", "table", "entries"].contains(&&*module);
        let source: TokenStream = fs::read_to_string(&file).unwrap().parse().unwrap();
        for name in OF_ENTRIES {
            assert!(knows_bits || !names(source.clone(), name), "{} names {name}", file.display());
        }
    }
}

/// What turns the bits of an entry into what it says, and back. Besides those rooms, walks go by it from one table to the next.
const OF_BITS: [&str; 5] = ["encode", "decode", "next_table", "leaf_size", "ordinary"];

#[test]
fn no_room_but_those_that_walk_reads_the_bits_of_an_entry() {
    let floors = floors();
    for (file, module) in sources(&floors) {
        let knows_bits = ["arch", "table", "entries", "walk", "root"].contains(&&*module);
        let source: TokenStream = fs::read_to_string(&file).unwrap().parse().unwrap();
        for name in OF_BITS {
            assert!(knows_bits || !names(source.clone(), name), "{} names {name}", file.display());
        }
    }
}

fn names(tokens: TokenStream, name: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == name,
        TokenTree::Group(group) => names(group.stream(), name),
        _ => false,
    })
}

#[test]
fn uses_are_found_wherever_they_stand() {
    let found = |source: &str| -> Vec<String> {
        let uses = uses_in(source.parse().unwrap(), 2);
        uses.into_iter().map(|(module, item)| format!("{module}::{item}")).collect()
    };
    assert_eq!(
        found("use crate::walk::{self, Proof as _, sealed::Sealed};"),
        ["walk::self", "walk::Proof", "walk::sealed"]
    );
    assert_eq!(found("pub(crate) use crate::{addr::VirtAddr, vma};"), ["addr::VirtAddr", "vma::"]);
    assert_eq!(found("fn f() { g(crate::share::detach(&place)) }"), ["share::detach"]);
    assert_eq!(found("handle!(crate::sync::Arc<P>);"), ["sync::Arc"]);
    assert_eq!(found("use super::super::rmap::PageError;"), ["rmap::PageError"]);
    assert_eq!(found("use super::walk::Mapped;"), [""; 0]);
    assert_eq!(found("/// [`x`](crate::mm::x)\npub(crate) fn f() {} // crate::mm::x"), [""; 0]);
    assert_eq!(found("#[cfg(test)] mod tests { use crate::mm::Mm; } use crate::vma::Vma;"), ["vma::Vma"]);
    assert_eq!(found("#[cfg(test)] mod tests; use crate::vma::Vma;"), ["vma::Vma"]);
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules in the order of `lib.rs`.
fn floors() -> Vec<String> {
    let tokens: TokenStream = fs::read_to_string(source_dir().join("lib.rs")).unwrap().parse().unwrap();
    let tokens: Vec<String> = tokens.into_iter().map(|token| token.to_string()).collect();
    let modules = tokens.windows(3).filter(|window| window[0] == "mod" && window[2] == ";");
    let modules: Vec<String> = modules.map(|window| window[1].clone()).collect();
    assert!(modules.len() > 20, "{modules:?}");
    modules
}

/// The files of the crate, each with its module, except those of tests.
fn sources(floors: &[String]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![source_dir()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(source_dir()).unwrap().with_extension("");
            let module = relative.iter().next().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|end| end == "rs")
                && !relative.ends_with("tests")
                && module != "lib"
            {
                assert!(floors.contains(&module), "{} is in no module of lib.rs", path.display());
                found.push((path, module));
            }
        }
    }
    found
}

fn uses(file: &Path) -> Vec<Use> {
    let relative = file.strip_prefix(source_dir()).unwrap().with_extension("");
    let depth = relative.iter().filter(|part| *part != "mod").count();
    let source = fs::read_to_string(file).unwrap();
    uses_in(source.parse().unwrap(), depth)
}

/// The paths from the crate's root, in a file that is `depth` modules below the root.
fn uses_in(tokens: TokenStream, depth: usize) -> Vec<Use> {
    let mut found = Vec::new();
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Punct(hash) if hash.as_char() == '#' => {
                let is_test = tokens.get(at).is_some_and(|attribute| attribute.to_string() == "[cfg (test)]");
                at += usize::from(tokens.get(at).is_some_and(|next| matches!(next, TokenTree::Group(_))));
                // What is there for tests only ends with its body, or with a semicolon.
                while is_test && at < tokens.len() {
                    at += 1;
                    let end = &tokens[at - 1];
                    if matches!(end, TokenTree::Group(body) if body.delimiter() == Delimiter::Brace)
                        || end.to_string() == ";"
                    {
                        break;
                    }
                }
            }
            TokenTree::Ident(word) if *word == "crate" => path(&tokens[at..], &mut found),
            TokenTree::Ident(word) if *word == "super" => {
                let supers =
                    tokens[at - 1..].chunks(3).take_while(|part| part[0].to_string() == "super").count();
                at += 3 * (supers - 1);
                if supers >= depth {
                    path(&tokens[at..], &mut found);
                }
            }
            TokenTree::Group(group) => found.extend(uses_in(group.stream(), depth)),
            _ => {}
        }
    }
    found
}

/// What follows `crate`, if it is a path: `::module::item`, or `::{..}` with several of them.
fn path(tokens: &[TokenTree], found: &mut Vec<Use>) {
    let Some(rest) = after_colons(tokens) else { return };
    match rest {
        [TokenTree::Group(group), ..] => {
            for part in parts(group.stream()) {
                module_path(&part, found);
            }
        }
        rest => module_path(rest, found),
    }
}

/// `module`, `module::item`, or `module::{..}`.
fn module_path(tokens: &[TokenTree], found: &mut Vec<Use>) {
    let Some(TokenTree::Ident(module)) = tokens.first() else { return };
    let module = module.to_string();
    let items: Vec<String> = match after_colons(&tokens[1..]) {
        Some([TokenTree::Group(group), ..]) => {
            parts(group.stream()).iter().map(|part| part[0].to_string()).collect()
        }
        Some([item, ..]) => vec![item.to_string()],
        _ => vec![String::new()],
    };
    found.extend(items.into_iter().map(|item| (module.clone(), item)));
}

fn after_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    match tokens {
        [TokenTree::Punct(one), TokenTree::Punct(two), rest @ ..]
            if one.as_char() == ':' && two.as_char() == ':' =>
        {
            Some(rest)
        }
        _ => None,
    }
}

/// The parts of a list between commas.
fn parts(list: TokenStream) -> Vec<Vec<TokenTree>> {
    let tokens: Vec<TokenTree> = list.into_iter().collect();
    let parts = tokens.split(|token| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ','));
    parts.filter(|part| !part.is_empty()).map(<[TokenTree]>::to_vec).collect()
}
