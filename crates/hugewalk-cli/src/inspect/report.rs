//! What is reported, in the order of its JSON form.

use serde::Serialize;

pub use crate::proc::Pool;
use crate::report::Unsharable;

/// The name and version of the JSON form.
pub const SCHEMA: &str = "hugewalk-inspect/1";

/// What running processes have in huge pages.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The version of the command.
    pub version: &'static str,
    /// The processes that were asked for; null if all were.
    pub asked: Option<Vec<u32>>,
    /// Those that map huge pages, by what they have of them.
    pub processes: Vec<Process>,
    /// What they map, by file.
    pub files: Vec<File>,
    /// Page tables that hold huge-page entries.
    pub tables: Tables,
    /// All page tables of the machine, of whatever kind.
    pub machine_page_tables_kb: u64,
    /// The size of huge pages where nobody names one.
    pub default_huge_page_kb: u64,
    /// By the size of their pages.
    pub pools: Vec<Pool>,
    /// Processes that may not be looked at.
    pub unseen: Unseen,
    /// What cannot be known, or why there is nothing to see.
    pub notes: Vec<String>,
    /// What could be gained.
    pub advice: Vec<String>,
}

/// A number of tables that cannot be known exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tables {
    /// If all tables that can be shared are.
    pub least: u64,
    /// If none are.
    pub most: u64,
    /// Bytes in the least.
    pub least_kb: u64,
    /// Bytes in the most.
    pub most_kb: u64,
}

impl Tables {
    pub(super) fn new(least: u64, most: u64) -> Self {
        Self { least, most, least_kb: least * 4, most_kb: most * 4 }
    }
}

/// A process that maps huge pages.
#[derive(Debug, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// What it maps.
    pub mapped_kb: u64,
    /// What its tables map: pages that it reaches without a fault.
    pub resident_kb: u64,
    /// `HugetlbPages` of its status.
    pub hugetlb_kb: u64,
    /// `VmPTE` of its status: all its page tables, shared ones too.
    pub page_tables_kb: u64,
    /// Tables with huge-page entries that are its own: the least and the most.
    pub own_tables: Tables,
    /// Such tables that another process that was looked at may share: the least and the most that it uses.
    pub sharable_tables: Tables,
    /// Its mappings of huge pages, by address.
    pub mappings: Vec<Mapping>,
}

/// A mapping of huge pages in one process.
#[derive(Clone, Debug, Serialize)]
pub struct Mapping {
    /// From and to.
    pub range: String,
    /// Its size.
    pub bytes: u64,
    /// The name of the file.
    pub file: String,
    /// The device of the file.
    pub device: String,
    /// The inode of the file.
    pub inode: u64,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// The size of its pages.
    pub page_kb: u64,
    /// As in `rw-`.
    pub rights: String,
    /// Whether it is shared, or private.
    pub shared: bool,
    /// `VmFlags`, but for `lo`.
    pub flags: String,
    /// `Private_Hugetlb`.
    pub private_kb: u64,
    /// `Shared_Hugetlb`.
    pub shared_kb: u64,
    /// Aligned 1 GiB ranges whose tables may be shared.
    pub sharable_ranges: u64,
    /// Those of them that have pages for sure: only these have a table.
    pub sharable_filled: u64,
    /// Tables of this mapping: the least and the most.
    pub tables: Tables,
    /// What cannot share, and why.
    pub unsharable: Vec<Unsharable>,
}

/// A file of huge pages that is mapped.
#[derive(Debug, Serialize)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its device.
    pub device: String,
    /// Its inode.
    pub inode: u64,
    /// The size of its pages.
    pub page_kb: u64,
    /// The processes that map it.
    pub processes: Vec<u32>,
    /// How they do; equal mappings are one entry.
    pub places: Vec<Place>,
    /// Tables that map it, in all of them.
    pub tables: Tables,
    /// The tables there would be if each process mapped it from a 1 GiB boundary on, with the same flags, and all tables were
    /// shared that can be; null for pages and mappings that cannot share.
    pub aligned_tables: Option<u64>,
    /// Pages that these processes have faulted in, counted for each.
    pub faulted_pages: u64,
    /// Those of them that another of the processes had already, at most: had all tables been shared, they would have come
    /// without a fault.
    pub refaulted_pages: u64,
    /// If the addresses do not agree modulo 1 GiB: who maps it where.
    pub disagreement: Vec<Residue>,
}

/// Where, and how, processes map a file.
#[derive(Debug, Serialize)]
pub struct Place {
    /// What all the mappings have in common; `private_kb`, `shared_kb` and `tables` are sums over all.
    #[serde(flatten)]
    pub mapping: Mapping,
    /// Who does; a process that does so twice stands here twice.
    pub processes: Vec<u32>,
    /// Other mappings, of these processes and others, that may share one of its tables, at most.
    pub partners: u64,
}

/// Processes that map a file at the same place in the gigabyte.
#[derive(Debug, Serialize)]
pub struct Residue {
    /// Where the beginning of the file would lie, modulo 1 GiB.
    pub address: String,
    /// Who maps it so.
    pub processes: Vec<u32>,
}

/// Processes that may not be looked at: those of other users, or, without all capabilities, those that have more of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// How many.
    pub processes: u64,
    /// Whether it was root who looked.
    pub by_root: bool,
    /// Whether `/proc` is mounted with `hidepid`: then it does not even list the processes of other users, except to root.
    pub hidden: bool,
    /// Those of them that say they have huge pages.
    pub with_huge_pages: u64,
    /// What those say they have.
    pub hugetlb_kb: u64,
}
