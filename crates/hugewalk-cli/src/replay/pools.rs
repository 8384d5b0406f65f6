//! How many huge pages there are at the start: as the user or the kernel says, or a guess that the recording allows.
//!
//! A recording shows what was asked of a pool and not how large it was. Without `--pool` or `--truth` it is taken to be large
//! enough for every call that succeeded. A call that failed with `ENOMEM` says that so many pages were not left, unless it
//! failed for another reason (`vm.max_map_count`, a control group), which looks the same. The guess agrees with it as long as
//! there is a choice. Where a single size alone would explain the failure, that size would be made to fit: then the failure is
//! left unexplained, and said to be.

use hugewalk::addr::HugeSize;
use hugewalk::arch::X86_64;

use super::args::{PoolArg, ReplayArgs};
use super::attempt::Attempt;
use super::machine::PoolSize;
use super::plan::Plan;
use super::schedule::Record;
use crate::report::Truth;
use crate::report::text::{counted, size as size_text};

/// The pools to start with.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) sizes: Vec<PoolSize>,
    /// Why each is as large as it is.
    why: Vec<Why>,
}

/// Why a pool is as large as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Asked,
    Recorded,
    Kernel,
    /// Nobody says.
    Guess {
        /// For the calls that succeeded.
        needed: u64,
    },
    /// A guess that had to be lowered.
    Fitted {
        /// The fewest pages with which all goes as recorded.
        least: u64,
    },
}

impl Choice {
    /// Before anything was tried.
    pub(super) fn first(args: &ReplayArgs, plan: &Plan, truth: Option<&Truth>, default_shift: u32) -> Self {
        let mut why = Vec::new();
        let choose = |size: HugeSize| {
            let is_asked_for = |pool: &&PoolArg| pool.shift.unwrap_or(default_shift) == size.shift();
            let asked = args.pool.iter().rev().find(is_asked_for);
            let of_size = truth.filter(|truth| truth.huge_page_kb == size.bytes() >> 10);
            let (pages, overcommit, reason) = match (asked, of_size) {
                (Some(pool), _) => (pool.pages, 0, if pool.recorded { Why::Recorded } else { Why::Asked }),
                (None, Some(truth)) => {
                    let surplus = truth.meminfo.surplus;
                    (truth.meminfo.total.saturating_sub(surplus), surplus, Why::Kernel)
                }
                (None, None) => {
                    let needed = plan.need.pages(size.shift(), args.clones);
                    // Copies do not fail: how much each of them leaves over is not recorded.
                    let failed = if args.clones == 1 { plan.need.failed_pages(size.shift()) } else { 0 };
                    (needed.saturating_add(failed), 0, Why::Guess { needed })
                }
            };
            why.push(reason);
            PoolSize { size, pages, overcommit }
        };
        let sizes = X86_64::SIZES.map(choose).into();
        Self { sizes, why }
    }

    /// Whether nobody says how large the pool of a size is.
    pub(super) fn is_guess(&self, shift: u32) -> bool {
        let place = self.sizes.iter().position(|pool| pool.size.shift() == shift);
        place.is_some_and(|place| matches!(self.why[place], Why::Guess { .. } | Why::Fitted { .. }))
    }

    /// How many pages fewer a pool can have had, going by a run with this choice.
    fn spare(&self, shift: u32, record: &Record) -> u64 {
        let place = self.sizes.iter().position(|pool| pool.size.shift() == shift);
        match place.map(|place| (self.sizes[place].pages, self.why[place])) {
            // A file that took all pages there were would have taken fewer.
            Some((pages, Why::Fitted { least })) => pages.saturating_sub(least),
            _ => record.spare(shift),
        }
    }

    /// A better guess after a run with this one, if that showed it to be too large.
    pub(super) fn fitted(&self, record: &Record) -> Option<Self> {
        let mut better = self.clone();
        let mut changed = false;
        for (pool, why) in better.sizes.iter_mut().zip(&mut better.why) {
            let Why::Guess { needed } = *why else { continue };
            let Some(fit) = Fit::of(pool, record) else { continue };
            let pages = if fit.leaves_some_unexplained {
                pool.pages.saturating_sub(fit.too_many)
            } else {
                pool.pages.saturating_sub(fit.too_many).min(needed.max(fit.least))
            };
            if pages != pool.pages {
                changed = true;
                pool.pages = pages;
                *why = if fit.too_many > 0 { Why::Fitted { least: fit.least } } else { *why };
            }
        }
        changed.then_some(better)
    }

    /// In words.
    pub(super) fn words(&self, record: &Record, default_shift: u32) -> String {
        let pools = || self.sizes.iter().zip(&self.why);
        let all_empty = pools().all(|(pool, _)| pool.pages == 0);
        let of_default = |pool: &PoolSize| pool.size.shift() == default_shift;
        let concern = pools().filter(|(pool, why)| {
            let was_given = matches!(why, Why::Asked | Why::Recorded | Why::Kernel);
            pool.pages > 0 || of_default(pool) && (all_empty || was_given)
        });
        let words = concern.map(|(pool, why)| {
            let pages = counted(pool.pages, "page", "pages");
            let why = match why {
                Why::Asked => "as --pool says".to_owned(),
                Why::Recorded => "as recorded".to_owned(),
                Why::Kernel => "as the kernel had".to_owned(),
                Why::Guess { .. } => match pool.pages.saturating_sub(record.spare(pool.size.shift())) {
                    least if least < pool.pages => format!(
                        "as many as the recording can use ({} were enough)",
                        crate::report::text::grouped(least)
                    ),
                    _ => "as many as the recording can use".to_owned(),
                },
                Why::Fitted { least } if *least == pool.pages => {
                    "a guess: so few that calls fail as recorded".to_owned()
                }
                Why::Fitted { least } => format!(
                    "a guess: calls succeed and fail as recorded with {} to {}",
                    crate::report::text::grouped(*least),
                    pages
                ),
            };
            format!("{pages} of {}, {why}", size_text(pool.size.bytes()))
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

/// What a run says about a guessed pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// With so many pages fewer all failures that can be explained are.
    too_many: u64,
    /// The fewest pages with which every call succeeds that did.
    least: u64,
    leaves_some_unexplained: bool,
}

impl Fit {
    fn of(pool: &PoolSize, record: &Record) -> Option<Self> {
        let shift = pool.size.shift();
        let attempts: Vec<&Attempt> =
            record.attempts.iter().filter(|attempt| attempt.shift == shift).collect();
        if attempts.is_empty() {
            return None;
        }
        let spare = record.spare(shift).min(pool.pages);
        let mut fit = Self { too_many: 0, least: pool.pages - spare, leaves_some_unexplained: false };
        for attempt in attempts {
            match too_many_for(attempt) {
                Some(excess) if is_a_choice(excess, spare, pool.pages) => {
                    fit.too_many = fit.too_many.max(excess);
                }
                Some(_) => fit.leaves_some_unexplained = true,
                None => {}
            }
        }
        Some(fit)
    }
}

/// How many pages fewer the pool must have for the call to fail; none if it has too few already.
fn too_many_for(attempt: &Attempt) -> Option<u64> {
    if attempt.asked == 0 {
        // It asks the pool for nothing, whatever its size.
        return Some(u64::MAX);
    }
    (attempt.available >= attempt.asked).then(|| attempt.available - attempt.asked + 1)
}

/// Can the pool have so many pages fewer, without being of the one size that happens to fit? An empty pool is no such
/// coincidence: most machines have one.
fn is_a_choice(excess: u64, spare: u64, pages: u64) -> bool {
    excess < spare || excess == spare && excess == pages
}

/// How many pages a call lacked, from and to; none if the pool does not explain that it failed.
pub(super) fn lacked(attempt: &Attempt, choice: &Choice, record: &Record) -> Option<(u64, u64)> {
    if attempt.asked <= attempt.available {
        return None;
    }
    let lacked = attempt.asked - attempt.available;
    if !choice.is_guess(attempt.shift) {
        return Some((lacked, lacked));
    }
    // The pool may have been smaller by what was never used, or larger as long as no call that failed would succeed.
    let larger = record.attempts.iter().filter(|other| other.shift == attempt.shift);
    let larger = larger.filter_map(|other| other.asked.checked_sub(other.available)).filter(|lack| *lack > 0);
    let larger = larger.min().map_or(0, |lack| lack - 1);
    let most = attempt.asked.min(lacked.saturating_add(choice.spare(attempt.shift, record)));
    Some(((lacked - larger).max(1), most))
}

/// The one size of a guessed pool that would explain a failure, if there is one.
pub(super) fn only_size(attempt: &Attempt, choice: &Choice, record: &Record) -> Option<u64> {
    let pool = choice.sizes.iter().find(|pool| pool.size.shift() == attempt.shift)?;
    let excess = too_many_for(attempt)?;
    (excess <= choice.spare(attempt.shift, record)).then(|| pool.pages.saturating_sub(excess))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(pages: u64, spare: u64, attempts: &[(u64, u64)]) -> Option<(u64, u64, bool)> {
        let attempts =
            attempts.iter().map(|&(asked, available)| Attempt { line: 1, shift: 21, asked, available });
        let record = Record { attempts: attempts.collect(), spare: vec![(21, spare)], ..Record::default() };
        let pool = PoolSize { size: X86_64::SIZE_2M, pages, overcommit: 0 };
        Fit::of(&pool, &record).map(|fit| (pages - fit.too_many, fit.least, fit.leaves_some_unexplained))
    }

    #[test]
    fn a_guess_agrees_with_what_failed_as_long_as_there_is_a_choice() {
        assert_eq!(fit(250, 100, &[]), None);
        // 1,024 pages asked for with 1,274 left; then 100 with 1,224 left, of 1,374; 150 were in use.
        assert_eq!(fit(1374, 1224, &[(1024, 1274), (100, 1224)]), Some((249, 150, false)));
        // The one size that happens to fit.
        assert_eq!(fit(6, 1, &[(1, 1)]), Some((6, 5, true)));
        // None at all: as on most machines.
        assert_eq!(fit(1, 1, &[(1, 1)]), Some((0, 0, false)));
        // It asked for nothing, so no pool explains that.
        assert_eq!(fit(10, 10, &[(0, 10)]), Some((10, 0, true)));
    }
}
