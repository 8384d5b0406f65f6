//! What protocols and steps are, each in a sentence.

use hugewalk_lab::lab::{Broadcast, Settings, Walkers};

/// The properties that runs are judged by, each with its sentence: as docs/lab.md has them.
pub(crate) const PROPERTIES: [(&str, &str); 18] = [
    ("I1", "no access to a table, or its lock, after its death; nor to the lock in a VMA"),
    ("I2", "what a walker writes goes to a table that its own parent entry points to at that moment"),
    (
        "I3",
        "an entry that a walker is told of was its own when it was read; for protocols that cannot promise that: it is a page that its mapping has a right to",
    ),
    ("I4", "the count of users is right whenever `i_mmap` is free"),
    ("I5", "a process shares a table only if it has a mapping that may"),
    ("I6", "after unsharing no TLB and no paging-structure cache reaches the table"),
    ("I7", "locks have an order, and nobody waits for what it holds"),
    ("I8", "no deadlock, no livelock; and nobody who has waited for a lock makes way for others without end"),
    (
        "I9",
        "nothing is left at the end: tables, pages, reservations, questions to a handler that nobody waits for; nor does a mapping remember that a page failed where its file has none",
    ),
    ("I10", "no sleep in an atomic section"),
    (
        "I11",
        "no processor uses a translation to a page that was given back or replaced, nor one that allows more than the entry, once the call that changed the entry is over or the page has a new owner",
    ),
    (
        "I12",
        "nobody can come to a page, by an entry or from the file's side, before it is filled; one that has failed counts as not filled",
    ),
    (
        "I13",
        "what a processor has stored is there whenever its address space loads, and at the end, and what was written to a file is in a page at the end; whenever the lock of a table is released, a page that was stored to through an entry which is still there is dirty in it",
    ),
    (
        "I14",
        "nobody takes a reference to a page that nobody holds; a page is given back without references and mappings, and once; at the end its references are its mappings and that of the page cache, and it knows whose it is",
    ),
    (
        "I15",
        "what pool and mounts count is right whenever the lock of the count is released, and their sum with what files and private mappings have reserved when no operation is between its steps; a fault that has a reservation gets a page, memory failure aside",
    ),
    (
        "I16",
        "what a report tells of an entry (page walk, smaps, pagemap) was its settled value at some moment of the call: one that stayed when its table was unlocked; counts may be of another moment. A walk tells of each entry once, and an event that a handler reads of a change that has been made",
    ),
    ("I17", "whoever holds a lock in write holds it alone"),
    (
        "I18",
        "no processor has two translations of one address that differ in page or rights: where it may keep a group of entries as one, they are broken and forgotten before others are made",
    ),
];

/// A protocol.
pub(crate) fn protocol(settings: &Settings) -> String {
    let from = match settings.name {
        "legacy" => "Linux up to 6.0: ",
        "rfc" => "The RFC of October 2022 as posted: ",
        "rfc-ptl" => "The RFC with the table lock freed together with its table: ",
        "vma-lock" => "Linux 6.3: ",
        "ipi-each" => "The fix of 2025: ",
        "ipi-last" => "The rework of January 2026: ",
        "sync-rcu" => "Linux 7.1: ",
        "ipi-implied" => "Proposed in March 2026, on machines whose flushes are interrupts: ",
        "ipi-targeted" => "Proposed in February 2026, on machines whose flushes are none: ",
        "unshare-rcu" => "Suggested in February 2026: ",
        "hugewalk" => "This engine: ",
        "look-after-copy" => {
            "a handler whose source has faulted, with no lock held, looks again whether the mappings are changing"
        }
        _ => "",
    };
    let walkers = match settings.walkers {
        Walkers::Mmap => "walkers hold the mmap lock",
        Walkers::Rcu if settings.has("revalidate") => {
            "walkers hold RCU, recheck after locking, and confirm what they read"
        }
        Walkers::Rcu => "walkers hold RCU",
        Walkers::Vma => "walkers hold the VMA lock, GUP-fast nothing",
    };
    let lock = if settings.lock_dies_at_once { "at once" } else { "with its table" };
    let waits = match settings.broadcast {
        Broadcast::None => "unsharing waits for nobody",
        Broadcast::Each => "unsharing broadcasts to all processors each time",
        Broadcast::Last => "a gather broadcasts to all processors once, if a table in it has one user left",
        Broadcast::Implied => {
            "a flush interrupts the processors that run its address space, and unsharing waits for nobody else"
        }
        Broadcast::Targeted => {
            "a gather interrupts the processors that walk its address space without locks, if a table in it has one user left"
        }
        Broadcast::GracePeriod => "a gather waits for a grace period, if a table in it has one user left",
    };
    let tables = match settings.always_waits {
        true => "; tables are freed after a grace period on every machine",
        false => "",
    };
    format!("{from}{walkers}; a table lock is freed {lock}; {waits}{tables}")
}

/// A step of a protocol; empty if there is none of this name.
pub(crate) fn step(name: &str) -> &'static str {
    match name {
        "rcu-free" => "a table is freed after a grace period (P1)",
        "revalidate" => {
            "after locking a table under RCU, a walker checks that its parent entry still points there (P2)"
        }
        "confirm-parent" => "a walker that reads without the lock rechecks its parent entry (P3)",
        "confirm-generation" => {
            "a walker that reads without the lock compares the generation of the table (P3)"
        }
        "bump-generation" => "unsharing increments the generation",
        "flush" => "the TLB is flushed for what was unmapped or unshared",
        "note-generation-first" => {
            "the generation is noted before the parent entry is seen to point to the table"
        }
        "confirm-parent-first" => "at the end the parent entry is rechecked first, and then the generation",
        "bump-after-clear" => "the generation goes up after the parent entry was cleared",
        "confirm-entry" => "after GUP-fast has taken its reference, it rechecks the entry",
        "detach-locked" => "a parent entry is cleared under the lock of the table it points to",
        "flush-whole-table" => "the whole range of an unshared table is flushed",
        "break-first" => {
            "an entry, or a group, is made busy and flushed before another page or other rights take its place"
        }
        "flush-tables" => "a flush for tables that went says so, and is not one for leaves alone",
        "flush-under-i-mmap" => "the flush comes before i_mmap is released",
        "count-then-tell" => "whether a table has one user left is checked after the count went down",
        "vma-lock" => "a walker that may sleep while it keeps a slot holds the VMA lock in read",
        "try-vma-lock" => "code that holds i_mmap only tries the VMA lock",
        "reserve-lock" => {
            "truncation waits for the reservations' lock where a private mapping has that in place of the VMA lock"
        }
        "populate-lock" => "sharing a table and making one populate a parent entry under one lock",
        "load-once" => "the entry that leads to a table is loaded once",
        "exchange-under-i-mmap" => "a split VMA is replaced in its file's tree before i_mmap is released",
        "leave-under-i-mmap" => "an unmapped VMA leaves its file's tree before i_mmap is released",
        "share-without-i-mmap" => "code that already holds i_mmap does not look for a partner to share with",
        "queue-then-look" => "a task that waits queues first, and then checks whether it has to wait",
        "mutex-first" => "the fault mutex, which is the page lock, comes before i_mmap",
        "recheck-size" => "a fault that maps a page of its own rechecks the size of the file",
        "hold-vma" => {
            "a task that waits for the lock of a VMA holds a reference to the VMA if nothing else keeps it"
        }
        "look-again" => {
            "after waiting for a VMA lock, the task rechecks that the VMA is still in its file's tree"
        }
        "keep-lock" => "truncation keeps a VMA lock that it has waited for while it goes on",
        "sleep-on-migration" => "a fault that meets a migration entry sleeps until the page has arrived",
        "populate-attached" => {
            "whoever locks a table without a mapping that keeps it asks whether the table is attached still"
        }
        "count-below" => "a table is freed only if no entry of it points to another table",
        "mark-then-look" => {
            "a reader of a biased lock marks itself, and then sees the lock biased still: its light barrier on the way in"
        }
        "revoke-then-scan" => {
            "a writer takes the bias of a lock away, and then looks for marks: its heavy barrier"
        }
        "leave-then-look" => {
            "a reader of a biased lock clears its mark, and then looks whether a writer waits: its light barrier on the way out"
        }
        "run-mutexes" => "a task that faults many pages in together holds the fault mutex of each",
        "run-looks-again" => {
            "a task that faults many pages in together looks whether one is mapped with the mutexes held"
        }
        "notify-start" => "secondary MMUs are told of a change before the first entry changes",
        "notify-end-last" => "secondary MMUs are told that a change is over once the TLB has been flushed",
        "notify-whole-table" => {
            "secondary MMUs are told of all that a table translates, where the table may be shared"
        }
        "notify-sharers" => {
            "secondary MMUs of each address space that uses a table are told of a change in it"
        }
        "look-after-copy" => {
            "a handler that has copied a page with no lock held looks again at the mapping before it maps the page"
        }
        "run-recheck" => "a task that faults many pages in together rereads each entry with the table locked",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_and_every_protocol_has_its_sentence() {
        for name in Settings::steps() {
            assert_ne!(step(name), "", "{name}");
        }
        for settings in &Settings::ALL {
            assert!(protocol(settings).starts_with(|c: char| c.is_ascii_uppercase()), "{}", settings.name);
        }
    }
}
