//! Sentences: what cannot be known, why there may be nothing to see, and what could be gained.

use super::report::{File, Pool, Report};
use super::text::between;
use crate::costs::Costs;
use crate::programs::Program;
use crate::report::text::{counted, grouped, size};

/// Tables from which on a change of a program is worth a word.
const WORTH_TABLES: u64 = 256;
/// Memory that lies idle from which on the pool is.
const WORTH_BYTES: u64 = 256 << 20;

pub(super) fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    let unseen = report.unseen;
    if unseen.processes > 0 {
        let have = match unseen.with_huge_pages {
            0 => "none of them says it has huge pages".to_owned(),
            1 => format!("1 of them has {} in huge pages", size(unseen.hugetlb_kb << 10)),
            many => format!("{} of them have {} in huge pages", grouped(many), size(unseen.hugetlb_kb << 10)),
        };
        let (whose, what_to_do) = if unseen.by_root {
            ("", "the system forbids it even to this root (CAP_SYS_PTRACE).")
        } else if unseen.processes == 1 {
            (" of another user", "run as root.")
        } else {
            (" of other users", "run as root.")
        };
        let processes = counted(unseen.processes, "process", "processes");
        let were = if unseen.processes == 1 { "was" } else { "were" };
        notes.push(format!("{processes}{whose} {were} not looked at ({have}): {what_to_do}"));
    }
    if unseen.hidden && !unseen.by_root {
        notes.push(
            "/proc is mounted with hidepid: it may not list processes of other users at all. Run as root to see them."
                .to_owned(),
        );
    }
    if report.asked.is_some() && !report.processes.is_empty() {
        notes.push(
            "Only the processes that were named were looked at. Others may share tables with them: leave the numbers out to see."
                .to_owned(),
        );
    }
    if report.processes.is_empty() {
        notes.push(nothing(report));
    }
    notes
}

/// Why no mapping was seen.
fn nothing(report: &Report) -> String {
    let total: u64 = report.pools.iter().map(|pool| pool.total).sum();
    let may_grow = report.pools.iter().any(|pool| pool.overcommit.is_some_and(|pages| pages > 0));
    let used = report.pools.iter().any(|pool| pool.free < pool.total);
    let reserved = report.pools.iter().any(|pool| pool.reserved > 0);
    let why = if report.pools.is_empty() {
        "This kernel has no pools of huge pages (CONFIG_HUGETLBFS)."
    } else if total == 0 && !may_grow {
        "The pools are empty: a program that asks for huge pages gets none (sysctl vm.nr_hugepages=N makes some)."
    } else if (used || reserved) && report.asked.is_some() {
        "The pages that are in use or reserved belong to other processes, or to files that nobody maps: leave the numbers out to see."
    } else if (used || reserved) && report.unseen.processes > 0 {
        "The pages that are in use or reserved belong to processes of other users, or to files that nobody maps."
    } else if used || reserved {
        "The pages that are in use or reserved belong to files that nobody maps: files on hugetlbfs, memfds, System V segments."
    } else {
        "No page of the pools is in use."
    };
    format!("{why} Transparent huge pages are another thing, and are not counted here.")
}

pub(super) fn advice(report: &Report, costs: &Costs) -> Vec<String> {
    let mut sentences = Vec::new();
    for file in &report.files {
        let Some(aligned) = file.aligned_tables else { continue };
        let spared = file.tables.least.saturating_sub(aligned);
        if spared >= WORTH_TABLES {
            let how = if file.disagreement.is_empty() {
                "from a 1 GiB boundary on"
            } else {
                "from a 1 GiB boundary on in all processes"
            };
            let program = program(report, file);
            let name = program.name().unwrap_or("the program");
            let faults = match file.refaulted_pages {
                0 => String::new(),
                pages => format!(
                    ", and would have spared these processes up to {} (about {})",
                    counted(pages, "fault", "faults"),
                    costs.faults(pages)
                ),
            };
            let spares = format!(
                "That spares {} ({}, {} % of them){faults}.",
                counted(spared, "table", "tables"),
                size(spared * 4096),
                spared * 100 / file.tables.least.max(1)
            );
            sentences.push(match program.aligned(&file.name) {
                Some(option) => format!(
                    "For the operator: give {name} {option} for {}, and have the other processes that map it begin on a 1 GiB \
                     boundary too. {spares}",
                    named(file)
                ),
                None => format!("For the author of {name}: map {} {how}. {spares}", named(file)),
            });
        }
    }
    sentences.extend(gigantic(report, costs));
    for pool in &report.pools {
        let bytes = pool.unreserved.saturating_mul(pool.huge_page_kb << 10);
        if bytes < WORTH_BYTES || pool.unreserved.saturating_mul(2) < pool.total {
            continue;
        }
        sentences.push(format!(
            "For the operator: {} in pages of {} are free and not reserved. Nothing else can use that memory.",
            size(bytes),
            size(pool.huge_page_kb << 10)
        ));
    }
    sentences.truncate(3);
    sentences
}

/// The program that maps a file, as far as the names of its processes say.
fn program(report: &Report, file: &File) -> Program {
    let of_file = report.processes.iter().filter(|process| file.processes.contains(&process.pid));
    of_file.map(|process| Program::of(&process.command)).max().unwrap_or_default()
}

/// What pages of 1 GiB would do for large shared files.
fn gigantic(report: &Report, costs: &Costs) -> Option<String> {
    let pool: &Pool = report.pools.iter().find(|pool| pool.huge_page_kb == 1 << 20)?;
    let large = |file: &&File| file.aligned_tables.is_some() && file.tables.most >= WORTH_TABLES;
    let file = report.files.iter().find(large)?;
    let bytes = file.places.iter().map(|place| place.mapping.offset + place.mapping.bytes).max()?;
    let pages = bytes.div_ceil(1 << 30);
    let option = program(report, file).gigantic(&file.name);
    let how = option.map_or_else(|| "In pages of 1 GiB".to_owned(), |option| format!("With {option}"));
    // Each process touches each page once.
    let spared = file.faulted_pages.saturating_sub(pages.saturating_mul(file.processes.len() as u64));
    let faults = match spared {
        0 => String::new(),
        faults => format!(
            " It would have spared these processes {} (about {}).",
            counted(faults, "fault", "faults"),
            costs.faults(faults)
        ),
    };
    Some(format!(
        "{how} {} needs none of its {} tables (100 % of them), and {}; {} of those are free and not reserved.{faults}",
        named(file),
        between(file.tables),
        counted(pages, "page", "pages"),
        grouped(pool.unreserved)
    ))
}

/// The file in a sentence.
pub(super) fn named(file: &File) -> String {
    format!("{} (inode {})", printable(&file.name), file.inode)
}

/// A name without what would move a terminal's cursor.
pub(super) fn printable(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}
