//! What a recorded program is like, for an estimate of a larger one.

use hugewalk::arch::X86_64;

use super::args::ReplayArgs;
use super::machine::MachineError;
use super::observe::snapshot;
use super::plan::{Act, Known, Mount, plan};
use super::pools::Choice;
use crate::gigabyte::{GIB, whole_ranges};
use crate::trace::{Time, Trace};

/// What a recorded program is like.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// The line of its largest shared mapping of pages of 2 MiB.
    pub(crate) line: u32,
    /// How far behind a 1 GiB boundary it begins.
    pub(crate) begins: u64,
    /// What of the pages, in per cent, a process touches where it has a table of its own; none if no table was a process's own.
    pub(crate) touched: Option<f64>,
    /// Processes that were forked with huge mappings, and that ended.
    pub(crate) forks: u64,
    pub(crate) exits: u64,
    /// How long all that took; none if the recording has no times.
    pub(crate) seconds: Option<f64>,
}

/// Looks at a recording; none if it has no shared mapping of pages of 2 MiB.
///
/// # Errors
///
/// [`MachineError`] if the engine cannot be set up.
pub(crate) fn shape(
    args: &ReplayArgs,
    mounts: &[Mount],
    trace: &Trace,
) -> Result<Option<Shape>, MachineError> {
    let default_shift = args.default_size.map_or(21, |size| size.0);
    let plan = plan(trace, Time::MAX, &Known { mounts, default_shift, ..Known::default() });
    let choice = Choice::first(args, &plan, None, default_shift);
    let (mut machine, mut record) = super::perform(&plan, &choice, 1, &[])?;
    let fullest = match record.peak.take() {
        Some(fullest) => fullest,
        None => snapshot(&mut machine, 1),
    };
    let shared = plan.mappings.iter().filter(|made| made.may_share());
    let Some(made) = shared.max_by_key(|made| made.range.end - made.range.start) else { return Ok(None) };
    let whole = whole_ranges(&made.range);
    let (mut pages, mut touched) = (0, 0);
    for table in fullest.uses.iter().filter(|table| table.users == 1 && table.size == X86_64::SIZE_2M) {
        let covered = table.start.max(made.range.start)..(table.start + GIB).min(made.range.end);
        // What could be shared has what others touched.
        if covered.start < covered.end && !whole.contains(&(table.start / GIB)) {
            pages += (covered.end - covered.start) >> 21;
            touched += table.leaves;
        }
    }
    let count = |wanted: fn(&Act) -> bool| plan.ops.iter().filter(|op| wanted(&op.act)).count() as u64;
    let nanoseconds = (plan.until - trace.start()).0;
    Ok(Some(Shape {
        line: made.line,
        begins: made.range.start % GIB,
        touched: (touched > 0).then(|| (touched as f64 / pages as f64 * 100.0).clamp(1.0, 100.0)),
        forks: count(|act| matches!(act, Act::Fork { .. })),
        exits: count(|act| matches!(act, Act::End { .. })),
        seconds: (nanoseconds > 0).then(|| nanoseconds as f64 / 1e9),
    }))
}
