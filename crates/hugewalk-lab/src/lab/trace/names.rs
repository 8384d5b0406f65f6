//! What entries, numbers and locks are called.

use std::collections::HashMap;

use hugewalk::arch::{Entry, LeafFlags};

use crate::lab::ground::{GENERATION, Place, RawEntry, USERS, world};
use crate::story::Source;

/// The value of an entry.
pub(in crate::lab) fn entry(bits: u64) -> String {
    match RawEntry::from_bits(bits).decode() {
        Entry::None => "none".to_owned(),
        Entry::Table(frame) => format!("T{}", frame.0),
        Entry::HostTable(frame) => format!("the host's table {}", frame.0),
        Entry::Leaf(leaf) => {
            let flag = |flag, text| if leaf.flags.contains(flag) { text } else { "" };
            let rights = if leaf.is_writable() { "" } else { ", read-only" };
            let dirty = flag(LeafFlags::DIRTY, ", dirty");
            format!("{}{rights}{dirty}", page(leaf.frame.0))
        }
        Entry::Migration(migration) => format!("migration of {}", page(migration.frame.0)),
        Entry::Hwpoison(frame) => format!("poisoned {}", page(frame.0)),
        Entry::Marker => "marker".to_owned(),
        Entry::Poison => "poison".to_owned(),
    }
}

/// The bits that a processor has set in an entry. `None`: it has set none.
pub(super) fn used(before: u64, after: u64) -> Option<&'static str> {
    let flags = |bits| match RawEntry::from_bits(bits).decode() {
        Entry::Leaf(leaf) => leaf.flags,
        _ => LeafFlags::empty(),
    };
    let set = flags(after) - flags(before);
    match (set.contains(LeafFlags::ACCESSED), set.contains(LeafFlags::DIRTY)) {
        (true, true) => Some("accessed and dirty"),
        (true, false) => Some("accessed"),
        (false, true) => Some("dirty"),
        (false, false) => None,
    }
}

/// The name of a huge page.
pub(super) fn page(frame: u64) -> String {
    format!("page {}", frame >> 9)
}

/// The name of a word, and whether it is an entry.
pub(super) fn word(place: Place, stack: &[Source]) -> (String, bool) {
    match place {
        Place::Entry(frame, index) => (world().name_of(frame, index), true),
        Place::Record(frame, GENERATION) => (format!("T{}.generation", frame.0), false),
        Place::Record(frame, USERS) => (format!("T{}.users", frame.0), false),
        Place::Record(frame, word) => (format!("T{}.word{word}", frame.0), false),
        Place::PageRecord(word) => {
            let field = match word % 16 {
                0 => "refs".to_owned(),
                1 => "mappings".to_owned(),
                2 => "flags".to_owned(),
                other => format!("word{other}"),
            };
            (format!("page {}.{field}", word / 16 + 1), false)
        }
        Place::Elsewhere => (elsewhere(stack).to_owned(), false),
    }
}

/// File below `crates/hugewalk/src`, or directory; function (`*`: any); what the words are called that it touches.
const WORDS: &[(&str, &str, &str)] = &[
    ("file/mod.rs", "size", "i_size"),
    ("file/mod.rs", "set_size", "i_size"),
    ("root.rs", "has_exited", "mm is gone"),
    ("root.rs", "set_exited", "mm is gone"),
    ("task.rs", "enter", "dropped processes"),
    ("task.rs", "rcu_barrier", "dropped processes"),
    ("space/mod.rs", "dropped", "dropped processes"),
    ("mm/exit.rs", "*", "dropped processes"),
    ("end.rs", "*", "dropped processes"),
    ("uffd/", "*", "userfaultfd is closed"),
    ("sleep/lines.rs", "*", "a mark"),
    ("sleep/biased.rs", "*", "the bias"),
];

/// What the engine keeps in words of its own: who touches one knows.
fn elsewhere(stack: &[Source]) -> &'static str {
    let file = |source: &Source| source.file.strip_prefix("crates/hugewalk/src/").map(str::to_owned);
    let of_engine = stack.iter().find_map(|source| Some((file(source)?, &*source.function)));
    let known = of_engine.and_then(|(file, function)| {
        WORDS.iter().find(|(at, name, _)| file.starts_with(at) && (*name == "*" || *name == function))
    });
    known.map_or("a number", |&(_, _, word)| word)
}

/// A number as a reader would have it: what shares a word of a page's record is told apart.
pub(super) fn number(place: Place, bits: u64) -> String {
    let (low, high) = (bits as u32, bits >> 32);
    match place {
        Place::PageRecord(word) if matches!(word % 16, 0 | 1) && high != 0 => {
            let (one, many) = if word % 16 == 0 { ("pin", "pins") } else { ("migration", "migrations") };
            format!("{low} and {high} {}", if high == 1 { one } else { many })
        }
        // Above the flags stands the size of the pages of the pool that the page belongs to.
        Place::PageRecord(word) if word % 16 == 2 && high != 0 => format!("{low}, pooled"),
        // A pointer: it differs from run to run, and no engine's number is as large and odd. Sizes of files are whole pages.
        Place::Elsewhere if high != 0 && high >> 15 == 0 && !low.is_multiple_of(4096) => "one".to_owned(),
        _ => bits.cast_signed().to_string(),
    }
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lab) enum Mode {
    /// By one.
    Alone,
    /// A reader/writer lock, in read.
    Read,
    /// A reader/writer lock, in write.
    Write,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Mmap,
    Vma,
    IMmap,
    Other(&'static str),
}

/// The locks that were met, by address.
#[derive(Default)]
pub(super) struct Locks {
    known: HashMap<usize, (Sort, Option<usize>)>,
    /// The `i_mmap` locks in the order in which they were met.
    files: Vec<usize>,
}

impl Locks {
    /// The name of a lock that is taken here. `process` is the number of the process that the lock lies in, or
    /// else whose mmap lock the taker holds.
    pub(super) fn name(
        &mut self,
        address: usize,
        place: Place,
        mode: Mode,
        stack: &[Source],
        process: Option<usize>,
    ) -> String {
        if let Place::Record(frame, _) = place {
            return format!("lock of T{}", frame.0);
        }
        let known = self.known.get(&address).copied();
        // Memory of a lock that is gone may hold another one by now.
        let sort = sort(stack).or(known.map(|known| known.0)).unwrap_or(Sort::Other("a lock"));
        let of = known.filter(|known| known.0 == sort).and_then(|known| known.1);
        let process = match sort {
            Sort::Mmap => process,
            Sort::Vma => process.or(of),
            Sort::IMmap | Sort::Other(_) => None,
        };
        self.known.insert(address, (sort, process));
        let process = process.map(|number| format!(" of P{}", number + 1)).unwrap_or_default();
        let name = match sort {
            Sort::Mmap => format!("mmap lock{process}"),
            Sort::Vma => format!("VMA lock{process}"),
            Sort::IMmap => {
                let at = self.files.iter().position(|&file| file == address).unwrap_or_else(|| {
                    self.files.push(address);
                    self.files.len() - 1
                });
                if at == 0 { "i_mmap".to_owned() } else { format!("i_mmap of file {}", at + 1) }
            }
            Sort::Other(name) => name.to_owned(),
        };
        match mode {
            Mode::Alone => name,
            Mode::Read => format!("{name}, read"),
            Mode::Write => format!("{name}, write"),
        }
    }

    /// The process that a mmap lock belongs to, if that is what lies at the address.
    pub(super) fn process_of_mmap(&self, address: usize) -> Option<usize> {
        self.known.get(&address).filter(|known| known.0 == Sort::Mmap)?.1
    }
}

/// File below `crates/hugewalk/src`, or directory; function (`*`: any); the sort of lock that it takes.
const SORTS: &[(&str, &str, Sort)] = &[
    ("space/mod.rs", "mmap_read", Sort::Mmap),
    ("space/mod.rs", "mmap_try_read", Sort::Mmap),
    ("space/mod.rs", "mmap_write", Sort::Mmap),
    ("vma/", "*", Sort::Vma),
    ("sleep/biased.rs", "wake_writer", Sort::Other("lock of the writer's place")),
    ("sleep/biased.rs", "wait_for_readers", Sort::Other("lock of the writer's place")),
    ("sleep/biased.rs", "drop", Sort::Other("lock of the writer's place")),
    ("sleep/lines.rs", "*", Sort::Other("list of the lines")),
    ("sleep/own.rs", "*", Sort::Other("plain lock")),
    ("truncate.rs", "unmap_offsets", Sort::Vma),
    ("rmap/displace.rs", "unshare_when_free", Sort::Vma),
    ("file/i_mmap.rs", "*", Sort::IMmap),
    ("hugetlb.rs", "fault_mutex", Sort::Other("fault mutex")),
    ("file/mod.rs", "lock_inode", Sort::Other("inode lock")),
    ("pool.rs", "*", Sort::Other("pool lock")),
    ("reserve/", "*", Sort::Other("reservations' lock")),
    ("rmap/", "*", Sort::Other("page's owner lock")),
    ("page.rs", "*", Sort::Other("page's owner lock")),
    ("page/", "*", Sort::Other("page's owner lock")),
    ("uffd/", "*", Sort::Other("userfaultfd lock")),
    ("file/", "*", Sort::Other("page cache lock")),
];

/// What sort of lock is taken by whom: by the innermost function that tells.
fn sort(stack: &[Source]) -> Option<Sort> {
    stack.iter().find_map(|source| {
        let file = source.file.strip_prefix("crates/hugewalk/src/")?;
        let fits = |&&(at, function, _): &&(&str, &str, Sort)| {
            file.starts_with(at) && (function == "*" || function == source.function)
        };
        SORTS.iter().find(fits).map(|&(_, _, sort)| sort)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::trace::kernel::tests::is_there;
    use crate::lab::trace::stack::is_of_interest;

    /// The lists name files and functions, of those that are told; if one is renamed, or left out, they have to follow.
    #[test]
    fn every_function_that_names_a_word_or_a_lock_is_there() {
        let words = WORDS.iter().map(|&(file, function, _)| (file, function));
        let sorts = SORTS.iter().map(|&(file, function, _)| (file, function));
        for (file, function) in words.chain(sorts) {
            let path = format!("crates/hugewalk/src/{file}");
            assert!(is_there(&path, function), "{file}: {function}");
            assert!(is_of_interest(&path), "{file} is left out");
        }
    }
}
