//! Calls on names, directories and file systems.

use super::arguments::Arguments;
use super::call::Call;
use super::error::Problem;
use super::syntax::{self, RawCall};

/// What `statfs` says of a hugetlbfs, as a number.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Reads one of them; none if it does not matter.
pub(super) fn decode(raw: &RawCall<'_>) -> Result<Option<Call>, Problem> {
    let of = |call: &'static str| Arguments { call, list: &raw.arguments };
    Ok(Some(match raw.name {
        "rename" | "link" => {
            let arguments = of(if raw.name == "link" { "link" } else { "rename" });
            let (from, to) = (arguments.path(0)?, arguments.path(1)?);
            if raw.name == "link" {
                Call::Link { from_directory: None, from, to_directory: None, to }
            } else {
                Call::Rename { from_directory: None, from, to_directory: None, to, exchange: false }
            }
        }
        "renameat" | "renameat2" | "linkat" => {
            let arguments = of(if raw.name == "linkat" { "linkat" } else { "renameat" });
            let (from_directory, from) = (Some(arguments.fd(0)?), arguments.path(1)?);
            let (to_directory, to) = (Some(arguments.fd(2)?), arguments.path(3)?);
            if raw.name == "linkat" {
                Call::Link { from_directory, from, to_directory, to }
            } else {
                const RENAME_EXCHANGE: u64 = 2;
                let named = |name: &str| Some(if name == "RENAME_EXCHANGE" { RENAME_EXCHANGE } else { 0 });
                let exchange = arguments.command(4, named).is_some_and(|flags| flags & RENAME_EXCHANGE != 0);
                Call::Rename { from_directory, from, to_directory, to, exchange }
            }
        }
        "chdir" => Call::Chdir { path: of("chdir").path(0)? },
        "fchdir" => Call::Fchdir { fd: of("fchdir").fd(0)? },
        _ => {
            let structure = raw.arguments.last().copied().unwrap_or_default();
            let field = |name| syntax::field(structure, name);
            let named = |name: &str| (name == "HUGETLBFS_MAGIC").then_some(HUGETLBFS_MAGIC);
            let kind = field("f_type").and_then(|kind| syntax::number(kind, named));
            let page = field("f_bsize").and_then(|size| syntax::number(size, |_| None));
            let (Some(HUGETLBFS_MAGIC), Some(page)) = (kind, page) else { return Ok(None) };
            if raw.name.starts_with('f') {
                Call::Fstatfs { fd: of("fstatfs").fd(0)?, page }
            } else {
                Call::Statfs { path: of("statfs").path(0)?, page }
            }
        }
    }))
}
