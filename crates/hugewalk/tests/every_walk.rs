//! Every walk in the engine, and the proof it has: a list that a new walk cannot slip past.
//!
//! That each has a proof of *some* kind is a matter of types. Which one is the right one at a place is a matter of thought:
//! whoever adds a walk adds it here, with its reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The calls that walk.
const WALKS: [&str; 5] = ["huge_pte_offset", "leaf_offset", "huge_pte_alloc", "descend", "step_down"];

/// Where, in which function, by which call, with which proof.
const KNOWN: &[(&str, &str, &str, &str)] = &[
    ("walk.rs", "huge_pte_offset", "descend", "the proof that the caller gives"),
    ("walk.rs", "leaf_offset", "descend", "the proof that the caller gives"),
    ("walk.rs", "leaf_offset", "step_down", "the proof that the caller gives"),
    ("walk.rs", "descend", "step_down", "unsafe: the caller's"),
    ("share.rs", "huge_pmd_unshare", "huge_pte_offset", "VMA lock in write, and i_mmap in write"),
    (
        "share.rs",
        "pud_alloc",
        "descend",
        "the proof of huge_pte_alloc: tables above PMDs stay under the mmap lock",
    ),
    ("share.rs", "populate", "step_down", "the proof of huge_pte_alloc"),
    (
        "share.rs",
        "partner_table",
        "descend",
        "i_mmap in read, the VMA found in its tree: walks another address space",
    ),
    ("fault/mod.rs", "first_look", "leaf_offset", "RCU: looks once, keeps nothing"),
    ("fault/mod.rs", "wait_for_migration", "leaf_offset", "RCU: looks between queueing and sleeping"),
    ("fault/attempt.rs", "attempt", "huge_pte_alloc", "VMA lock in read; shares"),
    ("gup/follow.rs", "follow", "leaf_offset", "RCU: locked and revalidated"),
    ("gup/follow.rs", "follow_fast", "leaf_offset", "RCU: re-read and confirmed, no lock"),
    ("pagewalk/mod.rs", "walk_until_fault", "huge_pte_offset", "VMA lock in read: the visitor sleeps"),
    ("pagewalk/mod.rs", "walk_table", "huge_pte_offset", "RCU: the visitor does not sleep"),
    ("rmap/walk.rs", "place", "huge_pte_offset", "i_mmap, the VMA found in its tree"),
    ("file/truncate.rs", "maps_any", "huge_pte_offset", "i_mmap in write, the VMA found in its tree"),
    ("mm/entries.rs", "each_own_entry", "huge_pte_offset", "VMA lock and i_mmap in write"),
    ("mm/unmap.rs", "free_table", "descend", "mmap lock in write, no VMA left in the range"),
    ("mm/remap.rs", "make_tables", "huge_pte_offset", "VMA lock in read, of the old place"),
    (
        "mm/remap.rs",
        "make_tables",
        "huge_pte_alloc",
        "mmap lock in write, the new VMA unlisted; does not share (S23)",
    ),
    ("mm/remap.rs", "move_vma", "huge_pte_alloc", "none: for a protocol that shares where it must not (S23)"),
    (
        "mm/remap.rs",
        "move_entries",
        "huge_pte_offset",
        "the new place: mmap lock in write, the new VMA unlisted",
    ),
    (
        "mm/fork.rs",
        "copy_entries",
        "huge_pte_offset",
        "the parent's: private, its reservation's lock or the mmap lock",
    ),
    (
        "mm/fork.rs",
        "copy_entries",
        "huge_pte_alloc",
        "the child's: private, nobody else knows it; does not share",
    ),
    ("mm/observe.rs", "each_table", "huge_pte_offset", "VMA lock in read"),
    ("uffd/fault.rs", "must_wait", "huge_pte_offset", "RCU: looks between queueing and sleeping (S19)"),
    ("uffd/fill.rs", "fill_page", "huge_pte_alloc", "VMA lock in read; shares"),
    ("uffd/protect.rs", "make_tables", "huge_pte_alloc", "VMA lock in write; does not share"),
];

fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The name of the function that a line begins, if it does.
fn begins_function(line: &str) -> Option<&str> {
    let rest = line.trim_start().split_once("fn ")?;
    let before = rest.0;
    let is_definition = before
        .split_whitespace()
        .all(|word| matches!(word, "pub" | "unsafe" | "const") || word.starts_with("pub("));
    let end = rest.1.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    is_definition.then(|| &rest.1[..end])
}

fn walks() -> BTreeSet<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut walks = BTreeSet::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        let mut function = String::new();
        for line in fs::read_to_string(&file).unwrap().lines() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            let defined = begins_function(line);
            if let Some(defined) = defined {
                defined.clone_into(&mut function);
            }
            for walk in WALKS {
                let called = line
                    .find(&format!("{walk}("))
                    .is_some_and(|at| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
                if called && defined != Some(walk) {
                    walks.insert((name.clone(), function.clone(), walk.to_owned()));
                }
            }
        }
    }
    walks
}

#[test]
fn every_walk_is_listed_with_its_proof() {
    let known: BTreeSet<_> = KNOWN
        .iter()
        .map(|(file, function, walk, _)| ((*file).to_owned(), (*function).to_owned(), (*walk).to_owned()))
        .collect();
    let found = walks();
    let new: Vec<_> = found.difference(&known).collect();
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(
        new.is_empty(),
        "walks that are not listed; say which proof each has, and why it is the right one: {new:#?}"
    );
    assert!(gone.is_empty(), "listed, but not there any more: {gone:#?}");
}
