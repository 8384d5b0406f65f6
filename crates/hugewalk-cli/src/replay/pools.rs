//! How many huge pages there are at the start.

use hugewalk::addr::HugeSize;

use super::machine::PoolSize;
use super::plan::Plan;
use crate::args::ReplayArgs;
use crate::report::Truth;
use crate::report::text::{counted, size as size_text};

/// The pools, and in words what was chosen and why.
pub(super) fn choose(
    args: &ReplayArgs,
    plan: &Plan,
    truth: Option<&Truth>,
    default_shift: u32,
) -> (Vec<PoolSize>, String) {
    let mut words = Vec::new();
    let mut choose = |size: HugeSize| {
        let is_default = size.shift() == default_shift;
        let of_size = truth.filter(|truth| truth.huge_page_kb == size.bytes() >> 10);
        let (pages, overcommit, why) = match (args.pool.filter(|_| is_default), of_size) {
            (Some(pages), _) => (pages, 0, "as --pool says"),
            (None, Some(truth)) => {
                let surplus = truth.meminfo.surplus;
                (truth.meminfo.total.saturating_sub(surplus), surplus, "as the kernel had")
            }
            (None, None) => {
                (plan.need.pages(size.shift(), args.clones), 0, "as many as the recording can use")
            }
        };
        if pages > 0 || is_default {
            let pages = counted(pages, "page", "pages");
            words.push(format!("{pages} of {}, {why}", size_text(size.bytes())));
        }
        PoolSize { size, pages, overcommit }
    };
    let pools = HugeSize::ALL.map(&mut choose).into();
    (pools, words.join("; "))
}
