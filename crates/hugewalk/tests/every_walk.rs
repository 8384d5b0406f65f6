//! Every walk in the engine, and the proof it has: a list that a new walk cannot slip past.
//!
//! That each has a proof of *some* kind is a matter of types. Which one is the right one at a place is a matter of thought:
//! whoever adds a walk adds it here, with its reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The calls that walk.
const WALKS: [&str; 8] = [
    "huge_pte_offset",
    "leaf_offset",
    "huge_pte_alloc",
    "descend",
    "descend_to_leaf",
    "step_down",
    "step_in",
    "from_frame",
];

/// Where the proof of a walk is to be read.
enum Proof {
    /// In the signature of the function that walks.
    Signature(&'static str),
    /// In its body: it takes the proof itself.
    Taken(&'static str),
}
use Proof::{Signature, Taken};

/// Where, in which function, by which call, with which proof, and why that one.
const KNOWN: &[(&str, &str, &str, Proof, &str)] = &[
    ("walk.rs", "huge_pte_offset", "descend", Signature("W: Proof<P>"), "what the caller gives"),
    ("walk.rs", "leaf_offset", "descend_to_leaf", Signature("W: Proof<P>"), "what the caller gives"),
    ("walk.rs", "descend_to_leaf", "step_in", Signature("unsafe fn"), "the caller's"),
    ("walk.rs", "descend", "step_in", Signature("unsafe fn"), "the caller's"),
    ("walk.rs", "step_down", "step_in", Signature("unsafe fn"), "the caller's"),
    ("walk.rs", "step_in", "from_frame", Signature("unsafe fn"), "the caller's"),
    ("root.rs", "root", "from_frame", Signature("&self"), "the root lives as long as the address space"),
    (
        "share.rs",
        "lock_own_table",
        "huge_pte_offset",
        Signature("V: VmaLockedForWrite<P>"),
        "VMA lock in write, and i_mmap in write",
    ),
    ("tree.rs", "alloc_down_to", "descend", STABLE, "the proof of huge_pte_alloc"),
    ("tree.rs", "populate", "step_down", STABLE, "the proof of huge_pte_alloc"),
    ("tree.rs", "reach", "step_down", Signature("unsafe fn"), "a read section; locked and revalidated"),
    ("tree.rs", "table_above", "descend", Signature("unsafe fn"), "the caller's, whose table is below"),
    (
        "tree.rs",
        "free_unneeded",
        "descend",
        Signature("unsafe fn"),
        "the caller's; looks whether there is one",
    ),
    (
        "tree.rs",
        "free_if_empty",
        "descend",
        Signature("unsafe fn"),
        "a read section, or the mmap lock in write; locked and revalidated",
    ),
    (
        "base/mod.rs",
        "host_table",
        "huge_pte_offset",
        Signature("RcuReadGuard<'_, P>"),
        "looks once, confirmed",
    ),
    (
        "root.rs",
        "free_below",
        "from_frame",
        Signature("Mm<P>"),
        "nobody else reaches the tables of an address space that is dropped",
    ),
    (
        "share.rs",
        "share",
        "from_frame",
        Taken("i_mmap_read_within("),
        "counted as a user under i_mmap, still held",
    ),
    (
        "share.rs",
        "partner_table",
        "descend",
        Signature("FileProof<'p, P>"),
        "i_mmap in read, the VMA found in its tree: walks another address space",
    ),
    ("fault/mod.rs", "first_look", "leaf_offset", RCU, "looks once, keeps nothing"),
    ("fault/mod.rs", "wait", "leaf_offset", RCU, "looks between queueing and sleeping"),
    ("fault/attempt.rs", "attempt", "huge_pte_alloc", Taken("self.guard"), "VMA lock in read; shares"),
    (
        "fault/run.rs",
        "look",
        "huge_pte_offset",
        RCU,
        "looks ahead; the entries are read again under the lock",
    ),
    (
        "fault/run.rs",
        "make_tables",
        "huge_pte_alloc",
        Taken("mmap.lock_vma("),
        "VMA lock in read; shares, and keeps nothing",
    ),
    ("fault/run.rs", "install", "huge_pte_alloc", Taken("mmap.lock_vma("), "VMA lock in read; shares"),
    ("gup/follow.rs", "follow", "leaf_offset", RCU, "locked and revalidated"),
    ("gup/follow.rs", "follow_fast", "leaf_offset", RCU, "re-read and confirmed, no lock"),
    ("gup/follow.rs", "follow_fast_run", "leaf_offset", RCU, "each page re-read and confirmed, no lock"),
    ("gup/follow.rs", "follow_run", "leaf_offset", RCU, "locked and revalidated, once for a table"),
    (
        "pagewalk/mod.rs",
        "walk_until_fault",
        "huge_pte_offset",
        Taken("mmap.lock_vma("),
        "VMA lock in read: the visitor sleeps",
    ),
    ("pagewalk/mod.rs", "walk_table", "huge_pte_offset", RCU, "the visitor does not sleep"),
    (
        "pagewalk/scan.rs",
        "protect",
        "huge_pte_offset",
        Taken("mmap.lock_vma_write("),
        "VMA lock in write: is there a table?",
    ),
    (
        "pagewalk/scan.rs",
        "protect",
        "huge_pte_alloc",
        Taken("mmap.lock_vma_write("),
        "VMA lock in write; does not share",
    ),
    ("rmap/walk.rs", "place", "huge_pte_offset", Signature("FileProof<'_, P>"), "i_mmap, found in its tree"),
    (
        "truncate.rs",
        "maps_any",
        "huge_pte_offset",
        Signature("FileProof<'_, P>"),
        "i_mmap in write, the VMA found in its tree",
    ),
    (
        "vm_ops/remap.rs",
        "make_tables",
        "huge_pte_offset",
        Taken("VmaReadGuard::lock("),
        "VMA lock in read, of the old place",
    ),
    (
        "vm_ops/remap.rs",
        "make_tables",
        "huge_pte_alloc",
        Taken("Unlisted::new("),
        "mmap lock in write, the new VMA unlisted; does not share (S23)",
    ),
    (
        "vm_ops/remap.rs",
        "take_place",
        "huge_pte_alloc",
        Taken("VmaReadGuard::lock("),
        "for a protocol that shares where it must not (S23)",
    ),
    (
        "vm_ops/remap.rs",
        "move_entries",
        "huge_pte_offset",
        Taken("Unlisted::new("),
        "the new place: mmap lock in write, the new VMA unlisted",
    ),
    (
        "vm_ops/copy.rs",
        "copy_entries",
        "huge_pte_offset",
        Taken("VmaReadGuard::lock(parent, "),
        "the parent's: VMA lock in read, or the mmap lock where there is none",
    ),
    (
        "vm_ops/copy.rs",
        "copy_entries",
        "huge_pte_alloc",
        Taken("VmaReadGuard::lock(child, "),
        "the child's, which nobody else knows; does not share",
    ),
    ("mm/observe.rs", "each_table", "huge_pte_offset", Signature("VmaReadGuard<'_, P>"), "VMA lock in read"),
    ("uffd/fault.rs", "must_wait", "huge_pte_offset", RCU, "looks between queueing and sleeping (S19)"),
    ("uffd/place.rs", "fill_page", "huge_pte_alloc", Taken("mmap.lock_vma("), "VMA lock in read; shares"),
    (
        "uffd/protect.rs",
        "make_tables",
        "huge_pte_alloc",
        Signature("VmaWriteGuard<'_, P>"),
        "VMA lock in write; does not share",
    ),
];

const RCU: Proof = Taken("rcu_read_lock()");
const STABLE: Proof = Signature("W: Proof<P, Kind = Stable>");

/// The callers at rest, which work on entries with locks held: what the signature of each says that it holds.
const AT_REST: &[(&str, &str, &[&str])] = &[
    // fork
    ("vm_ops/copy.rs", "copy_entries", &[MMAP_WRITE]),
    ("vm_ops/copy.rs", "copy_range", &["source: &Slot<'_, P, Stable>", "target: &Slot<'_, P, Stable>"]),
    // mremap
    ("vm_ops/remap.rs", "make_tables", &[MMAP_WRITE]),
    ("vm_ops/remap.rs", "move_entries", &[MMAP_WRITE, VMA_WRITE, GATHER]),
    // munmap, MADV_DONTNEED, truncation, hole punch
    ("entries/zap.rs", "zap_range", &[VMA_WRITE, GATHER]),
    ("mm/unmap.rs", "free_tables", &["MmapWriteGuard<'_, P>"]),
    ("vm_ops/unmap.rs", "free_tables", &["&mut MmapLockedForWrite<'_, P>"]),
    ("vm_ops/unmap.rs", "free_tables_unless", &[MMAP_WRITE]),
    // mprotect, and clearing of soft-dirty
    ("vm_ops/exchange.rs", "change_entries", &[VMA_WRITE, GATHER]),
    ("mm/soft_dirty.rs", "clear_vma", &[VMA_WRITE, GATHER]),
    // Copy-on-write: the slot is that of the fault, found under the VMA lock in read.
    ("fault/attempt.rs", "copy", &["slot: &Slot<'_, P, Stable>"]),
    // Sharing of tables
    ("share.rs", "share", &["VmaReadGuard<'_, P>"]),
    ("share.rs", "partner_table", &["FileProof<'p, P>"]),
    ("share.rs", "lock_own_table", &["vma: &'s mut V", GATHER]),
    ("entries/visit.rs", "each_own_entry", &[VMA_WRITE, GATHER]),
    // Unsharing for userfaultfd and splits
    ("uffd/register.rs", "unshare_all", &[VMA_WRITE, GATHER]),
    ("vm_ops/split.rs", "unshare_at_cuts", &[VMA_WRITE, "i_mmap: &mut IMmapWriteGuard<'_, P>"]),
    // UFFDIO_COPY and UFFDIO_CONTINUE: the VMA lock in read, taken under this.
    ("uffd/place.rs", "fill_page", &["MmapLocked<'_, P>"]),
    ("uffd/protect.rs", "protect_entries", &[VMA_WRITE, GATHER]),
];

/// The mmap lock in write, whether it is the engine's or a host's.
const MMAP_WRITE: &str = "MmapLockedForWrite<'_, P>";
/// Mutably: the holder's own slots are gone, too, before it unshares.
const VMA_WRITE: &str = "&mut VmaWriteGuard<'_, P>";
/// Borrows `i_mmap` in write until what was unshared is flushed.
const GATHER: &str = "gather: &mut Gather<'_, P>";

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

/// The functions of a source text that name a walk, and which: whether they call it, pass it on or rename it.
fn walks_in(source: &str) -> BTreeSet<(String, String)> {
    let mut walks = BTreeSet::new();
    let mut function = String::new();
    let mut importing = false;
    for line in source.lines() {
        let code = line.split("//").next().unwrap_or_default();
        let begins = code.trim_start();
        importing |= begins.starts_with("use ") || (begins.starts_with("pub") && begins.contains(" use "));
        let defined = begins_function(code);
        if let Some(defined) = defined {
            defined.clone_into(&mut function);
        }
        for walk in WALKS {
            let named = code.match_indices(walk).any(|(at, _)| {
                let of_a_name = |c: char| c.is_alphanumeric() || c == '_';
                let rest = &code[at + walk.len()..];
                let whole = !code[..at].ends_with(of_a_name) && !rest.starts_with(of_a_name);
                whole && (!importing || rest.starts_with(" as "))
            });
            if named && defined != Some(walk) {
                walks.insert((function.clone(), walk.to_owned()));
            }
        }
        importing &= !code.contains(';');
    }
    walks
}

/// Signature and body of the functions of this name in a file, without comments.
fn functions(file: &str, name: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    let mut found: Vec<(String, String)> = Vec::new();
    let (mut inside, mut in_body) = (false, false);
    for line in fs::read_to_string(path).unwrap().lines() {
        let code = line.split("//").next().unwrap_or_default();
        if let Some(defined) = begins_function(code) {
            (inside, in_body) = (defined == name, false);
            if inside {
                found.push((String::new(), String::new()));
            }
        }
        let Some((signature, body)) = found.last_mut().filter(|_| inside) else { continue };
        let part = if in_body { body } else { signature };
        part.push_str(code);
        part.push('\n');
        in_body |= code.contains('{');
    }
    found
}

fn walks() -> BTreeSet<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut walks = BTreeSet::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        let found = walks_in(&fs::read_to_string(&file).unwrap());
        walks.extend(found.into_iter().map(|(function, walk)| (name.clone(), function, walk)));
    }
    walks
}

#[test]
fn every_walk_is_listed_with_its_proof() {
    let known: BTreeSet<_> = KNOWN
        .iter()
        .map(|(file, function, walk, ..)| ((*file).to_owned(), (*function).to_owned(), (*walk).to_owned()))
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

#[test]
fn each_proof_is_where_the_list_says() {
    for (file, function, walk, proof, _) in KNOWN {
        let holds = |(signature, body): &(String, String)| match proof {
            Signature(proof) => signature.contains(proof),
            Taken(proof) => body.contains(proof),
        };
        let proven = functions(file, function).iter().any(holds);
        assert!(proven, "{walk} in {function} of {file} does not have the proof it is listed with");
    }
    for (file, function, held) in AT_REST {
        let states = |(signature, _): &(String, String)| held.iter().all(|held| signature.contains(held));
        let stated = functions(file, function).iter().any(states);
        assert!(stated, "the signature of {function} in {file} does not say that it holds {held:?}");
    }
}

#[test]
fn a_walk_is_found_however_it_is_written() {
    let found = |source: &str| walks_in(source).into_iter().next();
    let walks = [
        "fn f() {\n    let slot = huge_pte_offset(&proof, mm, at, size);\n}",
        "fn f() {\n    let slot = walk::huge_pte_offset::<P, _>(&proof, mm, at, size);\n}",
        "pub(crate) unsafe fn f<P>() {\n    let slot =\n        huge_pte_offset\n            (&proof, mm, at, size);\n}",
        "const fn f() {\n    places.map(huge_pte_offset)\n}",
        "fn f() {\n    use walk::huge_pte_offset as other;\n}",
    ];
    for source in walks {
        assert_eq!(found(source), Some(("f".to_owned(), "huge_pte_offset".to_owned())), "{source}");
    }
    let others = [
        "use crate::walk::{\n    Proof,\n    huge_pte_offset,\n};\nfn f() {}",
        "/// As [`huge_pte_offset`].\nfn f() {\n    work(); // not huge_pte_offset()\n}",
        "pub fn huge_pte_offset<'p>() {}",
        "fn f() {\n    my_huge_pte_offset(huge_pte_offsets);\n}",
    ];
    for source in others {
        assert_eq!(found(source), None, "{source}");
    }
}
